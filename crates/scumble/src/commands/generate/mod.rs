//! `scumble generate`: text to pictures, from nothing or from a picture, with any adapters at any strength.

pub mod idle;
mod lines;
pub mod options;
pub mod output;

use std::path::{Path, PathBuf};

use clap::Args;
use scumble_model::base::{BaseFiles, BaseOptions as OpenOptions, Family, PredictionSource, embedded};
use scumble_model::schedule::PredictionType;
use scumble_paint::request::{EmbeddingUse, Request};
use scumble_paint::studio::{self, Resolver, Step, Studio, WearOptions, Worn};
use scumble_paint::{adapters::AdapterUse, record};
use scumble_train::config::Precision;
use scumble_train::picture::{Picture, png};

use self::options::{AdapterOptions, PaintingOptions, StartOptions};
use crate::commands::stop;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};
use crate::terminal::Progress;

/// Options of `generate`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble generate --base runwayml/stable-diffusion-v1-5 -p 'a castle at dawn' -o castle.png\n  \
    scumble generate --base sd15.safetensors -p 'sks dog in a boat' --adapter dog.safetensors:0.8 --count 4\n  \
    scumble generate --base sd15.safetensors -p 'a (red:1.3) door' --init-image house.png --strength 0.6\n  \
    scumble generate --base sd15.safetensors --from castle.png --seed 7 -o again.png")]
pub struct GenerateArgs {
    /// What to paint; (word:1.2) weighs, BREAK begins a new chunk, <lora:name:0.8> wears an adapter
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What not to paint
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    /// Paint one picture for each line of a file: a prompt, then options such as --seed 3 if wanted
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// Take over everything that a picture says of how it was made; options given here count more
    #[arg(long, value_name = "FILE.png")]
    from: Option<PathBuf>,
    /// Picture file, or a folder for several pictures
    #[arg(short, long, value_name = "PATH", default_value = "scumble.png")]
    out: PathBuf,
    /// Replace the picture if it is there already
    #[arg(long)]
    force: bool,
    /// Print what was painted as JSON on standard output
    #[arg(long)]
    json: bool,
    /// How many pictures
    #[arg(long, value_name = "N", default_value_t = std::num::NonZeroUsize::MIN)]
    count: std::num::NonZeroUsize,

    #[command(flatten)]
    base: BaseOptions,
    #[command(flatten)]
    painting: PaintingOptions,
    #[command(flatten)]
    start: StartOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
}

/// Which base model.
#[derive(Args)]
#[command(next_help_heading = "Base model")]
pub struct BaseOptions {
    /// A diffusers folder, a .safetensors or .ckpt file, or a model's name on the Hub [default: embedded, the small model
    /// inside this program]
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Weight files of a folder to take where there are several kinds, such as fp16
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// What the model predicts, where its files don't say: epsilon or v_prediction
    #[arg(long, value_name = "KIND")]
    pub prediction: Option<String>,
    /// Never use the network
    #[arg(long)]
    pub offline: bool,
    /// Numbers to compute in; bf16 is usual where the processor multiplies it
    #[arg(long, value_name = "TYPE", env = "SCUMBLE_PRECISION", default_value_t = crate::precision::usual())]
    pub precision: Precision,
}

/// The adapters and words that are on.
type On<'r> = (&'r Vec<AdapterUse>, &'r Vec<EmbeddingUse>);

