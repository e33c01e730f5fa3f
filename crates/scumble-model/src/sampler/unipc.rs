//! UniPC (Zhao et al. 2023, arXiv 2302.04867): a predictor of DPM-Solver's kind, and a corrector that improves the
//! step before with the prediction that the next call needs anyway.
//!
//! ```text
//! x' = s'/s x - alpha' e1 m0 - alpha' B (sum_k rho_k (m_k - m0) / r_k  [+ rho_c (m' - m0)])
//! e1 = e^-h - 1,  B = e1 (bh2) or -h (bh1),  r_k = (lambda_k - lambda_0) / h,  m = predicted pictures
//! ```
//!
//! The `rho` solve `sum_k r_k^(i-1) rho_k = i! phi_i / B`; for the predictor of order 2 and the corrector of order 1
//! they are 1/2. With `predict_x0` false the same in the predicted noise: alpha and s, and h and -h, change places.

use super::dpmpp_2m::{picture_or_noise, signal_and_spread, spaced_timesteps, whole_levels};
use super::{Levels, NoiseSource, Result, Sampler, SamplerError, Setup, check_call, check_length, grid, mix};
use crate::schedule::PredictionType;

struct UniPc {
    timesteps: Vec<f64>,
    /// One more than timesteps.
    sigmas: Vec<f64>,
    prediction: PredictionType,
    predict_picture: bool,
    linear_b: bool,
    order: usize,
    lower_order_final: bool,
    without_corrector: Vec<f64>,
    /// Predictions, newest last, at most `order`, with the call they were made at.
    predictions: Vec<(usize, Vec<f32>)>,
    /// The latents before the last predictor, and its order.
    last: Option<(Vec<f32>, usize)>,
}

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    for field in ["thresholding", "use_beta_sigmas", "use_flow_sigmas", "use_dynamic_shifting"] {
        config.refuse_flag(field)?;
    }
    if config.is_set("solver_p") {
        return Err(SamplerError::setting("solver_p", "null (another predictor is not built)", "set"));
    }
    let types = [("bh2", false), ("bh1", true), ("midpoint", false), ("heun", false), ("logrho", false)];
    let linear_b = config.choice("solver_type", "bh2", &types)?;
    let predict_picture = config.flag("predict_x0", true)?;
    let schedule = setup.sigma_schedule()?;
    let table = schedule.sigmas();
    let (timesteps, sigmas) = levels(setup, &table)?;
    if !predict_picture && sigmas.last() == Some(&0.0) {
        let expected = "sigma_min: predicted noise cannot be followed to sigma 0";
        return Err(SamplerError::setting("final_sigmas_type", expected, "zero"));
    }
    Ok(Box::new(UniPc {
        timesteps,
        sigmas,
        prediction: schedule.prediction_type(),
        predict_picture,
        linear_b,
        order: config.integer("solver_order", 2, 1..=4)? as usize,
        lower_order_final: config.flag("lower_order_final", true)?,
        without_corrector: config.numbers("disable_corrector")?.unwrap_or_default(),
        predictions: Vec::new(),
        last: None,
    }))
}

/// Timesteps and noise levels, the last level among them.
fn levels(setup: &Setup<'_>, table: &[f32]) -> Result<(Vec<f64>, Vec<f64>)> {
    let (config, steps) = (&setup.config, setup.options.steps);
    let highest = config.number("sigma_max", f64::from(table[table.len() - 1]))?;
    let lowest = config.number("sigma_min", f64::from(table[0]))?;
    if !(highest.is_finite() && lowest > 0.0 && lowest <= highest) {
        return Err(SamplerError::setting("sigma_min", "above 0 and at most `sigma_max`", lowest));
    }
    let (timesteps, sigmas, least) = match setup.levels {
        Levels::Karras => {
            let sigmas = grid::karras(highest, lowest, steps);
            (whole_levels(table, &sigmas, f64::round_ties_even), sigmas, lowest)
        }
        Levels::Exponential => {
            let sigmas = grid::exponential(highest, lowest, steps);
            (whole_levels(table, &sigmas, f64::trunc), sigmas, lowest)
        }
        Levels::Usual => {
            let timesteps = spaced_timesteps(setup, table, table.len())?;
            let sigmas = timesteps.iter().map(|&t| grid::sigma_at(table, t)).collect();
            (timesteps, sigmas, f64::from(table[0]))
        }
    };
    Ok((timesteps, grid::finished(setup, sigmas, least)?))
}

/// What a step of length h multiplies: everything of the module's formula but the differences.
struct Stride {
    of_latents: f64,
    /// `-alpha' e1`, the factor of `m0`.
    of_newest: f64,
    /// `-alpha' B`.
    of_differences: f64,
    /// The right-hand sides `i! phi_i / B`.
    targets: Vec<f64>,
}

