//! What can go wrong in training, in words that name the thing and say what to do.
//!
//! [`TrainError::hints`] holds the advice, so that every front end shows the same.

use std::path::PathBuf;

/// The crate's result.
pub type Result<T> = std::result::Result<T, TrainError>;

/// A training error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A key that no configuration has.
    #[error("`{key}` is not a setting{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key as written, with its section.
        key: String,
        /// The nearest existing key.
        suggestion: Option<String>,
    },
    /// A value of the wrong type, or a file that is no TOML.
    #[error("the configuration can't be read: {message}")]
    Toml {
        /// The parser's words, with the line.
        message: String,
    },
    /// A value that can't work.
    #[error("`{key}` = {value}: {problem}")]
    Setting {
        /// The key, with its section.
        key: String,
        /// The value found.
        value: String,
        /// Why it can't work.
        problem: String,
        /// What to do instead.
        hint: String,
    },
    /// Reading or writing failed.
    #[error("{doing} `{}`: {source}", path.display())]
    Io {
        /// What was being done, such as `writing`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The engine's error.
    #[error(transparent)]
    Tensor(#[from] scumble_tensor::Error),
    /// Tensors that do not fit together.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What was looked at.
        what: String,
        /// What would have fitted.
        expected: String,
        /// What was there.
        found: String,
    },
}

impl TrainError {
    /// Advice on what to do, ready to print after the error.
    pub fn hints(&self) -> Vec<String> {
        match self {
            TrainError::Setting { hint, .. } if !hint.is_empty() => vec![hint.clone()],
            TrainError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                vec!["free some space, then go on with `--resume last`".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}
