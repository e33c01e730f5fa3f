//! A diffusers folder as a checkpoint: its parts, and the small files around them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::folder_names::FolderNames;
use super::single::EMA;
use super::{
    Architecture, Checkpoint, EXTRAS_FILE, Ema, FOLDER_NAMES_KEY, OpenOptions, Part, Purpose, SPELLING_KEY,
    Spelling, tokens,
};
use crate::base::folder::open_weights;
use crate::base::names::{text, vae};
use crate::base::view::{Renamed, View};
use crate::base::weights::{check_variant, choose};
use crate::base::{Component, read_object};
use crate::files::{FileError, Result, SafetensorsFile, TensorSource, printable, read_text, shard_names};

/// Configurations beyond this are no configurations.
const MAX_TEXT: u64 = 64 << 10;
const PARTS: [Part; 4] = [Part::Unet, Part::TextEncoder, Part::TextEncoder2, Part::Vae];

/// Opens the folder; `name` is what the user called it.
pub(super) fn open(name: &str, folder: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    check_options(name, options)?;
    let mut listings: Vec<(Part, BTreeSet<String>)> = Vec::new();
    for part in PARTS {
        let files: BTreeSet<String> =
            entries(&folder.join(part.folder())).into_iter().map(|(name, _)| name).collect();
        if !files.is_empty() {
            listings.push((part, files));
        }
    }
    let variant = options.base.variant.as_deref();
    check_variant(name, &listings, variant)?;
    let mut parts = BTreeMap::new();
    let (mut left_out, mut folder_names, mut read) = (Vec::new(), FolderNames::default(), BTreeSet::new());
    for (part, files) in &listings {
        let place = folder.join(part.folder());
        let Some(file) = choose(*part, files, variant) else { continue };
        let config_file = place.join("config.json");
        let config = read_object(&config_file)?;
        let source = open_weights(&place.join(&file))?;
        let weights = todays(*part, source, &mut folder_names, &mut left_out)?;
        parts.insert(*part, Component { config, config_file, weights });
        read.extend(files_of(&place, &file)?);
    }
    let (unread, other_components) = unread_weights(folder, &read);
    left_out.extend(unread);
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
    let purpose = Purpose::of(unet.weights.as_ref());
    let (extras, mut metadata, spelling, extras_are_complete) = extras(folder)?;
    metadata.extend(super::own_words(unet.weights.metadata()));
    let (extras, averages_dropped) = wanted(&extras, options, &mut left_out)?;
    let (learned, vocabulary) = tokens::of_folder(folder, &parts)?;
    Ok(Checkpoint {
        name: name.into(),
        architecture,
        purpose,
        parts,
        metadata,
        left_out,
        other_components,
        averages_dropped,
        extras,
        spelling,
        folder_names,
        extras_are_complete,
        files: small_files(folder)?,
        folder: Some(folder.to_path_buf()),
        learned,
        added: Vec::new(),
        vocabulary,
    })
}

/// Options that mean nothing for a folder are mistakes.
pub(super) fn check_options(name: &str, options: &OpenOptions) -> Result<()> {
    options.base.check_for_folder(name)?;
    if options.ema != Ema::Use {
        return Ok(());
    }
    Err(FileError::Unsupported {
        base: name.into(),
        reason: "averaged weights are used when a single file is read".into(),
        hint: "make the folder from the file again, with `--ema use`".into(),
    })
}

/// A part's file of weights and the shards it lists.
fn files_of(place: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut files = vec![place.join(name)];
    if is_index(name) {
        files.extend(shard_names(&files[0])?.into_iter().map(|shard| place.join(shard)));
    }
    Ok(files)
}

/// Weight files that were not read: no single file takes them along. Those of other components are also by themselves.
fn unread_weights(folder: &Path, read: &BTreeSet<PathBuf>) -> (Vec<String>, Vec<String>) {
    let (mut unread, mut of_others) = (Vec::new(), Vec::new());
    for (name, path) in entries(folder) {
        if !path.is_dir() {
            if name != EXTRAS_FILE && is_weight_file(&name) {
                unread.push(format!("`{}`: weights beside the model's parts", printable(&name)));
            }
            continue;
        }
        let is_part = PARTS.iter().any(|part| part.folder() == name);
        let reason = match is_part {
            true => "weights of a kind that was not chosen",
            false => "weights that only a folder has a place for",
        };
        // `.git` and the like are no components.
        for (inner, path) in entries(&path).into_iter().filter(|_| !name.starts_with('.')) {
            if is_weight_file(&inner) && !read.contains(&path) {
                let line = format!("`{}`: {reason}", printable(&format!("{name}/{inner}")));
                of_others.extend((!is_part).then(|| line.clone()));
                unread.push(line);
            }
        }
    }
    unread.sort();
    (unread, of_others)
}

/// Names and paths of what is in a folder; nothing if it cannot be listed.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

/// Whether a file's name is that of weights, or of the list of their shards.
pub(super) fn is_weight_file(name: &str) -> bool {
    let endings = [".safetensors", ".bin", ".ckpt", ".msgpack", ".onnx", ".pb"];
    endings.iter().any(|ending| name.ends_with(ending)) || is_index(name)
}

fn is_index(name: &str) -> bool {
    name.contains(".index.")
}

/// The extras without what the options leave out, and how many averaged tensors that is.
fn wanted(
    extras: &Arc<dyn TensorSource>,
    options: &OpenOptions,
    left_out: &mut Vec<String>,
) -> Result<(Arc<dyn TensorSource>, usize)> {
    let (mut view, mut averages) = (View::new(extras.describe(), BTreeMap::new()), 0);
    for name in extras.names() {
        if options.ema != Ema::Keep && name.starts_with(EMA) {
            averages += 1;
        } else if options.prune {
            left_out.push(format!("`{}`: no part uses it", printable(&name)));
        } else {
            view.whole(extras, &name, name.clone())?;
        }
    }
    Ok((Arc::new(view), averages))
}

/// Old spellings in today's words, noted by name; what no part uses is left out.
fn todays(
    part: Part,
    source: Arc<dyn TensorSource>,
    folder_names: &mut FolderNames,
    left_out: &mut Vec<String>,
) -> Result<Arc<dyn TensorSource>> {
    let rename = |name: &str| match part {
        Part::Unet => Renamed::As(name.into()),
        Part::Vae => Renamed::As(vae::todays(name)),
        Part::TextEncoder2 if name == "text_projection.weight" => Renamed::As(name.into()),
        Part::TextEncoder | Part::TextEncoder2 => text::clip(name),
    };
    let view = View::renamed(Arc::clone(&source), rename)?;
    let shape = |source: &dyn TensorSource, name: &str| source.info(name).map(|info| info.shape);
    for name in source.names() {
        if let Renamed::As(ours) = rename(&name) {
            let shapes = [shape(&view, &ours), shape(source.as_ref(), &name)].map(Option::unwrap_or_default);
            folder_names.note(part, &ours, &name, [&shapes[0], &shapes[1]]);
        } else if !folder_names.note_positions(part, &name, source.as_ref(), &view)? {
            left_out.push(format!("`{}.{}`: no part uses it", part.folder(), printable(&name)));
        }
    }
    Ok(Arc::new(view))
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
    // The folder itself says it.
    metadata.remove(FOLDER_NAMES_KEY);
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
    for (name, path) in entries(folder) {
        if path.is_dir() {
            for (inner, path) in entries(&path) {
                take(&path, format!("{name}/{inner}"))?;
            }
        } else {
            take(&path, name)?;
        }
    }
    Ok(files)
}
