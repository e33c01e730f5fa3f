//! Nearest-neighbour enlargement: `y[n,i,j] = x[n, floor(i h / H), floor(j w / W)]`; the gradient of a pixel is the
//! sum over its copies.

use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x [n, h, w, c]` -> `[n, size[0], size[1], c]`.
pub fn upsample_nearest(tape: &Tape<'_>, x: &Var, size: [usize; 2]) -> Result<Var> {
    let [_, h, w, _] = check(x.value(), size)?;
    let y = tape.backend().upsample_nearest(x.value(), size)?;
    Ok(tape.record(&[x], y, || {
        move |backend, d_y, _| Ok(vec![Some(backend.upsample_nearest_grad(d_y, [h, w])?)])
    }))
}

/// Sizes of `x`; errors when there is nothing to enlarge.
pub(crate) fn check(x: &Tensor, size: [usize; 2]) -> Result<[usize; 4]> {
    let dims = x.nhwc("upsample_nearest")?;
    if (dims[1] == 0 || dims[2] == 0) && size[0] * size[1] > 0 {
        return Err(shape_error("upsample_nearest", "input", "at least one pixel", x.shape()));
    }
    Ok(dims)
}
