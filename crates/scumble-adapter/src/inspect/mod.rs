//! What is this file? Adapters of every dialect, embeddings, models, and whatever else has tensors.
//!
//! [`inspect`] never refuses a file for what is in it, as loading does: numbers that are not finite and tensors without
//! a place are what people want to be told about. Only what is no file of weights at all is an error.
//!
//! ```
//! use scumble_adapter::inspect::{Content, InspectOptions, inspect};
//!
//! # let cat = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/lora/kohya.safetensors");
//! let found = inspect(&cat, &InspectOptions::default())?;
//! let Content::Adapter(adapter) = &found.content else { return Err("no adapter".into()) };
//! assert_eq!((adapter.dialect, adapter.modules.len()), ("kohya", 156));
//! for block in &adapter.blocks {
//!     println!("{:24} {:?}", block.block, block.norm);
//! }
//! assert!(adapter.complete && adapter.not_finite.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adapter;
mod fit;
mod groups;
mod hashes;
pub(crate) mod measure;
mod model;
mod quirks;
mod sizes;
mod tensors;
mod training;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_model::files::open_any;
use serde::Serialize;

use crate::dialect::{FileKind, is_adapter_file};
use crate::error::Result;
use crate::table::ModuleTable;

pub use adapter::{AdapterContent, FamilyFound, TokenSummary, read_unjudged};
pub use fit::{BaseView, Fit, fit};
pub use groups::{BlockSummary, TowerSummary};
pub use hashes::{Hashes, hash_file};
pub use measure::ModuleSummary;
pub use model::{ModelContent, PartSummary};
pub use tensors::TensorSummary;
pub use training::{Training, training};

/// How closely to look.
#[derive(Clone, Copy, Debug)]
pub struct InspectOptions<'a> {
    /// The modules of a base, for adapters of none of the published families.
    pub base: Option<&'a ModuleTable>,
    /// Leave out what needs the whole file to be read: hashes, and the numbers of models.
    pub quick: bool,
    /// Threads to use.
    pub threads: usize,
}

impl Default for InspectOptions<'_> {
    fn default() -> Self {
        Self { base: None, quick: false, threads: 1 }
    }
}

/// A file and what is in it.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The file or folder.
    pub file: PathBuf,
    /// Its bytes; of a folder those of its tensors.
    pub bytes: u64,
    /// What it is.
    #[serde(flatten)]
    pub content: Content,
    /// What the metadata say about its making.
    pub training: Training,
    /// The container's own words.
    pub metadata: BTreeMap<String, String>,
    /// Names by which others know the file; none of a folder.
    pub hashes: Option<Hashes>,
}

/// Kinds of content.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// Changes to a base, perhaps with learned tokens.
    Adapter(Box<AdapterContent>),
    /// Learned tokens alone.
    Embedding(Box<AdapterContent>),
    /// A complete model.
    Model(Box<ModelContent>),
    /// One component of a diffusers folder, or something that is not known.
    Tensors(TensorContent),
}

/// Tensors of no known purpose.
#[derive(Clone, Debug, Serialize)]
pub struct TensorContent {
    /// The component it seems to be, such as `unet`.
    pub component: Option<&'static str>,
    /// Why it could not be understood better.
    pub problem: Option<String>,
    /// Tensors by the first part of their names.
    pub groups: Vec<(String, usize)>,
    /// All of them.
    #[serde(flatten)]
    pub tensors: TensorSummary,
}

/// Looks into a file or a model's folder.
pub fn inspect(path: &Path, options: &InspectOptions<'_>) -> Result<Inspection> {
    if path.is_dir() {
        let (model, metadata) = model::describe(path, !options.quick, options.threads)?;
        let bytes = model.parts.iter().map(|part| part.tensors.bytes).sum();
        let content = Content::Model(Box::new(model));
        let training = training(&metadata);
        return Ok(Inspection { file: path.into(), bytes, content, training, metadata, hashes: None });
    }
    let source = open_any(path)?;
    let metadata = source.metadata().clone();
    let kind = FileKind::of(&*source);
    let is_adapter = is_adapter_file(path, &*source) || matches!(kind, FileKind::Adapter(_));
    let attempt = if is_adapter {
        adapter::describe(path, options.base, options.threads).map(|adapter| {
            let content = Box::new(adapter);
            match content.modules.is_empty() && content.misfits.is_empty() && content.unmatched.is_empty() {
                true => Content::Embedding(content),
                false => Content::Adapter(content),
            }
        })
    } else if matches!(kind, FileKind::Checkpoint) {
        model::describe(path, !options.quick, options.threads)
            .map(|(model, _)| Content::Model(Box::new(model)))
    } else {
        tensor_content(&*source, kind, None, options)
    };
    let content = match attempt {
        Ok(content) => content,
        Err(error) => tensor_content(&*source, kind, Some(error.to_string()), options)?,
    };
    let hashes = if options.quick { None } else { Some(hash_file(path, &metadata)?) };
    Ok(Inspection {
        file: path.into(),
        bytes: std::fs::metadata(path).map_or(0, |meta| meta.len()),
        content,
        training: training(&metadata),
        metadata,
        hashes,
    })
}

fn tensor_content(
    source: &dyn scumble_model::files::TensorSource,
    kind: FileKind,
    problem: Option<String>,
    options: &InspectOptions<'_>,
) -> Result<Content> {
    let component = match kind {
        FileKind::Component(component) => Some(component),
        _ => None,
    };
    Ok(Content::Tensors(TensorContent {
        component,
        problem,
        groups: tensors::groups(source),
        tensors: tensors::summarise(source, !options.quick, options.threads)?,
    }))
}

/// The container of a file, by its content.
fn container(path: &Path) -> &'static str {
    use std::io::Read;
    let mut start = [0u8; 9];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && start[8] == b'{' { "safetensors" } else { "torch" }
}
