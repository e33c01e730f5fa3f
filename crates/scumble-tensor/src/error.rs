//! What can go wrong in the engine: wrong shapes, wrong element types, things a backend does not do.

use crate::dtype::DType;

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An engine error; names the op, what it wanted and what it got.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Sizes that do not fit together.
    #[error("{op}: {what}: expected {expected}, found {found}")]
    Shape {
        /// The op that refused.
        op: &'static str,
        /// Which operand or size.
        what: &'static str,
        /// What would have fitted.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An operand has the wrong element type.
    #[error("{op}: {what} is {found}, expected {expected}")]
    DType {
        /// The op that refused.
        op: &'static str,
        /// Which operand.
        what: &'static str,
        /// What would have fitted.
        expected: DType,
        /// What was given.
        found: DType,
    },
    /// The backend has no kernel for this.
    #[error("{backend} has no {op} for {what}")]
    Unsupported {
        /// The backend's name.
        backend: String,
        /// The op.
        op: &'static str,
        /// The type, size or layout that is not covered.
        what: String,
    },
    /// Too many dimensions.
    #[error("a tensor of {rank} dimensions; at most {max} are possible")]
    Rank {
        /// Dimensions asked for.
        rank: usize,
        /// Dimensions possible.
        max: usize,
    },
    /// A size beyond what memory can address.
    #[error("a tensor of shape {dims:?} is larger than memory can address")]
    TooLarge {
        /// The sizes asked for.
        dims: Vec<usize>,
    },
    /// The operating system gave no memory.
    #[error("out of memory: {bytes} bytes could not be had")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The tensor is not in host memory.
    #[error("{op}: the tensor lives on {device}, not in host memory")]
    NotOnHost {
        /// Who wanted to read it.
        op: &'static str,
        /// Where it is.
        device: String,
    },
    /// An id outside its table.
    #[error("{op}: id {id} is outside the table of {rows} rows")]
    Index {
        /// The op that refused.
        op: &'static str,
        /// The id.
        id: i64,
        /// Rows of the table.
        rows: usize,
    },
    /// A tape was used in a way it does not support.
    #[error("tape: {0}")]
    Tape(&'static str),
    /// The device's own failure.
    #[error("{device}: {message}")]
    Device {
        /// The device.
        device: String,
        /// Its words.
        message: String,
    },
}

/// Builds a shape error; `expected` and `found` are anything printable.
pub fn shape_error(
    op: &'static str,
    what: &'static str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Error {
    Error::Shape { op, what, expected: expected.to_string(), found: found.to_string() }
}
