//! How two adapters differ: modules, kinds, ranks, alphas, and how far their changes are apart.
//!
//! ```text
//! cosine   = <dA, dB> / (|dA| |dB|)            distance = |dA - dB| / |dA|
//! <uA dA, uB dB> = sum_ij (uA^T uB)_ij (dA dB^T)_ij       |uA dA - uB dB| = |R_u R_d^T|  of  [uA, -uB] and [dA; dB]
//! ```
//!
//! Plain pairs are compared by their factors; the distance goes through QR, as a difference of norms would lose half
//! of the digits where the adapters are nearly the same. Other kinds are multiplied out, one module a thread.
//!
//! ```
//! use scumble_adapter::{Adapter, diff::difference};
//! use scumble_tensor::Tensor;
//!
//! let column = |numbers: &[f32]| Tensor::from_slice(numbers, &[2, 1]);
//! let down = Tensor::from_slice(&[3.0f32, 4.0], &[1, 2])?;
//! let (mut a, mut b) = (Adapter::default(), Adapter::default());
//! a.insert("unet.conv_in", down.clone(), column(&[1.0, 0.0])?, 1.0)?;
//! b.insert("unet.conv_in", down, column(&[0.0, 1.0])?, 1.0)?;
//!
//! // The same size at a right angle.
//! let found = difference(&a, &b, 1)?;
//! assert!(!found.same && found.norms == [Some(5.0), Some(5.0)]);
//! assert!(found.cosine.is_some_and(|cosine| cosine.abs() < 1e-12));
//! assert!(found.distance.is_some_and(|distance| (distance - 2f64.sqrt()).abs() < 1e-12));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::adapter::{Adapter, Change, LowRankFactors, ModuleFactors};
use crate::dialect::family::with_file;
use crate::dialect::{LoadReport, gather};
use crate::error::{AdapterError, Result};
use crate::inspect::measure::norm_of;
use crate::inspect::read_unjudged;
use crate::linalg::Matrix;
use crate::linalg::matrix::dot;
use crate::linalg::qr::Qr;
use crate::parallel;
use crate::table::ModuleTable;

/// Two adapters compared.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Whether modules, tokens and every number in them are the same.
    pub same: bool,
    /// Cosine of the angle between the whole changes; none if one of them is zero or not finite.
    pub cosine: Option<f64>,
    /// `|dA - dB| / |dA|` over all modules; none if the first is zero or one is not finite.
    pub distance: Option<f64>,
    /// Norms of both changes.
    pub norms: [Option<f64>; 2],
    /// Modules that only the first has.
    pub only_first: Vec<String>,
    /// Modules that only the second has.
    pub only_second: Vec<String>,
    /// Modules that both have.
    pub modules: Vec<ModuleDifference>,
    /// Tokens of either.
    pub tokens: Vec<TokenDifference>,
    /// Metadata entries that differ, or that one of them lacks.
    pub metadata: Vec<String>,
}

/// A module that both have.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleDifference {
    /// Its path.
    pub path: String,
    /// Whether its tensors are the same, byte for byte, and alpha too.
    pub same: bool,
    /// What is not alike, such as `rank 4 and 8`.
    pub unlike: Vec<String>,
    /// As [`Difference::cosine`].
    pub cosine: Option<f64>,
    /// As [`Difference::distance`].
    pub distance: Option<f64>,
    /// Norms of both changes.
    pub norms: [Option<f64>; 2],
    #[serde(skip)]
    inner: f64,
    #[serde(skip)]
    apart: f64,
}

/// A token of either.
#[derive(Clone, Debug, Serialize)]
pub struct TokenDifference {
    /// Its text.
    pub token: String,
    /// Which has it: `first`, `second` or `both`.
    pub of: &'static str,
    /// As [`Difference::cosine`], of all rows together.
    pub cosine: Option<f64>,
    /// As [`Difference::distance`].
    pub distance: Option<f64>,
}

/// Reads two files for the base of the first; their numbers are not judged. Errors if the second is for another base.
pub fn load_pair(
    first: &Path,
    second: &Path,
    base: Option<&ModuleTable>,
) -> Result<[(Adapter, LoadReport); 2]> {
    let (a, report_a, table) = read_unjudged(first, base)?;
    let (b, report_b) = with_file(second, &table, |dialect, file| {
        let gathered = gather(dialect, file, &table)?;
        Ok((gathered.adapter, gathered.report))
    })?;
    if b.is_empty() || (report_b.modules + report_b.tokens == 0 && !report_b.is_complete()) {
        let left = report_b.misfits.iter().chain(&report_b.unmatched);
        return Err(AdapterError::WrongBase {
            faults: left.map(|left| format!("{}: {}", left.name, left.reason)).collect(),
            guess: Some(format!(
                "`{}` is for another base than `{}`, and changes of different sizes cannot be compared",
                second.display(),
                first.display()
            )),
        });
    }
    Ok([(a, report_a), (b, report_b)])
}

