//! Floor 4 of scumble: training. From a folder of pictures to an adapter file.
//!
//! * [`config`]: everything a person can set, with its help text, its checks and its TOML form.
//! * [`lr_schedule`], [`optimizer`], [`clip`], [`objective`]: the parts of an update, each one idea.
//!
//! Deliberately not here: terminals, browsers, argument parsing. Whoever runs a training gets events and prints them.

pub mod clip;
pub mod config;
mod error;
pub mod lr_schedule;

pub mod optimizer;

pub use config::TrainConfig;
pub use error::{Result, TrainError};