/// Paints.
pub fn run(context: &Context, args: &GenerateArgs) -> Result {
    let (mut requests, base) = requests(context, args)?;
    let targets = output::targets(&args.out, requests.len(), args.force)?;
    let mut resolver = Resolver::new(args.adapters.folders());
    let mut resolved = Vec::with_capacity(requests.len());
    for request in &mut requests {
        request.check()?;
        resolver.add_words(request)?;
        resolved.push(resolver.resolve(request)?);
    }
    let wear = WearOptions { fold: args.adapters.fold, partial: args.adapters.allow_partial };
    check_fold(&args.adapters, &requests, &resolved)?;
    idle::check_adapters(&args.adapters, &resolved)?;
    if args.negative.is_some() {
        idle::check_negative("--negative", &requests)?;
    }
    stop::listen()?;
    context.terminal.status(&format!("loading {base}"));
    let files = open_base(context, &base, &args.base)?;
    for request in &requests {
        studio::check(&files, request)?;
    }
    let studio = Studio::open(&files, context.backend()?, args.base.precision.dtype())?;
    let mut painted = Vec::new();
    let mut worn: Option<(On<'_>, Worn<'_>)> = None;
    for (index, ((request, (adapters, texts)), target)) in
        requests.iter().zip(&resolved).zip(&targets).enumerate()
    {
        // Adapters and words stay on as long as pictures want the same ones.
        let wanted = (adapters, &request.embeddings);
        let same = worn.as_ref().is_some_and(|(on, _)| *on == wanted);
        if !same {
            drop(worn.take());
            let mut note = |text: String| context.terminal.warning(&text);
            worn = Some((wanted, studio.wear(adapters, &request.embeddings, wear, &mut note)?));
        }
        let Some((_, on)) = &worn else { continue };
        let extra = match requests.len() {
            1 => String::new(),
            count => format!("picture {}/{count}", index + 1),
        };
        let Some(picture) = paint(context, on, request, texts, &extra)? else {
            return Ok(Outcome::Interrupted);
        };
        let size = request.size.unwrap_or_else(|| first_size(request, &picture));
        let program = concat!("scumble ", env!("CARGO_PKG_VERSION"));
        let texts = record::texts(request, &base, studio.sampler_kind(request)?, adapters, size, program);
        png::write(target, &picture, &texts.each_ref().map(|(key, text)| (*key, text.as_str())))?;
        painted.push(serde_json::json!({ "file": target, "seed": request.seed }));
        if !args.json {
            context.terminal.result(&target.display().to_string());
        }
    }
    if args.json {
        context.terminal.result(&serde_json::json!({ "pictures": painted }).to_string());
    }
    Ok(Outcome::Done)
}

/// The size of the first pass, from the picture of the last.
pub fn first_size(request: &Request, picture: &Picture) -> [usize; 2] {
    let scale = request.hires.map_or(1.0, |hires| hires.scale);
    [picture.width, picture.height].map(|side| (side as f64 / scale / 8.0).round() as usize * 8)
}

/// Paints one picture with a progress line; `None` when it was interrupted.
pub fn paint(
    context: &Context,
    worn: &Worn<'_>,
    request: &Request,
    texts: &[String; 2],
    extra: &str,
) -> Result<Option<Picture>> {
    let mut start = std::time::Instant::now();
    let mut watch = |step: Step| {
        if step.done == 1 && step.is_second_pass {
            start = std::time::Instant::now();
        }
        let unit = if step.is_second_pass { "enlarging" } else { "painting" };
        let (done, total) = (step.done as u64, step.total as u64);
        let elapsed = start.elapsed();
        context.terminal.progress(&Progress { unit, done, total, done_here: done, elapsed, extra });
        if stop::is_wanted() { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    };
    Ok(worn.paint(request, texts, &mut watch)?)
}

/// What is asked for in words, and the options beside it.
pub struct Typed<'a> {
    /// The picture to take over from.
    pub from: Option<&'a Path>,
    /// What to paint.
    pub prompt: Option<&'a str>,
    /// What not to paint.
    pub negative: Option<&'a str>,
    /// The base.
    pub base: &'a BaseOptions,
    /// How to paint.
    pub painting: &'a PaintingOptions,
    /// What to begin with.
    pub start: &'a StartOptions,
    /// Adapters and learned words.
    pub adapters: &'a AdapterOptions,
}

