//! `scumble bench`: what this machine does with the engine, against its own limits. Random weights of full-size
//! architectures: nothing is downloaded.

mod architecture;
mod compare;
mod generate;
mod ops;
mod profile;
mod quality;
mod step;
mod text;
mod vae;

use std::time::Instant;

use clap::{Args, Subcommand, ValueEnum};

use scumble_train::config::{AdapterKind, Precision};

use crate::context::Context;
use crate::failure::Result;

/// What can be measured.
#[derive(Subcommand)]
pub enum BenchCommand {
    /// One training step of a full-size model
    Step(StepArgs),
    /// The text encoder of a full-size model: forward, and with the gradients of a LoRA
    Text(TextArgs),
    /// What a picture is painted with: a guided step, the text encoder, decoding
    Generate(GenerateArgs),
    /// Encoding and decoding pictures
    Vae(VaeArgs),
    /// Single operations against the machine's peak
    Ops(OpsArgs),
    /// Ways of training compared: what each learns, what it breaks, what it costs
    Quality(Box<quality::QualityArgs>),
    /// One of these measurements against another program's, taking turns
    Compare(CompareArgs),
}

/// Architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// Stable Diffusion 1.5.
    Sd15,
    /// Stable Diffusion 2.1.
    Sd21,
    /// The small model inside the program; --latent 16 is its size.
    Embedded,
}

/// Options of `bench step`.
#[derive(Args)]
pub struct StepArgs {
    /// Architecture of the UNet
    #[arg(long, value_name = "NAME", default_value = "sd15")]
    arch: Arch,
    /// Numbers to compute in; bf16 is usual where the processor multiplies it
    #[arg(long, value_name = "TYPE", env = "SCUMBLE_PRECISION", default_value_t = crate::precision::usual())]
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
    /// Recompute all blocks in backward
    #[arg(long)]
    checkpointing: bool,
    /// Most memory to use, in GiB: blocks are recomputed in backward until it suffices
    #[arg(long, value_name = "GIB", conflicts_with = "checkpointing")]
    memory: Option<f64>,
    /// Tell where the time of the step goes, operation by operation
    #[arg(long)]
    profile: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Options of `bench text`.
#[derive(Args)]
pub struct TextArgs {
    /// Architecture whose text encoder it is
    #[arg(long, value_name = "NAME", default_value = "sd15")]
    arch: Arch,
    /// Numbers to compute in; bf16 is usual where the processor multiplies it
    #[arg(long, value_name = "TYPE", env = "SCUMBLE_PRECISION", default_value_t = crate::precision::usual())]
    precision: Precision,
    /// Width of the factors of the LoRA on its attention layers
    #[arg(long, value_name = "N", default_value_t = 4)]
    rank: usize,
    /// Texts at once
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch: usize,
    /// How often each part is timed, after one time that is not
    #[arg(long, value_name = "N", default_value_t = 4)]
    repeats: usize,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Options of `bench generate`.
#[derive(Args)]
pub struct GenerateArgs {
    /// Architecture of the UNet
    #[arg(long, value_name = "NAME", default_value = "sd15")]
    arch: Arch,
    /// Numbers to compute in; bf16 is usual where the processor multiplies it
    #[arg(long, value_name = "TYPE", env = "SCUMBLE_PRECISION", default_value_t = crate::precision::usual())]
    precision: Precision,
    /// Pictures at once; with guidance the UNet sees twice as many
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Height and width of the latents; 64 is a picture of 512 pixels
    #[arg(long, value_name = "N", default_value_t = 64)]
    latent: usize,
    /// How often each part is timed, after one time that is not
    #[arg(long, value_name = "N", default_value_t = 4)]
    repeats: usize,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Options of `bench vae`.
#[derive(Args)]
pub struct VaeArgs {
    /// Numbers to compute in; bf16 is usual where the processor multiplies it
    #[arg(long, value_name = "TYPE", env = "SCUMBLE_PRECISION", default_value_t = crate::precision::usual())]
    precision: Precision,
    /// Pictures at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Height and width of the pictures, a multiple of 8
    #[arg(long, value_name = "PIXELS", default_value_t = 512)]
    size: usize,
    /// How often each direction is timed, after one time that is not
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeats: usize,
    /// Tell where the time of both directions goes, operation by operation, the first time included
    #[arg(long)]
    profile: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Options of `bench compare`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  scumble bench compare --peer \"python tools/peers/step.py\" -- step --precision bf16 --steps 2"
)]
pub struct CompareArgs {
    /// A shell command that prints a JSON object as its last line; numbers of the same names are compared
    #[arg(long, value_name = "COMMAND")]
    peer: String,
    /// How often each side has its turn
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    /// The measurement and its options, after `--`: step, text, generate or vae
    #[arg(last = true, required = true, value_name = "MEASUREMENT")]
    ours: Vec<String>,
}

/// Options of `bench ops`.
#[derive(Args)]
pub struct OpsArgs {
    /// Numbers to compute in; bf16 is usual where the processor multiplies it
    #[arg(long, value_name = "TYPE", env = "SCUMBLE_PRECISION", default_value_t = crate::precision::usual())]
    precision: Precision,
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
        BenchCommand::Text(args) => text::run(context, &args),
        BenchCommand::Generate(args) => generate::run(context, &args),
        BenchCommand::Vae(args) => vae::run(context, &args),
        BenchCommand::Ops(args) => ops::run(context, &args),
        BenchCommand::Quality(args) => quality::run(context, &args),
        BenchCommand::Compare(args) => compare::run(context, &args),
    }
}

impl Arch {
    fn name(self) -> &'static str {
        match self {
            Arch::Sd15 => "sd15",
            Arch::Sd21 => "sd21",
            Arch::Embedded => "embedded",
        }
    }
}

/// Median seconds of doing something `repeats` times, after once that does not count.
fn timed(context: &Context, what: &str, repeats: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut seconds = Vec::with_capacity(repeats);
    for index in 0..=repeats {
        context.terminal.status(&format!("{what} {index} of {repeats}"));
        let start = Instant::now();
        work()?;
        if index > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(median(seconds))
}

/// `value` with so many digits behind the point.
fn rounded(value: f64, digits: i32) -> f64 {
    (value * 10f64.powi(digits)).round() / 10f64.powi(digits)
}

/// Most memory that the process had, in 10^9 bytes.
fn peak_rss_gb() -> f64 {
    rounded(crate::memory::peak_bytes() as f64 / 1e9, 2)
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
