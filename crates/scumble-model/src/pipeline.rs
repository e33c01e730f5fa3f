//! From text to picture: text states, the sampler's loop with guidance, the decoder.
//!
//! ```text
//! latents <- noise * init_noise_sigma
//! every call: e_c, e_u = UNet(scaled latents, t, text), UNet(scaled latents, t, negative text)
//!             latents <- sampler step with  e_u + guidance * (e_c - e_u)
//! picture = VAE.decode(latents / scaling_factor)
//! ```
//!
//! Latents are `[n, c, h, w]` f32 on the host here: that is the order in which the generator draws, so that a seed
//! gives the picture that diffusers gives, and samplers work element by element.

use std::ops::ControlFlow;
use std::sync::Arc;

use scumble_tensor::rng::Generator;
use scumble_tensor::{Backend, DType, Tape, Tensor, Var};

use crate::error::{Error, Result};
use crate::nn::{find_non_finite, to_file_layout, to_memory_layout};
use crate::sampler::Sampler;
use crate::text_encoder::TextEncoder;
use crate::unet::{Conditioning, UNet};
use crate::vae::Vae;

/// The three networks and where they compute.
pub struct TextToImage<'m> {
    backend: Arc<dyn Backend>,
    dtype: DType,
    text_encoder: &'m TextEncoder,
    unet: &'m UNet,
    vae: &'m Vae,
}

/// Classifier-free guidance (Ho & Salimans 2022).
pub struct Guidance<'a> {
    /// How far to go from the negative prompt's prediction towards and beyond the prompt's. At 1 and below the
    /// negative prompt is not looked at.
    pub scale: f32,
    /// States of the negative prompts, as many as there are prompts.
    pub negative: &'a Tensor,
}

/// A run from noise to clean latents.
pub struct Denoising<'a> {
    /// Text states `[n, tokens, width]` of [`TextToImage::states`].
    pub states: &'a Tensor,
    /// Guidance, if any.
    pub guidance: Option<Guidance<'a>>,
    /// Where to start, `[n, c, h, w]` at the noise level of `first_call`.
    pub latents: Tensor,
    /// The sampler's first call; 0 unless the run starts from a picture.
    pub first_call: usize,
    /// The sampler; it remembers, so it serves one run.
    pub sampler: &'a mut dyn Sampler,
    /// Where samplers that need noise draw it.
    pub generator: &'a mut Generator,
}

/// What a caller sees after every call of the model.
pub struct Progress<'a> {
    /// Index of the call.
    pub call: usize,
    /// Number of calls.
    pub calls: usize,
    /// Its timestep.
    pub timestep: f64,
    /// The latents after it, `[n, c, h, w]`.
    pub latents: &'a Tensor,
}

/// An 8-bit picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb8 {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue of each pixel, row by row from the top.
    pub pixels: Vec<u8>,
}

impl<'m> TextToImage<'m> {
    /// A pipeline that computes in `dtype`, the type that the networks were loaded as.
    pub fn new(
        backend: Arc<dyn Backend>,
        dtype: DType,
        text_encoder: &'m TextEncoder,
        unet: &'m UNet,
        vae: &'m Vae,
    ) -> Self {
        Self { backend, dtype, text_encoder, unet, vae }
    }

    /// Text states of i64 `ids [n, tokens]`: `[n, tokens, width]` on the backend.
    pub fn states(&self, ids: &Tensor, clip_skip: usize) -> Result<Tensor> {
        let tape = Tape::inference(Arc::clone(&self.backend));
        Ok(self.text_encoder.states(&tape, ids, clip_skip)?.into_value())
    }

    /// `[n, c, h, w]` of the latents of `n` pictures; errors when the sizes (in pixels) can't be had.
    pub fn latent_dims(&self, n: usize, height: usize, width: usize) -> Result<[usize; 4]> {
        let step = self.vae.downscale();
        for (what, size) in [("height", height), ("width", width)] {
            if size == 0 || size % step != 0 {
                return Err(Error::PictureSize { what, expected: step, found: size });
            }
        }
        Ok([n, self.vae.config().latent_channels, height / step, width / step])
    }

    /// Standard normal noise as diffusers draws it for one generator, brought to the sampler's first noise level.
    pub fn initial_latents(
        &self,
        generator: &mut Generator,
        dims: [usize; 4],
        sampler: &dyn Sampler,
    ) -> Result<Tensor> {
        self.start_from(&generator.randn_tensor(&dims)?, sampler)
    }

    /// Given standard normal noise brought to the sampler's first noise level.
    pub fn start_from(&self, noise: &Tensor, sampler: &dyn Sampler) -> Result<Tensor> {
        let sigma = sampler.init_noise_sigma() as f32;
        let scaled: Vec<f32> = noise.as_slice::<f32>()?.iter().map(|value| value * sigma).collect();
        Ok(Tensor::from_slice(&scaled, noise.dims())?)
    }

