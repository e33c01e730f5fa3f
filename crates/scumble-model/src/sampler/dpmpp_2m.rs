//! DPM-Solver++ multistep (Lu et al. 2022, arXiv 2211.01095), of order 1 to 3, 2 by default:
//!
//! ```text
//! x' = s'/s x - alpha' (e^-h - 1) D0 - 1/2 alpha' (e^-h - 1) D1        (order 2, midpoint)
//! h = ln(sigma / sigma'),  D0 = m0,  D1 = (m0 - m1) h / h_before,  m = predicted pictures, newest first
//! ```
//!
//! with `alpha = 1 / sqrt(sigma^2 + 1)` and `s = sigma alpha`. The first step is of order 1, the last one too when
//! it goes to sigma 0 or when there are fewer than 15 steps (`lower_order_final`).

use super::{
    NoiseSource, Result, Sampler, SamplerError, Setup, check_call, check_length, combine, grid, mix,
};
use crate::schedule::PredictionType;

struct DpmSolver {
    timesteps: Vec<f64>,
    /// One more than timesteps.
    sigmas: Vec<f64>,
    prediction: PredictionType,
    order: usize,
    heun: bool,
    lower_order_final: bool,
    euler_at_final: bool,
    /// Predicted pictures, newest last, at most `order`.
    pictures: Vec<Vec<f32>>,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    for field in ["thresholding", "use_beta_sigmas", "use_flow_sigmas"] {
        config.refuse_flag(field)?;
    }
    // diffusers reads these names of other solvers as its own defaults.
    config.choice("algorithm_type", "dpmsolver++", &[("dpmsolver++", ()), ("deis", ())])?;
    let types = [("midpoint", false), ("heun", true), ("logrho", false), ("bh1", false), ("bh2", false)];
    let heun = config.choice("solver_type", "midpoint", &types)?;
    let variance = config.word("variance_type", "")?;
    if variance.starts_with("learned") {
        return Err(SamplerError::setting("variance_type", "a fixed variance", variance));
    }
    let schedule = setup.sigma_schedule()?;
    let table = schedule.sigmas();
    let (timesteps, sigmas) = levels(setup, &table)?;
    Ok(Box::new(DpmSolver {
        timesteps,
        sigmas: grid::finished(setup, sigmas, &table)?,
        prediction: schedule.prediction_type(),
        order: config.integer("solver_order", 2, 1..=3)? as usize,
        heun,
        lower_order_final: config.flag("lower_order_final", true)?,
        euler_at_final: config.flag("euler_at_final", false)?,
        pictures: Vec::new(),
    }))
}

/// Timesteps and noise levels, without the last level.
fn levels(setup: &Setup<'_>, table: &[f32]) -> Result<(Vec<f64>, Vec<f64>)> {
    let (config, steps) = (&setup.config, setup.options.steps);
    // Unlike Euler, which stretches the chosen grid, these span the whole schedule.
    let (highest, lowest) = (f64::from(table[table.len() - 1]), f64::from(table[0]));
    let sigmas = if setup.kind.karras {
        grid::karras(highest, lowest, steps)
    } else if config.flag("use_lu_lambdas", false)? || config.flag("use_exponential_sigmas", false)? {
        grid::exponential(highest, lowest.max(f64::MIN_POSITIVE), steps)
    } else {
        let timesteps = spaced_timesteps(setup, table)?;
        let sigmas = timesteps.iter().map(|&t| grid::sigma_at(table, t)).collect();
        return Ok((timesteps, sigmas));
    };
    let exponential = !setup.kind.karras && !config.flag("use_lu_lambdas", false)?;
    let cosine = config.word("beta_schedule", "linear")? == "squaredcos_cap_v2";
    let whole = |t: f64| if cosine || exponential { t.trunc() } else { t.round_ties_even() };
    let timesteps = sigmas.iter().map(|&sigma| whole(grid::timestep_of(table, sigma))).collect();
    Ok((timesteps, sigmas))
}

