//! Floor 2 of scumble: what a Stable Diffusion base model is, from its files to a picture.
//!
//! * [`files`]: weight files in, weight files out; nothing in them is executed.
//! * [`nn`]: the layers, the loader that accounts for every tensor, and the place where adapters attach.
//! * [`text_encoder`], [`unet`], [`vae`]: the three networks.
//! * [`tokenizer`]: text to ids; [`prompt`]: weights, breaks and chunks.
//! * [`schedule`], [`scheduler_config`], [`sampler`]: how much noise when, and how to take it away again.
//! * [`pipeline`]: from text to picture with all of these.
//! * [`clip`]: CLIP's dual encoder, which judges pictures; [`resample`]: how pictures change their size.
//!
//! Deliberately not here: adapters' file dialects, datasets, optimizers, and any kernel.

pub mod base;
pub mod clip;
mod error;
pub mod files;
pub mod nn;
pub mod pipeline;
pub mod prompt;
pub mod resample;
pub mod sampler;
pub mod schedule;
pub mod scheduler_config;
pub mod text_encoder;
pub mod tokenizer;
pub mod unet;
pub mod vae;

pub use error::{Error, Result};
