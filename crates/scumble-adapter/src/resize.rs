//! Another rank for an adapter.
//!
//! Low-rank pairs are resized by QR of both factors and an SVD of the small core; their delta is never formed. The
//! scale `alpha / r` stays what it was, so alpha follows the rank. LoCon cores, LoHa, LoKr and full differences go
//! through the dense delta of one module at a time and come out as low-rank pairs. DoRA magnitudes, norms and biases
//! stay as they are: they have no rank.

use scumble_tensor::Backend;

use crate::adapter::{Adapter, Change, ModuleFactors};
use crate::error::{AdapterError, Result};
use crate::linalg::LowRankCore;
use crate::merge::exact::{self, thin};
use crate::merge::sparse::approximate;
use crate::parallel::{self, OnDone};
use crate::rank::{LossReport, ModuleLoss, RankRule};
use crate::table::{Module, ModuleTable};

/// How to resize.
#[derive(Clone, Copy, Debug)]
pub struct ResizeOptions {
    /// The rule for the rank.
    pub rule: RankRule,
    /// Whether every module gets the rank that the rule gives it; else all get one rank, the smallest at which the rule
    /// holds for the whole adapter.
    pub per_module: bool,
    /// Most rank a module may get.
    pub max_rank: Option<usize>,
    /// Seed of the range finder's start, for dense kinds.
    pub seed: u64,
    /// Threads to use. The result does not depend on it.
    pub threads: usize,
}

/// Changes the ranks of `adapter`, which is made for the base that `table` describes.
///
/// As for [`crate::merge::merge`], a backend without threads of its own is best. The report is before rounding to the
/// element type, which stays each module's own.
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
    let prepared =
        parallel::map(options.threads, &modules, on_done, |(module, factors)| prepare(module, factors))?;
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
                let (change, loss) = exact::take(module, core, *before, rank, *scale)?;
                rebuilt(module, factors, Change::LowRank(change), Some(loss))
            }
            Prepared::Dense(change) => {
                let rule = dense_rule(module, options, common)?;
                let (pair, loss) = approximate(module, &change.delta()?, rule, options.seed, backend)?;
                let loss = ModuleLoss { rank_before: change.rank(), ..loss };
                rebuilt(module, factors, Change::LowRank(pair), Some(loss))
            }
            Prepared::Fixed => Ok((module.path.clone(), factors.clone(), None)),
        }
    })?;
    let mut result = Adapter { modules: Default::default(), ..adapter.clone() };
    let mut report = LossReport::default();
    for (path, factors, loss) in resized {
        let dtype = adapter.modules.get(&path).and_then(|before| Some(before.tensors().first()?.1.dtype()));
        let factors = dtype.map_or(Ok(factors.clone()), |dtype| factors.to_dtype(dtype))?;
        result.modules.insert(path, factors);
        report.modules.extend(loss);
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

/// The one rank for all modules, unless each has its own: of the rule applied to the adapter as a whole.
fn common_rank(prepared: &[Prepared], options: &ResizeOptions) -> Option<usize> {
    let (measure, fraction): (fn(f64) -> f64, f64) = match options.rule {
        _ if options.per_module => return None,
        RankRule::Energy(fraction) => (|value| value * value, fraction),
        RankRule::Norm(fraction) => (|value| value * value, fraction * fraction),
        RankRule::Sum(fraction) => (|value| value, fraction),
        RankRule::Ratio(_) | RankRule::Fixed(_) | RankRule::Lossless => {
            let ranks = prepared.iter().filter_map(|prepared| match prepared {
                Prepared::Pair { core, .. } => Some(options.rule.rank(core.values())),
                _ => None,
            });
            let rank = ranks.max().unwrap_or(usize::MAX);
            return Some(rank.min(options.max_rank.unwrap_or(usize::MAX)));
        }
    };
    let mut by_index: Vec<f64> = Vec::new();
    for prepared in prepared {
        let Prepared::Pair { core, scale, .. } = prepared else { continue };
        by_index.resize(by_index.len().max(core.values().len()), 0.0);
        for (sum, value) in by_index.iter_mut().zip(core.values()) {
            *sum += measure(value * f64::from(scale.abs()));
        }
    }
    let total: f64 = by_index.iter().sum();
    let mut sum = 0.0;
    let reached = by_index.iter().position(|part| {
        sum += part;
        sum >= fraction * total
    });
    let rank = reached.map_or(by_index.len(), |index| index + 1).max(1);
    Some(rank.min(options.max_rank.unwrap_or(usize::MAX)))
}

/// The rule for a dense kind; a rank that pairs have in common holds for it too.
fn dense_rule(module: &Module, options: &ResizeOptions, common: Option<usize>) -> Result<RankRule> {
    let rule = match (options.rule, common) {
        (RankRule::Fixed(rank), _) => RankRule::Fixed(rank),
        (_, Some(common)) if common < usize::MAX => RankRule::Fixed(common),
        (rule, _) => rule,
    };
    match (rule, options.max_rank) {
        (RankRule::Fixed(rank), Some(most)) => Ok(RankRule::Fixed(rank.min(most))),
        (_, Some(_)) => Err(AdapterError::Selection {
            what: format!(
                "{}: a largest rank beside an energy works for plain low-rank factors only; give a rank",
                module.path
            ),
        }),
        (rule, None) => Ok(rule),
    }
}

fn rebuilt(
    module: &Module,
    factors: &ModuleFactors,
    change: Change,
    loss: Option<ModuleLoss>,
) -> Result<(String, ModuleFactors, Option<ModuleLoss>)> {
    let (bias, magnitude) = (factors.bias().cloned(), factors.magnitude().cloned());
    Ok((module.path.clone(), ModuleFactors::new(&module.path, Some(change), bias, magnitude)?, loss))
}
