//! The options that make up a request, each left open where a picture or a line of a file may say it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use scumble_model::pipeline::Tiling;
use scumble_paint::adapters::{self, AdapterUse};
use scumble_paint::library;
use scumble_paint::request::{EmbeddingUse, Hires, Init, Mask, Request, Upscaler};
use scumble_paint::schedule::Schedule;
use scumble_paint::studio::Folders;

use crate::failure::{Failure, Result};

/// How to paint.
#[derive(Args, Default)]
#[command(next_help_heading = "Painting")]
pub struct PaintingOptions {
    /// Steps of the sampler [default: 25]
    #[arg(short, long, value_name = "N")]
    pub steps: Option<usize>,
    /// How closely to follow the text; 1 is without guidance [default: 7.5]
    #[arg(short, long, value_name = "NUMBER")]
    pub guidance: Option<f64>,
    /// One of ddim, ddpm, pndm, euler, euler_karras, euler_exponential, euler_a, heun, heun_karras, heun_exponential,
    /// lms, lms_karras, lms_exponential, dpmpp_2m, dpmpp_2m_karras, dpmpp_2m_exponential, dpmpp_2m_sde,
    /// dpmpp_2m_sde_karras, dpmpp_2m_sde_exponential, dpmpp_sde,
    /// dpmpp_sde_karras, dpmpp_sde_exponential, unipc, unipc_karras, unipc_exponential, lcm
    /// [default: the base's own]
    #[arg(long, value_name = "NAME")]
    pub sampler: Option<String>,
    /// Fresh noise of the sampler ddim, from 0 to 1 [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub eta: Option<f64>,
    /// The noise to start from; picture n of several uses seed + n [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Size in pixels, multiples of 8, such as 512 or 512x768 [default: the base's own, or the first picture's]
    #[arg(long, value_name = "PIXELS", value_parser = crate::commands::size)]
    pub size: Option<[usize; 2]>,
    /// Leave out this many layers at the text encoder's end [default: 0]
    #[arg(long, value_name = "N")]
    pub clip_skip: Option<usize>,
    /// Paint a second time with both sides this much longer, such as 2
    #[arg(long, value_name = "FACTOR")]
    pub hires: Option<f64>,
    /// How much the second pass repaints, from 0 to 1 [default: 0.6]
    #[arg(long, value_name = "NUMBER")]
    pub hires_strength: Option<f64>,
    /// Steps of the second pass [default: those of the first]
    #[arg(long, value_name = "N")]
    pub hires_steps: Option<usize>,
    /// What is enlarged before the second pass [default: image]
    #[arg(long, value_name = "WHAT")]
    pub hires_upscaler: Option<UpscalerChoice>,
    /// Let the autoencoder work in tiles: auto does so above 768x768 pixels [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub vae_tiling: Option<TilingChoice>,
}

/// What is enlarged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UpscalerChoice {
    /// The latents.
    Latent,
    /// The picture.
    Image,
}

/// When to use tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TilingChoice {
    /// For large pictures.
    Auto,
    /// For all.
    On,
    /// For none.
    Off,
}

impl PaintingOptions {
    /// Puts what was given into a request.
    pub fn apply(&self, request: &mut Request) {
        request.steps = self.steps.unwrap_or(request.steps);
        request.guidance = self.guidance.unwrap_or(request.guidance);
        request.sampler = self.sampler.clone().or(request.sampler.take());
        request.eta = self.eta.unwrap_or(request.eta);
        request.seed = self.seed.unwrap_or(request.seed);
        request.size = self.size.or(request.size);
        request.clip_skip = self.clip_skip.unwrap_or(request.clip_skip);
        request.vae_tiling = match self.vae_tiling {
            None => request.vae_tiling,
            Some(TilingChoice::Auto) => Tiling::Auto,
            Some(TilingChoice::On) => Tiling::On,
            Some(TilingChoice::Off) => Tiling::Off,
        };
        if let Some(scale) = self.hires {
            let plain = Hires { scale, upscaler: Upscaler::Image, strength: 0.6, steps: None };
            request.hires = Some(Hires { scale, ..request.hires.unwrap_or(plain) });
        }
        if let Some(hires) = &mut request.hires {
            hires.strength = self.hires_strength.unwrap_or(hires.strength);
            hires.steps = self.hires_steps.or(hires.steps);
            hires.upscaler = match self.hires_upscaler {
                None => hires.upscaler,
                Some(UpscalerChoice::Latent) => Upscaler::Latent,
                Some(UpscalerChoice::Image) => Upscaler::Image,
            };
        }
    }

