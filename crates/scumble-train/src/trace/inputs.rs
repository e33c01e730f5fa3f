//! The recorded inputs of a trace.
//!
//! ```text
//! latents, noise    [steps, n, c, h, w]       timesteps [steps, n]       input_ids [steps, n, tokens]
//! input_noise       as noise: what the network sees instead of it (optional)
//! mask_image        [steps, n, 1, H, W]: weights by the original's formula, see [`crate::masks`] (optional)
//! ```

use scumble_model::files::TensorSource;
use scumble_model::nn::to_memory_layout;
use scumble_tensor::{DType, Element, Tensor};

use super::{Aim, mismatch};
use crate::error::Result;
use crate::masks;

/// Those of all steps.
pub struct Inputs {
    /// Updates.
    pub steps: usize,
    latents: Tensor,
    noise: Tensor,
    input_noise: Option<Tensor>,
    masks: Option<Tensor>,
    mask_temperature: f64,
    timesteps: Tensor,
    ids: Tensor,
}

/// Those of one step, pictures channels-last.
pub struct Micro {
    /// `[n, h, w, c]`.
    pub latents: Tensor,
    /// As `latents`.
    pub noise: Tensor,
    /// As `latents`.
    pub input_noise: Option<Tensor>,
    /// `[n, h, w]`.
    pub weight: Option<Tensor>,
    /// One each.
    pub timesteps: Vec<i64>,
    /// `[n, tokens]`.
    pub ids: Tensor,
}

impl Inputs {
    /// Reads and checks them.
    pub fn read(file: &dyn TensorSource, aim: &Aim) -> Result<Self> {
        let read = |name: &str, dtype: DType, dimensions: usize| {
            let info = file.info(name);
            let info =
                info.ok_or_else(|| mismatch(file.describe(), &format!("a tensor `{name}`"), "none"))?;
            if info.shape.len() != dimensions {
                let found = format!("{:?}", info.shape);
                return Err(mismatch(format!("`{name}`"), &format!("{dimensions} sizes"), found));
            }
            Ok(file.read(name)?.to_dtype(dtype)?)
        };
        let optional = |name: &str| file.info(name).map(|_| read(name, DType::F32, 5)).transpose();
        let latents = read("latents", DType::F32, 5)?;
        let (steps, batch) = (latents.dims()[0], latents.dims()[1]);
        let noise = read("noise", DType::F32, 5)?;
        let (timesteps, ids) = (read("timesteps", DType::I64, 2)?, read("input_ids", DType::I64, 3)?);
        let fits = |tensor: &Tensor| tensor.dims()[..2] == [steps, batch];
        if steps == 0 || batch == 0 || noise.dims() != latents.dims() || !fits(&timesteps) || !fits(&ids) {
            let expected = format!("[{steps}, {batch}, ...] as `latents`, neither 0");
            let found = format!("{}, {}, {}", noise.shape(), timesteps.shape(), ids.shape());
            return Err(mismatch("`noise`, `timesteps`, `input_ids`", &expected, found));
        }
        let (input_noise, masks) = (optional("input_noise")?, optional("mask_image")?);
        if let Some(other) = input_noise.as_ref().filter(|other| other.dims() != latents.dims()) {
            return Err(mismatch("`input_noise`", &latents.shape().to_string(), other.shape()));
        }
        if let Some(other) = masks.as_ref().filter(|other| !fits(other) || other.dims()[2] != 1) {
            return Err(mismatch("`mask_image`", &format!("[{steps}, {batch}, 1, H, W]"), other.shape()));
        }
        let mask_temperature = aim.mask_temperature;
        Ok(Self { steps, latents, noise, input_noise, masks, mask_temperature, timesteps, ids })
    }

    /// Those of one step.
    pub fn step(&self, step: usize) -> Result<Micro> {
        let picture =
            |tensor: &Tensor| Ok::<_, crate::TrainError>(to_memory_layout(&part::<f32>(tensor, step)?)?);
        let latents = picture(&self.latents)?;
        let weight = match &self.masks {
            None => None,
            Some(images) => Some(self.weight(&part::<f32>(images, step)?, &latents)?),
        };
        Ok(Micro {
            noise: picture(&self.noise)?,
            input_noise: self.input_noise.as_ref().map(picture).transpose()?,
            weight,
            timesteps: part::<i64>(&self.timesteps, step)?.to_vec()?,
            ids: part::<i64>(&self.ids, step)?,
            latents,
        })
    }

    fn weight(&self, images: &Tensor, latents: &Tensor) -> Result<Tensor> {
        let (&[n, _, image_h, image_w], &[_, h, w, _]) = (images.dims(), latents.dims()) else {
            return Err(mismatch("`mask_image`", "[n, 1, H, W]", images.shape()));
        };
        let pixels = images.as_slice::<f32>()?;
        let nearest = |image: &[f32]| masks::nearest(image, [image_h, image_w], [h, w]);
        let mask: Vec<f32> = pixels.chunks_exact((image_h * image_w).max(1)).flat_map(nearest).collect();
        let squared: Vec<f32> =
            masks::original(&mask, self.mask_temperature as f32).iter().map(|w| w * w).collect();
        Ok(Tensor::from_slice(&squared, &[n, h, w])?)
    }
}

fn part<T: Element>(tensor: &Tensor, step: usize) -> Result<Tensor> {
    let dims = &tensor.dims()[1..];
    let length: usize = dims.iter().product();
    Ok(Tensor::from_slice(&tensor.as_slice::<T>()?[step * length..][..length], dims)?)
}
