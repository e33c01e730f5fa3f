//! Rows of a table by token id, and the sum of gradients by id.

use scumble_tensor::memory::HostBuffer;
use scumble_tensor::{Error, Result, Tensor, shape_error};

use crate::operands::{elements_of, unsupported};
use crate::simd::{Scalar, with_scalar};

fn row_of(op: &'static str, id: i64, rows: usize) -> Result<usize> {
    usize::try_from(id).ok().filter(|&row| row < rows).ok_or(Error::Index { op, id, rows })
}

/// `table [rows, c]`, `ids [...]` -> `[..., c]`, for every element type.
pub(crate) fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let &[rows, c] = table.dims() else {
        return Err(shape_error("embedding", "table", "[rows, c]", table.shape()));
    };
    let (from, width) = (table.bytes()?, c * table.dtype().size());
    let mut dims = ids.dims().to_vec();
    dims.push(c);
    let bytes = scumble_tensor::Shape::new(&dims)?.numel() * table.dtype().size();
    let mut buffer = HostBuffer::for_overwrite(bytes)?;
    for (to, &id) in buffer.as_mut_bytes().chunks_exact_mut(width.max(1)).zip(ids.as_slice::<i64>()?) {
        let row = row_of("embedding", id, rows)?;
        to.copy_from_slice(&from[row * width..(row + 1) * width]);
    }
    Tensor::from_buffer(table.dtype(), buffer, &dims)
}

/// f32 `[rows, c]`: rows of `d_y [..., c]` summed in the order of `ids`.
pub(crate) fn embedding_grad(d_y: &Tensor, ids: &Tensor, rows: usize) -> Result<Tensor> {
    const OP: &str = "embedding_grad";
    if d_y.shape().rank() == 0 {
        return Err(unsupported(OP, "a scalar gradient".into()));
    }
    let c = d_y.shape().last();
    let ids = ids.as_slice::<i64>()?;
    with_scalar!(OP, d_y.dtype(), E => {
        let from = elements_of::<E>(OP, "the upstream gradient", d_y, ids.len() * c)?;
        Tensor::try_build(&[rows, c], |to: &mut [f32]| {
            to.fill(0.0);
            for (from, &id) in from.chunks_exact(c.max(1)).zip(ids) {
                let row = row_of(OP, id, rows)?;
                to[row * c..(row + 1) * c].iter_mut().zip(from).for_each(|(to, from)| *to += from.widen());
            }
            Ok(())
        })
    })
}
