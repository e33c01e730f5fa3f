//! DPM-Solver++ multistep (Lu et al. 2022, arXiv 2211.01095), of order 1 to 3, 2 by default:
//!
//! ```text
//! x' = s'/s x - alpha' (e^-h - 1) D0 - 1/2 alpha' (e^-h - 1) D1        (order 2, midpoint)
//! h = ln(sigma / sigma'),  D0 = m0,  D1 = (m0 - m1) h / h_before,  m = predicted pictures, newest first
//! ```
//!
//! with `alpha = 1 / sqrt(sigma^2 + 1)` and `s = sigma alpha`. The first step is of order 1, the last one too when
//! it goes to sigma 0 or when there are fewer than 15 steps (`lower_order_final`). The stochastic form (Lu et al.,
//! appendix; "2M SDE") shrinks the latents by another `e^-h` and adds noise at every step:
//!
//! ```text
//! x' = s'/s e^-h x + alpha' (1 - e^-2h) (D0 + 1/2 D1) + s' sqrt(1 - e^-2h) n
//! ```

use super::{
    Levels, NoiseSource, Result, Sampler, SamplerError, Setup, check_call, check_length, combine, draw, grid,
    mix,
};
use crate::schedule::PredictionType;

/// What is extrapolated, and whether noise is added on the way.
#[derive(Clone, Copy, PartialEq)]
enum Algorithm {
    /// Predicted pictures.
    PlusPlus,
    /// Predicted noise (Lu et al. 2022, arXiv 2206.00927).
    Noise,
    /// Predicted pictures, with fresh noise at every step.
    SdePlusPlus,
    /// Predicted noise, with fresh noise at every step.
    SdeNoise,
}

struct DpmSolver {
    timesteps: Vec<f64>,
    /// One more than timesteps.
    sigmas: Vec<f64>,
    prediction: PredictionType,
    algorithm: Algorithm,
    order: usize,
    heun: bool,
    lower_order_final: bool,
    euler_at_final: bool,
    /// Predicted pictures (or noises), newest last, at most `order`.
    predictions: Vec<Vec<f32>>,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    for field in ["thresholding", "use_beta_sigmas", "use_flow_sigmas", "use_dynamic_shifting"] {
        config.refuse_flag(field)?;
    }
    let variance = config.word("variance_type", "")?;
    if variance.starts_with("learned") {
        return Err(SamplerError::setting("variance_type", "a fixed variance", variance));
    }
    // diffusers reads these names of other solvers as its own defaults.
    let types = [("midpoint", false), ("heun", true), ("logrho", false), ("bh1", false), ("bh2", false)];
    let heun = config.choice("solver_type", "midpoint", &types)?;
    let algorithm = algorithm(setup)?;
    let order = config.integer("solver_order", 2, 1..=3)? as usize;
    if algorithm == Algorithm::SdeNoise && order == 3 {
        return Err(SamplerError::setting("solver_order", "1 or 2 with `sde-dpmsolver`", order));
    }
    let schedule = setup.sigma_schedule()?;
    let table = schedule.sigmas();
    let (timesteps, sigmas) = levels(setup, &table)?;
    let sigmas = grid::finished(setup, sigmas, f64::from(table[0]))?;
    if matches!(algorithm, Algorithm::Noise | Algorithm::SdeNoise) && sigmas.last() == Some(&0.0) {
        let expected = "sigma_min: predicted noise cannot be followed to sigma 0";
        return Err(SamplerError::setting("final_sigmas_type", expected, "zero"));
    }
    Ok(Box::new(DpmSolver {
        timesteps,
        sigmas,
        prediction: schedule.prediction_type(),
        algorithm,
        order,
        heun,
        lower_order_final: config.flag("lower_order_final", true)?,
        euler_at_final: config.flag("euler_at_final", false)?,
        predictions: Vec::new(),
    }))
}

/// The configuration says pictures or noise; the sampler's name says with or without fresh noise.
fn algorithm(setup: &Setup<'_>) -> Result<Algorithm> {
    let table = [
        ("dpmsolver++", true),
        ("sde-dpmsolver++", true),
        ("deis", true),
        ("dpmsolver", false),
        ("sde-dpmsolver", false),
    ];
    let pictures = setup.config.choice("algorithm_type", "dpmsolver++", &table)?;
    Ok(match (pictures, setup.kind.draws_noise) {
        (true, false) => Algorithm::PlusPlus,
        (true, true) => Algorithm::SdePlusPlus,
        (false, false) => Algorithm::Noise,
        (false, true) => Algorithm::SdeNoise,
    })
}