    /// Errors where the second pass has settings but is not asked for.
    pub fn check(&self, request: &Request) -> Result<()> {
        let given = [
            ("--hires-strength", self.hires_strength.is_some()),
            ("--hires-steps", self.hires_steps.is_some()),
            ("--hires-upscaler", self.hires_upscaler.is_some()),
        ];
        needs(&given, request.hires.is_some(), "--hires")
    }
}

fn needs(given: &[(&str, bool)], there: bool, needed: &str) -> Result<()> {
    match given.iter().find(|(_, given)| *given && !there) {
        Some((option, _)) => {
            Err(Failure::usage(format!("{option} means nothing without {needed}"))
                .hint(format!("add {needed}")))
        }
        None => Ok(()),
    }
}

/// What to begin with.
#[derive(Args)]
#[command(next_help_heading = "Starting from a picture")]
pub struct StartOptions {
    /// Picture to begin with
    #[arg(long, value_name = "FILE")]
    pub init_image: Option<PathBuf>,
    /// How much of it to repaint, from 0 to 1 [default: 0.75]
    #[arg(long, value_name = "NUMBER")]
    pub strength: Option<f64>,
    /// Repaint only where this picture is white
    #[arg(long, value_name = "FILE")]
    pub mask: Option<PathBuf>,
    /// Repaint where the mask is black instead
    #[arg(long)]
    pub mask_invert: bool,
    /// Blur the mask's edge by this many pixels [default: 0]
    #[arg(long, value_name = "PIXELS")]
    pub mask_blur: Option<f64>,
    /// Keep the pixels outside the mask exactly
    #[arg(long)]
    pub keep_unmasked: bool,
}

impl StartOptions {
    /// Puts what was given into a request.
    pub fn apply(&self, request: &mut Request) -> Result<()> {
        // What the picture of --from says of strength and mask holds on: it may only say no more where their files are.
        match (&self.init_image, &mut request.init) {
            (Some(image), Some(init)) => init.image.clone_from(image),
            (Some(image), init) => *init = Some(Init { image: image.clone(), strength: 0.75, mask: None }),
            (None, _) => {}
        }
        let given = [("--strength", self.strength.is_some()), ("--mask", self.mask.is_some())];
        needs(&given, request.init.is_some(), "--init-image")?;
        let mut mask_there = false;
        if let Some(init) = &mut request.init {
            init.strength = self.strength.unwrap_or(init.strength);
            match (&self.mask, &mut init.mask) {
                (Some(image), Some(mask)) => mask.image.clone_from(image),
                (Some(image), mask) => {
                    let image = image.clone();
                    *mask = Some(Mask { image, invert: false, blur: 0.0, keep_unmasked: false });
                }
                (None, _) => {}
            }
            if let Some(mask) = &mut init.mask {
                mask_there = true;
                mask.invert |= self.mask_invert;
                mask.blur = self.mask_blur.unwrap_or(mask.blur);
                mask.keep_unmasked |= self.keep_unmasked;
            }
        }
        let given = [
            ("--mask-invert", self.mask_invert),
            ("--mask-blur", self.mask_blur.is_some()),
            ("--keep-unmasked", self.keep_unmasked),
        ];
        needs(&given, mask_there, "--mask")
    }
}

/// Adapters and learned words.
#[derive(Args)]
#[command(next_help_heading = "Adapters")]
pub struct AdapterOptions {
    /// Adapter file and its strengths, FILE[:UNET[:TEXT]]; may be repeated
    #[arg(short, long, value_name = "FILE[:UNET[:TEXT]]")]
    pub adapter: Vec<String>,
    /// Folder where adapters named in prompts are looked for; may be repeated
    #[arg(long, value_name = "FOLDER")]
    pub adapter_dir: Vec<PathBuf>,
    /// Factors of blocks, such as mid=0.5,up.1=0,attn2=2; of one adapter as NAME:mid=0.5; may be repeated
    #[arg(long, value_name = "[NAME:]BLOCK=NUMBER,...")]
    pub block_strength: Vec<String>,
    /// Strength over the steps: constant, linear:1:0, cosine:0:1, window:0.2:0.8, or timesteps:500:1000; of one adapter
    /// as NAME:linear:1:0; may be repeated
    #[arg(long, value_name = "[NAME:]SCHEDULE")]
    pub strength_schedule: Vec<String>,
    /// How far to go beyond the adapters' change: 1 is the change itself; others take twice the time [default: 1]
    #[arg(long, value_name = "NUMBER")]
    pub adapter_guidance: Option<f64>,
    /// File of learned words, FILE[:WORD]; the word is the file's name if nothing says otherwise; may be repeated
    #[arg(long, value_name = "FILE[:WORD]")]
    pub embedding: Vec<String>,
    /// Folder of learned words that prompts use by the names of their files; may be repeated
    #[arg(long, value_name = "FOLDER")]
    pub embedding_dir: Vec<PathBuf>,
    /// Add the adapters to the weights instead of computing them beside: the same picture to rounding, faster
    #[arg(long)]
    pub fold: bool,
    /// Use what fits of an adapter that does not fit whole
    #[arg(long)]
    pub allow_partial: bool,
}

