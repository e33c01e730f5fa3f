//! Floor 4 of scumble: training. From a folder of pictures to an adapter file.
//!
//! * [`data`]: from a folder of pictures to batches, picture and text in one piece.
//! * [`picture`], [`plot`]: from a photograph's file to numbers, and back to PNG.
//! * [`config`]: everything a person can set, with its help text, its checks and its TOML form.
//! * [`lr_schedule`], [`optimizer`], [`clip`], [`objective`], [`masks`], [`losses`]: the parts of an update, each one idea.
//! * [`tokens`]: new words; [`ema`]: running means of what learns.
//! * [`step`]: one forward and backward pass; [`trace`]: a recorded run of them, for comparing implementations.
//! * [`checkpoint`], [`metrics`], [`tensorboard`], [`metadata`]: what a run leaves on the disk and how it goes on after an end.
//! * [`full`]: a whole model as a folder; [`embeddings`]: words as files.
//! * [`run`]: all of it together; [`preflight`]: what it will need.
//!
//! Deliberately not here: terminals, browsers, argument parsing. Whoever runs a training gets events and prints them.

pub mod checkpoint;
pub mod clip;
pub mod config;
pub mod data;
pub mod ema;
pub mod embeddings;
mod error;
pub mod full;
pub mod losses;
pub mod lr_schedule;
pub mod masks;
pub mod metadata;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod picture;
pub mod plot;
pub mod preflight;
pub mod recompute;
pub mod run;
pub mod step;
pub mod tensorboard;
pub mod tokens;
pub mod trace;

pub use config::TrainConfig;
pub use error::{Result, TrainError};
