//! Prompts with weights, of any length: what people write for AUTOMATIC1111, read as it reads it.
//!
//! ```text
//! (words)   1.1 times            ((words))  1.21 times        [words]  1 / 1.1 times
//! (words:1.3)  1.3 times         BREAK  begins a new chunk    \( \) \[ \] \\  the characters themselves
//! ```
//!
//! Words are cut into chunks of 75 tokens, each with its own start and end, whose states are put one behind the other.
//! A chunk that would end within 20 tokens after a comma ends at the comma. Weights multiply the states of their
//! tokens; then all states of the chunk are scaled so that their mean is what it was without weights:
//!
//! ```text
//! z <- z * weight;   z <- z * mean(before) / mean(after)
//! ```

mod chunks;
mod parse;

pub use chunks::{Chunk, Tokens, chunks, level};
pub use parse::{Part, parse, plain};
