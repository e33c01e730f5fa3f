//! Dropout: `y = keep x / (1 - p)`, where `keep` is 0 with probability `p` and 1 otherwise; `dx = keep dy / (1 - p)`.
//!
//! Whether an element is kept is a hash of (the step's key, the place, the element's index): a counter-based
//! generator, so the mask does not depend on threads or on how often it is computed, and a block that is recomputed
//! in backward draws the same one. The hash is SplitMix64's output function (Steele, Lea, Flood 2014).

use crate::dtype::{DType, Element};
use crate::error::{Result, shape_error};
use crate::ops::on_device;
use crate::tape::{DropoutKey, Tape, Var};
use crate::tensor::Tensor;
use crate::with_element;

/// Zeroes each element with probability `p`, when the tape has a dropout key; else `x` itself. `site` tells places
/// with the same key apart.
pub fn dropout(tape: &Tape<'_>, x: &Var, p: f32, site: u64) -> Result<Var> {
    if !(0.0..1.0).contains(&p) {
        return Err(shape_error("dropout", "probability", "at least 0 and below 1", p));
    }
    let Some(key) = tape.dropout_key().filter(|_| p > 0.0) else { return Ok(x.clone()) };
    let keep = on_device(tape, &mask(key, site, p, x.value().dtype(), x.dims())?)?;
    // The factor stays outside of the mask: bf16 could not hold it.
    let factor = 1.0 / (1.0 - p);
    let backend = tape.backend();
    let y = backend.scale(&backend.mul(x.value(), &keep)?, factor)?;
    Ok(tape.record(&[x], y, || {
        move |backend, d_y, _| Ok(vec![Some(backend.scale(&backend.mul(d_y, &keep)?, factor)?)])
    }))
}

/// The host tensor of ones and zeros.
fn mask(key: DropoutKey, site: u64, p: f32, dtype: DType, dims: &[usize]) -> Result<Tensor> {
    with_element!(dtype, T => {
        let one = <T as Element>::from_f64(1.0);
        let zero = <T as Element>::from_f64(0.0);
        Tensor::build::<T>(dims, |elements| {
            for (element, keep) in elements.iter_mut().zip(keeps(key, site, p)) {
                *element = if keep { one } else { zero };
            }
        })
    })
}

fn keeps(key: DropoutKey, site: u64, p: f32) -> impl Iterator<Item = bool> {
    let base = mix(mix(key.0 ^ GOLDEN) ^ site);
    let threshold = (f64::from(p) * (1u64 << 53) as f64) as u64;
    (0u64..).map(move |index| mix(base.wrapping_add(index.wrapping_mul(GOLDEN))) >> 11 >= threshold)
}

/// 2^64 divided by the golden ratio: steps of this size visit every value once.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[4, 5]], |tape, v| dropout(tape, &v[0], 0.4, 3));
    }

    #[test]
    fn masks_depend_on_key_and_site_and_keep_the_right_share() {
        let draw = |key, site, p| -> Vec<bool> { keeps(DropoutKey(key), site, p).take(20_000).collect() };
        assert_eq!(draw(1, 2, 0.3), draw(1, 2, 0.3));
        for other in [draw(2, 2, 0.3), draw(1, 3, 0.3), draw(0, 0, 0.3), draw(3, 0, 0.3)] {
            let agree = draw(1, 2, 0.3).iter().zip(&other).filter(|(a, b)| a == b).count();
            // Independent masks agree in 0.3^2 + 0.7^2 = 58 % of the elements.
            assert!((agree as f64 / 20_000.0 - 0.58).abs() < 0.02, "{agree}");
        }
        for p in [0.1f32, 0.5, 0.9] {
            let kept = draw(7, 7, p).iter().filter(|&&keep| keep).count();
            assert!((kept as f64 / 20_000.0 - f64::from(1.0 - p)).abs() < 0.015, "{p}: {kept}");
        }
    }
}
