//! Sampling of latent consistency models (Luo et al. 2023, arXiv 2310.04378), in 1 to 8 steps usually:
//!
//! ```text
//! d  = c_out x0 + c_skip x,     c_skip = 1/4 / ((10 t)^2 + 1/4),   c_out = 10 t / sqrt((10 t)^2 + 1/4)
//! x' = sqrt(a') d + sqrt(1 - a') n,      and the last step is d itself
//! ```
//!
//! The timesteps are chosen from the evenly spaced ones that the model was distilled on
//! (`original_inference_steps`), so there can't be more steps than those.

use super::ddim::cumulative_alpha;
use super::{
    NoiseSource, Result, Sampler, SamplerError, Setup, check_call, check_length, draw, mix, predicted_picture,
};
use crate::schedule::PredictionType;

/// Standard deviation of the data that the boundary condition assumes, squared.
const DATA_VARIANCE: f64 = 0.25;

struct Lcm {
    timesteps: Vec<f64>,
    /// Cumulative alpha at each call.
    alphas: Vec<f64>,
    prediction: PredictionType,
    clip: Option<f64>,
    timestep_scaling: f64,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    let schedule = setup.schedule(true)?;
    config.refuse_flag("thresholding")?;
    let (train, steps) = (schedule.timesteps(), setup.options.steps);
    let original = config.integer("original_inference_steps", 50, 1..=1_000_000)? as usize;
    if original > train {
        let expected = format!("at most the {train} training timesteps");
        return Err(SamplerError::setting("original_inference_steps", &expected, original));
    }
    setup.check_steps(1, original)?;
    let timesteps = distilled_timesteps(train, original, steps);
    let alphas: Vec<f64> = timesteps.iter().map(|&t| cumulative_alpha(&schedule, t, 1.0)).collect();
    setup.check_signal(&schedule, alphas.iter().copied())?;
    let range = config.number("clip_sample_range", 1.0)?;
    Ok(Box::new(Lcm {
        timesteps: timesteps.into_iter().map(|t| t as f64).collect(),
        alphas,
        prediction: schedule.prediction_type(),
        clip: config.flag("clip_sample", false)?.then_some(range.abs()),
        timestep_scaling: config.number("timestep_scaling", 10.0)?,
    }))
}

/// `n` of the `original` timesteps `k - 1, 2 k - 1, ...` with `k = train / original`, from the last down.
fn distilled_timesteps(train: usize, original: usize, n: usize) -> Vec<i64> {
    let stride = train / original;
    let apart = original as f64 / n as f64;
    let place = |i: usize| original - (i as f64 * apart).floor() as usize;
    (0..n).map(|i| (place(i) * stride) as i64 - 1).collect()
}

impl Sampler for Lcm {
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
        check_call(call, self.timesteps.len())?;
        check_length("the model's output", model_output, latents)?;
        let a = self.alphas[call];
        let scaled = self.timesteps[call] * self.timestep_scaling;
        let skip = DATA_VARIANCE / (scaled * scaled + DATA_VARIANCE);
        let out = scaled / (scaled * scaled + DATA_VARIANCE).sqrt();
        let after = self.alphas.get(call + 1).copied();
        let noise = if after.is_some() { draw(noise, latents)? } else { Vec::new() };
        let (signal, spread) = after.map_or((1.0, 0.0), |after| (after.sqrt(), (1.0 - after).sqrt()));
        let stepped = latents.iter().zip(model_output).enumerate().map(|(i, (&x, &output))| {
            let x = f64::from(x);
            let x0 = predicted_picture(self.prediction, a, x, f64::from(output));
            let x0 = self.clip.map_or(x0, |range| x0.clamp(-range, range));
            let added = noise.get(i).map_or(0.0, |&n| spread * f64::from(n));
            (signal * (out * x0 + skip * x) + added) as f32
        });
        Ok(stepped.collect())
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.alphas.len())?;
        let a = self.alphas[call];
        mix((a.sqrt(), (1.0 - a).sqrt()), original, noise)
    }
}
