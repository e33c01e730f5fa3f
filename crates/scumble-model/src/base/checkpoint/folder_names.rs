//! How a folder spells its tensors where we spell them otherwise, so that it can come back as it was.
//!
//! Folders of before diffusers 0.17 name the VAE's attention `query, key, value, proj_attn`, and text encoders of that
//! time store the list of their positions, `[1, 77]` numbers from 0 on that no program needs. A single file has other
//! names and carries the folder's in its metadata (`scumble.folder_names`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scumble_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::{FOLDER_NAMES_KEY, Part};
use crate::base::view::View;
use crate::files::{FileError, Result, TensorSource};

/// An old VAE and text encoder take about two kilobytes.
const MAX_TEXT: usize = 1 << 20;
const POSITION_TABLE: &str = "text_model.embeddings.position_embedding.weight";
/// Types that a list of positions was ever stored in.
const POSITION_TYPES: [DType; 5] = [DType::I64, DType::I32, DType::F32, DType::F16, DType::BF16];

/// The unusual names of one part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct PartNames {
    /// By our name: the folder's, and the sizes there.
    names: BTreeMap<String, (String, Vec<usize>)>,
    /// The list of positions: its name, element type and sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    positions: Option<(String, String, Vec<usize>)>,
}

/// The unusual names of a folder, by part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct FolderNames(BTreeMap<String, PartNames>);

impl FolderNames {
    /// What a single file's metadata say.
    pub(super) fn of_metadata(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Self> {
        let Some(text) = metadata.get(FOLDER_NAMES_KEY) else { return Ok(Self::default()) };
        let malformed =
            |reason: String| FileError::malformed(path, "`scumble.folder_names` metadata", reason);
        if text.len() > MAX_TEXT {
            return Err(malformed(format!("it is longer than {MAX_TEXT} bytes")));
        }
        serde_json::from_str(text).map_err(|error| malformed(error.to_string()))
    }

    /// As metadata have it; nothing if all names are usual.
    pub(super) fn metadata(&self) -> Option<String> {
        if self.0.is_empty() { None } else { serde_json::to_string(self).ok() }
    }

    /// Remembers what the folder calls the tensor `ours`, if that is anything else than we do.
    pub(super) fn note(&mut self, part: Part, ours: &str, theirs: &str, shapes: [&[usize]; 2]) {
        let [our_shape, shape] = shapes;
        if ours != theirs || our_shape != shape {
            let of_part = self.0.entry(part.folder().into()).or_default();
            of_part.names.insert(ours.into(), (theirs.into(), shape.to_vec()));
        }
    }

    /// Remembers a list of positions, if that is what the tensor `name` of `source` is: 0, 1, 2, ... for each row of the
    /// table of `weights`.
    pub(super) fn note_positions(
        &mut self,
        part: Part,
        name: &str,
        source: &dyn TensorSource,
        weights: &dyn TensorSource,
    ) -> Result<bool> {
        let Some(info) = source.info(name).filter(|_| name.ends_with("embeddings.position_ids")) else {
            return Ok(false);
        };
        let positions = (name.to_owned(), info.dtype.name().to_owned(), info.shape);
        let Some(count) = counted(&positions, weights) else { return Ok(false) };
        let file = PathBuf::from(source.describe());
        let bytes = |tensor: &Tensor| -> Result<Vec<u8>> {
            Ok(tensor.bytes().map_err(|error| FileError::engine(&file, name, error))?.to_vec())
        };
        let count = count.map_err(|error| FileError::engine(&file, name, error))?;
        if bytes(&source.read(name)?)? != bytes(&count)? {
            return Ok(false);
        }
        self.0.entry(part.folder().into()).or_default().positions = Some(positions);
        Ok(true)
    }

    /// The element type of a part's list of positions, if the folder has one.
    pub(super) fn position_type(&self, part: Part) -> Option<DType> {
        let (_, dtype, _) = self.0.get(part.folder())?.positions.as_ref()?;
        position_type(dtype)
    }

    /// A part's weights as its folder spells them. Sizes that no longer fit stay as they are.
    pub(super) fn spelled(
        &self,
        part: Part,
        weights: Arc<dyn TensorSource>,
    ) -> Result<Arc<dyn TensorSource>> {
        let Some(unusual) = self.0.get(part.folder()) else { return Ok(weights) };
        let mut view = View::new(weights.describe(), weights.metadata().clone());
        for name in weights.names() {
            let Some(info) = weights.info(&name) else { continue };
            let theirs = unusual.names.get(&name);
            let new = theirs.map_or(&name, |(theirs, _)| theirs).clone();
            let shape = theirs.map(|(_, shape)| shape.clone());
            let shape = shape.filter(|shape| product(shape) == Some(info.numel())).unwrap_or(info.shape);
            view.reshaped(&weights, &name, new, shape)?;
        }
        if let Some(positions) = &unusual.positions
            && view.info(&positions.0).is_none()
            && let Some(count) = counted(positions, weights.as_ref())
        {
            let file = PathBuf::from(weights.describe());
            let count = count.map_err(|error| FileError::engine(&file, &positions.0, error))?;
            view.constant(&weights, positions.0.clone(), count)?;
        }
        Ok(Arc::new(view))
    }
}

fn position_type(name: &str) -> Option<DType> {
    POSITION_TYPES.into_iter().find(|dtype| dtype.name() == name)
}

fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1, |product: usize, &size| product.checked_mul(size))
}

/// The list of positions in the type and sizes it is said to have, if that can be: a number for each row of the table.
fn counted(
    (_, dtype, shape): &(String, String, Vec<usize>),
    weights: &dyn TensorSource,
) -> Option<scumble_tensor::Result<Tensor>> {
    let rows = weights.info(POSITION_TABLE)?.shape.first().copied()?;
    let dtype = position_type(dtype).filter(|_| product(shape) == Some(rows))?;
    Some(count(rows, dtype, shape))
}

/// 0, 1, 2, ... of this type.
pub(super) fn count(rows: usize, dtype: DType, shape: &[usize]) -> scumble_tensor::Result<Tensor> {
    let values: Vec<i64> = (0..rows as i64).collect();
    Tensor::from_slice(&values, shape)?.to_dtype(dtype)
}
