//! The text encoders' names.
//!
//! CLIP (1.x, SDXL's first) has Hugging Face's names behind a prefix; files of 2022 lack the inner `text_model.`.
//! OpenCLIP (2.x, SDXL's second) packs query, key and value and stores the projection for `x @ P`:
//!
//! ```text
//! token_embedding.weight, positional_embedding     text_model.embeddings.{token,position}_embedding.weight
//! transformer.resblocks.n.ln_1, ln_2               text_model.encoder.layers.n.layer_norm1, layer_norm2
//! ....mlp.c_fc, c_proj, attn.out_proj              ....mlp.fc1, fc2, self_attn.out_proj
//! ....attn.in_proj_weight [3d, d], in_proj_bias    ....self_attn.{q,k,v}_proj.weight, bias, one above the other
//! ln_final                                         text_model.final_layer_norm
//! text_projection [d, p]                           text_projection.weight [p, d]
//! ```

use super::super::view::Renamed;
use super::{numbered, swapped, swapped_back};

const LAYERS: &str = "text_model.encoder.layers.";
const RESBLOCKS: &str = "transformer.resblocks.";

const OUTSIDE: [(&str, &str); 4] = [
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    ("text_projection", "text_projection.weight"),
];

const INSIDE: [(&str, &str); 5] = [
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
    ("attn.out_proj.", "self_attn.out_proj."),
];

const PACKED: [(&str, &str); 2] = [("attn.in_proj_weight", "weight"), ("attn.in_proj_bias", "bias")];

/// Query, key and value, in the order in which they are packed.
const THIRDS: [&str; 3] = ["q", "k", "v"];

/// A CLIP name of any age in today's words; what belongs to complete CLIP models or only counts is dropped.
pub(crate) fn clip(name: &str) -> Renamed {
    const OUTSIDE: [&str; 5] =
        ["vision_model.", "visual_projection.", "text_projection.", "logit_scale", "text_projection"];
    if name.ends_with("embeddings.position_ids") || OUTSIDE.iter().any(|part| name.starts_with(part)) {
        return Renamed::Dropped;
    }
    let inner = ["embeddings.", "encoder.", "final_layer_norm."];
    if inner.iter().any(|part| name.starts_with(part)) {
        return Renamed::As(format!("text_model.{name}"));
    }
    Renamed::As(name.to_string())
}

/// What to do with an OpenCLIP text tower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenClip {
    /// Layers from this one on are not used.
    pub kept_layers: usize,
    /// Whether the projection is used (SDXL) or not (2.x).
    pub projects: bool,
}

impl OpenClip {
    /// An OpenCLIP name in Hugging Face's words; a name that no rule covers stays as it is.
    pub(crate) fn to_diffusers(self, name: &str) -> Renamed {
        let Some((layer, tail)) = name.strip_prefix(RESBLOCKS).and_then(numbered) else {
            return match name {
                "text_projection" if self.projects => Renamed::Transposed("text_projection.weight".into()),
                // Spelled like Hugging Face's, it also lies like Hugging Face's.
                "text_projection.weight" if self.projects => Renamed::As(name.into()),
                "text_projection" | "text_projection.weight" | "logit_scale" | "attn_mask" => {
                    Renamed::Dropped
                }
                _ => Renamed::As(swapped(name, &OUTSIDE).unwrap_or_else(|| name.into())),
            };
        };
        if layer >= self.kept_layers {
            return Renamed::Dropped;
        }
        let path = format!("{LAYERS}{layer}.");
        for (packed, kind) in PACKED {
            if tail == packed {
                return Renamed::Thirds(THIRDS.map(|part| format!("{path}self_attn.{part}_proj.{kind}")));
            }
        }
        let renamed = swapped(tail, &INSIDE).map(|tail| format!("{path}{tail}"));
        Renamed::As(renamed.unwrap_or_else(|| name.into()))
    }
}

/// Layers an OpenCLIP text tower stores.
pub(crate) fn open_clip_layers<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    let layer = |name: &str| numbered(name.strip_prefix(RESBLOCKS)?).map(|(layer, _)| layer);
    names.filter_map(layer).max().map_or(0, |last| last.saturating_add(1))
}

/// Where a tensor of a text encoder goes in OpenCLIP's layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InOpenClip {
    /// Under this name.
    As(String),
    /// Under this name, transposed.
    Transposed(String),
    /// As this third of a packed tensor.
    Third(String, usize),
}

/// Hugging Face's name in OpenCLIP's words.
pub(crate) fn to_open_clip(name: &str) -> Option<InOpenClip> {
    let Some((layer, tail)) = name.strip_prefix(LAYERS).and_then(numbered) else {
        return match name {
            "text_projection.weight" => Some(InOpenClip::Transposed("text_projection".into())),
            _ => swapped_back(name, &OUTSIDE).map(InOpenClip::As),
        };
    };
    let path = format!("{RESBLOCKS}{layer}.");
    for (packed, kind) in PACKED {
        let third = THIRDS.iter().position(|part| tail == format!("self_attn.{part}_proj.{kind}"));
        if let Some(third) = third {
            return Some(InOpenClip::Third(format!("{path}{packed}"), third));
        }
    }
    swapped_back(tail, &INSIDE).map(|tail| InOpenClip::As(format!("{path}{tail}")))
}
