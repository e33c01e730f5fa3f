//! Element-wise product: `y = a b`, `da = dy b`, `db = dy a`.

use crate::error::Result;
use crate::ops::check_dims;
use crate::tape::{Tape, Var};

/// `a * b`, same shapes.
pub fn mul(tape: &Tape<'_>, a: &Var, b: &Var) -> Result<Var> {
    check_dims("mul", "second operand", a.dims(), b.value())?;
    let y = tape.backend().mul(a.value(), b.value())?;
    Ok(tape.record(&[a, b], y, || {
        // Each operand is saved only for the other's gradient.
        let saved_b = a.needs_grad().then(|| b.value().clone());
        let saved_a = b.needs_grad().then(|| a.value().clone());
        move |backend, d_y, _| {
            let product = |saved: Option<_>| saved.map(|other| backend.mul(d_y, &other)).transpose();
            Ok(vec![product(saved_b)?, product(saved_a)?])
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[3, 2], &[3, 2]], |tape, v| mul(tape, &v[0], &v[1]));
        check_gradients(&[&[3, 2]], |tape, v| mul(tape, &v[0], &v[0]));
    }
}
