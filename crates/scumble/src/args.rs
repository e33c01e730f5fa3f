//! What can be typed: the global options and the list of verbs. Each verb's own options stand in its command file.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    bench, completions, convert, dataset, demo, diff, eval, export_base, extract, generate, grid, inspect,
    merge, pretrain, probe, resize, runs, train, world,
};
use crate::terminal::{ColorChoice, Verbosity};

/// Fine-tune Stable Diffusion with LoRA and paint with the results
#[derive(Parser)]
#[command(name = "scumble", version, propagate_version = true, arg_required_else_help = true)]
// Given twice, the last word counts: an alias or a script can be overridden by typing on.
#[command(args_override_self = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 something you can mend, 2 wrong usage, 130 interrupted with the state saved"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every verb.
#[derive(Args, Clone)]
#[command(next_help_heading = "Program")]
pub struct GlobalArgs {
    /// Say only what went wrong
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Colour the text
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Processor threads to use [default: all]
    #[arg(long, global = true, value_name = "N", env = "SCUMBLE_THREADS")]
    pub threads: Option<std::num::NonZeroUsize>,
    /// What to compute on
    #[arg(long, global = true, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

impl GlobalArgs {
    /// How much to say.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

/// What to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The best there is.
    Auto,
    /// The processor.
    Cpu,
}

/// The verbs.
#[derive(Subcommand)]
pub enum Command {
    /// Teach a small base something new and look at what it paints: the program in a few minutes
    Demo(Box<demo::DemoArgs>),
    /// Train an adapter from pictures
    Train(Box<train::TrainArgs>),
    /// Paint pictures from a text, with any adapters
    Generate(Box<generate::GenerateArgs>),
    /// Judge pictures by a CLIP model: text alignment, image alignment, drift
    Eval(Box<eval::EvalArgs>),
    /// Paint many pictures that differ along one, two or three settings, on labelled sheets or as an animation
    Grid(Box<grid::GridArgs>),
    /// Rewrite an adapter, an embedding or a checkpoint in another spelling
    Convert(Box<convert::ConvertArgs>),
    /// Merge adapters into one or into a model, or models into one
    Merge(Box<merge::MergeArgs>),
    /// Make an adapter of what tuning changed in a model
    Extract(Box<extract::ExtractArgs>),
    /// Change the rank of an adapter
    Resize(Box<resize::ResizeArgs>),
    /// List, compare and delete training runs
    Runs(runs::RunsArgs),
    /// Tell what is in a file: adapter, embedding or checkpoint
    Inspect(Box<inspect::InspectArgs>),
    /// Tell how two adapters differ
    Diff(Box<diff::DiffArgs>),
    /// Run one component on tensors from a file, to compare implementations
    #[command(subcommand)]
    Probe(probe::ProbeCommand),
    /// Measure speed on this machine
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Look at training pictures before training, or cut them
    #[command(subcommand)]
    Dataset(dataset::DatasetCommand),
    /// Train a base from nothing on the drawn little world
    Pretrain(pretrain::PretrainArgs),
    /// Write the embedded base as a folder
    ExportBase(export_base::ExportBaseArgs),
    /// Look at the drawn little world
    #[command(subcommand, hide = true)]
    World(world::WorldCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}
