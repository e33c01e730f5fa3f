//! A diffusers folder: `model_index.json` and a folder for each part.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::view::{Renamed, View};
use super::weights::{Part, check_variant, choose};
use super::{BaseFiles, BaseOptions, Component, Family, TokenizerSource, names, prediction, read_object};
use crate::files::{FileError, Result, ShardedFile, TensorSource, open_any, printable};

/// Opens the folder; `name` is what the user called it.
pub(super) fn open(name: &str, folder: &Path, options: &BaseOptions) -> Result<BaseFiles> {
    check_class(name, folder)?;
    let listings = listings(folder);
    check_complete(folder, &listings)?;
    check_variant(name, &listings, options.variant.as_deref())?;
    let mut parts = Vec::new();
    for (part, files) in &listings {
        parts.push(open_part(folder, *part, files, options)?);
    }
    let [unet, text_encoder, vae] = <[Component; 3]>::try_from(parts)
        .map_err(|_| FileError::malformed(folder, "model folder", "it does not have three parts"))?;
    super::check_input(name, &unet, &vae)?;
    let family = family_of(&unet);
    let scheduler_file = folder.join("scheduler/scheduler_config.json");
    let mut scheduler_config = read_object(&scheduler_file)?;
    let (prediction_type, prediction_source) =
        prediction::from_config(&mut scheduler_config, &scheduler_file, options)?;
    Ok(BaseFiles {
        name: name.into(),
        family,
        prediction_type,
        prediction_source,
        unet,
        text_encoder,
        vae,
        tokenizer: TokenizerSource::Folder(folder.join("tokenizer")),
        scheduler_config,
        ignored: Vec::new(),
    })
}

/// One part of a folder that may lack others; `None` if it lacks this one.
pub(super) fn open_single(
    name: &str,
    folder: &Path,
    part: Part,
    options: &BaseOptions,
) -> Result<Option<Component>> {
    check_class(name, folder)?;
    match listings(folder).into_iter().find(|(listed, files)| *listed == part && !files.is_empty()) {
        Some((_, files)) => open_part(folder, part, &files, options).map(Some),
        None => Ok(None),
    }
}

/// 2.x differs from 1.x in the UNet by its linear projections and the width of its text states.
pub(super) fn family_of(unet: &Component) -> Family {
    let linear = unet.config.get("use_linear_projection").and_then(Value::as_bool).unwrap_or(false);
    if linear { Family::Sd2 } else { Family::Sd1 }
}

/// Refuses pipelines of other architectures by name.
fn check_class(name: &str, folder: &Path) -> Result<()> {
    let index = folder.join("model_index.json");
    if !index.exists() {
        return Ok(());
    }
    let index = read_object(&index)?;
    let present = |part: &str| {
        index
            .get(part)
            .and_then(Value::as_array)
            .is_some_and(|class| class.iter().any(|name| !name.is_null()))
    };
    let class = index.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    if present("text_encoder_2") || class.contains("StableDiffusionXL") {
        return Err(super::unsupported_sdxl(name));
    }
    if present("transformer") || (!class.is_empty() && !present("unet")) {
        return Err(FileError::Unsupported {
            base: name.into(),
            reason: format!("its pipeline `{}` has no UNet", printable(class)),
            hint: "use a Stable Diffusion 1.x or 2.x base".into(),
        });
    }
    Ok(())
}

fn listings(folder: &Path) -> Vec<(Part, BTreeSet<String>)> {
    let list = |part: Part| {
        let entries = std::fs::read_dir(folder.join(part.folder())).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    Part::ALL.into_iter().map(|part| (part, list(part))).collect()
}

/// One error for everything that is missing.
fn check_complete(folder: &Path, listings: &[(Part, BTreeSet<String>)]) -> Result<()> {
    let mut missing: Vec<String> = Vec::new();
    for (part, files) in listings {
        if !files.contains("config.json") {
            missing.push(format!("{}/config.json", part.folder()));
        }
        if choose(*part, files, None).is_none() {
            missing.push(format!(
                "{}/{}",
                part.folder(),
                if *part == Part::TextEncoder {
                    "model.safetensors"
                } else {
                    "diffusion_pytorch_model.safetensors"
                }
            ));
        }
    }
    if !folder.join("scheduler/scheduler_config.json").exists() {
        missing.push("scheduler/scheduler_config.json".into());
    }
    let tokenizer = folder.join("tokenizer");
    let pair = tokenizer.join("vocab.json").exists() && tokenizer.join("merges.txt").exists();
    if !pair && !tokenizer.join("tokenizer.json").exists() {
        missing.push("tokenizer/vocab.json with merges.txt".into());
    }
    let Some(first) = missing.first() else { return Ok(()) };
    let hint = if missing.len() > 9 {
        "this does not look like a model in diffusers' layout; name the folder that has `unet`, `vae`, `text_encoder`".into()
    } else {
        format!("a base needs also: {}", missing.join(", "))
    };
    Err(FileError::Missing { what: "a part of the base model".into(), file: folder.join(first), hint })
}

fn open_part(
    folder: &Path,
    part: Part,
    files: &BTreeSet<String>,
    options: &BaseOptions,
) -> Result<Component> {
    let folder = folder.join(part.folder());
    let config_file = folder.join("config.json");
    let config = read_object(&config_file)?;
    let Some(file) = choose(part, files, options.variant.as_deref()) else {
        return Err(FileError::Missing { what: "weights".into(), file: folder, hint: String::new() });
    };
    let source = open_weights(&folder.join(file))?;
    Ok(Component { config, config_file, weights: today(part, source)? })
}

pub(crate) fn open_weights(file: &Path) -> Result<Arc<dyn TensorSource>> {
    let indexed = file.file_name().is_some_and(|name| name.to_string_lossy().contains(".index."));
    if indexed { Ok(Arc::new(ShardedFile::open(file)?)) } else { Ok(Arc::from(open_any(file)?)) }
}

/// Old spellings inside folders: the VAE's attention before diffusers 0.17, complete CLIP models as text encoder.
fn today(part: Part, source: Arc<dyn TensorSource>) -> Result<Arc<dyn TensorSource>> {
    Ok(match part {
        Part::Unet => source,
        Part::Vae => Arc::new(View::renamed(source, |name| Renamed::As(names::vae::todays(name)))?),
        Part::TextEncoder | Part::TextEncoder2 => Arc::new(View::renamed(source, names::text::clip)?),
    })
}
