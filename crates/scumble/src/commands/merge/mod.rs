//! `scumble merge`: adapters into one adapter.

mod adapters;
mod inputs;

use std::path::PathBuf;

use clap::Args;

use crate::commands::adapter_files::{OutputOptions, TokenOptions, WhichBase};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Options of `merge`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble merge style.safetensors:0.7 cat.safetensors:0.5 --rank 16 -o mix.safetensors\n  \
    scumble merge a.safetensors b.safetensors:1:0.5 --mode concat -o both.safetensors\n  \
    scumble merge a.safetensors b.safetensors --blocks 1:up=0,mid=0 --blocks 2:down=0 -o split.safetensors\n  \
    scumble merge --recipe mix.safetensors -o again.safetensors")]
pub struct MergeArgs {
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
    base: WhichBase,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    tokens: TokenOptions,
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

/// Merges.
pub fn run(context: &Context, args: &MergeArgs) -> Result {
    let (recipe, folder) = inputs::recipe(args)?;
    if recipe.base.is_some() {
        return Err(Failure::new("this recipe adds adapters to a model, which is not built in")
            .hint("remove `base` to merge the adapters alone"));
    }
    adapters::run(context, args, &recipe, &folder)?;
    Ok(Outcome::Done)
}
