//! What can go wrong between a question about a model and its answer.

use std::path::PathBuf;

use scumble_paint::PaintError;
use scumble_train::TrainError;
use scumble_train::picture::PictureError;

/// The floor's result.
pub type Result<T> = std::result::Result<T, EvalError>;

/// A question that can't be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A setting that is out of range or contradicts another.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting as people type it.
        setting: String,
        /// What is wrong with it.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A folder or file that is not there or not what it should be.
    #[error("`{}`: {reason}", path.display())]
    Path {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A model's answer that is no number.
    #[error("the CLIP model `{model}` gives NaN or infinity for {what}")]
    NotFinite {
        /// The model.
        model: String,
        /// Which picture or text.
        what: String,
    },
    /// A model's.
    #[error(transparent)]
    Model(#[from] scumble_model::Error),
    /// A tokenizer's.
    #[error(transparent)]
    Tokenizer(#[from] scumble_model::tokenizer::TokenizerError),
    /// Painting's.
    #[error(transparent)]
    Paint(#[from] PaintError),
    /// Training's.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A picture's.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The engine's.
    #[error(transparent)]
    Tensor(#[from] scumble_tensor::Error),
}

impl From<scumble_model::files::FileError> for EvalError {
    fn from(error: scumble_model::files::FileError) -> Self {
        Self::Model(error.into())
    }
}

impl EvalError {
    /// A wrong setting.
    pub fn setting(setting: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Setting { setting: setting.into(), reason: reason.into(), hint: hint.into() }
    }

    /// A wrong path.
    pub fn path(path: impl Into<PathBuf>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Path { path: path.into(), reason: reason.into(), hint: hint.into() }
    }

    /// Whether it is a matter of what was typed alone.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Setting { .. } => true,
            Self::Paint(error) => error.is_usage(),
            _ => false,
        }
    }

    /// What the user can do about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Setting { hint, .. } | Self::Path { hint, .. } => {
                Some(hint.clone()).filter(|hint| !hint.is_empty()).into_iter().collect()
            }
            Self::NotFinite { .. } => {
                vec!["its weights may be damaged; download the model again, or use another".to_owned()]
            }
            Self::Model(error) => error.hints(),
            Self::Paint(error) => error.hints(),
            Self::Train(error) => error.hints(),
            Self::Picture(error) => error.hint().map(str::to_owned).into_iter().collect(),
            Self::Tokenizer(_) | Self::Tensor(_) => Vec::new(),
        }
    }
}
