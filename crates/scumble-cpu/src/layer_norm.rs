//! Layer norm: each row by itself.
//!
//! ```text
//! y = xh gamma + beta,  xh = (x - mean) rstd
//! g = dy gamma,  dx = rstd (g - mean(g) - xh mean(g xh))      dgamma = sum dy xh      dbeta = sum dy
//! ```

use scumble_tensor::backend::{NormGrads, NormWanted};
use scumble_tensor::{Result, Tensor};

use crate::engine::Engine;
use crate::group_norm::affine_gradients;
use crate::operands::{channels, elements, elements_of, floats_of};
use crate::pool::SharedMut;
use crate::reduce::{column_sums, piece_rows};
use crate::simd::{Kernel, Scalar, Simd, with_scalar};

/// Sum over a row of `vector(range)`, whose unused lanes must be 0, in four chains; the last ranges may be empty.
#[inline(always)]
fn row_sum<S: Simd>(s: S, c: usize, vector: impl Fn(std::ops::Range<usize>) -> S::V) -> f32 {
    let mut sums = [s.splat(0.0); 4];
    for first in (0..c).step_by(4 * S::LANES) {
        // By iterating: chains that are looked up by a running number go through memory.
        for (chain, sum) in sums.iter_mut().enumerate() {
            let at = first + chain * S::LANES;
            *sum = s.add(*sum, vector(at.min(c)..(at + S::LANES).min(c)));
        }
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// A row's deviations from its mean; lanes behind the end are 0.
#[inline(always)]
fn centred<E: Scalar, S: Simd>(s: S, row: &[E], mean: f32, range: std::ops::Range<usize>) -> S::V {
    let len = range.len();
    let difference = s.sub(E::read(s, &row[range]), s.splat(mean));
    if len == S::LANES {
        return difference;
    }
    let mut lanes = [0.0f32; 16];
    s.write(&mut lanes[..S::LANES], difference);
    s.read(&lanes[..len])
}

struct Normalise<'a, E> {
    x: &'a [E],
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    y: &'a mut [E],
    stats: &'a mut [f32],
}

impl<E: Scalar> Kernel for Normalise<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.gamma.len().max(1);
        let to = self.y.chunks_exact_mut(c).zip(self.stats.chunks_exact_mut(2));
        for (row, (y, stats)) in self.x.chunks_exact(c).zip(to) {
            let mean = row_sum(s, c, |range| E::read(s, &row[range])) / c as f32;
            let squares = row_sum(s, c, |range| {
                let d = centred(s, row, mean, range);
                s.mul(d, d)
            });
            let rstd = 1.0 / (squares / c as f32 + self.eps).sqrt();
            stats.copy_from_slice(&[mean, rstd]);
            for at in (0..c).step_by(S::LANES) {
                let range = at..(at + S::LANES).min(c);
                let d = s.sub(E::read(s, &row[range.clone()]), s.splat(mean));
                let x = s.mul(d, s.splat(rstd));
                let value = s.fma(x, s.read(&self.gamma[range.clone()]), s.read(&self.beta[range.clone()]));
                E::write(s, &mut y[range], value);
            }
        }
    }
}

/// `x [..., c]` -> result and statistics `[rows, 2]`.
pub(crate) fn layer_norm(
    engine: &Engine,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    with_scalar!("layer_norm", x.dtype(), E => layer_norm_typed::<E>(engine, x, gamma, beta, eps))
}

fn layer_norm_typed<E: Scalar>(
    engine: &Engine,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "layer_norm";
    let (rows, c) = (x.shape().rows(), x.shape().last());
    let from = elements::<E>(OP, "the input", x)?;
    let (gamma, beta) = (channels(OP, "gamma", gamma, c)?, channels(OP, "beta", beta, c)?);
    let (gamma, beta) = (&*gamma, &*beta);
    let mut stats = vec![0.0f32; rows * 2];
    let y = Tensor::build(x.dims(), |y: &mut [E]| {
        let (y, stats) = (SharedMut::new(y), SharedMut::new(&mut stats));
        let piece = piece_rows(c);
        engine.pool.run(rows.div_ceil(piece), |index, _| {
            let (first, count) = (index * piece, piece.min(rows - index * piece));
            // SAFETY: every task has rows of its own.
            let (y, stats) = unsafe { (y.slice(first * c, count * c), stats.slice(first * 2, count * 2)) };
            let x = &from[first * c..(first + count) * c];
            engine.tier.run_rounding(Normalise { x, gamma, beta, eps, y, stats });
        });
    })?;
    Ok((y, Tensor::from_slice(&stats, &[rows, 2])?))
}

struct InputGradient<'a, E> {
    d_y: &'a [E],
    x: &'a [E],
    gamma: &'a [f32],
    stats: &'a [f32],
    d_x: &'a mut [E],
}

