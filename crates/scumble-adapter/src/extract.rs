//! The difference of two models as an adapter.
//!
//! ```text
//! D = W_tuned - W_base   (convolutions as [out, in * kh * kw]);      up @ down = the best approximation of D of a rank
//! ```
//!
//! One module is in memory at a time and thread, in f32; weights are read from their files when their turn comes. The
//! approximation is the range finder's ([`crate::linalg::sketch`]), within a thousandth of the best error. The error
//! that is reported is measured on the factors as they are stored, clamped and rounded.
//!
//! ```
//! use scumble_adapter::dialect::MemorySource;
//! use scumble_adapter::extract::{ExtractOptions, TowerPair, extract, table_of};
//! use scumble_adapter::{Tower, linalg::sketch::Keep};
//! use scumble_tensor::{Tensor, reference::ReferenceBackend};
//!
//! let model = |numbers: &[f32; 6]| -> Result<MemorySource, scumble_tensor::Error> {
//!     let weight = ("conv_in.weight".to_owned(), Tensor::from_slice(numbers, &[2, 3])?);
//!     Ok(MemorySource { tensors: [weight].into(), ..MemorySource::default() })
//! };
//! let (base, tuned) = (model(&[1.0; 6])?, model(&[2.0, 3.0, 4.0, 3.0, 5.0, 7.0])?);
//! let pairs = [TowerPair { tower: Tower::UNet, base: &base, tuned: &tuned }];
//! let table = table_of(&pairs);
//! let modules: Vec<_> = table.modules().iter().collect();
//!
//! // The difference is (1, 2) times (1, 2, 3): rank 1 holds it.
//! let keep = Keep::Rank(1);
//! let options = ExtractOptions { keep, clamp_quantile: None, dtype: None, seed: 0, threads: 1 };
//! let found = extract(&pairs, &modules, &options, &ReferenceBackend, &|_| ())?;
//! assert_eq!(found.adapter.ranks(), [1]);
//! assert!(found.report.kept() > 0.999_999);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cmp::Reverse;
use std::collections::BTreeSet;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use scumble_model::files::TensorSource;
use scumble_tensor::rng::stream;
use scumble_tensor::{Backend, DType, Tensor};

use crate::adapter::{Adapter, LowRankFactors};
use crate::error::{AdapterError, Result};
use crate::linalg::sketch::{Keep, Truncation, truncate};
use crate::merge::exact::to_factors;
use crate::merge::sparse::distance;
use crate::parallel::{self, OnDone};
use crate::rank::{LossReport, ModuleLoss};
use crate::table::{Module, ModuleKind, ModuleTable, Tower};

/// One tower of both models, tensors under diffusers' names.
pub struct TowerPair<'s> {
    /// Which tower.
    pub tower: Tower,
    /// Before tuning.
    pub base: &'s dyn TensorSource,
    /// After.
    pub tuned: &'s dyn TensorSource,
}

/// How to extract.
#[derive(Clone, Copy, Debug)]
pub struct ExtractOptions {
    /// Rank, or energy, of each module.
    pub keep: Keep,
    /// Clamp the factors `U S` and `V` to this quantile of all their values, as the original does with 0.99.
    pub clamp_quantile: Option<f64>,
    /// Element type of the factors; `None` is that of the tuned weights.
    pub dtype: Option<DType>,
    /// Seed of the range finder's start.
    pub seed: u64,
    /// Threads to use. The result does not depend on it.
    pub threads: usize,
}

/// An extracted adapter and what it leaves out.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The adapter: the modules that differ.
    pub adapter: Adapter,
    /// What the rank loses of each.
    pub report: LossReport,
    /// Modules asked for that are equal in both models.
    pub unchanged: usize,
    /// Tensors that differ and were not asked for, such as norms and biases.
    pub left_out: Vec<String>,
}

