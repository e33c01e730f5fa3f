//! What can go wrong with adapters; every variant names the file, module or tensor and what would have fitted.

use std::path::PathBuf;

use scumble_model::files::FileError;

use crate::dialect::report::LoadReport;

/// This crate's result.
pub type Result<T> = std::result::Result<T, AdapterError>;

/// An adapter that cannot be read, written, built or attached.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The container could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The engine refused.
    #[error(transparent)]
    Tensor(#[from] scumble_tensor::Error),
    /// No dialect recognises the file.
    #[error("{file}: not an adapter of a known dialect ({known}): it {examples}")]
    UnknownDialect {
        /// The file.
        file: String,
        /// Names of the known dialects.
        known: String,
        /// Its first few keys, in words.
        examples: String,
    },
    /// Some tensors have no place in the base, or do not fit it.
    #[error("{file}: {report}")]
    Unmatched {
        /// The file.
        file: String,
        /// What was and was not matched.
        report: Box<LoadReport>,
    },
    /// No built-in family has the modules that a file changes.
    #[error("{}: its tensors fit neither Stable Diffusion 1.x nor 2.x nor XL{}", .file.display(), because(.unread))]
    UnknownFamily {
        /// The file.
        file: PathBuf,
        /// Why a module that it names is not read, if that is the reason.
        unread: Option<&'static str>,
    },
    /// Metadata or structure that the dialect does not allow.
    #[error("{file}: {what}")]
    Malformed {
        /// The file.
        file: String,
        /// The fault.
        what: String,
    },
    /// Factors that do not form a low-rank product.
    #[error("{module}: {what}")]
    Factors {
        /// The module.
        module: String,
        /// The fault, with the shapes.
        what: String,
    },
    /// A kind of factors that an operation has no rule for.
    #[error("{module}: a {kind} cannot be {purpose}; only plain low-rank factors can")]
    Kind {
        /// The module.
        module: String,
        /// The kind it is.
        kind: String,
        /// What was to be done with it.
        purpose: &'static str,
    },
    /// A kind of factors that has no gradient here.
    #[error(
        "{module}: a {kind} cannot be trained on; LoRA, DoRA over outputs, LoHa and LoKr without cores can"
    )]
    CannotTrain {
        /// The module.
        module: String,
        /// The kind it is.
        kind: String,
    },
    /// The change depends on the base weight, which is not at hand.
    #[error("{module}: a DoRA change depends on the base weight, which is not at hand here")]
    NeedsBase {
        /// The module.
        module: String,
    },
    /// NaN or infinity in the factors.
    #[error(
        "{module}: {part} holds {count} value(s) that are not finite; the training that made it diverged, or the file is damaged"
    )]
    NotFinite {
        /// The module or token.
        module: String,
        /// `down`, `up` or `token`.
        part: &'static str,
        /// How many values.
        count: usize,
    },
    /// What is wrong with the content of a file.
    #[error("{}: {source}", .file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// The fault.
        source: Box<AdapterError>,
    },
    /// A dialect cannot hold this adapter.
    #[error("the {dialect} dialect cannot hold this adapter: {reason}")]
    CannotHold {
        /// The dialect.
        dialect: &'static str,
        /// What it has no place for, and what to do.
        reason: String,
    },
    /// The adapter was made for another base.
    #[error("the adapter does not fit this base: {}{}", list(.faults), .guess.as_ref().map(|g| format!("; {g}")).unwrap_or_default())]
    WrongBase {
        /// One line per module: path, expected and found sizes.
        faults: Vec<String>,
        /// What it seems to be made for.
        guess: Option<String>,
    },
    /// Two models that are not of one kind, so that their difference means nothing.
    #[error("the models are not of one kind: {}", list(.faults))]
    DifferentModels {
        /// One line per tensor: sizes on both sides, or where it is missing.
        faults: Vec<String>,
    },
    /// A choice of modules or ranks that cannot work.
    #[error("{what}")]
    Selection {
        /// The fault and what to change.
        what: String,
    },
    /// The base's configuration lacks something or is of a kind that is not known.
    #[error("{file}: {what}")]
    Config {
        /// Which configuration.
        file: String,
        /// The fault.
        what: String,
    },
    /// A path that cannot be an adapter file.
    #[error("{}: {what}", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The fault.
        what: String,
    },
}

impl AdapterError {
    /// What the user can do, a sentence each; possibly none.
    pub fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::File(error) => return error.hints(),
            Self::Content { source, .. } => return source.hints(),
            Self::Unmatched { .. } | Self::WrongBase { .. } => {
                "use the base that the adapter was made for; `--allow-partial` takes what fits"
            }
            Self::UnknownDialect { .. } => {
                "a checkpoint, an embedding or one component of a model is given elsewhere, not as an adapter"
            }
            Self::DifferentModels { .. } => {
                "give models of one family and size; for a difference, the model that the tuned one was made from"
            }
            Self::UnknownFamily { unread: Some(_), .. } => {
                "LoRA, LoCon, LoHa, LoKr, DoRA, whole differences and norms are read"
            }
            Self::UnknownFamily { .. } => "give the base that it was made for with `--for`",
            Self::NeedsBase { .. } => "give the base that the adapter was made for",
            Self::NotFinite { .. } => "take an earlier checkpoint of that training, or fetch the file again",
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

/// A reason behind a colon, if there is one.
fn because(reason: &Option<&str>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// At most eight of `lines`, then how many more there are.
pub(crate) fn list(lines: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = lines.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if lines.len() > SHOWN {
        text.push_str(&format!("; and {} more", lines.len() - SHOWN));
    }
    text
}
