//! Tensors in memory behind the same face as a file: what list pickles are turned into, and what tests read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use scumble_model::files::{FileError, Result, TensorInfo, TensorSource};
use scumble_tensor::Tensor;

/// Named tensors in memory.
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    /// What messages call it.
    pub name: String,
    /// The tensors, in the files' layout.
    pub tensors: BTreeMap<String, Tensor>,
    /// The metadata.
    pub metadata: BTreeMap<String, String>,
}

impl TensorSource for MemorySource {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let tensor = self.tensors.get(name)?;
        Some(TensorInfo { dtype: tensor.dtype(), shape: tensor.dims().to_vec() })
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        self.tensors
            .get(name)
            .cloned()
            .ok_or_else(|| FileError::MissingTensor { file: PathBuf::from(&self.name), tensor: name.into() })
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}