/// The linear layers and convolutions of the bases, by their weights' shapes.
pub fn table_of(pairs: &[TowerPair<'_>]) -> ModuleTable {
    let modules = pairs.iter().flat_map(|pair| {
        pair.base.names().into_iter().filter_map(|name| {
            let path = name.strip_suffix(".weight").filter(|path| !path.contains("embeddings."))?;
            let (kind, outputs, inputs) = match pair.base.info(&name)?.shape[..] {
                [outputs, inputs] => (ModuleKind::Linear, outputs, inputs),
                [outputs, inputs, kh, kw] => (ModuleKind::Conv { kernel: [kh, kw] }, outputs, inputs),
                _ => return None,
            };
            let path = format!("{}.{path}", pair.tower.prefix());
            (outputs * inputs > 0).then_some(Module { path, kind, inputs, outputs })
        })
    });
    ModuleTable::new(modules)
}

/// Extracts `modules`, which are of [`table_of`] the same pairs. As for [`crate::merge::merge`], a backend without
/// threads of its own is best.
pub fn extract(
    pairs: &[TowerPair<'_>],
    modules: &[&Module],
    options: &ExtractOptions,
    backend: &dyn Backend,
    on_done: OnDone<'_>,
) -> Result<Extracted> {
    check(modules, options)?;
    check_shapes(pairs)?;
    // The largest first, so that no thread ends with one alone.
    let mut order = modules.to_vec();
    order.sort_by_key(|module| (Reverse(module.weights()), module.path.clone()));
    let mut done = parallel::map(options.threads, &order, on_done, |module| {
        let (base, tuned) = weights_of(pairs, module)?;
        Ok((module.path.clone(), extract_module(module, &base, &tuned, options, backend)?))
    })?;
    done.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut extracted = Extracted {
        adapter: Adapter::default(),
        report: LossReport::default(),
        unchanged: 0,
        left_out: left_out(pairs, modules, options.threads)?,
    };
    for (path, result) in done {
        match result {
            Some((factors, loss)) => {
                extracted.adapter.modules.insert(path, factors.into());
                extracted.report.modules.push(loss);
            }
            None => extracted.unchanged += 1,
        }
    }
    Ok(extracted)
}

fn check(modules: &[&Module], options: &ExtractOptions) -> Result<()> {
    let fault = |what: String| Err(AdapterError::Selection { what });
    let most = modules.iter().map(|module| module.max_rank()).max().unwrap_or(0);
    match options.keep {
        Keep::Rank(0) | Keep::Energy { at_most: 0, .. } => {
            fault("rank 0 keeps nothing; use 1 or more".into())
        }
        Keep::Rank(rank) if rank > most => {
            fault(format!("rank {rank} is larger than any module can have; {most} is the most"))
        }
        Keep::Energy { fraction, .. } if !(fraction > 0.0 && fraction <= 1.0) => {
            fault(format!("{fraction} is no fraction to keep; use more than 0 and at most 1"))
        }
        _ => match options.clamp_quantile {
            Some(q) if !(q > 0.5 && q <= 1.0) => {
                fault(format!("a clamp quantile of {q} would cut most of the values; use 0.99 or so"))
            }
            _ => Ok(()),
        },
    }
}

/// Both models must have the same tensors in the same sizes.
fn check_shapes(pairs: &[TowerPair<'_>]) -> Result<()> {
    let mut faults = Vec::new();
    for pair in pairs {
        let path = |name: &str| format!("{}.{name}", pair.tower.prefix());
        for name in pair.base.names() {
            let (Some(base), tuned) = (pair.base.info(&name), pair.tuned.info(&name)) else { continue };
            match tuned {
                Some(tuned) if tuned.numel() == base.numel() && tuned.shape.first() == base.shape.first() => {
                }
                Some(tuned) => {
                    faults.push(format!("{}: base {:?}, tuned {:?}", path(&name), base.shape, tuned.shape));
                }
                // Old files carry a buffer that only counts.
                None if name.ends_with("position_ids") => {}
                None => faults.push(format!("{}: the tuned model has no such tensor", path(&name))),
            }
        }
        for name in pair.tuned.names() {
            if pair.base.info(&name).is_none() && !name.ends_with("position_ids") {
                faults.push(format!("{}: the base has no such tensor", path(&name)));
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(AdapterError::DifferentModels { faults }) }
}

/// The weights of a module in both models.
fn weights_of(pairs: &[TowerPair<'_>], module: &Module) -> Result<(Tensor, Tensor)> {
    let name = format!("{}.weight", module.local_path());
    let pair = pairs.iter().find(|pair| Tower::of(&module.path) == Some(pair.tower)).ok_or_else(|| {
        AdapterError::Selection { what: format!("{}: neither model has this tower", module.path) }
    })?;
    Ok((pair.base.read(&name)?, pair.tuned.read(&name)?))
}

fn extract_module(
    module: &Module,
    base: &Tensor,
    tuned: &Tensor,
    options: &ExtractOptions,
    backend: &dyn Backend,
) -> Result<Option<(LowRankFactors, ModuleLoss)>> {
    let dims = [module.outputs, module.weights() / module.outputs];
    let delta = difference(base, tuned)?.reshape(&dims)?;
    let squares = backend.sum_squares(&backend.upload(&delta)?)?;
    if !squares.is_finite() {
        let bad = |tensor: &Tensor| -> Result<usize> {
            Ok(tensor.to_vec::<f32>()?.iter().filter(|value| !value.is_finite()).count())
        };
        let (in_base, in_tuned) = (bad(base)?, bad(tuned)?);
        let part = if in_base > 0 { "the base's weight" } else { "the tuned weight" };
        return Err(AdapterError::NotFinite {
            module: module.path.clone(),
            part,
            count: in_base.max(in_tuned),
        });
    }
    if squares == 0.0 {
        return Ok(None);
    }
    let keep = match options.keep {
        Keep::Rank(rank) => Keep::Rank(rank.min(module.max_rank())),
        energy => energy,
    };
    let found = truncate(&delta, keep, stream(options.seed, &module.path), backend)?;
    let dtype =
        options.dtype.unwrap_or_else(|| if tuned.dtype() == DType::F64 { DType::F32 } else { tuned.dtype() });
    let factors = stored(module, found, options.clamp_quantile)?.to_dtype(dtype)?;
    let error = distance(&delta, &factors, backend)?;
    if !error.is_finite() {
        let what = format!("a factor is too large for {dtype}; write f32");
        return Err(AdapterError::Factors { module: module.path.clone(), what });
    }
    let loss = ModuleLoss {
        path: module.path.clone(),
        rank_before: None,
        rank: factors.rank(),
        norm: squares.sqrt(),
        error,
    };
    Ok(Some((factors, loss)))
}

/// Factors as they are stored; with a clamp, the original's split of the singular values counts: all in `up`.
fn stored(module: &Module, mut found: Truncation, clamp: Option<f64>) -> Result<LowRankFactors> {
    let Some(quantile) = clamp else { return to_factors(module, &found.up, &found.down, 1.0) };
    let roots: Vec<f64> = found.values.iter().map(|value| value.sqrt()).collect();
    found.up.scale_cols(&roots);
    found.down.scale_cols(&roots.iter().map(|root| 1.0 / root).collect::<Vec<_>>());
    let limit = quantile_of(found.up.values().iter().chain(found.down.values()).copied().collect(), quantile);
    found.up.clamp(limit);
    found.down.clamp(limit);
    to_factors(module, &found.up, &found.down, 1.0)
}

/// The quantile of signed values, between neighbours by their distance, as `torch.quantile` has it.
fn quantile_of(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let position = quantile * values.len().saturating_sub(1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    match (values.get(below), values.get(above)) {
        (Some(low), Some(high)) => low + (high - low) * position.fract(),
        _ => 0.0,
    }
}

/// `tuned - base` in f32: exact for 16-bit weights.
fn difference(base: &Tensor, tuned: &Tensor) -> Result<Tensor> {
    let mut result = to_f32(tuned)?;
    let base = to_f32(base)?;
    let subtract = |to: &mut [f32]| -> Result<()> {
        to.iter_mut().zip(base.as_slice::<f32>()?).for_each(|(to, base)| *to -= base);
        Ok(())
    };
    // Weights that are f32 already are shared with nobody, as they were just read.
    match result.get_mut::<f32>()? {
        Some(values) => subtract(values)?,
        None => {
            let mut values = result.to_vec::<f32>()?;
            subtract(&mut values)?;
            result = Tensor::from_slice(&values, result.dims())?;
        }
    }
    Ok(result)
}

/// As [`Tensor::to_dtype`], by whole slices where the machine can.
fn to_f32(tensor: &Tensor) -> Result<Tensor> {
    Ok(match tensor.dtype() {
        DType::F16 => {
            let source = tensor.as_slice::<f16>()?;
            Tensor::build::<f32>(tensor.dims(), |out| source.convert_to_f32_slice(out))?
        }
        DType::BF16 => {
            let source = tensor.as_slice::<bf16>()?;
            Tensor::build::<f32>(tensor.dims(), |out| source.convert_to_f32_slice(out))?
        }
        _ => tensor.to_dtype(DType::F32)?,
    })
}

/// Tensors that differ though no module of the extraction has them.
fn left_out(pairs: &[TowerPair<'_>], modules: &[&Module], threads: usize) -> Result<Vec<String>> {
    let taken: BTreeSet<String> = modules.iter().map(|module| format!("{}.weight", module.path)).collect();
    let mut others: Vec<(&TowerPair<'_>, String)> = pairs
        .iter()
        .flat_map(|pair| pair.base.names().into_iter().map(move |name| (pair, name)))
        .filter(|(pair, name)| {
            !taken.contains(&format!("{}.{name}", pair.tower.prefix())) && pair.tuned.info(name).is_some()
        })
        .collect();
    // Tensors of a size one after the other, so that each takes the memory of the one before.
    others.sort_by_key(|(pair, name)| Reverse(pair.base.info(name).map_or(0, |info| info.bytes())));
    let differing = parallel::map(threads, &others, &|_| (), |(pair, name)| {
        let (base, tuned) = (pair.base.read(name)?, pair.tuned.read(name)?);
        let equal = match base.dtype() == tuned.dtype() {
            true => base.bytes()? == tuned.bytes()?,
            false => to_f32(&base)?.bytes()? == to_f32(&tuned)?.bytes()?,
        };
        Ok((!equal).then(|| format!("{}.{name}", pair.tower.prefix())))
    })?;
    let mut differing: Vec<String> = differing.into_iter().flatten().collect();
    differing.sort();
    Ok(differing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = vec![4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile_of(values.clone(), 0.5), 2.5);
        assert_eq!(quantile_of(values.clone(), 1.0), 4.0);
        assert!((quantile_of(values, 0.9) - 3.7).abs() < 1e-12);
    }

    #[test]
    fn sixteen_bits_are_subtracted_exactly() {
        let halves = |values: &[f32]| {
            Tensor::from_slice(values, &[values.len()]).unwrap().to_dtype(DType::F16).unwrap()
        };
        let (base, tuned) = (halves(&[1.0, -2.5, 1000.0]), halves(&[1.5, -2.5, 0.125]));
        assert_eq!(difference(&base, &tuned).unwrap().to_vec::<f32>().unwrap(), [0.5, 0.0, -999.875]);
        let wide = tuned.to_dtype(DType::F32).unwrap();
        assert_eq!(difference(&base, &wide).unwrap().to_vec::<f32>().unwrap(), [0.5, 0.0, -999.875]);
        assert_eq!(wide.to_vec::<f32>().unwrap()[0], 1.5, "what is shared is not written to");
    }
}
