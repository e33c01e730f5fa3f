//! Weighted sums of dense parts: norms, biases, whole differences.

use scumble_tensor::{DType, Tensor};

use super::Term;
use crate::adapter::Change;
use crate::error::Result;
use crate::rank::ModuleLoss;
use crate::table::Module;

/// `sum w_i dW_i` as a full difference, in the shape of the weight.
pub(super) fn weighted_sum(module: &Module, terms: &[Term<'_>]) -> Result<(Change, ModuleLoss)> {
    let sum = weighted_delta(module, terms)?;
    let squares: f64 = sum.as_slice::<f32>()?.iter().map(|&value| f64::from(value).powi(2)).sum();
    let loss = ModuleLoss {
        path: module.path.clone(),
        rank_before: None,
        rank: module.max_rank(),
        norm: squares.sqrt(),
        error: 0.0,
    };
    Ok((Change::Full(sum.reshape(&module.weight_dims())?), loss))
}

/// `sum w_i dW_i` of any kinds, f32 `[out, columns]`.
pub(super) fn weighted_delta(module: &Module, terms: &[Term<'_>]) -> Result<Tensor> {
    let mut sum = vec![0f64; module.weights()];
    for term in terms.iter().filter(|term| term.weight != 0.0) {
        if let Some(change) = term.change() {
            add(&mut sum, term.weight, &change.delta()?)?;
        }
    }
    let sum: Vec<f32> = sum.into_iter().map(|value| value as f32).collect();
    Ok(Tensor::from_slice(&sum, &[module.outputs, module.weights() / module.outputs.max(1)])?)
}

/// `sum w_i db_i`, f32, if any input changes the bias.
pub(super) fn weighted_bias(terms: &[Term<'_>]) -> Result<Option<Tensor>> {
    let mut sum: Option<Vec<f64>> = None;
    for (term, bias) in terms.iter().filter_map(|term| Some((term, term.factors.bias()?))) {
        add(sum.get_or_insert_with(|| vec![0.0; bias.numel()]), term.weight, bias)?;
    }
    let to_tensor = |sum: Vec<f64>| {
        let values: Vec<f32> = sum.into_iter().map(|value| value as f32).collect();
        Tensor::from_slice(&values, &[values.len()])
    };
    Ok(sum.map(to_tensor).transpose()?)
}

fn add(sum: &mut [f64], weight: f64, part: &Tensor) -> Result<()> {
    let part = part.to_dtype(DType::F32)?;
    sum.iter_mut().zip(part.as_slice::<f32>()?).for_each(|(sum, &value)| *sum += weight * f64::from(value));
    Ok(())
}
