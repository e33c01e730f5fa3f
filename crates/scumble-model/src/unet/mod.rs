//! The denoiser of Stable Diffusion 1.x, 2.x and XL (diffusers' `UNet2DConditionModel`).
//!
//! ```text
//! t   = time_embedding(sinusoids(timestep)) (+ add_embedding)
//! h   = conv_in(latents);  every level down: resnets, transformers, a skip after each, a downsample
//! h   = mid_block(h);      every level up: the same with the skips concatenated, an upsample to the skip's size
//! out = conv_out(silu(conv_norm_out(h)))
//! ```
//!
//! All sizes come from the configuration. Each residual and transformer block is a checkpoint of the tape.

mod blocks;
mod config;
mod time;
mod transformer;

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_tensor::backend::{Activation, Conv2dSpec, Padding};
use scumble_tensor::ops::activation::activation;
use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var, shape_error};
use serde_json::Value;

use crate::files::TensorSource;
use crate::nn::{GroupNorm, Loader, Modules, Projection};
use blocks::{Context, Down, Mid, Up};
pub use config::{Level, TextTimeConfig, UNetConfig};
pub use time::TextTime;
use time::TimeEmbedding;

/// See the module's text.
pub struct UNet {
    config: UNetConfig,
    modules: Modules,
    time: TimeEmbedding,
    conv_in: Arc<Projection>,
    down: Vec<Down>,
    mid: Mid,
    up: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Arc<Projection>,
}

/// What a denoising is conditioned on.
#[derive(Clone, Copy)]
pub struct Conditioning<'a> {
    /// Text states `[n, tokens, width]`.
    pub states: &'a Var,
    /// Pooled text and picture sizes, for models that want them (SDXL).
    pub text_time: Option<TextTime<'a>>,
}

impl UNet {
    /// Builds the model that `config` (a diffusers `config.json`) describes from `weights`.
    pub fn load(
        config: &Value,
        weights: &dyn TensorSource,
        backend: &dyn Backend,
        dtype: DType,
    ) -> crate::Result<Self> {
        Self::build(config, Loader::new("unet", weights, backend, dtype))
    }

    /// Builds it with random weights, for training from scratch and benchmarks.
    pub fn fresh(config: &Value, seed: u64, backend: &dyn Backend, dtype: DType) -> crate::Result<Self> {
        Self::build(config, Loader::fresh("unet", seed, backend, dtype))
    }

    fn build(config: &Value, loader: Loader<'_>) -> crate::Result<Self> {
        let config = UNetConfig::parse(config)?;
        let root = loader.root();
        let first = config.first_channels();
        let conv = |name: &str, inputs, outputs, kernel: usize| {
            let spec = Conv2dSpec { stride: 1, padding: Padding::same(kernel / 2) };
            root.at(name).conv2d(inputs, outputs, kernel, spec)
        };
        let time = TimeEmbedding::new(&root, &config)?;
        let conv_in = conv("conv_in", config.in_channels, first, config.conv_in_kernel)?;
        let levels = 0..config.levels.len();
        let down =
            levels.clone().map(|level| Down::new(&root, &config, level)).collect::<crate::Result<_>>()?;
        let mid = Mid::new(&root.at("mid_block"), &config)?;
        let up = levels.map(|index| Up::new(&root, &config, index)).collect::<crate::Result<_>>()?;
        let norm_out = root.at("conv_norm_out").group_norm(config.groups, first, config.eps)?;
        let conv_out = conv("conv_out", first, config.out_channels, config.conv_out_kernel)?;
        let modules = loader.finish()?;
        Ok(Self { config, modules, time, conv_in, down, mid, up, norm_out, conv_out })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Its modules by path: parameters, observers.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Every linear layer and convolution, by path.
    pub fn projections(&self) -> &BTreeMap<String, Arc<Projection>> {
        self.modules.projections()
    }

    /// Every parameter, named as diffusers names it.
    pub fn params(&self) -> &[Param] {
        self.modules.params()
    }

    /// The type its weights have and it computes in.
    pub fn dtype(&self) -> DType {
        self.conv_in.weight().value().dtype()
    }

    /// `latents [n, h, w, in_channels]`, one timestep each -> the prediction `[n, h, w, out_channels]`.
    ///
    /// Any height and width will do; fractional timesteps are for samplers that need them.
    pub fn forward<'m>(
        &'m self,
        tape: &Tape<'m>,
        latents: &Var,
        timesteps: &[f32],
        conditioning: Conditioning<'_>,
    ) -> Result<Var> {
        self.check(latents.value(), timesteps, conditioning.states.value())?;
        let dtype = latents.value().dtype();
        let time = self.time.forward(tape, timesteps, conditioning.text_time, dtype)?;
        let time = activation(tape, Activation::Silu, &time)?;
        let context = Context { time: &time, states: conditioning.states };
        let mut h = self.conv_in.forward(tape, latents)?;
        let mut skips = vec![h.clone()];
        for block in &self.down {
            h = block.forward(tape, h, context, &mut skips)?;
        }
        h = self.mid.forward(tape, h, context)?;
        for block in &self.up {
            h = block.forward(tape, h, context, &mut skips)?;
        }
        self.conv_out.forward(tape, &self.norm_out.forward_silu(tape, &h)?)
    }

    fn check(&self, latents: &Tensor, timesteps: &[f32], states: &Tensor) -> Result<()> {
        let [n, _, _, channels] = latents.nhwc("unet")?;
        let wanted = self.config.in_channels;
        if channels != wanted {
            return Err(shape_error("unet", "channels of the latents", wanted, channels));
        }
        if timesteps.len() != n {
            return Err(shape_error("unet", "timesteps", n, timesteps.len()));
        }
        let width = self.config.context_width();
        match states.dims() {
            &[images, _, found] if images == n && found == width => Ok(()),
            _ => Err(shape_error("unet", "text states", format!("[{n}, tokens, {width}]"), states.shape())),
        }
    }
}
