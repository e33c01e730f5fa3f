//! The models against numbers of diffusers and transformers: `tests/fixtures/<model>/expected`.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's way to fail

mod common;
mod pipeline;
mod text;
mod unet;
mod vae;
