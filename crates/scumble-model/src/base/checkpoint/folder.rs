//! A diffusers folder as a checkpoint: its parts, and the small files around them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::single::EMA;
use super::{
    Architecture, Checkpoint, EXTRAS_FILE, Ema, OpenOptions, Part, Purpose, SPELLING_KEY, Spelling, tokens,
};
use crate::base::folder::open_weights;
use crate::base::names::{text, vae};
use crate::base::view::{Renamed, View};
use crate::base::weights::{check_variant, choose};
use crate::base::{Component, read_object};
use crate::files::{FileError, Result, SafetensorsFile, TensorSource, printable, read_text};

/// Configurations beyond this are no configurations.
const MAX_TEXT: u64 = 64 << 10;
const PARTS: [Part; 4] = [Part::Unet, Part::TextEncoder, Part::TextEncoder2, Part::Vae];

/// Opens the folder; `name` is what the user called it.
pub(super) fn open(name: &str, folder: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    check_options(name, options)?;
    let mut listings: Vec<(Part, BTreeSet<String>)> = Vec::new();
    for part in PARTS {
        let entries = std::fs::read_dir(folder.join(part.folder())).into_iter().flatten().flatten();
        let files: BTreeSet<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        if !files.is_empty() {
            listings.push((part, files));
        }
    }
    let variant = options.base.variant.as_deref();
    check_variant(name, &listings, variant)?;
    let mut parts = BTreeMap::new();
    let mut left_out = loose_weights(folder);
    for (part, files) in &listings {
        let place = folder.join(part.folder());
        let Some(file) = choose(*part, files, variant) else { continue };
        let config_file = place.join("config.json");
        let config = read_object(&config_file)?;
        let source = open_weights(&place.join(file))?;
        let weights = todays(*part, source, &mut left_out)?;
        parts.insert(*part, Component { config, config_file, weights });
    }
    let Some(unet) = parts.get(&Part::Unet) else {
        return Err(FileError::Missing {
            what: "the UNet".into(),
            file: folder.join("unet"),
            hint: "name the folder that has `unet`, `vae`, `text_encoder`".into(),
        });
    };
    let linear = unet.config.get("use_linear_projection").and_then(Value::as_bool).unwrap_or(false);
    let architecture = match (parts.contains_key(&Part::TextEncoder), parts.contains_key(&Part::TextEncoder2))
    {
        (true, true) => Architecture::Sdxl,
        (false, true) => Architecture::SdxlRefiner,
        _ if linear => Architecture::Sd2,
        _ => Architecture::Sd1,
    };
    let channels =
        unet.weights.info("conv_in.weight").and_then(|info| info.shape.get(1).copied()).unwrap_or(0);
    let class = unet.weights.names().iter().any(|name| name.starts_with("class_embedding."));
    let (extras, mut metadata, spelling, extras_are_complete) = extras(folder)?;
    metadata.extend(super::own_words(unet.weights.metadata()));
    let extras = wanted(&extras, options)?;
    let (learned, vocabulary) = tokens::of_folder(folder, &parts)?;
    Ok(Checkpoint {
        name: name.into(),
        architecture,
        purpose: Purpose::of(channels, class),
        parts,
        metadata,
        left_out,
        averages_dropped: 0,
        extras,
        spelling,
        extras_are_complete,
        files: small_files(folder)?,
        folder: Some(folder.to_path_buf()),
        learned,
        added: Vec::new(),
        vocabulary,
    })
}

/// Options that mean nothing for a folder are mistakes.
fn check_options(name: &str, options: &OpenOptions) -> Result<()> {
    let refuse = |reason: &str, hint: &str| {
        Err(FileError::Unsupported { base: name.into(), reason: reason.into(), hint: hint.into() })
    };
    if options.base.config.is_some() {
        return refuse("a folder has configurations of its own", "leave `--config` out");
    }
    if options.ema == Ema::Use {
        return refuse(
            "averaged weights are used when a single file is read",
            "make the folder from the file again, with `--ema use`",
        );
    }
    Ok(())
}

