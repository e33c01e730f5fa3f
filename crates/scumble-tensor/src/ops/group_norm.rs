//! Group normalisation (Wu & He 2018), with SiLU behind it on request:
//! `z = gamma (x - mean) rstd + beta`, `y = z` or `y = z sigmoid(z)`; mean and `rstd = 1 / sqrt(variance + eps)`
//! over all pixels of one image and the channels of one group, the variance being the biased one.
//!
//! With `xhat = (x - mean) rstd`, `g = dz gamma` and means over the group:
//!
//! ```text
//! dx = rstd (g - mean(g) - xhat mean(g xhat))        dgamma = sum of dz xhat        dbeta = sum of dz
//! ```

use crate::backend::{GroupNormSpec, NormWanted};
use crate::error::{Result, shape_error};
use crate::ops::cast::matching;
use crate::ops::{check_numel, per_image};
use crate::tape::{Tape, Var};

const OP: &str = "group_norm";

/// `x [n, ..., c]`, `gamma` and `beta` `[c]` -> as `x`.
pub fn group_norm(tape: &Tape<'_>, x: &Var, gamma: &Var, beta: &Var, spec: GroupNormSpec) -> Result<Var> {
    let [_, _, channels] = per_image(OP, x.value().shape())?;
    check_numel(OP, "gamma", channels, gamma.value())?;
    check_numel(OP, "beta", channels, beta.value())?;
    check_groups(channels, spec.groups)?;
    let (gamma, beta) = (&matching(tape, gamma, x)?, &matching(tape, beta, x)?);
    let (y, stats) = tape.backend().group_norm(x.value(), gamma.value(), beta.value(), spec)?;
    Ok(tape.record(&[x, gamma, beta], y, || {
        let wanted = NormWanted { x: x.needs_grad(), affine: gamma.needs_grad() || beta.needs_grad() };
        let (x, gamma, beta) = (x.value().clone(), gamma.value().clone(), beta.value().clone());
        move |backend, d_y, _| {
            let grads = backend.group_norm_grad(d_y, &x, &gamma, &beta, &stats, spec, wanted)?;
            let (d_gamma, d_beta) = grads.affine.unzip();
            Ok(vec![grads.x, d_gamma, d_beta])
        }
    }))
}

pub(crate) fn check_groups(channels: usize, groups: usize) -> Result<()> {
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(shape_error(OP, "groups", format!("a divisor of {channels} channels"), groups));
    }
    Ok(())
}
