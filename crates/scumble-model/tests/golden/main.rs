//! The models against numbers of diffusers and transformers in `tests/fixtures`.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's way to fail

mod clip;
mod common;
mod configurations;
mod painting;
mod pipeline;
mod text;
mod unet;
mod vae;
