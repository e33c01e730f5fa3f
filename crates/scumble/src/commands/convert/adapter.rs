//! `scumble convert` for adapters and embeddings.

use clap::Args;
use scumble_adapter::architecture::Architecture;
use scumble_adapter::dialect::{
    Loaded, ReadOptions, WriteOptions, by_name, load_adapter, save_adapter, writable,
};
use scumble_adapter::{AdapterError, ModuleTable};

use super::ConvertArgs;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Options that concern adapters only.
#[derive(Args)]
#[command(next_help_heading = "Adapters and embeddings")]
pub struct AdapterOptions {
    /// Take what fits when some tensors of the input have no place, and say what was left
    #[arg(long)]
    pub allow_partial: bool,
}

/// Reads in any dialect, writes in the one asked for.
pub fn run(context: &Context, args: &ConvertArgs) -> Result {
    let dialect = by_name(&args.to).ok_or_else(|| {
        let names: Vec<&str> = writable().iter().map(|dialect| dialect.name()).collect();
        Failure::usage(format!("adapters have no dialect `{}`", args.to))
            .hint(format!("there are {}", names.join(", ")))
    })?;
    let (loaded, table) = load(args)?;
    if !loaded.report.is_complete() {
        context.terminal.warning(&format!("{}: {}", args.input.display(), loaded.report));
    }
    let options = WriteOptions { dtype: args.dtype.dtype(), ..WriteOptions::default() };
    save_adapter(&args.output, &loaded.adapter, &table, dialect, &options)?;
    context.terminal.result(&args.output.display().to_string());
    Ok(Outcome::Done)
}

/// Tries the families in turn; the error is that of the one that came nearest.
fn load(args: &ConvertArgs) -> Result<(Loaded, ModuleTable)> {
    let options = ReadOptions { partial: args.adapter.allow_partial };
    let sd1 = Architecture::Sd1.table()?;
    let first = match load_adapter(&args.input, &sd1, options) {
        Ok(loaded) => return Ok((loaded, sd1)),
        Err(error) => error,
    };
    if matches!(first, AdapterError::Unmatched { .. }) {
        let sd2 = Architecture::Sd2.table()?;
        if let Ok(loaded) = load_adapter(&args.input, &sd2, options) {
            return Ok((loaded, sd2));
        }
    }
    Err(first.into())
}
