//! `scumble convert` for checkpoints: folder, single file, .ckpt.

use std::path::Path;
use std::time::Instant;

use clap::{Args, ValueEnum};
use scumble_model::base::checkpoint::{Checkpoint, Ema, Layout, OpenOptions, Saved};

use super::ConvertArgs;
use crate::commands::adapter_files;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};
use crate::terminal::Progress;

/// Options that concern checkpoints only.
#[derive(Args)]
#[command(next_help_heading = "Checkpoints")]
pub struct CheckpointOptions {
    /// The averaged weights that training left in a single file
    #[arg(long, value_name = "WHAT", default_value = "keep")]
    pub ema: EmaChoice,
    /// Leave out what no part of the model uses
    #[arg(long)]
    pub prune: bool,
    /// A diffusers folder whose configurations belong to this single file
    #[arg(long, value_name = "FOLDER")]
    pub config: Option<std::path::PathBuf>,
    /// Weight files of a folder to take where there are several kinds, such as fp16
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
}

impl CheckpointOptions {
    /// One of the options that was used.
    pub fn given(&self) -> Option<&'static str> {
        let used = [
            ("--ema", self.ema != EmaChoice::Keep),
            ("--prune", self.prune),
            ("--config", self.config.is_some()),
            ("--variant", self.variant.is_some()),
        ];
        used.into_iter().find_map(|(option, is_used)| is_used.then_some(option))
    }
}

/// What becomes of averaged weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EmaChoice {
    /// They stay beside the others.
    Keep,
    /// They replace the others.
    Use,
    /// They go.
    Drop,
}

/// Reads in any layout, writes in the one asked for.
pub fn run(context: &Context, args: &ConvertArgs) -> Result {
    let layout = layout("--to", args.to.as_deref(), &args.output)?;
    let options = &args.checkpoint;
    let mut open = OpenOptions { prune: options.prune, ..OpenOptions::default() };
    open.base = scumble_model::base::BaseOptions::from_env();
    (open.base.config, open.base.variant) = (options.config.clone(), options.variant.clone());
    open.ema = match options.ema {
        EmaChoice::Keep => Ema::Keep,
        EmaChoice::Use => Ema::Use,
        EmaChoice::Drop => Ema::Drop,
    };
    let mut checkpoint = Checkpoint::open(&args.input.to_string_lossy(), &open)?;
    if let Some(dtype) = adapter_files::dtype(args.dtype.as_deref())? {
        checkpoint.cast(dtype);
    }
    context.terminal.status(&format!("{}, {}", checkpoint.architecture, checkpoint.purpose));
    tell_left_out(context, &checkpoint, layout);
    check_target(&checkpoint, &args.input, &args.output, layout, args.force)?;
    save(context, &checkpoint, &args.output, layout)?;
    context.terminal.result(&args.output.display().to_string());
    Ok(Outcome::Done)
}

/// Counts what a layout does not take along, and with `--verbose` names it.
pub fn tell_left_out(context: &Context, checkpoint: &Checkpoint, layout: Layout) {
    let left_out = checkpoint.left_out_of(layout);
    for left in &left_out {
        context.terminal.detail(&format!("left out: {left}"));
    }
    if !left_out.is_empty() {
        let text = format!("left out (--verbose says why): {} tensors or files of weights", left_out.len());
        context.terminal.status(&text);
    }
}

/// What replacing must not do: remove a folder that is no model, or files that were not named.
pub fn check_target(
    checkpoint: &Checkpoint,
    input: &Path,
    out: &Path,
    layout: Layout,
    force: bool,
) -> Result<()> {
    let whole = |path: &Path| path.canonicalize().ok();
    if let (Some(from), Some(output)) = (whole(input), whole(out))
        && from != output
        && from.starts_with(&output)
    {
        return Err(Failure::new(format!("`{}` lies in `{}`", input.display(), out.display()))
            .hint("it would be replaced together with the folder; choose another name"));
    }
    let is_empty = || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if out.is_dir() && !out.join("model_index.json").is_file() && !is_empty() {
        return Err(Failure::new(format!("`{}` is a folder, and no model", out.display()))
            .hint("choose another name; only a model's folder is replaced"));
    }
    if let Some(there) = checkpoint.embedding_files(out, layout).iter().find(|file| file.exists())
        && !force
    {
        return Err(Failure::new(format!("the learned token's file `{}` is already there", there.display()))
            .hint("choose another name, or pass --force to replace it"));
    }
    Ok(())
}

/// The layout that was asked for, or that the name's ending says.
pub fn layout(option: &str, asked: Option<&str>, output: &Path) -> Result<Layout> {
    let names = Layout::NAMES.map(|(name, _)| name).join(", ");
    match asked {
        Some(asked) => {
            Layout::NAMES.iter().find(|(name, _)| *name == asked).map(|(_, layout)| *layout).ok_or_else(
                || {
                    Failure::usage(format!("checkpoints have no layout `{asked}`"))
                        .hint(format!("there are {names}"))
                },
            )
        }
        None => Layout::of_path(output).ok_or_else(|| {
            Failure::usage(format!("the ending of `{}` says no layout", output.display()))
                .hint(format!("pass {option} with one of {names}, or end the name in .safetensors or .ckpt"))
        }),
    }
}

/// Writes with a progress line.
pub fn save(context: &Context, checkpoint: &Checkpoint, path: &Path, layout: Layout) -> Result<Saved> {
    const MEGABYTE: u64 = 1 << 20;
    let (total, start, mut passed) = (checkpoint.bytes(), Instant::now(), 0);
    let saved = checkpoint.save(path, layout, &mut |bytes| {
        passed += bytes;
        context.terminal.progress(&Progress {
            unit: "MiB",
            done: passed / MEGABYTE,
            total: total.max(passed) / MEGABYTE,
            done_here: passed / MEGABYTE,
            elapsed: start.elapsed(),
            extra: "",
        });
    })?;
    for embedding in &saved.embeddings {
        context.terminal.status(&format!("learned token: {}", embedding.display()));
    }
    Ok(saved)
}
