//! `scumble bench`: what this machine does with the engine, against its own limits. Random weights of full-size
//! architectures: nothing is downloaded.

mod architecture;
mod ops;
mod step;

use clap::{Args, Subcommand, ValueEnum};

use scumble_train::config::{AdapterKind, Precision};

use crate::context::Context;
use crate::failure::Result;

/// What can be measured.
#[derive(Subcommand)]
pub enum BenchCommand {
    /// One training step of a full-size model
    Step(StepArgs),
    /// Single operations against the machine's peak
    Ops(OpsArgs),
}

/// Full-size architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// Stable Diffusion 1.5.
    Sd15,
    /// Stable Diffusion 2.1.
    Sd21,
}

/// Options of `bench step`.
#[derive(Args)]
pub struct StepArgs {
    /// Architecture of the UNet
    #[arg(long, value_name = "NAME", default_value = "sd15")]
    arch: Arch,
    /// Computing precision
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: Precision,
    /// Train every weight instead of an adapter
    #[arg(long)]
    full: bool,
    /// Width of the adapter's factors
    #[arg(long, value_name = "N", default_value_t = 4)]
    rank: usize,
    /// How the adapter's changes are built: lora, dora, loha or lokr
    #[arg(long, value_name = "KIND", default_value = "lora")]
    adapter_kind: AdapterKind,
    /// Layers that the adapter is on: attention, attention+ff, all-linear or all
    #[arg(long, value_name = "LAYERS", default_value = "attention")]
    targets: String,
    /// Pictures in the step
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Height and width of the latents; 64 is a picture of 512 pixels
    #[arg(long, value_name = "N", default_value_t = 64)]
    latent: usize,
    /// Steps that are timed, after one that is not
    #[arg(long, value_name = "N", default_value_t = 4)]
    steps: usize,
    /// Recompute blocks in backward
    #[arg(long)]
    checkpointing: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Options of `bench ops`.
#[derive(Args)]
pub struct OpsArgs {
    /// Only operations whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures.
pub fn run(context: &Context, command: BenchCommand) -> Result {
    match command {
        BenchCommand::Step(args) => step::run(context, &args),
        BenchCommand::Ops(args) => ops::run(context, &args),
    }
}

/// The middle of some measurements, in seconds.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    match seconds.as_slice() {
        [] => f64::NAN,
        all if all.len() % 2 == 1 => all[middle],
        all => (all[middle - 1] + all[middle]) / 2.0,
    }
}
