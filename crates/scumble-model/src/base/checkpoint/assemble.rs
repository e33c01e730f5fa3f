//! From parts to the view of a single file: where each tensor goes, and in which shape.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use scumble_tensor::{DType, Tensor};

use super::family::{Tower, UNET, VAE};
use super::folder_names::count;
use super::{Architecture, Checkpoint, Part};
use crate::base::Component;
use crate::base::names::text::{InOpenClip, to_open_clip};
use crate::base::names::unet::Blocks;
use crate::base::names::vae;
use crate::base::single::{OPEN_CLIP, VIT_H_LAYERS};
use crate::base::view::{Renamed, View};
use crate::files::{FileError, Result, TensorInfo, TensorSource, printable};

const POSITION_IDS: &str = "cond_stage_model.transformer.text_model.embeddings.position_ids";

/// The place of a part's tensor in a single file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// As it is.
    As(String),
    /// As a 1x1 convolution.
    Projection(String),
    /// With rows and columns exchanged.
    Transposed(String),
    /// As one third of a packed tensor.
    Third(String, usize),
}

/// Knows the places of all tensors of one model.
pub(super) struct Places {
    architecture: Architecture,
    blocks: Blocks,
    levels: usize,
}

impl Places {
    /// From the names the parts have.
    pub(super) fn new<'n>(architecture: Architecture, names_of: impl Fn(Part) -> Vec<&'n str>) -> Self {
        Self {
            architecture,
            blocks: Blocks::of_diffusers(names_of(Part::Unet).into_iter()),
            levels: vae::levels_of_diffusers(names_of(Part::Vae).into_iter()),
        }
    }

    /// Where a tensor goes; `None` if single files have no place for it.
    pub(super) fn of(&self, part: Part, name: &str) -> Option<Place> {
        match part {
            Part::Unet => Some(Place::As(format!("{UNET}{}", self.blocks.to_compvis(name)?))),
            Part::Vae => {
                let key = format!("{VAE}{}", vae::to_compvis(name, self.levels)?);
                Some(if vae::is_projection(name) { Place::Projection(key) } else { Place::As(key) })
            }
            Part::TextEncoder | Part::TextEncoder2 => {
                let towers = self.architecture.towers();
                let (_, prefix, tower) = towers.iter().find(|(of, _, _)| *of == part)?;
                let key = |name: String| format!("{prefix}{name}");
                if *tower == Tower::Clip {
                    return name.starts_with("text_model.").then(|| Place::As(key(name.into())));
                }
                Some(match to_open_clip(name)? {
                    InOpenClip::As(name) => Place::As(key(name)),
                    InOpenClip::Transposed(name) => Place::Transposed(key(name)),
                    InOpenClip::Third(name, third) => Place::Third(key(name), third),
                })
            }
        }
    }
}

impl Checkpoint {
    /// Everything as one single file.
    pub(super) fn assembled(&self) -> Result<Arc<dyn TensorSource>> {
        let names: BTreeMap<Part, Vec<String>> =
            self.parts.iter().map(|(part, component)| (*part, component.weights.names())).collect();
        for part in self.architecture.parts() {
            if !names.contains_key(&part) {
                return Err(FileError::Unsupported {
                    base: self.name.clone(),
                    reason: format!("a single file needs every part, and there is no `{}`", part.folder()),
                    hint: "complete the folder first".into(),
                });
            }
        }
        let places = Places::new(self.architecture, |part| {
            names.get(&part).into_iter().flatten().map(String::as_str).collect()
        });
        let mut view = View::new(self.name.clone(), BTreeMap::new());
        for (part, names) in &names {
            if let Some(component) = self.parts.get(part) {
                self.add_part(&mut view, &places, *part, component, names)?;
            }
        }
        for name in self.extras.names() {
            view.whole(&self.extras, &name, name.clone())?;
        }
        match self.architecture {
            _ if self.extras_are_complete => {}
            Architecture::Sd1 => self.add_positions(&mut view)?,
            Architecture::Sd2 => self.add_unused_layer(&mut view, &places)?,
            Architecture::Sdxl | Architecture::SdxlRefiner => {}
        }
        Ok(Arc::new(view))
    }

    /// Files of 1.x have the list of positions, and older readers want it.
    fn add_positions(&self, view: &mut View) -> Result<()> {
        if view.info(POSITION_IDS).is_none() {
            let dtype = self.folder_names.position_type(Part::TextEncoder).unwrap_or(DType::I64);
            let ids = count(self.positions(), dtype, &[1, self.positions()])
                .map_err(|source| FileError::engine(&PathBuf::from(&self.name), POSITION_IDS, source))?;
            view.constant(&self.extras, POSITION_IDS.into(), ids)?;
        }
        Ok(())
    }

