//! What can go wrong between a request and its picture.

use scumble_adapter::AdapterError;
use scumble_model::files::FileError;
use scumble_model::sampler::SamplerError;
use scumble_model::tokenizer::TokenizerError;
use scumble_train::picture::PictureError;

/// The floor's result.
pub type Result<T> = std::result::Result<T, PaintError>;

/// A request that can't be painted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PaintError {
    /// A setting that is out of range, unreadable, or contradicts another.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting as people type it.
        setting: String,
        /// What is wrong with it.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A file that is not there or not what it should be.
    #[error("{what} `{name}`: {reason}")]
    File {
        /// What the file is for.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// The floor below's.
    #[error(transparent)]
    Model(#[from] scumble_model::Error),
    /// A weight file's.
    #[error(transparent)]
    Weights(#[from] FileError),
    /// An adapter's.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A picture's.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The engine's.
    #[error(transparent)]
    Tensor(#[from] scumble_tensor::Error),
}

impl From<SamplerError> for PaintError {
    fn from(error: SamplerError) -> Self {
        Self::Model(error.into())
    }
}

impl From<TokenizerError> for PaintError {
    fn from(error: TokenizerError) -> Self {
        Self::Model(error.into())
    }
}

impl PaintError {
    /// A wrong setting.
    pub fn setting(setting: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Setting { setting: setting.into(), reason: reason.into(), hint: hint.into() }
    }

    /// A wrong file.
    pub fn file(
        what: &'static str,
        name: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::File { what, name: name.into(), reason: reason.into(), hint: hint.into() }
    }

    /// Whether it is a matter of what was typed alone.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Setting { .. })
    }

    /// What the user can do about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Setting { hint, .. } | Self::File { hint, .. } => {
                if hint.is_empty() {
                    Vec::new()
                } else {
                    vec![hint.clone()]
                }
            }
            Self::Model(error) => error.hints(),
            Self::Weights(error) => error.hints(),
            Self::Adapter(error) => error.hints(),
            Self::Picture(error) => error.hint().map(str::to_owned).into_iter().collect(),
            Self::Tensor(_) => Vec::new(),
        }
    }
}
