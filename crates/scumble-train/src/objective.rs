//! What a training step asks of the model: noise it, predict, compare.
//!
//! ```text
//! noisy  = sqrt(a) latents + sqrt(1 - a) noise         a = alphas_cumprod[t]
//! target = noise (epsilon)  or  sqrt(a) noise - sqrt(1 - a) latents (v)
//! loss   = (1 / B) sum over samples of w_i * mean over c, h, w of (pred_i - target_i)^2
//! ```
//!
//! `B` counts the instance samples of an update, so with a class half of the same length and `w_i = prior weight` there,
//! the sum is `mean(instance) + prior * mean(class)`. Min-SNR (Hang et al. 2023) multiplies `w_i` by `min(snr, g) / snr`
//! for epsilon and `min(snr, g) / (snr + 1)` for v.

use scumble_model::schedule::{NoiseSchedule, PredictionType};
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Tensor, shape_error};

use crate::data::Role;
use crate::error::Result;

/// The objective of a run.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Noise levels.
    pub schedule: NoiseSchedule,
    /// What the model's output is compared with.
    pub prediction: PredictionType,
    /// Min-SNR's gamma; `None` weighs all noise levels alike.
    pub min_snr_gamma: Option<f64>,
    /// Scale of the constant added to each channel of the noise.
    pub noise_offset: f64,
}

impl Objective {
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

    /// How much a sample at `timestep` counts: the min-SNR weight, or 1.
    pub fn timestep_weight(&self, timestep: i64) -> Result<f64> {
        let Some(gamma) = self.min_snr_gamma else { return Ok(1.0) };
        let snr = f64::from(self.schedule.snr(timestep)?);
        let capped = snr.min(gamma);
        Ok(match self.prediction {
            // The limit for a picture that is all noise.
            PredictionType::Epsilon if snr == 0.0 => 1.0,
            PredictionType::Epsilon => capped / snr,
            PredictionType::VPrediction => capped / (snr + 1.0),
            PredictionType::Sample => capped,
        })
    }

    /// The random part of a visit: its timestep and its noise `[h, w, c]`.
    ///
    /// Every visit has streams of its own, so the split into batches changes nothing.
    pub fn draw(&self, seed: u64, role: Role, visit: u64, [h, w, c]: [usize; 3]) -> Result<(i64, Vec<f32>)> {
        let names = match role {
            Role::Instance => ["timestep", "noise", "noise-offset"],
            Role::Class => ["class.timestep", "class.noise", "class.noise-offset"],
        };
        let [mut timestep, mut noise, mut offset] = names.map(|name| stream_at(seed, name, visit));
        let timestep = timestep.randint(0, self.schedule.timesteps() as i64, 1)?[0];
        let mut noise = noise.randn(h * w * c);
        if self.noise_offset != 0.0 {
            let offsets = offset.randn(c);
            for pixel in noise.chunks_exact_mut(c) {
                for (value, offset) in pixel.iter_mut().zip(&offsets) {
                    *value += self.noise_offset as f32 * offset;
                }
            }
        }
        Ok((timestep, noise))
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
        Objective { schedule, prediction, min_snr_gamma, noise_offset: 0.0 }
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

        let plain = draw(&objective, 1, 5).1;
        objective.noise_offset = 0.1;
        let offset = draw(&objective, 1, 5).1;
        let difference = |i: usize| offset[i] - plain[i];
        for channel in 0..4 {
            assert!(difference(channel) != 0.0);
            assert!((difference(channel) - difference(channel + 4 * 20)).abs() < 1e-6);
        }
    }

    #[test]
    fn timesteps_cover_the_whole_schedule_evenly() {
        let objective = objective(PredictionType::Epsilon, None);
        let timesteps: Vec<i64> =
            (0..2000).map(|i| objective.draw(3, Role::Instance, i, [1, 1, 4]).unwrap().0).collect();
        assert!(timesteps.iter().all(|t| (0..1000).contains(t)));
        for quarter in 0..4 {
            let count = timesteps.iter().filter(|&&t| t / 250 == quarter).count();
            assert!((400..600).contains(&count), "quarter {quarter}: {count} of 2000");
        }
    }
}
