//! A single file of the CompVis/SGM kind: all parts under prefixes, in `.safetensors` or `.ckpt`.
//!
//! ```text
//! model.diffusion_model.             UNet
//! first_stage_model.                 VAE
//! cond_stage_model.transformer.      text encoder of 1.x
//! cond_stage_model.model.            text encoder of 2.x, in OpenCLIP's names
//! ```
//!
//! A `.ckpt` may wrap them in `state_dict`. Averaged copies (`model_ema.`) and schedule tables are left alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::checkpoint::configs;
use super::names::text::OpenClip;
use super::names::unet::Blocks;
use super::view::{Renamed, View};
use super::{
    BaseFiles, BaseOptions, Component, Family, TokenizerSource, derive, names, prediction, read_object,
};
use crate::files::{FileError, Result, TensorSource, open_any};

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const CLIP: &str = "cond_stage_model.transformer.";
pub(super) const OPEN_CLIP: &str = "cond_stage_model.model.";

/// OpenCLIP's ViT-H stores 24 layers, and Stable Diffusion 2.x uses the output of the 23rd.
pub(super) const VIT_H_LAYERS: usize = 24;

/// Tensors beside the parts that training leaves behind: averaged copies, schedule tables, counters, other modes.
const HARMLESS: [&str; 17] = [
    "model_ema.",
    "first_stage_model.loss.",
    "first_stage_model.model_ema.",
    "alphas_cumprod",
    "betas",
    "sqrt_",
    "log_one_minus_alphas_cumprod",
    "posterior_",
    "lvlb_weights",
    "logvar",
    "scale_factor",
    "v_pred",
    "ztsnr",
    "global_step",
    "epoch",
    "optimizer_states.",
    "callbacks.",
];

/// Opens the file; `name` is what the user called it.
pub(super) fn open(name: &str, path: &Path, options: &BaseOptions) -> Result<BaseFiles> {
    let source: Arc<dyn TensorSource> = Arc::from(open_any(path)?);
    let all = source.names();
    let wrapped = all.iter().any(|tensor| tensor.starts_with("state_dict.model."));
    let wrapper = if wrapped { "state_dict." } else { "" };
    let plain: Vec<&str> = all.iter().filter_map(|tensor| tensor.strip_prefix(wrapper)).collect();
    let family = family_of(name, &plain)?;
    let side_car = options.config.as_deref();

    let within = |prefix: &'static str| plain.iter().filter_map(move |tensor| tensor.strip_prefix(prefix));
    let part = |prefix: &str, rename: &dyn Fn(&str) -> Renamed| -> Result<Arc<dyn TensorSource>> {
        let prefix = format!("{wrapper}{prefix}");
        let source = Arc::clone(&source);
        Ok(Arc::new(View::renamed(source, |name| {
            name.strip_prefix(&prefix).map_or(Renamed::Dropped, rename)
        })?))
    };

    let blocks = Blocks::of_compvis(within(UNET), false);
    let unet =
        part(UNET, &|tensor| Renamed::As(blocks.to_diffusers(tensor).unwrap_or_else(|| tensor.to_string())))?;
    let unet =
        component("unet", unet, path, side_car, source.metadata(), |source| derive::unet(source, family))?;

    let levels = names::vae::levels_of_compvis(within(VAE));
    let vae = part(VAE, &|tensor| match tensor {
        _ if tensor.starts_with("loss.") || tensor.starts_with("model_ema.") => Renamed::Dropped,
        _ => {
            let translated = names::vae::to_diffusers(tensor, levels);
            Renamed::As(names::vae::todays(translated.as_deref().unwrap_or(tensor)))
        }
    })?;
    let vae = component("vae", vae, path, side_car, source.metadata(), derive::vae)?;

    let text_encoder = match family {
        Family::Sd1 => part(CLIP, &names::text::clip)?,
        Family::Sd2 => {
            let kept = kept_layers(names::text::open_clip_layers(within(OPEN_CLIP)), side_car)?;
            let tower = OpenClip { kept_layers: kept, projects: false };
            part(OPEN_CLIP, &|tensor| tower.to_diffusers(tensor))?
        }
    };
    let text_encoder =
        component("text_encoder", text_encoder, path, side_car, source.metadata(), |source| {
            derive::text_encoder(source, family)
        })?;
    super::check_input(name, &unet, &vae)?;

    let (scheduler_config, prediction_type, prediction_source) =
        scheduler(source.as_ref(), path, &plain, options)?;
    let tokenizer = tokenizer(family, &text_encoder, side_car)?;
    Ok(BaseFiles {
        name: name.into(),
        family,
        prediction_type,
        prediction_source,
        unet,
        text_encoder,
        vae,
        tokenizer,
        scheduler_config,
        ignored: ignored(&all, wrapper),
    })
}

