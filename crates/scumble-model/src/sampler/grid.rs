//! The grids that samplers walk: timesteps by spacing, noise levels by interpolation or Karras' rule.
//!
//! ```text
//! leading   t_i = i * (T / n) + offset          trailing  t_i = round(T - i * T / n) - 1
//! linspace  n points from 0 to T - 1            Karras    (max^(1/7) + g (min^(1/7) - max^(1/7)))^7, g in 0..1
//! ```
//!
//! Roundings follow NumPy's (ties to even, `arange` by repeated difference), because a timestep that is one off is
//! another picture.

use super::{Result, Setup};
use crate::scheduler_config::ConfigError;

/// Exponent of Karras et al. 2022 (arXiv 2206.00364).
const RHO: f64 = 7.0;

/// How timesteps are chosen from the training timesteps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

impl Spacing {
    pub(super) fn of(setup: &Setup<'_>, default: &'static str) -> std::result::Result<Self, ConfigError> {
        let table = [("leading", Self::Leading), ("trailing", Self::Trailing), ("linspace", Self::Linspace)];
        setup.config.choice("timestep_spacing", default, &table)
    }
}

/// The configuration's `steps_offset`.
pub(super) fn steps_offset(setup: &Setup<'_>) -> std::result::Result<i64, ConfigError> {
    setup.config.integer("steps_offset", 0, 0..=100_000)
}

/// `n` timesteps, largest first; those of `linspace` are fractional.
pub(super) fn timesteps(spacing: Spacing, train: usize, n: usize, offset: i64) -> Vec<f64> {
    match spacing {
        Spacing::Leading => (0..n).rev().map(|i| (i * (train / n)) as f64 + offset as f64).collect(),
        Spacing::Trailing => trailing(train as f64, train as f64 / n as f64, n),
        Spacing::Linspace => linspace(0.0, (train - 1) as f64, n).into_iter().rev().collect(),
    }
}

/// Rounds to whole timesteps, and shifts all down together where `steps_offset` pushed the first past the last
/// training timestep (as 1000 steps of 1000 with offset 1 do).
pub(super) fn whole_timesteps(mut timesteps: Vec<f64>, train: usize) -> Vec<i64> {
    timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
    let excess = (timesteps.first().copied().unwrap_or(0.0) - (train - 1) as f64).max(0.0);
    timesteps.into_iter().map(|t| (t - excess) as i64).collect()
}

/// At most `n` timesteps from `last` down in steps of `step`, as `np.arange(last, 0, -step).round() - 1`.
pub(super) fn trailing(last: f64, step: f64, n: usize) -> Vec<f64> {
    let difference = (last - step) - last;
    let values = (0..n).map(|i| (last + i as f64 * difference).round_ties_even() - 1.0);
    values.filter(|&t| t >= 0.0).collect()
}

/// `np.linspace`: n points from `start` to `stop`, both included; one point is `start`.
pub(super) fn linspace(start: f64, stop: f64, n: usize) -> Vec<f64> {
    let step = (stop - start) / (n.max(2) - 1) as f64;
    (0..n).map(|i| if i > 0 && i == n - 1 { stop } else { i as f64 * step + start }).collect()
}

/// The noise level at a fractional timestep, linear between the table's entries and constant past its ends.
pub(super) fn sigma_at(table: &[f32], timestep: f64) -> f64 {
    let last = table.len() - 1;
    let below = timestep.floor().clamp(0.0, last as f64) as usize;
    let (low, high) = (f64::from(table[below]), f64::from(table[(below + 1).min(last)]));
    (high - low) * (timestep - below as f64).max(0.0) + low
}

/// Karras' n noise levels from `max` down to `min`.
pub(super) fn karras(max: f64, min: f64, n: usize) -> Vec<f64> {
    let (max, min) = (max.powf(1.0 / RHO), min.powf(1.0 / RHO));
    linspace(0.0, 1.0, n).into_iter().map(|ramp| (max + ramp * (min - max)).powf(RHO)).collect()
}

/// n noise levels evenly spaced in their logarithm.
pub(super) fn exponential(max: f64, min: f64, n: usize) -> Vec<f64> {
    linspace(max.ln(), min.ln(), n).into_iter().map(f64::exp).collect()
}

/// The fractional timestep of a noise level, interpolated between the table's logarithms.
pub(super) fn timestep_of(table: &[f32], sigma: f64) -> f64 {
    if table.len() < 2 {
        return 0.0;
    }
    let log = |sigma: f32| f64::from(f64::from(sigma).ln() as f32);
    let wanted = sigma.max(1e-10).ln();
    let below = table.partition_point(|&level| log(level) <= wanted).saturating_sub(1).min(table.len() - 2);
    let (low, high) = (log(table[below]), log(table[below + 1]));
    let weight = ((low - wanted) / (low - high)).clamp(0.0, 1.0);
    (1.0 - weight) * below as f64 + weight * (below + 1) as f64
}

/// Noise levels as samplers keep them: followed by the last one, and rounded to f32.
/// `least` is the last one where `final_sigmas_type` is `sigma_min`.
pub(super) fn finished(setup: &Setup<'_>, mut sigmas: Vec<f64>, least: f64) -> Result<Vec<f64>> {
    sigmas.push(setup.config.choice("final_sigmas_type", "zero", &[("zero", 0.0), ("sigma_min", least)])?);
    Ok(rounded(sigmas))
}

/// Each value rounded to the nearest f32.
pub(super) fn rounded(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|value| f64::from(value as f32)).collect()
}
