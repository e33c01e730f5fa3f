//! Exponential, sigmoid and the normal distribution on vectors, to about two units in the last place.
//!
//! Coefficients are least-maximum-error fits of the relative error:
//!
//! ```text
//! 2^f  ~ sum c_i f^i               on [-1/2, 1/2],  2e-9
//! e^r  ~ sum c_i r^i               on [-ln2/2, ln2/2],  2e-9
//! Phi(-z) e^(z^2/2) ~ sum c_i t^i  with t = 1 / (1 + 0.26 z), z on [0, 13],  5e-9
//! ```
//!
//! The last form keeps its relative accuracy in the tail, where `1 + erf` cancels, and shares its exponential with
//! the density that the gradient of GELU needs.

use super::Simd;

/// `sum c[i] x^i`.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, c: &[f32; N]) -> S::V {
    let mut y = s.splat(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        y = s.fma(y, x, s.splat(c[i]));
    }
    y
}

/// `2^x`; exactly 0 for large negative `x`, also for the mask value [`MASKED`].
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    const C: [f32; 7] = [
        1.0,
        std::f32::consts::LN_2,
        0.240_226_46,
        0.055_503_286,
        0.009_618_489,
        0.001_339_993_2,
        0.000_153_458_08,
    ];
    let n = s.round(x);
    s.scale_pow2(polynomial(s, s.sub(x, n), &C), n)
}

/// Score of a key that a query must not see: finite, so that differences with it are numbers.
pub(crate) const MASKED: f32 = -1e30;

/// `e^x`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const C: [f32; 7] = [1.0, 1.0, 0.499_999_9, 0.166_664_2, 0.041_668_225, 0.008_374_816, 0.001_383_684_2];
    /// ln 2 in two parts, the first with few enough bits that `n * LN2_HIGH` is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Beyond these the result is 0 or infinite anyway, and the reduction must stay finite.
    let bounded = s.min(s.splat(90.0), s.max(s.splat(-110.0), x));
    let n = s.round(s.mul(bounded, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), bounded);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    s.scale_pow2(polynomial(s, r, &C), n)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}

/// Distribution and density of the standard normal: `(Phi(x), phi(x))`.
#[inline(always)]
pub(crate) fn normal<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    const C: [f32; 10] = [
        -7.012_709e-6,
        0.103_903_87,
        0.101_736_516,
        0.109_389_96,
        0.031_456_14,
        0.199_680_42,
        -0.200_312_08,
        0.290_624_8,
        -0.170_372_9,
        0.033_900_3,
    ];
    const SCALE: f32 = 0.26;
    /// `1 / sqrt(2 pi)`.
    const DENSITY_AT_ZERO: f32 = 0.398_942_3;
    let z = s.max(x, s.sub(s.splat(0.0), x));
    let e = exp(s, s.mul(s.mul(z, z), s.splat(-0.5)));
    let t = s.div(s.splat(1.0), s.fma(z, s.splat(SCALE), s.splat(1.0)));
    // Where z is beyond the fit the exponential is 0; t stays in (0, 1], so the product is 0 too.
    let tail = s.mul(polynomial(s, t, &C), e);
    let distribution = s.where_negative(x, tail, s.sub(s.splat(1.0), tail));
    (distribution, s.mul(e, s.splat(DENSITY_AT_ZERO)))
}