/// Weight files beside the parts, which no layout takes along.
fn loose_weights(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut loose: Vec<String> = names
        .filter(|name| name != EXTRAS_FILE && is_weight_file(name))
        .map(|name| format!("`{}`: weights beside the model's parts", printable(&name)))
        .collect();
    loose.sort();
    loose
}

/// Whether a file's name is that of weights, or of the list of their shards.
pub(super) fn is_weight_file(name: &str) -> bool {
    let endings = [".safetensors", ".bin", ".ckpt", ".msgpack", ".onnx", ".pb"];
    endings.iter().any(|ending| name.ends_with(ending)) || name.contains(".index.")
}

/// The extras without what the options leave out.
fn wanted(extras: &Arc<dyn TensorSource>, options: &OpenOptions) -> Result<Arc<dyn TensorSource>> {
    let mut view = View::new(extras.describe(), BTreeMap::new());
    for name in extras.names() {
        if !options.prune && (options.ema == Ema::Keep || !name.starts_with(EMA)) {
            view.whole(extras, &name, name.clone())?;
        }
    }
    Ok(Arc::new(view))
}

/// Old spellings in today's words; what only counts is left out.
fn todays(
    part: Part,
    source: Arc<dyn TensorSource>,
    left_out: &mut Vec<String>,
) -> Result<Arc<dyn TensorSource>> {
    let rename = |name: &str| match part {
        Part::Unet => Renamed::As(name.into()),
        Part::Vae => Renamed::As(vae::todays(name)),
        Part::TextEncoder2 if name == "text_projection.weight" => Renamed::As(name.into()),
        Part::TextEncoder | Part::TextEncoder2 => text::clip(name),
    };
    for name in source.names() {
        if rename(&name) == Renamed::Dropped {
            left_out.push(format!("`{}.{}`: no part uses it", part.folder(), printable(&name)));
        }
    }
    Ok(Arc::new(View::renamed(source, rename)?))
}

type Extras = (Arc<dyn TensorSource>, BTreeMap<String, String>, BTreeMap<String, Spelling>, bool);

fn extras(folder: &Path) -> Result<Extras> {
    let path = folder.join(EXTRAS_FILE);
    if !path.exists() {
        let empty = View::new(folder.display().to_string(), BTreeMap::new());
        return Ok((Arc::new(empty), BTreeMap::new(), BTreeMap::new(), false));
    }
    let file = SafetensorsFile::open(&path)?;
    let mut metadata = file.metadata().clone();
    let spelling = match metadata.remove(SPELLING_KEY) {
        None => BTreeMap::new(),
        Some(text) => serde_json::from_str::<BTreeMap<String, (String, Vec<usize>)>>(&text)
            .map_err(|error| FileError::malformed(&path, "`scumble.spelling` metadata", error.to_string()))?,
    };
    let spelling =
        spelling.into_iter().map(|(ours, (name, shape))| (ours, Spelling { name, shape })).collect();
    Ok((Arc::new(file), metadata, spelling, true))
}

/// The folder's configurations, which a single file takes along.
fn small_files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut take = |path: &Path, name: String| -> Result<()> {
        let is_config = name.ends_with(".json") && !name.contains(".index.");
        let is_list = name.ends_with("/vocab.json") || name.ends_with("/tokenizer.json");
        if is_config
            && !is_list
            && std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_TEXT)
        {
            files.insert(name, read_text(path, MAX_TEXT)?);
        }
        Ok(())
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.path().is_dir() {
            for inner in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                if let Ok(inner_name) = inner.file_name().into_string() {
                    take(&inner.path(), format!("{name}/{inner_name}"))?;
                }
            }
        } else {
            take(&entry.path(), name)?;
        }
    }
    Ok(files)
}
