//! Losses: per sample the mean over its elements of `weight * kind(d)`, `d = pred - target`; see [`LossKind`].
//!
//! ```text
//! d_pred = upstream[sample] / elements * weight * kind'(d)
//! mse' = 2 d        pseudo-Huber' = 2 c d / sqrt(d^2 + c^2)        pseudo-smooth-L1' = 2 d / sqrt(d^2 + c^2)
//! ```

use crate::backend::LossKind;
use crate::error::{Result, shape_error};
use crate::ops::cast::matching;
use crate::ops::{check_dims, on_device};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `pred [n, ...]`, `target` as `pred`, `weight` f32 `[n]` or one per pixel `[n, h, w]` -> f32 `[n]`.
///
/// A prediction of another element type than the target is cast: an f32 target gives an f32 loss.
pub fn loss(
    tape: &Tape<'_>,
    kind: LossKind,
    pred: &Var,
    target: &Tensor,
    weight: Option<&Tensor>,
) -> Result<Var> {
    check(pred.value(), target, weight)?;
    let target = on_device(tape, target)?;
    let weight = weight.map(|weight| on_device(tape, weight)).transpose()?;
    let pred = &matching(tape, pred, &Var::constant(target.clone()))?;
    let y = tape.backend().loss(kind, pred.value(), &target, weight.as_ref())?;
    Ok(tape.record(&[pred], y, || {
        let pred = pred.value().clone();
        move |backend, d_y, _| {
            Ok(vec![Some(backend.loss_grad(kind, &pred, &target, weight.as_ref(), d_y)?)])
        }
    }))
}

/// `[n, weights per sample, elements per weight]`; errors when the operands do not fit.
pub(crate) fn check(pred: &Tensor, target: &Tensor, weight: Option<&Tensor>) -> Result<[usize; 3]> {
    check_dims("loss", "target", pred.dims(), target)?;
    let Some((&n, inner)) = pred.dims().split_first() else {
        return Err(shape_error("loss", "prediction", "[n, ...]", pred.shape()));
    };
    let elements: usize = inner.iter().product();
    let Some(weight) = weight else { return Ok([n, 1, elements]) };
    let pixels = inner.split_last().map_or(&[][..], |(_, pixels)| pixels);
    match weight.dims().split_first() {
        Some((&n_w, [])) if n_w == n => Ok([n, 1, elements]),
        Some((&n_w, rest)) if n_w == n && rest == pixels && !rest.is_empty() => {
            Ok([n, rest.iter().product(), pred.shape().last()])
        }
        _ => {
            let expected = format!("[{n}] or one per pixel of {}", pred.shape());
            Err(shape_error("loss", "weight", expected, weight.shape()))
        }
    }
}

impl LossKind {
    /// Penalty of a difference.
    fn plain(self, d: f64) -> f64 {
        let beyond = |c: f64| 2.0 * ((d * d + c * c).sqrt() - c);
        match self {
            LossKind::Mse => d * d,
            LossKind::PseudoHuber { c } => f64::from(c) * beyond(f64::from(c)),
            LossKind::PseudoSmoothL1 { c } => beyond(f64::from(c)),
        }
    }

    /// Its derivative.
    fn plain_slope(self, d: f64) -> f64 {
        let unit = |c: f64| 2.0 * d / (d * d + c * c).sqrt();
        match self {
            LossKind::Mse => 2.0 * d,
            LossKind::PseudoHuber { c } => f64::from(c) * unit(f64::from(c)),
            LossKind::PseudoSmoothL1 { c } => unit(f64::from(c)),
        }
    }
}

/// The weight of every element, for sizes from [`check`].
fn element_weights(weight: Option<&[f64]>, [n, weights, per_weight]: [usize; 3]) -> Vec<f64> {
    let weight_of = |i: usize| weight.map_or(1.0, |weight| weight[i / per_weight]);
    (0..n * weights * per_weight).map(weight_of).collect()
}

/// Loss of each sample, in plain loops.
pub(crate) fn plain(
    kind: LossKind,
    pred: &[f64],
    target: &[f64],
    weight: Option<&[f64]>,
    sizes: [usize; 3],
) -> Vec<f64> {
    let elements = sizes[1] * sizes[2];
    let mut losses = vec![0.0; sizes[0]];
    for (i, weight) in element_weights(weight, sizes).iter().enumerate() {
        losses[i / elements] += weight * kind.plain(pred[i] - target[i]) / elements as f64;
    }
    losses
}

/// Gradient for the prediction.
pub(crate) fn plain_grad(
    kind: LossKind,
    (pred, target): (&[f64], &[f64]),
    weight: Option<&[f64]>,
    upstream: &[f64],
    sizes: [usize; 3],
) -> Vec<f64> {
    let elements = sizes[1] * sizes[2];
    let weights = element_weights(weight, sizes);
    let slope = |i: usize| weights[i] * kind.plain_slope(pred[i] - target[i]) / elements as f64;
    (0..pred.len()).map(|i| upstream[i / elements] * slope(i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        let target = Tensor::from_slice(&[0.3f64; 24], &[2, 2, 3, 2]).unwrap();
        let per_sample = Tensor::from_slice(&[0.5f64, 2.0], &[2]).unwrap();
        let per_pixel: Vec<f64> = (0..12).map(|i| f64::from(i) / 4.0).collect();
        let per_pixel = Tensor::from_slice(&per_pixel, &[2, 2, 3]).unwrap();
        for kind in [LossKind::Mse, LossKind::PseudoHuber { c: 0.3 }, LossKind::PseudoSmoothL1 { c: 0.1 }] {
            for weight in [None, Some(&per_sample), Some(&per_pixel)] {
                check_gradients(&[&[2, 2, 3, 2]], |tape, v| loss(tape, kind, &v[0], &target, weight));
            }
        }
    }
}