/// One request of what was typed and of the picture it is taken over from, the base, and the axes where that picture is a
/// grid.
pub fn common_request(context: &Context, typed: &Typed<'_>) -> Result<(Request, String, Vec<String>)> {
    let mut request = Request::default();
    let (mut base, mut axes) = (typed.base.base.clone(), Vec::new());
    if let Some(path) = typed.from {
        let recorded = record::read(path)?;
        recorded
            .notes
            .iter()
            .for_each(|note| context.terminal.warning(&format!("{}: {note}", path.display())));
        request = recorded.request;
        options::find_recorded(&mut request, typed.adapters)?;
        base = base.or(recorded.base);
        axes = recorded.axes;
    }
    let base = match (base, typed.from) {
        (Some(base), _) => base,
        (None, None) => embedded::NAME.to_owned(),
        (None, Some(_)) => {
            return Err(Failure::usage("the picture does not say which base painted it")
                .hint("pass it with --base MODEL"));
        }
    };
    if let Some(prompt) = typed.prompt {
        request.prompt = prompt.to_owned();
    }
    if let Some(negative) = typed.negative {
        request.negative = negative.to_owned();
    }
    typed.painting.apply(&mut request);
    typed.painting.check(&request)?;
    typed.start.apply(&mut request)?;
    typed.adapters.apply(&mut request)?;
    Ok((request, base, axes))
}

/// All pictures to paint, and the base to paint them with.
fn requests(context: &Context, args: &GenerateArgs) -> Result<(Vec<Request>, String)> {
    if args.from.is_none() && args.prompt.is_none() && args.prompts.is_none() {
        return Err(Failure::usage("there is nothing to paint")
            .hint("say it with --prompt TEXT, or --from a picture"));
    }
    let typed = Typed {
        from: args.from.as_deref(),
        prompt: args.prompt.as_deref(),
        negative: args.negative.as_deref(),
        base: &args.base,
        painting: &args.painting,
        start: &args.start,
        adapters: &args.adapters,
    };
    let (request, base, axes) = common_request(context, &typed)?;
    if let (Some(path), false) = (&args.from, axes.is_empty()) {
        return Err(Failure::new(format!("`{}` is a grid of many pictures", path.display()))
            .hint("paint it again with scumble grid --from"));
    }
    let written = match &args.prompts {
        Some(path) => lines::read(path, &request)?,
        None => vec![request],
    };
    let several = |request: &Request| {
        let seeds = (0..args.count.get() as u64).map(|n| request.seed.wrapping_add(n));
        seeds.map(|seed| Request { seed, ..request.clone() }).collect::<Vec<_>>()
    };
    Ok((written.iter().flat_map(several).collect(), base))
}

/// Errors where `--fold` can't do what the pictures need.
pub fn check_fold(
    args: &AdapterOptions,
    requests: &[Request],
    resolved: &[(Vec<AdapterUse>, [String; 2])],
) -> Result<()> {
    if !args.fold {
        return Ok(());
    }
    let changes = resolved.windows(2).any(|pair| pair[0].0 != pair[1].0);
    let plain = |adapter: &AdapterUse| adapter.blocks.is_empty() && adapter.schedule == Default::default();
    let reason = if changes {
        "pictures with different adapters"
    } else if !resolved.iter().all(|(adapters, _)| adapters.iter().all(plain)) {
        "block strengths and strength schedules"
    } else if requests.iter().any(|request| request.adapter_guidance != 1.0) {
        "--adapter-guidance"
    } else {
        return Ok(());
    };
    Err(Failure::usage(format!("--fold changes the weights for good, which {reason} can't work with"))
        .hint("leave --fold out"))
}

/// Opens a base as the options say.
pub fn open_base(context: &Context, base: &str, args: &BaseOptions) -> Result<BaseFiles> {
    let mut options = OpenOptions::from_env();
    options.variant.clone_from(&args.variant);
    options.hub.offline |= args.offline;
    if let Some(name) = &args.prediction {
        let known = PredictionType::NAMES.iter().find(|(known, _)| known == name);
        let (_, kind) = known.ok_or_else(|| {
            Failure::usage(format!("there is no prediction `{name}`")).hint("it is epsilon or v_prediction")
        })?;
        options.prediction_type = Some(*kind);
    }
    let files = BaseFiles::open(base, &options)?;
    if files.family == Family::Sd2 && files.prediction_source == PredictionSource::Assumed {
        context.terminal.warning(
            "nothing says whether this SD2 model predicts noise or velocity; noise is assumed. If pictures come out \
             brown and blurred, pass --prediction v_prediction",
        );
    }
    Ok(files)
}
