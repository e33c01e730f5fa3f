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

use super::{Scalar, Simd};

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

/// `2^x` to 4e-6 of its value, for results that are rounded to bf16 (2e-3): fewer terms of the same kind of fit.
#[inline(always)]
pub(crate) fn exp2_for_bf16<S: Simd>(s: S, x: S::V) -> S::V {
    const C: [f32; 5] = [1.0, 0.693_121_8, 0.240_247_44, 0.055_917_86, 0.009_570_102];
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

/// `1 / (1 + e^-x)`, as exact as numbers of type `E` need it.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd, E: Scalar>(s: S, x: S::V) -> S::V {
    if E::COARSE {
        let exponent = s.mul(x, s.splat(-std::f32::consts::LOG2_E));
        // Beyond these the result is 0 or 1 anyway, and the exponent must stay finite.
        let exponent = s.min(s.splat(126.0), s.max(s.splat(-126.0), exponent));
        return s.reciprocal(s.add(s.splat(1.0), exp2_for_bf16(s, exponent)));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Kernel;
    use crate::tier::Tier;

    /// The functions at some points.
    struct At(Vec<f32>);

    impl Kernel for At {
        type Output = Vec<[f32; 7]>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<[f32; 7]> {
            let first = |v: S::V| {
                let mut lanes = [0.0f32; 16];
                s.write(&mut lanes, v);
                lanes[0]
            };
            let all = |x: f32| {
                let x = s.splat(x);
                let (distribution, density) = normal(s, x);
                let sigmoids = [sigmoid::<S, f32>(s, x), sigmoid::<S, half::bf16>(s, x)];
                [exp2(s, x), exp(s, x), sigmoids[0], distribution, density, exp2_for_bf16(s, x), sigmoids[1]]
                    .map(first)
            };
            self.0.into_iter().map(all).collect()
        }
    }

    /// `Phi(x)` by its series, for |x| up to 4.
    fn normal_series(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term.abs() > 1e-18 {
            n += 2.0;
            term *= x * x / n;
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    #[test]
    fn functions_are_accurate_on_every_tier() {
        let points: Vec<f32> = (-2000..=2000).map(|i| i as f32 * 0.0413).collect();
        for tier in Tier::available() {
            for (&x, found) in points.iter().zip(tier.run(At(points.clone()))) {
                let wide = f64::from(x);
                let density = (-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let expected = [wide.exp2(), wide.exp(), 1.0 / (1.0 + (-wide).exp())];
                let check = |what: &str, found: f32, expected: f64, relative: f64| {
                    let error = (f64::from(found) - expected).abs();
                    let allowed = relative * expected.abs() + 1e-37;
                    assert!(error <= allowed, "{}: {what}({x}) is {found}, not {expected}", tier.name());
                };
                check("exp2", found[0], expected[0], 2.5e-7);
                check("exp2_for_bf16", found[5], expected[0], 4e-6);
                check("exp", found[1], expected[1], 2.5e-7);
                check("sigmoid", found[2], expected[2], 4e-7);
                // Its argument times log2 e rounds, too.
                check("sigmoid for bf16", found[6], expected[2], 4e-6 + 8e-8 * wide.abs());
                // Squaring x rounds, and the exponential turns that into a relative error that grows with x.
                check("phi", found[4], density, 3e-7 + 8e-8 * wide * wide);
                if wide.abs() <= 4.0 {
                    check("Phi", found[3], normal_series(wide), 2e-6);
                }
            }
        }
    }

    #[test]
    fn extremes_are_limits_and_nan_stays() {
        for tier in Tier::available() {
            let [low, high, masked, nan] =
                tier.run(At(vec![f32::NEG_INFINITY, f32::INFINITY, MASKED, f32::NAN])).try_into().unwrap();
            assert_eq!((low[1], low[2], low[3]), (0.0, 0.0, 0.0), "{}", tier.name());
            assert_eq!((high[1], high[2], high[3]), (f32::INFINITY, 1.0, 1.0), "{}", tier.name());
            assert!(low[6] < 2e-38 && high[6] == 1.0, "{}", tier.name());
            assert_eq!(masked[0], 0.0, "{}", tier.name());
            assert!(
                nan[6].is_nan() && nan[..3].iter().all(|value| value.is_nan()),
                "{}: {nan:?}",
                tier.name()
            );
        }
    }
}
