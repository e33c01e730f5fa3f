//! What a base for inpainting sees beside the noised latents.
//!
//! ```text
//! channels = [mask, scaling factor * VAE(masked picture)]          mask: 1 in the hole, of each cell its first pixel
//! masked picture = picture where the mask is below 1/2, otherwise 0: mid grey
//! ```
//!
//! That is the order in which such bases were trained. The autoencoder's noise for the masked picture is drawn by the caller.

use std::sync::Arc;

use scumble_model::vae::Moments;
use scumble_tensor::{Backend, Tape, Tensor, Var};

use super::base::Base;
use super::batch::lacking;
use crate::config::{Holes, Inpaint};
use crate::data::Item;
use crate::error::{Result, TrainError};
use crate::masks;
use crate::picture::Picture;

/// Where the holes of a run come from, for its notes.
pub fn origin<'a>(inpaint: &Inpaint, pictures: impl Iterator<Item = &'a Item>) -> String {
    let random = format!(
        "rectangles at random, in {:.0} % of the visits the whole picture (`inpaint.whole`)",
        inpaint.whole * 100.0
    );
    let (with, without): (Vec<&Item>, Vec<&Item>) = pictures.partition(|item| item.mask.is_some());
    match (inpaint.holes, without.len()) {
        (Holes::Random, _) => format!("the base fills holes: {random}"),
        (Holes::Mask, 0) => "the base fills holes: each picture's own mask".to_owned(),
        (Holes::Mask, without) => format!(
            "the base fills holes: of {} pictures their own mask; {without} (class pictures among them) have none and \
             get {random}",
            with.len()
        ),
    }
}

/// The channels `[h, w, 1 + c]` of a picture with a hole (1 in it, a number a pixel); `draw` gives so many N(0, 1).
pub fn of(
    base: &Base,
    backend: &Arc<dyn Backend>,
    picture: &Picture,
    hole: &[f32],
    draw: impl FnOnce(usize) -> Vec<f32>,
) -> Result<Vec<f32>> {
    let (width, height) = (picture.width, picture.height);
    if hole.len() != width * height {
        return Err(lacking(&format!("a hole of {width} x {height} pixels"), hole.len()));
    }
    let mut pixels = picture.to_signed_unit();
    for (pixel, &hole) in pixels.chunks_exact_mut(3).zip(hole) {
        if hole >= 0.5 {
            pixel.fill(0.0);
        }
    }
    let pixels = Tensor::from_slice(&pixels, &[1, height, width, 3])?;
    let tape = Tape::inference(Arc::clone(backend));
    let moments = base.vae.encode(&tape, &Var::constant(backend.upload(&pixels)?))?;
    let &[1, h, w, c] = moments.mean.dims() else {
        return Err(lacking("latents of one picture", moments.mean.shape()));
    };
    let noise = Tensor::from_slice(&draw(h * w * c), moments.mean.dims())?;
    let Moments { mean, logvar } = moments;
    let latents = Moments { mean, logvar }.sample(&noise)?;
    let hard: Vec<f32> = hole.iter().map(|&value| if value < 0.5 { 0.0 } else { 1.0 }).collect();
    let mask = masks::nearest(&hard, [height, width], [h, w]);
    let factor = base.vae.scaling_factor();
    let mut channels = Vec::with_capacity(h * w * (c + 1));
    for (latents, mask) in latents.as_slice::<f32>()?.chunks_exact(c.max(1)).zip(mask) {
        channels.push(mask);
        channels.extend(latents.iter().map(|value| value * factor));
    }
    if channels.iter().all(|value| value.is_finite()) {
        return Ok(channels);
    }
    Err(TrainError::Mismatch {
        what: "the autoencoder's latents of a picture with a hole".to_owned(),
        expected: "finite numbers".to_owned(),
        found: "others".to_owned(),
    })
}