/// Compares two adapters for one base. `threads` does not change the result.
pub fn difference(first: &Adapter, second: &Adapter, threads: usize) -> Result<Difference> {
    let common: Vec<(&String, &ModuleFactors, &ModuleFactors)> = first
        .modules
        .iter()
        .filter_map(|(path, factors)| Some((path, factors, second.modules.get(path)?)))
        .collect();
    let modules = parallel::map(threads, &common, &|_| (), |(path, a, b)| compare(path, a, b))?;
    let alone = |of: &Adapter, other: &Adapter| -> Result<(Vec<String>, Option<f64>)> {
        let alone = of.modules.iter().filter(|(path, _)| !other.modules.contains_key(*path));
        let alone: Vec<(&String, &ModuleFactors)> = alone.collect();
        let norms = parallel::map(threads, &alone, &|_| (), |(_, factors)| norm_of_module(factors))?;
        let squares = norms.into_iter().map(|norm| norm.map(|norm| norm * norm)).sum();
        Ok((alone.into_iter().map(|(path, _)| path.clone()).collect(), squares))
    };
    let (only_first, squares_first) = alone(first, second)?;
    let (only_second, squares_second) = alone(second, first)?;
    let squares = |index: usize| -> Option<f64> {
        modules.iter().map(|module| module.norms[index].map(|norm| norm * norm)).sum()
    };
    let totals = [
        squares(0).zip(squares_first).map(|(common, alone)| (common + alone).sqrt()),
        squares(1).zip(squares_second).map(|(common, alone)| (common + alone).sqrt()),
    ];
    let inner: f64 = modules.iter().map(|module| module.inner).sum();
    let apart: f64 = modules.iter().map(|module| module.apart * module.apart).sum();
    let apart = squares_first.zip(squares_second).map(|(a, b)| (apart + a + b).sqrt());
    let tokens = tokens(first, second)?;
    let same = only_first.is_empty()
        && only_second.is_empty()
        && modules.iter().all(|module| module.same)
        && tokens.iter().all(|token| token.of == "both" && token.distance == Some(0.0));
    Ok(Difference {
        same,
        cosine: cosine(inner, totals),
        distance: ratio(apart, totals[0]),
        norms: totals,
        only_first,
        only_second,
        modules,
        tokens,
        metadata: metadata(first, second),
    })
}

fn cosine(inner: f64, norms: [Option<f64>; 2]) -> Option<f64> {
    let length = norms[0]? * norms[1]?;
    (length > 0.0 && inner.is_finite()).then(|| (inner / length).clamp(-1.0, 1.0))
}

fn ratio(apart: Option<f64>, norm: Option<f64>) -> Option<f64> {
    let (apart, norm) = (apart?, norm?);
    if apart == 0.0 {
        return Some(0.0);
    }
    (norm > 0.0 && apart.is_finite()).then(|| apart / norm)
}

