//! `scumble export-base`: the embedded base as files that other programs read.

use std::path::PathBuf;

use clap::Args;
use scumble_model::base::embedded;

use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Options of `export-base`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble export-base little-world\n  \
    scumble convert little-world -o little-world.safetensors")]
pub struct ExportBaseArgs {
    /// New folder: a base in diffusers' layout, and in `clip` the CLIP model that judges its pictures
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Replace what is there
    #[arg(short, long)]
    force: bool,
}

/// Writes it.
pub fn run(context: &Context, args: &ExportBaseArgs) -> Result {
    if args.folder.symlink_metadata().is_ok() && !args.force {
        return Err(Failure::new(format!("`{}` is there already", args.folder.display()))
            .hint("name a new folder, or pass --force to replace it"));
    }
    embedded::export(&args.folder)?;
    context.terminal.result(&args.folder.display().to_string());
    Ok(Outcome::Done)
}
