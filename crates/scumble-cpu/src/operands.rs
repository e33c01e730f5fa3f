//! Checks at the door: element types and sizes of operands, with errors that name op, operand and what would fit.

use std::borrow::Cow;

use half::bf16;
use scumble_tensor::{DType, Error, Result, Tensor, shape_error};

use crate::simd::Scalar;

/// The elements of an operand that must be of type `E`: ops compute in one type, which their first operand has.
pub(crate) fn elements<'t, E: Scalar>(op: &'static str, what: &str, tensor: &'t Tensor) -> Result<&'t [E]> {
    if tensor.dtype() != E::DTYPE {
        return Err(unsupported(op, format!("{what} of type {} beside {}", tensor.dtype(), E::DTYPE)));
    }
    tensor.as_slice::<E>()
}

/// The elements of an operand that must have `count` of them.
pub(crate) fn elements_of<'t, E: Scalar>(
    op: &'static str,
    what: &'static str,
    tensor: &'t Tensor,
    count: usize,
) -> Result<&'t [E]> {
    expect_count(op, what, tensor, count)?;
    elements(op, what, tensor)
}

/// The elements of an optional operand.
pub(crate) fn optional<'t, E: Scalar>(
    op: &'static str,
    what: &'static str,
    tensor: Option<&'t Tensor>,
    count: usize,
) -> Result<Option<&'t [E]>> {
    tensor.map(|tensor| elements_of(op, what, tensor, count)).transpose()
}

/// The floats of an operand that is f32 beside every type.
pub(crate) fn floats<'t>(op: &'static str, what: &str, tensor: &'t Tensor) -> Result<&'t [f32]> {
    if tensor.dtype() != DType::F32 {
        return Err(unsupported(op, format!("{what} of type {}", tensor.dtype())));
    }
    tensor.as_slice::<f32>()
}

/// The floats of an operand that is f32 beside every type and must have `count` elements.
pub(crate) fn floats_of<'t>(
    op: &'static str,
    what: &'static str,
    tensor: &'t Tensor,
    count: usize,
) -> Result<&'t [f32]> {
    expect_count(op, what, tensor, count)?;
    floats(op, what, tensor)
}

/// One number a channel, widened: few enough that a copy costs nothing.
pub(crate) fn channels<'t>(
    op: &'static str,
    what: &'static str,
    tensor: &'t Tensor,
    count: usize,
) -> Result<Cow<'t, [f32]>> {
    expect_count(op, what, tensor, count)?;
    match tensor.dtype() {
        DType::F32 => Ok(Cow::Borrowed(tensor.as_slice()?)),
        DType::BF16 => Ok(tensor.as_slice::<bf16>()?.iter().map(|&value| value.widen()).collect()),
        other => Err(unsupported(op, format!("{what} of type {other}"))),
    }
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
