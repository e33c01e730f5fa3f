//! A single file taken apart: parts under diffusers' names, and the extras.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::assemble::{Place, Places};
use super::family::{Tower, UNET, VAE};
use super::folder_names::FolderNames;
use super::{Architecture, Checkpoint, Ema, FOLDER_NAMES_KEY, OpenOptions, Part, Purpose, Spelling, configs};
use crate::base::names::text::{self, OpenClip};
use crate::base::names::unet::Blocks;
use crate::base::names::vae;
use crate::base::single::kept_layers;
use crate::base::view::{Renamed, View};
use crate::files::{FileError, Result, TensorSource, open_any, printable};

pub(super) const EMA: &str = "model_ema.";

/// Opens the file; `name` is what the user called it.
pub(super) fn open(name: &str, path: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let source: Arc<dyn TensorSource> = Arc::from(open_any(path)?);
    let all = source.names();
    let wrapper = if all.iter().any(|tensor| tensor.starts_with("state_dict.")) { "state_dict." } else { "" };
    let plain: Vec<&str> = all.iter().filter_map(|tensor| tensor.strip_prefix(wrapper)).collect();
    let architecture = Architecture::of_single_file(name, &plain)?;
    let splitter = Splitter { source: &source, wrapper, architecture, blocks: blocks(&plain, architecture) };
    let (views, extras) = splitter.split(&plain, options)?;
    let spelling = spelling(architecture, &views, &source, wrapper);

    let weights: BTreeMap<Part, Arc<dyn TensorSource>> =
        views.into_iter().map(|(part, (view, _))| (part, Arc::new(view) as Arc<dyn TensorSource>)).collect();
    let outside = all.iter().filter(|tensor| !tensor.starts_with(wrapper));
    let mut left_out: Vec<String> =
        outside.map(|tensor| format!("`{}`: outside the state dict", printable(tensor))).collect();
    left_out.extend(extras.dropped);
    let files = configs::embedded(path, source.metadata())?;
    let parts = configs::components(path, architecture, weights, &files, &options.base)?;
    let purpose = parts.get(&Part::Unet).map(|unet| Purpose::of(unet.weights.as_ref()));
    let folder_names = FolderNames::of_metadata(path, source.metadata())?;
    let mut metadata = source.metadata().clone();
    metadata.remove(FOLDER_NAMES_KEY);
    let mut checkpoint = Checkpoint {
        name: name.into(),
        architecture,
        purpose: purpose.unwrap_or(Purpose::TextToImage),
        parts,
        metadata,
        left_out,
        other_components: Vec::new(),
        averages_dropped: extras.averages,
        extras: Arc::new(extras.view),
        spelling,
        folder_names,
        extras_are_complete: true,
        files,
        folder: None,
        learned: Vec::new(),
        added: Vec::new(),
        vocabulary: BTreeMap::new(),
    };
    checkpoint.complete_files(path, source.as_ref(), &plain, &options.base)?;
    Ok(checkpoint)
}

fn blocks(plain: &[&str], architecture: Architecture) -> Blocks {
    let xl = matches!(architecture, Architecture::Sdxl | Architecture::SdxlRefiner);
    Blocks::of_compvis(plain.iter().filter_map(|name| name.strip_prefix(UNET)), xl)
}

/// A part under construction, with each of its tensors and the key it came from.
type PartView = (View, Vec<(String, String)>);

struct Extras {
    view: View,
    dropped: Vec<String>,
    averages: usize,
}

struct Splitter<'s> {
    source: &'s Arc<dyn TensorSource>,
    wrapper: &'s str,
    architecture: Architecture,
    blocks: Blocks,
}

