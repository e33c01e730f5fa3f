//! Losses of one sample each: the mean over its elements of `weight * penalty(pred - target)`.
//!
//! ```text
//! mse             d^2                            derivative  2 d
//! pseudo-Huber    2 c (sqrt(d^2 + c^2) - c)                  2 c d / sqrt(d^2 + c^2)
//! smooth L1       2 (sqrt(d^2 + c^2) - c)                    2 d / sqrt(d^2 + c^2)
//! ```
//!
//! `sqrt(d^2 + c^2) - c` cancels for small d and is computed as `d^2 / (sqrt(d^2 + c^2) + c)`.

use scumble_tensor::backend::LossKind;
use scumble_tensor::{Result, Tensor, shape_error};

use crate::engine::Engine;
use crate::operands::{expect_same, floats, floats_of};
use crate::simd::{Scalar, with_scalar};

fn penalty(kind: LossKind, d: f32) -> f32 {
    let arc = |c: f32| if d == 0.0 { 0.0 } else { d * d / ((d * d + c * c).sqrt() + c) };
    match kind {
        LossKind::Mse => d * d,
        LossKind::PseudoHuber { c } => 2.0 * c * arc(c),
        LossKind::PseudoSmoothL1 { c } => 2.0 * arc(c),
    }
}

fn slope(kind: LossKind, d: f32) -> f32 {
    let direction = |c: f32| if d == 0.0 { 0.0 } else { d / (d * d + c * c).sqrt() };
    match kind {
        LossKind::Mse => 2.0 * d,
        LossKind::PseudoHuber { c } => 2.0 * c * direction(c),
        LossKind::PseudoSmoothL1 { c } => 2.0 * direction(c),
    }
}

/// Operands of a loss, checked.
struct Samples<'t, E> {
    kind: LossKind,
    pred: &'t [E],
    target: &'t [E],
    weight: Option<&'t [f32]>,
    count: usize,
    /// Elements of a sample, and how many of them share a weight.
    elements: usize,
    per_weight: usize,
}

impl<'t, E: Scalar> Samples<'t, E> {
    fn new(
        op: &'static str,
        kind: LossKind,
        pred: &'t Tensor,
        target: &'t Tensor,
        weight: Option<&'t Tensor>,
    ) -> Result<Self> {
        expect_same(op, "the target", pred, target)?;
        let count = pred.shape().first();
        let elements = pred.numel() / count.max(1);
        let mut per_weight = elements;
        if let Some(weight) = weight {
            let per_pixel = &pred.dims()[..pred.shape().rank().saturating_sub(1)];
            per_weight = match weight.dims() {
                &[n] if n == count => elements,
                dims if dims.len() > 1 && dims == per_pixel => pred.shape().last(),
                _ => {
                    return Err(shape_error(
                        op,
                        "weight",
                        format!("[{count}] or {per_pixel:?}"),
                        weight.shape(),
                    ));
                }
            };
        }
        Ok(Self {
            kind,
            pred: crate::operands::elements(op, "the prediction", pred)?,
            target: crate::operands::elements(op, "the target", target)?,
            weight: weight.map(|weight| floats(op, "the weight", weight)).transpose()?,
            count,
            elements,
            per_weight: per_weight.max(1),
        })
    }

    fn weight(&self, element: usize) -> f32 {
        self.weight.map_or(1.0, |weight| weight[element / self.per_weight])
    }

    fn difference(&self, element: usize) -> f32 {
        self.pred[element].widen() - self.target[element].widen()
    }
}

/// f32 `[n]`.
pub(crate) fn loss(
    engine: &Engine,
    kind: LossKind,
    pred: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
) -> Result<Tensor> {
    with_scalar!("loss", pred.dtype(), E => {
        let samples = Samples::<E>::new("loss", kind, pred, target, weight)?;
        Tensor::build(&[samples.count], |to: &mut [f32]| {
            engine.pool.run_pieces(to, 1, |sample, to| {
                let range = sample * samples.elements..(sample + 1) * samples.elements;
                let term =
                    |element| f64::from(samples.weight(element) * penalty(kind, samples.difference(element)));
                to[0] = (range.map(term).sum::<f64>() / samples.elements as f64) as f32;
            });
        })
    })
}

/// Gradient for `pred` of the sum of `upstream [n]` times the losses.
pub(crate) fn loss_grad(
    engine: &Engine,
    kind: LossKind,
    pred: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
    upstream: &Tensor,
) -> Result<Tensor> {
    with_scalar!("loss_grad", pred.dtype(), E => {
        let samples = Samples::<E>::new("loss_grad", kind, pred, target, weight)?;
        let upstream = floats_of("loss_grad", "the upstream gradient", upstream, samples.count)?;
        Tensor::build(pred.dims(), |to: &mut [E]| {
            engine.pool.run_pieces(to, samples.elements, |sample, to| {
                let share = upstream[sample] / samples.elements as f32;
                for (index, to) in to.iter_mut().enumerate() {
                    let element = sample * samples.elements + index;
                    let slope = slope(samples.kind, samples.difference(element));
                    *to = E::narrow(share * samples.weight(element) * slope);
                }
            });
        })
    })
}
