//! The layers that the models are made of, and how they come out of a weight file.
//!
//! * [`Projection`]: a linear layer or convolution; the place that adapters attach to, as a [`Branch`].
//! * [`LowRank`]: the branch that a LoRA is, `y + scale * up(down(dropout(x)))`; [`Decomposed`] (DoRA), [`Hadamard`] (LoHa)
//!   and [`Kronecker`] (LoKr); [`Difference`]: a dense change.
//! * [`GroupNorm`], [`LayerNorm`], [`Embedding`]; [`Attention`], [`Resnet`], [`Downsample`], [`Upsample`].
//! * [`Loader`] and [`Scope`]: build layers from a [`TensorSource`](crate::files::TensorSource) and account for every
//!   tensor in it. A layer's path is its diffusers path, so a constructor reads like the file's table of contents.
//! * [`Observer`]: sees the outputs of modules by path; costs nothing when absent.

mod attention;
mod branch;
mod config;
mod decomposed;
mod difference;
mod embedding;
mod hadamard;
mod init;
#[cfg(test)]
mod kinds_tests;
mod kronecker;
mod layout;
mod loader;
mod modules;
mod norm;
mod observe;
mod projection;
mod resample;
mod resnet;

pub use attention::{Attention, AttentionNames, AttentionSizes};
pub use branch::{Addends, Branch, LowRank, Rescaling};
pub use config::{Config, ConfigError};
pub use decomposed::{Decomposed, row_norms};
pub use difference::{Difference, Tunable};
pub use embedding::Embedding;
pub use hadamard::Hadamard;
pub use kronecker::{Factor, Kronecker};
pub use layout::{find_non_finite, to_file_layout, to_memory_layout};
pub use loader::{Loader, Problem, Scope, WeightsError};
pub use modules::Modules;
pub use norm::{GroupNorm, LayerNorm};
pub use observe::{Observer, Recorder, Tap};
pub use projection::{Kind, Projection};
pub use resample::{Downsample, Upsample};
pub use resnet::{Resnet, ResnetSizes};
