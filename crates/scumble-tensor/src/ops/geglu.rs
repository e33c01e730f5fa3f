//! Gated linear unit with GELU (Shazeer 2020): the input's halves are `a` and `g`, `y = a gelu(g)`.
//!
//! ```text
//! da = dy gelu(g)        dg = dy a gelu'(g)
//! ```

use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x [..., 2 d]` -> `[..., d]`.
pub fn geglu(tape: &Tape<'_>, x: &Var) -> Result<Var> {
    half(x.value())?;
    let y = tape.backend().geglu(x.value())?;
    Ok(tape.record(&[x], y, || {
        let x = x.value().clone();
        move |backend, d_y, _| Ok(vec![Some(backend.geglu_grad(d_y, &x)?)])
    }))
}

/// Half of the last size; errors when it is odd.
pub(crate) fn half(x: &Tensor) -> Result<usize> {
    let last = x.shape().last();
    if x.dims().is_empty() || !last.is_multiple_of(2) {
        return Err(shape_error("geglu", "input", "an even last size", x.shape()));
    }
    Ok(last / 2)
}
