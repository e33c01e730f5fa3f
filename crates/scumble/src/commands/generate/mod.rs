//! `scumble generate`: text to pictures, with any adapters at any strength.

mod adapters;
mod output;
mod studio;

use std::path::PathBuf;

use clap::Args;

use scumble_train::picture::png;

use self::adapters::AdapterArg;
use self::studio::Studio;
use crate::commands::{model, stop};
use crate::context::Context;
use crate::failure::{Outcome, Result};

/// Options of `generate`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble generate --base runwayml/stable-diffusion-v1-5 -p 'a castle at dawn' -o castle.png\n  \
    scumble generate --base sd15.safetensors -p 'sks dog in a boat' --adapter dog.safetensors:0.8 --count 4")]
pub struct GenerateArgs {
    /// What to paint
    #[arg(short, long, value_name = "TEXT")]
    prompt: String,
    /// What not to paint
    #[arg(long, value_name = "TEXT", default_value = "")]
    negative: String,
    /// Picture file, or a folder for several pictures
    #[arg(short, long, value_name = "PATH", default_value = "scumble.png")]
    out: PathBuf,
    /// Replace the picture if it is there already
    #[arg(long)]
    force: bool,
    /// Print what was painted as JSON on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    base: BaseOptions,
    #[command(flatten)]
    painting: PaintingOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
}

/// Which base model.
#[derive(Args)]
#[command(next_help_heading = "Base model")]
pub struct BaseOptions {
    /// A diffusers folder, a .safetensors or .ckpt file, or a model's name on the Hub
    #[arg(long, value_name = "MODEL")]
    pub base: String,
    /// Weight files to take where there are several kinds, such as fp16
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// What the model predicts, where its files don't say: epsilon or v_prediction
    #[arg(long, value_name = "KIND")]
    pub prediction: Option<String>,
    /// Never use the network
    #[arg(long)]
    pub offline: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Painting")]
struct PaintingOptions {
    /// Steps of the sampler
    #[arg(short, long, value_name = "N", default_value_t = 25)]
    steps: usize,
    /// How closely to follow the text; 1 is without guidance
    #[arg(short, long, value_name = "NUMBER", default_value_t = 7.5)]
    guidance: f64,
    /// One of ddim, ddpm, pndm, euler, euler_karras, euler_exponential, euler_a, heun, heun_karras, heun_exponential,
    /// lms, lms_karras, lms_exponential, dpmpp_2m, dpmpp_2m_karras, dpmpp_2m_exponential, dpmpp_2m_sde,
    /// dpmpp_2m_sde_karras, dpmpp_2m_sde_exponential, unipc, unipc_karras, unipc_exponential, lcm
    /// [default: the base's own]
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// The noise to start from; picture n of several uses seed + n
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Size in pixels, multiples of 8, such as 512 or 512x768 [default: the base's own]
    #[arg(long, value_name = "PIXELS", value_parser = crate::commands::size)]
    size: Option<[usize; 2]>,
    /// How many pictures
    #[arg(long, value_name = "N", default_value_t = std::num::NonZeroUsize::MIN)]
    count: std::num::NonZeroUsize,
}

#[derive(Args)]
#[command(next_help_heading = "Adapters")]
struct AdapterOptions {
    /// Adapter file and its strengths, FILE[:UNET[:TEXT]]; may be repeated
    #[arg(short, long, value_name = "FILE[:UNET[:TEXT]]")]
    adapter: Vec<String>,
    /// Add the adapters to the weights instead of computing them beside: the same picture to rounding, faster
    #[arg(long)]
    fold: bool,
    /// Use what fits of an adapter that does not fit whole
    #[arg(long)]
    allow_partial: bool,
}

/// Paints.
pub fn run(context: &Context, args: &GenerateArgs) -> Result {
    let targets = output::targets(&args.out, args.count(), args.force)?;
    let adapters =
        args.adapters.adapter.iter().map(|text| AdapterArg::parse(text)).collect::<Result<Vec<_>>>()?;
    stop::listen()?;
    context.terminal.status(&format!("loading {}", args.base.base));
    let studio = Studio::open(context, args)?;
    let worn = studio.wear(context, &adapters, &args.adapters)?;
    let mut painted = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let seed = args.painting.seed.wrapping_add(index as u64);
        let Some(picture) = studio.paint(context, args, seed, index)? else {
            return Ok(Outcome::Interrupted);
        };
        let text = studio.infotext(args, seed, &picture, &adapters)?;
        let request = serde_json::json!({
            "program": concat!("scumble ", env!("CARGO_PKG_VERSION")), "prompt": args.prompt, "negative": args.negative,
            "base": model::short_name(&args.base.base), "seed": seed, "steps": args.painting.steps,
            "guidance": args.painting.guidance, "sampler": studio.sampler.name,
            "size": [picture.width, picture.height], "adapters": args.adapters.adapter,
        });
        png::write(
            target,
            &picture,
            &[(png::PARAMETERS, &text.to_string()), (png::SCUMBLE, &request.to_string())],
        )?;
        painted.push(serde_json::json!({ "file": target, "seed": seed }));
        if !args.json {
            context.terminal.result(&target.display().to_string());
        }
    }
    drop(worn);
    if args.json {
        context.terminal.result(&serde_json::json!({ "pictures": painted }).to_string());
    }
    Ok(Outcome::Done)
}

impl GenerateArgs {
    fn count(&self) -> usize {
        self.painting.count.get()
    }
}
