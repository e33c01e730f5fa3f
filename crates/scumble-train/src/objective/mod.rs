//! What a training step asks of the model: noise it, predict, compare.
//!
//! ```text
//! noisy  = sqrt(a) latents + sqrt(1 - a) noise         a = alphas_cumprod[t]
//! target = noise (epsilon)  or  sqrt(a) noise - sqrt(1 - a) latents (v)
//! loss   = (1 / B) sum over samples of w_i * mean over c, h, w of penalty(pred_i - target_i)
//! ```
//!
//! `B` counts the instance samples of an update, so with a class half of the same length and `w_i = prior weight` there,
//! the sum is `mean(instance) + prior * mean(class)`.
//!
//! * [`weight`]: what a timestep counts. [`penalty`]: the shape of the loss.
//! * [`noise`]: offset, resolutions, perturbation. [`timestep`]: which timesteps are drawn, and how often.

pub mod noise;
pub mod penalty;
pub mod timestep;
pub mod weight;

use scumble_model::schedule::{NoiseSchedule, PredictionType};
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Tensor, shape_error};

use crate::data::Role;
use crate::error::Result;

pub use noise::Multires;
pub use penalty::{HuberSchedule, Penalty};
pub use timestep::{Distribution, Timesteps};
pub use weight::Weighting;

/// The objective of a run.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Noise levels.
    pub schedule: NoiseSchedule,
    /// What the model's output is compared with.
    pub prediction: PredictionType,
    /// What a timestep counts.
    pub weighting: Weighting,
    /// How a difference counts.
    pub penalty: Penalty,
    /// Which timesteps are drawn.
    pub timesteps: Timesteps,
    /// Scale of the constant added to each channel of the noise.
    pub noise_offset: f64,
    /// Whether each visit draws its offset's scale between 0 and `noise_offset`.
    pub noise_offset_random: bool,
    /// Noise of coarser resolutions added to the noise.
    pub multires: Option<Multires>,
    /// Scale of the noise that is added to what the model sees and not to what it should say.
    pub input_perturbation: f64,
}

/// The random part of a visit.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseDraw {
    /// Its timestep.
    pub timestep: i64,
    /// Its noise `[h, w, c]`.
    pub noise: Vec<f32>,
    /// The noise that the model sees, where it is another one.
    pub input_noise: Option<Vec<f32>>,
}

impl Objective {
    /// Mean squared error over all timesteps alike, with plain noise.
    pub fn plain(schedule: NoiseSchedule, prediction: PredictionType) -> Self {
        let timesteps = Timesteps::all(&schedule);
        Self {
            schedule,
            prediction,
            weighting: Weighting::Even,
            penalty: Penalty::Squared,
            timesteps,
            noise_offset: 0.0,
            noise_offset_random: false,
            multires: None,
            input_perturbation: 0.0,
        }
    }

    /// `latents` with noise, host f32 in any layout with the samples outermost.
    pub fn noisy(&self, latents: &Tensor, noise: &Tensor, timesteps: &[i64]) -> Result<Tensor> {
        same_shape(latents, noise)?;
        let values = self.schedule.add_noise(latents.as_slice()?, noise.as_slice()?, timesteps)?;
        Ok(Tensor::from_slice(&values, latents.dims())?)
    }

    /// What the model should have said, laid out as `latents`.
    pub fn target(&self, latents: &Tensor, noise: &Tensor, timesteps: &[i64]) -> Result<Tensor> {
        same_shape(latents, noise)?;
        match self.prediction {
            PredictionType::Epsilon => Ok(noise.clone()),
            PredictionType::Sample => Ok(latents.clone()),
            PredictionType::VPrediction => {
                let values = self.schedule.velocity(latents.as_slice()?, noise.as_slice()?, timesteps)?;
                Ok(Tensor::from_slice(&values, latents.dims())?)
            }
        }
    }

    /// How much a sample at `timestep` counts.
    pub fn timestep_weight(&self, timestep: i64) -> Result<f64> {
        Ok(self.weighting.at(f64::from(self.schedule.snr(timestep)?), self.prediction))
    }

    /// The random part of a visit to latents `[h, w, c]`.
    ///
    /// Every visit has streams of its own, so the split into batches changes nothing.
    pub fn draw(&self, seed: u64, role: Role, visit: u64, dims: [usize; 3]) -> Result<NoiseDraw> {
        let prefix = match role {
            Role::Instance => "",
            Role::Class => "class.",
        };
        let stream = |name: &str| stream_at(seed, &format!("{prefix}{name}"), visit);
        let timestep = self.timesteps.draw(&mut stream("timestep"))?;
        let [h, w, c] = dims;
        let mut noise = stream("noise").randn(h * w * c);
        if let Some(multires) = &self.multires {
            multires.add(&mut noise, dims, &mut stream("noise-multires"));
        }
        if self.noise_offset != 0.0 {
            let mut stream = stream("noise-offset");
            let offsets = stream.randn(c);
            let share = if self.noise_offset_random { stream.rand_f64(1)[0] } else { 1.0 };
            noise::add_offset(&mut noise, &offsets, (self.noise_offset * share) as f32);
        }
        let input_noise = (self.input_perturbation != 0.0).then(|| {
            let more = stream("noise-input").randn(noise.len());
            let scale = self.input_perturbation as f32;
            noise.iter().zip(more).map(|(noise, more)| noise + scale * more).collect()
        });
        Ok(NoiseDraw { timestep, noise, input_noise })
    }
}

