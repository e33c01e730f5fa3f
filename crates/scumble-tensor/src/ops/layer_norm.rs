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

/// Rows of `[rows, c]` normalised, and `[rows, 2]` of mean and reciprocal deviation, in plain loops.
pub(crate) fn plain(x: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let c = gamma.len();
    let (mut y, mut stats) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(c.max(1)) {
        let mean = row.iter().sum::<f64>() / c as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
        let rstd = 1.0 / (variance + eps).sqrt();
        y.extend((0..c).map(|ch| gamma[ch] * (row[ch] - mean) * rstd + beta[ch]));
        stats.extend([mean, rstd]);
    }
    (y, stats)
}

/// Gradients for input, scale and shift.
pub(crate) fn plain_grad(
    d_y: &[f64],
    x: &[f64],
    gamma: &[f64],
    stats: &[f64],
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let c = gamma.len();
    let (mut d_x, mut d_gamma, mut d_beta) = (Vec::new(), vec![0.0; c], vec![0.0; c]);
    for ((x, d_y), stats) in
        x.chunks_exact(c.max(1)).zip(d_y.chunks_exact(c.max(1))).zip(stats.chunks_exact(2))
    {
        let (mean, rstd) = (stats[0], stats[1]);
        let normal = |ch: usize| (x[ch] - mean) * rstd;
        let mean_g = (0..c).map(|ch| d_y[ch] * gamma[ch]).sum::<f64>() / c as f64;
        let mean_gx = (0..c).map(|ch| d_y[ch] * gamma[ch] * normal(ch)).sum::<f64>() / c as f64;
        for ch in 0..c {
            d_x.push(rstd * (d_y[ch] * gamma[ch] - mean_g - normal(ch) * mean_gx));
            d_gamma[ch] += d_y[ch] * normal(ch);
            d_beta[ch] += d_y[ch];
        }
    }
    (d_x, d_gamma, d_beta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[2, 3, 5], &[5], &[5]], |tape, v| layer_norm(tape, &v[0], &v[1], &v[2], 1e-5));
    }
}
