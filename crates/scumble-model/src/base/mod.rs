//! Base models: where their files are, and one look for all of them.
//!
//! A base is a diffusers folder, a single file of the CompVis/SGM kind, or a repository of the Hub that holds such a
//! folder. Whatever it is, what comes out are components with diffusers' names and shapes and a diffusers
//! configuration; the weights stay in their files until somebody reads a tensor.

pub mod checkpoint;
mod derive;
pub mod embedded;
mod folder;
mod hub;
mod misplaced;
mod names;
mod prediction;
mod single;
mod towers;
mod view;
mod weights;

#[cfg(test)]
mod hub_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::files::{FileError, Result, TensorSource, printable, read_text};
use crate::schedule::PredictionType;
use crate::tokenizer::{Pad, Tokenizer, TokenizerError};

pub(crate) use folder::open_weights;
pub use hub::HubOptions;
pub use prediction::PredictionSource;
pub use towers::TowerFiles;
pub use weights::Part;
pub(crate) use weights::choose as choose_weights;

/// A configuration is a few kilobytes; a tokenizer's vocabulary is not read here.
const MAX_CONFIG: u64 = 1 << 20;

/// Architectures that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x: CLIP ViT-L, convolutional projections around the transformers.
    Sd1,
    /// Stable Diffusion 2.x: OpenCLIP ViT-H, linear projections.
    Sd2,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sd1 => "Stable Diffusion 1.x",
            Self::Sd2 => "Stable Diffusion 2.x",
        })
    }
}

/// How a base is to be opened.
#[derive(Clone, Debug, Default)]
pub struct BaseOptions {
    /// Weight files with this infix are preferred, such as `fp16` in `diffusion_pytorch_model.fp16.safetensors`.
    /// Without it the plain files are, and a folder that has one variant only is read as that. Refused for single files.
    pub variant: Option<String>,
    /// What the UNet predicts, if the files do not know or are wrong.
    pub prediction_type: Option<PredictionType>,
    /// For single files: a diffusers folder whose configurations, scheduler and tokenizer are used; weights in it are
    /// not needed. Without it the configurations are derived from the tensors' shapes. Refused for folders.
    pub config: Option<PathBuf>,
    /// Where the Hub and its cache are.
    pub hub: HubOptions,
}

impl BaseOptions {
    /// The defaults, with the Hub as the environment has it (see [`HubOptions::from_env`]).
    pub fn from_env() -> Self {
        Self { hub: HubOptions::from_env(), ..Self::default() }
    }
}

/// A part of a base: its diffusers configuration and its tensors under diffusers' names.
#[derive(Clone)]
pub struct Component {
    /// `config.json`, or what was derived from the shapes.
    pub config: Value,
    /// Where the configuration came from, for messages.
    pub config_file: PathBuf,
    /// Tensors in file layout.
    pub weights: Arc<dyn TensorSource>,
}

/// Which tokenizer belongs to a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerSource {
    /// A folder with `vocab.json` and `merges.txt`, or `tokenizer.json`.
    Folder(PathBuf),
    /// The file brings none: CLIP's own.
    EmbeddedClip {
        /// Rows of the text encoder's table: 49408 in every published model; smaller ones use the beginning of
        /// CLIP's list of merges.
        vocabulary: usize,
        /// What fills a row up to 77: the end token (SD1) or `!` (SD2).
        pad_token: &'static str,
    },
}

impl TokenizerSource {
    /// Builds the tokenizer.
    pub fn open(&self) -> std::result::Result<Tokenizer, TokenizerError> {
        match self {
            Self::Folder(folder) => Tokenizer::from_folder(folder),
            Self::EmbeddedClip { vocabulary, pad_token: "!" } => {
                Tokenizer::clip_with_vocabulary(*vocabulary, Pad::ExclamationMark)
            }
            Self::EmbeddedClip { vocabulary, .. } => Tokenizer::clip_with_vocabulary(*vocabulary, Pad::End),
        }
    }
}

