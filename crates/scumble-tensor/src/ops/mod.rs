//! Op files.
pub mod linear;
