//! `scumble merge`: adapters into one adapter, or into a model.

mod adapters;
mod bake;
mod inputs;
mod models;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::commands::adapter_files::{OutputOptions, TokenOptions, WhichBase};
use crate::context::Context;
use crate::failure::{Outcome, Result};

/// Options of `merge`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:\n  \
    scumble merge style.safetensors:0.7 cat.safetensors:0.5 --rank 16 -o mix.safetensors\n  \
    scumble merge a.safetensors b.safetensors:1:0.5 --mode concat -o both.safetensors\n  \
    scumble merge a.safetensors b.safetensors --blocks 1:up=0,mid=0 --blocks 2:down=0 -o split.safetensors\n  \
    scumble merge --recipe mix.safetensors -o again.safetensors\n  \
    scumble merge --base sd15.safetensors style.safetensors:0.8 -o sd15-style.safetensors\n  \
    scumble merge models painter.safetensors photograph.safetensors:0.4 -o mix.safetensors")]
pub struct MergeArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// Adapter files with their weights; one weight counts for UNet and text encoder
    #[arg(value_name = "FILE[:UNET[:TEXT]]")]
    inputs: Vec<String>,
    /// Result
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A merge written as TOML, or a file made by merging, whose merge is repeated; options given beside it count more
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

    #[command(flatten)]
    how: HowOptions,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    base: WhichBase,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    tokens: TokenOptions,
}

/// What else can be merged.
#[derive(Subcommand)]
enum What {
    /// Make one model of several: weighted sums and added differences
    Models(Box<models::ModelsArgs>),
}

#[derive(Args)]
#[command(next_help_heading = "Merging")]
struct HowOptions {
    /// exact: weighted sum of the changes at a rank; concat: the same by adding ranks; ljl: concat with the original
    /// tool's token names; lpl: the original tool's average of factors; ties, dare, dare-ties, magnitude: with entries
    /// dropped [default: exact]
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Rank of the result [default: as much as nothing is lost with]
    #[arg(short, long, value_name = "N", conflicts_with = "energy")]
    rank: Option<usize>,
    /// Instead of a rank: the fraction of each module's energy to keep, such as 0.95
    #[arg(long, value_name = "FRACTION")]
    energy: Option<f64>,
    /// lpl with one alpha: this much of the first adapter's factors, the rest of the second's
    #[arg(long, value_name = "NUMBER")]
    alpha: Option<f32>,
    /// Fraction of the entries that ties, dare, dare-ties and magnitude keep [default: 0.5]
    #[arg(long, value_name = "FRACTION")]
    density: Option<f64>,
    /// Seed of what is drawn [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Weights of blocks, NAME=WEIGHT with commas between or a list of 17 or 26 numbers; with N: for the Nth file only;
    /// may be repeated
    #[arg(long, value_name = "[N:]WEIGHTS")]
    blocks: Vec<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Into a model")]
struct ModelOptions {
    /// Add the adapters to this model: a diffusers folder, a .safetensors or .ckpt file, or a name on the Hub. The result
    /// is a model, in the layout that the ending of --out or --format says: folder, safetensors or ckpt
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// Take the adapters out of the model again
    #[arg(long, requires = "base")]
    unmerge: bool,
    /// Averaged weights that training left in a single file: add to them instead (use), or leave them out (drop)
    #[arg(long, value_name = "WHAT", requires = "base")]
    ema: Option<EmaChoice>,
    /// A diffusers folder whose configurations belong to the model's single file
    #[arg(long, value_name = "FOLDER", requires = "base")]
    config: Option<PathBuf>,
    /// Weight files of the model's folder to take where there are several kinds, such as fp16
    #[arg(long, value_name = "NAME", requires = "base")]
    variant: Option<String>,
}

/// What becomes of averaged weights, which would not have the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EmaChoice {
    /// They replace the others.
    Use,
    /// They go.
    Drop,
}

/// Merges.
pub fn run(context: &Context, args: &MergeArgs) -> Result {
    if let Some(What::Models(models)) = &args.what {
        models::run(context, models)?;
        return Ok(Outcome::Done);
    }
    let (recipe, folder) = inputs::recipe(args)?;
    if !recipe.models.is_empty() {
        models::refuse_adapter_options(args)?;
        let output = models::OutputOptions::of_recipe(args.output.force, args.output.json);
        models::mix_as(context, &output, &recipe, &folder)?;
        return Ok(Outcome::Done);
    }
    match &recipe.base {
        Some(base) => bake::run(context, args, &recipe, &folder, base)?,
        None => adapters::run(context, args, &recipe, &folder)?,
    }
    Ok(Outcome::Done)
}
