//! The models against numbers of diffusers and transformers: `tests/fixtures/<model>/expected`.

mod common;
mod text;
mod unet;
mod vae;
