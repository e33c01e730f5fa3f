//! Torch's `.pt`, `.bin` and `.ckpt` files, read without running anything.
//!
//! A pickle is a program for a small stack machine. [`machine`] runs its instructions, but knows only the
//! constructors of tensors and plain containers ([`globals`]): harmless classes that checkpoints drag along become
//! inert placeholders, everything else is refused by name. [`records`] finds the pickle and the storages in the
//! three containers that torch has had.

mod globals;
mod machine;
mod records;
mod tar;
#[cfg(test)]
mod tests;
mod value;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use scumble_tensor::Tensor;
use scumble_tensor::memory::HostBuffer;

pub use value::{PickledTensor, Value};
pub use write::{TorchItem, write_torch};

use super::error::{FileError, Result};
use super::safetensors::{map_file, read_tensor};
use super::source::{TensorInfo, TensorSource};
use records::Record;

/// Values looked at when tensors are given names; shared containers count each time.
const MAX_VISITS: usize = 4 << 20;

/// An open torch file. As a [`TensorSource`] its tensors have the path to them as name: dictionary keys and list
/// positions joined with `.`, for example `state_dict.model.weight` or `0`.
pub struct PickleFile {
    path: PathBuf,
    file: File,
    map: Option<Mmap>,
    root: Value,
    records: BTreeMap<String, Record>,
    tensors: BTreeMap<String, Arc<PickledTensor>>,
    metadata: BTreeMap<String, String>,
}

impl PickleFile {
    /// Maps the file and interprets its pickle; no element is read yet.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, map) = map_file(path)?;
        let contents = records::open(path, map.as_deref().unwrap_or_default())?;
        let root = contents.loaded.value;
        let mut tensors = BTreeMap::new();
        let mut visits = 0;
        name_tensors(&root, &mut String::new(), &mut tensors, &mut visits).ok_or_else(|| {
            FileError::TooLarge {
                file: path.into(),
                what: "naming its tensors".into(),
                found: format!("more than {MAX_VISITS} values"),
                limit: MAX_VISITS.to_string(),
            }
        })?;
        let metadata = metadata_of(&root);
        Ok(Self { path: path.into(), file, map, root, records: contents.records, tensors, metadata })
    }

    /// What the pickle holds.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// Reads a tensor found in [`PickleFile::root`]; `name` is for messages.
    pub fn read_tensor(&self, tensor: &PickledTensor, name: &str) -> Result<Tensor> {
        let file = self.map.as_deref().unwrap_or_default();
        let content = match self.records.get(tensor.storage.as_ref()) {
            Some(record) if record.inflated.is_none() && tensor.is_contiguous() => {
                // Inside the record: the machine checked the view, and `check_storages` the record.
                let start = record.range.start + tensor.offset * tensor.dtype.size();
                return read_tensor(&self.path, &self.file, name, &tensor.info(), start);
            }
            Some(record) => record.content(&self.path, file)?,
            None => Default::default(),
        };
        self.gather(tensor, &content, name)
    }

    /// Copies a strided view out of its storage.
    fn gather(&self, tensor: &PickledTensor, storage: &[u8], name: &str) -> Result<Tensor> {
        let info = tensor.info();
        let element = info.dtype.size();
        let bytes = info.bytes();
        let start = tensor.offset * element;
        let outside =
            || FileError::tensor(&self.path, name, "data inside its storage", "a view beyond its end");
        let engine = |source| FileError::engine(&self.path, name, source);
        if bytes == 0 || tensor.is_contiguous() {
            let block = if bytes == 0 { Some(&[][..]) } else { storage.get(start..start + bytes) };
            return Tensor::from_bytes(info.dtype, block.ok_or_else(outside)?, &info.shape).map_err(engine);
        }
        let mut buffer = HostBuffer::for_overwrite(bytes).map_err(engine)?;
        let mut index = vec![0usize; info.shape.len()];
        for to in buffer.as_mut_bytes().chunks_exact_mut(element) {
            let at: usize = index.iter().zip(&tensor.strides).map(|(i, stride)| i * stride).sum();
            let from = start + at * element;
            to.copy_from_slice(storage.get(from..from + element).ok_or_else(outside)?);
            for (digit, &size) in index.iter_mut().zip(&info.shape).rev() {
                *digit += 1;
                if *digit < size {
                    break;
                }
                *digit = 0;
            }
        }
        Tensor::from_buffer(info.dtype, buffer, &info.shape).map_err(engine)
    }
}

impl TensorSource for PickleFile {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|tensor| tensor.info())
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let tensor = self.tensors.get(name).ok_or_else(|| FileError::missing_tensor(&self.path, name))?;
        self.read_tensor(tensor, name)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// The strings under `metadata` of the outermost dictionary, which is where our writer puts them; nothing if there
/// are other things among them.
fn metadata_of(root: &Value) -> BTreeMap<String, String> {
    let pairs = root.get("metadata").and_then(Value::as_dict).unwrap_or_default();
    let string = |value: &Value| value.as_text().map(str::to_string);
    pairs
        .iter()
        .map(|(key, value)| Some((string(key)?, string(value)?)))
        .collect::<Option<_>>()
        .unwrap_or_default()
}

/// Collects the tensors under `value`; `None` when the walk is longer than any honest file needs.
fn name_tensors(
    value: &Value,
    name: &mut String,
    tensors: &mut BTreeMap<String, Arc<PickledTensor>>,
    visits: &mut usize,
) -> Option<()> {
    *visits += 1 + name.len() / 256;
    if *visits > MAX_VISITS {
        return None;
    }
    let length = name.len();
    let mut under = |key: &dyn std::fmt::Display, value: &Value| {
        use std::fmt::Write;
        // Writing to a string cannot fail.
        let _ = if length == 0 { write!(name, "{key}") } else { write!(name, ".{key}") };
        let done = name_tensors(value, name, tensors, visits);
        name.truncate(length);
        done
    };
    match value {
        Value::Tensor(tensor) => {
            tensors.insert(name.clone(), Arc::clone(tensor));
        }
        Value::List(items) | Value::Tuple(items) => {
            for (index, item) in items.iter().enumerate() {
                under(&index, item)?;
            }
        }
        Value::Dict(pairs) => {
            for (key, item) in pairs.iter() {
                match key {
                    Value::Text(key) => under(key, item)?,
                    Value::Int(key) => under(key, item)?,
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Some(())
}
