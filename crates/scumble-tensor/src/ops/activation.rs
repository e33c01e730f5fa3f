//! Element-wise nonlinearities, `s` the logistic function and `Phi` the normal distribution's:
//!
//! ```text
//! silu       x s(x)           derivative   s(x) (1 + x (1 - s(x)))
//! gelu       x Phi(x)         derivative   Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
//! quick gelu x s(1.702 x)     derivative   s(a x) (1 + a x (1 - s(a x))), a = 1.702
//! ```

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
