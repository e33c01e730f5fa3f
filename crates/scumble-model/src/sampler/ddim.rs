//! DDIM (Song et al. 2020, arXiv 2010.02502), with `a` the schedule's cumulative alpha now and `a'` one step on:
//!
//! ```text
//! x' = sqrt(a') x0 + sqrt(1 - a' - s^2) e + s n,    s = eta sqrt((1 - a') / (1 - a) (1 - a / a'))
//! ```
//!
//! `x0` and `e` are the picture and the noise that the model's output stands for.

use super::{NoiseSource, Result, Sampler, Setup, check_call, check_length, draw, grid, mix};
use crate::schedule::{NoiseSchedule, PredictionType};

struct Ddim {
    timesteps: Vec<f64>,
    /// Cumulative alpha before and after each call.
    levels: Vec<(f64, f64)>,
    prediction: PredictionType,
    clip: Option<f64>,
    eta: f64,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    let schedule = setup.schedule(true)?;
    config.refuse_flag("thresholding")?;
    let (train, steps) = (schedule.timesteps(), setup.options.steps);
    let spacing = grid::Spacing::of(setup, "leading")?;
    let timesteps = grid::timesteps(spacing, train, steps, grid::steps_offset(setup)?);
    let timesteps = grid::whole_timesteps(timesteps, train);
    let last = if config.flag("set_alpha_to_one", true)? { 1.0 } else { cumulative_alpha(&schedule, 0, 1.0) };
    let before_and_after = |&t: &i64| {
        let after = t - (train / steps) as i64;
        (cumulative_alpha(&schedule, t, last), cumulative_alpha(&schedule, after, last))
    };
    let levels: Vec<(f64, f64)> = timesteps.iter().map(before_and_after).collect();
    let prediction = schedule.prediction_type();
    setup.check_signal(&schedule, levels.iter().map(|level| level.0))?;
    let range = config.number("clip_sample_range", 1.0)?;
    let clip = config.flag("clip_sample", true)?.then_some(range.abs());
    let timesteps = timesteps.into_iter().map(|t| t as f64).collect();
    Ok(Box::new(Ddim { timesteps, levels, prediction, clip, eta: setup.options.eta }))
}

/// Cumulative alpha at a timestep; `last` past the end of the process, where timesteps are negative.
pub(super) fn cumulative_alpha(schedule: &NoiseSchedule, timestep: i64, last: f64) -> f64 {
    let index = usize::try_from(timestep).ok();
    index.and_then(|index| schedule.alphas_cumprod().get(index)).map_or(last, |&a| f64::from(a))
}

impl Sampler for Ddim {
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
        let (signal, spread) = (a.sqrt(), (1.0 - a).sqrt());
        let fresh = self.eta * ((1.0 - after) / (1.0 - a) * (1.0 - a / after)).max(0.0).sqrt();
        let kept = (1.0 - after - fresh * fresh).max(0.0).sqrt();
        let noise = if self.eta > 0.0 { draw(noise, latents)? } else { Vec::new() };
        let stepped = latents.iter().zip(model_output).enumerate().map(|(i, (&x, &output))| {
            let (x, output) = (f64::from(x), f64::from(output));
            let (x0, e) = match self.prediction {
                PredictionType::Epsilon => ((x - spread * output) / signal, output),
                PredictionType::VPrediction => (signal * x - spread * output, signal * output + spread * x),
                PredictionType::Sample => (output, (x - signal * output) / spread),
            };
            let x0 = self.clip.map_or(x0, |range| x0.clamp(-range, range));
            let added = noise.get(i).map_or(0.0, |&n| fresh * f64::from(n));
            (after.sqrt() * x0 + kept * e + added) as f32
        });
        Ok(stepped.collect())
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.levels.len())?;
        let a = self.levels[call].0;
        mix((a.sqrt(), (1.0 - a).sqrt()), original, noise)
    }
}
