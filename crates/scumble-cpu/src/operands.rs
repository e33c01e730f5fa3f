//! Checks at the door: element types and sizes of operands, with errors that name op, operand and what would fit.

use scumble_tensor::{DType, Error, Result, Tensor, shape_error};

/// The floats of an operand; other types have no kernel here.
pub(crate) fn floats<'t>(op: &'static str, what: &str, tensor: &'t Tensor) -> Result<&'t [f32]> {
    if tensor.dtype() != DType::F32 {
        return Err(unsupported(op, format!("{what} of type {}", tensor.dtype())));
    }
    tensor.as_slice::<f32>()
}

/// The floats of an operand that must have `count` elements.
pub(crate) fn floats_of<'t>(
    op: &'static str,
    what: &'static str,
    tensor: &'t Tensor,
    count: usize,
) -> Result<&'t [f32]> {
    expect_count(op, what, tensor, count)?;
    floats(op, what, tensor)
}

/// The floats of an optional operand.
pub(crate) fn optional<'t>(
    op: &'static str,
    what: &'static str,
    tensor: Option<&'t Tensor>,
    count: usize,
) -> Result<Option<&'t [f32]>> {
    tensor.map(|tensor| floats_of(op, what, tensor, count)).transpose()
}

/// Errors unless the tensor has `count` elements.
pub(crate) fn expect_count(
    op: &'static str,
    what: &'static str,
    tensor: &Tensor,
    count: usize,
) -> Result<()> {
    if tensor.numel() == count {
        Ok(())
    } else {
        Err(shape_error(op, what, format!("{count} elements"), tensor.shape()))
    }
}

/// Errors unless two tensors have the same sizes.
pub(crate) fn expect_same(op: &'static str, what: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dims() == b.dims() { Ok(()) } else { Err(shape_error(op, what, a.shape(), b.shape())) }
}

/// `[n, inner, c]` of `[n, ..., c]`: images, everything between, channels.
pub(crate) fn images(op: &'static str, x: &Tensor) -> Result<[usize; 3]> {
    let dims = x.dims();
    if dims.len() < 2 {
        return Err(shape_error(op, "input", "[n, ..., c]", x.shape()));
    }
    let (n, c) = (x.shape().first(), x.shape().last());
    Ok([n, dims[1..dims.len() - 1].iter().product(), c])
}

/// The error for what this backend has no kernel for.
pub(crate) fn unsupported(op: &'static str, what: String) -> Error {
    Error::Unsupported { backend: "cpu".into(), op, what }
}
