//! Paints pictures with the model in training: validation pictures and missing class pictures.
//!
//! A picture depends on its text, seed and settings alone, so that those of different steps can be compared.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scumble_model::pipeline::{
    Denoising, Extras, Guidance, Inpaint, Progress, TextToImage, Tiling, latent_mask, to_rgb8,
};
use scumble_model::sampler::{SamplerKind, SamplerOptions};
use scumble_tensor::rng::Generator;
use scumble_tensor::{Backend, DType, Tensor};

use super::base::Base;
use crate::error::{Result, TrainError};
use crate::picture::Picture;

/// How to paint.
#[derive(Clone, Copy, Debug)]
pub struct Painting<'a> {
    /// What to paint.
    pub prompt: &'a str,
    /// What not to paint.
    pub negative: &'a str,
    /// Where the noise starts.
    pub seed: u64,
    /// Steps of the sampler.
    pub steps: usize,
    /// Guidance scale; 1 and less is without guidance.
    pub guidance: f64,
    /// Sampler by name; the base's own when absent.
    pub sampler: Option<&'a str>,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
}

/// The sampler of a name, or the base's own.
pub fn sampler_kind(base: &Base, name: Option<&str>) -> Result<&'static SamplerKind> {
    match name {
        Some(name) => Ok(SamplerKind::find(name)?),
        // DDIM begins at pure noise, which the usual sampler of SD 1 and 2 can't.
        None if base.schedule.alphas_cumprod().last() == Some(&0.0) => Ok(SamplerKind::find("ddim")?),
        // A base may name a sampler that this program has not; DDIM reads every configuration.
        None => SamplerKind::of_config(&base.scheduler_config).or_else(|_| Ok(SamplerKind::find("ddim")?)),
    }
}

/// Paints one picture; `None` when `stop` was set meanwhile.
pub fn paint(
    base: &Base,
    backend: &Arc<dyn Backend>,
    painting: &Painting<'_>,
    stop: &AtomicBool,
) -> Result<Option<Picture>> {
    let pipeline =
        TextToImage::new(Arc::clone(backend), base.unet.dtype(), &base.text_encoder, &base.unet, &base.vae);
    let states = pipeline.states(&base.ids(painting.prompt)?, 0)?;
    let negative = pipeline.states(&base.ids(painting.negative)?, 0)?;
    let options = SamplerOptions::new(painting.steps);
    let mut sampler = sampler_kind(base, painting.sampler)?.build(&base.scheduler_config, options)?;
    let mut generator = Generator::new(painting.seed);
    let dims = pipeline.latent_dims(1, painting.height, painting.width)?;
    let latents = pipeline.initial_latents(&mut generator, dims, sampler.as_ref())?;
    let run = Denoising {
        states: &states,
        guidance: Some(Guidance { scale: painting.guidance as f32, negative: &negative }),
        latents,
        first_call: 0,
        sampler: sampler.as_mut(),
        generator: &mut generator,
    };
    let watch = |_: &Progress<'_>| {
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    // The autoencoder takes pictures and latents in the type of its own weights.
    let decoder =
        TextToImage::new(Arc::clone(backend), base.vae.dtype(), &base.text_encoder, &base.unet, &base.vae);
    let inpaint = match base.is_inpainting() {
        false => None,
        true => Some(all_to_be_painted(&decoder, base, painting)?),
    };
    let extras = Extras { inpaint: inpaint.as_ref(), ..Extras::default() };
    let Some(latents) = pipeline.denoise_with(run, extras, watch)? else { return Ok(None) };
    let rgb = to_rgb8(&decoder.decode(&latents)?)?.into_iter().next();
    let picture = rgb.and_then(|rgb| Picture::from_rgb(rgb.width, rgb.height, rgb.pixels));
    picture.map(Some).ok_or_else(|| TrainError::Mismatch {
        what: "the decoder's picture".to_owned(),
        expected: format!("{} x {} pixels", painting.width, painting.height),
        found: "none".to_owned(),
    })
}

/// A base for inpainting paints a whole picture when all of it is a hole: the masked picture is grey.
fn all_to_be_painted(pipeline: &TextToImage<'_>, base: &Base, painting: &Painting<'_>) -> Result<Inpaint> {
    let (width, height) = (painting.width, painting.height);
    let grey = Tensor::zeros(DType::F32, &[1, 3, height, width])?;
    let masked = pipeline.encode(&grey, &mut Generator::new(painting.seed), Tiling::default())?;
    let mask = latent_mask(&vec![1.0; width * height], height, width, base.vae.downscale())?;
    Ok(Inpaint::channels(&mask, &masked)?)
}
