//! The tensor files that probes read and write: f32 and ids in, f32 out, in the order files hold them (NCHW).

use std::collections::BTreeMap;
use std::path::Path;

use scumble_model::files::{SafetensorsFile, TensorSource as _, write_safetensors};
use scumble_tensor::{DType, Element, Tensor};

use crate::failure::{Failure, Result};

/// A probe's input file.
pub struct Inputs {
    file: SafetensorsFile,
}

impl Inputs {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { file: SafetensorsFile::open(path)? })
    }

    /// Whether the file has a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.file.info(name).is_some()
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.file.names();
        names.sort();
        names
    }

    /// A tensor as stored; missing ones are named.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        if !self.has(name) {
            return Err(Failure::new(format!(
                "{} has no tensor `{name}`, which this probe reads",
                self.file.describe()
            )));
        }
        Ok(self.file.read(name)?)
    }

    /// A tensor's values, converted.
    pub fn values<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        Ok(self.tensor(name)?.to_vec()?)
    }

    /// The numbers `N` of all names `N.suffix`, in order.
    pub fn cases(&self, suffix: &str) -> Result<Vec<u64>> {
        let mut cases: Vec<u64> = self
            .names()
            .iter()
            .filter_map(|name| name.strip_suffix(suffix)?.strip_suffix('.')?.parse().ok())
            .collect();
        cases.sort_unstable();
        if cases.is_empty() {
            return Err(Failure::new(format!("{} has no case `N.{suffix}`", self.file.describe())));
        }
        Ok(cases)
    }
}

/// A probe's results, written whole at the end.
#[derive(Default)]
pub struct Outputs {
    tensors: Vec<(String, Tensor)>,
}

impl Outputs {
    /// Adds a result; written in f32 whatever it was computed in.
    pub fn push(&mut self, name: impl Into<String>, tensor: Tensor) -> Result<()> {
        let wide = if tensor.dtype() == DType::BF16 { tensor.to_dtype(DType::F32)? } else { tensor };
        self.tensors.push((name.into(), wide));
        Ok(())
    }

    /// Adds a result from numbers.
    pub fn push_values<T: Element>(
        &mut self,
        name: impl Into<String>,
        values: &[T],
        dims: &[usize],
    ) -> Result<()> {
        self.push(name, Tensor::from_slice(values, dims)?)
    }

    /// Writes the file.
    pub fn write(self, path: &Path) -> Result<()> {
        Ok(write_safetensors(path, &self.tensors, &BTreeMap::new())?)
    }
}
