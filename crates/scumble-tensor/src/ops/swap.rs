//! Two sizes trade places: `y[n, j, i, c] = x[n, i, j, c]`, `dx` the same turn of `dy`.
//!
//! Channels that are a grid of two sizes (an adapter's Kronecker product) are mixed along one of them at a time, and a
//! product mixes the last.

use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x` seen as `[n, a, b, c]` -> `[n, b, a, c]`.
pub fn swap_middle(tape: &Tape<'_>, x: &Var, sizes: [usize; 4]) -> Result<Var> {
    let y = tape.backend().swap_middle(&x.value().reshape(&sizes)?)?;
    Ok(tape.record(&[x], y, || move |backend, d_y, _| Ok(vec![Some(backend.swap_middle(d_y)?)])))
}

/// The four sizes of an operand.
pub(crate) fn sizes(x: &Tensor) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(x.dims())
        .map_err(|_| shape_error("swap_middle", "input", "[n, a, b, c]", x.shape()))
}

/// In plain loops.
pub(crate) fn plain(x: &[f64], [n, a, b, c]: [usize; 4]) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for (at, value) in x.iter().enumerate() {
        let (channel, pair) = (at % c, at / c);
        let (j, i, image) = (pair % b, pair / b % a, pair / b / a);
        y[((image * b + j) * a + i) * c + channel] = *value;
    }
    debug_assert_eq!(x.len(), n * a * b * c);
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[2, 3, 8]], |tape, v| swap_middle(tape, &v[0], [2, 3, 4, 2]));
        check_gradients(&[&[5, 6]], |tape, v| swap_middle(tape, &v[0], [5, 3, 2, 1]));
    }

    #[test]
    fn twice_is_nothing() {
        let x: Vec<f64> = (0..24).map(f64::from).collect();
        let y = plain(&x, [2, 3, 4, 1]);
        assert_eq!(y[..4], [0.0, 4.0, 8.0, 1.0]);
        assert_eq!(plain(&y, [2, 4, 3, 1]), x);
    }
}
