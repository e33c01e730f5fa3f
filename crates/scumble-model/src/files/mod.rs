//! Files of weights: safetensors, sharded safetensors, torch's pickles. Memory-mapped in, whole or not at all out.
//!
//! Everything is behind [`TensorSource`]: names, types and shapes at once, elements on demand. No reader executes
//! anything, and none takes memory by what a file claims before checking the claim against the file's length.

mod atomic;
mod error;
mod safetensors;
mod source;

pub use atomic::{AtomicFile, atomic_write};
pub use error::{FileError, Result};
pub use safetensors::{SafetensorsFile, write_safetensors, write_safetensors_with};
pub use source::{TensorInfo, TensorSource};

#[cfg(test)]
mod safetensors_tests;
