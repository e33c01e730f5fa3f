//! Group norm over channels-last pictures, with SiLU on request.
//!
//! ```text
//! z = (x - mean) rstd gamma + beta,   y = z or silu(z);   mean, rstd per image and group
//! g = dy silu'(z) gamma,  xh = (x - mean) rstd
//! dx = rstd (g - mean(g) - xh mean(g xh))      dgamma = sum dy silu'(z) xh      dbeta = sum dy silu'(z)
//! ```
//!
//! A group's channels lie side by side in every pixel, so all sums are first taken per channel over rows (vectors run
//! along channels), then over the group.

use scumble_tensor::backend::{GroupNormSpec, NormGrads, NormWanted};
use scumble_tensor::{Result, Tensor, shape_error};

use crate::activation::{swish, swish_slope};
use crate::engine::Engine;
use crate::moments::group_moments;
use crate::operands::{channels, elements, elements_of, floats_of, images};
use crate::pool::SharedMut;
use crate::reduce::{column_sums, piece_rows};
use crate::simd::{Kernel, Scalar, Simd, with_scalar};

/// `[n, inner, c]` and the groups, checked.
fn sizes(op: &'static str, x: &Tensor, spec: &GroupNormSpec) -> Result<[usize; 3]> {
    let [n, inner, c] = images(op, x)?;
    if spec.groups == 0 || !c.is_multiple_of(spec.groups) {
        return Err(shape_error(op, "channels", format!("a multiple of {} groups", spec.groups), c));
    }
    Ok([n, inner, c])
}

/// Mean and reciprocal deviation per image and channel, so that vectors run along channels.
struct PerChannel {
    mean: Vec<f32>,
    rstd: Vec<f32>,
    c: usize,
}

impl PerChannel {
    fn new(stats: &[f32], groups: usize, [n, _, c]: [usize; 3]) -> Self {
        let group_of = |index: usize| (index / c) * groups + (index % c) / (c / groups);
        let pick = |which: usize| (0..n * c).map(|index| stats[group_of(index) * 2 + which]).collect();
        Self { mean: pick(0), rstd: pick(1), c }
    }

    fn image(&self, image: usize) -> (&[f32], &[f32]) {
        let range = image * self.c..(image + 1) * self.c;
        (&self.mean[range.clone()], &self.rstd[range])
    }
}

/// Rows of one image and what belongs to their channels.
struct Rows<'a, E> {
    x: &'a [E],
    mean: &'a [f32],
    rstd: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    silu: bool,
}

impl<E: Scalar> Rows<'_, E> {
    /// Normalised value and `z` of one vector.
    #[inline(always)]
    fn normalised<S: Simd>(&self, s: S, row: &[E], range: std::ops::Range<usize>) -> (S::V, S::V) {
        let centred = s.sub(E::read(s, &row[range.clone()]), s.read(&self.mean[range.clone()]));
        let x = s.mul(centred, s.read(&self.rstd[range.clone()]));
        (x, s.fma(x, s.read(&self.gamma[range.clone()]), s.read(&self.beta[range])))
    }
}

struct Normalise<'a, E> {
    rows: Rows<'a, E>,
    y: &'a mut [E],
}

impl<E: Scalar> Kernel for Normalise<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.rows.silu { self.all::<S, true>(s) } else { self.all::<S, false>(s) }
    }
}

impl<E: Scalar> Normalise<'_, E> {
    #[inline(always)]
    fn all<S: Simd, const SILU: bool>(self, s: S) {
        let Rows { x, mean, rstd, gamma, beta, .. } = self.rows;
        let c = mean.len().max(1);
        let scale: Vec<f32> = rstd.iter().zip(gamma).map(|(rstd, gamma)| rstd * gamma).collect();
        for (y, row) in self.y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            let (y, row) = (y.chunks_mut(S::LANES), row.chunks(S::LANES));
            let channels = mean.chunks(S::LANES).zip(scale.chunks(S::LANES)).zip(beta.chunks(S::LANES));
            for ((y, x), ((mean, scale), beta)) in y.zip(row).zip(channels) {
                let centred = s.sub(E::read(s, x), s.read(mean));
                let z = s.fma(centred, s.read(scale), s.read(beta));
                E::write(s, y, if SILU { swish::<S, E>(s, z, 1.0) } else { z });
            }
        }
    }
}

/// `x [n, ..., c]` -> result and statistics `[n, groups, 2]`.
pub(crate) fn group_norm(
    engine: &Engine,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    spec: GroupNormSpec,
) -> Result<(Tensor, Tensor)> {
    with_scalar!("group_norm", x.dtype(), E => group_norm_typed::<E>(engine, x, gamma, beta, spec))
}

