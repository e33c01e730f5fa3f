//! Losses with and without weights, and the optimizer over several steps.

use super::{Case, Tolerance, Trial};
use crate::backend::{AdamWStep, LossKind};
use crate::error::Result;

fn loss(trial: &mut Trial<'_>, kind: LossKind, dims: &[usize]) -> Result<()> {
    let (n, pixels) = (dims[0], &dims[..dims.len() - 1]);
    let (pred, target) = (trial.input(dims)?, trial.input(dims)?);
    let per_sample = trial.statistic(&[n], 1.0, 0.5)?;
    let per_pixel = trial.statistic(pixels, 1.0, 0.5)?;
    let upstream = trial.statistic(&[n], 0.5, 1.0)?;
    let weights = [None, Some(&per_sample), (pixels.len() > 1).then_some(&per_pixel)];
    let backend = trial.backend();
    for weight in weights {
        trial.gradient("loss", &backend.loss(kind, &pred, &target, weight)?, Tolerance::Sum)?;
        let d_pred = backend.loss_grad(kind, &pred, &target, weight, &upstream)?;
        trial.output("dpred", &d_pred, Tolerance::Pointwise)?;
    }
    let longer = trial.statistic(&[n + 1], 1.0, 0.5)?;
    trial.refused("a weight for other samples", backend.loss(kind, &pred, &target, Some(&longer)))
}

fn adamw(trial: &mut Trial<'_>, len: usize, weight_decay: f64) -> Result<()> {
    let mut param = trial.owned(&[len], 1.0, 0.3)?;
    let (mut m, mut v) = (trial.owned(&[len], 0.0, 0.0)?, trial.owned(&[len], 0.0, 0.0)?);
    let backend = trial.backend();
    // Someone else holds the first value; it must stay.
    let before = param.clone();
    for step in 1..=5 {
        let grad = trial.statistic(&[len], 1.0, 0.5)?;
        let step =
            AdamWStep { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step, grad_scale: 0.5 };
        backend.adamw(&mut param, &grad, &mut m, &mut v, &step)?;
        trial.gradient("parameter", &param, Tolerance::Sum)?;
        trial.gradient("first moment", &m, Tolerance::Sum)?;
        trial.gradient("second moment", &v, Tolerance::Sum)?;
    }
    trial.gradient("shared parameter", &before, Tolerance::Exact)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [&'static [usize]; 5] = [&[1, 1], &[2, 4, 4, 4], &[3, 7, 5, 3], &[2, 1000], &[1, 33, 31, 4]];
    for kind in [LossKind::Mse, LossKind::PseudoHuber { c: 0.1 }, LossKind::PseudoSmoothL1 { c: 0.5 }] {
        for dims in shapes {
            let label = format!("{kind:?} of {dims:?}");
            cases.push(Case::new("loss", label, move |trial| loss(trial, kind, dims)));
        }
    }
    for len in [1, 17, 1000, 20_011] {
        for weight_decay in [0.0, 0.01] {
            let label = format!("{len} parameters, weight decay {weight_decay}");
            cases.push(Case::new("adamw", label, move |trial| adamw(trial, len, weight_decay)));
        }
    }
    cases
}