/// Recognises the architecture by its text encoder, and names what is not supported.
fn family_of(name: &str, tensors: &[&str]) -> Result<Family> {
    let has = |prefix: &str| tensors.iter().any(|tensor| tensor.starts_with(prefix));
    let refuse = |reason: &str, hint: &str| {
        Err(FileError::Unsupported { base: name.into(), reason: reason.into(), hint: hint.into() })
    };
    if has("conditioner.embedders.") {
        return Err(super::unsupported_sdxl(name));
    }
    if has("control_model.") {
        return refuse(
            "it is a ControlNet, which is no base by itself",
            "use a Stable Diffusion 1.x or 2.x base",
        );
    }
    if has("model.diffusion_model.label_emb.") {
        return refuse(
            "its UNet is conditioned on a class or noise level: it is an upscaling or image-variation model",
            "use the text-to-image model of the same family",
        );
    }
    if has("model.diffusion_model.double_blocks.") || has("model.diffusion_model.joint_blocks.") {
        return refuse(
            "it is a transformer model, not Stable Diffusion 1.x or 2.x",
            "use a Stable Diffusion 1.x or 2.x base",
        );
    }
    if has("lora_unet_") || has("unet:0:") || tensors.iter().any(|tensor| tensor.contains(".lora_A.")) {
        return refuse("it is an adapter, not a base model", "give it as adapter, together with a base");
    }
    match (has(UNET), has(CLIP), has(OPEN_CLIP), has(VAE)) {
        (true, true, _, true) => Ok(Family::Sd1),
        (true, false, true, true) => Ok(Family::Sd2),
        (unet, clip, open_clip, vae) => {
            let mut absent = Vec::new();
            if !unet {
                absent.push("the UNet (`model.diffusion_model.`)");
            }
            if !clip && !open_clip {
                absent.push("the text encoder (`cond_stage_model.`)");
            }
            if !vae {
                absent.push("the VAE (`first_stage_model.`)");
            }
            refuse(
                &format!("it is no complete Stable Diffusion file: {} missing", absent.join(", ")),
                "use a full checkpoint, or a folder in diffusers' layout",
            )
        }
    }
}

/// The configuration from the side-car folder, or derived.
fn component(
    part: &str,
    weights: Arc<dyn TensorSource>,
    path: &Path,
    side_car: Option<&Path>,
    metadata: &BTreeMap<String, String>,
    derived: impl Fn(&dyn TensorSource) -> Result<Value>,
) -> Result<Component> {
    if let Some(folder) = side_car {
        let config_file = folder.join(part).join("config.json");
        return Ok(Component { config: read_object(&config_file)?, config_file, weights });
    }
    let files = configs::embedded(path, metadata)?;
    if let Some(config) = configs::embedded_object(path, &files, &format!("{part}/config.json"))? {
        return Ok(Component { config, config_file: path.into(), weights });
    }
    Ok(Component { config: derived(weights.as_ref())?, config_file: path.into(), weights })
}

/// How many of the stored text layers are used.
pub(super) fn kept_layers(stored: usize, side_car: Option<&Path>) -> Result<usize> {
    let Some(folder) = side_car else {
        return Ok(if stored == VIT_H_LAYERS { stored - 1 } else { stored });
    };
    let config = read_object(&folder.join("text_encoder/config.json"))?;
    let layers = config.get("num_hidden_layers").and_then(Value::as_u64);
    Ok(layers.and_then(|layers| usize::try_from(layers).ok()).unwrap_or(stored))
}

fn scheduler(
    source: &dyn TensorSource,
    path: &Path,
    tensors: &[&str],
    options: &BaseOptions,
) -> Result<(Value, crate::schedule::PredictionType, prediction::PredictionSource)> {
    let side_car = options.config.as_ref().map(|folder| folder.join("scheduler/scheduler_config.json"));
    if let Some(file) = side_car.filter(|file| file.exists()) {
        let mut config = read_object(&file)?;
        let (kind, known) = prediction::from_config(&mut config, &file, options)?;
        return Ok((config, kind, known));
    }
    let files = configs::embedded(path, source.metadata())?;
    if let Some(mut config) = configs::embedded_object(path, &files, "scheduler/scheduler_config.json")? {
        let (kind, known) = prediction::from_config(&mut config, path, options)?;
        return Ok((config, kind, known));
    }
    let (kind, known) = prediction::from_single_file(source, path, options);
    Ok((prediction::default_scheduler(kind, tensors.contains(&"ztsnr")), kind, known))
}

fn tokenizer(family: Family, text_encoder: &Component, side_car: Option<&Path>) -> Result<TokenizerSource> {
    if let Some(folder) = side_car.map(|folder| folder.join("tokenizer")).filter(|folder| folder.is_dir()) {
        return Ok(TokenizerSource::Folder(folder));
    }
    let vocabulary = super::config_size(text_encoder, "vocab_size")?;
    let pad_token = if family == Family::Sd1 { "<|endoftext|>" } else { "!" };
    Ok(TokenizerSource::EmbeddedClip { vocabulary, pad_token })
}

/// What no part took and nobody expects.
fn ignored(all: &[String], wrapper: &str) -> Vec<String> {
    let known = |tensor: &str| {
        let plain = tensor.strip_prefix(wrapper).unwrap_or(tensor);
        [UNET, VAE, CLIP, OPEN_CLIP].iter().chain(&HARMLESS).any(|prefix| plain.starts_with(prefix))
    };
    all.iter().filter(|tensor| !known(tensor)).cloned().collect()
}
