//! Layer normalisation (Ba, Kiros, Hinton 2016): `y = gamma (x - mean) rstd + beta` with mean and
//! `rstd = 1 / sqrt(variance + eps)` over each row, the variance being the biased one.
//!
//! With `xhat = (x - mean) rstd`, `g = dy gamma` and means over the row:
//!
//! ```text
//! dx = rstd (g - mean(g) - xhat mean(g xhat))        dgamma = sum of dy xhat        dbeta = sum of dy
//! ```

use crate::backend::NormWanted;
use crate::error::Result;
use crate::ops::cast::matching;
use crate::ops::check_numel;
use crate::tape::{Tape, Var};

const OP: &str = "layer_norm";

/// `x [..., c]`, `gamma` and `beta` `[c]` -> as `x`.
pub fn layer_norm(tape: &Tape<'_>, x: &Var, gamma: &Var, beta: &Var, eps: f32) -> Result<Var> {
    let channels = x.value().shape().last();
    check_numel(OP, "gamma", channels, gamma.value())?;
    check_numel(OP, "beta", channels, beta.value())?;
    let (gamma, beta) = (&matching(tape, gamma, x)?, &matching(tape, beta, x)?);
    let (y, stats) = tape.backend().layer_norm(x.value(), gamma.value(), beta.value(), eps)?;
    Ok(tape.record(&[x, gamma, beta], y, || {
        let wanted = NormWanted { x: x.needs_grad(), affine: gamma.needs_grad() || beta.needs_grad() };
        let (x, gamma) = (x.value().clone(), gamma.value().clone());
        move |backend, d_y, _| {
            let grads = backend.layer_norm_grad(d_y, &x, &gamma, &stats, wanted)?;
            let (d_gamma, d_beta) = grads.affine.unzip();
            Ok(vec![grads.x, d_gamma, d_beta])
        }
    }))
}
