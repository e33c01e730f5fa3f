//! The weighted sum of deltas at a rank, without any delta.

use scumble_tensor::Backend;

use super::{MergeOptions, Term, nothing};
use crate::adapter::{Change, LowRankFactors};
use crate::error::Result;
use crate::linalg::{LowRankCore, Matrix};
use crate::rank::{ModuleLoss, RankRule};
use crate::table::Module;

/// `sum w_i dW_i`.
pub(super) fn weighted_sum(
    module: &Module,
    terms: &[Term<'_>],
    options: &MergeOptions,
    backend: &dyn Backend,
) -> Result<(Change, ModuleLoss)> {
    let counting: Vec<Term<'_>> = terms.iter().filter(|term| term.weight != 0.0).copied().collect();
    if options.rank == RankRule::Lossless
        && let Some(alone) = scaled(module, &counting)?
    {
        return Ok(alone);
    }
    let mut stacked: Option<(Matrix, Matrix)> = None;
    for term in &counting {
        let Some(Change::LowRank(pair)) = term.change() else {
            return dense_sum(module, &counting, options, backend);
        };
        let (mut up, down) = thin(pair)?;
        up.scale(term.weight * f64::from(pair.scale()));
        stacked = Some(match stacked {
            None => (up, down),
            Some((all_up, all_down)) => (all_up.beside(&up), all_down.beside(&down)),
        });
    }
    let (factors, loss) = match stacked {
        Some((up, down)) => {
            let before = up.cols();
            let core = LowRankCore::new(up, down);
            take(module, &core, before, options.rank.rank(core.values()), 1.0)?
        }
        None => (nothing(module)?, super::without_loss(module, 0, 0.0)),
    };
    Ok((Change::LowRank(factors), loss))
}

/// The sum where some part is no low-rank pair: through the dense delta of this one module.
fn dense_sum(
    module: &Module,
    terms: &[Term<'_>],
    options: &MergeOptions,
    backend: &dyn Backend,
) -> Result<(Change, ModuleLoss)> {
    let all_full = terms.iter().all(|term| matches!(term.change(), Some(Change::Full(_))));
    if all_full && options.rank == RankRule::Lossless {
        return super::full::weighted_sum(module, terms);
    }
    let delta = super::full::weighted_delta(module, terms)?;
    let (factors, loss) =
        super::sparse::approximate(module, &delta, options.rank, None, options.seed, backend)?;
    Ok((Change::LowRank(factors), loss))
}

/// Where a single input counts: its change times its weight, exact and of the kind that it is.
pub(super) fn scaled(module: &Module, counting: &[Term<'_>]) -> Result<Option<(Change, ModuleLoss)>> {
    let [term] = counting else { return Ok(None) };
    let Some(change) = term.change() else { return Ok(None) };
    let change = change.scaled(&module.path, term.weight)?;
    let norm = match &change {
        Change::LowRank(factors) => super::factors::norm_of(factors)?,
        other => {
            let delta = other.delta()?;
            delta.as_slice::<f32>()?.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
        }
    };
    let rank = change.rank().unwrap_or(module.max_rank());
    let loss = ModuleLoss { rank_before: change.rank(), ..super::without_loss(module, rank, norm) };
    Ok(Some((change, loss)))
}

/// `up [out, r]` and `down^T [columns, r]`, without the scale.
pub(crate) fn thin(pair: &LowRankFactors) -> Result<(Matrix, Matrix)> {
    Ok((Matrix::from_tensor(pair.up())?, Matrix::transposed_from(pair.down())?))
}

/// The best factors of a decomposed product at `rank`.
pub(crate) fn take(
    module: &Module,
    core: &LowRankCore,
    before: usize,
    rank: usize,
    scale: f32,
) -> Result<(LowRankFactors, ModuleLoss)> {
    let (up, down) = core.truncated(rank);
    let factors = to_factors(module, &up, &down, scale)?;
    let length = |values: &[f64]| {
        // An empty sum is -0.
        (0.0 + values.iter().map(|value| value * value).sum::<f64>()).sqrt() * f64::from(scale).abs()
    };
    let loss = ModuleLoss {
        path: module.path.clone(),
        rank_before: Some(before),
        rank: factors.rank(),
        norm: length(core.values()),
        error: length(&core.values()[rank.min(core.values().len())..]),
    };
    Ok((factors, loss))
}

/// Factors in the module's shapes from `up [out, k]` and `down^T [columns, k]`.
pub(crate) fn to_factors(module: &Module, up: &Matrix, down: &Matrix, scale: f32) -> Result<LowRankFactors> {
    let rank = up.cols();
    let (down_dims, up_dims) = LowRankFactors::shapes_for(module, rank);
    let (down, up) = (down.to_transposed_tensor(&down_dims)?, up.to_tensor(&up_dims)?);
    LowRankFactors::new(&module.path, down, up, scale * rank as f32)
}
