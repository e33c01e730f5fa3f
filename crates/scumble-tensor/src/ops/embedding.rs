//! Table lookup: `y[i] = table[ids[i]]`; the gradient of a row is the sum of `dy[i]` over all `i` with its id, in order.

use crate::error::{Error, Result, shape_error};
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

/// The ids as row numbers; errors unless they are i64 and inside the table.
pub(crate) fn rows_of(ids: &Tensor, rows: usize) -> Result<Vec<usize>> {
    let row = |&id: &i64| {
        let row = usize::try_from(id).ok().filter(|&row| row < rows);
        row.ok_or(Error::Index { op: "embedding", id, rows })
    };
    ids.as_slice::<i64>()?.iter().map(row).collect()
}

/// The rows, in plain loops.
pub(crate) fn plain(table: &[f64], ids: &[usize], c: usize) -> Vec<f64> {
    ids.iter().flat_map(|&id| table[id * c..(id + 1) * c].iter().copied()).collect()
}

/// Gradient `[rows, c]`.
pub(crate) fn plain_grad(d_y: &[f64], ids: &[usize], rows: usize, c: usize) -> Vec<f64> {
    let mut d_table = vec![0.0; rows * c];
    for (i, id) in ids.iter().enumerate() {
        for ch in 0..c {
            d_table[id * c + ch] += d_y[i * c + ch];
        }
    }
    d_table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        let ids = Tensor::from_slice(&[3i64, 0, 3, 1, 3, 0], &[2, 3]).unwrap();
        check_gradients(&[&[5, 4]], |tape, v| embedding(tape, &v[0], &ids));
    }
}
