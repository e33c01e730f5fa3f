//! How many singular values to keep.
//!
//! ```text
//! fixed    k
//! energy   smallest k with  sum of the first k squares >= fraction * sum of all squares
//! norm     the same for the roots of the sums (the Frobenius norm): energy with the fraction squared
//! sum      smallest k with  sum of the first k values  >= fraction * sum of all values
//! ratio    the k values that are at least the largest divided by the ratio
//! ```
//!
//! `norm`, `sum` and `ratio` are what other tools call `sv_fro`, `sv_cumulative` and `sv_ratio`, without the one extra
//! rank that they add by counting from an index.

use crate::error::{AdapterError, Result};

/// Values below this fraction of the largest are lost in f32 rounding; the lossless rule drops them.
const ROUNDING: f64 = 1e-7;

/// A rule for the rank of a module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RankRule {
    /// All that is there: nothing is lost.
    #[default]
    Lossless,
    /// This rank, or less where less is lossless.
    Fixed(usize),
    /// A fraction of the energy.
    Energy(f64),
    /// A fraction of the Frobenius norm.
    Norm(f64),
    /// A fraction of the sum of singular values.
    Sum(f64),
    /// Values down to the largest divided by this.
    Ratio(f64),
}

impl RankRule {
    /// Errors on ranks and fractions that mean nothing.
    pub fn check(&self) -> Result<()> {
        let fault = |what: String| Err(AdapterError::Selection { what });
        match *self {
            RankRule::Fixed(0) => fault("rank 0 keeps nothing; use 1 or more".into()),
            RankRule::Energy(f) | RankRule::Norm(f) | RankRule::Sum(f) if !(f > 0.0 && f <= 1.0) => {
                fault(format!("{f} is no fraction to keep; use more than 0 and at most 1"))
            }
            RankRule::Ratio(r) if !(r >= 1.0 && r.is_finite()) => {
                fault(format!("a ratio of {r} keeps nothing; use 1 or more"))
            }
            _ => Ok(()),
        }
    }

    /// The rank for singular `values` (falling, positive); 0 only if there are none.
    pub fn rank(&self, values: &[f64]) -> usize {
        let lossless = values.iter().take_while(|&&value| value > values[0] * ROUNDING).count();
        let rank = match *self {
            RankRule::Lossless => lossless,
            RankRule::Fixed(rank) => rank,
            RankRule::Energy(fraction) => reaching(values, fraction, |value| value * value),
            RankRule::Norm(fraction) => reaching(values, fraction * fraction, |value| value * value),
            RankRule::Sum(fraction) => reaching(values, fraction, |value| value),
            RankRule::Ratio(ratio) => values.iter().take_while(|&&value| value >= values[0] / ratio).count(),
        };
        rank.min(lossless)
    }
}

/// How many values it takes until their measures sum to `fraction` of all.
pub(crate) fn reaching(values: &[f64], fraction: f64, measure: impl Fn(f64) -> f64) -> usize {
    let total: f64 = values.iter().map(|&value| measure(value)).sum();
    let mut sum = 0.0;
    let reached = values.iter().position(|&value| {
        sum += measure(value);
        sum >= fraction * total
    });
    reached.map_or(values.len(), |index| index + 1)
}

/// What rounding the rank did to one module.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleLoss {
    /// The module.
    pub path: String,
    /// Rank of what was asked for (`None`: a dense difference).
    pub rank_before: Option<usize>,
    /// Rank of what is kept.
    pub rank: usize,
    /// Frobenius norm of what was asked for.
    pub norm: f64,
    /// Frobenius norm of the difference between it and what is kept.
    pub error: f64,
}

impl ModuleLoss {
    /// Kept fraction of the energy, 0 to 1; a zero change is kept whole.
    pub fn kept(&self) -> f64 {
        kept(self.norm * self.norm, self.error * self.error)
    }
}

/// The losses of all modules of an operation, in path order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossReport {
    /// One entry a module.
    pub modules: Vec<ModuleLoss>,
    /// How far storing moved the factors of a module at most, as a part of their norm. The errors of merging and resizing
    /// are without it; those of extracting are measured on what is stored, and this is 0.
    pub rounding: f64,
}

impl LossReport {
    /// Kept fraction of the whole adapter's energy.
    pub fn kept(&self) -> f64 {
        let sum = |part: fn(&ModuleLoss) -> f64| self.modules.iter().map(|m| part(m).powi(2)).sum::<f64>();
        kept(sum(|m| m.norm), sum(|m| m.error))
    }

    /// The module that lost the largest fraction, if any lost anything.
    pub fn worst(&self) -> Option<&ModuleLoss> {
        let worst = self.modules.iter().min_by(|a, b| a.kept().total_cmp(&b.kept()))?;
        (worst.kept() < 1.0).then_some(worst)
    }

    /// The smallest and largest rank.
    pub fn ranks(&self) -> Option<(usize, usize)> {
        let ranks = || self.modules.iter().map(|module| module.rank);
        Some((ranks().min()?, ranks().max()?))
    }
}

fn kept(total: f64, lost: f64) -> f64 {
    if total > 0.0 { (1.0 - lost / total).clamp(0.0, 1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_on_known_values() {
        // Squares 16, 4, 1, 1 (sum 22), values sum to 8.
        let values = [4.0, 2.0, 1.0, 1.0, 4e-8];
        let cases = [
            (RankRule::Lossless, 4),
            (RankRule::Fixed(2), 2),
            (RankRule::Fixed(9), 4),
            (RankRule::Energy(0.7), 1),
            (RankRule::Energy(0.9), 2),
            (RankRule::Energy(1.0), 4),
            (RankRule::Norm(0.85), 1),
            (RankRule::Norm(0.86), 2),
            (RankRule::Sum(0.49), 1),
            (RankRule::Sum(0.6), 2),
            (RankRule::Ratio(2.0), 2),
            (RankRule::Ratio(4.0), 4),
        ];
        for (rule, rank) in cases {
            assert_eq!(rule.rank(&values), rank, "{rule:?}");
        }
        assert_eq!(RankRule::Fixed(3).rank(&[]), 0);
        for bad in [RankRule::Fixed(0), RankRule::Energy(0.0), RankRule::Norm(1.1), RankRule::Sum(f64::NAN)] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(RankRule::Ratio(0.5).check().is_err() && RankRule::Energy(1.0).check().is_ok());
    }

    #[test]
    fn losses_add_up() {
        let module = |path: &str, norm, error| ModuleLoss {
            path: path.into(),
            rank_before: None,
            rank: 1,
            norm,
            error,
        };
        let report =
            LossReport { modules: vec![module("a", 3.0, 0.0), module("b", 4.0, 2.0)], rounding: 0.0 };
        assert!((report.kept() - 0.84).abs() < 1e-12);
        assert_eq!(report.worst().unwrap().path, "b");
        assert_eq!(LossReport { modules: vec![module("a", 0.0, 0.0)], rounding: 0.0 }.worst(), None);
    }
}
