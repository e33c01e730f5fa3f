//! Normalisations, forward and backward, with means far from zero (one-pass variances fail those).

use super::{Case, Tolerance, Trial};
use crate::backend::{GroupNormSpec, NormWanted};
use crate::error::Result;

const BOTH: NormWanted = NormWanted { x: true, affine: true };

fn group(trial: &mut Trial<'_>, x: &[usize], spec: GroupNormSpec, mean: f32) -> Result<()> {
    let c = x.last().copied().unwrap_or(1);
    let (x, dy) = (trial.input_of(x, mean, 1.0)?, trial.input(x)?);
    let (gamma, beta) = (trial.input_of(&[c], 1.0, 0.3)?, trial.input_of(&[c], 0.0, 0.3)?);
    let tolerance = tolerance(mean);
    let backend = trial.backend();
    let (y, stats) = backend.group_norm(&x, &gamma, &beta, spec)?;
    trial.output("y", &y, tolerance)?;
    trial.gradient("statistics", &stats, tolerance)?;
    for wanted in [BOTH, NormWanted { affine: false, ..BOTH }, NormWanted { x: false, ..BOTH }] {
        let grads = backend.group_norm_grad(&dy, &x, &gamma, &beta, &stats, spec, wanted)?;
        hand_in(trial, grads, tolerance)?;
    }
    Ok(())
}

fn layer(trial: &mut Trial<'_>, x: &[usize], eps: f32, mean: f32) -> Result<()> {
    let c = x.last().copied().unwrap_or(1);
    let (x, dy) = (trial.input_of(x, mean, 1.0)?, trial.input(x)?);
    let (gamma, beta) = (trial.input_of(&[c], 1.0, 0.3)?, trial.input_of(&[c], 0.0, 0.3)?);
    let tolerance = tolerance(mean);
    let backend = trial.backend();
    let (y, stats) = backend.layer_norm(&x, &gamma, &beta, eps)?;
    trial.output("y", &y, tolerance)?;
    trial.gradient("statistics", &stats, tolerance)?;
    for wanted in [BOTH, NormWanted { affine: false, ..BOTH }, NormWanted { x: false, ..BOTH }] {
        let grads = backend.layer_norm_grad(&dy, &x, &gamma, &stats, wanted)?;
        hand_in(trial, grads, tolerance)?;
    }
    Ok(())
}

/// A mean of `m` deviations costs `m` times the precision of `x - mean`.
fn tolerance(mean: f32) -> Tolerance {
    Tolerance::Conditioned(2.0 + f64::from(mean.abs()) / 10.0)
}

fn hand_in(trial: &mut Trial<'_>, grads: crate::backend::NormGrads, tolerance: Tolerance) -> Result<()> {
    if let Some(d_x) = &grads.x {
        trial.output("dx", d_x, tolerance)?;
    }
    if let Some((d_gamma, d_beta)) = &grads.affine {
        trial.gradient("dgamma", d_gamma, tolerance)?;
        trial.gradient("dbeta", d_beta, tolerance)?;
    }
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    let groups: [(&'static [usize], usize, f32); 11] = [
        (&[1, 4, 4, 32], 16, 0.0),
        (&[2, 5, 3, 64], 32, 0.0),
        (&[3, 7, 48], 16, 0.0),
        (&[1, 1, 1, 160], 32, 0.0),
        (&[2, 9, 11, 320], 32, 0.0),
        (&[1, 6, 6, 20], 5, 0.0),
        (&[1, 40, 33, 32], 32, 0.0),
        (&[2, 77, 10], 1, 0.0),
        (&[1, 3, 3, 18], 6, 0.0),
        (&[1, 8, 8, 32], 8, 50.0),
        (&[2, 13, 17, 96], 32, -20.0),
    ];
    let mut cases = Vec::new();
    for (x, count, mean) in groups {
        for (silu, eps) in [(false, 1e-6), (true, 1e-5)] {
            let label = format!("{x:?}, {count} groups, silu {silu}, mean {mean}");
            let spec = GroupNormSpec { groups: count, eps, silu };
            cases.push(Case::new("group_norm", label, move |trial| group(trial, x, spec, mean)));
        }
    }
    let rows: [(&'static [usize], f32); 9] = [
        (&[1, 320], 0.0),
        (&[2, 77, 768], 0.0),
        (&[3, 7], 0.0),
        (&[2, 13, 640], 0.0),
        (&[5, 33], 0.0),
        (&[300, 16], 0.0),
        (&[1, 1280], 0.0),
        (&[4, 100], 50.0),
        (&[9, 320], -20.0),
    ];
    for (x, mean) in rows {
        let label = format!("{x:?}, mean {mean}");
        cases.push(Case::new("layer_norm", label, move |trial| layer(trial, x, 1e-5, mean)));
    }
    cases
}
