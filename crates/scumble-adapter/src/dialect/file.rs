//! Adapter files on disk: opened by content, read or written whole.

use std::path::Path;

use scumble_model::files::write_safetensors;

use super::family::with_file;
use super::pickled::{self, is_pickled_name};
use super::{Dialect, LoadReport, ReadOptions, Rounding, WriteOptions, read_as};
use crate::adapter::Adapter;
use crate::error::{AdapterError, Result};
use crate::table::ModuleTable;

/// An adapter and what became of its file's tensors.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The adapter.
    pub adapter: Adapter,
    /// The account of the file.
    pub report: LoadReport,
}

/// Reads an adapter of any dialect for the base that `table` describes. Tensors that have no place or do not fit are
/// an error that lists them, unless `options` allow a partial load.
pub fn load_adapter(path: &Path, table: &ModuleTable, options: ReadOptions) -> Result<Loaded> {
    let read = with_file(path, table, |dialect, file| read_as(dialect, file, table, options));
    let (adapter, report) = read.map_err(|error| match error {
        AdapterError::NotFinite { .. } | AdapterError::Factors { .. } | AdapterError::Tensor(_) => {
            AdapterError::Content { file: path.into(), source: Box::new(error) }
        }
        named => named,
    })?;
    Ok(Loaded { adapter, report })
}

/// Writes an adapter in a dialect: as safetensors, or where the name ends as torch's files do (`.pt`, `.bin`) in the
/// dialect's pickled form, if it has one. Each file is written whole or not at all. Gives the number of modules that had
/// to be rounded because the dialect has no place for their alpha.
///
/// A pickled form keeps no metadata. The original's has up to three files: see [`super::companions`].
pub fn save_adapter(
    path: &Path,
    adapter: &Adapter,
    table: &ModuleTable,
    dialect: &dyn Dialect,
    options: &WriteOptions,
) -> Result<usize> {
    save_and_measure(path, adapter, table, dialect, options).map(|rounding| rounding.modules)
}

/// As [`save_adapter`], and says how far the rounded numbers are off.
pub fn save_and_measure(
    path: &Path,
    adapter: &Adapter,
    table: &ModuleTable,
    dialect: &dyn Dialect,
    options: &WriteOptions,
) -> Result<Rounding> {
    let encoded = dialect.write(adapter, table, options)?;
    match is_pickled_name(path) {
        true => pickled::save(path, &encoded, table, dialect)?,
        false => write_safetensors(path, &encoded.tensors, &encoded.metadata)?,
    }
    Ok(encoded.rounding)
}
