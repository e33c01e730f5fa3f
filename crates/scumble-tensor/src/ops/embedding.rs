//! Table lookup: `y[i] = table[ids[i]]`; the gradient of a row is the sum of `dy[i]` over all `i` with its id, in order.

use crate::error::{Result, shape_error};
use crate::ops::on_device;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `table [rows, c]`, i64 `ids [...]` -> `[..., c]`, in the table's element type.
pub fn embedding(tape: &Tape<'_>, table: &Var, ids: &Tensor) -> Result<Var> {
    let &[rows, _] = table.dims() else {
        return Err(shape_error("embedding", "table", "[rows, channels]", table.value().shape()));
    };
    let ids = on_device(tape, ids)?;
    let y = tape.backend().embedding(table.value(), &ids)?;
    Ok(tape.record(&[table], y, || {
        move |backend, d_y, _| Ok(vec![Some(backend.embedding_grad(d_y, &ids, rows)?)])
    }))
}
