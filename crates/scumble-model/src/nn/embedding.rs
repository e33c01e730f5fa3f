//! A lookup table whose rows can be extended by learned ones.
//!
//! Ids below the base's row count look up the base table, ids from there on the added rows (new tokens of a textual
//! inversion). Both tables are looked up everywhere and masked, so that training a few rows neither copies the base
//! table (150 MB for CLIP) nor makes it trainable:
//!
//! ```text
//! y = base[id < rows ? id : 0] * (id < rows)  +  added[id < rows ? 0 : id - rows] * (id >= rows)
//! ```

use std::sync::{PoisonError, RwLock};

use scumble_tensor::ops::{add::add, cast::cast, embedding::embedding, mul::mul};
use scumble_tensor::{Error, Param, Result, Tape, Tensor, Var, shape_error};

use super::observe::Tap;

/// See the module's text.
pub struct Embedding {
    pub(super) tap: Tap,
    pub(super) base: Param,
    pub(super) added: RwLock<Option<Param>>,
}

impl Embedding {
    /// The base table `[rows, c]`.
    pub fn base(&self) -> &Param {
        &self.base
    }

    /// Rows of the base table: the first added id.
    pub fn base_rows(&self) -> usize {
        self.base.value().shape().first()
    }

    /// All rows, added ones included: the ids that are understood.
    pub fn rows(&self) -> usize {
        self.base_rows() + self.added().map_or(0, |added| added.value().shape().first())
    }

    /// The added rows `[n, c]`.
    pub fn added(&self) -> Option<Param> {
        self.added.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the added rows; row i answers to id `base_rows() + i`.
    pub fn set_added(&self, rows: Option<Param>) -> Result<()> {
        let width = self.base.value().shape().last();
        if let Some(rows) = &rows
            && (rows.value().dims().len() != 2 || rows.value().shape().last() != width)
        {
            return Err(shape_error(
                "embedding",
                "added rows",
                format!("[n, {width}]"),
                rows.value().shape(),
            ));
        }
        *self.added.write().unwrap_or_else(PoisonError::into_inner) = rows;
        Ok(())
    }

    /// Host i64 `ids [...]` -> `[..., c]`.
    pub fn forward(&self, tape: &Tape<'_>, ids: &Tensor) -> Result<Var> {
        let y = self.compute(tape, ids)?;
        self.tap.show(&y);
        Ok(y)
    }

    fn compute(&self, tape: &Tape<'_>, ids: &Tensor) -> Result<Var> {
        let (base_rows, rows, added) = (self.base_rows(), self.rows(), self.added());
        let list = ids.as_slice::<i64>()?;
        if let Some(&id) = list.iter().find(|&&id| id < 0 || id as usize >= rows) {
            return Err(Error::Index { op: "embedding", id, rows });
        }
        let base = tape.param(&self.base);
        let Some(added) = added.filter(|_| list.iter().any(|&id| id as usize >= base_rows)) else {
            return embedding(tape, &base, &tape.backend().upload(ids)?);
        };
        let first_added = base_rows as i64;
        let of_base = self.masked(tape, &base, ids.dims(), list, |id| (id < first_added).then_some(id))?;
        let pick = |id| (id >= first_added).then_some(id - first_added);
        // Rows that learn are f32; the table may be bf16.
        let added = cast(tape, &tape.param(&added), base.value().dtype())?;
        let of_added = self.masked(tape, &added, ids.dims(), list, pick)?;
        add(tape, &of_base, &of_added)
    }

    /// Rows of `table` for the ids that `pick` maps to one, zeros for the others.
    fn masked(
        &self,
        tape: &Tape<'_>,
        table: &Var,
        dims: &[usize],
        ids: &[i64],
        pick: impl Fn(i64) -> Option<i64>,
    ) -> Result<Var> {
        let width = table.value().shape().last();
        let picked: Vec<i64> = ids.iter().map(|&id| pick(id).unwrap_or(0)).collect();
        let mask = Tensor::build::<f32>(&[dims, &[width]].concat(), |mask| {
            for (row, &id) in mask.chunks_exact_mut(width.max(1)).zip(ids) {
                row.fill(if pick(id).is_some() { 1.0 } else { 0.0 });
            }
        })?;
        let backend = tape.backend();
        let rows = embedding(tape, table, &backend.upload(&Tensor::from_slice(&picked, dims)?)?)?;
        let mask = backend.cast(&backend.upload(&mask)?, rows.value().dtype())?;
        mul(tape, &rows, &Var::constant(mask))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use scumble_tensor::reference::ReferenceBackend;

    use super::*;

    #[test]
    fn added_rows_answer_to_the_ids_behind_the_table() {
        let rows = |values: &[f32]| Tensor::from_slice(values, &[values.len() / 2, 2]).unwrap();
        let table = Embedding {
            tap: Tap::loose("table"),
            base: Param::frozen("table.weight", rows(&[1.0, 2.0, 3.0, 4.0])),
            added: RwLock::new(None),
        };
        let tape = Tape::recording(Arc::new(ReferenceBackend));
        let ids = Tensor::from_slice(&[1i64, 2, 0, 2], &[2, 2]).unwrap();
        assert!(matches!(table.forward(&tape, &ids), Err(Error::Index { id: 2, rows: 2, .. })));
        let added = Param::trainable("added", rows(&[5.0, 6.0]));
        table.set_added(Some(added.clone())).unwrap();
        assert_eq!((table.base_rows(), table.rows()), (2, 3));
        let y = table.forward(&tape, &ids).unwrap();
        assert_eq!(y.value().to_vec::<f32>().unwrap(), [3.0, 4.0, 5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        let gradients = tape.backward(&y, rows(&[1.0; 8]).reshape(&[2, 2, 2]).unwrap()).unwrap();
        assert_eq!(gradients.get(added.id()).unwrap().to_vec::<f32>().unwrap(), [2.0, 2.0]);
        assert!(
            table.set_added(Some(Param::frozen("bad", rows(&[1.0, 1.0]).reshape(&[2, 1]).unwrap()))).is_err()
        );
    }
}
