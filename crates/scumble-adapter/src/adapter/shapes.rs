//! Checks of shapes and types that all kinds of factors share.

use scumble_tensor::Tensor;

use crate::error::{AdapterError, Result};

pub(super) fn invalid(module: &str, what: String) -> AdapterError {
    AdapterError::Factors { module: module.into(), what }
}

/// A float type, and no size that is 0.
pub(super) fn check_float(module: &str, part: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.dtype().is_float() {
        return Err(invalid(module, format!("{part} is {}, expected a float type", tensor.dtype())));
    }
    if tensor.numel() == 0 {
        return Err(invalid(module, format!("{part} has shape {}, with a size of 0", tensor.shape())));
    }
    Ok(())
}

pub(super) fn finite_alpha(module: &str, alpha: f32) -> Result<()> {
    if alpha.is_finite() { Ok(()) } else { Err(invalid(module, format!("alpha is {alpha}"))) }
}

/// Sizes of a matrix, which may carry kernel sizes of 1.
pub(super) fn matrix(module: &str, part: &str, tensor: &Tensor) -> Result<(usize, usize)> {
    match *tensor.dims() {
        [rows, columns] | [rows, columns, 1, 1] => Ok((rows, columns)),
        _ => Err(invalid(module, format!("{part} has shape {}, expected two sizes", tensor.shape()))),
    }
}

/// `tensor` with exactly these sizes; trailing sizes of 1 may come or go, nothing else.
pub(super) fn expect_dims(
    part: &str,
    tensor: &Tensor,
    dims: &[usize],
) -> std::result::Result<Tensor, String> {
    let significant = |dims: &[usize]| -> Vec<usize> {
        let mut dims = dims.to_vec();
        while dims.len() > 1 && dims.last() == Some(&1) {
            dims.pop();
        }
        dims
    };
    if significant(tensor.dims()) != significant(dims) {
        return Err(format!("{part} has shape {}, the base wants {dims:?}", tensor.shape()));
    }
    tensor.reshape(dims).map_err(|error| error.to_string())
}

/// `scale * values` as f32 `[rows, columns]`.
pub(super) fn dense(values: &[f64], rows: usize, scale: f64) -> Result<Tensor> {
    Ok(Tensor::build::<f32>(&[rows, values.len() / rows.max(1)], |out| {
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = (scale * value) as f32);
    })?)
}
