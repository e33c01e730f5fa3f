//! Change of element type: `y = x` rounded to nearest; `dx = dy` in the type of `x`.
//!
//! Trainable weights are kept in f32 while activations may be bf16; the casts between them stand on the tape, so
//! that an f32 weight gets its f32 gradient unrounded.

use crate::dtype::DType;
use crate::error::Result;
use crate::tape::{Tape, Var};

/// `x` in another element type; `x` itself when it has that type.
pub fn cast(tape: &Tape<'_>, x: &Var, dtype: DType) -> Result<Var> {
    let from = x.value().dtype();
    if from == dtype {
        return Ok(x.clone());
    }
    let y = tape.backend().cast(x.value(), dtype)?;
    Ok(tape.record(&[x], y, || {
        move |backend, d_y, _| {
            // A weight's gradient arrives in f32 although the cast weight was not: then nothing is left to do.
            let d_x = if d_y.dtype() == from { d_y.clone() } else { backend.cast(d_y, from)? };
            Ok(vec![Some(d_x)])
        }
    }))
}

/// A parameter in the element type of the activations `like` that it meets.
pub(crate) fn matching(tape: &Tape<'_>, param: &Var, like: &Var) -> Result<Var> {
    cast(tape, param, like.value().dtype())
}
