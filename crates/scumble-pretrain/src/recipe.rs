//! A stage of pre-training in TOML: everything that decides the weights, together with the number of threads.

use std::path::Path;

use scumble_train::{Result, TrainError};
use serde::{Deserialize, Serialize};

/// What one file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Its folder's name; without it that of the stage's kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which stage, and its sizes.
    pub stage: Stage,
    /// How it learns.
    pub train: Train,
}

/// Terms of learning that all stages share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Seeds first weights, scenes and noise.
    pub seed: u64,
    /// Updates.
    pub steps: u64,
    /// Pictures of an update.
    pub batch: usize,
    /// Highest rate; after the warm-up it falls along half a cosine.
    pub lr: f64,
    /// Updates that climb to it.
    pub warmup: u64,
    /// AdamW's.
    pub weight_decay: f64,
    /// AdamW's second decay.
    pub beta2: f64,
    /// Longest gradient.
    pub max_grad_norm: f64,
    /// Decay of the running mean of the weights, which is the result.
    pub ema: f64,
    /// Updates between checkpoints; the model is written with each.
    pub checkpoint_every: u64,
}

/// The stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// See [`crate::autoencoder`].
    Autoencoder(Autoencoder),
    /// See [`crate::contrastive`].
    Contrastive(Contrastive),
    /// See [`crate::diffusion`].
    Diffusion(Diffusion),
}

impl Stage {
    /// The kind's name.
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Autoencoder(_) => "autoencoder",
            Stage::Contrastive(_) => "contrastive",
            Stage::Diffusion(_) => "diffusion",
        }
    }
}

/// Sizes of the autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Autoencoder {
    /// Folder's name of an earlier stage of the same sizes to go on from; without it, fresh weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Pixels of a side.
    pub side: usize,
    /// Channels by level, finest first.
    pub channels: Vec<usize>,
    /// Residual blocks of an encoder level.
    pub layers: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of the norms.
    pub groups: usize,
    /// Weight of the divergence from a normal distribution, mean over latents.
    pub kl: f64,
}

/// Sizes of the dual encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contrastive {
    /// Pixels of a side.
    pub side: usize,
    /// Pixels of a patch's side.
    pub patch: usize,
    /// CLIP's first merges, to which come those of the world's words.
    pub merges: usize,
    /// Width of the common space.
    pub projection: usize,
    /// The text encoder.
    pub text: Encoder,
    /// The vision encoder.
    pub vision: Encoder,
}

/// Sizes of a transformer; the inner width is four times the width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// Width of the states.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of the attentions.
    pub heads: usize,
}

/// Sizes of the denoiser, and its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diffusion {
    /// Folder's name of an earlier stage of the same sizes to go on from; without it, a fresh UNet beside the dual encoder's
    /// text encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Folder's name of the autoencoder's stage.
    #[serde(default = "autoencoder")]
    pub autoencoder: String,
    /// Channels by level, finest first.
    pub channels: Vec<usize>,
    /// Levels with attention, from the finest on.
    pub attention_levels: usize,
    /// Residual blocks of a level.
    pub layers: usize,
    /// Channels of an attention's head.
    pub head_width: usize,
    /// Groups of the norms.
    pub groups: usize,
    /// Different scenes; each is shown many times, with other words and other noise.
    pub scenes: u64,
    /// Share of captions left out, for guidance.
    pub caption_dropout: f64,
    /// Rate of the text encoder as a share of the UNet's; 0 freezes it.
    pub text_rate: f64,
}

fn autoencoder() -> String {
    "autoencoder".to_owned()
}

impl Recipe {
    /// The name of its folder.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.stage.name())
    }

    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io("reading", path))?;
        Self::parse(&text)
    }

    /// Reads and checks a text.
    pub fn parse(text: &str) -> Result<Self> {
        let recipe: Self =
            toml::from_str(text).map_err(|error| TrainError::Toml { message: error.to_string() })?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        let train = &self.train;
        let numbers = [
            ("train.lr", train.lr, train.lr > 0.0 && train.lr < 1.0, "above 0, below 1"),
            ("train.weight_decay", train.weight_decay, (0.0..1.0).contains(&train.weight_decay), "0 to 1"),
            ("train.beta2", train.beta2, (0.0..1.0).contains(&train.beta2), "0 to below 1"),
            ("train.ema", train.ema, (0.0..1.0).contains(&train.ema), "0 to below 1"),
            ("train.max_grad_norm", train.max_grad_norm, train.max_grad_norm >= 0.0, "0 (off) or more"),
            ("train.steps", train.steps as f64, train.steps > 0, "1 or more"),
            ("train.batch", train.batch as f64, (1..=4096).contains(&train.batch), "1 to 4096"),
            ("train.checkpoint_every", 0.0, train.checkpoint_every > 0, "1 or more"),
        ];
        for (key, value, fits, expected) in numbers {
            require(key, value, fits, expected)?;
        }
        require_name("name", self.name())?;
        match &self.stage {
            Stage::Autoencoder(sizes) => sizes.check(),
            Stage::Contrastive(sizes) => sizes.check(),
            Stage::Diffusion(sizes) => sizes.check(),
        }
    }
}

