//! A training run from its configuration to its files.

pub mod cache;
pub mod event;
pub mod folder;
