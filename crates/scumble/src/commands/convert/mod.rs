//! `scumble convert`: a file in another spelling, nothing lost. What the input is decides which half does it.

mod adapter;
pub mod checkpoint;

use std::path::{Path, PathBuf};

use clap::Args;
use scumble_adapter::dialect::{FileKind, is_adapter_file};

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
    /// Element type to store: f32, f16 or bf16 [default: as the input]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<String>,
    /// Replace what is already at OUT
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub adapter: adapter::AdapterOptions,
    #[command(flatten)]
    pub checkpoint: checkpoint::CheckpointOptions,
}

/// Runs the command.
pub fn run(context: &Context, args: &ConvertArgs) -> Result {
    if args.output.exists() && !args.force {
        return Err(Failure::new(format!("`{}` is already there", args.output.display()))
            .hint("choose another name, or pass --force to replace it"));
    }
    if is_adapter(&args.input)? {
        refuse_foreign("an adapter", args.checkpoint.given())?;
        adapter::run(context, args)
    } else {
        refuse_foreign("a model", args.adapter.given())?;
        checkpoint::run(context, args)
    }
}

/// Options that would be ignored are mistakes.
fn refuse_foreign(what: &str, given: Option<&str>) -> Result<()> {
    match given {
        Some(option) => Err(Failure::usage(format!("{option} means nothing: the input is {what}"))),
        None => Ok(()),
    }
}

/// Whether the input is an adapter or embedding; otherwise it is a model, or something that its readers name.
fn is_adapter(input: &Path) -> Result<bool> {
    if input.is_dir() || !input.exists() {
        return Ok(false);
    }
    let source = scumble_model::files::open_any(input)?;
    Ok(is_adapter_file(input, &*source) || matches!(FileKind::of(&*source), FileKind::Adapter(_)))
}
