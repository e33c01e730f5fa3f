//! Dialects: how adapters are spelled in files.
//!
//! A dialect says where each tensor of a file belongs ([`Dialect::place`]) and, if it is one that we write, how an
//! adapter is spelled in it ([`Dialect::write`]). Everything else is shared: [`read_source`] reads the tensors, checks
//! pairs, ranks and shapes and accounts for every key; [`load_adapter`] and [`save_adapter`] open and
//! close the files. Adding a dialect is a file here and a line in [`DIALECTS`].

mod collect;
pub mod encode;
mod file;
mod guess;
mod kind;
mod kohya;
mod old_diffusers;
mod original;
mod original_list;
mod peft;
pub mod report;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use scumble_model::files::TensorSource;
use scumble_tensor::DType;

use crate::adapter::Adapter;
use crate::error::{AdapterError, Result};
use crate::positional::Generation;
use crate::table::ModuleTable;

pub use collect::{read_as, read_source};
pub use encode::Encoded;
pub use file::{Loaded, load_adapter, save_adapter};
pub use guess::family_of_width;
pub use kind::FileKind;
pub use original_list::is_list as is_adapter_file;
pub use report::{Leftover, LoadReport};
pub use source::MemorySource;

/// One spelling of adapters.
pub trait Dialect: Sync {
    /// The name users type.
    fn name(&self) -> &'static str;

    /// Whether a file with these keys is of this dialect.
    fn recognises(&self, keys: &[String]) -> bool;

    /// Where each tensor of the file belongs; keys that are left out count as unmatched.
    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement>;

    /// Whether a metadata entry is part of the spelling and so must not travel to another dialect.
    fn is_structural(&self, _key: &str, _value: &str) -> bool {
        false
    }

    /// The adapter in this dialect, or the reason why it has no place in it.
    fn write(&self, _adapter: &Adapter, _table: &ModuleTable, _options: &WriteOptions) -> Result<Encoded> {
        Err(AdapterError::CannotHold {
            dialect: self.name(),
            reason: format!("it is only read; write one of {}", names_of(&writable())),
        })
    }

    /// Whether [`Dialect::write`] is there.
    fn is_writable(&self) -> bool {
        false
    }
}

/// Every dialect, in the order in which files are tested for them.
pub static DIALECTS: [&dyn Dialect; 4] =
    [&original::Original, &kohya::Kohya, &old_diffusers::OldDiffusers, &peft::Peft];

/// The dialect of a name, if there is one.
pub fn by_name(name: &str) -> Option<&'static dyn Dialect> {
    DIALECTS.into_iter().find(|dialect| dialect.name() == name)
}

/// The dialects that can be written.
pub fn writable() -> Vec<&'static dyn Dialect> {
    DIALECTS.into_iter().filter(|dialect| dialect.is_writable()).collect()
}

/// The dialect that a file with these keys is of.
pub fn detect(keys: &[String]) -> Option<&'static dyn Dialect> {
    DIALECTS.into_iter().find(|dialect| dialect.recognises(keys))
}

pub(crate) fn names_of(dialects: &[&dyn Dialect]) -> String {
    dialects.iter().map(|dialect| dialect.name()).collect::<Vec<_>>().join(", ")
}

/// An opened file.
pub struct AdapterFile<'s> {
    /// Its tensors.
    pub source: &'s dyn TensorSource,
    /// Where it is, for the dialects that keep part of the truth in a file beside it.
    pub path: Option<&'s Path>,
}

impl AdapterFile<'_> {
    fn malformed(&self, what: impl Into<String>) -> AdapterError {
        AdapterError::Malformed { file: self.source.describe(), what: what.into() }
    }
}

/// Part of a module's change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Input side.
    Down,
    /// Output side.
    Up,
    /// One number.
    Alpha,
}

/// Where a tensor belongs.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A part of the change of the module at this path.
    Factor(String, Part),
    /// The rows of a learned token.
    Token(String),
    /// Part of the module's change that we cannot apply, with the reason; without it the module would be wrong.
    Unsupported(String, &'static str),
}

/// Alpha of a module by its path and rank, where a file keeps it outside its tensors.
pub type AlphaRule = Box<dyn Fn(&str, usize) -> f32>;

/// Where the tensors of a file belong.
#[derive(Default)]
pub struct Placement {
    /// By key of the file.
    pub places: BTreeMap<String, Place>,
    /// Alpha of the modules that have no alpha tensor; `None` makes it the rank, which is scale 1.
    pub alpha: Option<AlphaRule>,
    /// What is wrong with the file as a whole.
    pub faults: Vec<Leftover>,
}

/// What to do with learned tokens that the dialect has no usual place for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenPolicy {
    /// Refuse to write: nothing is lost unasked.
    #[default]
    Refuse,
    /// Put them into the file the way some readers understand (kohya: `bundle_emb.*`, read by AUTOMATIC1111).
    Bundle,
    /// Leave them out; the caller keeps them elsewhere.
    Omit,
}

/// How to write.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Element type of the factors; `None` keeps what they have.
    pub dtype: Option<DType>,
    /// Learned tokens.
    pub tokens: TokenPolicy,
    /// Order inside transformer blocks for the original dialect.
    pub generation: Generation,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { dtype: None, tokens: TokenPolicy::Refuse, generation: Generation::UpTo014 }
    }
}

/// How to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Accept a file of which only a part fits the base; the report names the rest.
    pub partial: bool,
}

/// Errors unless every module of the adapter is one of the base's; paths that are not, with the nearest ones.
pub(crate) fn check_known(dialect: &'static str, adapter: &Adapter, table: &ModuleTable) -> Result<()> {
    adapter.require_low_rank("written in this dialect yet")?;
    let unknown: BTreeSet<&str> =
        adapter.modules.keys().map(String::as_str).filter(|path| table.get(path).is_none()).collect();
    let Some(first) = unknown.first() else { return Ok(()) };
    Err(AdapterError::CannotHold {
        dialect,
        reason: format!(
            "{first} is no module of the base it is written for ({} such modules)",
            unknown.len()
        ),
    })
}
