//! What can be wrong with a file of weights, in words that name the file, the tensor, what was expected and
//! what was found; [`FileError::hints`] says what to do about it.

use std::path::{Path, PathBuf};

/// The result of reading or writing files.
pub type Result<T> = std::result::Result<T, FileError>;

/// An error of a file of weights or of a model made of several files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file cannot be opened or mapped.
    #[error("cannot open `{}`", .file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read `{}`", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be written; what was there before is untouched.
    #[error("cannot write `{}`; what was there before is untouched", .file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file does not follow its format.
    #[error("`{}` is not a valid {format} file: {reason}", .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// `safetensors`, `torch`, `JSON`, ...
        format: &'static str,
        /// Which rule is broken, with what was expected and found.
        reason: String,
    },
    /// A pickle names something that is neither a tensor nor a plain container. Nothing was executed.
    #[error("`{}` asks for `{global}`, which is not needed to hold weights; nothing was executed", .file.display())]
    RefusedGlobal {
        /// The file.
        file: PathBuf,
        /// `module.name` as the pickle spells it.
        global: String,
    },
    /// A tensor's declaration contradicts itself, its data or the caller's expectation.
    #[error("`{}`: tensor `{tensor}`: expected {expected}, found {found}", .file.display())]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What would have fitted.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// An element type that is not read.
    #[error("`{}`: tensor `{tensor}` has element type {dtype}, which is not supported", .file.display())]
    UnsupportedDType {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The type as the file spells it.
        dtype: String,
    },
    /// No tensor of that name.
    #[error("`{}` has no tensor `{tensor}`", .file.display())]
    MissingTensor {
        /// The file, or what stands for several.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// Taking the content in would need more memory than such a file can honestly need.
    #[error("`{}`: {what} would take {found}; the limit is {limit}", .file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// What is too large.
        what: String,
        /// The declared size.
        found: String,
        /// What is accepted.
        limit: String,
    },
    /// A file or folder that must be there is not.
    #[error("{what} is missing: `{}` does not exist", .file.display())]
    Missing {
        /// What the file would have been.
        what: String,
        /// Where it was expected.
        file: PathBuf,
        /// What to do.
        hint: String,
    },
    /// A model that is well formed but is not one this program works with.
    #[error("`{base}`: {reason}")]
    Unsupported {
        /// The model as the user named it.
        base: String,
        /// What it is, and why that does not work.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A configuration file has a missing, unknown or absurd value.
    #[error("`{}`: `{key}`: expected {expected}, found {found}", .file.display())]
    Config {
        /// The configuration file (or the weights it was derived from).
        file: PathBuf,
        /// The key.
        key: String,
        /// What would have fitted.
        expected: String,
        /// What it says.
        found: String,
    },
    /// The Hub, or what stands for it, did not give a file.
    #[error("cannot fetch `{file}` of `{repo}`: {reason}")]
    Hub {
        /// `org/name@revision`.
        repo: String,
        /// The file inside the repository.
        file: String,
        /// Status or transport failure.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A tensor that is computed while it is read, and cannot be.
    #[error("`{}`: tensor `{tensor}`: {reason}", .file.display())]
    Computed {
        /// The file that it starts from.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What went wrong, and what to do.
        reason: String,
    },
    /// Host memory or a shape the engine cannot hold.
    #[error("`{}`: tensor `{tensor}`", .file.display())]
    Engine {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The engine's reason.
        #[source]
        source: Box<scumble_tensor::Error>,
    },
}

impl FileError {
    /// What the user can do, a sentence each; possibly none.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                vec!["check the path for a typing mistake".into()]
            }
            Self::Open { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                vec!["check who may read the file".into()]
            }
            Self::Write { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                vec!["free some space on that disk, or choose another folder".into()]
            }
            Self::Write { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                vec!["choose a folder that you may write to".into()]
            }
            Self::Malformed { .. } | Self::TooLarge { .. } => {
                vec![
                    "the file may be damaged or not fully downloaded: fetch it again and compare its size"
                        .into(),
                ]
            }
            Self::RefusedGlobal { .. } => vec![
                "a file of weights has no use for this: do not open it with other tools either".into(),
                "ask its author for a .safetensors file, which cannot carry code".into(),
            ],
            Self::UnsupportedDType { .. } => vec!["use a file saved as f16, bf16 or f32".into()],
            Self::Missing { hint, .. } | Self::Unsupported { hint, .. } | Self::Hub { hint, .. }
                if !hint.is_empty() =>
            {
                vec![hint.clone()]
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn malformed(file: &Path, format: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed { file: file.into(), format, reason: reason.into() }
    }

    pub(crate) fn tensor(
        file: &Path,
        tensor: &str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Tensor {
            file: file.into(),
            tensor: tensor.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// An engine's error about a tensor of a file.
    pub fn engine(file: &Path, tensor: &str, source: scumble_tensor::Error) -> Self {
        Self::Engine { file: file.into(), tensor: tensor.into(), source: Box::new(source) }
    }

    /// A tensor that a file should have.
    pub fn missing_tensor(file: impl Into<PathBuf>, tensor: &str) -> Self {
        Self::MissingTensor { file: file.into(), tensor: tensor.into() }
    }
}

/// Text from a file for an error message: control characters escaped, at most 120 characters.
pub(crate) fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(120).flat_map(char::escape_debug).collect();
    if text.chars().nth(120).is_some() {
        shown.push('…');
    }
    shown
}
/// A number of bytes as people read it.
pub(crate) fn human_bytes(bytes: u128) -> String {
    match bytes {
        0..1_024 => format!("{bytes} bytes"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
