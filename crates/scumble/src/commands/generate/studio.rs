//! A base with its three networks, ready to paint.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use scumble_adapter::attach::{Attached, Towers, attach, fold};
use scumble_adapter::dialect::{ReadOptions, load_adapter};
use scumble_model::base::{BaseFiles, BaseOptions, Family, PredictionSource};
use scumble_model::pipeline::{Denoising, Guidance, TextToImage, to_rgb8};
use scumble_model::sampler::{SamplerKind, SamplerOptions};
use scumble_model::schedule::PredictionType;
use scumble_model::text_encoder::TextEncoder;
use scumble_model::tokenizer::Tokenizer;
use scumble_model::unet::UNet;
use scumble_model::vae::Vae;
use scumble_tensor::rng::Generator;
use scumble_tensor::{Backend, DType};
use scumble_train::picture::Picture;
use scumble_train::picture::infotext::Infotext;

use super::adapters::AdapterArg;
use super::{AdapterOptions, BaseOptions as BaseArgs, GenerateArgs};
use crate::commands::{model, stop};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::terminal::Progress;

/// See the module's text.
pub struct Studio {
    backend: Arc<dyn Backend>,
    files: BaseFiles,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    unet: UNet,
    vae: Vae,
    /// The sampler that was chosen.
    pub sampler: &'static SamplerKind,
}

impl Studio {
    /// Loads everything, after what can be checked without it.
    pub fn open(context: &Context, args: &GenerateArgs) -> Result<Self> {
        check_numbers(args)?;
        let files = BaseFiles::open(&args.base.base, &base_options(&args.base)?)?;
        if files.family == Family::Sd2 && files.prediction_source == PredictionSource::Assumed {
            context.terminal.warning(
                "nothing says whether this SD2 model predicts noise or velocity; noise is assumed. If pictures come out \
                 brown and blurred, pass --prediction v_prediction",
            );
        }
        let sampler = match &args.painting.sampler {
            Some(name) => SamplerKind::find(name)?,
            None => SamplerKind::of_config(&files.scheduler_config)?,
        };
        sampler.build(&files.scheduler_config, SamplerOptions::new(args.painting.steps))?;
        let backend = context.backend()?;
        let unet = UNet::load(&files.unet.config, files.unet.weights.as_ref(), backend.as_ref(), DType::F32)?;
        let vae = Vae::load(&files.vae.config, files.vae.weights.as_ref(), backend.as_ref(), DType::F32)?;
        let text_encoder = model::text_encoder(&files, backend.as_ref())?;
        let tokenizer = model::tokenizer(&files)?;
        Ok(Self { backend, files, tokenizer, text_encoder, unet, vae, sampler })
    }

