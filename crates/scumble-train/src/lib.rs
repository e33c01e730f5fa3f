//! scumble-train

pub mod picture;