/// Timesteps and noise levels, without the last level.
fn levels(setup: &Setup<'_>, table: &[f32]) -> Result<(Vec<f64>, Vec<f64>)> {
    let (config, steps) = (&setup.config, setup.options.steps);
    // Unlike Euler, which stretches the chosen grid, these span the whole schedule.
    let (highest, lowest) = (f64::from(table[table.len() - 1]), f64::from(table[0]));
    let lu = config.flag("use_lu_lambdas", false)?;
    let sigmas = match setup.levels {
        Levels::Karras => grid::karras(highest, lowest, steps),
        Levels::Usual if !lu => {
            let timesteps = spaced_timesteps(setup, table, usable(setup, table)?)?;
            let sigmas = timesteps.iter().map(|&t| grid::sigma_at(table, t)).collect();
            return Ok((timesteps, sigmas));
        }
        Levels::Usual | Levels::Exponential => {
            grid::exponential(highest, lowest.max(f64::MIN_POSITIVE), steps)
        }
    };
    let cosine = config.word("beta_schedule", "linear")? == "squaredcos_cap_v2";
    let whole = match setup.levels == Levels::Exponential && !lu || cosine {
        true => f64::trunc,
        false => f64::round_ties_even,
    };
    Ok((whole_levels(table, &sigmas, whole), sigmas))
}

/// The whole timesteps of noise levels.
pub(super) fn whole_levels(table: &[f32], sigmas: &[f64], whole: fn(f64) -> f64) -> Vec<f64> {
    sigmas.iter().map(|&sigma| whole(grid::timestep_of(table, sigma))).collect()
}

/// How many levels have more signal than `lambda_min_clipped`: cosine schedules end too near to pure noise.
fn usable(setup: &Setup<'_>, table: &[f32]) -> Result<usize> {
    let least = setup.config.number("lambda_min_clipped", f64::NEG_INFINITY)?;
    let usable = table.iter().filter(|&&sigma| -f64::from(sigma).ln() >= least).count();
    match usable < 2 && usable < table.len() {
        true => Err(SamplerError::setting("lambda_min_clipped", "a level that the schedule has", least)),
        false => Ok(usable),
    }
}

/// `steps` of `steps + 1` evenly spaced timesteps of the first `usable`: the last is where the final noise level
/// takes over.
pub(super) fn spaced_timesteps(setup: &Setup<'_>, table: &[f32], usable: usize) -> Result<Vec<f64>> {
    let (train, steps) = (table.len(), setup.options.steps);
    let spacing = grid::Spacing::of(setup, "linspace")?;
    let offset = grid::steps_offset(setup)?;
    let timesteps = match spacing {
        grid::Spacing::Linspace => {
            grid::linspace(0.0, (usable - 1) as f64, steps + 1).into_iter().skip(1).rev().collect()
        }
        grid::Spacing::Trailing => grid::trailing(usable as f64, train as f64 / steps as f64, steps),
        grid::Spacing::Leading => {
            // With as many steps as timesteps the stride would vanish.
            let stride = (usable / (steps + 1)).max(1);
            (1..=steps).rev().map(|i| (i * stride) as f64 + offset as f64).collect()
        }
    };
    Ok(grid::whole_timesteps(timesteps, train).into_iter().map(|t| t.max(0) as f64).collect())
}

/// The factors of a picture and its noise at a noise level.
pub(super) fn signal_and_spread(sigma: f64) -> (f64, f64) {
    let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
    (signal, sigma * signal)
}

/// The picture, or else the noise, that a model's output stands for at a noise level.
pub(super) fn picture_or_noise(
    prediction: PredictionType,
    picture: bool,
    sigma: f64,
    output: &[f32],
    latents: &[f32],
) -> Vec<f32> {
    let (signal, spread) = signal_and_spread(sigma);
    let (of_latents, of_output) = match (prediction, picture) {
        (PredictionType::Epsilon, true) => (1.0 / signal, -spread / signal),
        (PredictionType::VPrediction, true) => (signal, -spread),
        (PredictionType::Sample, true) | (PredictionType::Epsilon, false) => return output.to_vec(),
        (PredictionType::VPrediction, false) => (spread, signal),
        (PredictionType::Sample, false) => (1.0 / spread, -signal / spread),
    };
    combine([(of_latents, latents), (of_output, output)])
}

/// The factors of a step: of the latents, of the newest prediction, of its first difference (by the midpoint rule and
/// by Heun's), of its second difference, and of fresh noise.
struct Factors {
    latents: f64,
    newest: f64,
    midpoint: f64,
    slope: f64,
    bend: f64,
    noise: f64,
}