impl AdapterOptions {
    /// Where files named in prompts are looked for.
    pub fn folders(&self) -> Folders {
        Folders { adapters: self.adapter_dir.clone(), embeddings: self.embedding_dir.clone() }
    }

    /// Puts what was given into a request.
    pub fn apply(&self, request: &mut Request) -> Result<()> {
        if !self.adapter.is_empty() {
            let parse = |text: &String| AdapterUse::parse(text, &self.adapter_dir);
            request.adapters = self.adapter.iter().map(parse).collect::<std::result::Result<_, _>>()?;
        }
        for text in &self.block_strength {
            let (name, blocks) = match text.split_once(':') {
                Some((name, blocks)) => (Some(name), blocks),
                None => (None, text.as_str()),
            };
            let blocks = adapters::parse_blocks(blocks)?;
            for adapter in chosen(request, name, "--block-strength")? {
                adapter.blocks.extend(blocks.iter().cloned());
            }
        }
        for text in &self.strength_schedule {
            let (name, schedule) = match (Schedule::parse(text), text.split_once(':')) {
                (Ok(schedule), _) => (None, schedule),
                (Err(_), Some((name, rest))) if Schedule::parse(rest).is_ok() => {
                    (Some(name), Schedule::parse(rest)?)
                }
                (Err(error), _) => return Err(error.into()),
            };
            for adapter in chosen(request, name, "--strength-schedule")? {
                adapter.schedule = schedule;
            }
        }
        request.adapter_guidance = self.adapter_guidance.unwrap_or(request.adapter_guidance);
        if !self.embedding.is_empty() {
            request.embeddings = self.embedding.iter().map(|text| embedding(text)).collect();
        }
        Ok(())
    }
}

/// The adapters that an option is about: that of a name, or all.
fn chosen<'r>(request: &'r mut Request, name: Option<&str>, option: &str) -> Result<Vec<&'r mut AdapterUse>> {
    let fits = |adapter: &&mut AdapterUse| name.is_none_or(|name| adapter.name() == name);
    let found: Vec<_> = request.adapters.iter_mut().filter(fits).collect();
    if found.is_empty() {
        let whom = name
            .map_or("there is no --adapter".to_owned(), |name| format!("no --adapter is called `{name}`"));
        return Err(Failure::usage(format!("{option}: {whom}"))
            .hint("it is about adapters given with --adapter; a name is the file's without its ending"));
    }
    Ok(found)
}

fn embedding(text: &str) -> EmbeddingUse {
    match text.rsplit_once(':') {
        Some((file, word)) if !std::path::Path::new(text).exists() && !word.is_empty() => {
            EmbeddingUse { file: file.into(), token: Some(word.to_owned()) }
        }
        _ => EmbeddingUse { file: text.into(), token: None },
    }
}

/// Finds the adapters and learned words that a picture names: at the path they have, else by name. Words that are
/// nowhere are reported when the request is checked.
pub fn find_recorded(request: &mut Request, options: &AdapterOptions) -> Result<()> {
    if options.adapter.is_empty() {
        for adapter in &mut request.adapters {
            if !adapter.file.is_file() {
                adapter.file = adapters::find(&options.adapter_dir, &adapter.name())?;
            }
        }
    }
    if options.embedding.is_empty() && !options.embedding_dir.is_empty() {
        for embedding in &mut request.embeddings {
            let name = embedding.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !embedding.file.is_file() {
                embedding.file = library::find(&options.embedding_dir, &name)?;
            }
        }
    }
    Ok(())
}
