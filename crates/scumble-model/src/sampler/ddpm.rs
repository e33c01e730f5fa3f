//! DDPM (Ho et al. 2020, arXiv 2006.11239) over a spaced list of timesteps, with `c = a / a'`:
//!
//! ```text
//! x' = sqrt(a') (1 - c) / (1 - a) x0 + sqrt(c) (1 - a') / (1 - a) x + sqrt(v) n
//! v  = max((1 - a') / (1 - a) (1 - c), 1e-20)      (fixed_small),      1 - c      (fixed_large)
//! ```
//!
//! Noise is drawn at every step but the one at timestep 0.

use super::ddim::cumulative_alpha;
use super::{
    NoiseSource, Result, Sampler, Setup, check_call, check_length, draw, grid, mix, predicted_picture,
};
use crate::schedule::PredictionType;

struct Ddpm {
    timesteps: Vec<f64>,
    /// Cumulative alpha before and after each call.
    levels: Vec<(f64, f64)>,
    prediction: PredictionType,
    clip: Option<f64>,
    large_variance: bool,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    let schedule = setup.schedule(true)?;
    config.refuse_flag("thresholding")?;
    let variances = [("fixed_small", false), ("fixed_small_log", false), ("fixed_large", true)];
    let large_variance = config.choice("variance_type", "fixed_small", &variances)?;
    let (train, steps) = (schedule.timesteps(), setup.options.steps);
    let spacing = grid::Spacing::of(setup, "leading")?;
    let timesteps = grid::timesteps(spacing, train, steps, grid::steps_offset(setup)?);
    let timesteps = grid::whole_timesteps(timesteps, train);
    let alpha = |timestep: &i64| cumulative_alpha(&schedule, *timestep, 1.0);
    let after = timesteps.iter().skip(1).map(alpha).chain([1.0]);
    let levels: Vec<(f64, f64)> = timesteps.iter().map(alpha).zip(after).collect();
    setup.check_signal(&schedule, levels.iter().map(|level| level.0))?;
    let range = config.number("clip_sample_range", 1.0)?;
    let clip = config.flag("clip_sample", true)?.then_some(range.abs());
    let prediction = schedule.prediction_type();
    let timesteps = timesteps.into_iter().map(|t| t as f64).collect();
    Ok(Box::new(Ddpm { timesteps, levels, prediction, clip, large_variance }))
}

impl Sampler for Ddpm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(
        &mut self,
        call: usize,
        model_output: &[f32],
        latents: &[f32],
        noise: &mut NoiseSource<'_>,
    ) -> Result<Vec<f32>> {
        check_call(call, self.levels.len())?;
        check_length("the model's output", model_output, latents)?;
        let (a, after) = self.levels[call];
        let beta = 1.0 - a / after;
        let of_picture = after.sqrt() * beta / (1.0 - a);
        let of_latents = (a / after).sqrt() * (1.0 - after) / (1.0 - a);
        let variance = match self.large_variance {
            true => beta,
            false => ((1.0 - after) / (1.0 - a) * beta).max(1e-20),
        };
        let noise = if self.timesteps[call] > 0.0 { draw(noise, latents)? } else { Vec::new() };
        let stepped = latents.iter().zip(model_output).enumerate().map(|(i, (&x, &output))| {
            let x = f64::from(x);
            let x0 = predicted_picture(self.prediction, a, x, f64::from(output));
            let x0 = self.clip.map_or(x0, |range| x0.clamp(-range, range));
            let added = noise.get(i).map_or(0.0, |&n| variance.max(0.0).sqrt() * f64::from(n));
            (of_picture * x0 + of_latents * x + added) as f32
        });
        Ok(stepped.collect())
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.levels.len())?;
        let a = self.levels[call].0;
        mix((a.sqrt(), (1.0 - a).sqrt()), original, noise)
    }
}
