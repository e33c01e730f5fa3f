//! Checkpoints as files: a diffusers folder, a single `.safetensors` or a `.ckpt`, and the way from each to each.
//!
//! [`BaseFiles`](super::BaseFiles) is a base that can be run; a [`Checkpoint`] is one that can be rewritten, and it knows
//! more of them: SDXL, and models with further inputs (inpainting, depth, upscaling). Its parts have diffusers' names,
//! whatever layout they are stored in; tensors of a single file that belong to no part (averaged copies, schedule
//! tables, unused layers) are its extras. Nothing is copied before [`Checkpoint::save`], which passes one tensor at a
//! time.
//!
//! Lossless means: a file that goes to another layout and back has the same tensors, byte for byte, and its metadata.
//! Extras therefore travel to a folder as `single_file_extras.safetensors`, and a folder's configurations and the names
//! of its tensors travel in a single file's metadata (`scumble.folder` and `scumble.folder_names`). Weights that another
//! layout has no place for are listed in [`Checkpoint::left_out`].

mod assemble;
pub(super) mod configs;
mod embedding;
mod family;
mod folder;
mod folder_names;
mod save;
mod single;
mod tokens;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scumble_tensor::DType;

use super::view::Cast;
use super::{Component, embedded, hub};
use crate::files::{FileError, Result, TensorSource};

pub use super::weights::Part;
pub use embedding::write_embedding;
pub use family::{Architecture, Purpose};
pub use save::Saved;
pub use tokens::LearnedToken;

/// Where a folder keeps what only single files have a place for.
pub(super) const EXTRAS_FILE: &str = "single_file_extras.safetensors";
/// Metadata of a single file: a folder's small text files by path, as JSON.
pub(super) const FOLDER_KEY: &str = "scumble.folder";
/// Metadata of a single file: tensors that its folder spelled in an unusual way, as JSON.
const FOLDER_NAMES_KEY: &str = "scumble.folder_names";
/// Metadata of the extras: tensors that the single file spelled in an unusual way, as JSON.
const SPELLING_KEY: &str = "scumble.spelling";

/// How a checkpoint lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A folder in diffusers' layout.
    Folder,
    /// One safetensors file in CompVis' or SGM's names.
    Safetensors,
    /// One torch file in the same names.
    Ckpt,
}

impl Layout {
    /// Layouts under the names users type.
    pub const NAMES: [(&'static str, Layout); 3] =
        [("folder", Layout::Folder), ("safetensors", Layout::Safetensors), ("ckpt", Layout::Ckpt)];

    /// The layout that a path's ending asks for: none is a folder.
    pub fn of_path(path: &Path) -> Option<Self> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        match ending.as_deref() {
            Some("safetensors" | "sft") => Some(Self::Safetensors),
            Some("ckpt" | "pt" | "pth" | "bin") => Some(Self::Ckpt),
            None => Some(Self::Folder),
            // `stable-diffusion-v1.5` has no ending that means anything.
            Some(other) if other.starts_with(|c: char| c.is_ascii_digit()) => Some(Self::Folder),
            _ if path.is_dir() => Some(Self::Folder),
            Some(_) => None,
        }
    }
}

/// What becomes of the averaged weights that training leaves beside the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ema {
    /// They stay beside.
    #[default]
    Keep,
    /// They become the UNet's weights, and the others go.
    Use,
    /// They go.
    Drop,
}

/// How a checkpoint is to be opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// As for [`BaseOptions`](super::BaseOptions).
    pub base: super::BaseOptions,
    /// The averaged weights of a single file.
    pub ema: Ema,
    /// Leave everything out that no part uses.
    pub prune: bool,
}

/// What metadata say about how a model was made with this program; a folder keeps it in the UNet's file.
fn own_words(metadata: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    let own = metadata.iter().filter(|(key, _)| key.starts_with("scumble_"));
    own.map(|(key, value)| (key.clone(), value.clone()))
}