fn same_shape(latents: &Tensor, noise: &Tensor) -> Result<()> {
    if latents.dims() == noise.dims() {
        return Ok(());
    }
    Err(shape_error("objective", "noise", latents.shape(), noise.shape()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_model::files::{SafetensorsFile, TensorSource};

    fn fixture(name: &str) -> SafetensorsFile {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/");
        SafetensorsFile::open(&std::path::Path::new(root).join(name)).unwrap()
    }

    fn objective(prediction: PredictionType, min_snr_gamma: Option<f64>) -> Objective {
        let config = serde_json::json!({
            "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        });
        let schedule = NoiseSchedule::from_config(&config).unwrap();
        let weighting = min_snr_gamma.map_or(Weighting::Even, Weighting::MinSnr);
        Objective { weighting, ..Objective::plain(schedule, prediction) }
    }

    fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs().max(1e-3),
                "{what}: {found} {expected}"
            );
        }
    }

    #[test]
    fn golden_noise_targets_and_weights() {
        let file = fixture("training_targets.safetensors");
        let read = |name: &str| file.read(name).unwrap();
        let values = |name: &str| read(name).to_vec::<f32>().unwrap();
        let (x0, noise) = (read("x0"), read("noise"));
        let timesteps = read("timesteps").to_vec::<i64>().unwrap();
        for (prediction, target, weight) in [
            (PredictionType::Epsilon, "noise", "min_snr_5_weight_epsilon"),
            (PredictionType::VPrediction, "velocity", "min_snr_5_weight_v_prediction"),
        ] {
            let objective = objective(prediction, Some(5.0));
            let noisy = objective.noisy(&x0, &noise, &timesteps).unwrap();
            assert_close("noisy", noisy.as_slice().unwrap(), &values("add_noise"));
            let found = objective.target(&x0, &noise, &timesteps).unwrap();
            assert_close(target, found.as_slice().unwrap(), &values(target));
            let weights: Vec<f32> =
                timesteps.iter().map(|&t| objective.timestep_weight(t).unwrap() as f32).collect();
            assert_close(weight, &weights, &values(weight));
        }
    }

    #[test]
    fn draws_belong_to_the_sample_and_depend_on_the_seed() {
        let mut objective = objective(PredictionType::Epsilon, None);
        let draw = |objective: &Objective, seed, index| {
            objective.draw(seed, Role::Instance, index, [8, 6, 4]).unwrap()
        };
        assert_eq!(draw(&objective, 1, 5), draw(&objective, 1, 5));
        assert_ne!(draw(&objective, 1, 5), draw(&objective, 1, 6));
        assert_ne!(draw(&objective, 1, 5), draw(&objective, 2, 5));
        let class = objective.draw(1, Role::Class, 5, [8, 6, 4]).unwrap();
        assert_ne!(draw(&objective, 1, 5), class);

        let plain = draw(&objective, 1, 5).noise;
        objective.noise_offset = 0.1;
        let offset = draw(&objective, 1, 5).noise;
        let difference = |i: usize| offset[i] - plain[i];
        for channel in 0..4 {
            assert!(difference(channel) != 0.0);
            assert!((difference(channel) - difference(channel + 4 * 20)).abs() < 1e-6);
        }
        objective.noise_offset_random = true;
        let weaker = draw(&objective, 1, 5).noise;
        let share = |i: usize| (weaker[i] - plain[i]) / difference(i);
        assert!((0.0..1.0).contains(&share(0)) && (share(0) - share(1)).abs() < 1e-4);
    }

    #[test]
    fn perturbation_is_for_the_input_alone() {
        let mut objective = objective(PredictionType::Epsilon, None);
        let draw = |objective: &Objective| objective.draw(1, Role::Instance, 5, [16, 16, 4]).unwrap();
        let plain = draw(&objective);
        assert_eq!(plain.input_noise, None);
        objective.input_perturbation = 0.1;
        let perturbed = draw(&objective);
        assert_eq!((perturbed.timestep, &perturbed.noise), (plain.timestep, &plain.noise));
        let input = perturbed.input_noise.unwrap();
        let squares = input.iter().zip(&plain.noise).map(|(a, b)| f64::from(a - b).powi(2));
        let deviation = (squares.sum::<f64>() / input.len() as f64).sqrt();
        assert!((deviation - 0.1).abs() < 0.01, "{deviation}");
    }
}
