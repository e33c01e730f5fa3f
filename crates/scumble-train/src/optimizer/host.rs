//! What optimizers without kernels of their own share: numbers on the host, and their state in and out of checkpoints.
//!
//! A few hundred thousand numbers of an adapter are updated in a millisecond on one core. The loops go through elements in
//! order, so the same run gives the same bytes.

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Element, Param, Tensor};

use crate::error::{Result, TrainError};

/// A parameter's values and its gradient times `scale`, on the host.
pub(super) fn values(
    backend: &dyn Backend,
    param: &Param,
    gradient: &Tensor,
    scale: f64,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let values = backend.download(&param.value())?.to_vec::<f32>()?;
    let mut gradient = backend.download(gradient)?.to_vec::<f32>()?;
    gradient.iter_mut().for_each(|g| *g *= scale as f32);
    Ok((values, gradient))
}

/// Gives a parameter its new values.
pub(super) fn set(backend: &dyn Backend, param: &Param, values: &[f32]) -> Result<()> {
    param.set(backend.upload(&Tensor::from_slice(values, param.value().dims())?)?);
    Ok(())
}

/// Adds a counter or numbers to a state.
pub(super) fn put<T: Element>(state: &mut BTreeMap<String, Tensor>, key: String, values: &[T]) -> Result<()> {
    state.insert(key, Tensor::from_slice(values, &[values.len()])?);
    Ok(())
}

/// Numbers of a state; errors unless there are `length` of them.
pub(super) fn take<T: Element>(state: &BTreeMap<String, Tensor>, key: &str, length: usize) -> Result<Vec<T>> {
    let unfit = |found: String| TrainError::Mismatch {
        what: format!("optimizer state `{key}`"),
        expected: format!("{} [{length}]", T::DTYPE),
        found,
    };
    let tensor = state.get(key).ok_or_else(|| unfit("nothing".to_owned()))?;
    if tensor.dtype() != T::DTYPE || tensor.dims() != [length] {
        return Err(unfit(format!("{} {}", tensor.dtype(), tensor.shape())));
    }
    Ok(tensor.to_vec::<T>()?)
}

/// A counter of a state.
pub(super) fn take_step(state: &BTreeMap<String, Tensor>, key: &str) -> Result<u64> {
    Ok(take::<i64>(state, key, 1)?.first().copied().unwrap_or(0).max(0) as u64)
}

/// Whether a state has anything for a parameter: one that has had no gradient yet has not.
pub(super) fn knows(state: &BTreeMap<String, Tensor>, prefix: &str, param: &Param) -> bool {
    state.contains_key(&format!("{prefix}{}", param.name()))
}

/// Root of the mean of squares.
pub(super) fn rms(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (sum / values.len().max(1) as f64).sqrt()
}
