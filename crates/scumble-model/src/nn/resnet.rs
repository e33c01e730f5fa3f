//! The residual block of UNet and VAE (diffusers' `ResnetBlock2D`):
//!
//! ```text
//! h = conv1(silu(norm1 x)) + time_emb_proj(silu(t))
//! y = (conv2(silu(norm2 h)) + shortcut x) / scale
//! ```
//!
//! The shortcut is a 1x1 convolution where the channels change, else x itself.

use std::sync::Arc;

use scumble_tensor::backend::{Conv2dSpec, Padding};
use scumble_tensor::ops::{add::add_per_image, scale::scale};
use scumble_tensor::{Result, Tape, Var};

use super::loader::Scope;
use super::norm::GroupNorm;
use super::observe::Tap;
use super::projection::Projection;

/// Sizes of a residual block.
#[derive(Clone, Copy)]
pub struct ResnetSizes {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Width of the time embedding, where there is one.
    pub time: Option<usize>,
    /// Groups of the norms.
    pub groups: usize,
    /// Epsilon of the norms.
    pub eps: f32,
    /// What the sum is divided by.
    pub scale: f32,
}

/// See the module's text.
pub struct Resnet {
    tap: Tap,
    norm1: GroupNorm,
    conv1: Arc<Projection>,
    time: Option<Arc<Projection>>,
    norm2: GroupNorm,
    conv2: Arc<Projection>,
    shortcut: Option<Arc<Projection>>,
    scale: f32,
}

impl Resnet {
    /// The block at `scope`.
    pub fn new(scope: &Scope<'_, '_>, sizes: ResnetSizes) -> crate::Result<Self> {
        let ResnetSizes { inputs, outputs, time, groups, eps, scale } = sizes;
        let same = Conv2dSpec { stride: 1, padding: Padding::same(1) };
        let pointwise = Conv2dSpec { stride: 1, padding: Padding::default() };
        let time_proj = |width| scope.at("time_emb_proj").linear(width, outputs, true);
        let shortcut = || scope.at("conv_shortcut").conv2d(inputs, outputs, 1, pointwise);
        Ok(Self {
            tap: scope.tap(),
            norm1: scope.at("norm1").group_norm(groups, inputs, eps)?,
            conv1: scope.at("conv1").conv2d(inputs, outputs, 3, same)?,
            time: time.map(time_proj).transpose()?,
            norm2: scope.at("norm2").group_norm(groups, outputs, eps)?,
            conv2: scope.at("conv2").conv2d(outputs, outputs, 3, same)?,
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
            scale,
        })
    }

    /// `x [n, h, w, inputs]`, `time [n, time width]` with its SiLU already applied -> `[n, h, w, outputs]`.
    pub fn forward(&self, tape: &Tape<'_>, x: &Var, time: Option<&Var>) -> Result<Var> {
        let mut h = self.conv1.forward(tape, &self.norm1.forward_silu(tape, x)?)?;
        if let (Some(proj), Some(time)) = (&self.time, time) {
            h = add_per_image(tape, &h, &proj.forward(tape, time)?)?;
        }
        let h = self.norm2.forward_silu(tape, &h)?;
        let mut y = match &self.shortcut {
            Some(shortcut) => self.conv2.forward_add(tape, &h, Some(&shortcut.forward(tape, x)?))?,
            None => self.conv2.forward_add(tape, &h, Some(x))?,
        };
        if self.scale != 1.0 {
            y = scale(tape, &y, 1.0 / self.scale)?;
        }
        self.tap.show(&y);
        Ok(y)
    }
}
