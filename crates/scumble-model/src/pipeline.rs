//! From text to picture: text states, the sampler's loop with guidance, the decoder.
//!
//! ```text
//! latents <- noise * init_noise_sigma
//! every call: e_c, e_u = UNet(scaled latents, t, text), UNet(scaled latents, t, negative text)
//!             latents <- sampler step with  e_u + guidance * (e_c - e_u)
//! picture = VAE.decode(latents / scaling_factor)
//! ```
//!
//! A run may begin part way from a picture ([`TextToImage::encode`], [`first_call`]), repaint a part of one
//! ([`Inpaint`]) and lean on the difference that adapters make ([`Contrast`]).
//!
//! Latents are `[n, c, h, w]` f32 on the host here: that is the order in which the generator draws, so that a seed
//! gives the picture that diffusers gives, and samplers work element by element.

mod inpaint;
mod tiling;

use std::ops::ControlFlow;
use std::sync::Arc;

use scumble_tensor::rng::Generator;
use scumble_tensor::{Backend, DType, Tape, Tensor, Var};

use crate::error::{Error, Result};
use crate::nn::{find_non_finite, to_file_layout, to_memory_layout};
use crate::prompt::Chunk;
use crate::sampler::Sampler;
use crate::text_encoder::TextEncoder;
use crate::unet::{Conditioning, UNet};
use crate::vae::Vae;

pub use inpaint::{Inpaint, latent_mask};
pub use tiling::Tiling;

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

/// What a run may have beside the ordinary.
#[derive(Default)]
pub struct Extras<'a> {
    /// Keeps a part of a picture.
    pub inpaint: Option<&'a Inpaint>,
    /// Guidance by what adapters change.
    pub contrast: Option<Contrast<'a>>,
    /// Called before each call of the model with its index and the number of calls: where strengths are set that
    /// change on the way.
    pub prepare: Option<&'a mut dyn FnMut(usize, usize)>,
}

/// Adapter guidance: how far to go from the prediction without adapters to the one with them, and beyond.
///
/// ```text
/// e <- e_without + scale * (e_with - e_without),    for the prompt and for the negative prompt, before guidance
/// ```
///
/// At scale 1 it changes nothing, at 0 the adapters are not there. Every call of the sampler takes two of the model.
pub struct Contrast<'a> {
    /// The scale.
    pub scale: f32,
    /// States of the prompts by the text encoder without adapters, shaped as those with them.
    pub states: &'a Tensor,
    /// States of the negative prompts likewise.
    pub negative: &'a Tensor,
    /// Puts the adapters on (true) or takes them off (false).
    pub switch: &'a mut dyn FnMut(bool),
}

