//! Micro-batches: samples whose latents and texts have one size put into tensors.

use scumble_tensor::Tensor;

use crate::config::Mask;
use crate::error::{Result, TrainError};
use crate::masks;
use crate::objective::NoiseDraw;

/// What one forward pass is made of; host tensors, channels-last.
pub struct MicroBatch {
    /// Scaled latents `[n, h, w, c]`.
    pub latents: Tensor,
    /// As `latents`.
    pub noise: Tensor,
    /// As `latents`: what the network sees instead of `noise`.
    pub input_noise: Option<Tensor>,
    /// What the network sees beside the latents, `[n, h, w, k]`, for a base for inpainting.
    pub channels: Option<Tensor>,
    /// What each pixel of the latents counts `[n, h, w]`, with masks.
    pub weight: Option<Tensor>,
    /// One each.
    pub timesteps: Vec<i64>,
    /// Token ids `[n, 77]`, of long texts several times 77.
    pub ids: Tensor,
    /// Text states `[n, 77, width]`, when the text encoder does not learn.
    pub states: Option<Tensor>,
    /// Weight of each sample's loss.
    pub share: Vec<f32>,
    /// File names, for messages.
    pub pictures: Vec<String>,
}

/// One sample.
pub struct Sample {
    /// Height, width and channels of its latents.
    pub dims: [usize; 3],
    /// Scaled latents.
    pub latents: Vec<f32>,
    /// Timestep and noise.
    pub noise: NoiseDraw,
    /// What the network sees beside the latents.
    pub channels: Vec<f32>,
    /// Its mask at the latents' resolution; empty without masks.
    pub mask: Vec<f32>,
    /// Token ids.
    pub ids: Vec<i64>,
    /// Text states `[1, 77, width]`.
    pub states: Option<Tensor>,
    /// Weight of its loss.
    pub share: f32,
    /// Its file.
    pub picture: String,
}

/// Samples in batches of one size, in the order in which the sizes first occur.
pub fn by_size(samples: Vec<Sample>, mask: &Mask) -> Result<Vec<MicroBatch>> {
    let mut groups: Vec<Vec<Sample>> = Vec::new();
    for sample in samples {
        let alike = |first: &Sample| first.dims == sample.dims && first.ids.len() == sample.ids.len();
        let same = |group: &&mut Vec<Sample>| group.first().is_some_and(alike);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(sample),
            None => groups.push(vec![sample]),
        }
    }
    groups.iter().map(|group| assemble(group, mask)).collect()
}

fn assemble(samples: &[Sample], mask: &Mask) -> Result<MicroBatch> {
    let n = samples.len();
    let [h, w, _] = samples.first().map(|sample| sample.dims).unwrap_or_default();
    let picture =
        |values: Vec<f32>| Tensor::from_slice(&values, &[n, h, w, values.len() / (n * h * w).max(1)]);
    let all = |part: fn(&Sample) -> &[f32]| samples.iter().flat_map(part).copied().collect::<Vec<f32>>();
    let input_noise = all(|sample| sample.noise.input_noise.as_deref().unwrap_or_default());
    let channels = all(|sample| &sample.channels);
    let mask_cells = all(|sample| &sample.mask);
    let some = |values: &Vec<f32>| !values.is_empty();
    let weights = |cells: Vec<f32>| Tensor::from_slice(&masks::weights(mask, &cells, h * w), &[n, h, w]);
    let ids: Vec<i64> = samples.iter().flat_map(|sample| sample.ids.iter().copied()).collect();
    Ok(MicroBatch {
        latents: picture(all(|sample| &sample.latents))?,
        noise: picture(all(|sample| &sample.noise.noise))?,
        input_noise: Some(input_noise).filter(some).map(picture).transpose()?,
        channels: Some(channels).filter(some).map(picture).transpose()?,
        weight: Some(mask_cells).filter(some).map(weights).transpose()?,
        timesteps: samples.iter().map(|sample| sample.noise.timestep).collect(),
        ids: Tensor::from_slice(&ids, &[n, ids.len() / n.max(1)])?,
        states: states(samples)?,
        share: samples.iter().map(|sample| sample.share).collect(),
        pictures: samples.iter().map(|sample| sample.picture.clone()).collect(),
    })
}

fn states(samples: &[Sample]) -> Result<Option<Tensor>> {
    let Some(first) = samples.first().and_then(|sample| sample.states.as_ref()) else { return Ok(None) };
    let mut bytes = Vec::with_capacity(samples.len() * first.bytes()?.len());
    for sample in samples {
        let states = sample.states.as_ref().ok_or_else(|| lacking("text states", "none"))?;
        bytes.extend_from_slice(states.bytes()?);
    }
    let dims = [&[samples.len()], &first.dims()[1..]].concat();
    Ok(Some(Tensor::from_bytes(first.dtype(), &bytes, &dims)?))
}

/// A sample without something it must have.
pub fn lacking(expected: &str, found: impl std::fmt::Display) -> TrainError {
    TrainError::Mismatch {
        what: "a training sample".to_owned(),
        expected: expected.to_owned(),
        found: found.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(height: usize, share: f32) -> Sample {
        let cells = height * 2 * 4;
        Sample {
            dims: [height, 2, 4],
            latents: vec![share; cells],
            noise: NoiseDraw { timestep: height as i64, noise: vec![0.0; cells], input_noise: None },
            channels: Vec::new(),
            mask: vec![0.0; height * 2],
            ids: vec![1, 2, 3],
            states: None,
            share,
            picture: format!("{share}"),
        }
    }

    #[test]
    fn samples_of_one_size_come_together_in_order() {
        let longer = Sample { ids: vec![1; 6], ..sample(3, 4.0) };
        let samples = vec![sample(3, 1.0), sample(5, 2.0), sample(3, 3.0), longer];
        let mask = Mask { floor: 0.25, ..Mask::default() };
        let batches = by_size(samples, &mask).unwrap();
        assert_eq!(batches.len(), 3);
        assert_eq!(batches[2].ids.dims(), [1, 6]);
        assert_eq!(batches[0].latents.dims(), [2, 3, 2, 4]);
        assert_eq!((&batches[0].share[..], &batches[0].timesteps[..]), (&[1.0, 3.0][..], &[3, 3][..]));
        assert_eq!(batches[0].ids.dims(), [2, 3]);
        let weight = batches[1].weight.as_ref().unwrap();
        assert_eq!((weight.dims(), weight.as_slice::<f32>().unwrap()[0]), (&[1, 5, 2][..], 0.25));
        assert!(
            batches[1].input_noise.is_none() && batches[1].channels.is_none() && batches[1].states.is_none()
        );
    }
}
