//! What a pickle holds once it is read: plain values, containers and tensors that know where their bytes are.
//!
//! Containers are shared, as in the pickle: a list that appears twice is stored once. Whoever walks a value must
//! bound the walk, since forty nested lists of "twice the one below" have a million million leaves.

use std::sync::Arc;

use scumble_tensor::DType;

use crate::files::TensorInfo;

/// A value of a pickle.
#[derive(Clone, Debug)]
pub enum Value {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number of at most 64 bits; larger ones are [`Value::Opaque`].
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A string.
    Text(Arc<str>),
    /// Raw bytes.
    Bytes(Arc<[u8]>),
    /// A list or a set.
    List(Arc<[Value]>),
    /// A tuple.
    Tuple(Arc<[Value]>),
    /// A dictionary, in insertion order; of equal keys the last counts.
    Dict(Arc<[(Value, Value)]>),
    /// A tensor.
    Tensor(Arc<PickledTensor>),
    /// Something that is neither a tensor nor a plain container, by the name of its class; it was not constructed.
    Opaque(Arc<str>),
}

impl Value {
    /// The elements of a list or tuple.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The pairs of a dictionary.
    pub fn as_dict(&self) -> Option<&[(Value, Value)]> {
        match self {
            Self::Dict(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a whole number.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The tensor.
    pub fn as_tensor(&self) -> Option<&PickledTensor> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The value under a string key of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_dict()?.iter().rev().find(|(name, _)| name.as_text() == Some(key)).map(|(_, value)| value)
    }
}

/// A tensor of a pickle: a strided view of a storage. Construction checked that the view lies inside the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickledTensor {
    pub(super) storage: Arc<str>,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// In elements, as `offset`.
    pub(super) strides: Vec<usize>,
    pub(super) offset: usize,
}

impl PickledTensor {
    /// Element type and sizes.
    pub fn info(&self) -> TensorInfo {
        TensorInfo { dtype: self.dtype, shape: self.shape.clone() }
    }

    /// Whether the elements lie one after the other, so that they can be copied as one block.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return false;
            }
            expected *= size;
        }
        true
    }
}

/// A storage that a pickle refers to by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StorageDeclaration {
    pub key: Arc<str>,
    pub dtype: DType,
    /// Elements of the whole storage.
    pub numel: usize,
    /// First element of the part that is meant (old containers could store views of storages).
    pub view_offset: usize,
    /// Elements of the part that is meant.
    pub view_numel: usize,
}