/// The sampler's first call when a run of `steps` steps starts from a picture: of `strength` 1 all steps are made, of
/// 0 none. As diffusers rounds it.
pub fn first_call(sampler: &dyn Sampler, steps: usize, strength: f64) -> usize {
    let made = (steps as f64 * strength) as usize;
    (steps - made.min(steps)) * sampler.calls_per_step()
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

    /// Text states of a prompt's chunks, one behind the other: `[1, 77 chunks, width]`, weighted as [`crate::prompt`]
    /// says.
    pub fn prompt_states(&self, chunks: &[Chunk], clip_skip: usize) -> Result<Tensor> {
        let mut rows = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let ids = Tensor::from_slice(&chunk.ids, &[1, chunk.ids.len()])?;
            let states = self.states(&ids, clip_skip)?;
            let &[_, tokens, width] = states.dims() else {
                return Err(scumble_tensor::shape_error(
                    "prompt",
                    "states",
                    "[1, tokens, width]",
                    states.shape(),
                )
                .into());
            };
            let states = states.reshape(&[tokens, width])?;
            rows.push(if chunk.is_weighted() { self.weighted(&states, &chunk.weights)? } else { states });
        }
        let joined = self.backend.concat_rows(&rows.iter().collect::<Vec<_>>())?;
        Ok(joined.reshape(&[1, joined.dims()[0], joined.dims()[1]])?)
    }

    /// States `[tokens, width]` times the weight of each token, with the mean that they had.
    fn weighted(&self, states: &Tensor, weights: &[f32]) -> Result<Tensor> {
        let dtype = states.dtype();
        let host = self.backend.download(&self.backend.cast(states, DType::F32)?)?;
        let width = host.shape().last().max(1);
        let mean =
            |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len().max(1) as f64;
        let mut values = host.to_vec::<f32>()?;
        let before = mean(&values);
        for (row, weight) in values.chunks_exact_mut(width).zip(weights) {
            row.iter_mut().for_each(|value| *value *= weight);
        }
        // Where the weighted mean vanishes there is nothing to restore by.
        let restore = before / mean(&values);
        let restore = if restore.is_finite() { restore as f32 } else { 1.0 };
        values.iter_mut().for_each(|value| *value *= restore);
        let weighted = self.backend.upload(&Tensor::from_slice(&values, host.dims())?)?;
        Ok(self.backend.cast(&weighted, dtype)?)
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
        watch: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Tensor>> {
        self.denoise_with(run, Extras::default(), watch)
    }

    /// As [`TextToImage::denoise`], with more than the ordinary.
    pub fn denoise_with(
        &self,
        run: Denoising<'_>,
        mut extras: Extras<'_>,
        mut watch: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Tensor>> {
        let Denoising { states, guidance, mut latents, first_call, sampler, generator } = run;
        let guidance = guidance.filter(|guidance| guidance.scale > 1.0);
        let scale = guidance.as_ref().map(|guidance| guidance.scale);
        let both = |states: &Tensor, negative: Option<&Tensor>| match negative {
            Some(negative) => self.backend.concat_rows(&[negative, states]),
            None => Ok(states.clone()),
        };
        let states = both(states, guidance.map(|guidance| guidance.negative))?;
        let without = match &extras.contrast {
            Some(contrast) => Some(both(contrast.states, scale.map(|_| contrast.negative))?),
            None => None,
        };
        let timesteps = sampler.timesteps().to_vec();
        let dims = latents.dims().to_vec();
        for (call, &timestep) in timesteps.iter().enumerate().skip(first_call) {
            if let Some(prepare) = &mut extras.prepare {
                prepare(call, timesteps.len());
            }
            let input = sampler.scale_model_input(call, latents.as_slice()?)?;
            let input = Tensor::from_slice(&input, &dims)?;
            let input = extras.inpaint.map_or(Ok(input.clone()), |inpaint| inpaint.widen(&input))?;
            let mut predicted = self.predict(&input, timestep as f32, &states)?;
            if let (Some(contrast), Some(without)) = (&mut extras.contrast, &without) {
                (contrast.switch)(false);
                let base = self.predict(&input, timestep as f32, without);
                (contrast.switch)(true);
                let pairs = predicted.iter_mut().zip(base?);
                pairs.for_each(|(with, base)| *with = base + contrast.scale * (*with - base));
            }
            let output = guided(predicted, scale);
            let mut noise = |n| generator.randn(n);
            let mut next = sampler.step(call, &output, latents.as_slice()?, &mut noise)?;
            if let Some(inpaint) = extras.inpaint {
                inpaint.blend(sampler, call, &mut next)?;
            }
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

    /// The prediction for latents `[n, c, h, w]`, flat in the same order: of `n` states one each; of `2 n`, those of
    /// the first `n` (the negative prompts), then those of the others.
    fn predict(&self, latents: &Tensor, timestep: f32, states: &Tensor) -> Result<Vec<f32>> {
        let backend = self.backend.as_ref();
        let input = backend.cast(&backend.upload(&to_memory_layout(latents)?)?, self.dtype)?;
        let twice = states.shape().first() == 2 * input.shape().first();
        let input = if twice { backend.concat_rows(&[&input, &input])? } else { input };
        let timesteps = vec![timestep; input.shape().first()];
        let tape = Tape::inference(Arc::clone(&self.backend));
        let states = Var::constant(states.clone());
        let conditioning = Conditioning { states: &states, text_time: None };
        let output = self.unet.forward(&tape, &Var::constant(input), &timesteps, conditioning)?;
        let output = backend.download(&backend.cast(output.value(), DType::F32)?)?;
        Ok(to_file_layout(&output)?.as_slice::<f32>()?.to_vec())
    }

    /// Clean latents `[n, c, h, w]` -> f32 pictures `[n, 3, h, w]`, about -1..1, not clamped.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_tiled(latents, Tiling::Off)
    }

    /// As [`TextToImage::decode`], in tiles where `tiling` says so.
    pub fn decode_tiled(&self, latents: &Tensor, tiling: Tiling) -> Result<Tensor> {
        // The decoder's buffers have other sizes than the UNet's, which would otherwise lie idle beside them.
        scumble_tensor::memory::trim();
        let factor = self.vae.scaling_factor();
        let unscaled: Vec<f32> = latents.as_slice::<f32>()?.iter().map(|value| value / factor).collect();
        let unscaled = Tensor::from_slice(&unscaled, latents.dims())?;
        let picture = tiling.map(&unscaled, (1, self.vae.downscale()), |part| self.decode_part(part))?;
        scumble_tensor::memory::trim();
        Ok(picture)
    }

    fn decode_part(&self, latents: &Tensor) -> Result<Tensor> {
        let backend = self.backend.as_ref();
        let tape = Tape::inference(Arc::clone(&self.backend));
        let input = Var::constant(backend.cast(&backend.upload(&to_memory_layout(latents)?)?, self.dtype)?);
        let picture = self.vae.decode(&tape, &input)?;
        Ok(to_file_layout(&backend.download(&backend.cast(picture.value(), DType::F32)?)?)?)
    }

    /// f32 pictures `[n, 3, h, w]` in -1..1 -> latents `[n, c, h, w]`, scaled, drawn from the encoder's distribution
    /// as diffusers draws them.
    pub fn encode(&self, pictures: &Tensor, generator: &mut Generator, tiling: Tiling) -> Result<Tensor> {
        scumble_tensor::memory::trim();
        let moments = tiling.map(pictures, (self.vae.downscale(), 1), |part| self.encode_part(part))?;
        scumble_tensor::memory::trim();
        let &[n, twice, h, w] = moments.dims() else {
            return Err(
                scumble_tensor::shape_error("encode", "moments", "[n, 2 c, h, w]", moments.shape()).into()
            );
        };
        let (channels, plane, factor) = (twice / 2, h * w, self.vae.scaling_factor());
        let noise = generator.randn_tensor(&[n, channels, h, w])?;
        let (moments, noise) = (moments.as_slice::<f32>()?, noise.as_slice::<f32>()?);
        let mut latents = Vec::with_capacity(noise.len());
        for (sample, noise) in
            moments.chunks_exact((twice * plane).max(1)).zip(noise.chunks((channels * plane).max(1)))
        {
            let (mean, logvar) = sample.split_at(channels * plane);
            let draw = |((mean, logvar), noise): ((&f32, &f32), &f32)| {
                (mean + (0.5 * logvar).exp() * noise) * factor
            };
            latents.extend(mean.iter().zip(logvar).zip(noise).map(draw));
        }
        Ok(Tensor::from_slice(&latents, &[n, channels, h, w])?)
    }

    /// Mean and log-variance of pictures, one behind the other in the channels: `[n, 2 c, h, w]`.
    fn encode_part(&self, pictures: &Tensor) -> Result<Tensor> {
        let backend = self.backend.as_ref();
        let tape = Tape::inference(Arc::clone(&self.backend));
        let input = Var::constant(backend.cast(&backend.upload(&to_memory_layout(pictures)?)?, self.dtype)?);
        let moments = self.vae.encode(&tape, &input)?;
        let (mean, logvar) = (to_file_layout(&moments.mean)?, to_file_layout(&moments.logvar)?);
        let &[n, c, h, w] = mean.dims() else {
            return Err(scumble_tensor::shape_error("encode", "mean", "[n, c, h, w]", mean.shape()).into());
        };
        let part = (c * h * w).max(1);
        let samples =
            mean.as_slice::<f32>()?.chunks_exact(part).zip(logvar.as_slice::<f32>()?.chunks_exact(part));
        let both: Vec<f32> = samples.flat_map(|(mean, logvar)| [mean, logvar].concat()).collect();
        Ok(Tensor::from_slice(&both, &[n, 2 * c, h, w])?)
    }
}

/// Classifier-free guidance on predictions that begin with those of the negative prompts.
fn guided(mut predicted: Vec<f32>, scale: Option<f32>) -> Vec<f32> {
    let Some(scale) = scale else { return predicted };
    let half = predicted.len() / 2;
    let (negative, positive) = predicted.split_at_mut(half);
    negative.iter_mut().zip(positive).for_each(|(u, c)| *u += scale * (*c - *u));
    predicted.truncate(half);
    predicted
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
