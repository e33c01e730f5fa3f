//! A source seen under other names and shapes; nothing is copied until a tensor is read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use scumble_tensor::Tensor;

use crate::files::{FileError, Result, TensorInfo, TensorSource, printable};

/// What becomes of a tensor.
pub(super) enum Renamed {
    /// It is not part of the component.
    Dropped,
    /// It has this name.
    As(String),
    /// Its rows are query, key and value on top of each other.
    Thirds([String; 3]),
}

struct Origin {
    name: String,
    /// Which third of the rows.
    third: Option<usize>,
    shape: Vec<usize>,
}

/// Part of another source under diffusers' names.
pub(super) struct AdaptedSource {
    inner: Arc<dyn TensorSource>,
    origins: BTreeMap<String, Origin>,
}

impl AdaptedSource {
    /// Asks `rename` about every tensor of `inner`.
    pub(super) fn new(inner: Arc<dyn TensorSource>, rename: impl Fn(&str) -> Renamed) -> Result<Self> {
        let mut origins = BTreeMap::new();
        for name in inner.names() {
            let (names, thirds) = match rename(&name) {
                Renamed::Dropped => continue,
                Renamed::As(new) => (vec![new], false),
                Renamed::Thirds(new) => (Vec::from(new), true),
            };
            let Some(info) = inner.info(&name) else { continue };
            for (index, new) in names.into_iter().enumerate() {
                let mut shape = info.shape.clone();
                if thirds {
                    match shape.first_mut() {
                        Some(rows) if *rows % 3 == 0 => *rows /= 3,
                        _ => {
                            let file = PathBuf::from(inner.describe());
                            let expected = "rows in three equal parts (query, key, value)";
                            return Err(FileError::tensor(
                                &file,
                                &printable(&name),
                                expected,
                                format!("{shape:?}"),
                            ));
                        }
                    }
                } else if is_vae_projection(&new) {
                    shape = squeezed(shape);
                }
                let origin = Origin { name: name.clone(), third: thirds.then_some(index), shape };
                if let Some(other) = origins.insert(new.clone(), origin) {
                    let file = PathBuf::from(inner.describe());
                    let found = format!("`{}` and `{}`", printable(&other.name), printable(&name));
                    return Err(FileError::tensor(&file, &printable(&new), "one tensor", found));
                }
            }
        }
        Ok(Self { inner, origins })
    }
}

/// The VAE's attention is a linear layer in diffusers and a 1x1 convolution in older files.
fn is_vae_projection(name: &str) -> bool {
    let parts = ["to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"];
    name.contains("mid_block.attentions.")
        && !name.contains("transformer_blocks")
        && parts.iter().any(|part| name.ends_with(part))
}

/// `[c, c, 1, 1]` and `[c, c, 1]` are `[c, c]`.
fn squeezed(mut shape: Vec<usize>) -> Vec<usize> {
    while shape.len() > 2 && shape.last() == Some(&1) {
        shape.pop();
    }
    shape
}

impl TensorSource for AdaptedSource {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn names(&self) -> Vec<String> {
        self.origins.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let origin = self.origins.get(name)?;
        let dtype = self.inner.info(&origin.name)?.dtype;
        Some(TensorInfo { dtype, shape: origin.shape.clone() })
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let file = || PathBuf::from(self.describe());
        let origin = self.origins.get(name).ok_or_else(|| FileError::missing_tensor(file(), name))?;
        let tensor = self.inner.read(&origin.name)?;
        let engine = |source| FileError::engine(&file(), name, source);
        let Some(third) = origin.third else { return tensor.reshape(&origin.shape).map_err(engine) };
        let bytes = tensor.bytes().map_err(engine)?;
        let part = bytes.len() / 3;
        Tensor::from_bytes(tensor.dtype(), &bytes[third * part..(third + 1) * part], &origin.shape)
            .map_err(engine)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.inner.metadata()
    }
}
