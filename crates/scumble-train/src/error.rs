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
    /// A weight file's error.
    #[error(transparent)]
    File(#[from] scumble_model::files::FileError),
    /// The model's error.
    #[error(transparent)]
    Model(#[from] scumble_model::Error),
    /// The adapter's error.
    #[error(transparent)]
    Adapter(#[from] scumble_adapter::AdapterError),
    /// A sampler that is not there or can't do what was asked.
    #[error(transparent)]
    Sampler(#[from] scumble_model::sampler::SamplerError),
    /// A picture's error.
    #[error(transparent)]
    Picture(#[from] crate::picture::PictureError),
    /// NaN or infinity in loss or gradient.
    #[error("step {step}: the {what} is {value}; the pictures of the step are {}", pictures.join(", "))]
    NotFinite {
        /// The update that was being made, from 1.
        step: u64,
        /// Loss or gradient.
        what: &'static str,
        /// What it is.
        value: f64,
        /// Files of the pictures that were seen.
        pictures: Vec<String>,
    },
    /// NaN or infinity in the validation loss.
    #[error("the validation loss is {value}")]
    Validation {
        /// What it is.
        value: f64,
    },
    /// A picture that the VAE makes no numbers of.
    #[error("the VAE gives no finite latents for `{}`", picture.display())]
    Latents {
        /// The file.
        picture: PathBuf,
    },
    /// Stopped from outside before there was anything to save.
    #[error("stopped before the first step; nothing was written")]
    StoppedEarly,
    /// A data set's error.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// The tokenizer's error.
    #[error(transparent)]
    Tokenizer(#[from] scumble_model::tokenizer::TokenizerError),
    /// A resumed run that would not go on as it began.
    #[error("the run can't go on as it began: {}", changes.join("; "))]
    Drift {
        /// What differs, in words.
        changes: Vec<String>,
    },
    /// A run that can't fit into this machine's memory.
    #[error("this run needs about {needed_gib:.1} GiB of memory, the machine has {available_gib:.1} GiB")]
    TooLarge {
        /// Estimate.
        needed_gib: f64,
        /// What there is.
        available_gib: f64,
    },
    /// A run that can't fit into the memory it may use.
    #[error(
        "this run needs about {needed_gib:.2} GiB of memory with everything recomputed that can be, `train.memory` allows \
         {allowed_gib:.2} GiB"
    )]
    Budget {
        /// Estimate.
        needed_gib: f64,
        /// The setting.
        allowed_gib: f64,
    },
    /// The noise schedule's error.
    #[error(transparent)]
    Schedule(#[from] scumble_model::schedule::ScheduleError),
    /// A checkpoint that is not there or not one.
    #[error("no checkpoint to go on from at `{}`: {problem}", path.display())]
    NoCheckpoint {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// The folder of a new run exists.
    #[error("there is a run at `{}` already", path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process trains into this folder.
    #[error("another process is training into `{}`", path.display())]
    RunBusy {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that should be replaced is no run.
    #[error("`{}` is no training run and will not be replaced", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
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
            TrainError::Io { source, .. }
                if [std::io::ErrorKind::AlreadyExists, std::io::ErrorKind::NotADirectory].contains(&source.kind()) =>
            {
                vec!["a file is where a folder is wanted: move it away, or choose another `--out`".to_owned()]
            }
            TrainError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                vec!["allow this user to read and write there, or choose another folder".to_owned()]
            }
            TrainError::File(error) => error.hints(),
            TrainError::Model(error) => error.hints(),
            TrainError::Data(error) => error.hints(),
            TrainError::Latents { .. } => vec!["take the picture out, or use another VAE".to_owned()],
            TrainError::Picture(error) => error.hint().map(str::to_owned).into_iter().collect(),
            TrainError::Validation { .. } => {
                vec!["lower the learning rate; the last checkpoint is whole, `--resume last` goes on from it".to_owned()]
            }
            TrainError::NotFinite { .. } => vec![
                "lower the learning rate, or look at these pictures; the last checkpoint is whole, `--resume last` goes on from it"
                    .to_owned(),
            ],
            TrainError::Drift { .. } => vec![
                "put the settings back, or pass `--allow-changes` to go on with the new ones".to_owned(),
            ],
            TrainError::TooLarge { .. } => vec![
                "lower `train.batch` (and raise `train.accumulate`), or train smaller pictures".to_owned(),
            ],
            TrainError::Budget { .. } => vec![
                "raise `train.memory`, lower `train.batch` (and raise `train.accumulate`), compute in bf16, or train smaller pictures"
                    .to_owned(),
            ],
            TrainError::NoCheckpoint { .. } => vec!["start the run anew, without `--resume`".to_owned()],
            TrainError::RunExists { .. } => {
                vec!["choose another `--name`, go on with `--resume last`, or replace it with `--existing replace`".to_owned()]
            }
            TrainError::RunBusy { .. } => vec!["wait for it, or choose another `--name`".to_owned()],
            TrainError::NotARun { .. } => {
                vec!["choose another `--name` or delete the folder yourself".to_owned()]
            }
            _ => Vec::new(),
        }
    }

    /// For `map_err` on file operations.
    pub fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| TrainError::Io { doing, path, source }
    }
}
