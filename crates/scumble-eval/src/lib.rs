//! Floor 6 of scumble: what was learned, in numbers.
//!
//! * [`judge`]: a CLIP model that turns texts and pictures into directions of one space.
//! * [`measure`]: text alignment, image alignment and drift from those directions; [`retrieval`]: how often the true
//!   caption comes first among others.
//! * [`prompts`]: what to paint when nobody says; [`pictures`]: pictures that are there already, with their texts.
//! * [`gallery`]: painting many requests on one base with one set of adapters.
//! * [`evaluate`]: all of it together, as one report.
//! * [`demo`]: a complete run for newcomers; [`lesson`]: bundled subjects and styles to train on; [`quality`]: ways of training compared.
//!
//! Deliberately not here: terminals, argument parsing, and which backend computes.

pub mod demo;
mod error;
pub mod evaluate;
pub mod gallery;
pub mod judge;
pub mod lesson;
pub mod measure;
pub mod pictures;
pub mod prompts;
pub mod quality;
pub mod retrieval;

pub use error::{EvalError, Result};
pub use judge::{Embedding, Judge};