    fn towers(&self) -> Towers<'_> {
        Towers { unet: Some(self.unet.modules()), text_encoder: Some(self.text_encoder.modules()) }
    }

    /// Puts the adapters on, in the order typed.
    pub fn wear(
        &self,
        context: &Context,
        adapters: &[AdapterArg],
        options: &AdapterOptions,
    ) -> Result<Vec<Attached>> {
        let table = self.towers().table();
        let mut worn = Vec::new();
        for arg in adapters {
            let loaded = load_adapter(&arg.path, &table, ReadOptions { partial: options.allow_partial })?;
            if !loaded.report.is_complete() {
                context.terminal.warning(&format!("{}: {}", arg.path.display(), loaded.report));
            }
            if !loaded.adapter.tokens.is_empty() {
                let names: Vec<&str> = loaded.adapter.tokens.keys().map(String::as_str).collect();
                context.terminal.warning(&format!(
                    "{}: its learned tokens ({}) are not used: painting with embeddings is not supported yet",
                    arg.path.display(),
                    names.join(", ")
                ));
            }
            if options.fold {
                fold(&loaded.adapter, self.towers(), arg.strength, self.backend.as_ref())?;
            } else {
                worn.push(attach(&loaded.adapter, self.towers(), arg.strength, self.backend.as_ref())?);
            }
        }
        Ok(worn)
    }

    /// Paints one picture; `None` when it was interrupted.
    pub fn paint(
        &self,
        context: &Context,
        args: &GenerateArgs,
        seed: u64,
        index: usize,
    ) -> Result<Option<Picture>> {
        let pipeline = TextToImage::new(
            Arc::clone(&self.backend),
            DType::F32,
            &self.text_encoder,
            &self.unet,
            &self.vae,
        );
        let mut sampler =
            self.sampler.build(&self.files.scheduler_config, SamplerOptions::new(args.painting.steps))?;
        let [width, height] = args.painting.size.unwrap_or_else(|| self.own_size());
        let dims = pipeline.latent_dims(1, height, width)?;
        let states =
            |text: &str| -> Result<_> { Ok(pipeline.states(&model::ids(&self.tokenizer, &[text])?, 0)?) };
        let (positive, negative) = (states(&args.prompt)?, states(&args.negative)?);
        let mut generator = Generator::new(seed);
        let latents = pipeline.initial_latents(&mut generator, dims, sampler.as_ref())?;
        let guidance = Guidance { scale: args.painting.guidance as f32, negative: &negative };
        let (calls, start) = (sampler.timesteps().len() as u64, Instant::now());
        let extra =
            if args.count() > 1 { format!("picture {}/{}", index + 1, args.count()) } else { String::new() };
        let denoising = Denoising {
            states: &positive,
            guidance: Some(guidance),
            latents,
            first_call: 0,
            sampler: sampler.as_mut(),
            generator: &mut generator,
        };
        let latents = pipeline.denoise(denoising, |progress| {
            let done = progress.call as u64 + 1;
            let elapsed = start.elapsed();
            context.terminal.progress(&Progress {
                unit: "painting",
                done,
                total: calls,
                done_here: done,
                elapsed,
                extra: &extra,
            });
            if stop::is_wanted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let Some(latents) = latents else { return Ok(None) };
        let rgb = to_rgb8(&pipeline.decode(&latents)?)?.pop();
        let picture = rgb.and_then(|rgb| Picture::from_rgb(rgb.width, rgb.height, rgb.pixels));
        picture.map(Some).ok_or_else(|| Failure::new("the decoder gave no picture"))
    }

    /// The size the base was trained for, in pixels.
    fn own_size(&self) -> [usize; 2] {
        let latents = self.files.unet.config.get("sample_size").and_then(serde_json::Value::as_u64);
        let side = latents.and_then(|side| usize::try_from(side).ok()).unwrap_or(64) * self.vae.downscale();
        [side, side]
    }

    /// What the picture says about itself, in the form that other tools read.
    pub fn infotext(
        &self,
        args: &GenerateArgs,
        seed: u64,
        picture: &Picture,
        adapters: &[AdapterArg],
    ) -> Result<Infotext> {
        let labels: Vec<String> = adapters.iter().map(AdapterArg::label).collect();
        let prompt = [args.prompt.clone()].into_iter().chain(labels).collect::<Vec<_>>().join(" ");
        let mut text = Infotext::new(&prompt, &args.negative)
            .with("Steps", args.painting.steps)
            .with("Sampler", self.sampler.label);
        if let Some(schedule) = self.sampler.schedule_label {
            text = text.with("Schedule type", schedule);
        }
        text = text
            .with("CFG scale", args.painting.guidance)
            .with("Seed", seed)
            .with_size(picture.width, picture.height)
            .with("Model", model::short_name(&args.base.base))
            .with("RNG", "CPU");
        if !adapters.is_empty() {
            let hashes = adapters.iter().map(|arg| {
                let name = arg.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                Ok(format!("{name}: {}", short_hash(&arg.path)?))
            });
            text = text.with("Lora hashes", hashes.collect::<Result<Vec<_>>>()?.join(", "));
        }
        Ok(text.with("Version", concat!("scumble ", env!("CARGO_PKG_VERSION"))))
    }
}

/// The first 12 digits of a file's SHA-256, which is how adapters are told apart in pictures.
fn short_hash(path: &Path) -> Result<String> {
    let read = || -> std::io::Result<String> {
        let mut hash = Sha256::new();
        std::io::copy(&mut std::fs::File::open(path)?, &mut HashWriter(&mut hash))?;
        Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    };
    read().map_err(|error| Failure::new(format!("cannot read `{}`: {error}", path.display())))
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn base_options(args: &BaseArgs) -> Result<BaseOptions> {
    let mut options = BaseOptions::from_env();
    options.variant = args.variant.clone();
    options.hub.offline |= args.offline;
    if let Some(name) = &args.prediction {
        let known = PredictionType::NAMES.iter().find(|(known, _)| known == name);
        let (_, kind) = known.ok_or_else(|| {
            Failure::usage(format!("there is no prediction `{name}`")).hint("it is epsilon or v_prediction")
        })?;
        options.prediction_type = Some(*kind);
    }
    Ok(options)
}

fn check_numbers(args: &GenerateArgs) -> Result<()> {
    let painting = &args.painting;
    if !painting.guidance.is_finite() || painting.guidance < 0.0 {
        return Err(Failure::usage(format!("--guidance {} is no usable number", painting.guidance)));
    }
    if let Some([width, height]) = painting.size {
        for side in [width, height] {
            if side == 0 || side % 8 != 0 || side > 8192 {
                let near = (side.clamp(8, 8192) + 4) / 8 * 8;
                return Err(Failure::usage(format!(
                    "{side} pixels can't be painted: sizes are multiples of 8 up to 8192"
                ))
                .hint(format!("the nearest is {near}")));
            }
        }
    }
    Ok(())
}
