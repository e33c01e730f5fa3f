//! Floor 2 of scumble: what a Stable Diffusion base model is, from its files to a picture.
//!
//! * [`files`]: weight files in, weight files out; nothing in them is executed.
//! * [`nn`]: the layers, the loader that accounts for every tensor, and the place where adapters attach.
//! * [`unet`]: the denoiser.
//!
//! Deliberately not here: adapters' file dialects, datasets, optimizers, and any kernel.

mod error;
pub mod files;
pub mod nn;
pub mod unet;

pub use error::{Error, Result};
pub mod sampler;
pub mod schedule;
pub mod scheduler_config;