impl UniPc {
    /// The stride from the level of call `from` to that of call `to`; `None` where the levels are equal.
    fn stride(&self, from: usize, to: usize, order: usize) -> Option<Stride> {
        let (sigma, after) = (self.sigmas[from], self.sigmas[to]);
        if sigma == after {
            return None;
        }
        let ((signal, spread), (signal_after, spread_after)) =
            (signal_and_spread(sigma), signal_and_spread(after));
        let (of_latents, share, h) = match self.predict_picture {
            true => (spread_after / spread, signal_after, -(sigma / after).ln()),
            false => (signal_after / signal, spread_after, (sigma / after).ln()),
        };
        let e1 = h.exp_m1();
        let b = if self.linear_b { h } else { e1 };
        let (mut phi, mut factorial, mut targets) = (e1 / h - 1.0, 1.0, Vec::with_capacity(order));
        for i in 1..=order {
            targets.push(phi * factorial / b);
            factorial *= (i + 1) as f64;
            phi = phi / h - 1.0 / factorial;
        }
        Some(Stride { of_latents, of_newest: -share * e1, of_differences: -share * b, targets })
    }

    /// The ratios `r_k` of the predictions before the newest, newest first; fewer than `order - 1` where two levels
    /// are equal.
    fn ratios(&self, from: usize, to: usize, order: usize) -> Vec<f64> {
        let lambda = |call: usize| -self.sigmas[call].ln();
        let h = lambda(to) - lambda(from);
        let before = self.predictions.iter().rev().skip(1).take(order - 1);
        before.map(|(call, _)| (lambda(*call) - lambda(from)) / h).take_while(|ratio| *ratio != 0.0).collect()
    }

    /// Latents moved from the level of call `from` to that of call `to`; `next` is the prediction there, for the
    /// corrector.
    fn moved(&self, from: usize, to: usize, order: usize, latents: &[f32], next: Option<&[f32]>) -> Vec<f32> {
        // To sigma 0 the way is infinitely long in lambda, where only the first order has a limit.
        let ratios = if self.sigmas[to] == 0.0 { Vec::new() } else { self.ratios(from, to, order) };
        let order = ratios.len() + 1;
        let (Some(stride), Some((_, newest))) = (self.stride(from, to, order), self.predictions.last())
        else {
            return latents.to_vec();
        };
        let weights = match next {
            None if order == 1 => Vec::new(),
            None if order == 2 => vec![0.5],
            None => solve(&ratios, &stride.targets[..order - 1]),
            Some(_) if order == 1 => vec![0.5],
            Some(_) => solve(&[ratios.as_slice(), &[1.0]].concat(), &stride.targets),
        };
        let factors: Vec<f64> = ratios
            .iter()
            .zip(&weights)
            .map(|(ratio, weight)| stride.of_differences * weight / ratio)
            .collect();
        let of_next = next.and(weights.last()).map_or(0.0, |weight| stride.of_differences * weight);
        let before: Vec<&[f32]> =
            self.predictions.iter().rev().skip(1).take(factors.len()).map(|(_, m)| m.as_slice()).collect();
        let moved = |(i, &x): (usize, &f32)| {
            let m0 = f64::from(newest[i]);
            let mut sum = stride.of_latents * f64::from(x) + stride.of_newest * m0;
            for (factor, m) in factors.iter().zip(&before) {
                sum += factor * (f64::from(m[i]) - m0);
            }
            if let Some(next) = next {
                sum += of_next * (f64::from(next[i]) - m0);
            }
            sum as f32
        };
        latents.iter().enumerate().map(moved).collect()
    }
}

/// Solves `sum_k r_k^i x_k = b_i` for i from 0, a Vandermonde system of at most four unknowns.
fn solve(ratios: &[f64], targets: &[f64]) -> Vec<f64> {
    let n = ratios.len();
    let row = |i: usize| ratios.iter().map(|r| r.powi(i as i32)).chain([targets[i]]).collect();
    let mut rows: Vec<Vec<f64>> = (0..n).map(row).collect();
    for column in 0..n {
        let largest = (column..n).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()));
        rows.swap(column, largest.unwrap_or(column));
        let pivot = rows[column].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(index, _)| *index != column) {
            let factor = row[column] / pivot[column];
            row.iter_mut().zip(&pivot).for_each(|(value, above)| *value -= factor * above);
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}

impl Sampler for UniPc {
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
        if let Some((_, before)) = self.predictions.last() {
            check_length("the prediction before", before, latents)?;
        }
        let newest =
            picture_or_noise(self.prediction, self.predict_picture, self.sigmas[call], model_output, latents);
        // A call out of turn has nothing to correct.
        let in_turn = call > 0 && self.predictions.last().is_some_and(|(made, _)| made + 1 == call);
        if !in_turn {
            self.predictions.clear();
        }
        let corrected = match &self.last {
            Some((before, order)) if in_turn && !self.without_corrector.contains(&(call as f64 - 1.0)) => {
                self.moved(call - 1, call, *order, before, Some(&newest))
            }
            _ => latents.to_vec(),
        };
        if self.predictions.len() == self.order {
            self.predictions.remove(0);
        }
        self.predictions.push((call, newest));
        let left = if self.lower_order_final { self.timesteps.len() - call } else { self.order };
        let order = self.order.min(left).min(self.predictions.len());
        let next = self.moved(call, call + 1, order, &corrected, None);
        self.last = Some((corrected, order));
        Ok(next)
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.timesteps.len())?;
        mix(signal_and_spread(self.sigmas[call]), original, noise)
    }
}
