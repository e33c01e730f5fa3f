//! Linear layer: `y = x W^T + b (+ add)`, `W [out, in]` as files hold it.
//!
//! ```text
//! dx = dy W        dW = dy^T x        db = sum over rows of dy        d_add = dy
//! ```
//!
//! The low-rank branch of an adapter is `y += scale * (x down^T) up^T`, see [`low_rank`] and [`with_low_rank`].

use crate::backend::{LowRank, MatMul};
use crate::error::Result;
use crate::ops::cast::matching;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x [..., in]`, `w [out, in]`, `bias [out]`, `add [..., out]` -> `[..., out]`.
pub fn linear(tape: &Tape<'_>, x: &Var, w: &Var, bias: Option<&Var>, add: Option<&Var>) -> Result<Var> {
    scaled(tape, x, w, bias, add, 1.0)
}

/// `add + scale * (x down^T) up^T` with `down [r, in]`, `up [out, r]`: an adapter's low-rank branch.
pub fn low_rank(tape: &Tape<'_>, x: &Var, down: &Var, up: &Var, scale: f32, add: &Var) -> Result<Var> {
    let hidden = linear(tape, x, down, None, None)?;
    scaled(tape, &hidden, up, None, Some(add), scale)
}

/// A low-rank branch's factors: `scale * (x down^T) up^T` with `down [r, in]`, `up [out, r]`.
#[derive(Clone, Copy)]
pub struct Factors<'v> {
    /// First factor.
    pub down: &'v Var,
    /// Second factor.
    pub up: &'v Var,
    /// Factor of their product.
    pub scale: f32,
}

/// Most columns of factors that [`with_low_rank`] is worth it for: each is a multiplication where results are written, while
/// a product of its own uses what the backend has for products.
pub const MOST_FUSED_RANK: usize = 16;

/// [`linear`] and the low-rank branch on the same input in one: what the branch adds, to the result and to the gradient of
/// `x`, is summed before either is rounded, and neither is read and written again.
pub fn with_low_rank(
    tape: &Tape<'_>,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    add: Option<&Var>,
    Factors { down, up, scale }: Factors<'_>,
) -> Result<Var> {
    let (w, down, up) = (&matching(tape, w, x)?, &matching(tape, down, x)?, &matching(tape, up, x)?);
    let bias = bias.map(|bias| matching(tape, bias, x)).transpose()?;
    let bias = bias.as_ref();
    let hidden = tape.backend().matmul(MatMul::nt(x.value(), down.value()))?;
    let low_rank = LowRank { left: &hidden, right: up.value(), right_transposed: true, factor: scale };
    let product = MatMul {
        bias: bias.map(Var::value),
        add: add.map(Var::value),
        low_rank: Some(low_rank),
        ..MatMul::nt(x.value(), w.value())
    };
    let [_, _, out] = product.sizes()?;
    let y = tape.backend().matmul(product)?;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = out;
    }
    let y = y.reshape(&dims)?;
    let operands: Vec<&Var> =
        [Some(x), Some(w), bias, add, Some(down), Some(up)].into_iter().flatten().collect();
    Ok(tape.record(&operands, y, || {
        let needs = [x, w, down, up].map(Var::needs_grad);
        let [needs_x, needs_w, needs_down, needs_up] = needs;
        let (has_bias, has_add) = (bias.map(Var::needs_grad), add.map(Var::needs_grad));
        let kept = |needed: bool, value: &Tensor| needed.then(|| value.clone());
        let saved_x = kept(needs_w || needs_down, x.value());
        let saved_w = kept(needs_x, w.value());
        let saved_down = kept(needs_x, down.value());
        let saved_up = kept(needs_x || needs_down, up.value());
        let saved_hidden = kept(needs_up, &hidden);
        move |backend, d_y, _| {
            let product =
                |needed: bool, product: MatMul<'_>| needed.then(|| backend.matmul(product)).transpose();
            let d_hidden = match &saved_up {
                Some(up) => Some(backend.matmul(MatMul { alpha: scale, ..MatMul::nn(d_y, up) })?),
                None => None,
            };
            let mut grads = vec![None, None];
            if let (Some(w), Some(down), Some(d_hidden)) = (&saved_w, &saved_down, &d_hidden) {
                let low_rank = LowRank { left: d_hidden, right: down, right_transposed: false, factor: 1.0 };
                grads[0] = product(needs_x, MatMul { low_rank: Some(low_rank), ..MatMul::nn(d_y, w) })?;
            }
            if let Some(x) = &saved_x {
                grads[1] = product(needs_w, MatMul::tn(d_y, x))?;
            }
            if let Some(needed) = has_bias {
                grads.push(if needed { Some(backend.sum_rows(d_y)?) } else { None });
            }
            if let Some(needed) = has_add {
                grads.push(needed.then(|| d_y.clone()));
            }
            grads.push(match (&d_hidden, &saved_x) {
                (Some(d_hidden), Some(x)) => product(needs_down, MatMul::tn(d_hidden, x))?,
                _ => None,
            });
            grads.push(match &saved_hidden {
                Some(hidden) => Some(backend.matmul(MatMul { alpha: scale, ..MatMul::tn(d_y, hidden) })?),
                None => None,
            });
            Ok(grads)
        }
    }))
}

/// `a [m, k] b [k, n]`, both parameters: `da = dy b^T`, `db = a^T dy`.
pub fn product(tape: &Tape<'_>, a: &Var, b: &Var) -> Result<Var> {
    let y = tape.backend().matmul(MatMul::nn(a.value(), b.value()))?;
    Ok(tape.record(&[a, b], y, || {
        let saved_b = a.needs_grad().then(|| b.value().clone());
        let saved_a = b.needs_grad().then(|| a.value().clone());
        move |backend, d_y, _| {
            let d_a = saved_b.map(|b| backend.matmul(MatMul::nt(d_y, &b))).transpose()?;
            let d_b = saved_a.map(|a| backend.matmul(MatMul::tn(&a, d_y))).transpose()?;
            Ok(vec![d_a, d_b])
        }
    }))
}

/// `alpha * x W^T + bias + add`.
pub fn scaled(
    tape: &Tape<'_>,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    add: Option<&Var>,
    alpha: f32,
) -> Result<Var> {
    let w = &matching(tape, w, x)?;
    let bias = bias.map(|bias| matching(tape, bias, x)).transpose()?;
    let bias = bias.as_ref();
    let product = MatMul {
        alpha,
        bias: bias.map(Var::value),
        add: add.map(Var::value),
        ..MatMul::nt(x.value(), w.value())
    };
    product.sizes()?;
    let y = tape.backend().matmul(product)?;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = w.value().shape().rows();
    }
    let y = y.reshape(&dims)?;
    let operands: Vec<&Var> = [Some(x), Some(w), bias, add].into_iter().flatten().collect();
    Ok(tape.record(&operands, y, || {
        let has_add = add.map(Var::needs_grad);
        let has_bias = bias.map(Var::needs_grad);
        // Each operand is saved only for the other's gradient.
        let saved_w = x.needs_grad().then(|| w.value().clone());
        let saved_x = w.needs_grad().then(|| x.value().clone());
        move |backend, d_y, _| {
            let d_x = match &saved_w {
                Some(w) => Some(backend.matmul(MatMul { alpha, ..MatMul::nn(d_y, w) })?),
                None => None,
            };
            let d_w = match &saved_x {
                Some(x) => Some(backend.matmul(MatMul { alpha, ..MatMul::tn(d_y, x) })?),
                None => None,
            };
            let mut grads = vec![d_x, d_w];
            if let Some(needed) = has_bias {
                grads.push(if needed { Some(backend.sum_rows(d_y)?) } else { None });
            }
            if let Some(needed) = has_add {
                grads.push(needed.then(|| d_y.clone()));
            }
            Ok(grads)
        }
    }))
}

/// How a matrix lies in memory: the steps to the next row and column.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    row: usize,
    col: usize,
}

impl Strides {
    /// Of a matrix that has `rows` rows and `cols` columns after it was transposed on request.
    pub(crate) fn new([rows, cols]: [usize; 2], transposed: bool) -> Self {
        if transposed { Self { row: 1, col: rows } } else { Self { row: cols, col: 1 } }
    }
}

/// `alpha * a b` in plain loops, for `sizes = [m, k, n]`.
pub(crate) fn plain_matmul(
    (a, a_at): (&[f64], Strides),
    (b, b_at): (&[f64], Strides),
    [m, k, n]: [usize; 3],
    alpha: f64,
) -> Vec<f64> {
    let mut y = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let mut sum = 0.0;
            for p in 0..k {
                sum += a[i * a_at.row + p * a_at.col] * b[p * b_at.row + j * b_at.col];
            }
            y[i * n + j] = alpha * sum;
        }
    }
    y
}

/// Sum over the rows of `[rows, c]`.
pub(crate) fn plain_sum_rows(x: &[f64], c: usize) -> Vec<f64> {
    let mut sums = vec![0.0; c];
    for (i, value) in x.iter().enumerate() {
        sums[i % c] += value;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[2, 3, 5], &[4, 5], &[4], &[2, 3, 4]], |tape, v| {
            linear(tape, &v[0], &v[1], Some(&v[2]), Some(&v[3]))
        });
        check_gradients(&[&[3, 5], &[4, 5]], |tape, v| linear(tape, &v[0], &v[1], None, None));
        check_gradients(&[&[3, 5], &[5, 4]], |tape, v| product(tape, &v[0], &v[1]));
        check_gradients(&[&[3, 5], &[2, 5], &[4, 2], &[3, 4]], |tape, v| {
            low_rank(tape, &v[0], &v[1], &v[2], 0.75, &v[3])
        });
        let sizes: [&[usize]; 6] = [&[2, 3, 5], &[4, 5], &[4], &[2, 3, 4], &[2, 5], &[4, 2]];
        check_gradients(&sizes, |tape, v| {
            let factors = Factors { down: &v[4], up: &v[5], scale: 0.75 };
            with_low_rank(tape, &v[0], &v[1], Some(&v[2]), Some(&v[3]), factors)
        });
        check_gradients(&[&[3, 5], &[4, 5], &[1, 5], &[4, 1]], |tape, v| {
            let factors = Factors { down: &v[2], up: &v[3], scale: -2.0 };
            with_low_rank(tape, &v[0], &v[1], None, None, factors)
        });
    }
}
