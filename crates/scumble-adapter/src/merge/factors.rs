//! Modes that work on the factors themselves: the original's average, and stacking.

use scumble_tensor::{DType, Tensor};

use super::{Term, nothing, without_loss};
use crate::adapter::{Change, LowRankFactors};
use crate::error::{AdapterError, Result};
use crate::linalg::Matrix;
use crate::rank::ModuleLoss;
use crate::table::Module;

const AVERAGED: &str = "averaged (lpl)";
const CONCATENATED: &str = "concatenated";

/// A low-rank pair in f32 with its scale folded into `up`.
struct Folded {
    up: Tensor,
    down: Tensor,
    rank: usize,
}

fn folded(module: &Module, term: &Term<'_>, purpose: &'static str) -> Result<Folded> {
    let Some(Change::LowRank(pair)) = term.change() else {
        return Err(AdapterError::Kind { module: module.path.clone(), kind: term.factors.kind(), purpose });
    };
    let pair = pair
        .shaped_for(module)
        .map_err(|what| AdapterError::Factors { module: module.path.clone(), what })?;
    let pair = pair.to_dtype(DType::F32)?.with_scale_folded(&module.path)?;
    Ok(Folded { up: pair.up().clone(), down: pair.down().clone(), rank: pair.rank() })
}

/// `up = w_1 up_1 + w_2 up_2`, `down = w_1 down_1 + w_2 down_2`.
///
/// The delta is quadratic in the weights and has the cross terms `w_1 w_2 (up_1 down_2 + up_2 down_1)`; that is what
/// `lora_add --mode lpl` computes.
pub(super) fn average(module: &Module, terms: &[Term<'_>]) -> Result<(Change, ModuleLoss)> {
    let [first, second] = terms else {
        return Err(AdapterError::Factors {
            module: module.path.clone(),
            what:
                "only one of the adapters has it, and lpl averages factors; use `exact`, which adds changes"
                    .into(),
        });
    };
    let (a, b) = (folded(module, first, AVERAGED)?, folded(module, second, AVERAGED)?);
    if a.rank != b.rank {
        return Err(AdapterError::Factors {
            module: module.path.clone(),
            what: format!("ranks {} and {}: lpl averages factors of one rank; use `exact`", a.rank, b.rank),
        });
    }
    let (w_a, w_b) = (first.weight as f32, second.weight as f32);
    let mix = |a: &Tensor, b: &Tensor| -> Result<Tensor> {
        let pairs = a.as_slice::<f32>()?.iter().zip(b.as_slice::<f32>()?);
        let mixed: Vec<f32> = pairs.map(|(a, b)| w_a * a + w_b * b).collect();
        Ok(Tensor::from_slice(&mixed, a.dims())?)
    };
    let factors =
        LowRankFactors::new(&module.path, mix(&a.down, &b.down)?, mix(&a.up, &b.up)?, a.rank as f32)?;
    let norm = norm_of(&factors)?;
    Ok((Change::LowRank(factors), without_loss(module, a.rank, norm)))
}

/// All `down` on top of each other, all `up` side by side with weight and scale in them.
pub(super) fn concatenate(module: &Module, terms: &[Term<'_>]) -> Result<(Change, ModuleLoss)> {
    let counting: Vec<Term<'_>> = terms.iter().filter(|term| term.weight != 0.0).copied().collect();
    if let Some(alone) = super::exact::scaled(module, &counting)? {
        return Ok(alone);
    }
    let parts = counting
        .iter()
        .map(|term| Ok((term.weight as f32, folded(module, term, CONCATENATED)?)))
        .collect::<Result<Vec<_>>>()?;
    let rank: usize = parts.iter().map(|(_, part)| part.rank).sum();
    if rank == 0 {
        return Ok((Change::LowRank(nothing(module)?), without_loss(module, 0, 0.0)));
    }
    let (down_dims, up_dims) = LowRankFactors::shapes_for(module, rank);
    let mut down = Vec::with_capacity(down_dims.iter().product());
    for (_, part) in &parts {
        down.extend_from_slice(part.down.as_slice::<f32>()?);
    }
    let mut up = Vec::with_capacity(module.outputs * rank);
    for output in 0..module.outputs {
        for (weight, part) in &parts {
            let row = &part.up.as_slice::<f32>()?[output * part.rank..][..part.rank];
            up.extend(row.iter().map(|value| weight * value));
        }
    }
    let (down, up) = (Tensor::from_slice(&down, &down_dims)?, Tensor::from_slice(&up, &up_dims)?);
    let factors = LowRankFactors::new(&module.path, down, up, rank as f32)?;
    let norm = norm_of(&factors)?;
    Ok((Change::LowRank(factors), without_loss(module, rank, norm)))
}

/// Frobenius norm of the delta: `|up down|^2 = trace(up^T up down down^T)`, from two small matrices.
pub(crate) fn norm_of(factors: &LowRankFactors) -> Result<f64> {
    let up = Matrix::from_tensor(factors.up())?;
    let down = Matrix::transposed_from(factors.down())?;
    let (up, down) = (up.transposed_times(&up), down.transposed_times(&down));
    let trace: f64 = (0..up.cols()).map(|j| crate::linalg::matrix::dot(up.col(j), down.col(j))).sum();
    Ok(trace.max(0.0).sqrt() * f64::from(factors.scale()).abs())
}
