//! Dialects: how adapters are spelled in files.
//!
//! A dialect says where each tensor of a file belongs ([`Dialect::place`]) and, if it is one that we write, how an
//! adapter is spelled in it ([`Dialect::write`]). Everything else is shared: [`read_source`] reads the tensors, checks
//! pairs, ranks and shapes and accounts for every key; [`load_adapter`] and [`save_adapter`] open and
//! close the files. Adding a dialect is a file here and a line in [`DIALECTS`].

mod assemble;
mod collect;
mod embedding;
pub mod encode;
pub mod family;
mod file;
mod fold;
mod guess;
mod kind;
mod kohya;
mod kohya_metadata;
mod old_diffusers;
mod original;
mod original_list;
mod part;
mod peft;
mod pickled;
pub mod report;
mod source;
mod spelling;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use scumble_model::files::TensorSource;
use scumble_tensor::{DType, Tensor};

use crate::adapter::Adapter;
use crate::error::{AdapterError, Result};
use crate::names::Naming;
use crate::positional::Generation;
use crate::table::{ModuleTable, Tower};

pub(crate) use collect::{Gathered, gather};
pub use collect::{read_as, read_source};
pub use encode::{Encoded, Rounding};
pub use file::{Loaded, load_adapter, save_adapter, save_and_measure};
pub use guess::family_of_width;
pub use kind::FileKind;
pub(crate) use original::numbered_sizes;
pub use original_list::is_list as is_adapter_file;
pub use part::{Part, Side};
pub use pickled::{companions, is_pickled_name, pickled_ending};
pub use report::{Leftover, LoadReport};
pub use source::MemorySource;
pub use spelling::Spelling;

/// One spelling of adapters.
pub trait Dialect: Sync {
    /// The name users type.
    fn name(&self) -> &'static str;

    /// Whether a file with these tensors is of this dialect.
    fn recognises(&self, source: &dyn TensorSource) -> bool;

    /// Where each tensor of the file belongs; keys that are left out count as unmatched.
    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement>;

    /// Notes what this file's spelling says beyond the adapter itself, see [`Spelling`].
    fn note(
        &self,
        _file: &AdapterFile<'_>,
        _placement: &Placement,
        _table: &ModuleTable,
        _spelling: &mut Spelling,
    ) {
    }

    /// Undoes what writing had to do to fit the dialect, where the notes say it.
    fn finish(&self, _adapter: &mut Adapter, _spelling: &mut Spelling) -> Result<()> {
        Ok(())
    }

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
pub static DIALECTS: [&dyn Dialect; 6] = [
    &original::Original,
    &kohya::Kohya,
    &old_diffusers::OldDiffusers,
    &peft::Peft,
    &embedding::A1111,
    &embedding::LearnedEmbeds,
];

/// The dialect of a name, if there is one.
pub fn by_name(name: &str) -> Option<&'static dyn Dialect> {
    DIALECTS.into_iter().find(|dialect| dialect.name() == name)
}

/// The dialects that can be written.
pub fn writable() -> Vec<&'static dyn Dialect> {
    DIALECTS.into_iter().filter(|dialect| dialect.is_writable()).collect()
}

/// The dialect that a file with these tensors is of.
pub fn detect(source: &dyn TensorSource) -> Option<&'static dyn Dialect> {
    DIALECTS.into_iter().find(|dialect| dialect.recognises(source))
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

/// Where a tensor belongs.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A part of the change of the module at this path.
    Factor(String, Part),
    /// The rows of a learned token, for one of the text encoders.
    Token(String, Tower),
    /// Read elsewhere, or nothing that an adapter needs.
    Known,
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
    /// The order inside transformer blocks that the numbers of a file turned out to have.
    pub order: Option<Generation>,
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
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Element type of the factors; `None` keeps what they have.
    pub dtype: Option<DType>,
    /// Learned tokens.
    pub tokens: TokenPolicy,
    /// Order inside transformer blocks for the original dialect; `None` as the notes say, else that of the published
    /// files.
    pub generation: Option<Generation>,
    /// Names of the UNet's modules in flattened names; `None` as the notes say, else what is usual for the base.
    pub naming: Option<Naming>,
}

impl WriteOptions {
    /// The element type that a factor is stored in.
    pub fn type_of(&self, factor: &Tensor) -> DType {
        self.dtype.unwrap_or(factor.dtype())
    }
}

/// How to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Accept a file of which only a part fits the base; the report names the rest.
    pub partial: bool,
}

/// Errors when there are learned tokens, for dialects without a place for them.
pub(crate) fn refuse_tokens(dialect: &'static str, adapter: &Adapter) -> Result<()> {
    if adapter.tokens.is_empty() && adapter.tokens_2.is_empty() {
        return Ok(());
    }
    Err(AdapterError::CannotHold {
        dialect,
        reason: "it has no place for learned tokens; write them to a file of their own".into(),
    })
}

/// Errors unless all modules are plain low-rank pairs.
pub(crate) fn check_plain(dialect: &'static str, adapter: &Adapter) -> Result<()> {
    match adapter.modules.iter().find(|(_, factors)| factors.low_rank().is_none()) {
        None => Ok(()),
        Some((path, factors)) => Err(AdapterError::CannotHold {
            dialect,
            reason: format!("it knows plain low-rank factors only, and {path} has {}", factors.kind()),
        }),
    }
}

/// Errors unless every module of the adapter is one of the base's; paths that are not, with the nearest ones.
pub(crate) fn check_known(dialect: &'static str, adapter: &Adapter, table: &ModuleTable) -> Result<()> {
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
