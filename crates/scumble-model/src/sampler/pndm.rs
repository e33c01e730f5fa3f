//! PNDM (Liu et al. 2022, arXiv 2202.09778): a four-step Adams-Bashforth rule on the predicted noise.
//!
//! ```text
//! x' = sqrt(a' / a) x - (a' - a) e / (a sqrt(1 - a') + sqrt(a (1 - a) a'))
//! ```
//!
//! The history has to be filled first. With `skip_prk_steps` (Stable Diffusion) the first step is made twice, the
//! second time with the average of both predictions, and the rule's order grows with the history; without, the
//! first three steps are Runge-Kutta steps of four model calls each.

use super::ddim::cumulative_alpha;
use super::{
    NoiseSource, Result, Sampler, SamplerError, Setup, check_call, check_finite, check_length, combine, grid,
    mix,
};
use crate::schedule::{NoiseSchedule, PredictionType};

struct Pndm {
    schedule: NoiseSchedule,
    timesteps: Vec<f64>,
    /// How many of the calls belong to the Runge-Kutta warm-up.
    warm_up: usize,
    /// Timesteps between two steps.
    stride: i64,
    last_alpha: f64,
    prediction: PredictionType,
    /// Calls made so far: the order depends on the history, not on the place in the list.
    made: usize,
    /// Up to four predictions, newest last.
    history: Vec<Vec<f32>>,
    /// The latents from which a step of several calls started.
    start: Vec<f32>,
    /// The weighted predictions of the Runge-Kutta step under way.
    gathered: Vec<f32>,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    // Like the class of that name, this sampler knows no rescaling to zero SNR: it divides by the last alpha.
    let schedule = setup.schedule(false)?;
    check_finite(&schedule)?;
    let prediction = schedule.prediction_type();
    if prediction == PredictionType::Sample {
        return Err(SamplerError::setting("prediction_type", "epsilon or v_prediction", "sample"));
    }
    let (train, steps) = (schedule.timesteps(), setup.options.steps);
    let spacing = grid::Spacing::of(setup, "leading")?;
    let points = grid::timesteps(spacing, train, steps, grid::steps_offset(setup)?);
    let points = grid::whole_timesteps(points, train);
    let stride = (train / steps) as i64;
    let skip_warm_up = config.flag("skip_prk_steps", false)?;
    if !skip_warm_up {
        setup.check_steps(4, train)?;
    }
    let (timesteps, warm_up) = match skip_warm_up {
        true => (repeated_second(&points), 0),
        false => (with_warm_up(&points, stride / 2), 12),
    };
    let last_alpha = match config.flag("set_alpha_to_one", false)? {
        true => 1.0,
        false => cumulative_alpha(&schedule, 0, 1.0),
    };
    let timesteps = timesteps.into_iter().map(|t| t as f64).collect();
    let (history, start, gathered) = (Vec::new(), Vec::new(), Vec::new());
    Ok(Box::new(Pndm {
        schedule,
        timesteps,
        warm_up,
        stride,
        last_alpha,
        prediction,
        made: 0,
        history,
        start,
        gathered,
    }))
}

/// The second point twice: that call repeats the first step.
fn repeated_second(points: &[i64]) -> Vec<i64> {
    let second = points.get(1).copied();
    points.iter().take(1).copied().chain(second).chain(points.iter().skip(1).copied()).collect()
}

/// Twelve calls for the first three steps (start, middle, middle, end of each), then the rest one by one.
fn with_warm_up(points: &[i64], half: i64) -> Vec<i64> {
    let of_step = |pair: &[i64]| [pair[0], pair[1] + half, pair[1] + half, pair[1]];
    let warm_up = points.windows(2).take(3).flat_map(of_step);
    warm_up.chain(points.iter().skip(3).copied()).collect()
}

