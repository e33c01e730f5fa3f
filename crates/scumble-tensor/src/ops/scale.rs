//! Multiplication by a constant: `y = alpha x`, `dx = alpha dy`.

use crate::error::Result;
use crate::tape::{Tape, Var};

/// `alpha * x`.
pub fn scale(tape: &Tape<'_>, x: &Var, alpha: f32) -> Result<Var> {
    let y = tape.backend().scale(x.value(), alpha)?;
    Ok(tape.record(&[x], y, || move |backend, d_y, _| Ok(vec![Some(backend.scale(d_y, alpha)?)])))
}
