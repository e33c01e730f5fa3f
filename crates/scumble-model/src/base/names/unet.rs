//! The UNet's names.
//!
//! ```text
//! input_blocks.0.0                 conv_in
//! input_blocks.n.0 / .1            down_blocks.i.resnets.j / attentions.j     i = (n-1) / (L+1), j = (n-1) % (L+1)
//! input_blocks.n.0.op              down_blocks.i.downsamplers.0.conv          at j = L
//! middle_block.0 / .1 / .2         mid_block.resnets.0 / attentions.0 / resnets.1
//! output_blocks.n.0 / .1           up_blocks.i.resnets.j / attentions.j       i = n / (L+1), j = n % (L+1)
//! output_blocks.n.1 or .2 .conv    up_blocks.i.upsamplers.0.conv              behind the attention, if there is one
//! time_embed.0 / .2                time_embedding.linear_1 / linear_2
//! label_emb.0.0 / .0.2             add_embedding.linear_1 / linear_2          SDXL
//! label_emb.0.0 / .0.2             class_embedding.linear_1 / linear_2        image variation
//! label_emb.weight                 class_embedding.weight                     upscaling (noise level)
//! out.0 / .2                       conv_norm_out / conv_out
//! ```
//!
//! L is the number of resnets a level.

use std::collections::BTreeSet;

use super::{numbered, swapped, swapped_back};

const ENDS: [(&str, &str); 5] = [
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
    ("input_blocks.0.0.", "conv_in."),
];

const RESNET: [(&str, &str); 6] = [
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
];

const ADDED: [(&str, &str); 2] =
    [("label_emb.0.0.", "add_embedding.linear_1."), ("label_emb.0.2.", "add_embedding.linear_2.")];

const CLASS: [(&str, &str); 3] = [
    ("label_emb.0.0.", "class_embedding.linear_1."),
    ("label_emb.0.2.", "class_embedding.linear_2."),
    ("label_emb.weight", "class_embedding.weight"),
];

/// What names depend on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocks {
    /// Resnets a level.
    layers: usize,
    /// Whether the extra embedding is SDXL's of sizes.
    sizes: bool,
    /// Levels of the way up that have attention.
    attending: BTreeSet<usize>,
}

impl Blocks {
    /// From single-file names without prefix. The first downsampler stands behind the first level.
    pub(crate) fn of_compvis<'a>(names: impl Iterator<Item = &'a str> + Clone, sizes: bool) -> Self {
        let block = |name: &str| numbered(name.strip_prefix("input_blocks.")?).map(|(block, _)| block);
        let sampler = names.clone().filter(|name| name.contains(".0.op.")).filter_map(block).min();
        let last = names.filter_map(block).max();
        let layers = sampler.map_or(last.unwrap_or(0), |n| n.saturating_sub(1)).clamp(1, 64);
        Self { layers, sizes, attending: BTreeSet::new() }
    }

    /// From diffusers names.
    pub(crate) fn of_diffusers<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let resnet =
            |name: &str| numbered(name.strip_prefix("down_blocks.0.resnets.")?).map(|(place, _)| place);
        let attention = |name: &str| {
            let (level, rest) = numbered(name.strip_prefix("up_blocks.")?)?;
            rest.starts_with("attentions.").then_some(level)
        };
        Self {
            layers: names.clone().filter_map(resnet).max().map_or(1, |last| last + 1).clamp(1, 64),
            sizes: names.clone().any(|name| name.starts_with("add_embedding.")),
            attending: names.filter_map(attention).collect(),
        }
    }

    /// A single file's name in diffusers' words.
    pub(crate) fn to_diffusers(&self, name: &str) -> Option<String> {
        let per_level = self.layers + 1;
        if let Some(new) =
            swapped(name, &ENDS).or_else(|| swapped(name, if self.sizes { &ADDED } else { &CLASS }))
        {
            return Some(new);
        }
        let (side, rest) = name.split_once('.')?;
        let (number, rest) = numbered(rest)?;
        Some(match (side, number) {
            ("middle_block", 1) => format!("mid_block.attentions.0.{rest}"),
            ("middle_block", 0 | 2) => {
                format!("mid_block.resnets.{}.{}", number / 2, swapped(rest, &RESNET)?)
            }
            ("input_blocks", 1..) => {
                let (level, place) = ((number - 1) / per_level, (number - 1) % per_level);
                match rest.split_once('.')? {
                    ("0", tail) if tail.starts_with("op.") => {
                        format!("down_blocks.{level}.downsamplers.0.conv.{}", tail.strip_prefix("op.")?)
                    }
                    ("0", tail) => format!("down_blocks.{level}.resnets.{place}.{}", swapped(tail, &RESNET)?),
                    ("1", tail) => format!("down_blocks.{level}.attentions.{place}.{tail}"),
                    _ => return None,
                }
            }
            ("output_blocks", _) => {
                let (level, place) = (number / per_level, number % per_level);
                match rest.split_once('.')? {
                    ("0", tail) => format!("up_blocks.{level}.resnets.{place}.{}", swapped(tail, &RESNET)?),
                    ("1" | "2", tail) if tail.starts_with("conv.") => {
                        format!("up_blocks.{level}.upsamplers.0.{tail}")
                    }
                    ("1", tail) => format!("up_blocks.{level}.attentions.{place}.{tail}"),
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    /// diffusers' name in a single file's words.
    pub(crate) fn to_compvis(&self, name: &str) -> Option<String> {
        let per_level = self.layers + 1;
        let fixed = swapped_back(name, &ENDS);
        if let Some(new) = fixed.or_else(|| swapped_back(name, &ADDED)).or_else(|| swapped_back(name, &CLASS))
        {
            return Some(new);
        }
        let (side, rest) = name.split_once('.')?;
        if side == "mid_block" {
            let (list, rest) = rest.split_once('.')?;
            return Some(match (list, numbered(rest)?) {
                ("resnets", (place @ 0..=1, tail)) => {
                    format!("middle_block.{}.{}", 2 * place, swapped_back(tail, &RESNET)?)
                }
                ("attentions", (0, tail)) => format!("middle_block.1.{tail}"),
                _ => return None,
            });
        }
        let (level, rest) = numbered(rest).filter(|(level, _)| *level < 64)?;
        let (list, rest) = rest.split_once('.')?;
        let (place, tail) = numbered(rest).filter(|(place, _)| *place < per_level)?;
        let (first_in, first_out) = (level * per_level + 1, level * per_level);
        Some(match (side, list) {
            ("down_blocks", "resnets") => {
                format!("input_blocks.{}.0.{}", first_in + place, swapped_back(tail, &RESNET)?)
            }
            ("down_blocks", "attentions") => format!("input_blocks.{}.1.{tail}", first_in + place),
            ("down_blocks", "downsamplers") => {
                format!("input_blocks.{}.0.op.{}", first_in + self.layers, tail.strip_prefix("conv.")?)
            }
            ("up_blocks", "resnets") => {
                format!("output_blocks.{}.0.{}", first_out + place, swapped_back(tail, &RESNET)?)
            }
            ("up_blocks", "attentions") => format!("output_blocks.{}.1.{tail}", first_out + place),
            ("up_blocks", "upsamplers") if tail.starts_with("conv.") => {
                let behind = 1 + usize::from(self.attending.contains(&level));
                format!("output_blocks.{}.{behind}.{tail}", first_out + self.layers)
            }
            _ => return None,
        })
    }
}
