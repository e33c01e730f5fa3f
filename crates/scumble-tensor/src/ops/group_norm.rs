//! Group normalisation (Wu & He 2018), with SiLU behind it on request:
//! `z = gamma (x - mean) rstd + beta`, `y = z` or `y = z sigmoid(z)`; mean and `rstd = 1 / sqrt(variance + eps)`
//! over all pixels of one image and the channels of one group, the variance being the biased one.
//!
//! With `xhat = (x - mean) rstd`, `g = dz gamma` and means over the group:
//!
//! ```text
//! dx = rstd (g - mean(g) - xhat mean(g xhat))        dgamma = sum of dz xhat        dbeta = sum of dz
//! ```

use crate::backend::{Activation, GroupNormSpec, NormWanted};
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

/// The sizes of one normalisation; says which elements are one group's.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    /// Images, pixels of one image, channels.
    pub sizes: [usize; 3],
    /// Groups, epsilon, SiLU.
    pub spec: GroupNormSpec,
}

impl Geometry {
    /// `(element, channel)` of all elements of an image's group.
    fn members(&self, image: usize, group: usize) -> impl Iterator<Item = (usize, usize)> + Clone + use<> {
        let [_, pixels, c] = self.sizes;
        let width = c / self.spec.groups;
        (0..pixels).flat_map(move |pixel| {
            (group * width..(group + 1) * width).map(move |ch| ((image * pixels + pixel) * c + ch, ch))
        })
    }

    fn group_size(&self) -> f64 {
        (self.sizes[1] * self.sizes[2] / self.spec.groups) as f64
    }
}

/// The normalised picture, and `[n, groups, 2]` of mean and reciprocal deviation, in plain loops.
pub(crate) fn plain(x: &[f64], gamma: &[f64], beta: &[f64], at: &Geometry) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut stats) = (vec![0.0; x.len()], Vec::new());
    for (image, group) in (0..at.sizes[0]).flat_map(|n| (0..at.spec.groups).map(move |g| (n, g))) {
        let members = at.members(image, group);
        let mean = members.clone().map(|(i, _)| x[i]).sum::<f64>() / at.group_size();
        let variance = members.clone().map(|(i, _)| (x[i] - mean).powi(2)).sum::<f64>() / at.group_size();
        let rstd = 1.0 / (variance + f64::from(at.spec.eps)).sqrt();
        for (i, ch) in members {
            let z = gamma[ch] * (x[i] - mean) * rstd + beta[ch];
            y[i] = if at.spec.silu { Activation::Silu.plain(z) } else { z };
        }
        stats.extend([mean, rstd]);
    }
    (y, stats)
}

/// Gradients for input, scale and shift.
pub(crate) fn plain_grad(
    d_y: &[f64],
    x: &[f64],
    gamma: &[f64],
    beta: &[f64],
    stats: &[f64],
    at: &Geometry,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut d_x, mut d_gamma, mut d_beta) =
        (vec![0.0; x.len()], vec![0.0; gamma.len()], vec![0.0; gamma.len()]);
    for (image, group) in (0..at.sizes[0]).flat_map(|n| (0..at.spec.groups).map(move |g| (n, g))) {
        let index = (image * at.spec.groups + group) * 2;
        let (mean, rstd) = (stats[index], stats[index + 1]);
        let normal = |i: usize| (x[i] - mean) * rstd;
        let d_z = |i: usize, ch: usize| {
            let slope = if at.spec.silu {
                Activation::Silu.plain_slope(gamma[ch] * normal(i) + beta[ch])
            } else {
                1.0
            };
            d_y[i] * slope
        };
        let members = at.members(image, group);
        let (mut mean_g, mut mean_gx) = (0.0, 0.0);
        for (i, ch) in members.clone() {
            let d_z = d_z(i, ch);
            mean_g += d_z * gamma[ch] / at.group_size();
            mean_gx += d_z * gamma[ch] * normal(i) / at.group_size();
            d_gamma[ch] += d_z * normal(i);
            d_beta[ch] += d_z;
        }
        for (i, ch) in members {
            d_x[i] = rstd * (d_z(i, ch) * gamma[ch] - mean_g - normal(i) * mean_gx);
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
        for silu in [false, true] {
            let spec = GroupNormSpec { groups: 2, eps: 1e-5, silu };
            check_gradients(&[&[2, 2, 3, 4], &[4], &[4]], |tape, v| {
                group_norm(tape, &v[0], &v[1], &v[2], spec)
            });
        }
    }
}
