//! Linear layer: `y = x W^T + b (+ add)`, `W [out, in]` as files hold it.
//!
//! ```text
//! dx = dy W        dW = dy^T x        db = sum over rows of dy        d_add = dy
//! ```
//!
//! The low-rank branch of an adapter is `y += scale * (x down^T) up^T`, see [`low_rank`] and [`with_low_rank`].

use crate::backend::{Backend, LowRank, MatMul};
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
    factors: Factors<'_>,
) -> Result<Var> {
    layer(tape, x, w, bias, add, 1.0, Some(factors))
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
    layer(tape, x, w, bias, add, alpha, None)
}

/// `alpha * x W^T + scale * (x down^T) up^T + bias + add`.
fn layer(
    tape: &Tape<'_>,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    add: Option<&Var>,
    alpha: f32,
    factors: Option<Factors<'_>>,
) -> Result<Var> {
    let w = &matching(tape, w, x)?;
    let bias = bias.map(|bias| matching(tape, bias, x)).transpose()?;
    let bias = bias.as_ref();
    let branch = factors.map(|factors| Branch::forward(tape, x, factors)).transpose()?;
    let branch = branch.as_ref();
    let product = MatMul {
        alpha,
        bias: bias.map(Var::value),
        add: add.map(Var::value),
        low_rank: branch.map(Branch::product),
        ..MatMul::nt(x.value(), w.value())
    };
    product.sizes()?;
    let y = tape.backend().matmul(product)?;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = w.value().shape().rows();
    }
    let y = y.reshape(&dims)?;
    let factors = branch.map(|branch| [&branch.down, &branch.up]);
    let [down, up] = [factors.map(|[down, _]| down), factors.map(|[_, up]| up)];
    let operands: Vec<&Var> = [Some(x), Some(w), bias, add, down, up].into_iter().flatten().collect();
    Ok(tape.record(&operands, y, || {
        let has_add = add.map(Var::needs_grad);
        let has_bias = bias.map(Var::needs_grad);
        // Each operand is saved only for the other's gradient.
        let saved_w = x.needs_grad().then(|| w.value().clone());
        let saved_x = w.needs_grad().then(|| x.value().clone());
        let saved_branch = branch.map(|branch| SavedBranch::new(branch, x));
        move |backend, d_y, _| {
            let branch = saved_branch.as_ref();
            let d_hidden = branch.map(|branch| branch.d_hidden(backend, d_y)).transpose()?.flatten();
            let d_x = match &saved_w {
                Some(w) => {
                    let low_rank = branch.and_then(|branch| branch.d_x(d_hidden.as_ref()));
                    Some(backend.matmul(MatMul { alpha, low_rank, ..MatMul::nn(d_y, w) })?)
                }
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
            if let Some(branch) = branch {
                grads.extend(branch.d_factors(backend, d_y, d_hidden.as_ref())?);
            }
            Ok(grads)
        }
    }))
}

/// A low-rank branch on its way forward.
struct Branch {
    down: Var,
    up: Var,
    scale: f32,
    /// `x down^T`.
    hidden: Tensor,
}

impl Branch {
    fn forward(tape: &Tape<'_>, x: &Var, Factors { down, up, scale }: Factors<'_>) -> Result<Self> {
        let (down, up) = (matching(tape, down, x)?, matching(tape, up, x)?);
        let hidden = tape.backend().matmul(MatMul::nt(x.value(), down.value()))?;
        Ok(Self { down, up, scale, hidden })
    }

    fn product(&self) -> LowRank<'_> {
        let (left, right) = (&self.hidden, self.up.value());
        LowRank { left, right, right_transposed: true, factor: self.scale }
    }
}

/// What a branch's gradients need:
///
/// ```text
/// dh = scale * dy up        dx += dh down        d_down = dh^T x        d_up = scale * dy^T h
/// ```
struct SavedBranch {
    scale: f32,
    up: Option<Tensor>,
    /// For the gradient of `x`.
    down: Option<Tensor>,
    /// For that of `down`.
    x: Option<Tensor>,
    /// For that of `up`.
    hidden: Option<Tensor>,
}

impl SavedBranch {
    fn new(branch: &Branch, x: &Var) -> Self {
        let kept = |needed: bool, value: &Tensor| needed.then(|| value.clone());
        let (needs_x, needs_down) = (x.needs_grad(), branch.down.needs_grad());
        Self {
            scale: branch.scale,
            up: kept(needs_x || needs_down, branch.up.value()),
            down: kept(needs_x, branch.down.value()),
            x: kept(needs_down, x.value()),
            hidden: kept(branch.up.needs_grad(), &branch.hidden),
        }
    }

    fn d_hidden(&self, backend: &dyn Backend, d_y: &Tensor) -> Result<Option<Tensor>> {
        let product = |up| backend.matmul(MatMul { alpha: self.scale, ..MatMul::nn(d_y, up) });
        self.up.as_ref().map(product).transpose()
    }

    fn d_x<'a>(&'a self, d_hidden: Option<&'a Tensor>) -> Option<LowRank<'a>> {
        let (left, right) = (d_hidden?, self.down.as_ref()?);
        Some(LowRank { left, right, right_transposed: false, factor: 1.0 })
    }

    /// Of `down` and of `up`.
    fn d_factors(
        &self,
        backend: &dyn Backend,
        d_y: &Tensor,
        d_hidden: Option<&Tensor>,
    ) -> Result<[Option<Tensor>; 2]> {
        let of_down = |(d_hidden, x)| backend.matmul(MatMul::tn(d_hidden, x));
        let of_up = |hidden| backend.matmul(MatMul { alpha: self.scale, ..MatMul::tn(d_y, hidden) });
        Ok([
            d_hidden.zip(self.x.as_ref()).map(of_down).transpose()?,
            self.hidden.as_ref().map(of_up).transpose()?,
        ])
    }
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
