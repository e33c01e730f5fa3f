//! What can go wrong on this floor: one enum over the errors of its parts, each of which names file, tensor or key.

use crate::files::FileError;
use crate::nn::{ConfigError, Problem, WeightsError};
use crate::sampler::SamplerError;
use crate::schedule::ScheduleError;
use crate::tokenizer::TokenizerError;

/// The floor's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a model or its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine's.
    #[error(transparent)]
    Tensor(#[from] scumble_tensor::Error),
    /// A weight file's.
    #[error(transparent)]
    File(#[from] FileError),
    /// Weights that are not those of the configured model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A configuration that can't be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A sampler's.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// A noise schedule's.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A tokenizer's.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A picture size that has no latents.
    #[error("the {what} is {found} pixels, expected a multiple of {expected}")]
    PictureSize {
        /// Height or width.
        what: &'static str,
        /// Pixels per latent.
        expected: usize,
        /// Pixels asked for.
        found: usize,
    },
    /// A computation left the numbers.
    #[error("{what} contain NaN or infinity after model call {} of {calls}", call + 1)]
    NotFinite {
        /// What was computed.
        what: &'static str,
        /// Index of the model call after which it was seen.
        call: usize,
        /// Number of model calls.
        calls: usize,
    },
    /// The VAE made no numbers of the latents.
    #[error("the decoded picture contains NaN or infinity")]
    PictureNotFinite,
}

impl Error {
    /// What the user can do about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Error::Weights(error) => weights_hints(error),
            Error::Config(error) => {
                let component = error.component;
                vec![format!("this kind of {component} is not supported; Stable Diffusion 1.x and 2.x are")]
            }
            Error::File(error) => error.hints(),
            Error::PictureSize { expected, found, .. } => {
                let below = found / expected * expected;
                let above = below + expected;
                vec![if below == 0 { format!("try {above}") } else { format!("try {below} or {above}") }]
            }
            Error::NotFinite { .. } | Error::PictureNotFinite => vec![
                "the base or an adapter may be damaged, or an adapter's strength too high; try without adapters"
                    .to_owned(),
            ],
            Error::Tensor(scumble_tensor::Error::OutOfMemory { .. }) => {
                vec!["use a smaller picture or batch, or close other programs".to_owned()]
            }
            Error::Tokenizer(_) => vec![
                "the tokenizer's files are damaged or of another model; download the model's tokenizer folder again"
                    .to_owned(),
            ],
            Error::Tensor(_) | Error::Sampler(_) | Error::Schedule(_) => Vec::new(),
        }
    }
}

fn weights_hints(error: &WeightsError) -> Vec<String> {
    let all_missing = error.problems.iter().all(|problem| matches!(problem, Problem::Missing { .. }));
    let misshapen = error.problems.iter().any(|problem| matches!(problem, Problem::Shape { .. }));
    let hint = if misshapen {
        "weights and config.json are of different models; download both from the same place"
    } else if all_missing {
        "the file is incomplete or of another kind; download it again or check the path"
    } else {
        "tensors with other names usually mean another architecture or an unusual file"
    };
    vec![hint.to_owned()]
}
