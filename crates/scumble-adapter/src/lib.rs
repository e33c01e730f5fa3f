//! scumble-adapter: the LoRA family in memory and on disk.
//!
//! An [`Adapter`] holds low-rank factors by diffusers module path, prefixed with the tower they belong to:
//! `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q`. A [`ModuleTable`] says which modules a base
//! has and how every dialect spells their names; [`dialect`] reads and writes the files. The factors keep the
//! files' layout (`[r, in]`, `[out, r]`, convolutions OIHW); only the door to the model converts.

pub mod adapter;
pub mod architecture;
pub mod attach;
mod attach_rows;
pub mod create;
pub mod dialect;
pub mod error;
pub mod extract;
pub mod linalg;
pub mod merge;
pub mod names;
pub mod parallel;
pub mod positional;
pub mod rank;
pub mod resize;
pub mod select;
pub mod table;

pub use adapter::{
    Adapter, Axis, Change, HadamardFactors, HadamardSide, KroneckerFactor, KroneckerFactors, LowRankFactors,
    Magnitude, ModuleFactors, TuckerFactors,
};
pub use error::{AdapterError, Result};
pub use table::{Module, ModuleKind, ModuleTable, Tower};
