//! Products of all pairs of rows: `y[n, i, j, c] = a[n, i, c] b[n, j, c]`.
//!
//! ```text
//! da[n, i, c] = sum_j dy[n, i, j, c] b[n, j, c]        db[n, j, c] = sum_i dy[n, i, j, c] a[n, i, c]
//! ```
//!
//! With one image this is the Khatri-Rao product, with one channel the face-splitting product: together they turn the
//! elementwise product of two low-rank products into one low-rank product (LoHa). Operands are parameters, so f32.

use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `a [n, p, c]`, `b [n, q, c]` -> `[n, p, q, c]`, for `sizes = [n, p, q, c]`.
pub fn outer(tape: &Tape<'_>, a: &Var, b: &Var, sizes: [usize; 4]) -> Result<Var> {
    let [n, p, q, c] = sizes;
    let (left, right) = (a.value().reshape(&[n, p, c])?, b.value().reshape(&[n, q, c])?);
    let y = tape.backend().outer(&left, &right)?;
    Ok(tape.record(&[a, b], y, || {
        let (needs_a, needs_b) = (a.needs_grad(), b.needs_grad());
        move |backend, d_y, _| {
            let [d_a, d_b] = backend.outer_grad(d_y, &left, &right)?;
            Ok(vec![needs_a.then_some(d_a), needs_b.then_some(d_b)])
        }
    }))
}

/// `[n, p, q, c]`; errors when the operands do not fit.
pub(crate) fn sizes(a: &Tensor, b: &Tensor) -> Result<[usize; 4]> {
    match (a.dims(), b.dims()) {
        (&[n, p, c], &[n_b, q, c_b]) if (n, c) == (n_b, c_b) => Ok([n, p, q, c]),
        _ => {
            Err(shape_error("outer", "second operand", format!("[n, q, c] beside {}", a.shape()), b.shape()))
        }
    }
}

/// In plain loops.
pub(crate) fn plain(a: &[f64], b: &[f64], [n, p, q, c]: [usize; 4]) -> Vec<f64> {
    let mut y = Vec::with_capacity(n * p * q * c);
    for image in 0..n {
        for (i, j) in (0..p).flat_map(|i| (0..q).map(move |j| (i, j))) {
            for channel in 0..c {
                y.push(a[(image * p + i) * c + channel] * b[(image * q + j) * c + channel]);
            }
        }
    }
    y
}

/// Gradients for `a` and `b`.
pub(crate) fn plain_grad(d_y: &[f64], a: &[f64], b: &[f64], [n, p, q, c]: [usize; 4]) -> [Vec<f64>; 2] {
    let (mut d_a, mut d_b) = (vec![0.0; a.len()], vec![0.0; b.len()]);
    for image in 0..n {
        for (i, j) in (0..p).flat_map(|i| (0..q).map(move |j| (i, j))) {
            for channel in 0..c {
                let d_y = d_y[((image * p + i) * q + j) * c + channel];
                let (at_a, at_b) = ((image * p + i) * c + channel, (image * q + j) * c + channel);
                d_a[at_a] += d_y * b[at_b];
                d_b[at_b] += d_y * a[at_a];
            }
        }
    }
    [d_a, d_b]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[2, 3, 4], &[2, 5, 4]], |tape, v| outer(tape, &v[0], &v[1], [2, 3, 5, 4]));
        check_gradients(&[&[4, 3], &[4, 2]], |tape, v| outer(tape, &v[0], &v[1], [4, 3, 2, 1]));
        check_gradients(&[&[3, 4], &[2, 4]], |tape, v| outer(tape, &v[0], &v[1], [1, 3, 2, 4]));
    }

    /// (A1 B1) * (A2 B2) is the product of all pairs of columns of A and all pairs of rows of B.
    #[test]
    fn an_elementwise_product_of_products_is_one_product() {
        let numbers = |count: usize, seed: f64| -> Vec<f64> {
            (0..count).map(|i| ((i as f64 + seed) * 0.7).sin()).collect()
        };
        let (out, rank, input) = (3, 2, 4);
        let [a1, a2] = [1.0, 2.0].map(|seed| numbers(out * rank, seed));
        let [b1, b2] = [3.0, 4.0].map(|seed| numbers(rank * input, seed));
        let (up, down) = (plain(&a1, &a2, [out, rank, rank, 1]), plain(&b1, &b2, [1, rank, rank, input]));
        let product = |a: &[f64], b: &[f64], rank: usize, o: usize, c: usize| -> f64 {
            (0..rank).map(|i| a[o * rank + i] * b[i * input + c]).sum()
        };
        for (o, c) in (0..out).flat_map(|o| (0..input).map(move |c| (o, c))) {
            let expected = product(&a1, &b1, rank, o, c) * product(&a2, &b2, rank, o, c);
            assert!((product(&up, &down, rank * rank, o, c) - expected).abs() < 1e-14);
        }
    }
}
