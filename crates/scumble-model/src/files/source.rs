//! Where tensors come from, whatever the container: names and shapes are known at once, elements are read one
//! tensor at a time, so that a model never lies in memory twice.

use std::collections::BTreeMap;

use scumble_tensor::{DType, Tensor};

use super::error::Result;

/// Type and sizes of a stored tensor, known before its elements are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Stored element type.
    pub dtype: DType,
    /// Sizes as the file has them, outermost first (convolutions: `[out, in, kh, kw]`).
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Number of elements; readers checked that the product does not overflow.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.numel() * self.dtype.size()
    }
}

/// Named tensors that are read on demand.
pub trait TensorSource: Send + Sync {
    /// What this is, for messages: normally the path of the file.
    fn describe(&self) -> String;
    /// All names, in string order.
    fn names(&self) -> Vec<String>;
    /// Type and sizes of one tensor; `None` if there is no such name.
    fn info(&self, name: &str) -> Option<TensorInfo>;
    /// Reads one tensor into host memory, in the file's layout and element type.
    fn read(&self, name: &str) -> Result<Tensor>;
    /// The container's free-form strings; empty where the container has none.
    fn metadata(&self) -> &BTreeMap<String, String>;
}

impl<S: TensorSource + ?Sized> TensorSource for Box<S> {
    fn describe(&self) -> String {
        (**self).describe()
    }
    fn names(&self) -> Vec<String> {
        (**self).names()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        (**self).info(name)
    }
    fn read(&self, name: &str) -> Result<Tensor> {
        (**self).read(name)
    }
    fn metadata(&self) -> &BTreeMap<String, String> {
        (**self).metadata()
    }
}
