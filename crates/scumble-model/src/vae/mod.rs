//! The picture codec of Stable Diffusion (diffusers' `AutoencoderKL`): 8x8 pixels to one latent of four numbers.
//!
//! ```text
//! encode: quant_conv(encoder(picture)) = [mean, logvar],  latent = mean + exp(logvar / 2) * noise
//! decode: decoder(post_quant_conv(latent))
//! ```
//!
//! Latents outside of this module are multiplied by `scaling_factor`; see [`Vae::scaling_factor`].

mod coder;
mod config;

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_tensor::backend::{Conv2dSpec, Padding};
use scumble_tensor::ops::cast::cast;
use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var, shape_error};
use serde_json::Value;

use crate::files::TensorSource;
use crate::nn::{Loader, Modules, Projection};
use coder::{Decoder, Encoder};
pub use config::VaeConfig;

/// See the module's text.
pub struct Vae {
    config: VaeConfig,
    modules: Modules,
    encoder: Encoder,
    quant: Option<Arc<Projection>>,
    post_quant: Option<Arc<Projection>>,
    decoder: Decoder,
}

/// A normal distribution of latents, f32 on the host, `[n, h, w, latent channels]` each.
pub struct Moments {
    /// Mean.
    pub mean: Tensor,
    /// Logarithm of the variance, clamped to -30..20.
    pub logvar: Tensor,
}

impl Moments {
    /// `mean + exp(logvar / 2) * noise`, with `noise` of the same shape and layout.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        if noise.dims() != self.mean.dims() {
            return Err(shape_error("vae", "noise", self.mean.shape(), noise.shape()));
        }
        let (mean, logvar) = (self.mean.as_slice::<f32>()?, self.logvar.as_slice::<f32>()?);
        let noise = noise.as_slice::<f32>()?;
        Tensor::build::<f32>(self.mean.dims(), |latent| {
            for (i, value) in latent.iter_mut().enumerate() {
                *value = mean[i] + (0.5 * logvar[i]).exp() * noise[i];
            }
        })
    }
}

/// Names of the mid block's attention before diffusers 0.13 renamed them.
fn old_attention_name(name: &str) -> Option<String> {
    let pairs = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
    let (new, old) = pairs.into_iter().find(|(new, _)| name.contains(&format!(".attentions.0.{new}.")))?;
    Some(name.replace(&format!(".{new}."), &format!(".{old}.")))
}

impl Vae {
    /// Builds the model that `config` (a diffusers `config.json`) describes from `weights`.
    pub fn load(
        config: &Value,
        weights: &dyn TensorSource,
        backend: &dyn Backend,
        dtype: DType,
    ) -> crate::Result<Self> {
        Self::build(config, Loader::new("vae", weights, backend, dtype).with_aliases(old_attention_name))
    }

    /// Builds it with random weights, for training from scratch and benchmarks.
    pub fn fresh(config: &Value, seed: u64, backend: &dyn Backend, dtype: DType) -> crate::Result<Self> {
        Self::build(config, Loader::fresh("vae", seed, backend, dtype))
    }

