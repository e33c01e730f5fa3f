//! Sums: `a + beta b` of equal shapes (`da = dy`, `db = beta dy`), and a row for each image added to all its pixels
//! (`dt` = sum of `dy` over the image's pixels).

use crate::error::Result;
use crate::ops::{check_dims, per_image};
use crate::tape::{Tape, Var};

/// `a + b`, same shapes.
pub fn add(tape: &Tape<'_>, a: &Var, b: &Var) -> Result<Var> {
    add_scaled(tape, a, b, 1.0)
}

/// `a + beta * b`, same shapes.
pub fn add_scaled(tape: &Tape<'_>, a: &Var, b: &Var, beta: f32) -> Result<Var> {
    check_dims("add", "second operand", a.dims(), b.value())?;
    let y = tape.backend().add_scaled(a.value(), b.value(), beta)?;
    Ok(tape.record(&[a, b], y, || {
        let (needs_a, needs_b) = (a.needs_grad(), b.needs_grad());
        move |backend, d_y, _| {
            let d_a = needs_a.then(|| d_y.clone());
            let d_b = match (needs_b, beta == 1.0) {
                (false, _) => None,
                (true, true) => Some(d_y.clone()),
                (true, false) => Some(backend.scale(d_y, beta)?),
            };
            Ok(vec![d_a, d_b])
        }
    }))
}

/// `x [n, ..., c] + t [n, c]`, `t` repeated over everything between: how the timestep enters a block.
pub fn add_per_image(tape: &Tape<'_>, x: &Var, t: &Var) -> Result<Var> {
    let [n, _, c] = per_image("add_per_image", x.value().shape())?;
    check_dims("add_per_image", "row per image", &[n, c], t.value())?;
    let y = tape.backend().add_per_image(x.value(), t.value())?;
    Ok(tape.record(&[x, t], y, || {
        let (needs_x, needs_t) = (x.needs_grad(), t.needs_grad());
        move |backend, d_y, _| {
            let d_t = if needs_t { Some(backend.sum_per_image(d_y)?) } else { None };
            Ok(vec![needs_x.then(|| d_y.clone()), d_t])
        }
    }))
}

/// `x [n, rest, c] + t [n, c]`, in plain loops.
pub(crate) fn plain_per_image(x: &[f64], t: &[f64], [_, rest, c]: [usize; 3]) -> Vec<f64> {
    x.iter().enumerate().map(|(i, x)| x + t[i / (rest * c) * c + i % c]).collect()
}

/// `x [n, rest, c]` -> `[n, c]`.
pub(crate) fn plain_sum_per_image(x: &[f64], [n, rest, c]: [usize; 3]) -> Vec<f64> {
    let mut sums = vec![0.0; n * c];
    for (i, value) in x.iter().enumerate() {
        sums[i / (rest * c) * c + i % c] += value;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[3, 2], &[3, 2]], |tape, v| add(tape, &v[0], &v[1]));
        check_gradients(&[&[3, 2], &[3, 2]], |tape, v| add_scaled(tape, &v[0], &v[1], -0.5));
        check_gradients(&[&[2, 3, 2, 4], &[2, 4]], |tape, v| add_per_image(tape, &v[0], &v[1]));
    }
}