fn is_finite(factors: &ModuleFactors) -> Result<bool> {
    for (_, tensor) in factors.tensors() {
        if tensor.to_vec::<f32>()?.iter().any(|value| !value.is_finite()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Norm of the weight's change; none where numbers are not finite.
fn norm_of_module(factors: &ModuleFactors) -> Result<Option<f64>> {
    match factors.change() {
        _ if !is_finite(factors)? => Ok(None),
        Some(change) => norm_of(change).map(Some),
        None => Ok(Some(0.0)),
    }
}

fn compare(path: &str, a: &ModuleFactors, b: &ModuleFactors) -> Result<ModuleDifference> {
    let same = are_same(a, b)?;
    let norms = [norm_of_module(a)?, norm_of_module(b)?];
    let (inner, apart) = match norms {
        [Some(first), Some(_)] if same => (first * first, 0.0),
        [Some(first), Some(second)] => products(a, b, first, second)?,
        _ => (f64::NAN, f64::NAN),
    };
    Ok(ModuleDifference {
        path: path.into(),
        same,
        unlike: unlike(a, b),
        cosine: cosine(inner, norms),
        distance: ratio(Some(apart), norms[0]),
        norms,
        inner,
        apart,
    })
}

/// Byte for byte.
fn are_same(a: &ModuleFactors, b: &ModuleFactors) -> Result<bool> {
    let (tensors_a, tensors_b) = (a.tensors(), b.tensors());
    let alike = tensors_a.len() == tensors_b.len()
        && a.kind() == b.kind()
        && a.change().and_then(Change::alpha) == b.change().and_then(Change::alpha);
    if !alike {
        return Ok(false);
    }
    for ((part_a, a), (part_b, b)) in tensors_a.into_iter().zip(tensors_b) {
        let same = part_a == part_b && a.dtype() == b.dtype() && a.dims() == b.dims();
        if !same || a.bytes()? != b.bytes()? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn unlike(a: &ModuleFactors, b: &ModuleFactors) -> Vec<String> {
    let mut unlike = Vec::new();
    if a.kind() != b.kind() {
        unlike.push(format!("{} and {}", a.kind(), b.kind()));
    }
    let shown = |value: Option<String>| value.unwrap_or_else(|| "none".into());
    let ranks = [a.rank(), b.rank()];
    if ranks[0] != ranks[1] {
        let [first, second] = ranks.map(|rank| shown(rank.map(|rank| rank.to_string())));
        unlike.push(format!("rank {first} and {second}"));
    }
    let alphas = [a, b].map(|factors| factors.change().and_then(Change::alpha));
    if alphas[0] != alphas[1] {
        let [first, second] = alphas.map(|alpha| shown(alpha.map(|alpha| alpha.to_string())));
        unlike.push(format!("alpha {first} and {second}"));
    }
    let types = [a, b].map(|factors| factors.tensors().first().map(|(_, tensor)| tensor.dtype()));
    if types[0] != types[1] {
        let [first, second] = types.map(|dtype| shown(dtype.map(|dtype| dtype.to_string())));
        unlike.push(format!("{first} and {second}"));
    }
    unlike
}

/// Inner product and distance of two finite changes.
fn products(a: &ModuleFactors, b: &ModuleFactors, norm_a: f64, norm_b: f64) -> Result<(f64, f64)> {
    match (a.change(), b.change()) {
        (Some(Change::LowRank(a)), Some(Change::LowRank(b))) if comparable(a, b) => of_pairs(a, b),
        (Some(a), Some(b)) => {
            let (a, b) = (a.delta()?.to_vec::<f64>()?, b.delta()?.to_vec::<f64>()?);
            if a.len() != b.len() {
                return Ok((f64::NAN, f64::NAN));
            }
            let apart = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            Ok((dot(&a, &b), apart.sqrt()))
        }
        (Some(_), None) => Ok((0.0, norm_a)),
        (None, _) => Ok((0.0, norm_b)),
    }
}

fn comparable(a: &LowRankFactors, b: &LowRankFactors) -> bool {
    let size = |pair: &LowRankFactors| (pair.up().shape().first(), pair.down().numel() / pair.rank());
    size(a) == size(b)
}

fn of_pairs(a: &LowRankFactors, b: &LowRankFactors) -> Result<(f64, f64)> {
    let factors = |pair: &LowRankFactors, sign: f64| -> Result<(Matrix, Matrix)> {
        let mut up = Matrix::from_tensor(pair.up())?;
        up.scale(sign * f64::from(pair.scale()));
        Ok((up, Matrix::transposed_from(pair.down())?))
    };
    let ((up_a, down_a), (up_b, down_b)) = (factors(a, 1.0)?, factors(b, -1.0)?);
    let (ups, downs) = (up_a.transposed_times(&up_b), down_a.transposed_times(&down_b));
    let inner = -dot(ups.values(), downs.values());
    let (up, down) = (up_a.beside(&up_b), down_a.beside(&down_b));
    let core = Qr::new(up).r().times(&Qr::new(down).r().transposed());
    Ok((inner, core.sum_squares().sqrt()))
}

fn tokens(first: &Adapter, second: &Adapter) -> Result<Vec<TokenDifference>> {
    let all = [first, second].map(|adapter| adapter.tokens.keys().chain(adapter.tokens_2.keys()));
    let names: BTreeSet<&String> = all.into_iter().flatten().collect();
    names
        .into_iter()
        .map(|token| {
            let rows = |adapter: &Adapter| -> Result<Option<Vec<f64>>> {
                let towers = [adapter.tokens.get(token), adapter.tokens_2.get(token)];
                if towers.iter().all(Option::is_none) {
                    return Ok(None);
                }
                let mut rows = Vec::new();
                for tower in towers.into_iter().flatten() {
                    rows.extend(tower.to_vec::<f64>()?);
                }
                Ok(Some(rows))
            };
            let (a, b) = (rows(first)?, rows(second)?);
            let of = match (&a, &b) {
                (Some(_), Some(_)) => "both",
                (Some(_), None) => "first",
                _ => "second",
            };
            let pair = a.zip(b).filter(|(a, b)| a.len() == b.len());
            let figures = pair.map(|(a, b)| {
                let length = |rows: &[f64]| Some(dot(rows, rows).sqrt());
                let apart = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
                let norms = [length(&a), length(&b)];
                (cosine(dot(&a, &b), norms), ratio(Some(apart), norms[0]))
            });
            let (cosine, distance) = figures.unwrap_or((None, None));
            Ok(TokenDifference { token: token.clone(), of, cosine, distance })
        })
        .collect()
}

fn metadata(first: &Adapter, second: &Adapter) -> Vec<String> {
    let keys: BTreeSet<&String> = first.metadata.keys().chain(second.metadata.keys()).collect();
    let differs = |key: &&&String| first.metadata.get(**key) != second.metadata.get(**key);
    keys.iter().filter(differs).map(|key| (*key).clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::rng::stream;
    use scumble_tensor::{DType, Tensor};

    fn random(name: &str, dims: &[usize]) -> Tensor {
        let numbers = stream(3, name).randn(dims.iter().product());
        Tensor::from_slice(&numbers, dims).unwrap()
    }

    fn adapter(name: &str, rank: usize, alpha: f32) -> Adapter {
        let mut adapter = Adapter::default();
        for path in ["unet.a", "unet.b"] {
            let (down, up) = (format!("{name}{path}d"), format!("{name}{path}u"));
            adapter.insert(path, random(&down, &[rank, 9]), random(&up, &[7, rank]), alpha).unwrap();
        }
        adapter
    }

    /// By the dense deltas.
    fn dense(a: &Adapter, b: &Adapter) -> (f64, f64) {
        let all = |adapter: &Adapter| -> Vec<f64> {
            let deltas = adapter.low_rank().map(|(_, pair)| pair.delta().unwrap().to_vec::<f64>().unwrap());
            deltas.flatten().collect()
        };
        let (a, b) = (all(a), all(b));
        let apart: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
        let lengths = (dot(&a, &a).sqrt(), dot(&b, &b).sqrt());
        (dot(&a, &b) / lengths.0 / lengths.1, apart.sqrt() / lengths.0)
    }

    #[test]
    fn factors_tell_what_dense_deltas_tell() {
        let (a, b) = (adapter("a", 3, 2.0), adapter("b", 5, 1.5));
        let found = difference(&a, &b, 2).unwrap();
        let (cosine, distance) = dense(&a, &b);
        assert!((found.cosine.unwrap() - cosine).abs() < 1e-6, "{:?} {cosine}", found.cosine);
        assert!((found.distance.unwrap() - distance).abs() < 1e-6, "{:?} {distance}", found.distance);
        assert_eq!(found.modules[0].unlike, ["rank 3 and 5", "alpha 2 and 1.5"]);
        assert!(!found.same);
    }

    #[test]
    fn the_same_is_the_same_and_a_little_is_seen() {
        let a = adapter("a", 3, 3.0);
        let found = difference(&a, &a.clone(), 1).unwrap();
        assert!(found.same && found.distance == Some(0.0), "{found:?}");
        assert!((found.cosine.unwrap() - 1.0).abs() < 1e-12);
        let mut nearly = adapter("a", 3, 3.0);
        let pair = nearly.modules["unet.a"].low_rank().unwrap().clone();
        let up = Tensor::from_slice(
            &pair.up().to_vec::<f64>().unwrap().iter().map(|v| v * (1.0 + 1e-10)).collect::<Vec<_>>(),
            pair.up().dims(),
        )
        .unwrap();
        let down = pair.down().to_dtype(DType::F64).unwrap();
        nearly.insert("unet.a", down, up, 3.0).unwrap();
        let distance = difference(&a, &nearly, 1).unwrap().modules[0].distance.unwrap();
        assert!((distance - 1e-10).abs() < 1e-12, "{distance}");
    }

    #[test]
    fn what_only_one_has_counts_as_a_change_of_zero_in_the_other() {
        let (a, mut b) = (adapter("a", 2, 2.0), adapter("a", 2, 2.0));
        b.modules.remove("unet.b");
        b.tokens.insert("<s1>".into(), random("t", &[1, 4]));
        let found = difference(&a, &b, 1).unwrap();
        assert_eq!((found.only_first.len(), found.only_second.len()), (1, 0));
        let whole = found.norms[0].unwrap();
        let missing = norm_of_module(&a.modules["unet.b"]).unwrap().unwrap();
        assert!((found.distance.unwrap() - missing / whole).abs() < 1e-12);
        assert_eq!((found.tokens[0].of, found.same), ("second", false));
        let nothing = difference(&Adapter::default(), &b, 1).unwrap();
        assert_eq!((nothing.cosine, nothing.distance), (None, None));
    }

    #[test]
    fn numbers_that_are_not_finite_give_no_figures() {
        let (a, mut b) = (adapter("a", 2, 2.0), adapter("b", 2, 2.0));
        let nan = Tensor::from_slice(&[f32::NAN; 14], &[7, 2]).unwrap();
        b.insert("unet.a", random("d", &[2, 9]), nan, 2.0).unwrap();
        let found = difference(&a, &b, 1).unwrap();
        assert_eq!((found.cosine, found.distance, found.norms[1]), (None, None, None));
        assert!(found.modules[1].cosine.is_some());
    }
}
