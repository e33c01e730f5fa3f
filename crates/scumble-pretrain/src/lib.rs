//! Floor 5 of scumble, beside painting: a base model from nothing, trained on the drawn little world.
//!
//! ```text
//! recipe 1  autoencoder   pictures -> latents -> pictures                      vae/
//! recipe 2  contrastive   pictures and captions into a common space            clip/
//! recipe 3  diffusion     captions -> latents, text encoder and UNet together  base/, a diffusers folder
//! ```
//!
//! Each stage is a [`Recipe`] in TOML and a folder of its own under a common one; a later stage reads what an earlier one
//! left there. Everything that is drawn by chance comes from streams named by seed and position, so a run that was
//! interrupted goes on bit for bit.
//!
//! * [`recipe`]: what can be set. [`session`]: the loop that all stages share.
//! * [`autoencoder`], [`contrastive`], [`diffusion`]: one stage each.
//! * [`world`]: pictures and captions as tensors; [`folder`]: models as folders.
//!
//! Deliberately not here: terminals, argument parsing, which backend computes, and what the world looks like.

pub mod autoencoder;
pub mod contrastive;
mod contrastive_loss;
pub mod diffusion;
pub mod folder;
pub mod recipe;
pub mod session;
mod variational;
pub mod world;

pub use recipe::Recipe;
pub use scumble_train::{Result, TrainError};
pub use session::{Report, run};
