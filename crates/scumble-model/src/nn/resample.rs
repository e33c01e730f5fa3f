//! Half and double resolution: a strided convolution down; nearest neighbours and a convolution up.

use std::sync::Arc;

use scumble_tensor::backend::{Conv2dSpec, Padding};
use scumble_tensor::{Result, Tape, Var};

use super::loader::Scope;
use super::observe::Tap;
use super::projection::Projection;

/// A 3x3 convolution of stride 2 (diffusers' `Downsample2D`).
pub struct Downsample {
    tap: Tap,
    conv: Arc<Projection>,
}

impl Downsample {
    /// The module at `scope`. A `padding` of 0 means one row below and one column to the right, as VAEs are trained.
    pub fn new(scope: &Scope<'_, '_>, channels: usize, padding: usize) -> crate::Result<Self> {
        let padding = match padding {
            0 => Padding { bottom: 1, right: 1, ..Padding::default() },
            size => Padding::same(size),
        };
        let conv = scope.at("conv").conv2d(channels, channels, 3, Conv2dSpec { stride: 2, padding })?;
        Ok(Self { tap: scope.tap(), conv })
    }

    /// `[n, h, w, c]` -> half the height and width.
    pub fn forward(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        let y = self.conv.forward(tape, x)?;
        self.tap.show(&y);
        Ok(y)
    }
}

/// Nearest neighbours, then a 3x3 convolution (diffusers' `Upsample2D`).
pub struct Upsample {
    tap: Tap,
    conv: Arc<Projection>,
}

impl Upsample {
    /// The module at `scope`.
    pub fn new(scope: &Scope<'_, '_>, channels: usize) -> crate::Result<Self> {
        let spec = Conv2dSpec { stride: 1, padding: Padding::same(1) };
        Ok(Self { tap: scope.tap(), conv: scope.at("conv").conv2d(channels, channels, 3, spec)? })
    }

    /// `[n, h, w, c]` -> `[n, size[0], size[1], c]`.
    pub fn forward(&self, tape: &Tape<'_>, x: &Var, size: [usize; 2]) -> Result<Var> {
        let y = self.conv.forward_enlarged(tape, x, size)?;
        self.tap.show(&y);
        Ok(y)
    }
}