fn group_norm_typed<E: Scalar>(
    engine: &Engine,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    spec: GroupNormSpec,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "group_norm";
    let shape = sizes(OP, x, &spec)?;
    let [n, inner, c] = shape;
    let from = elements::<E>(OP, "the input", x)?;
    let (gamma, beta) = (channels(OP, "gamma", gamma, c)?, channels(OP, "beta", beta, c)?);
    let (gamma, beta) = (&*gamma, &*beta);
    let stats = group_moments(engine, from, shape, spec.groups, spec.eps)?;
    let per_channel = PerChannel::new(&stats, spec.groups, shape);
    let y = Tensor::build(x.dims(), |y: &mut [E]| {
        for_pieces(engine, shape, y, |image, range, y| {
            let (mean, rstd) = per_channel.image(image);
            let rows = Rows { x: &from[range], mean, rstd, gamma, beta, silu: spec.silu };
            engine.tier.run_rounding(Normalise { rows, y });
        });
    })?;
    debug_assert_eq!(y.numel(), n * inner * c);
    Ok((y, Tensor::from_slice(&stats, &[n, spec.groups, 2])?))
}

/// Runs a task on pieces of the rows of each image: `(image, range of elements, result)`.
fn for_pieces<E: Scalar>(
    engine: &Engine,
    [n, inner, c]: [usize; 3],
    y: &mut [E],
    task: impl Fn(usize, std::ops::Range<usize>, &mut [E]) + Sync,
) {
    let rows = piece_rows(c);
    let pieces = inner.div_ceil(rows);
    let y = SharedMut::new(y);
    engine.pool.run(n * pieces, |index, _| {
        let (image, first) = (index / pieces, (index % pieces) * rows);
        let start = (image * inner + first) * c;
        let len = rows.min(inner - first) * c;
        // SAFETY: every task has rows of its own.
        task(image, start..start + len, unsafe { y.slice(start, len) });
    });
}

/// Adds to the sums of `d_z` and of `d_z xh` per channel, `d_z = dy silu'(z)`.
struct AddGradSums<'a, E> {
    rows: Rows<'a, E>,
    d_y: &'a [E],
    sums: &'a mut [f32],
}

impl<E: Scalar> Kernel for AddGradSums<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.rows.silu { self.all::<S, true>(s) } else { self.all::<S, false>(s) }
    }
}

impl<E: Scalar> AddGradSums<'_, E> {
    #[inline(always)]
    fn all<S: Simd, const SILU: bool>(mut self, s: S) {
        let c = self.rows.mean.len();
        let mut at = 0;
        while at + 2 * S::LANES <= c {
            self.block::<S, 2, SILU>(s, at);
            at += 2 * S::LANES;
        }
        while at < c {
            self.block::<S, 1, SILU>(s, at);
            at += S::LANES;
        }
    }

    /// `N` registers' columns from `at` on, or what there is of one.
    #[inline(always)]
    fn block<S: Simd, const N: usize, const SILU: bool>(&mut self, s: S, at: usize) {
        let c = self.rows.mean.len();
        let range = |i: usize| at + i * S::LANES..c.min(at + (i + 1) * S::LANES);
        let (mut plain, mut weighted) = ([s.splat(0.0); N], [s.splat(0.0); N]);
        for (row, d_y) in self.rows.x.chunks_exact(c).zip(self.d_y.chunks_exact(c)) {
            for i in 0..N {
                let (x, z) = self.rows.normalised(s, row, range(i));
                let mut d_z = E::read(s, &d_y[range(i)]);
                if SILU {
                    d_z = s.mul(d_z, swish_slope::<S, E>(s, z, 1.0));
                }
                plain[i] = s.add(plain[i], d_z);
                weighted[i] = s.fma(d_z, x, weighted[i]);
            }
        }
        let (to_plain, to_weighted) = self.sums.split_at_mut(c);
        for i in 0..N {
            s.write(&mut to_plain[range(i)], plain[i]);
            s.write(&mut to_weighted[range(i)], weighted[i]);
        }
    }
}

struct InputGradient<'a, E> {
    rows: Rows<'a, E>,
    d_y: &'a [E],
    /// `mean(g)` and `mean(g xh)` of each channel's group.
    mean_g: &'a [f32],
    mean_gx: &'a [f32],
    d_x: &'a mut [E],
}

impl<E: Scalar> Kernel for InputGradient<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.rows.silu { self.all::<S, true>(s) } else { self.all::<S, false>(s) }
    }
}