    /// Runs the sampler. `None` when `watch` broke it off.
    pub fn denoise(
        &self,
        run: Denoising<'_>,
        mut watch: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Tensor>> {
        let Denoising { states, guidance, mut latents, first_call, sampler, generator } = run;
        let guidance = guidance.filter(|guidance| guidance.scale > 1.0);
        let (states, scale) = match guidance {
            Some(Guidance { scale, negative }) => {
                (self.backend.concat_rows(&[negative, states])?, Some(scale))
            }
            None => (states.clone(), None),
        };
        let timesteps = sampler.timesteps().to_vec();
        let dims = latents.dims().to_vec();
        for (call, &timestep) in timesteps.iter().enumerate().skip(first_call) {
            let input = sampler.scale_model_input(call, latents.as_slice()?)?;
            let output =
                self.predict(&Tensor::from_slice(&input, &dims)?, timestep as f32, &states, scale)?;
            let mut noise = |n| generator.randn(n);
            let next = sampler.step(call, &output, latents.as_slice()?, &mut noise)?;
            latents = Tensor::from_slice(&next, &dims)?;
            if find_non_finite(&latents)?.is_some() {
                return Err(Error::NotFinite { what: "the latents", call, calls: timesteps.len() });
            }
            let progress = Progress { call, calls: timesteps.len(), timestep, latents: &latents };
            if watch(&progress).is_break() {
                return Ok(None);
            }
        }
        Ok(Some(latents))
    }

    /// The (guided) prediction for latents `[n, c, h, w]`, flat in the same order. With guidance `states` has the
    /// negative prompts first.
    fn predict(
        &self,
        latents: &Tensor,
        timestep: f32,
        states: &Tensor,
        scale: Option<f32>,
    ) -> Result<Vec<f32>> {
        let backend = self.backend.as_ref();
        let input = backend.cast(&backend.upload(&to_memory_layout(latents)?)?, self.dtype)?;
        let input = if scale.is_some() { backend.concat_rows(&[&input, &input])? } else { input };
        let timesteps = vec![timestep; input.shape().first()];
        let tape = Tape::inference(Arc::clone(&self.backend));
        let states = Var::constant(states.clone());
        let conditioning = Conditioning { states: &states, text_time: None };
        let output = self.unet.forward(&tape, &Var::constant(input), &timesteps, conditioning)?;
        let output = backend.download(&backend.cast(output.value(), DType::F32)?)?;
        let output = to_file_layout(&output)?;
        let output = output.as_slice::<f32>()?;
        let Some(scale) = scale else { return Ok(output.to_vec()) };
        let (negative, positive) = output.split_at(output.len() / 2);
        Ok(negative.iter().zip(positive).map(|(&u, &c)| u + scale * (c - u)).collect())
    }

    /// Clean latents `[n, c, h, w]` -> f32 pictures `[n, 3, h, w]`, about -1..1, not clamped.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        // The decoder's buffers have other sizes than the UNet's, which would otherwise lie idle beside them.
        scumble_tensor::memory::trim();
        let backend = self.backend.as_ref();
        let factor = self.vae.scaling_factor();
        let unscaled: Vec<f32> = latents.as_slice::<f32>()?.iter().map(|value| value / factor).collect();
        let unscaled = to_memory_layout(&Tensor::from_slice(&unscaled, latents.dims())?)?;
        let tape = Tape::inference(Arc::clone(&self.backend));
        let input = Var::constant(backend.cast(&backend.upload(&unscaled)?, self.dtype)?);
        let picture = self.vae.decode(&tape, &input)?;
        let picture = to_file_layout(&backend.download(&backend.cast(picture.value(), DType::F32)?)?)?;
        scumble_tensor::memory::trim();
        Ok(picture)
    }
}

/// f32 pictures `[n, 3, h, w]` in -1..1 (clamped) as 8-bit pictures: `round(255 (x / 2 + 1/2))`, ties to even.
/// NaN and infinity are refused: they would look like black and white.
pub fn to_rgb8(pictures: &Tensor) -> Result<Vec<Rgb8>> {
    let &[_, 3, height, width] = pictures.dims() else {
        return Err(
            scumble_tensor::shape_error("to_rgb8", "pictures", "[n, 3, h, w]", pictures.shape()).into()
        );
    };
    let interleaved = to_memory_layout(pictures)?;
    if !interleaved.as_slice::<f32>()?.iter().all(|value| value.is_finite()) {
        return Err(Error::PictureNotFinite);
    }
    let byte = |&value: &f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let pictures = interleaved.as_slice::<f32>()?.chunks_exact((3 * height * width).max(1));
    Ok(pictures.map(|values| Rgb8 { width, height, pixels: values.iter().map(byte).collect() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_become_bytes() {
        let planes = [-1.0, 1.0, 0.0, 5.0, -9.0, 0.5f32];
        let pictures = to_rgb8(&Tensor::from_slice(&planes, &[1, 3, 1, 2]).unwrap()).unwrap();
        // 0 becomes 127.5, which rounds to the even 128; 0.5 becomes 191.25.
        assert_eq!(pictures, [Rgb8 { width: 2, height: 1, pixels: vec![0, 128, 0, 255, 255, 191] }]);
        assert!(to_rgb8(&Tensor::from_slice(&planes, &[1, 2, 1, 3]).unwrap()).is_err());
        for value in [f32::NAN, f32::INFINITY] {
            let picture = Tensor::from_slice(&[0.0, value, 0.5], &[1, 3, 1, 1]).unwrap();
            assert!(matches!(to_rgb8(&picture), Err(Error::PictureNotFinite)));
        }
    }
}
