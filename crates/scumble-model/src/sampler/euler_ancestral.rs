//! Euler's method with fresh noise at every step:
//!
//! ```text
//! up^2 = sigma'^2 (sigma^2 - sigma'^2) / sigma^2,   down^2 = sigma'^2 - up^2
//! x' = x + d (down - sigma) + up n
//! ```
//!
//! Noise is drawn at every step, also at the last, where `up` is 0: the order of the draws is part of the result.

use super::euler::{FinalLevel, SigmaGrid};
use super::{Levels, NoiseSource, Result, Sampler, Setup, check_call, check_length, combine, draw};

struct EulerAncestral(SigmaGrid);

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    // This class has neither Karras' levels nor a choice of the last one.
    let setup = &Setup { levels: Levels::Usual, ..*setup };
    let schedule = setup.sigma_schedule()?;
    Ok(Box::new(EulerAncestral(SigmaGrid::new(setup, &schedule, FinalLevel::Zero, Ok)?)))
}

impl Sampler for EulerAncestral {
    fn timesteps(&self) -> &[f64] {
        &self.0.timesteps
    }

    fn sigmas(&self) -> Option<&[f64]> {
        Some(&self.0.sigmas)
    }

    fn init_noise_sigma(&self) -> f64 {
        self.0.init_noise_sigma()
    }

    fn scale_model_input(&self, call: usize, latents: &[f32]) -> Result<Vec<f32>> {
        self.0.scale_model_input(call, latents)
    }

    fn step(
        &mut self,
        call: usize,
        model_output: &[f32],
        latents: &[f32],
        noise: &mut NoiseSource<'_>,
    ) -> Result<Vec<f32>> {
        check_call(call, self.0.timesteps.len())?;
        check_length("the model's output", model_output, latents)?;
        let (sigma, after) = (self.0.sigmas[call], self.0.sigmas[call + 1]);
        let up = match sigma > 0.0 {
            true => after * ((sigma * sigma - after * after).max(0.0)).sqrt() / sigma,
            false => 0.0,
        };
        let down = (after * after - up * up).max(0.0).sqrt();
        let (of_latents, of_output) = self.0.derivative(sigma);
        let length = down - sigma;
        let noise = draw(noise, latents)?;
        let keep = 1.0 + of_latents * length;
        Ok(combine([(keep, latents), (of_output * length, model_output), (up, &noise)]))
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        self.0.add_noise(call, original, noise)
    }
}
