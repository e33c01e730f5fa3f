//! The options of `scumble train`, grouped by topic, and how they become settings.
//!
//! Every option is a short way to write one setting of the run file; all settings can be reached with
//! `--set section.key=value`. Precedence: option, then environment (`SCUMBLE_<SECTION>_<KEY>`), then run file, then default.

use std::path::PathBuf;

use clap::Args;
use toml::{Table, Value};

use scumble_train::config::{
    AdapterInit, AdapterKind, CaptionSource, Crop, Existing, FileFormat, FileType, Kind, LossShape,
    MaskSource, Method, Precision, Prediction, Targets, Template, set_from_text,
};

use crate::failure::Result;

/// Options of `train`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble train --base runwayml/stable-diffusion-v1-5 --images my-dog --prompt 'a photo of sks dog' --name dog\n  \
    scumble train --kind subject --method pivotal --base MODEL --images my-dog --token '<dog>' --init dog\n  \
    scumble train --method full --base MODEL --images my-dog --prompt 'a photo of sks dog' --lr 5e-6\n  \
    scumble train --config run.toml --resume last\n  \
    scumble train --config run.toml --dry-run")]
pub struct TrainArgs {
    /// Run file (TOML) with any settings; options override it
    #[arg(short, long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Check everything and print what would happen, then stop
    #[arg(long)]
    pub dry_run: bool,
    /// Continue a run from a checkpoint: `last`, or a run's or checkpoint's path
    #[arg(long, value_name = "last|PATH", num_args = 0..=1, default_missing_value = "last")]
    pub resume: Option<String>,
    /// Continue even though settings that decide the result were changed
    #[arg(long, requires = "resume")]
    pub allow_changes: bool,
    /// Print the summary as JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Any setting, as `section.key=value`; see the run file that each run writes
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    #[command(flatten)]
    base: BaseOptions,
    #[command(flatten)]
    method: MethodOptions,
    #[command(flatten)]
    pictures: PictureOptions,
    #[command(flatten)]
    class: ClassOptions,
    #[command(flatten)]
    adapter: AdapterOptions,
    #[command(flatten)]
    learning: LearningOptions,
    #[command(flatten)]
    saving: SavingOptions,
    #[command(flatten)]
    watching: WatchingOptions,
}