fn require(key: &str, value: impl ToString, fits: bool, expected: &str) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(TrainError::Setting {
        key: key.to_owned(),
        value: value.to_string(),
        problem: format!("it has to be {expected}"),
        hint: String::new(),
    })
}

/// A folder's name is one plain word: it comes from a file and is joined to a path.
fn require_name(key: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let fits = !name.is_empty() && name.len() <= 64 && name.chars().all(plain);
    require(key, name, fits, "of letters, digits, - and _")
}

fn require_levels(channels: &[usize], groups: usize) -> Result<()> {
    let fits = !channels.is_empty()
        && channels.len() <= 6
        && groups > 0
        && channels.iter().all(|&c| c > 0 && c <= 2048 && c % groups == 0);
    require("stage.channels", format!("{channels:?}"), fits, "1 to 6 multiples of stage.groups")
}

impl Autoencoder {
    fn check(&self) -> Result<()> {
        require_name("stage.from", self.from.as_deref().unwrap_or("-"))?;
        require_levels(&self.channels, self.groups)?;
        let drawable = scumble_world::paint::SIZES.contains(&self.side);
        let step = 1 << (self.channels.len() - 1);
        require(
            "stage.side",
            self.side,
            drawable && self.side.is_multiple_of(step),
            "16 to 1024 and a multiple of the latents' step",
        )?;
        require("stage.layers", self.layers, (1..=8).contains(&self.layers), "1 to 8")?;
        require(
            "stage.latent_channels",
            self.latent_channels,
            (1..=64).contains(&self.latent_channels),
            "1 to 64",
        )?;
        require("stage.kl", self.kl, self.kl >= 0.0 && self.kl.is_finite(), "0 or more")
    }
}

impl Contrastive {
    fn check(&self) -> Result<()> {
        let drawable = scumble_world::paint::SIZES.contains(&self.side);
        let divides = self.patch > 0 && self.side.is_multiple_of(self.patch);
        require("stage.side", self.side, drawable && divides, "16 to 1024 and a multiple of stage.patch")?;
        require("stage.merges", self.merges, self.merges <= 48_894, "at most 48894")?;
        require("stage.projection", self.projection, (1..=4096).contains(&self.projection), "1 to 4096")?;
        self.text.check("stage.text")?;
        self.vision.check("stage.vision")
    }
}

impl Encoder {
    fn check(&self, key: &str) -> Result<()> {
        let fits =
            self.heads > 0 && (1..=4096).contains(&self.width) && self.width.is_multiple_of(self.heads);
        require(&format!("{key}.width"), self.width, fits, "1 to 4096 and a multiple of its heads")?;
        require(&format!("{key}.layers"), self.layers, (1..=48).contains(&self.layers), "1 to 48")
    }
}

impl Diffusion {
    fn check(&self) -> Result<()> {
        require_name("stage.autoencoder", &self.autoencoder)?;
        require_name("stage.from", self.from.as_deref().unwrap_or("-"))?;
        require_levels(&self.channels, self.groups)?;
        let levels = self.attention_levels <= self.channels.len();
        require("stage.attention_levels", self.attention_levels, levels, "at most the number of levels")?;
        require("stage.layers", self.layers, (1..=8).contains(&self.layers), "1 to 8")?;
        let heads = self.head_width > 0 && self.channels.iter().all(|&c| c % self.head_width == 0);
        require("stage.head_width", self.head_width, heads, "a divisor of all channels")?;
        require("stage.scenes", self.scenes, (1..=10_000_000).contains(&self.scenes), "1 to 10000000")?;
        let share = (0.0..=1.0).contains(&self.caption_dropout);
        require("stage.caption_dropout", self.caption_dropout, share, "0 to 1")?;
        require("stage.text_rate", self.text_rate, (0.0..=10.0).contains(&self.text_rate), "0 to 10")
    }
}
