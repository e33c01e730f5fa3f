//! What can go wrong on this floor: one enum over the errors of its parts, each of which names file, tensor or key.

use crate::nn::{ConfigError, Problem, WeightsError};

/// The floor's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a model or its files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine's.
    #[error(transparent)]
    Tensor(#[from] scumble_tensor::Error),
    /// A weight file's.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// Weights that are not those of the configured model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A configuration that can't be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Error {
    /// What the user can do about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Error::Weights(error) => weights_hints(error),
            Error::Config(error) => {
                vec![format!(
                    "this kind of {} is not supported; Stable Diffusion 1.x and 2.x are",
                    error.component
                )]
            }
            Error::File(error) => error.hints(),
            Error::Tensor(_) => Vec::new(),
        }
    }
}

fn weights_hints(error: &WeightsError) -> Vec<String> {
    let all_missing = error.problems.iter().all(|problem| matches!(problem, Problem::Missing { .. }));
    let misshapen = error.problems.iter().any(|problem| matches!(problem, Problem::Shape { .. }));
    if misshapen {
        vec!["weights and config.json are of different models; download both from the same place".to_owned()]
    } else if all_missing {
        vec!["the file is incomplete or of another kind; download it again or check the path".to_owned()]
    } else {
        vec!["tensors with other names usually mean another architecture or an unusual file".to_owned()]
    }
}
