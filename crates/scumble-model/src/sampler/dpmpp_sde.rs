//! DPM-Solver++ as a stochastic equation of second order (k-diffusion's "DPM++ SDE"), with the middle of the step at half
//! of its logarithm:
//!
//! ```text
//! m = sqrt(sigma sigma')
//! x~ = (1 - r(m)) x0(x, sigma) + r(m) x + up(m) B(sigma, m)                first call of a step
//! x' = (1 - r(sigma')) x0(x~, m) + r(sigma') x + up(sigma') B(sigma, sigma')   second call
//! up(s)^2 = s^2 (sigma^2 - s^2) / sigma^2,   r(s) = sqrt(s^2 - up(s)^2) / sigma
//! ```
//!
//! `B` is the increment of one Brownian path between two noise levels, divided by the root of their distance, so that
//! the two calls of a step see the same noise. The path follows from `noise_sampler_seed` where the configuration has one,
//! else from two values of the run's noise. The last step, to sigma 0, is Euler's alone: n steps are 2 n - 1 calls.
//!
//! Levels go through f32 logarithms, as diffusers has them: a level that is 1e-6 off is another place on the path.

use super::brownian::BrownianPath;
use super::euler::{FinalLevel, SigmaGrid};
use super::{NoiseSource, Result, Sampler, SamplerError, Setup, check_call, check_length, combine, grid};
use crate::schedule::PredictionType;

struct DpmSde {
    /// Both calls of a step have entries of their own: timesteps of both, and the level that each starts or ends at.
    grid: SigmaGrid,
    seed: Option<u64>,
    path: Option<BrownianPath>,
    /// The latents that the step under way started from.
    start: Option<Vec<f32>>,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    config.refuse_flag("use_beta_sigmas")?;
    let seed = config.integer("noise_sampler_seed", -1, -1..=i64::MAX)?;
    let schedule = setup.unscaled_sigma_schedule()?;
    let table = schedule.sigmas();
    let mut levels = SigmaGrid::new(setup, &schedule, FinalLevel::Zero, Ok)?;
    if levels.prediction == PredictionType::Sample {
        return Err(SamplerError::setting("prediction_type", "epsilon or v_prediction", "sample"));
    }
    let between = |pair: &[f64]| grid::timestep_of(&table, (pair[0] * pair[1]).sqrt());
    let steps = &levels.sigmas[..levels.sigmas.len() - 1];
    let middles = grid::rounded(steps.windows(2).map(between).collect());
    let mut timesteps = Vec::with_capacity(2 * middles.len() + 1);
    let mut sigmas = Vec::with_capacity(2 * middles.len() + 2);
    for (index, (&timestep, &sigma)) in levels.timesteps.iter().zip(steps).enumerate() {
        if index > 0 {
            timesteps.push(middles[index - 1]);
            sigmas.push(sigma);
        }
        timesteps.push(timestep);
        sigmas.push(sigma);
    }
    sigmas.push(0.0);
    (levels.timesteps, levels.sigmas) = (timesteps, sigmas);
    let seed = u64::try_from(seed).ok();
    Ok(Box::new(DpmSde { grid: levels, seed, path: None, start: None }))
}

/// `-ln` of a level in f32.
fn time_of(sigma: f64) -> f32 {
    -(sigma.ln() as f32)
}

/// The level of a time in f32.
fn level_of(time: f32) -> f64 {
    f64::from(f64::from(-time).exp() as f32)
}

/// The level between two, as diffusers' f32 arithmetic finds it.
fn middle(sigma: f64, after: f64) -> f64 {
    let (time, next) = (time_of(sigma), time_of(after));
    level_of(time + (next - time) * 0.5)
}

impl DpmSde {
    /// The level at which call `call` sees the latents.
    fn level(&self, call: usize) -> f64 {
        match call % 2 {
            0 => self.grid.sigmas[call],
            _ => middle(self.grid.sigmas[call - 1], self.grid.sigmas[call]),
        }
    }

    /// The picture that the model's output stands for.
    fn picture(&self, sigma: f64, output: &[f32], latents: &[f32]) -> Vec<f32> {
        let (of_latents, of_output) = self.grid.derivative(sigma);
        combine([(1.0 - sigma * of_latents, latents), (-sigma * of_output, output)])
    }

    /// The path, made at the first call.
    fn path(&mut self, latents: &[f32], noise: &mut NoiseSource<'_>) -> Result<&BrownianPath> {
        if self.path.is_none() {
            let seed = match self.seed {
                Some(seed) => seed,
                None => {
                    let drawn = noise(2);
                    check_length("the drawn noise", &drawn, &[0.0; 2])?;
                    u64::from(drawn[0].to_bits()) << 31 ^ u64::from(drawn[1].to_bits())
                }
            };
            let levels = self.grid.sigmas.iter().copied().filter(|sigma| *sigma > 0.0);
            let (low, high) = levels.fold((f64::MAX, 0.0), |(low, high), s| (s.min(low), s.max(high)));
            self.path = Some(BrownianPath::new(seed, low.min(high), high, latents.len()));
        }
        self.path.as_ref().ok_or(SamplerError::Call { call: 0, calls: self.grid.timesteps.len() })
    }

    /// From `start` at `sigma` to the lower level `to`, with `picture` and fresh noise from the path.
    fn jump(
        &mut self,
        [sigma, to]: [f64; 2],
        start: &[f32],
        picture: &[f32],
        noise: &mut NoiseSource<'_>,
    ) -> Result<Vec<f32>> {
        let from = level_of(time_of(sigma));
        let up = (to * ((from * from - to * to).max(0.0)).sqrt() / from).min(to);
        let keep = (to * to - up * up).max(0.0).sqrt() / from;
        let length = (from - to).abs();
        let path = self.path(start, noise)?;
        // The path is walked from high levels to low ones.
        let increment = path.increment(to, from);
        let scale = if length > 0.0 { -up / length.sqrt() } else { 0.0 };
        Ok(combine([(keep, start), (1.0 - keep, picture), (scale, &increment)]))
    }
}

impl Sampler for DpmSde {
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
        check_call(call, self.grid.timesteps.len())?;
        let sigma = self.level(call);
        Ok(combine([(1.0 / (sigma * sigma + 1.0).sqrt(), latents)]))
    }

    fn step(
        &mut self,
        call: usize,
        model_output: &[f32],
        latents: &[f32],
        noise: &mut NoiseSource<'_>,
    ) -> Result<Vec<f32>> {
        check_call(call, self.grid.timesteps.len())?;
        check_length("the model's output", model_output, latents)?;
        if let Some(path) = &self.path {
            check_length("the latents before", path.values(), latents)?;
        }
        let level = self.level(call);
        let picture = self.picture(level, model_output, latents);
        match self.start.take().filter(|_| call % 2 == 1) {
            Some(start) => {
                check_length("the latents before", &start, latents)?;
                let levels = [self.grid.sigmas[call - 1], level_of(time_of(self.grid.sigmas[call]))];
                self.jump(levels, &start, &picture, noise)
            }
            None if self.grid.sigmas[call + 1] == 0.0 => Ok(picture),
            None => {
                let (sigma, after) = (self.grid.sigmas[call], self.grid.sigmas[call + 1]);
                let next = self.jump([sigma, middle(sigma, after)], latents, &picture, noise)?;
                self.start = Some(latents.to_vec());
                Ok(next)
            }
        }
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        self.grid.add_noise(call, original, noise)
    }
}
