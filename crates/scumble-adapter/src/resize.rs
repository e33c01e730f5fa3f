//! Another rank for an adapter.
//!
//! Low-rank pairs are resized by QR of both factors and an SVD of the small core; their delta is never formed. The
//! scale `alpha / r` stays what it was, so alpha follows the rank. LoCon cores, LoHa, LoKr and full differences go
//! through the dense delta of one module at a time and come out as low-rank pairs. DoRA magnitudes, norms and biases
//! stay as they are: they have no rank.
//!
//! One rank for all modules is decided by the plain pairs alone: the singular values of a dense kind are not known
//! beforehand. It then holds for the dense kinds as well. Where there is no pair at all, each module follows the rule
//! by itself.
//!
//! ```
//! use scumble_adapter::rank::RankRule;
//! use scumble_adapter::resize::{ResizeOptions, resize};
//! use scumble_adapter::{Adapter, Module, ModuleKind, ModuleTable};
//! use scumble_tensor::{Tensor, reference::ReferenceBackend};
//!
//! let path = "unet.time_embedding.linear_1";
//! let module = Module { path: path.into(), kind: ModuleKind::Linear, inputs: 3, outputs: 2 };
//! let table = ModuleTable::new([module]);
//! // Rank 2, of which the second direction adds nothing.
//! let down = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 2.0, 4.0, 6.0], &[2, 3])?;
//! let up = Tensor::from_slice(&[1.0f32, 1.0, 0.5, 0.5], &[2, 2])?;
//! let mut adapter = Adapter::default();
//! adapter.insert(path, down, up, 2.0)?;
//!
//! let rule = RankRule::Fixed(1);
//! let options = ResizeOptions { rule, per_module: false, max_rank: None, dtype: None, seed: 0, threads: 1 };
//! let (smaller, report) = resize(&adapter, &table, &options, &ReferenceBackend, &|_| ())?;
//! assert_eq!(smaller.ranks(), [1]);
//! assert!(report.kept() > 0.999_999);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};

use scumble_tensor::{Backend, DType};

use crate::adapter::{Adapter, Change, LowRankFactors, ModuleFactors};
use crate::error::{AdapterError, Result};
use crate::linalg::LowRankCore;
use crate::merge::exact::{self, thin};
use crate::merge::sparse::approximate;
use crate::parallel::{self, OnDone};
use crate::rank::{LossReport, ModuleLoss, RankRule, reaching};
use crate::rounding;
use crate::table::{Module, ModuleTable};

/// How to resize.
#[derive(Clone, Copy, Debug)]
pub struct ResizeOptions {
    /// The rule for the rank.
    pub rule: RankRule,
    /// Whether every module gets the rank that the rule gives it; else all get one rank, the smallest at which the rule
    /// holds for all plain pairs together (see the module's text for other kinds).
    pub per_module: bool,
    /// Most rank a module may get.
    pub max_rank: Option<usize>,
    /// Element type of the factors; `None` is each module's own.
    pub dtype: Option<DType>,
    /// Seed of the range finder's start, for dense kinds.
    pub seed: u64,
    /// Threads to use. The result does not depend on it.
    pub threads: usize,
}

/// Changes the ranks of `adapter`, which is made for the base that `table` describes.
///
/// As for [`crate::merge::merge`], a backend without threads of its own is best. The report's errors are before rounding
/// to the element type, which is told apart. `on_done` hears how many modules the bulk of the work is done for.
pub fn resize(
    adapter: &Adapter,
    table: &ModuleTable,
    options: &ResizeOptions,
    backend: &dyn Backend,
    on_done: OnDone<'_>,
) -> Result<(Adapter, LossReport)> {
    check(adapter, table, options)?;
    let modules = adapter
        .modules
        .iter()
        .map(|(path, factors)| {
            let fault = |what: String| AdapterError::WrongBase {
                faults: vec![format!("{path}: {what}")],
                guess: None,
            };
            let module = table.get(path).ok_or_else(|| fault("the base has no such module".into()))?;
            let factors = factors.shaped_for(module).map_err(fault)?;
            Ok((module, factors))
        })
        .collect::<Result<Vec<_>>>()?;
    // A pair is decomposed here, a dense kind below.
    let done = AtomicUsize::new(0);
    let count = || on_done(done.fetch_add(1, Ordering::Relaxed) + 1);
    let prepared = parallel::map(options.threads, &modules, &|_| (), |(module, factors)| {
        let prepared = prepare(module, factors)?;
        if !matches!(prepared, Prepared::Dense(_)) {
            count();
        }
        Ok(prepared)
    })?;
    let common = common_rank(&prepared, options);
    let jobs: Vec<_> = modules.iter().zip(&prepared).collect();
    let resized = parallel::map(options.threads, &jobs, &|_| (), |((module, factors), prepared)| {
        let cap = |rule: RankRule, values: &[f64]| {
            let rank = rule.rank(values).min(options.max_rank.unwrap_or(usize::MAX));
            common.map_or(rank, |common| common.min(RankRule::Lossless.rank(values)))
        };
        match prepared {
            Prepared::Pair { core, before, scale } => {
                let rank = cap(options.rule, core.values());
                let (pair, loss) = exact::take(module, core, *before, rank, *scale)?;
                rebuilt(module, factors, pair, loss, options.dtype)
            }
            Prepared::Dense(change) => {
                let rule = dense_rule(options, common);
                let (pair, loss) =
                    approximate(module, &change.delta()?, rule, options.max_rank, options.seed, backend)?;
                count();
                let loss = ModuleLoss { rank_before: change.rank(), ..loss };
                rebuilt(module, factors, pair, loss, options.dtype)
            }
            Prepared::Fixed => stored(module, factors.clone(), None, options.dtype),
        }
    })?;
    let mut result = Adapter { modules: Default::default(), ..adapter.clone() };
    let mut report = LossReport::default();
    for Resized { path, factors, loss, moved } in resized {
        result.modules.insert(path, factors);
        report.modules.extend(loss);
        report.rounding = report.rounding.max(moved);
    }
    Ok((result, report))
}

