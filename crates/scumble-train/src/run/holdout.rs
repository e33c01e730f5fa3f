//! The validation loss: how well pictures are predicted that are not trained on.
//!
//! ```text
//! loss = mean over pictures i and draws d of  mean (prediction - target)^2
//! t    = min + (d + (i + 1/2) / pictures) / draws * (max - min)         the range of timesteps that is trained on
//! ```
//!
//! Noise belongs to the content of the picture and to the draw, and latents are the autoencoder's mean: nothing is
//! different from test to test but the model, and two runs on one base can be compared. Weights, penalties, masks and
//! dropout of the training do not count. Running means are tested where they are what is saved.

use std::sync::Arc;

use scumble_model::vae::Moments;
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Backend, Tape, Tensor, Var};

use super::base::Base;
use super::channels;
use crate::config::TrainConfig;
use crate::data::{Dataset, Item, gather, holes};
use crate::error::{Result, TrainError};
use crate::objective::Objective;
use crate::picture::Picture;
use crate::step::{self, StepInput, Text, text_states};

/// The pictures to test with, and what is kept of them.
pub struct HoldOut {
    dataset: Dataset,
    draws: usize,
    chunks: usize,
    text_learns: bool,
    tests: Vec<Test>,
}

/// One picture, ready to be noised.
struct Test {
    latents: Tensor,
    channels: Option<Tensor>,
    noises: Vec<Tensor>,
    ids: Tensor,
    states: Option<Tensor>,
}

/// Takes what is held out out of the pictures to learn from; `None` when nothing is.
pub fn split(config: &TrainConfig, pictures: &mut Dataset) -> Result<Option<HoldOut>> {
    let rules = &config.holdout;
    let dataset = match &rules.folder {
        Some(folder) => gather::test_pictures(config, folder)?,
        None if rules.share > 0.0 => pictures.hold_out(rules.share)?,
        None => return Ok(None),
    };
    let (draws, chunks) = (rules.draws, config.data.chunks());
    Ok(Some(HoldOut { dataset, draws, chunks, text_learns: config.text_learns(), tests: Vec::new() }))
}

impl HoldOut {
    /// The pictures.
    pub fn items(&self) -> &[Item] {
        &self.dataset.items
    }

    /// The loss of the base as it is now.
    pub fn measure(&mut self, base: &Base, objective: &Objective, backend: &Arc<dyn Backend>) -> Result<f64> {
        if self.tests.is_empty() {
            self.tests =
                self.items().iter().map(|item| self.test(base, item, backend)).collect::<Result<_>>()?;
        }
        let range = objective.timesteps;
        let span = (range.max - range.min) as f64;
        let (mut sum, mut count) = (0.0, 0);
        for (index, test) in self.tests.iter().enumerate() {
            let place = (index as f64 + 0.5) / self.tests.len() as f64;
            for (draw, noise) in test.noises.iter().enumerate() {
                let share = (draw as f64 + place) / self.draws as f64;
                let timestep = (range.min + (share * span) as i64).min(range.max - 1);
                let text = match &test.states {
                    Some(states) => Text::States(states),
                    None => Text::Ids(&base.text_encoder, &test.ids),
                };
                let timesteps = [timestep];
                let input = StepInput {
                    channels: test.channels.as_ref(),
                    ..StepInput::new(&test.latents, noise, &timesteps, text, &[1.0])
                };
                let losses = step::plain_loss(backend, &base.unet, objective, &input, None)?;
                sum += losses.iter().sum::<f64>();
                count += losses.len();
            }
        }
        let loss = sum / f64::from(count.max(1) as u32);
        match loss.is_finite() {
            true => Ok(loss),
            false => Err(TrainError::Validation { value: loss }),
        }
    }

    fn test(&self, base: &Base, item: &Item, backend: &Arc<dyn Backend>) -> Result<Test> {
        let picture = self.dataset.fitted(item, [0.5; 2], false)?;
        let pixels = Tensor::from_slice(&picture.to_signed_unit(), &[1, picture.height, picture.width, 3])?;
        let tape = Tape::inference(Arc::clone(backend));
        let Moments { mean, .. } = base.vae.encode(&tape, &Var::constant(backend.upload(&pixels)?))?;
        let factor = base.vae.scaling_factor();
        let values: Vec<f32> = mean.as_slice::<f32>()?.iter().map(|value| value * factor).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(TrainError::Latents { picture: item.path.clone() });
        }
        // The first digits of the content's hash are as good a seed as any.
        let seed =
            item.sha256.get(..15).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default();
        let noise = |draw: usize| stream_at(seed, "holdout.noise", draw as u64).randn_tensor(mean.dims());
        let ids = base.chunked_ids(item.caption.choose(0.0), self.chunks)?;
        let states = match self.text_learns {
            true => None,
            false => Some(backend.download(text_states(&tape, &base.text_encoder, &ids)?.value())?),
        };
        let channels = match base.is_inpainting() {
            false => None,
            true => Some(self.channels(base, &picture, seed, backend, mean.dims())?),
        };
        Ok(Test {
            channels,
            latents: Tensor::from_slice(&values, mean.dims())?,
            noises: (0..self.draws).map(noise).collect::<scumble_tensor::Result<_>>()?,
            ids,
            states,
        })
    }
}

impl HoldOut {
    /// What a base for inpainting sees of a picture: the same hole at every test.
    fn channels(
        &self,
        base: &Base,
        picture: &Picture,
        seed: u64,
        backend: &Arc<dyn Backend>,
        latents: &[usize],
    ) -> Result<Tensor> {
        let mut stream = stream_at(seed, "holdout.hole", 0);
        let hole = holes::random(&mut stream, picture.width, picture.height, 0.0);
        let values = channels::of(base, backend, picture, &hole, |n| vec![0.0; n])?;
        let cells: usize = latents.iter().rev().skip(1).product();
        let dims = [&latents[..latents.len() - 1], &[values.len() / cells.max(1)]].concat();
        Ok(Tensor::from_slice(&values, &dims)?)
    }
}

/// The best test so far, and when to give up.
#[derive(Clone, Copy, Debug, Default)]
pub struct EarlyStop {
    patience: usize,
    best: Option<(u64, f64)>,
    worse: usize,
}

impl EarlyStop {
    /// Gives up after so many tests without a better one; never with 0.
    pub fn new(patience: usize) -> Self {
        Self { patience, ..Self::default() }
    }

    /// Takes a test in; whether it is the best so far.
    pub fn add(&mut self, step: u64, loss: f64) -> bool {
        let better = self.best.is_none_or(|(_, best)| loss < best);
        if better {
            (self.best, self.worse) = (Some((step, loss)), 0);
        } else {
            self.worse += 1;
        }
        better
    }

    /// Step and loss of the best test.
    pub fn best(&self) -> Option<(u64, f64)> {
        self.best
    }

    /// Whether to give up.
    pub fn is_over(&self) -> bool {
        self.patience > 0 && self.worse >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_tests_since_the_best() {
        let mut stop = EarlyStop::new(2);
        let mut over = Vec::new();
        for (step, loss) in [(10, 0.5), (20, 0.4), (30, 0.45), (40, 0.39), (50, 0.39), (60, 0.41)] {
            stop.add(step, loss);
            over.push(stop.is_over());
        }
        assert_eq!(over, [false, false, false, false, false, true]);
        assert_eq!(stop.best(), Some((40, 0.39)));
        let mut never = EarlyStop::new(0);
        (0..100).for_each(|step| _ = never.add(step, step as f64));
        assert!(!never.is_over());
    }
}
