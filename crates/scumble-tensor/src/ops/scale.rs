//! Multiplication by a constant: `y = alpha x`, `dx = alpha dy`.

use crate::error::Result;
use crate::tape::{Tape, Var};

/// `alpha * x`.
pub fn scale(tape: &Tape<'_>, x: &Var, alpha: f32) -> Result<Var> {
    let y = tape.backend().scale(x.value(), alpha)?;
    Ok(tape.record(&[x], y, || move |backend, d_y, _| Ok(vec![Some(backend.scale(d_y, alpha)?)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        check_gradients(&[&[3, 2]], |tape, v| scale(tape, &v[0], -1.5));
    }
}
