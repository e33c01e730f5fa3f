//! The op set: one file an op, with its formula, its tape function and its vector-Jacobian product.
//!
//! A tape function checks shapes, calls the backend once and records a closure that computes only the gradients that
//! will be asked for, from only the tensors these need. Weights and affine parameters may have another element type
//! than the activations (f32 masters under bf16 activations): they are cast, see [`cast::matching`].

pub mod activation;
pub mod adamw;
pub mod add;
pub mod attention;
pub mod cast;
pub mod channels;
pub mod concat;
pub mod conv2d;
pub mod dropout;
pub mod embedding;
pub mod geglu;
pub mod group_norm;
pub mod layer_norm;
pub mod linear;
pub mod loss;
pub mod mul;
pub mod outer;
pub mod scale;
pub mod swap;
#[cfg(test)]
mod testing;
pub mod timestep;
pub mod upsample;

use crate::error::{Result, shape_error};
use crate::shape::Shape;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// Errors unless `found` has exactly the sizes `expected`.
pub(crate) fn check_dims(
    op: &'static str,
    what: &'static str,
    expected: &[usize],
    found: &Tensor,
) -> Result<()> {
    if found.dims() == expected {
        Ok(())
    } else {
        Err(shape_error(op, what, format!("{expected:?}"), found.shape()))
    }
}

/// Errors unless `found` has `expected` elements.
pub(crate) fn check_numel(
    op: &'static str,
    what: &'static str,
    expected: usize,
    found: &Tensor,
) -> Result<()> {
    if found.numel() == expected {
        Ok(())
    } else {
        Err(shape_error(op, what, format!("{expected} elements"), found.shape()))
    }
}

/// Errors unless `len` entries from `start` on lie inside `size`.
pub(crate) fn check_range(op: &'static str, start: usize, len: usize, size: usize) -> Result<()> {
    match start.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(shape_error(op, "range", format!("inside 0..{size}"), format!("{len} from {start} on"))),
    }
}

/// `[n, rest, c]`: first size, product of the middle, last size; errors below two dimensions.
pub(crate) fn per_image(op: &'static str, shape: &Shape) -> Result<[usize; 3]> {
    match shape.dims() {
        [n, middle @ .., c] => Ok([*n, middle.iter().product(), *c]),
        _ => Err(shape_error(op, "input", "[n, ..., channels]", shape)),
    }
}

/// `tensor` where the tape's backend computes: itself, or uploaded from the host.
pub(crate) fn on_device(tape: &Tape<'_>, tensor: &Tensor) -> Result<Tensor> {
    let backend = tape.backend();
    if tensor.device() == backend.device() { Ok(tensor.clone()) } else { backend.upload(tensor) }
}
