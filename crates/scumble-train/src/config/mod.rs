//! The configuration of a training run: what can be set, with help, defaults, checks and its TOML form.
//!
//! A [`TrainConfig`] is plain data. [`TrainConfig::from_toml`] reads it (unknown keys are errors with a suggestion),
//! [`TrainConfig::check`] refuses values that can't work, [`TrainConfig::resolved`] fills in what was left open, and
//! [`TrainConfig::to_toml`] writes it so that reading it again gives the same run. Which settings decide the bytes of the
//! result, and so must not change on resume, is told by [`TrainConfig::identity`].

mod adapter;
mod check;
mod file;
mod kind;
mod section;
mod unheard;
mod windows;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::lr_schedule::ScheduleKind;
pub use file::{all_fields, merge_tables, set_from_text};
pub use kind::preset;
use section::section;
pub use section::{Field, Fields};
pub use windows::Part;

macro_rules! choice {
    ($(#[doc = $about:literal])* $name:ident = $default:ident {
        $( $(#[doc = $help:literal])+ $variant:ident = $text:literal ),* $(,)?
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $( $(#[doc = $help])+ #[serde(rename = $text)] $variant, )* }

        impl $name {
            /// All choices, as they are written.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// The choice as it is written.
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $text, )* }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> std::result::Result<Self, String> {
                match text {
                    $( $text => Ok(Self::$variant), )*
                    _ => Err(format!("expected one of {}", Self::NAMES.join(", "))),
                }
            }
        }
    };
}

mod aims;
mod holdout;
mod inpaint;
mod mask;

pub use aims::{Aims, HuberCurve, LossShape, TimestepShape};
pub use holdout::Holdout;
pub use inpaint::{Holes, Inpaint};
pub use mask::{Mask, MaskLoss, MaskSource};

choice! {
    /// What the base model's UNet predicts.
    Prediction = Epsilon {
        /// The noise.
        Epsilon = "epsilon",
        /// The velocity, as in SD2 768.
        Velocity = "v_prediction",
    }
}
choice! {
    /// Where the text of a picture comes from.
    CaptionSource = Auto {
        /// `<name>.txt` beside the picture where there is one, otherwise `prompt`, otherwise the file's name.
        Auto = "auto",
        /// `<name>.txt` beside the picture; a missing one is an error.
        Text = "text",
        /// The file's name without ending; `_` and `-` become spaces.
        FileName = "file-name",
        /// `prompt` for every picture.
        Prompt = "prompt",
    }
}
choice! {
    /// Sentences that a trigger word is put into, a new one each time a picture is seen.
    Template = None {
        /// No template: captions are used as they are.
        None = "none",
        /// "a photo of a ..." and alike: for a subject.
        Object = "object",
        /// "a painting in the style of ..." and alike: for a style.
        Style = "style",
        /// "a selfie of ..." and alike: for a person.
        Person = "person",
    }
}
choice! {
    /// Which part of a picture is used when its shape is not the training shape.
    Crop = Center {
        /// The middle.
        Center = "center",
        /// A new place each time the picture is seen.
        Random = "random",
    }
}
choice! {
    /// What to do with a file that can't be decoded.
    Unreadable = Skip {
        /// Name it in a warning and go on without it.
        Skip = "skip",
        /// Stop.
        Error = "error",
    }
}
choice! {
    /// Which layers of a network get factors.
    Targets = AttentionFf {
        /// Query, key, value and output of every attention.
        Attention = "attention",
        /// Attention and the first projection of the feed-forward block.
        AttentionFf = "attention+ff",
        /// Every linear layer.
        AllLinear = "all-linear",
        /// Every linear layer and every convolution.
        All = "all",
    }
}
choice! {
    /// How a layer's change is built from what learns.
    AdapterKind = Lora {
        /// Two thin factors whose product is added to the weight.
        Lora = "lora",
        /// As `lora`, and the length of each output's row learns apart from its direction.
        Dora = "dora",
        /// The elementwise product of two such products: rank r reaches r * r.
        Loha = "loha",
        /// A Kronecker product of a small and a large matrix: the smallest files.
        Lokr = "lokr",
    }
}
choice! {
    /// Where the factors of `lora` and `dora` begin.
    AdapterInit = Normal {
        /// Random input side with deviation 1 / rank, zero output side.
        Normal = "normal",
        /// Random input side within 1 / sqrt(inputs), zero output side.
        Kaiming = "kaiming",
        /// Both sides random, their product zero. The rank must be even.
        Orthogonal = "orthogonal",
        /// The strongest directions of the base weight; what is saved is the change since then.
        Pissa = "pissa",
    }
}
choice! {
    /// What is trained.
    Method = Lora {
        /// Two thin factors beside each chosen layer; the base stays as it is.
        Lora = "lora",
        /// New words alone: a few rows of the text encoder's table, everything else stays as it is.
        TextualInversion = "textual-inversion",
        /// New words in the first half, then factors around them.
        Pivotal = "pivotal",
        /// New words and factors together; the words rest after the first half.
        PivotalSingle = "pivotal-single",
        /// Every weight of the UNet. The result is a whole model.
        Full = "full",
    }
}
choice! {
    /// What the pictures show, and so which settings are usual.
    Kind = Subject {
        /// A person, an animal: something with a name.
        Subject = "subject",
        /// A thing.
        Object = "object",
        /// A way of painting.
        Style = "style",
        /// A face.
        Face = "face",
    }
}
choice! {
    /// How the factors are changed.
    OptimizerKind = AdamW {
        /// Adam with decoupled weight decay: the usual choice.
        AdamW = "adamw",
        /// AdamW whose memory takes a byte a number.
        AdamW8 = "adamw8",
        /// Keeps a row and a column for each matrix instead of as many numbers again.
        Adafactor = "adafactor",
        /// Moves by the sign of a mean gradient; the rate is a third to a tenth of AdamW's.
        Lion = "lion",
        /// Finds its rate itself; the rates are factors of it and stay at 1.
        Prodigy = "prodigy",
        /// Plain gradient descent.
        Sgd = "sgd",
    }
}
impl OptimizerKind {
    /// What `beta2` is where it is left out.
    pub fn usual_beta2(self) -> f64 {
        if self == OptimizerKind::Lion { 0.99 } else { 0.999 }
    }

    /// Bytes that it remembers for each number that learns, about: of large parameters, where it matters.
    pub fn state_bytes(self) -> usize {
        match self {
            // Two moments.
            OptimizerKind::AdamW => 8,
            // Two moments in a byte each; their scales are a number for hundreds.
            OptimizerKind::AdamW8 => 2,
            // A number for each row and column.
            OptimizerKind::Adafactor => 1,
            OptimizerKind::Lion => 4,
            // Two moments, the sum of gradients and where it began.
            OptimizerKind::Prodigy => 16,
            OptimizerKind::Sgd => 0,
        }
    }
}

choice! {
    /// Numbers that activations and frozen weights are computed in.
    Precision = F32 {
        /// Exact: equal to other implementations to rounding.
        F32 = "f32",
        /// Half the memory: activations and frozen weights in bf16; sums, statistics, loss, factors and optimizer in f32.
        Bf16 = "bf16",
    }
}
impl Precision {
    /// The element type.
    pub fn dtype(self) -> scumble_tensor::DType {
        match self {
            Precision::F32 => scumble_tensor::DType::F32,
            Precision::Bf16 => scumble_tensor::DType::BF16,
        }
    }
}
choice! {
    /// Where results that never change are kept.
    CacheMode = Memory {
        /// Nowhere: computed again each time.
        None = "none",
        /// In memory, for this run.
        Memory = "memory",
        /// On disk under the content of picture and model, for later runs too.
        Disk = "disk",
    }
}
choice! {
    /// The spelling of the adapter file.
    FileFormat = Kohya {
        /// What AUTOMATIC1111, ComfyUI and diffusers load.
        Kohya = "kohya",
        /// What PEFT and diffusers write.
        Peft = "peft",
        /// The `unet:0:up` layout of the first LoRA tool for Stable Diffusion.
        Original = "original",
    }
}
choice! {
    /// The number type of the adapter file.
    FileType = F16 {
        /// Half the size, and what most tools write.
        F16 = "f16",
        /// Half the size, less precise, larger range.
        Bf16 = "bf16",
        /// Nothing is rounded.
        F32 = "f32",
    }
}
choice! {
    /// What to do when the run's folder is there already.
    Existing = Number {
        /// Use a new one: `name-2`, `name-3`, ...
        Number = "number",
        /// Stop.
        Error = "error",
        /// Delete the old run first.
        Replace = "replace",
    }
}

section! {
    /// `[base]`: the model that is fine-tuned.
    Base {
        /// A diffusers folder, a `.safetensors` or `.ckpt` file, or the name of a model on the Hub such as `owner/name`.
        model: String = String::new(),
        /// Which weight files to take where a folder has several kinds, such as `fp16`.
        variant: Option<String> = None,
        /// For a single file: a diffusers folder whose configurations and tokenizer are used instead of guessed ones.
        config: Option<PathBuf> = None,
        /// What the model predicts: `epsilon` or `v_prediction`. Left out, the model's own files decide.
        prediction: Option<Prediction> = None,
        /// Never use the network; a model from the Hub must have been downloaded before.
        offline: bool = false,
    }
}

section! {
    /// `[data]`: the pictures and their texts.
    Data {
        /// The folder of pictures to learn from.
        folder: PathBuf = PathBuf::new(),
        /// A dataset file (TOML) with several folders instead, each with settings of its own; see docs/datasets.md.
        dataset: Option<PathBuf> = None,
        /// Width of the training pictures in pixels, a multiple of 8. Larger shows more detail, takes more time and memory.
        width: usize = 512,
        /// Height of the training pictures in pixels, a multiple of 8.
        height: usize = 512,
        /// Where the texts come from: `auto`, `text` (`<name>.txt` beside each picture), `file-name` or `prompt`.
        captions: CaptionSource = CaptionSource::Auto,
        /// The text for all pictures that bring none, such as `a photo of sks dog`.
        prompt: Option<String> = None,
        /// A word put in front of every text that does not contain it; with a template, the word the template is filled with. Left out, the new words are.
        trigger: Option<String> = None,
        /// Sentences drawn anew each time a picture is seen: `none`, `object`, `style` or `person`. Needs `trigger` or new words.
        template: Template = Template::None,
        /// Put in front of every text.
        prefix: Option<String> = None,
        /// Put behind every text.
        suffix: Option<String> = None,
        /// Put the parts of a text between commas in another order each time a picture is seen.
        shuffle_tags: bool = false,
        /// How many parts at the front stay where they are when others are shuffled or left out.
        keep_tags: usize = 0,
        /// Share of the parts left out each time, 0 to 1.
        tag_dropout: f64 = 0.0,
        /// Share of the times that a picture is shown without any text, 0 to 1; 0.05 to 0.1 is usual for a style.
        caption_dropout: f64 = 0.0,
        /// How much of a text is read: 75, 150 or 225 tokens. Longer texts go on in chunks of 75, as when painting.
        max_tokens: usize = 75,
        /// Train each picture at the size whose shape is nearest to its own, of the same area, instead of cutting all to one.
        buckets: bool = false,
        /// Sides of the sizes are multiples of this. Left out, 64, or 8 for small pictures.
        bucket_step: Option<usize> = None,
        /// Shortest side. Left out, half of the usual.
        bucket_min: Option<usize> = None,
        /// Longest side. Left out, twice the usual.
        bucket_max: Option<usize> = None,
        /// Which part to use of pictures with another shape: `center` or `random`.
        crop: Crop = Crop::Center,
        /// Show each picture mirrored half of the time. Not for faces with a parting, letters or anything with a side.
        flip: bool = false,
        /// How often each picture counts within one round through the folder.
        repeats: usize = 1,
        /// What to do with files that can't be decoded: `skip` them with a warning, or `error`.
        unreadable: Unreadable = Unreadable::Skip,
        /// Folder of pictures of the same kind of thing in general, used with `class_prompt`. Left out, one beside the runs.
        class_folder: Option<PathBuf> = None,
        /// Text of pictures of the same kind of thing in general, such as `a photo of a dog`. They are trained on as well, so
        /// that the model does not forget what others look like (prior preservation).
        class_prompt: Option<String> = None,
        /// How many class pictures are wanted; missing ones are painted by the base model before training.
        class_count: usize = 100,
        /// Steps of the painting of missing class pictures.
        class_steps: usize = 50,
        /// How much the class pictures count against yours. Higher forgets less and learns slower.
        prior_weight: f64 = 1.0,
    }
}

impl Data {
    /// Chunks of 75 tokens that are read of a text.
    pub fn chunks(&self) -> usize {
        self.max_tokens.div_ceil(75).max(1)
    }
}

section! {
    /// `[lora.unet]`: factors on the network that paints.
    UnetLora {
        /// Which layers: `attention`, `attention+ff`, `all-linear` or `all`. More layers learn more and make a larger file.
        targets: Targets = Targets::AttentionFf,
        /// Width of the factors. Higher can learn more, overfits sooner and makes a larger file.
        rank: usize = 4,
        /// Strength: the factors' product counts alpha / rank. Left out, it is the rank.
        alpha: Option<f64> = None,
        /// Width of the factors of 3x3 convolutions. Left out, it is `rank`.
        conv_rank: Option<usize> = None,
        /// Strength of those. Left out, it is `conv_rank`.
        conv_alpha: Option<f64> = None,
        /// Share of the factors' inner values silenced at random in each step, 0 to below 1.
        dropout: f64 = 0.0,
    }
}

section! {
    /// `[lora.text_encoder]`: factors on the network that reads.
    TextLora {
        /// Whether the text encoder learns too. Helps with new words, costs time, and its results can't be cached.
        train: bool = false,
        /// Which layers: `attention` (`attention+ff` is the same here) or `all-linear` (`all` is the same here).
        targets: Targets = Targets::Attention,
        /// Width of the factors.
        rank: usize = 4,
        /// Strength: the factors' product counts alpha / rank. Left out, it is the rank.
        alpha: Option<f64> = None,
        /// Share of the factors' inner values silenced at random in each step, 0 to below 1.
        dropout: f64 = 0.0,
    }
}

section! {
    /// `[lora]`: what learns.
    Lora {
        /// How a layer's change is built: `lora`, `dora`, `loha` or `lokr`.
        kind: AdapterKind = AdapterKind::Lora,
        /// Where `lora` and `dora` begin: `normal`, `kaiming`, `orthogonal` or `pissa` (`lora` only).
        init: AdapterInit = AdapterInit::Normal,
        /// Lets the product count alpha / sqrt(rank), so that high ranks learn as fast as low ones.
        rank_stabilized: bool = false,
        /// `lokr`: wished-for size of the small matrix, such as 8. Left out, both are as equal as can be: the smallest file.
        lokr_factor: Option<usize> = None,
        /// `lokr`: keep both matrices whole, whatever the rank; alpha then does not count.
        lokr_whole: bool = false,
        /// `lokr`: let the small matrix be a product too where the rank is small enough.
        lokr_both: bool = false,
        /// Patterns of layers to add to the targets: parts of a path such as `attn2`, or `unet.mid_block.*` with `*` for anything.
        include: Vec<String> = Vec::new(),
        /// Patterns of layers to leave out, written alike. Leaving out wins.
        exclude: Vec<String> = Vec::new(),
        /// The network that paints.
        unet: UnetLora = UnetLora::default(),
        /// The network that reads.
        text_encoder: TextLora = TextLora::default(),
    }
}

section! {
    /// `[tokens]`: new words.
    Tokens {
        /// Words that the base does not have, such as `<s1>`; each gets rows of its own that are learned.
        add: Vec<String> = Vec::new(),
        /// How the words begin, one for all or one each: a known word, several words, `<rand-0.017>` or `<zero>`.
        init: Vec<String> = Vec::new(),
        /// Rows of each word: more can hold more, and take as much of the prompt's room.
        vectors: usize = 1,
        /// Pull the rows to the usual length after each update, so that other words of a prompt keep their weight.
        norm_prior: bool = true,
        /// The length they are pulled to. Left out, the median length of the base's words.
        norm: Option<f64> = None,
        /// Learning rate of the words from the end of their window on. Left out, they rest then.
        continue_lr: Option<f64> = None,
    }
}

section! {
    /// `[full]`: learning whole weights, with `method = "full"`.
    Full {
        /// Whether the text encoder's weights learn too.
        text_encoder: bool = false,
    }
}

section! {
    /// `[learn.unet]`, `[learn.text_encoder]`, `[learn.tokens]`: when and how fast one part learns.
    Window {
        /// The update that it begins with. Left out, the method decides (0 but for `pivotal`).
        start: Option<u64> = None,
        /// The update that it ends before. Left out, the method decides (the last but for new words).
        stop: Option<u64> = None,
        /// Learning rate. Left out, the one in `[train]`.
        lr: Option<f64> = None,
        /// Shape of the learning rate over the window. Left out, the one in `[train]`.
        schedule: Option<ScheduleKind> = None,
        /// Updates at the window's start that climb to the full rate. Left out, those of `[train]`.
        warmup: Option<u64> = None,
        /// How strongly it is pulled to zero. Left out, as in `[train]`; new words are not pulled.
        weight_decay: Option<f64> = None,
    }
}

section! {
    /// `[learn]`: windows and rates of the parts.
    Learn {
        /// LoRA+: how much faster the output side of each pair learns than the input side; 16 is usual. Left out, both
        /// learn alike.
        lora_plus: Option<f64> = None,
        /// Factors of the UNet's and the text encoder's rates by block: `NAME=FACTOR` with commas between (`IN04`, `MID`,
        /// `OUT08`, `BASE`, `down`, `mid`, `up`, `text`, or parts of a path such as `attn2`), or 25 numbers (IN00 to 11,
        /// MID, OUT00 to 11). Later ones win; 0 holds a block still.
        blocks: Option<String> = None,
        /// The UNet's factors or weights.
        unet: Window = Window::default(),
        /// The text encoder's factors or weights.
        text_encoder: Window = Window::default(),
        /// New words.
        tokens: Window = Window::default(),
    }
}

section! {
    /// `[train]`: how it learns.
    Train {
        /// How many updates are made. 100 to 200 for each picture is a start.
        steps: u64 = 1000,
        /// Pictures in each forward pass. Higher is steadier and takes more memory.
        batch: usize = 1,
        /// Forward passes summed up into one update: a larger batch without its memory.
        accumulate: usize = 1,
        /// Everything random follows from this number; the same seed gives the same file.
        seed: u64 = 0,
        /// Learning rate of the UNet's factors. Higher learns faster and breaks sooner.
        lr: f64 = 1e-4,
        /// Learning rate of the text encoder's factors.
        lr_text_encoder: f64 = 5e-5,
        /// Learning rate of new words.
        lr_tokens: f64 = 5e-4,
        /// Shape of the learning rate: `constant`, `linear`, `cosine`, `cosine_with_restarts` or `polynomial`.
        schedule: ScheduleKind = ScheduleKind::Constant,
        /// Updates at the start that climb to the full learning rate.
        warmup: u64 = 0,
        /// Waves of the cosine schedules. Left out: 0.5 for `cosine` (ends at zero), 1 for `cosine_with_restarts`.
        cycles: Option<f64> = None,
        /// Exponent of the `polynomial` schedule.
        power: f64 = 1.0,
        /// How the factors are changed: `adamw`, `adamw8`, `adafactor`, `lion`, `prodigy` or `sgd`.
        optimizer: OptimizerKind = OptimizerKind::AdamW,
        /// Memory of gradients of AdamW, Lion and Prodigy, 0 to below 1.
        beta1: f64 = 0.9,
        /// Memory of squared gradients of AdamW and Prodigy, and Lion's second memory, 0 to below 1. Left out, 0.999, for Lion
        /// 0.99.
        beta2: Option<f64> = None,
        /// What Prodigy's estimate of the rate is multiplied with: 0.5 to 2.
        d_coef: f64 = 1.0,
        /// Keeps AdamW and Prodigy from dividing by zero.
        eps: f64 = 1e-8,
        /// How strongly the factors are pulled to zero.
        weight_decay: f64 = 0.01,
        /// Longest gradient an update may use; longer ones are shortened. 0 turns it off.
        max_grad_norm: f64 = 1.0,
        /// Weighs noise levels evenly (min-SNR); 5 is usual. Left out, all noise levels count as they are.
        min_snr_gamma: Option<f64> = None,
        /// Adds a random brightness to the noise so that very dark and very bright pictures can be learnt; 0.05 is usual.
        noise_offset: f64 = 0.0,
        /// Keeps a running mean of what learns and saves that; 0.999 is usual. Left out, what is saved is the last update.
        ema_decay: Option<f64> = None,
        /// Computes parts again in the backward pass instead of keeping them: less memory, a third more time.
        checkpointing: bool = false,
        /// Most memory to use, in GiB: as many parts are computed again in the backward pass as it takes. Changes time, not the
        /// result. Left out, what the machine has.
        memory: Option<f64> = None,
        /// Numbers that are computed with: `f32` or `bf16`. Left out on the command line, what the processor multiplies faster.
        precision: Precision = Precision::F32,
        /// Threads to use. Left out, as many as the machine has cores.
        threads: Option<usize> = None,
    }
}

section! {
    /// `[cache]`: results that are computed once.
    Cache {
        /// The pictures as the UNet sees them: `none`, `memory` or `disk`.
        latents: CacheMode = CacheMode::Memory,
        /// The texts as the UNet sees them: `none`, `memory` or `disk`. Off by itself when the text encoder learns.
        texts: CacheMode = CacheMode::Memory,
        /// Folder of the disk cache. Left out, `cache` beside the runs.
        folder: Option<PathBuf> = None,
    }
}

section! {
    /// `[save]`: what is written, and where.
    Save {
        /// The folder that holds all runs.
        folder: PathBuf = PathBuf::from("runs"),
        /// Name of this run's folder and of the adapter file.
        name: String = "lora".to_owned(),
        /// What to do when that folder is there already: `number` (take `name-2`), `error` or `replace`.
        existing: Existing = Existing::Number,
        /// Save a checkpoint and an adapter after every so many steps. 0: only at the end.
        every: u64 = 250,
        /// How many checkpoints are kept; older ones are deleted. 0 keeps all.
        keep_last: usize = 2,
        /// Spellings of the adapter file: any of `kohya`, `peft` and `original`.
        formats: Vec<FileFormat> = vec![FileFormat::Kohya],
        /// Number type of the adapter file: `f16`, `bf16` or `f32`.
        dtype: FileType = FileType::F16,
        /// Write the run's course for TensorBoard too.
        tensorboard: bool = true,
    }
}

section! {
    /// `[validate]`: pictures painted while training, to see it learn.
    Validate {
        /// What to paint; one picture for each text. Empty: none are painted.
        prompts: Vec<String> = Vec::new(),
        /// What not to paint.
        negative: String = String::new(),
        /// Paint after every so many steps (and before the first and after the last). 0: only before and after.
        every: u64 = 250,
        /// The noise that painting starts from; the same every time, so pictures can be compared.
        seed: u64 = 42,
        /// Steps of the painting.
        steps: usize = 25,
        /// How closely the painting follows the text; 1 is without guidance.
        guidance: f64 = 7.5,
        /// Sampler of the painting. Left out, the one the base model asks for.
        sampler: Option<String> = None,
    }
}

section! {
    /// A whole training run.
    TrainConfig {
        /// What the pictures show: `subject`, `object`, `style` or `face`. Sets what is usual for it; every setting that
        /// is written down wins.
        kind: Option<Kind> = None,
        /// What is trained: `lora`, `textual-inversion`, `pivotal`, `pivotal-single` or `full`.
        method: Method = Method::Lora,
        /// The model that is fine-tuned.
        base: Base = Base::default(),
        /// The pictures and their texts.
        data: Data = Data::default(),
        /// What learns.
        lora: Lora = Lora::default(),
        /// New words.
        tokens: Tokens = Tokens::default(),
        /// Learning whole weights.
        full: Full = Full::default(),
        /// When and how fast each part learns.
        learn: Learn = Learn::default(),
        /// How it learns.
        train: Train = Train::default(),
        /// What is asked of the model in each step.
        objective: Aims = Aims::default(),
        /// Which part of each picture counts.
        mask: Mask = Mask::default(),
        /// Holes, for bases that fill them.
        inpaint: Inpaint = Inpaint::default(),
        /// Pictures that are only tested with.
        holdout: Holdout = Holdout::default(),
        /// Results that are computed once.
        cache: Cache = Cache::default(),
        /// What is written, and where.
        save: Save = Save::default(),
        /// Pictures painted while training.
        validate: Validate = Validate::default(),
    }
}

impl TrainConfig {
    /// What stands for the subject in texts: the trigger, otherwise the new words beside each other. Words in brackets
    /// need no blank between them (`<s1><s2>`); where letters would meet, they would be read as one word.
    pub fn trigger(&self) -> Option<String> {
        let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let join = |mut all: String, word: &String| {
            let meets_letters = letter(all.chars().next_back()) || letter(word.chars().next());
            if !all.is_empty() && meets_letters {
                all.push(' ');
            }
            all + word
        };
        let words =
            || Some(self.tokens.add.iter().fold(String::new(), join)).filter(|words| !words.is_empty());
        self.data.trigger.clone().or_else(words)
    }
}

/// The least that passes all checks: a base and pictures. The tests of this folder begin with it.
#[cfg(test)]
fn minimal() -> TrainConfig {
    let mut config = TrainConfig::default();
    config.base.model = "base".into();
    config.data.folder = "pictures".into();
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_words_are_the_trigger_unless_one_is_written_down() {
        let trigger = |words: &[&str]| {
            let mut config = TrainConfig::default();
            config.tokens.add = words.iter().map(|&word| word.to_owned()).collect();
            config.trigger()
        };
        assert_eq!(trigger(&[]), None);
        assert_eq!(trigger(&["<s1>", "<s2>"]).as_deref(), Some("<s1><s2>"));
        assert_eq!(trigger(&["moody", "doggo"]).as_deref(), Some("moody doggo"));
        assert_eq!(trigger(&["<s1>", "doggo", "<s2>"]).as_deref(), Some("<s1> doggo <s2>"));
        let mut config = TrainConfig::default();
        config.tokens.add = vec!["<s1>".into()];
        config.data.trigger = Some("a <s1> dog".into());
        assert_eq!(config.trigger().as_deref(), Some("a <s1> dog"));
    }
}