impl Splitter<'_> {
    fn split(&self, plain: &[&str], options: &OpenOptions) -> Result<(BTreeMap<Part, PartView>, Extras)> {
        let empty = || (View::new(self.source.describe(), BTreeMap::new()), Vec::new());
        let mut views: BTreeMap<Part, PartView> =
            self.architecture.parts().into_iter().map(|part| (part, empty())).collect();
        let mut extras = Extras { view: empty().0, dropped: Vec::new(), averages: 0 };
        let levels = vae::levels_of_compvis(plain.iter().filter_map(|name| name.strip_prefix(VAE)));
        let towers = self.towers(plain, options)?;
        let averaged = self.averaged(plain, options.ema)?;
        for &key in plain {
            let (part, renamed) = self.rename(key, levels, &towers);
            let stored = averaged.get(key).map_or(key, String::as_str);
            let stored = format!("{}{stored}", self.wrapper);
            if let Some(part) = part
                && let Some((view, origins)) = views.get_mut(&part)
            {
                let new = match &renamed {
                    Renamed::As(new) | Renamed::Transposed(new) => Some(new.clone()),
                    _ => None,
                };
                match renamed {
                    Renamed::As(new) => view.whole(self.source, &stored, new)?,
                    Renamed::Transposed(new) => view.transposed(self.source, &stored, new)?,
                    Renamed::Thirds(new) => view.thirds(self.source, &stored, new)?,
                    Renamed::Dropped => {}
                }
                origins.extend(new.map(|new| (new, key.to_string())));
                continue;
            }
            let is_average = key.starts_with(EMA);
            if options.prune || (is_average && options.ema != Ema::Keep) {
                if !is_average || options.ema == Ema::Keep {
                    extras.dropped.push(format!("`{}`: no part uses it", printable(key)));
                } else {
                    extras.averages += 1;
                }
                continue;
            }
            extras.view.whole(self.source, &format!("{}{key}", self.wrapper), key.to_string())?;
        }
        Ok((views, extras))
    }

    /// Text encoders with their prefixes.
    fn towers(
        &self,
        plain: &[&str],
        options: &OpenOptions,
    ) -> Result<Vec<(Part, &'static str, Option<OpenClip>)>> {
        let mut towers = Vec::new();
        for &(part, prefix, tower) in self.architecture.towers() {
            let open_clip = match tower {
                Tower::Clip => None,
                Tower::OpenClip { projects } => {
                    let stored =
                        text::open_clip_layers(plain.iter().filter_map(|key| key.strip_prefix(prefix)));
                    let side_car = options.base.config.as_deref();
                    let kept_layers = if projects { stored } else { kept_layers(stored, side_car)? };
                    Some(OpenClip { kept_layers, projects })
                }
            };
            towers.push((part, prefix, open_clip));
        }
        Ok(towers)
    }

    /// The part of a key and its name there; no part if it is an extra.
    fn rename(
        &self,
        key: &str,
        levels: usize,
        towers: &[(Part, &str, Option<OpenClip>)],
    ) -> (Option<Part>, Renamed) {
        if let Some(tail) = key.strip_prefix(UNET) {
            let new = self.blocks.to_diffusers(tail);
            return (new.is_some().then_some(Part::Unet), new.map_or(Renamed::Dropped, Renamed::As));
        }
        if let Some(tail) = key.strip_prefix(VAE) {
            let new = vae::to_diffusers(tail, levels);
            return (new.is_some().then_some(Part::Vae), new.map_or(Renamed::Dropped, Renamed::As));
        }
        for (part, prefix, open_clip) in towers {
            let Some(tail) = key.strip_prefix(prefix) else { continue };
            let renamed = open_clip.map_or_else(|| text::clip(tail), |tower| tower.to_diffusers(tail));
            let is_known = match &renamed {
                Renamed::As(new) => new.starts_with("text_model.") || new == "text_projection.weight",
                Renamed::Dropped => false,
                _ => true,
            };
            return (is_known.then_some(*part), renamed);
        }
        (None, Renamed::Dropped)
    }

    /// For `Ema::Use`: the averaged copy of each of the UNet's tensors, `model_ema.` and the name without its first
    /// part and without dots.
    fn averaged(&self, plain: &[&str], ema: Ema) -> Result<BTreeMap<String, String>> {
        if ema != Ema::Use {
            return Ok(BTreeMap::new());
        }
        let there: BTreeSet<&str> = plain.iter().copied().filter(|key| key.starts_with(EMA)).collect();
        let mut averaged = BTreeMap::new();
        for key in plain.iter().filter(|key| key.starts_with(UNET)) {
            let copy = format!("{EMA}{}", key.trim_start_matches("model.").replace('.', ""));
            if !there.contains(copy.as_str()) {
                return Err(FileError::Unsupported {
                    base: self.source.describe(),
                    reason: if there.is_empty() {
                        "it has no averaged weights".into()
                    } else {
                        format!("its averaged weights lack `{}`", printable(&copy))
                    },
                    hint: "use the weights as they are".into(),
                });
            }
            averaged.insert((*key).to_string(), copy);
        }
        Ok(averaged)
    }
}

/// The tensors that this file spells otherwise than we do.
fn spelling(
    architecture: Architecture,
    views: &BTreeMap<Part, PartView>,
    source: &Arc<dyn TensorSource>,
    wrapper: &str,
) -> BTreeMap<String, Spelling> {
    let names: BTreeMap<Part, Vec<String>> =
        views.iter().map(|(part, (view, _))| (*part, view.names())).collect();
    let places = Places::new(architecture, |part| {
        names.get(&part).into_iter().flatten().map(String::as_str).collect()
    });
    let mut spelling = BTreeMap::new();
    for (part, (_, origins)) in views {
        for (new, key) in origins {
            let shape = source.info(&format!("{wrapper}{key}")).map(|info| info.shape).unwrap_or_default();
            let (ours, usual) = match places.of(*part, new) {
                Some(Place::Projection(ours)) => (ours, shape.len() == 4),
                Some(Place::As(ours) | Place::Transposed(ours)) => (ours, true),
                _ => continue,
            };
            if ours != *key || !usual {
                spelling.insert(ours, Spelling { name: key.clone(), shape });
            }
        }
    }
    spelling
}
