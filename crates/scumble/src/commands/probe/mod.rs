//! `scumble probe`: runs one component on tensors from a file, so that anyone can hold it against another
//! implementation key by key. A probe reads the input keys of a file, ignores all others, and writes its output keys
//! to a new safetensors file. Tensors are NCHW there, as other programs have them.

mod lora;
mod losses;
mod pipeline;
mod rng;
mod sampler;
mod targets;
mod tensors;
mod text;
mod trace;
mod unet;
mod vae;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use scumble_model::scheduler_config::read_json as read_python_json;

use scumble_train::config::Precision;

use crate::context::Context;
use crate::failure::{Failure, Result};

/// The components that can be probed.
#[derive(Subcommand)]
pub enum ProbeCommand {
    /// Prompts to token ids and text states
    Text(TextArgs),
    /// UNet outputs, and gradients for its inputs
    Unet(UnetArgs),
    /// Autoencoder: picture to latents, latents to picture
    Vae(BaseInputArgs),
    /// Text to picture: the latents of every step
    Pipeline(SpecInputArgs),
    /// Samplers on a closed-form model
    Sampler(SamplerArgs),
    /// Noise schedule tables and training targets
    Targets(InputArgs),
    /// Random draws
    Rng(RngArgs),
    /// Training steps: losses, gradients, updated factors
    Trace(TraceArgs),
    /// Loss formulas and their gradients
    Losses(InputArgs),
    /// A model's outputs with an adapter on it
    Lora(LoraArgs),
}

/// The base model and the output of a probe.
#[derive(Args)]
pub struct BaseArgs {
    /// Base model: a diffusers folder or a single file
    #[arg(long, value_name = "PATH")]
    pub base: String,
    /// Where to write the results
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// Computing precision
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub precision: Precision,
}

/// `probe text`.
#[derive(Args)]
pub struct TextArgs {
    #[command(flatten)]
    pub base: BaseArgs,
    /// JSON with `prompts`
    #[arg(long, value_name = "FILE.json")]
    pub spec: PathBuf,
}

/// `probe unet`.
#[derive(Args)]
pub struct UnetArgs {
    #[command(flatten)]
    pub base: BaseArgs,
    /// Tensors: `N.sample`, `N.timesteps`, `N.encoder_hidden_states`, `N.g`
    #[arg(long = "in", value_name = "FILE.safetensors")]
    pub input: PathBuf,
    /// Also write the outputs of the inner modules that the input file names as `N.tap.<module>`
    #[arg(long)]
    pub taps: bool,
}

/// A base and a tensor file.
#[derive(Args)]
pub struct BaseInputArgs {
    #[command(flatten)]
    pub base: BaseArgs,
    /// Tensors to read
    #[arg(long = "in", value_name = "FILE.safetensors")]
    pub input: PathBuf,
}

/// A base, a JSON companion and a tensor file.
#[derive(Args)]
pub struct SpecInputArgs {
    #[command(flatten)]
    pub base: BaseArgs,
    /// JSON with the settings
    #[arg(long, value_name = "FILE.json")]
    pub spec: PathBuf,
    /// Tensors to read
    #[arg(long = "in", value_name = "FILE.safetensors")]
    pub input: PathBuf,
}

/// `probe sampler`.
#[derive(Args)]
pub struct SamplerArgs {
    /// JSON with `runs`
    #[arg(long, value_name = "FILE.json")]
    pub spec: PathBuf,
    /// The model function's tensors, starts and noises
    #[arg(long = "in", value_name = "FILE.safetensors")]
    pub input: PathBuf,
    /// Only this run; otherwise all whose sampler scumble has
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// Where to write the results
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
}

/// A tensor file alone.
#[derive(Args)]
pub struct InputArgs {
    /// Tensors to read
    #[arg(long = "in", value_name = "FILE.safetensors")]
    pub input: PathBuf,
    /// JSON with further settings
    #[arg(long, value_name = "FILE.json")]
    pub spec: Option<PathBuf>,
    /// Where to write the results
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
}

/// `probe rng`.
#[derive(Args)]
pub struct RngArgs {
    /// JSON with `cases` and `sequences`
    #[arg(long, value_name = "FILE.json")]
    pub spec: PathBuf,
    /// Where to write the same JSON with the values recomputed
    #[arg(long, value_name = "FILE.json")]
    pub out: PathBuf,
}

/// `probe trace`.
#[derive(Args)]
pub struct TraceArgs {
    #[command(flatten)]
    pub input: SpecInputArgs,
    /// Which trace of the spec
    #[arg(long, value_name = "NAME")]
    pub name: String,
}

/// `probe lora`.
#[derive(Args)]
pub struct LoraArgs {
    #[command(flatten)]
    pub input: SpecInputArgs,
    /// The adapter file, in any dialect
    #[arg(long, value_name = "FILE")]
    pub adapter: PathBuf,
}

/// Runs a probe.
pub fn run(context: &Context, command: ProbeCommand) -> Result {
    match command {
        ProbeCommand::Text(args) => text::run(context, &args),
        ProbeCommand::Unet(args) => unet::run(context, &args),
        ProbeCommand::Vae(args) => vae::run(context, &args),
        ProbeCommand::Pipeline(args) => pipeline::run(context, &args),
        ProbeCommand::Sampler(args) => sampler::run(context, &args),
        ProbeCommand::Targets(args) => targets::run(context, &args),
        ProbeCommand::Rng(args) => rng::run(context, &args),
        ProbeCommand::Trace(args) => trace::run(context, &args),
        ProbeCommand::Losses(args) => losses::run(context, &args),
        ProbeCommand::Lora(args) => lora::run(context, &args),
    }
}

/// Reads a JSON companion file.
fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read `{}`: {error}", path.display())))?;
    // Python writes infinities that JSON does not know.
    read_python_json(&text).map_err(|error| Failure::new(format!("`{}` is no JSON: {error}", path.display())))
}

/// Writes a text file whole or not at all.
fn write_text(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    Ok(scumble_model::files::atomic_write(path, |file| file.write_all(text.as_bytes()))?)
}