#[derive(Args)]
#[command(next_help_heading = "Base model")]
struct BaseOptions {
    /// A diffusers folder, a .safetensors or .ckpt file, or a model's name on the Hub [default: embedded]
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// Weight files of a folder to take where there are several kinds, such as fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// What the model predicts, where its files don't say: epsilon or v_prediction
    #[arg(long, value_name = "KIND")]
    prediction: Option<Prediction>,
    /// Never use the network
    #[arg(long)]
    offline: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Method")]
struct MethodOptions {
    /// What the pictures show, for settings that are usual then: subject, object, style or face
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// What is trained: lora, textual-inversion, pivotal, pivotal-single or full
    #[arg(long, value_name = "METHOD")]
    method: Option<Method>,
    /// New words to learn, such as '<s1>'; several with | between them
    #[arg(long, value_name = "WORDS")]
    token: Option<String>,
    /// How new words begin: a known word, <rand-0.017> or <zero>; one for all, or one each with | between them
    #[arg(long, value_name = "WORDS")]
    init: Option<String>,
    /// Rows of each new word
    #[arg(long, value_name = "N")]
    vectors: Option<usize>,
    /// Learning rate of new words
    #[arg(long, value_name = "RATE")]
    lr_tokens: Option<f64>,
    /// Save a running mean of what learns; 0.999 is usual
    #[arg(long, value_name = "DECAY")]
    ema_decay: Option<f64>,
}

#[derive(Args)]
#[command(next_help_heading = "Pictures")]
struct PictureOptions {
    /// Folder of pictures to learn from
    #[arg(short, long, value_name = "FOLDER")]
    images: Option<PathBuf>,
    /// Dataset file (TOML) with several folders, instead of --images
    #[arg(long, value_name = "FILE.toml", conflicts_with = "images")]
    dataset: Option<PathBuf>,
    /// Size of the training pictures, such as 512 or 512x768
    #[arg(long, value_name = "PIXELS", value_parser = crate::commands::size)]
    size: Option<[usize; 2]>,
    /// Text for all pictures that bring none, such as 'a photo of sks dog'
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Word put in front of every text that lacks it
    #[arg(long, value_name = "WORD")]
    trigger: Option<String>,
    /// Where texts come from: auto, text, file-name or prompt
    #[arg(long, value_name = "SOURCE")]
    captions: Option<CaptionSource>,
    /// Sentences for the trigger, new each time: none, object, style or person
    #[arg(long, value_name = "KIND")]
    template: Option<Template>,
    /// Part used of pictures of another shape: center or random
    #[arg(long, value_name = "PLACE")]
    crop: Option<Crop>,
    /// Show pictures mirrored half of the time
    #[arg(long)]
    flip: bool,
    /// Train each picture at the size of its shape
    #[arg(long)]
    buckets: bool,
    /// Shuffle what stands between commas, each time
    #[arg(long)]
    shuffle_tags: bool,
    /// Parts of a text that stay at its front when others are shuffled
    #[arg(long, value_name = "N")]
    keep_tags: Option<usize>,
    /// Share of the times that a picture is shown without text
    #[arg(long, value_name = "SHARE")]
    caption_dropout: Option<f64>,
    /// Which part counts: none, auto, file (<name>.mask.png) or alpha
    #[arg(long, value_name = "SOURCE")]
    mask: Option<MaskSource>,
}

#[derive(Args)]
#[command(next_help_heading = "Prior preservation (DreamBooth)")]
struct ClassOptions {
    /// Text of the class pictures, such as 'a photo of a dog'
    #[arg(long, value_name = "TEXT")]
    class_prompt: Option<String>,
    /// Folder of class pictures; missing ones are painted by the base
    #[arg(long, value_name = "FOLDER")]
    class_images: Option<PathBuf>,
    /// How many class pictures are wanted
    #[arg(long, value_name = "N")]
    class_count: Option<usize>,
    /// How much class pictures count
    #[arg(long, value_name = "WEIGHT")]
    prior_weight: Option<f64>,
}

#[derive(Args)]
#[command(next_help_heading = "Adapter")]
struct AdapterOptions {
    /// Width of the factors
    #[arg(short, long, value_name = "N")]
    rank: Option<usize>,
    /// Strength: the product counts alpha / rank [default: the rank]
    #[arg(long, value_name = "NUMBER")]
    alpha: Option<f64>,
    /// Layers of the UNet: attention, attention+ff, all-linear or all
    #[arg(long, value_name = "LAYERS")]
    targets: Option<Targets>,
    /// How a layer's change is built: lora, dora, loha or lokr
    #[arg(long, value_name = "KIND")]
    adapter_kind: Option<AdapterKind>,
    /// Where lora and dora begin: normal, kaiming, orthogonal, or pissa (lora only)
    #[arg(long, value_name = "START")]
    adapter_init: Option<AdapterInit>,
    /// Let the product count alpha / sqrt(rank)
    #[arg(long)]
    rank_stabilized: bool,
    /// Width of the factors of 3x3 convolutions (targets: all) [default: the rank]
    #[arg(long, value_name = "N")]
    conv_rank: Option<usize>,
    /// lokr: size of the small matrix, such as 8 [default: as equal as can be]
    #[arg(long, value_name = "N")]
    lokr_factor: Option<usize>,
    /// Train the text encoder too
    #[arg(long)]
    text_encoder: bool,
    /// Width of the text encoder's factors
    #[arg(long, value_name = "N")]
    text_rank: Option<usize>,
}

#[derive(Args)]
#[command(next_help_heading = "Learning")]
struct LearningOptions {
    /// How many updates are made
    #[arg(short, long, value_name = "N")]
    steps: Option<u64>,
    /// Pictures in each pass
    #[arg(short, long, value_name = "N")]
    batch: Option<usize>,
    /// Passes summed up into one update
    #[arg(long, value_name = "N")]
    accumulate: Option<usize>,
    /// Learning rate of the UNet's factors
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Learning rate of the text encoder's factors
    #[arg(long, value_name = "RATE")]
    lr_text_encoder: Option<f64>,
    /// How much faster the output side of each pair learns (LoRA+); 16 is usual
    #[arg(long, value_name = "RATIO")]
    lora_plus: Option<f64>,
    /// Factors of the rate by block, such as 'IN04=0.5,mid=0,up=2', or 25 numbers
    #[arg(long, value_name = "BLOCKS")]
    block_lr: Option<String>,
    /// constant, linear, cosine, cosine_with_restarts or polynomial
    #[arg(long, value_name = "SHAPE")]
    schedule: Option<String>,
    /// Updates that climb to the full learning rate
    #[arg(long, value_name = "N")]
    warmup: Option<u64>,
    /// Weigh noise levels evenly; 5 is usual
    #[arg(long, value_name = "GAMMA")]
    min_snr_gamma: Option<f64>,
    /// Random brightness in the noise; 0.05 is usual
    #[arg(long, value_name = "NUMBER")]
    noise_offset: Option<f64>,
    /// How differences count: l2, huber or smooth_l1
    #[arg(long, value_name = "SHAPE")]
    loss: Option<LossShape>,
    /// Everything random follows from this
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Less memory for a third more time
    #[arg(long)]
    checkpointing: bool,
    /// Most memory to use, in GiB: parts are computed again until it suffices
    #[arg(long, value_name = "GIB")]
    memory: Option<f64>,
    /// Numbers to compute in: f32, or bf16 for half the memory
    #[arg(long, value_name = "TYPE")]
    precision: Option<Precision>,
}

#[derive(Args)]
#[command(next_help_heading = "Saving")]
struct SavingOptions {
    /// Folder that holds the runs [default: runs]
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Name of the run's folder and of the adapter file
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// When the run's folder is there already: number (take name-2), error or replace
    #[arg(long, value_name = "WHAT", conflicts_with = "resume")]
    existing: Option<Existing>,
    /// Save after every N updates; 0: only at the end
    #[arg(long, value_name = "N")]
    save_every: Option<u64>,
    /// Checkpoints kept; 0: all
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
    /// Spelling of the adapter file: kohya, peft, original; may be repeated
    #[arg(short, long, value_name = "DIALECT")]
    format: Vec<FileFormat>,
    /// Number type of the adapter file: f16, bf16 or f32
    #[arg(long, value_name = "TYPE")]
    save_type: Option<FileType>,
}

#[derive(Args)]
#[command(next_help_heading = "Watching")]
struct WatchingOptions {
    /// Paint this text now and then; may be repeated
    #[arg(long, value_name = "TEXT")]
    validate: Vec<String>,
    /// Paint after every N updates
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,
    /// Folder of pictures to test with (validation loss)
    #[arg(long, value_name = "FOLDER")]
    test_images: Option<PathBuf>,
    /// Share of the pictures to test with instead of training on them
    #[arg(long, value_name = "SHARE", conflicts_with = "test_images")]
    hold_out: Option<f64>,
    /// Test after every N updates
    #[arg(long, value_name = "N")]
    test_every: Option<u64>,
    /// Stop after N tests without a better one
    #[arg(long, value_name = "N")]
    patience: Option<usize>,
}

impl TrainArgs {
    /// The settings that were typed, as one more layer over run file and environment.
    pub fn settings(&self, threads: Option<usize>) -> Result<Table> {
        let mut table = Table::new();
        for assignment in &self.set {
            let (key, text) = assignment.split_once('=').ok_or_else(|| {
                crate::failure::Failure::usage(format!(
                    "`--set {assignment}` is not of the form section.key=value"
                ))
            })?;
            set_from_text(&mut table, key.trim(), text.trim())?;
        }
        let Self { base, method, pictures, class, adapter, learning, saving, watching, .. } = self;
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                insert(&mut table, key, value);
            }
        };
        put("base.model", text(&base.base));
        put("base.variant", text(&base.variant));
        put("base.prediction", name(base.prediction));
        put("base.offline", flag(base.offline));
        put("kind", name(method.kind));
        put("method", name(method.method));
        put("tokens.add", words(&method.token));
        put("tokens.init", words(&method.init));
        put("tokens.vectors", method.vectors.map(number));
        put("train.lr_tokens", method.lr_tokens.map(Value::Float));
        put("train.ema_decay", method.ema_decay.map(Value::Float));
        put("data.folder", path(&pictures.images));
        put("data.width", pictures.size.map(|[width, _]| number(width)));
        put("data.height", pictures.size.map(|[_, height]| number(height)));
        put("data.prompt", text(&pictures.prompt));
        put("data.trigger", text(&pictures.trigger));
        put("data.captions", name(pictures.captions));
        put("data.template", name(pictures.template));
        put("data.crop", name(pictures.crop));
        put("data.flip", flag(pictures.flip));
        put("data.dataset", path(&pictures.dataset));
        // It takes the place of a run file's folder.
        put("data.folder", pictures.dataset.as_ref().map(|_| Value::String(String::new())));
        put("data.buckets", flag(pictures.buckets));
        put("data.shuffle_tags", flag(pictures.shuffle_tags));
        put("data.keep_tags", pictures.keep_tags.map(number));
        put("data.caption_dropout", pictures.caption_dropout.map(Value::Float));
        put("mask.source", name(pictures.mask));
        put("data.class_prompt", text(&class.class_prompt));
        put("data.class_folder", path(&class.class_images));
        put("data.class_count", class.class_count.map(number));
        put("data.prior_weight", class.prior_weight.map(Value::Float));
        put("lora.unet.rank", adapter.rank.map(number));
        put("lora.unet.alpha", adapter.alpha.map(Value::Float));
        put("lora.unet.targets", name(adapter.targets));
        put("lora.kind", name(adapter.adapter_kind));
        put("lora.init", name(adapter.adapter_init));
        put("lora.rank_stabilized", flag(adapter.rank_stabilized));
        put("lora.unet.conv_rank", adapter.conv_rank.map(number));
        put("lora.lokr_factor", adapter.lokr_factor.map(number));
        put("lora.text_encoder.train", flag(adapter.text_encoder));
        put("lora.text_encoder.rank", adapter.text_rank.map(number));
        put("train.steps", learning.steps.map(number));
        put("train.batch", learning.batch.map(number));
        put("train.accumulate", learning.accumulate.map(number));
        put("train.lr", learning.lr.map(Value::Float));
        put("train.lr_text_encoder", learning.lr_text_encoder.map(Value::Float));
        put("learn.lora_plus", learning.lora_plus.map(Value::Float));
        put("learn.blocks", text(&learning.block_lr));
        put("train.schedule", text(&learning.schedule));
        put("train.warmup", learning.warmup.map(number));
        put("train.min_snr_gamma", learning.min_snr_gamma.map(Value::Float));
        put("train.noise_offset", learning.noise_offset.map(Value::Float));
        put("objective.loss", name(learning.loss));
        put("train.seed", learning.seed.map(number));
        put("train.checkpointing", flag(learning.checkpointing));
        put("train.memory", learning.memory.map(Value::Float));
        put("train.precision", name(learning.precision));
        put("train.threads", threads.map(number));
        put("save.folder", path(&saving.out));
        put("save.name", text(&saving.name));
        put("save.existing", name(saving.existing));
        put("save.every", saving.save_every.map(number));
        put("save.keep_last", saving.keep_last.map(number));
        put("save.formats", list(saving.format.iter().map(|format| format.name())));
        put("save.dtype", name(saving.save_type));
        put("validate.prompts", list(watching.validate.iter().map(String::as_str)));
        put("validate.every", watching.validate_every.map(number));
        put("holdout.folder", path(&watching.test_images));
        put("holdout.share", watching.hold_out.map(Value::Float));
        put("holdout.every", watching.test_every.map(number));
        put("holdout.patience", watching.patience.map(number));
        Ok(table)
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => _ = table.insert(key.to_owned(), value),
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn text(value: &Option<String>) -> Option<Value> {
    value.clone().map(Value::String)
}

/// Words with `|` between them.
fn words(value: &Option<String>) -> Option<Value> {
    let words = value.as_ref()?.split('|').map(|word| Value::String(word.trim().to_owned()));
    Some(Value::Array(words.collect()))
}

fn path(value: &Option<PathBuf>) -> Option<Value> {
    value.as_ref().map(|path| Value::String(path.to_string_lossy().into_owned()))
}

fn name(value: Option<impl std::fmt::Display>) -> Option<Value> {
    value.map(|value| Value::String(value.to_string()))
}

/// A switch that was not given leaves the run file's word.
fn flag(value: bool) -> Option<Value> {
    value.then_some(Value::Boolean(true))
}

/// TOML's whole numbers end at 2^63; larger ones can't come back from a file either, and are refused by the checks.
fn number(value: impl TryInto<i64>) -> Value {
    Value::Integer(value.try_into().unwrap_or(i64::MAX))
}

fn list<'a>(values: impl Iterator<Item = &'a str>) -> Option<Value> {
    let values: Vec<Value> = values.map(|value| Value::String(value.to_owned())).collect();
    (!values.is_empty()).then_some(Value::Array(values))
}