/// `steps` of `steps + 1` evenly spaced timesteps: the last is where the final noise level takes over.
fn spaced_timesteps(setup: &Setup<'_>, table: &[f32]) -> Result<Vec<f64>> {
    let (train, steps) = (table.len(), setup.options.steps);
    // Levels with less signal than `lambda_min_clipped` are left out: cosine schedules end too near to pure noise.
    let least = setup.config.number("lambda_min_clipped", f64::NEG_INFINITY)?;
    let usable = table.iter().filter(|&&sigma| -f64::from(sigma).ln() >= least).count();
    if usable < 2 && usable < train {
        return Err(SamplerError::setting("lambda_min_clipped", "a level that the schedule has", least));
    }
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
fn signal_and_spread(sigma: f64) -> (f64, f64) {
    let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
    (signal, sigma * signal)
}

impl DpmSolver {
    fn picture(&self, sigma: f64, output: &[f32], latents: &[f32]) -> Vec<f32> {
        let (signal, spread) = signal_and_spread(sigma);
        match self.prediction {
            PredictionType::Epsilon => combine([(1.0 / signal, latents), (-spread / signal, output)]),
            PredictionType::VPrediction => combine([(signal, latents), (-spread, output)]),
            PredictionType::Sample => output.to_vec(),
        }
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
        self.order.min(self.pictures.len()).min(allowed).min(call + 1)
    }

    /// ln of the ratio of the noise levels before and after call `call`.
    fn log_ratio(&self, call: usize) -> f64 {
        (self.sigmas[call] / self.sigmas[call + 1]).ln()
    }

    fn advance(&self, call: usize, latents: &[f32]) -> Vec<f32> {
        let (sigma, after) = (self.sigmas[call], self.sigmas[call + 1]);
        if sigma == after {
            return latents.to_vec(); // two equal levels: rounding gave the same timestep twice
        }
        let (signal, spread) = signal_and_spread(after);
        let keep = spread / signal_and_spread(sigma).1;
        let shrink = after / sigma - 1.0; // e^-h - 1
        let newest = self.pictures.len() - 1;
        let m0 = &self.pictures[newest];
        let first_order = || combine([(keep, latents), (-signal * shrink, m0)]);
        let order = self.order_at(call);
        if order == 1 {
            return first_order();
        }
        let (h, h_before) = (self.log_ratio(call), self.log_ratio(call - 1));
        let m1 = &self.pictures[newest - 1];
        let curve = signal * (shrink / h + 1.0);
        if h_before == 0.0 {
            return first_order(); // no slope between two predictions at one level
        }
        if order == 2 {
            let of_slope = if self.heun { curve } else { -0.5 * signal * shrink };
            let slope = of_slope * h / h_before;
            return combine([(keep, latents), (-signal * shrink + slope, m0), (-slope, m1)]);
        }
        let h_earlier = self.log_ratio(call - 2);
        if h_earlier == 0.0 {
            return first_order();
        }
        let m2 = &self.pictures[newest - 2];
        let (r0, r1) = (h_before / h, h_earlier / h);
        // D1 = s0 + r0 / (r0 + r1) (s0 - s1),  D2 = (s0 - s1) / (r0 + r1),  with the two slopes
        // s0 = (m0 - m1) / r0 and s1 = (m1 - m2) / r1.
        let bend = -signal * ((shrink + h) / (h * h) - 0.5);
        let of_difference = (curve * r0 + bend) / (r0 + r1);
        let (of_s0, of_s1) = ((curve + of_difference) / r0, -of_difference / r1);
        combine([(keep, latents), (-signal * shrink + of_s0, m0), (of_s1 - of_s0, m1), (-of_s1, m2)])
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
        _noise: &mut NoiseSource<'_>,
    ) -> Result<Vec<f32>> {
        check_call(call, self.timesteps.len())?;
        check_length("the model's output", model_output, latents)?;
        if let Some(before) = self.pictures.last() {
            check_length("the prediction before", before, latents)?;
        }
        if self.pictures.len() == self.order {
            self.pictures.remove(0);
        }
        self.pictures.push(self.picture(self.sigmas[call], model_output, latents));
        Ok(self.advance(call, latents))
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.timesteps.len())?;
        mix(signal_and_spread(self.sigmas[call]), original, noise)
    }
}