    fn build(config: &Value, loader: Loader<'_>) -> crate::Result<Self> {
        let config = VaeConfig::parse(config)?;
        let (root, latent) = (loader.root(), config.latent_channels);
        let pointwise = Conv2dSpec { stride: 1, padding: Padding::default() };
        let encoder = Encoder::new(&root.at("encoder"), &config)?;
        let quant = || root.at("quant_conv").conv2d(2 * latent, 2 * latent, 1, pointwise);
        let quant = config.quant_conv.then(quant).transpose()?;
        let post_quant = || root.at("post_quant_conv").conv2d(latent, latent, 1, pointwise);
        let post_quant = config.post_quant_conv.then(post_quant).transpose()?;
        let decoder = Decoder::new(&root.at("decoder"), &config)?;
        let modules = loader.finish()?;
        Ok(Self { config, modules, encoder, quant, post_quant, decoder })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &VaeConfig {
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

    /// What latents are multiplied by after encoding and divided by before decoding.
    pub fn scaling_factor(&self) -> f32 {
        self.config.scaling_factor
    }

    /// Pixels per latent in each direction.
    pub fn downscale(&self) -> usize {
        1 << (self.config.channels.len() - 1)
    }

    /// `picture [n, h, w, 3]` in -1..1 -> the distribution of its latents, not scaled.
    pub fn encode<'m>(&'m self, tape: &Tape<'m>, picture: &Var) -> Result<Moments> {
        let h = self.moments(tape, picture)?;
        let (backend, latent) = (tape.backend(), self.config.latent_channels);
        let half = |start| -> Result<Tensor> {
            backend.download(&backend.cast(&backend.slice_channels(h.value(), start, latent)?, DType::F32)?)
        };
        let (mean, logvar) = (half(0)?, half(latent)?);
        let clamped = logvar.as_slice::<f32>()?.iter().map(|value| value.clamp(-30.0, 20.0));
        let logvar = Tensor::from_slice(&clamped.collect::<Vec<_>>(), logvar.dims())?;
        Ok(Moments { mean, logvar })
    }

    /// As [`Vae::encode`], on the tape: `[n, h, w, 2 * latent channels]`, the mean and behind it the logarithm of the
    /// variance, not clamped.
    pub fn moments<'m>(&'m self, tape: &Tape<'m>, picture: &Var) -> Result<Var> {
        let [_, height, width, channels] = picture.value().nhwc("vae")?;
        if channels != self.config.in_channels {
            return Err(shape_error("vae", "channels of the picture", self.config.in_channels, channels));
        }
        let least = self.downscale();
        if height < least || width < least {
            return Err(shape_error(
                "vae",
                "picture",
                format!("at least {least}x{least}"),
                format!("{height}x{width}"),
            ));
        }
        let picture = cast(tape, picture, self.dtype())?;
        let h = self.encoder.forward(tape, &picture)?;
        match &self.quant {
            Some(quant) => quant.forward(tape, &h),
            None => Ok(h),
        }
    }

    /// `latents [n, h, w, latent channels]`, not scaled -> `[n, 8 h, 8 w, 3]`, about -1..1, not clamped.
    pub fn decode<'m>(&'m self, tape: &Tape<'m>, latents: &Var) -> Result<Var> {
        let [.., channels] = latents.value().nhwc("vae")?;
        if channels != self.config.latent_channels {
            return Err(shape_error("vae", "channels of the latents", self.config.latent_channels, channels));
        }
        let latents = cast(tape, latents, self.dtype())?;
        match &self.post_quant {
            Some(post_quant) => self.decoder.forward(tape, &post_quant.forward(tape, &latents)?),
            None => self.decoder.forward(tape, &latents),
        }
    }

    /// The type its weights have and it computes in.
    pub fn dtype(&self) -> DType {
        self.decoder.dtype()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_of_the_attention() {
        assert_eq!(
            old_attention_name("encoder.mid_block.attentions.0.to_out.0.bias").unwrap(),
            "encoder.mid_block.attentions.0.proj_attn.bias"
        );
        assert_eq!(old_attention_name("encoder.conv_in.weight"), None);
    }

    #[test]
    fn a_sample_of_the_moments() {
        let tensor = |values: &[f32]| Tensor::from_slice(values, &[1, 1, 1, 2]).unwrap();
        let moments = Moments { mean: tensor(&[1.0, -1.0]), logvar: tensor(&[0.0, 2.0 * 3f32.ln()]) };
        let sample = moments.sample(&tensor(&[0.5, 2.0])).unwrap();
        let sample = sample.as_slice::<f32>().unwrap();
        assert!((sample[0] - 1.5).abs() < 1e-6 && (sample[1] - 5.0).abs() < 1e-5, "{sample:?}");
    }
}