/// A tensor of a single file that is not spelled as we spell it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spelling {
    name: String,
    shape: Vec<usize>,
}

/// An opened checkpoint.
#[derive(Clone)]
pub struct Checkpoint {
    /// As the user named it.
    pub name: String,
    /// The family.
    pub architecture: Architecture,
    /// What its UNet's inputs are for.
    pub purpose: Purpose,
    /// Its parts under diffusers' names; a source may be replaced by one with the same names and sizes.
    pub parts: BTreeMap<Part, Component>,
    /// A single file's metadata, or what its folder kept of it.
    pub metadata: BTreeMap<String, String>,
    /// Tensors and files of weights that were found and that a single file does not take along, each with the reason. A
    /// folder may: see [`Checkpoint::left_out_of`].
    pub left_out: Vec<String>,
    /// Those of them that belong to other components of a folder, which go along to another folder.
    other_components: Vec<String>,
    /// How many averaged tensors of a single file were dropped, or took the others' places.
    pub averages_dropped: usize,
    /// Tensors of a single file that belong to no part, under their names there.
    extras: Arc<dyn TensorSource>,
    /// By our spelling.
    spelling: BTreeMap<String, Spelling>,
    /// What its folder spells otherwise.
    folder_names: folder_names::FolderNames,
    /// Whether `extras` is all that a single file has beside the parts; otherwise it is what we think it needs.
    extras_are_complete: bool,
    /// Small text files of the folder by path, such as `unet/config.json`.
    files: BTreeMap<String, String>,
    /// The folder it is, if it is one.
    folder: Option<PathBuf>,
    /// The folder's tokens with rows behind the vocabulary's.
    learned: Vec<tokens::Stored>,
    /// Tokens that it gets when it is saved.
    added: Vec<LearnedToken>,
    /// Rows of each text encoder's table without learned tokens.
    vocabulary: BTreeMap<Part, usize>,
}

impl Checkpoint {
    /// Opens a checkpoint by path or, when nothing is at that path, `embedded` or by Hub id.
    pub fn open(spec: &str, options: &OpenOptions) -> Result<Self> {
        let path = embedded::base_path(spec)?;
        let path = path.as_ref();
        if path.is_dir() {
            return folder::open(spec, path, options);
        }
        if path.exists() {
            options.base.check_for_single_file(spec)?;
            return single::open(spec, path, options);
        }
        match hub::parse_id(spec) {
            Some(id) => {
                folder::check_options(spec, options)?;
                folder::open(spec, &hub::fetch(&id, &options.base)?, options)
            }
            None => Err(FileError::Missing {
                what: "the checkpoint".into(),
                file: path.into(),
                hint: "give a diffusers folder, a .safetensors or .ckpt file, a Hub id such as `org/name`, or `embedded`"
                    .into(),
            }),
        }
    }

    /// What of [`Checkpoint::left_out`] is left out where it is written in a layout: from folder to folder, components
    /// that are none of the parts go along.
    pub fn left_out_of(&self, layout: Layout) -> Vec<&str> {
        let goes_along = |left: &String| layout == Layout::Folder && self.other_components.contains(left);
        self.left_out.iter().filter(|left| !goes_along(left)).map(String::as_str).collect()
    }

    /// The tensors outside the parts.
    pub fn extras(&self) -> &Arc<dyn TensorSource> {
        &self.extras
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let sources = self.parts.values().map(|part| &part.weights).chain([&self.extras]);
        let of = |source: &Arc<dyn TensorSource>| -> u64 {
            source.names().iter().filter_map(|name| Some(source.info(name)?.bytes() as u64)).sum()
        };
        sources.map(of).sum()
    }

    /// Stores fractions as another element type; a rounding if the type is narrower.
    pub fn cast(&mut self, dtype: DType) {
        for part in self.parts.values_mut() {
            part.weights = Arc::new(Cast::new(Arc::clone(&part.weights), dtype));
        }
        self.extras = Arc::new(Cast::new(Arc::clone(&self.extras), dtype));
    }
}
