//! Element-wise nonlinearities, `s` the logistic function and `Phi` the normal distribution's:
//!
//! ```text
//! silu       x s(x)           derivative   s(x) (1 + x (1 - s(x)))
//! gelu       x Phi(x)         derivative   Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
//! quick gelu x s(1.702 x)     derivative   s(a x) (1 + a x (1 - s(a x))), a = 1.702
//! ```

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use crate::backend::Activation;
use crate::error::Result;
use crate::tape::{Tape, Var};

/// `kind(x)`, element by element.
pub fn activation(tape: &Tape<'_>, kind: Activation, x: &Var) -> Result<Var> {
    let y = tape.backend().activation(kind, x.value())?;
    Ok(tape.record(&[x], y, || {
        let x = x.value().clone();
        move |backend, d_y, _| Ok(vec![Some(backend.activation_grad(kind, d_y, &x)?)])
    }))
}

impl Activation {
    /// The function, in double precision.
    pub(crate) fn plain(self, x: f64) -> f64 {
        match self {
            Activation::Silu => x * logistic(x),
            Activation::Gelu => x * normal(x),
            Activation::QuickGelu => x * logistic(QUICK * x),
        }
    }

    /// Its derivative.
    pub(crate) fn plain_slope(self, x: f64) -> f64 {
        let swish = |a: f64| logistic(a * x) * (1.0 + a * x * (1.0 - logistic(a * x)));
        match self {
            Activation::Silu => swish(1.0),
            Activation::Gelu => normal(x) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
            Activation::QuickGelu => swish(QUICK),
        }
    }
}

const QUICK: f64 = 1.702;

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The normal distribution's function.
fn normal(x: f64) -> f64 {
    0.5 * complementary_error(-x * FRAC_1_SQRT_2)
}

/// `erfc(x)` to about 14 digits: the series of `erf` with only positive terms near zero (Abramowitz & Stegun
/// 7.1.6), the continued fraction of `erfc` far from it (7.1.14), where `1 - erf` would cancel.
fn complementary_error(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - complementary_error(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - FRAC_2_SQRT_PI * (-x * x).exp() * sum;
    }
    let fraction = (1..80).rev().fold(x, |below, n| x + 0.5 * f64::from(n) / below);
    (-x * x).exp() / (PI.sqrt() * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        for kind in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
            check_gradients(&[&[3, 7]], |tape, v| activation(tape, kind, &v[0]));
        }
    }

    #[test]
    fn the_error_function_is_exact() {
        let known = [
            (-1.0, 1.842_700_792_949_715),
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.9, 0.007_209_570_764_742_532),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (6.0, 2.151_973_671_249_89e-17),
        ];
        for (x, expected) in known {
            let found = complementary_error(x);
            assert!((found - expected).abs() < 2e-13 * expected, "erfc({x}) = {found}, not {expected}");
        }
    }
}