/// An opened base.
pub struct BaseFiles {
    /// As the user named it.
    pub name: String,
    /// Its architecture.
    pub family: Family,
    /// What its UNet predicts.
    pub prediction_type: PredictionType,
    /// How that is known.
    pub prediction_source: PredictionSource,
    /// The denoiser.
    pub unet: Component,
    /// The text encoder.
    pub text_encoder: Component,
    /// The autoencoder.
    pub vae: Component,
    /// Its tokenizer.
    pub tokenizer: TokenizerSource,
    /// diffusers' `scheduler_config.json`, its `prediction_type` that of this struct.
    pub scheduler_config: Value,
    /// Tensors of a single file that belong to none of the components and are not known to be harmless.
    pub ignored: Vec<String>,
}

impl BaseFiles {
    /// Opens a base by path or, when nothing is at that path, `embedded` or by Hub id `org/name[@revision]`.
    pub fn open(spec: &str, options: &BaseOptions) -> Result<Self> {
        let path = embedded::base_path(spec)?;
        let path = path.as_ref();
        if path.is_dir() {
            options.check_for_folder(spec)?;
            return folder::open(spec, path, options);
        }
        if path.exists() {
            options.check_for_single_file(spec)?;
            return single::open(spec, path, options);
        }
        match hub::parse_id(spec) {
            Some(id) => {
                options.check_for_folder(spec)?;
                let snapshot = hub::fetch(&id, options)?;
                folder::open(spec, &snapshot, options)
            }
            None => Err(FileError::Missing {
                what: "the base model".into(),
                file: path.into(),
                hint: "give a diffusers folder, a .safetensors or .ckpt file, a Hub id such as `org/name`, or `embedded`"
                    .into(),
            }),
        }
    }
}

impl BaseFiles {
    /// Whether the UNet takes mask and masked picture beside the latents: a model for inpainting.
    pub fn is_inpainting(&self) -> bool {
        let size = |component: &Component, key: &str| config_size(component, key).ok();
        let (channels, latent) = (size(&self.unet, "in_channels"), size(&self.vae, "latent_channels"));
        channels.zip(latent).is_some_and(|(channels, latent)| channels == 2 * latent + 1)
    }

    /// Refuses a model for inpainting, where only latents are at hand.
    pub fn require_plain_input(&self) -> Result<()> {
        if !self.is_inpainting() {
            return Ok(());
        }
        Err(FileError::Unsupported {
            base: self.name.clone(),
            reason: "it is an inpainting model (mask and masked picture beside the latents)".into(),
            hint: "use the text-to-image model of the same family".into(),
        })
    }
}

/// Reads a JSON object.
pub(crate) fn read_object(path: &Path) -> Result<Value> {
    let text = read_text(path, MAX_CONFIG)?;
    let value: Value =
        serde_json::from_str(&text).map_err(|error| FileError::malformed(path, "JSON", error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(FileError::malformed(path, "JSON", "it is not an object")) }
}

/// A whole number of a configuration, between 1 and a million, or an error that names it.
fn config_size(component: &Component, key: &str) -> Result<usize> {
    let found = component.config.get(key);
    match found.and_then(Value::as_u64) {
        Some(size @ 1..=1_000_000) => Ok(size as usize),
        _ => Err(FileError::Config {
            file: component.config_file.clone(),
            key: key.into(),
            expected: "a whole number from 1 to 1000000".into(),
            found: found.map_or("nothing".into(), |value| printable(&value.to_string())),
        }),
    }
}

/// Refuses UNets whose input is neither what the VAE makes nor that with mask and masked picture beside it, and says
/// what they are.
fn check_input(name: &str, unet: &Component, vae: &Component) -> Result<()> {
    let channels = config_size(unet, "in_channels")?;
    let latent = config_size(vae, "latent_channels")?;
    if channels == latent || channels == 2 * latent + 1 {
        return Ok(());
    }
    let kind = match channels {
        8 => "an instruction model (the picture to change beside the latents)",
        7 => "an upscaling model (the small picture beside the latents)",
        5 => "a depth-guided model (a depth map beside the latents)",
        _ => "a model with extra inputs",
    };
    Err(FileError::Unsupported {
        base: name.into(),
        reason: format!("its UNet takes {channels} channels where the VAE makes {latent}: it is {kind}"),
        hint: "use the text-to-image model of the same family".into(),
    })
}

fn unsupported_sdxl(name: &str) -> FileError {
    FileError::Unsupported {
        base: name.into(),
        reason: "it is a Stable Diffusion XL model (two text encoders), which is not supported".into(),
        hint: "use a Stable Diffusion 1.x or 2.x base".into(),
    }
}
