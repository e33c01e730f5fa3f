//! Heun's method on the noise level (Karras et al. 2022, arXiv 2206.00364, without churn):
//!
//! ```text
//! x~ = x + d(x, sigma) (sigma' - sigma)                              first call of a step
//! x' = x + (d(x, sigma) + d(x~, sigma')) / 2 (sigma' - sigma)        second call
//! ```
//!
//! The last step, to sigma 0, is Euler's alone: n steps are 2 n - 1 calls.

use super::euler::{FinalLevel, SigmaGrid};
use super::{NoiseSource, Result, Sampler, Setup, check_call, check_length, combine};

struct Heun {
    grid: SigmaGrid,
    clip: Option<f64>,
    /// What the first call of the step under way started from: the latents and the derivative there.
    start: Option<(Vec<f32>, Vec<f32>)>,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    config.refuse_flag("use_beta_sigmas")?;
    let schedule = setup.unscaled_sigma_schedule()?;
    let mut grid = SigmaGrid::new(setup, &schedule, FinalLevel::Zero, Ok)?;
    grid.timesteps = doubled(&grid.timesteps);
    let inner = &grid.sigmas[..grid.sigmas.len() - 1];
    grid.sigmas = [doubled(inner), grid.sigmas[grid.sigmas.len() - 1..].to_vec()].concat();
    let range = config.number("clip_sample_range", 1.0)?;
    let clip = config.flag("clip_sample", false)?.then_some(range.abs());
    Ok(Box::new(Heun { grid, clip, start: None }))
}

/// Everything but the first twice.
fn doubled(values: &[f64]) -> Vec<f64> {
    let twice = values.iter().skip(1).flat_map(|&value| [value, value]);
    values.iter().take(1).copied().chain(twice).collect()
}

impl Heun {
    /// `(x - x0) / sigma`, with `x0` clipped where the configuration says so.
    fn derivative(&self, sigma: f64, output: &[f32], latents: &[f32]) -> Vec<f32> {
        let (of_latents, of_output) = self.grid.derivative(sigma);
        let Some(range) = self.clip else {
            return combine([(of_latents, latents), (of_output, output)]);
        };
        let clipped = |(&x, &output): (&f32, &f32)| {
            let x = f64::from(x);
            let x0 = x - sigma * (of_latents * x + of_output * f64::from(output));
            ((x - x0.clamp(-range, range)) / sigma) as f32
        };
        latents.iter().zip(output).map(clipped).collect()
    }
}

impl Sampler for Heun {
    fn timesteps(&self) -> &[f64] {
        &self.grid.timesteps
    }

    fn sigmas(&self) -> Option<&[f64]> {
        Some(&self.grid.sigmas)
    }

    fn init_noise_sigma(&self) -> f64 {
        self.grid.init_noise_sigma()
    }

    fn calls_per_step(&self) -> usize {
        2
    }

    fn scale_model_input(&self, call: usize, latents: &[f32]) -> Result<Vec<f32>> {
        self.grid.scale_model_input(call, latents)
    }

    fn step(
        &mut self,
        call: usize,
        model_output: &[f32],
        latents: &[f32],
        _noise: &mut NoiseSource<'_>,
    ) -> Result<Vec<f32>> {
        check_call(call, self.grid.timesteps.len())?;
        check_length("the model's output", model_output, latents)?;
        let sigma = self.grid.sigmas[call];
        let derivative = self.derivative(sigma, model_output, latents);
        match self.start.take() {
            Some((start, first)) if call > 0 => {
                check_length("the latents before", &start, latents)?;
                let half = (sigma - self.grid.sigmas[call - 1]) / 2.0;
                Ok(combine([(1.0, &start), (half, &first), (half, &derivative)]))
            }
            _ => {
                let length = self.grid.sigmas[call + 1] - sigma;
                let next = combine([(1.0, latents), (length, &derivative)]);
                self.start = Some((latents.to_vec(), derivative));
                Ok(next)
            }
        }
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        self.grid.add_noise(call, original, noise)
    }
}
