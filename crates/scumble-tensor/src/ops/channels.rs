//! Each channel times a number of its own: `y = x s + bias (+ add)`, `s [c]`: the last step of a weight-decomposed adapter.
//!
//! ```text
//! dx = dy s        ds = sum over rows of dy x        dbias = sum over rows of dy        d_add = dy
//! ```
//!
//! `s` is f32 beside every element type.

use crate::error::{Result, shape_error};
use crate::ops::cast::matching;
use crate::ops::{check_dims, check_numel};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

const OP: &str = "scale_channels";

/// `x [..., c]`, `s [c]`, `bias [c]`, `add` as `x` -> as `x`.
pub fn scale_channels(
    tape: &Tape<'_>,
    x: &Var,
    s: &Var,
    bias: Option<&Var>,
    add: Option<&Var>,
) -> Result<Var> {
    check(x.value(), s.value(), bias.map(Var::value), add.map(Var::value))?;
    let bias = bias.map(|bias| matching(tape, bias, x)).transpose()?;
    let bias = bias.as_ref();
    let backend = tape.backend();
    let y = backend.scale_channels(x.value(), s.value(), bias.map(Var::value), add.map(Var::value))?;
    let operands: Vec<&Var> = [Some(x), Some(s), bias, add].into_iter().flatten().collect();
    Ok(tape.record(&operands, y, || {
        let has_add = add.map(Var::needs_grad);
        let has_bias = bias.map(Var::needs_grad);
        // Each operand is saved only for the other's gradient.
        let saved_s = x.needs_grad().then(|| s.value().clone());
        let saved_x = s.needs_grad().then(|| x.value().clone());
        move |backend, d_y, _| {
            let d_x = saved_s.as_ref().map(|s| backend.scale_channels(d_y, s, None, None)).transpose()?;
            let d_s = match &saved_x {
                Some(x) => Some(backend.dot_rows(&d_y.reshape(x.dims())?, x)?),
                None => None,
            };
            let mut grads = vec![d_x, d_s];
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

/// Errors when the operands do not fit.
pub(crate) fn check(x: &Tensor, s: &Tensor, bias: Option<&Tensor>, add: Option<&Tensor>) -> Result<()> {
    let c = x.shape().last();
    if x.dims().is_empty() {
        return Err(shape_error(OP, "input", "[..., c]", x.shape()));
    }
    check_numel(OP, "one number a channel", c, s)?;
    bias.map_or(Ok(()), |bias| check_numel(OP, "bias", c, bias))?;
    add.map_or(Ok(()), |add| check_dims(OP, "add", x.dims(), add))
}

/// `x s`, in plain loops.
pub(crate) fn plain(x: &[f64], s: &[f64]) -> Vec<f64> {
    x.iter().enumerate().map(|(i, x)| x * s[i % s.len()]).collect()
}

/// Sum over the rows of `a b`.
pub(crate) fn plain_dot_rows(a: &[f64], b: &[f64], c: usize) -> Vec<f64> {
    let mut sums = vec![0.0; c];
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        sums[i % c] += a * b;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[2, 3, 5], &[5], &[5], &[2, 3, 5]], |tape, v| {
            scale_channels(tape, &v[0], &v[1], Some(&v[2]), Some(&v[3]))
        });
        check_gradients(&[&[3, 5], &[5]], |tape, v| scale_channels(tape, &v[0], &v[1], None, None));
    }
}
