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