impl Factors {
    fn new(algorithm: Algorithm, sigma: f64, after: f64) -> Self {
        let (signal, spread) = signal_and_spread(sigma);
        let (signal_after, spread_after) = signal_and_spread(after);
        let h = (sigma / after).ln();
        match algorithm {
            Algorithm::PlusPlus => {
                let e = after / sigma - 1.0; // e^-h - 1
                Self {
                    latents: spread_after / spread,
                    newest: -signal_after * e,
                    midpoint: -0.5 * signal_after * e,
                    slope: signal_after * (e / h + 1.0),
                    bend: -signal_after * ((e + h) / (h * h) - 0.5),
                    noise: 0.0,
                }
            }
            Algorithm::Noise | Algorithm::SdeNoise => {
                let e = sigma / after - 1.0; // e^h - 1
                let fresh = algorithm == Algorithm::SdeNoise;
                let twice = if fresh { 2.0 } else { 1.0 };
                Self {
                    latents: signal_after / signal,
                    newest: -twice * spread_after * e,
                    midpoint: -0.5 * twice * spread_after * e,
                    slope: -twice * spread_after * (e / h - 1.0),
                    bend: -spread_after * ((e - h) / (h * h) - 0.5),
                    noise: if fresh {
                        spread_after * ((e + 1.0) * (e + 1.0) - 1.0).max(0.0).sqrt()
                    } else {
                        0.0
                    },
                }
            }
            Algorithm::SdePlusPlus => {
                let ratio = after / sigma; // e^-h
                let e = 1.0 - ratio * ratio;
                let twice = 2.0 * h;
                Self {
                    latents: spread_after / spread * ratio,
                    newest: signal_after * e,
                    midpoint: 0.5 * signal_after * e,
                    slope: signal_after * (1.0 - e / twice),
                    bend: signal_after * ((e - twice) / (twice * twice) - 0.5),
                    noise: spread_after * e.max(0.0).sqrt(),
                }
            }
        }
    }
}

impl DpmSolver {
    fn predicts_picture(&self) -> bool {
        matches!(self.algorithm, Algorithm::PlusPlus | Algorithm::SdePlusPlus)
    }

    /// The order of call `call`: limited by the history and towards the end.
    fn order_at(&self, call: usize) -> usize {
        let calls = self.timesteps.len();
        let few = self.lower_order_final && calls < 15;
        let allowed = match calls - call {
            1 if self.euler_at_final || few => 1,
            2 if few => 2,
            _ => 3,
        };
        let allowed = if self.sigmas[call + 1] == 0.0 { 1 } else { allowed };
        self.order.min(self.predictions.len()).min(allowed).min(call + 1)
    }

    /// ln of the ratio of the noise levels before and after call `call`.
    fn log_ratio(&self, call: usize) -> f64 {
        (self.sigmas[call] / self.sigmas[call + 1]).ln()
    }

    fn advance(&self, call: usize, latents: &[f32], noise: &[f32]) -> Vec<f32> {
        let (sigma, after) = (self.sigmas[call], self.sigmas[call + 1]);
        if sigma == after {
            return latents.to_vec(); // two equal levels: rounding gave the same timestep twice
        }
        let factors = Factors::new(self.algorithm, sigma, after);
        let newest = self.predictions.len() - 1;
        let m0 = &self.predictions[newest];
        // An empty slice stands for no noise.
        let noise = if noise.is_empty() { latents } else { noise };
        let start = [(factors.latents, latents), (factors.noise, noise)];
        let first_order = || combine([start[0], start[1], (factors.newest, m0)]);
        let order = self.order_at(call);
        if order == 1 {
            return first_order();
        }
        let (h, h_before) = (self.log_ratio(call), self.log_ratio(call - 1));
        let m1 = &self.predictions[newest - 1];
        if h_before == 0.0 {
            return first_order(); // no slope between two predictions at one level
        }
        if order == 2 {
            let slope = if self.heun { factors.slope } else { factors.midpoint } * h / h_before;
            return combine([start[0], start[1], (factors.newest + slope, m0), (-slope, m1)]);
        }
        let h_earlier = self.log_ratio(call - 2);
        if h_earlier == 0.0 {
            return first_order();
        }
        let m2 = &self.predictions[newest - 2];
        let (r0, r1) = (h_before / h, h_earlier / h);
        // D1 = s0 + r0 / (r0 + r1) (s0 - s1),  D2 = (s0 - s1) / (r0 + r1),  with the two slopes
        // s0 = (m0 - m1) / r0 and s1 = (m1 - m2) / r1.
        let of_difference = (factors.slope * r0 + factors.bend) / (r0 + r1);
        let (of_s0, of_s1) = ((factors.slope + of_difference) / r0, -of_difference / r1);
        combine([start[0], start[1], (factors.newest + of_s0, m0), (of_s1 - of_s0, m1), (-of_s1, m2)])
    }
}

impl Sampler for DpmSolver {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> Option<&[f64]> {
        Some(&self.sigmas)
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
        if let Some(before) = self.predictions.last() {
            check_length("the prediction before", before, latents)?;
        }
        if self.predictions.len() == self.order {
            self.predictions.remove(0);
        }
        let picture = self.predicts_picture();
        let sigma = self.sigmas[call];
        self.predictions.push(picture_or_noise(self.prediction, picture, sigma, model_output, latents));
        let fresh = matches!(self.algorithm, Algorithm::SdePlusPlus | Algorithm::SdeNoise);
        let noise = if fresh { draw(noise, latents)? } else { Vec::new() };
        Ok(self.advance(call, latents, &noise))
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.timesteps.len())?;
        mix(signal_and_spread(self.sigmas[call]), original, noise)
    }
}
