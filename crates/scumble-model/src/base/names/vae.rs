//! The VAE's names, and its attention's three spellings.
//!
//! ```text
//! encoder.down.i.block.j          encoder.down_blocks.i.resnets.j
//! encoder.down.i.downsample       encoder.down_blocks.i.downsamplers.0
//! decoder.up.i.block.j            decoder.up_blocks.{N-1-i}.resnets.j        N levels
//! decoder.up.i.upsample           decoder.up_blocks.{N-1-i}.upsamplers.0
//! *.mid.block_1, block_2, attn_1  *.mid_block.resnets.0, resnets.1, attentions.0
//! *.norm_out                      *.conv_norm_out
//! nin_shortcut                    conv_shortcut
//!
//! attention   CompVis     diffusers before 0.17   since
//!             norm        group_norm              group_norm
//!             q, k, v     query, key, value       to_q, to_k, to_v
//!             proj_out    proj_attn               to_out.0
//! ```
//!
//! CompVis stores the attention's four weights as 1x1 convolutions, diffusers as matrices.

use super::{numbered, swapped, swapped_back};

const ATTENTION: [(&str, &str); 5] =
    [("norm.", "group_norm."), ("q.", "to_q."), ("k.", "to_k."), ("v.", "to_v."), ("proj_out.", "to_out.0.")];

const OLD_ATTENTION: [(&str, &str); 4] =
    [("query.", "to_q."), ("key.", "to_k."), ("value.", "to_v."), ("proj_attn.", "to_out.0.")];

const MIDDLE: [(&str, &str); 2] =
    [("block_1.", "mid_block.resnets.0."), ("block_2.", "mid_block.resnets.1.")];

const SHORTCUT: [(&str, &str); 1] = [("nin_shortcut.", "conv_shortcut.")];

/// Levels of a VAE in single-file names.
pub(crate) fn levels_of_compvis<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    levels(names, "decoder.up.")
}

/// Levels of a VAE in diffusers names.
pub(crate) fn levels_of_diffusers<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    levels(names, "decoder.up_blocks.")
}

fn levels<'a>(names: impl Iterator<Item = &'a str>, prefix: &str) -> usize {
    let level = |name: &str| numbered(name.strip_prefix(prefix)?).map(|(level, _)| level);
    names.filter_map(level).max().map_or(0, |last| last.saturating_add(1))
}

/// Whether a diffusers name is one of the four weights that CompVis stores as a convolution.
pub(crate) fn is_projection(name: &str) -> bool {
    let parts = ["to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"];
    name.contains("mid_block.attentions.")
        && !name.contains("transformer_blocks")
        && parts.iter().any(|part| name.ends_with(part))
}

/// A diffusers name of any age in today's words; other names as they are.
pub(crate) fn todays(name: &str) -> String {
    let renamed = name.split_once("mid_block.attentions.0.").and_then(|(path, tail)| {
        Some(format!("{path}mid_block.attentions.0.{}", swapped(tail, &OLD_ATTENTION)?))
    });
    renamed.unwrap_or_else(|| name.to_string())
}

/// A single file's name in diffusers' words.
pub(crate) fn to_diffusers(name: &str, levels: usize) -> Option<String> {
    let (half, rest) = name.split_once('.')?;
    match half {
        "encoder" | "decoder" => {}
        "quant_conv" | "post_quant_conv" => return Some(name.to_string()),
        _ => return None,
    }
    let inside = if rest.starts_with("conv_in.") || rest.starts_with("conv_out.") {
        rest.to_string()
    } else if let Some(tail) = rest.strip_prefix("norm_out.") {
        format!("conv_norm_out.{tail}")
    } else if let Some(rest) = rest.strip_prefix("mid.") {
        match rest.strip_prefix("attn_1.") {
            Some(tail) => format!("mid_block.attentions.0.{}", swapped(tail, &ATTENTION)?),
            None => shortcut(&swapped(rest, &MIDDLE)?, true),
        }
    } else {
        let (down, rest) = match rest.strip_prefix("down.") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("up.")?),
        };
        let (level, tail) = numbered(rest)?;
        let (level, blocks, sampler, samplers) = match down {
            true => (level, "down_blocks", "downsample.", "downsamplers"),
            false => (levels.checked_sub(level.checked_add(1)?)?, "up_blocks", "upsample.", "upsamplers"),
        };
        match (tail.strip_prefix("block."), tail.strip_prefix(sampler)) {
            (Some(tail), _) => {
                let (place, tail) = numbered(tail)?;
                format!("{blocks}.{level}.resnets.{place}.{}", shortcut(tail, true))
            }
            (_, Some(tail)) => format!("{blocks}.{level}.{samplers}.0.{tail}"),
            _ => return None,
        }
    };
    Some(format!("{half}.{inside}"))
}

/// diffusers' name (of today) in a single file's words.
pub(crate) fn to_compvis(name: &str, levels: usize) -> Option<String> {
    let (half, rest) = name.split_once('.')?;
    match half {
        "encoder" | "decoder" => {}
        "quant_conv" | "post_quant_conv" => return Some(name.to_string()),
        _ => return None,
    }
    let inside = if rest.starts_with("conv_in.") || rest.starts_with("conv_out.") {
        rest.to_string()
    } else if let Some(tail) = rest.strip_prefix("conv_norm_out.") {
        format!("norm_out.{tail}")
    } else if let Some(tail) = rest.strip_prefix("mid_block.attentions.0.") {
        format!("mid.attn_1.{}", swapped_back(tail, &ATTENTION)?)
    } else if rest.starts_with("mid_block.") {
        format!("mid.{}", shortcut(&swapped_back(rest, &MIDDLE)?, false))
    } else {
        let (down, rest) = match rest.strip_prefix("down_blocks.") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("up_blocks.")?),
        };
        let (level, tail) = numbered(rest)?;
        let (level, side, sampler, samplers) = match down {
            true => (level, "down", "downsample", "downsamplers.0."),
            false => (levels.checked_sub(level.checked_add(1)?)?, "up", "upsample", "upsamplers.0."),
        };
        match (tail.strip_prefix("resnets."), tail.strip_prefix(samplers)) {
            (Some(tail), _) => {
                let (place, tail) = numbered(tail)?;
                format!("{side}.{level}.block.{place}.{}", shortcut(tail, false))
            }
            (_, Some(tail)) => format!("{side}.{level}.{sampler}.{tail}"),
            _ => return None,
        }
    };
    Some(format!("{half}.{inside}"))
}

/// The shortcut's two names, wherever in a path.
fn shortcut(name: &str, to_diffusers: bool) -> String {
    let [(old, new)] = SHORTCUT;
    let (from, to) = if to_diffusers { (old, new) } else { (new, old) };
    match name.split_once(from) {
        Some((before, tail)) if before.is_empty() || before.ends_with('.') => format!("{before}{to}{tail}"),
        _ => name.to_string(),
    }
}
