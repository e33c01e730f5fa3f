//! Painting a part of a picture and keeping the rest.
//!
//! With an ordinary base, after every step the kept part is put back at the noise level that the step leads to, and
//! without noise after the last (diffusers' `StableDiffusionInpaintPipeline`):
//!
//! ```text
//! latents <- (1 - mask) add_noise(original, noise) + mask latents
//! ```
//!
//! A base for inpainting sees mask and masked picture as five further channels instead: `[latents, mask, masked]`.

use scumble_tensor::{Tensor, shape_error};

use crate::error::Result;
use crate::sampler::Sampler;

/// What is kept and what is painted.
pub struct Inpaint {
    /// `h * w` values, 1 where to paint.
    mask: Vec<f32>,
    kept: Kept,
}

enum Kept {
    /// Clean latents of the picture and the noise that the run started from.
    Original { latents: Vec<f32>, noise: Vec<f32> },
    /// Latents of the picture with the part to paint blanked.
    Channels(Vec<f32>),
}

impl Inpaint {
    /// For an ordinary base: `mask [1, 1, h, w]`, `original` and `noise` `[n, c, h, w]`.
    pub fn blending(mask: &Tensor, original: &Tensor, noise: &Tensor) -> Result<Self> {
        check(mask, original)?;
        if noise.dims() != original.dims() {
            return Err(shape_error("inpaint", "noise", original.shape(), noise.shape()).into());
        }
        let kept = Kept::Original { latents: original.to_vec()?, noise: noise.to_vec()? };
        Ok(Self { mask: mask.to_vec()?, kept })
    }

    /// For a base that takes mask and masked picture: `mask [1, 1, h, w]`, `masked [n, c, h, w]`.
    pub fn channels(mask: &Tensor, masked: &Tensor) -> Result<Self> {
        check(mask, masked)?;
        Ok(Self { mask: mask.to_vec()?, kept: Kept::Channels(masked.to_vec()?) })
    }

    /// The model's input: with the further channels where the base takes them.
    pub(super) fn widen(&self, latents: &Tensor) -> Result<Tensor> {
        let Kept::Channels(masked) = &self.kept else { return Ok(latents.clone()) };
        let &[n, c, h, w] = latents.dims() else {
            return Err(shape_error("inpaint", "latents", "[n, c, h, w]", latents.shape()).into());
        };
        let part = c * h * w;
        if masked.len() != n * part || self.mask.len() != h * w {
            return Err(shape_error("inpaint", "masked latents", latents.shape(), masked.len()).into());
        }
        let samples =
            latents.as_slice::<f32>()?.chunks_exact(part.max(1)).zip(masked.chunks_exact(part.max(1)));
        let wide: Vec<f32> =
            samples.flat_map(|(latents, masked)| [latents, &self.mask, masked].concat()).collect();
        Ok(Tensor::from_slice(&wide, &[n, 2 * c + 1, h, w])?)
    }

    /// Puts the kept part back into the latents after call `call`.
    pub(super) fn blend(&self, sampler: &dyn Sampler, call: usize, latents: &mut [f32]) -> Result<()> {
        let Kept::Original { latents: original, noise } = &self.kept else { return Ok(()) };
        let noisy = match call + 1 < sampler.timesteps().len() {
            true => sampler.add_noise(call + 1, original, noise)?,
            false => original.clone(),
        };
        if noisy.len() != latents.len() {
            return Err(shape_error("inpaint", "original", latents.len(), noisy.len()).into());
        }
        for (i, (latent, kept)) in latents.iter_mut().zip(noisy).enumerate() {
            let mask = self.mask[i % self.mask.len()];
            *latent = (1.0 - mask) * kept + mask * *latent;
        }
        Ok(())
    }
}

fn check(mask: &Tensor, latents: &Tensor) -> Result<()> {
    match (mask.dims(), latents.dims()) {
        (&[1, 1, h, w], &[_, _, height, width]) if (h, w) == (height, width) && h * w > 0 => Ok(()),
        _ => Err(shape_error("inpaint", "mask", latents.shape(), mask.shape()).into()),
    }
}

/// A mask of pixels, `height * width` values of 0 to 1 with 1 where to paint, at the resolution of the latents
/// `[1, 1, height / step, width / step]`: of each square its first pixel, as diffusers takes it.
pub fn latent_mask(pixels: &[f32], height: usize, width: usize, step: usize) -> Result<Tensor> {
    let step = step.max(1);
    if pixels.len() != height * width || !height.is_multiple_of(step) || !width.is_multiple_of(step) {
        let expected = format!("{height} x {width} values, multiples of {step}");
        return Err(shape_error("inpaint", "mask", expected, pixels.len()).into());
    }
    let (h, w) = (height / step, width / step);
    let values: Vec<f32> = (0..h * w).map(|i| pixels[i / w * step * width + i % w * step]).collect();
    Ok(Tensor::from_slice(&values, &[1, 1, h, w])?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sampler::{SamplerKind, SamplerOptions};

    fn tensor(values: &[f32], dims: &[usize]) -> Tensor {
        Tensor::from_slice(values, dims).unwrap()
    }

    #[test]
    fn the_kept_part_is_the_original_again() {
        let mask = tensor(&[0.0, 1.0], &[1, 1, 1, 2]);
        let (original, noise) =
            (tensor(&[1.0, 2.0, 3.0, 4.0], &[1, 2, 1, 2]), tensor(&[0.5; 4], &[1, 2, 1, 2]));
        let inpaint = Inpaint::blending(&mask, &original, &noise).unwrap();
        let euler = SamplerKind::find("euler").unwrap();
        let sampler = euler.build(&json!({}), SamplerOptions::new(2)).unwrap();
        let mut latents = [9.0; 4];
        inpaint.blend(sampler.as_ref(), 0, &mut latents).unwrap();
        let level = sampler.sigmas().unwrap()[1] as f32;
        assert_eq!(latents, [1.0 + 0.5 * level, 9.0, 3.0 + 0.5 * level, 9.0]);
        inpaint.blend(sampler.as_ref(), 1, &mut latents).unwrap();
        assert_eq!(latents, [1.0, 9.0, 3.0, 9.0]);
        assert_eq!(inpaint.widen(&original).unwrap().dims(), original.dims());
        assert!(Inpaint::blending(&mask, &original, &mask).is_err());
        assert!(inpaint.blend(sampler.as_ref(), 0, &mut [0.0; 2]).is_err());
    }

    #[test]
    fn further_channels_follow_the_latents() {
        let mask = tensor(&[0.0, 1.0], &[1, 1, 1, 2]);
        let masked = tensor(&[5.0, 6.0, 7.0, 8.0], &[2, 1, 1, 2]);
        let inpaint = Inpaint::channels(&mask, &masked).unwrap();
        let wide = inpaint.widen(&tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 1, 1, 2])).unwrap();
        assert_eq!(wide.dims(), [2, 3, 1, 2]);
        assert_eq!(wide.as_slice::<f32>().unwrap(), [1., 2., 0., 1., 5., 6., 3., 4., 0., 1., 7., 8.]);
        assert!(inpaint.widen(&mask).is_err());
        assert!(Inpaint::channels(&masked, &masked).is_err());
    }

    #[test]
    fn the_mask_of_latents_is_the_first_pixel_of_each_square() {
        let pixels: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let mask = latent_mask(&pixels, 4, 4, 2).unwrap();
        assert_eq!(mask.as_slice::<f32>().unwrap(), [0.0, 2.0, 8.0, 10.0]);
        assert!(latent_mask(&pixels, 4, 4, 3).is_err() && latent_mask(&pixels, 4, 5, 1).is_err());
    }
}
