//! Linear multistep on the noise level, of order 4 (as k-diffusion has it, after Karras et al. 2022):
//!
//! ```text
//! x' = x + sum_k c_k d_k,     c_k = integral of the k-th Lagrange polynomial through the last sigmas,
//!                                   from sigma to sigma'
//! ```
//!
//! with `d_k = (x - x0) / sigma` at the last calls, newest first. The order grows with the history; a run that starts
//! part way begins with order 1 again (diffusers takes the coefficients of order 4 there with whatever history it
//! has, which is no step of any order).

use super::euler::{FinalLevel, SigmaGrid};
use super::{NoiseSource, Result, Sampler, Setup, check_call, check_length, combine};

const ORDER: usize = 4;

struct Lms {
    grid: SigmaGrid,
    /// The derivatives at the last calls and their sigmas, newest last, at most [`ORDER`].
    history: Vec<(f64, Vec<f32>)>,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    setup.config.refuse_flag("use_beta_sigmas")?;
    let schedule = setup.unscaled_sigma_schedule()?;
    let grid = SigmaGrid::new(setup, &schedule, FinalLevel::Zero, Ok)?;
    Ok(Box::new(Lms { grid, history: Vec::new() }))
}

/// The integral of `prod (tau - s_j) / (s_k - s_j)` over `j != k`. Two Gauss points are exact to degree 3.
fn coefficient(sigmas: &[f64], k: usize, from: f64, to: f64) -> f64 {
    let basis = |tau: f64| -> f64 {
        let others = sigmas.iter().enumerate().filter(|(j, _)| *j != k);
        others.map(|(_, s)| (tau - s) / (sigmas[k] - s)).product()
    };
    let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
    let apart = half / 3f64.sqrt();
    half * (basis(middle - apart) + basis(middle + apart))
}

impl Sampler for Lms {
    fn timesteps(&self) -> &[f64] {
        &self.grid.timesteps
    }

    fn sigmas(&self) -> Option<&[f64]> {
        Some(&self.grid.sigmas)
    }

    fn init_noise_sigma(&self) -> f64 {
        self.grid.init_noise_sigma()
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
        let (sigma, after) = (self.grid.sigmas[call], self.grid.sigmas[call + 1]);
        let (of_latents, of_output) = self.grid.derivative(sigma);
        let derivative = combine([(of_latents, latents), (of_output, model_output)]);
        // Levels must differ for a polynomial to go through them: a history that repeats one starts anew.
        if self.history.iter().any(|(level, _)| *level == sigma) {
            self.history.clear();
        }
        if let Some((_, before)) = self.history.first() {
            check_length("the derivative before", before, latents)?;
        }
        if self.history.len() == ORDER {
            self.history.remove(0);
        }
        self.history.push((sigma, derivative));
        let sigmas: Vec<f64> = self.history.iter().map(|(level, _)| *level).collect();
        let weights: Vec<f64> = (0..sigmas.len()).map(|k| coefficient(&sigmas, k, sigma, after)).collect();
        let step = |i: usize| -> f64 {
            let terms = self.history.iter().zip(&weights);
            terms.map(|((_, d), weight)| weight * f64::from(d[i])).sum()
        };
        Ok(latents.iter().enumerate().map(|(i, &x)| (f64::from(x) + step(i)) as f32).collect())
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        self.grid.add_noise(call, original, noise)
    }
}
