//! Gated linear unit with GELU (Shazeer 2020): the input's halves are `a` and `g`, `y = a gelu(g)`.
//!
//! ```text
//! da = dy gelu(g)        dg = dy a gelu'(g)
//! ```

use crate::backend::Activation;
use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x [..., 2 d]` -> `[..., d]`.
pub fn geglu(tape: &Tape<'_>, x: &Var) -> Result<Var> {
    half(x.value())?;
    let y = tape.backend().geglu(x.value())?;
    Ok(tape.record(&[x], y, || {
        let x = x.value().clone();
        move |backend, d_y, _| Ok(vec![Some(backend.geglu_grad(d_y, &x)?)])
    }))
}

/// Half of the last size; errors when it is odd.
pub(crate) fn half(x: &Tensor) -> Result<usize> {
    let last = x.shape().last();
    if x.dims().is_empty() || !last.is_multiple_of(2) {
        return Err(shape_error("geglu", "input", "an even last size", x.shape()));
    }
    Ok(last / 2)
}

/// `[rows, 2 d]` -> `[rows, d]`, in plain loops.
pub(crate) fn plain(x: &[f64], d: usize) -> Vec<f64> {
    let gated = |row: &[f64], i: usize| row[i] * Activation::Gelu.plain(row[d + i]);
    x.chunks_exact((2 * d).max(1)).flat_map(|row| (0..d).map(move |i| gated(row, i))).collect()
}

/// The gradient `[rows, 2 d]`.
pub(crate) fn plain_grad(d_y: &[f64], x: &[f64], d: usize) -> Vec<f64> {
    let mut d_x = Vec::with_capacity(x.len());
    for (row, d_y) in x.chunks_exact((2 * d).max(1)).zip(d_y.chunks_exact(d.max(1))) {
        d_x.extend((0..d).map(|i| d_y[i] * Activation::Gelu.plain(row[d + i])));
        d_x.extend((0..d).map(|i| d_y[i] * row[i] * Activation::Gelu.plain_slope(row[d + i])));
    }
    d_x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[3, 8]], |tape, v| geglu(tape, &v[0]));
    }
}