fn check(adapter: &Adapter, table: &ModuleTable, options: &ResizeOptions) -> Result<()> {
    let fault = |what: String| Err(AdapterError::Selection { what });
    options.rule.check()?;
    adapter.check_finite()?;
    if options.max_rank == Some(0) {
        return fault("a largest rank of 0 keeps nothing; use 1 or more".into());
    }
    if let RankRule::Fixed(rank) = options.rule {
        let sizes = adapter.modules.keys().filter_map(|path| table.get(path));
        let most = sizes.map(Module::max_rank).max().unwrap_or(rank);
        if rank > most {
            return fault(format!("rank {rank} is larger than any module can have; {most} is the most"));
        }
    }
    Ok(())
}

/// A module as it goes into the result.
struct Resized {
    path: String,
    factors: ModuleFactors,
    loss: Option<ModuleLoss>,
    /// See [`LossReport::rounding`].
    moved: f64,
}

/// A module before its rank is known.
enum Prepared {
    /// A decomposed pair, its rank and its scale.
    Pair { core: LowRankCore, before: usize, scale: f32 },
    /// Another kind.
    Dense(Change),
    /// Nothing with a rank.
    Fixed,
}

fn prepare(module: &Module, factors: &ModuleFactors) -> Result<Prepared> {
    match factors.change() {
        Some(Change::LowRank(pair)) => {
            let (up, down) = thin(pair)?;
            Ok(Prepared::Pair { core: LowRankCore::new(up, down), before: pair.rank(), scale: pair.scale() })
        }
        Some(change) if !module.is_norm() => Ok(Prepared::Dense(change.clone())),
        _ => Ok(Prepared::Fixed),
    }
}

/// The one rank for all modules, unless each has its own: of the rule applied to all plain pairs together.
fn common_rank(prepared: &[Prepared], options: &ResizeOptions) -> Option<usize> {
    let pairs = || {
        prepared.iter().filter_map(|prepared| match prepared {
            Prepared::Pair { core, scale, .. } => Some((core, f64::from(scale.abs()))),
            _ => None,
        })
    };
    if options.per_module || pairs().next().is_none() {
        return None;
    }
    let reached = |fraction: f64, measure: fn(f64) -> f64| {
        let mut by_index: Vec<f64> = Vec::new();
        for (core, scale) in pairs() {
            by_index.resize(by_index.len().max(core.values().len()), 0.0);
            for (sum, value) in by_index.iter_mut().zip(core.values()) {
                *sum += measure(value * scale);
            }
        }
        reaching(&by_index, fraction, |part| part).max(1)
    };
    let rank = match options.rule {
        RankRule::Energy(fraction) => reached(fraction, |value| value * value),
        RankRule::Norm(fraction) => reached(fraction * fraction, |value| value * value),
        RankRule::Sum(fraction) => reached(fraction, |value| value),
        RankRule::Ratio(_) | RankRule::Fixed(_) | RankRule::Lossless => {
            pairs().map(|(core, _)| options.rule.rank(core.values())).max()?
        }
    };
    Some(rank.min(options.max_rank.unwrap_or(usize::MAX)))
}

/// The rule for a dense kind; a rank that pairs have in common holds for it too.
fn dense_rule(options: &ResizeOptions, common: Option<usize>) -> RankRule {
    match (options.rule, common, options.max_rank) {
        (RankRule::Fixed(rank), ..) => RankRule::Fixed(rank),
        (_, Some(common), _) => RankRule::Fixed(common),
        (RankRule::Lossless, None, Some(most)) => RankRule::Fixed(most),
        (rule, None, _) => rule,
    }
}

/// The module with its new pair, in the element type of the first of its old factors; all else stays as it is.
fn rebuilt(
    module: &Module,
    factors: &ModuleFactors,
    pair: LowRankFactors,
    loss: ModuleLoss,
    dtype: Option<DType>,
) -> Result<Resized> {
    let own = factors.change().and_then(|change| Some(change.tensors().first()?.1.dtype()));
    let (bias, magnitude) = (factors.bias().cloned(), factors.magnitude().cloned());
    let of =
        |pair| ModuleFactors::new(&module.path, Some(Change::LowRank(pair)), bias.clone(), magnitude.clone());
    let computed = of(pair.clone())?;
    if dtype.is_some() {
        return stored(module, computed, Some(loss), dtype);
    }
    let factors = own.map_or(Ok(computed.clone()), |own| of(pair.to_dtype(own)?))?;
    let moved = rounding::moved(&computed, &factors)?;
    Ok(Resized { path: module.path.clone(), factors, loss: Some(loss), moved })
}

/// All tensors of a module in the type asked for, if one was.
fn stored(
    module: &Module,
    computed: ModuleFactors,
    loss: Option<ModuleLoss>,
    dtype: Option<DType>,
) -> Result<Resized> {
    let factors = dtype.map_or(Ok(computed.clone()), |dtype| computed.to_dtype(dtype))?;
    let moved = rounding::moved(&computed, &factors)?;
    Ok(Resized { path: module.path.clone(), factors, loss, moved })
}
