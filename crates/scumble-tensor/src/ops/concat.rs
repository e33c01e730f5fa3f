//! Joining and cutting along the last dimension (channels) and the first (rows); the gradient of joining is cutting,
//! that of cutting is joining with zeros.

use crate::backend::Backend;
use crate::dtype::DType;
use crate::error::{Result, shape_error};
use crate::ops::check_range;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `[..., c1]`, `[..., c2]`, ... -> `[..., c1 + c2 + ...]`.
pub fn concat_channels(tape: &Tape<'_>, parts: &[&Var]) -> Result<Var> {
    let values: Vec<&Tensor> = parts.iter().map(|part| part.value()).collect();
    channels_dims(&values)?;
    let y = tape.backend().concat_channels(&values)?;
    Ok(tape.record(parts, y, || {
        let cuts = cuts(parts, |part| part.value().shape().last());
        move |backend, d_y, _| {
            cuts.into_iter()
                .map(|(needed, start, len)| {
                    needed.then(|| backend.slice_channels(d_y, start, len)).transpose()
                })
                .collect()
        }
    }))
}

/// `[n1, ...]`, `[n2, ...]`, ... -> `[n1 + n2 + ..., ...]`.
pub fn concat_rows(tape: &Tape<'_>, parts: &[&Var]) -> Result<Var> {
    let values: Vec<&Tensor> = parts.iter().map(|part| part.value()).collect();
    rows_dims(&values)?;
    let y = tape.backend().concat_rows(&values)?;
    Ok(tape.record(parts, y, || {
        let cuts = cuts(parts, |part| part.value().shape().first());
        move |backend, d_y, _| {
            cuts.into_iter()
                .map(|(needed, start, len)| needed.then(|| backend.slice_rows(d_y, start, len)).transpose())
                .collect()
        }
    }))
}

/// `len` channels of `x [..., c]` from `start` on.
pub fn slice_channels(tape: &Tape<'_>, x: &Var, start: usize, len: usize) -> Result<Var> {
    let channels = x.value().shape().last();
    check_range("slice_channels", start, len, channels)?;
    let y = tape.backend().slice_channels(x.value(), start, len)?;
    Ok(tape.record(&[x], y, || {
        let dims = x.dims().to_vec();
        move |backend, d_y, _| {
            let zeros = |size: usize| {
                let mut dims = dims.clone();
                if let Some(last) = dims.last_mut() {
                    *last = size;
                }
                zeros(backend, d_y.dtype(), &dims)
            };
            let (before, after) = (zeros(start)?, zeros(channels - start - len)?);
            Ok(vec![Some(backend.concat_channels(&non_empty(&[&before, d_y, &after]))?)])
        }
    }))
}

/// `len` entries of the first dimension of `x [n, ...]` from `start` on.
pub fn slice_rows(tape: &Tape<'_>, x: &Var, start: usize, len: usize) -> Result<Var> {
    let rows = x.value().shape().first();
    check_range("slice_rows", start, len, rows)?;
    let y = tape.backend().slice_rows(x.value(), start, len)?;
    Ok(tape.record(&[x], y, || {
        let dims = x.dims().to_vec();
        move |backend, d_y, _| {
            let zeros = |size: usize| {
                let mut dims = dims.clone();
                if let Some(first) = dims.first_mut() {
                    *first = size;
                }
                zeros(backend, d_y.dtype(), &dims)
            };
            let (before, after) = (zeros(start)?, zeros(rows - start - len)?);
            Ok(vec![Some(backend.concat_rows(&non_empty(&[&before, d_y, &after]))?)])
        }
    }))
}

fn zeros(backend: &dyn Backend, dtype: DType, dims: &[usize]) -> Result<Tensor> {
    backend.upload(&Tensor::zeros(dtype, dims)?)
}

fn non_empty<'a>(parts: &[&'a Tensor]) -> Vec<&'a Tensor> {
    parts.iter().copied().filter(|part| part.numel() > 0).collect()
}

/// Whether its gradient is needed, where it starts and how long it is, for each part.
fn cuts(parts: &[&Var], size: impl Fn(&Var) -> usize) -> Vec<(bool, usize, usize)> {
    let mut end = 0;
    let cut = |part: &&Var| {
        let start = end;
        end += size(part);
        (part.needs_grad(), start, end - start)
    };
    parts.iter().map(cut).collect()
}

/// Sizes of the parts side by side; errors when their outer sizes differ.
pub(crate) fn channels_dims(parts: &[&Tensor]) -> Result<Vec<usize>> {
    const OP: &str = "concat_channels";
    let first = parts.first().ok_or_else(|| shape_error(OP, "parts", "at least one", 0))?;
    let Some((_, outer)) = first.dims().split_last() else {
        return Err(shape_error(OP, "part", "at least one dimension", "a scalar"));
    };
    let mut total = 0;
    for part in parts {
        match part.dims().split_last() {
            Some((size, others)) if others == outer => total += size,
            _ => return Err(shape_error(OP, "outer sizes", format!("{outer:?}"), part.shape())),
        }
    }
    Ok([outer, &[total]].concat())
}

/// Sizes of the parts one after the other; errors when their inner sizes differ.
pub(crate) fn rows_dims(parts: &[&Tensor]) -> Result<Vec<usize>> {
    const OP: &str = "concat_rows";
    let first = parts.first().ok_or_else(|| shape_error(OP, "parts", "at least one", 0))?;
    let Some((_, inner)) = first.dims().split_first() else {
        return Err(shape_error(OP, "part", "at least one dimension", "a scalar"));
    };
    let mut total = 0;
    for part in parts {
        match part.dims().split_first() {
            Some((size, others)) if others == inner => total += size,
            _ => return Err(shape_error(OP, "inner sizes", format!("{inner:?}"), part.shape())),
        }
    }
    Ok([&[total], inner].concat())
}

/// Joins matrices of equally many rows and of `widths` side by side, in plain loops.
pub(crate) fn plain_concat_channels(parts: &[(Vec<f64>, usize)], rows: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in 0..rows {
        for (part, width) in parts {
            y.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    y
}

/// Cuts `len` columns from `start` on out of a matrix of `width` columns.
pub(crate) fn plain_slice_channels(x: &[f64], width: usize, start: usize, len: usize) -> Vec<f64> {
    x.chunks_exact(width.max(1)).flat_map(|row| row[start..start + len].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[2, 3, 2], &[2, 3, 1], &[2, 3, 4]], |tape, v| {
            concat_channels(tape, &[&v[0], &v[1], &v[2]])
        });
        check_gradients(&[&[2, 3], &[1, 3]], |tape, v| concat_rows(tape, &[&v[0], &v[1], &v[0]]));
        for (start, len) in [(0, 2), (1, 3), (4, 1), (0, 5)] {
            check_gradients(&[&[2, 3, 5]], |tape, v| slice_channels(tape, &v[0], start, len));
            check_gradients(&[&[5, 2, 3]], |tape, v| slice_rows(tape, &v[0], start, len));
        }
    }
}