impl<E: Scalar> Kernel for InputGradient<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.gamma.len().max(1);
        let operands = self.x.chunks_exact(c).zip(self.d_y.chunks_exact(c)).zip(self.stats.chunks_exact(2));
        for (d_x, ((x, d_y), stats)) in self.d_x.chunks_exact_mut(c).zip(operands) {
            let row = Row { d_y, x, gamma: self.gamma, mean: s.splat(stats[0]), rstd: s.splat(stats[1]) };
            let mean_g = s.splat(row_sum(s, c, |range| row.g(s, range)) / c as f32);
            // Behind the end g is 0, so what xh is there does not matter.
            let product =
                |range: std::ops::Range<usize>| s.mul(row.g(s, range.clone()), row.normalised(s, range));
            let mean_gx = s.splat(row_sum(s, c, product) / c as f32);
            for at in (0..c).step_by(S::LANES) {
                let range = at..(at + S::LANES).min(c);
                let along = s.mul(row.normalised(s, range.clone()), mean_gx);
                let rest = s.sub(s.sub(row.g(s, range.clone()), mean_g), along);
                E::write(s, &mut d_x[range], s.mul(rest, row.rstd));
            }
        }
    }
}

/// A row of the input gradient's operands. Its methods are no closures because those are not inlined everywhere, and an
/// instruction that is called like a function takes ten times as long.
struct Row<'a, E, V> {
    d_y: &'a [E],
    x: &'a [E],
    gamma: &'a [f32],
    mean: V,
    rstd: V,
}

impl<E: Scalar, V: Copy> Row<'_, E, V> {
    /// The upstream gradient times gamma.
    #[inline(always)]
    fn g<S: Simd<V = V>>(&self, s: S, range: std::ops::Range<usize>) -> V {
        s.mul(E::read(s, &self.d_y[range.clone()]), s.read(&self.gamma[range]))
    }

    /// The input less its mean, times the reciprocal deviation.
    #[inline(always)]
    fn normalised<S: Simd<V = V>>(&self, s: S, range: std::ops::Range<usize>) -> V {
        s.mul(s.sub(E::read(s, &self.x[range]), self.mean), self.rstd)
    }
}

struct AddGradSums<'a, E> {
    d_y: &'a [E],
    x: &'a [E],
    stats: &'a [f32],
    sums: &'a mut [f32],
}

impl<E: Scalar> Kernel for AddGradSums<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let c = self.sums.len() / 2;
        let (plain, weighted) = self.sums.split_at_mut(c);
        let rows = self.x.chunks_exact(c.max(1)).zip(self.d_y.chunks_exact(c.max(1)));
        for ((x, d_y), stats) in rows.zip(self.stats.chunks_exact(2)) {
            let sums = plain.iter_mut().zip(weighted.iter_mut());
            for ((plain, weighted), (x, d_y)) in sums.zip(x.iter().zip(d_y)) {
                *plain += d_y.widen();
                *weighted += d_y.widen() * ((x.widen() - stats[0]) * stats[1]);
            }
        }
    }
}

/// Gradients of [`layer_norm`].
pub(crate) fn layer_norm_grad(
    engine: &Engine,
    d_y: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    stats: &Tensor,
    wanted: NormWanted,
) -> Result<NormGrads> {
    with_scalar!("layer_norm_grad", x.dtype(), E => {
        layer_norm_grad_typed::<E>(engine, d_y, x, gamma, stats, wanted)
    })
}

fn layer_norm_grad_typed<E: Scalar>(
    engine: &Engine,
    d_y: &Tensor,
    x: &Tensor,
    gamma: &Tensor,
    stats: &Tensor,
    wanted: NormWanted,
) -> Result<NormGrads> {
    const OP: &str = "layer_norm_grad";
    let (rows, c) = (x.shape().rows(), x.shape().last());
    let from = elements::<E>(OP, "the input", x)?;
    let upstream = elements_of::<E>(OP, "the upstream gradient", d_y, from.len())?;
    let gamma = channels(OP, "gamma", gamma, c)?;
    let gamma = &*gamma;
    let stats = floats_of(OP, "the statistics", stats, rows * 2)?;
    let affine = if wanted.affine {
        let sums = column_sums::<2>(engine, [1, rows, c], |_, first, count, sums| {
            let range = first * c..(first + count) * c;
            let (d_y, x) = (&upstream[range.clone()], &from[range]);
            engine.tier.run(AddGradSums { d_y, x, stats: &stats[first * 2..(first + count) * 2], sums });
        })?;
        Some(affine_gradients(&sums, c)?)
    } else {
        None
    };
    if !wanted.x {
        return Ok(NormGrads { x: None, affine });
    }
    let piece = piece_rows(c);
    let d_x = Tensor::build(x.dims(), |d_x: &mut [E]| {
        engine.pool.run_pieces(d_x, piece * c, |index, d_x| {
            let (first, count) = (index * piece, d_x.len() / c.max(1));
            let range = first * c..(first + count) * c;
            let stats = &stats[first * 2..(first + count) * 2];
            let (d_y, x) = (&upstream[range.clone()], &from[range]);
            engine.tier.run_rounding(InputGradient { d_y, x, gamma, stats, d_x });
        });
    })?;
    Ok(NormGrads { x: Some(d_x), affine })
}