impl Pndm {
    /// The transfer from timestep `from` to `to` (negative: past the end) along `prediction`.
    fn transfer(&self, latents: &[f32], from: i64, to: i64, prediction: &[f32]) -> Vec<f32> {
        // A run that starts part way repeats its first step from one stride above it, which may lie past the end.
        let from = from.min(self.schedule.timesteps() as i64 - 1);
        let a = cumulative_alpha(&self.schedule, from, self.last_alpha);
        let after = cumulative_alpha(&self.schedule, to, self.last_alpha);
        let divisor = a * (1.0 - after).sqrt() + (a * (1.0 - a) * after).sqrt();
        let mut keep = (after / a).sqrt();
        // Without any noise left on either side nothing is to be moved.
        let mut move_by = if divisor > 0.0 { (after - a) / divisor } else { 0.0 };
        if self.prediction == PredictionType::VPrediction {
            // e = sqrt(a) v + sqrt(1 - a) x
            keep -= move_by * (1.0 - a).sqrt();
            move_by *= a.sqrt();
        }
        combine([(keep, latents), (-move_by, prediction)])
    }

    /// A call of the Runge-Kutta warm-up: weights 1/6, 1/3, 1/3, 1/6 over the four calls of a step.
    fn warm_up_step(&mut self, timestep: i64, output: &[f32], latents: &[f32]) -> Vec<f32> {
        let to = if self.made % 2 == 1 { timestep } else { timestep - self.stride / 2 };
        let from = self.timesteps[self.made / 4 * 4] as i64;
        let weighted = match self.made % 4 {
            0 => {
                self.history.push(output.to_vec());
                self.start = latents.to_vec();
                self.gathered = combine([(1.0 / 6.0, output)]);
                None
            }
            3 => Some(combine([(1.0, &self.gathered), (1.0 / 6.0, output)])),
            _ => {
                self.gathered = combine([(1.0, &self.gathered), (1.0 / 3.0, output)]);
                None
            }
        };
        self.transfer(&self.start, from, to, weighted.as_deref().unwrap_or(output))
    }

    /// A call of the multistep rule.
    fn multistep(&mut self, timestep: i64, output: &[f32], latents: &[f32]) -> Vec<f32> {
        if self.made == 1 {
            let average = combine([(0.5, output), (0.5, &self.history[0])]);
            return self.transfer(&self.start, timestep + self.stride, timestep, &average);
        }
        if self.made == 0 {
            self.start = latents.to_vec();
        }
        if self.history.len() == 4 {
            self.history.remove(0);
        }
        self.history.push(output.to_vec());
        let weighted = match self.history.as_slice() {
            [e0, e1, e2, e3] => {
                combine([(55.0 / 24.0, e3), (-59.0 / 24.0, e2), (37.0 / 24.0, e1), (-9.0 / 24.0, e0)])
            }
            [e0, e1, e2] => combine([(23.0 / 12.0, e2), (-16.0 / 12.0, e1), (5.0 / 12.0, e0)]),
            [e0, e1] => combine([(1.5, e1), (-0.5, e0)]),
            _ => output.to_vec(),
        };
        self.transfer(latents, timestep, timestep - self.stride, &weighted)
    }
}

impl Sampler for Pndm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(
        &mut self,
        call: usize,
        model_output: &[f32],
        latents: &[f32],
        _noise: &mut NoiseSource<'_>,
    ) -> Result<Vec<f32>> {
        check_call(call, self.timesteps.len())?;
        check_length("the model's output", model_output, latents)?;
        for before in self.history.first().into_iter().chain((self.made > 0).then_some(&self.start)) {
            check_length("the prediction before", before, latents)?;
        }
        let timestep = self.timesteps[call] as i64;
        let stepped = match self.made < self.warm_up {
            true => self.warm_up_step(timestep, model_output, latents),
            false => self.multistep(timestep, model_output, latents),
        };
        self.made += 1;
        Ok(stepped)
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.timesteps.len())?;
        let a = cumulative_alpha(&self.schedule, self.timesteps[call] as i64, self.last_alpha);
        mix((a.sqrt(), (1.0 - a).sqrt()), original, noise)
    }
}