impl<E: Scalar> InputGradient<'_, E> {
    #[inline(always)]
    fn all<S: Simd, const SILU: bool>(self, s: S) {
        let c = self.rows.mean.len().max(1);
        let operands = self.rows.x.chunks_exact(c).zip(self.d_y.chunks_exact(c));
        for (d_x, (row, d_y)) in self.d_x.chunks_exact_mut(c).zip(operands) {
            for at in (0..c).step_by(S::LANES) {
                let range = at..(at + S::LANES).min(c);
                let (x, z) = self.rows.normalised(s, row, range.clone());
                let mut g = s.mul(E::read(s, &d_y[range.clone()]), s.read(&self.rows.gamma[range.clone()]));
                if SILU {
                    g = s.mul(g, swish_slope::<S, E>(s, z, 1.0));
                }
                let along = s.mul(x, s.read(&self.mean_gx[range.clone()]));
                let rest = s.sub(s.sub(g, s.read(&self.mean_g[range.clone()])), along);
                E::write(s, &mut d_x[range.clone()], s.mul(rest, s.read(&self.rows.rstd[range])));
            }
        }
    }
}

/// Gradients of [`group_norm`].
#[allow(clippy::too_many_arguments)] // the op has this many operands
pub(crate) fn group_norm_grad(
    engine: &Engine,
    d_y: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    stats: &Tensor,
    spec: GroupNormSpec,
    wanted: NormWanted,
) -> Result<NormGrads> {
    with_scalar!("group_norm_grad", x.dtype(), E => {
        group_norm_grad_typed::<E>(engine, d_y, x, gamma, beta, stats, spec, wanted)
    })
}

#[allow(clippy::too_many_arguments)] // the op has this many operands
fn group_norm_grad_typed<E: Scalar>(
    engine: &Engine,
    d_y: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    stats: &Tensor,
    spec: GroupNormSpec,
    wanted: NormWanted,
) -> Result<NormGrads> {
    const OP: &str = "group_norm_grad";
    let shape = sizes(OP, x, &spec)?;
    let [n, inner, c] = shape;
    let from = elements::<E>(OP, "the input", x)?;
    let upstream = elements_of::<E>(OP, "the upstream gradient", d_y, from.len())?;
    let (gamma, beta) = (channels(OP, "gamma", gamma, c)?, channels(OP, "beta", beta, c)?);
    let (gamma, beta) = (&*gamma, &*beta);
    let stats = floats_of(OP, "the statistics", stats, n * spec.groups * 2)?;
    let per_channel = PerChannel::new(stats, spec.groups, shape);
    let rows = |image: usize, range: std::ops::Range<usize>| {
        let (mean, rstd) = per_channel.image(image);
        Rows { x: &from[range], mean, rstd, gamma, beta, silu: spec.silu }
    };
    let sums = column_sums::<2>(engine, shape, |image, first, count, sums| {
        let range = (image * inner + first) * c..(image * inner + first + count) * c;
        let d_y = &upstream[range.clone()];
        engine.tier.run(AddGradSums { rows: rows(image, range), d_y, sums });
    })?;
    let affine = if wanted.affine { Some(affine_gradients(&sums, c)?) } else { None };
    if !wanted.x {
        return Ok(NormGrads { x: None, affine });
    }
    let (mean_g, mean_gx) = gradient_means(&sums, gamma, &spec, shape);
    let d_x = Tensor::build(x.dims(), |d_x: &mut [E]| {
        for_pieces(engine, shape, d_x, |image, range, d_x| {
            let (mean_g, mean_gx) = (&mean_g[image * c..][..c], &mean_gx[image * c..][..c]);
            let d_y = &upstream[range.clone()];
            engine.tier.run_rounding(InputGradient { rows: rows(image, range), d_y, mean_g, mean_gx, d_x });
        });
    })?;
    Ok(NormGrads { x: Some(d_x), affine })
}

/// Gradients of gamma and beta from the sums `[n, 2, c]` of `d_z` and `d_z xh`.
pub(crate) fn affine_gradients(sums: &[f64], c: usize) -> Result<(Tensor, Tensor)> {
    let total = |which: usize| {
        Tensor::build(&[c], |to: &mut [f32]| {
            for (channel, to) in to.iter_mut().enumerate() {
                let values = sums.chunks_exact(2 * c).map(|image| image[which * c + channel]);
                *to = values.sum::<f64>() as f32;
            }
        })
    };
    Ok((total(1)?, total(0)?))
}

/// Per image and channel, the means of `g` and `g xh` over the channel's group.
fn gradient_means(
    sums: &[f64],
    gamma: &[f32],
    spec: &GroupNormSpec,
    [n, inner, c]: [usize; 3],
) -> (Vec<f32>, Vec<f32>) {
    let width = c / spec.groups;
    let mean = |which: usize| {
        let mut means = vec![0.0f32; n * c];
        for (group, means) in means.chunks_exact_mut(width).enumerate() {
            let (image, first) = (group / spec.groups, (group % spec.groups) * width);
            let sums = &sums[image * 2 * c + which * c + first..][..width];
            let terms = sums.iter().zip(&gamma[first..]).map(|(&sum, &gamma)| sum * f64::from(gamma));
            means.fill((terms.sum::<f64>() / (width * inner) as f64) as f32);
        }
        means
    };
    (mean(0), mean(1))
}