    /// Files of 2.x have a last layer that no picture depends on, since the one before it is used, and OpenCLIP's
    /// projection and scale, which belong to comparing with pictures. Folders lack them. Readers build all layers and
    /// count from the end, so the last one there is comes again, with a projection that changes nothing.
    fn add_unused_layer(&self, view: &mut View, places: &Places) -> Result<()> {
        let Some(text) = self.parts.get(&Part::TextEncoder) else { return Ok(()) };
        let layers = |number: usize| format!("text_model.encoder.layers.{number}.");
        let (last, unused) = (layers(VIT_H_LAYERS - 2), layers(VIT_H_LAYERS - 1));
        let names = text.weights.names();
        if names.iter().any(|name| name.starts_with(&unused)) || !names.iter().any(|n| n.starts_with(&last)) {
            return Ok(());
        }
        let copied = View::renamed(Arc::clone(&text.weights), |name| match name.strip_prefix(&last) {
            Some(tail) => Renamed::As(format!("{unused}{tail}")),
            None => Renamed::Dropped,
        })?;
        let (names, weights) = (copied.names(), Arc::new(copied));
        let layer = Component { config: text.config.clone(), config_file: text.config_file.clone(), weights };
        self.add_part(view, places, Part::TextEncoder, &layer, &names)?;
        self.add_projection(view, text, &format!("{last}self_attn.out_proj.weight"))
    }

    /// A projection of the type and size of the matrix `square`, which changes nothing, and a scale.
    fn add_projection(&self, view: &mut View, text: &Component, square: &str) -> Result<()> {
        let info = text.weights.info(square);
        let Some((dtype, width)) = info.and_then(|TensorInfo { dtype, shape }| match shape[..] {
            [rows, columns] if rows == columns => Some((dtype, rows)),
            _ => None,
        }) else {
            return Ok(());
        };
        let engine = |error| FileError::engine(&PathBuf::from(&self.name), square, error);
        let identity: Vec<f32> = (0..width * width).map(|i| f32::from(i % (width + 1) == 0)).collect();
        for (name, values, dims) in
            [("text_projection", identity, &[width, width][..]), ("logit_scale", vec![1.0], &[])]
        {
            let value = Tensor::from_slice(&values, dims).and_then(|value| value.to_dtype(dtype));
            view.constant(&text.weights, format!("{OPEN_CLIP}{name}"), value.map_err(engine)?)?;
        }
        Ok(())
    }

    fn add_part(
        &self,
        view: &mut View,
        places: &Places,
        part: Part,
        component: &Component,
        names: &[String],
    ) -> Result<()> {
        let source = &component.weights;
        let mut packed: BTreeMap<String, [Option<String>; 3]> = BTreeMap::new();
        for name in names {
            let place = places.of(part, name).ok_or_else(|| FileError::Unsupported {
                base: self.name.clone(),
                reason: format!("single files have no place for `{}.{}`", part.folder(), printable(name)),
                hint: "keep it as a folder".into(),
            })?;
            let key = match &place {
                Place::As(key) | Place::Projection(key) | Place::Transposed(key) | Place::Third(key, _) => {
                    key
                }
            };
            let spelled = self.spelling.get(key);
            match place {
                Place::As(key) if self.is_extended(part, name) => {
                    let key = spelled.map_or(key, |spelled| spelled.name.clone());
                    view.head(source, name, key, self.vocabulary.get(&part).copied().unwrap_or(0))?
                }
                Place::Third(key, third) => packed.entry(key).or_default()[third] = Some(name.clone()),
                _ if spelled.is_some() => {
                    if let Some(spelled) = spelled {
                        view.reshaped(source, name, spelled.name.clone(), spelled.shape.clone())?;
                    }
                }
                Place::As(key) => view.whole(source, name, key)?,
                Place::Transposed(key) => view.transposed(source, name, key)?,
                Place::Projection(key) => {
                    let mut shape = source.info(name).map(|info| info.shape).unwrap_or_default();
                    if shape.len() == 2 {
                        shape.extend([1, 1]);
                    }
                    view.reshaped(source, name, key, shape)?;
                }
            }
        }
        for (key, thirds) in packed {
            match thirds {
                [Some(q), Some(k), Some(v)] => view.stacked(source, [q, k, v], key)?,
                _ => return Err(FileError::missing_tensor(source.describe(), &format!("a third of {key}"))),
            }
        }
        Ok(())
    }

    /// Whether a tensor is the table of tokens with learned rows at its end.
    fn is_extended(&self, part: Part, name: &str) -> bool {
        name == super::tokens::TABLE && self.learned.iter().any(|token| token.places.contains_key(&part))
    }

    fn positions(&self) -> usize {
        let table = "text_model.embeddings.position_embedding.weight";
        let info = self.parts.get(&Part::TextEncoder).and_then(|part| part.weights.info(table));
        info.and_then(|info| info.shape.first().copied()).unwrap_or(77)
    }
}
