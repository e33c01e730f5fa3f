//! Floor 5 of scumble: a request for a picture, and everything that makes it one.
//!
//! * [`request`]: what can be asked for, as it is kept inside pictures.
//! * [`adapters`], [`schedule`], [`tags`]: which adapters act where, when and how strongly; `<lora:...>` in prompts.
//! * [`words`], [`library`]: learned words from adapters and embedding files, and such files by name.
//! * [`start`]: pictures and masks to begin with.
//! * [`studio`]: a loaded base that paints requests.
//! * [`grid`]: many requests that differ along up to three settings.
//! * [`record`]: what a picture says of itself, written and read back.
//!
//! Deliberately not here: terminals, argument parsing, and which backend computes.

pub mod adapters;
mod error;
pub mod grid;
pub mod library;
pub mod record;
pub mod request;
pub mod schedule;
pub mod start;
pub mod studio;
pub mod tags;
pub mod words;

pub use error::{PaintError, Result};
pub use request::Request;
pub use studio::Studio;
