//! `scumble convert`: a file in another spelling, nothing lost. What the input is decides which half does it.

mod adapter;
pub mod checkpoint;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use scumble_adapter::dialect::{FileKind, is_adapter_file};
use scumble_tensor::DType;

use crate::context::Context;
use crate::failure::{Failure, Result};

/// Options of `convert`.
#[derive(Args)]
pub struct ConvertArgs {
    /// The adapter, embedding or checkpoint to read
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The file (or folder) to write
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// How to spell it: a dialect for adapters; folder, safetensors or ckpt for checkpoints [default there: what the
    /// ending of OUT says]
    #[arg(long, value_name = "DIALECT")]
    pub to: Option<String>,
    /// Element type to store
    #[arg(long, value_name = "TYPE", default_value = "keep")]
    pub dtype: StoredType,
    /// Replace what is already at OUT
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub adapter: adapter::AdapterOptions,
    #[command(flatten)]
    pub checkpoint: checkpoint::CheckpointOptions,
}

/// Element type of the written tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoredType {
    /// As the input has it.
    Keep,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// bfloat16.
    Bf16,
}

impl StoredType {
    /// The type, unless the input's is kept.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Self::Keep => None,
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::BF16),
        }
    }
}

/// Runs the command.
pub fn run(context: &Context, args: &ConvertArgs) -> Result {
    if args.output.exists() && !args.force {
        return Err(Failure::new(format!("`{}` is already there", args.output.display()))
            .hint("choose another name, or pass --force to replace it"));
    }
    if is_adapter(&args.input)? { adapter::run(context, args) } else { checkpoint::run(context, args) }
}

/// Whether the input is an adapter or embedding; otherwise it is a model, or something that its readers name.
fn is_adapter(input: &Path) -> Result<bool> {
    if input.is_dir() || !input.exists() {
        return Ok(false);
    }
    let source = scumble_model::files::open_any(input)?;
    Ok(is_adapter_file(input, &*source) || matches!(FileKind::of(&*source), FileKind::Adapter(_)))
}
