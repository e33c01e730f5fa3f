//! Key maps from the CompVis, SGM, OpenCLIP and older diffusers spellings to today's diffusers names.
//!
//! A name that no rule covers is returned as it is: the strict loader then reports it, instead of it vanishing here.
//!
//! UNet, with L resnets a level: input block 0 is `conv_in`, block n is level (n-1)/(L+1), place (n-1)%(L+1), and place
//! L is the downsampler; output block n is level n/(L+1), place n%(L+1).

use super::adapt::Renamed;

/// UNet: `input_blocks.4.1.norm.weight` is `down_blocks.1.attentions.0.norm.weight` for two resnets a level.
pub(super) fn unet(name: &str, layers_per_block: usize) -> String {
    let per_level = layers_per_block + 1;
    let split = || {
        let (block, rest) = name.split_once('.')?;
        let (first, tail) = rest.split_once('.')?;
        let number: usize = first.parse().ok()?;
        Some(match (block, number) {
            ("time_embed", 0) => format!("time_embedding.linear_1.{tail}"),
            ("time_embed", 2) => format!("time_embedding.linear_2.{tail}"),
            ("out", 0) => format!("conv_norm_out.{tail}"),
            ("out", 2) => format!("conv_out.{tail}"),
            ("middle_block", 1) => format!("mid_block.attentions.0.{tail}"),
            ("middle_block", 0 | 2) => format!("mid_block.resnets.{}.{}", number / 2, resnet(tail)?),
            ("input_blocks", 0) => format!("conv_in.{}", tail.strip_prefix("0.")?),
            ("input_blocks", _) => {
                let (level, place) = ((number - 1) / per_level, (number - 1) % per_level);
                match tail.split_once('.')? {
                    ("0", tail) if tail.starts_with("op.") => {
                        format!("down_blocks.{level}.downsamplers.0.conv.{}", tail.strip_prefix("op.")?)
                    }
                    ("0", tail) => format!("down_blocks.{level}.resnets.{place}.{}", resnet(tail)?),
                    ("1", tail) => format!("down_blocks.{level}.attentions.{place}.{tail}"),
                    _ => return None,
                }
            }
            ("output_blocks", _) => {
                let (level, place) = (number / per_level, number % per_level);
                match tail.split_once('.')? {
                    ("0", tail) => format!("up_blocks.{level}.resnets.{place}.{}", resnet(tail)?),
                    ("1" | "2", tail) if tail.starts_with("conv.") => {
                        format!("up_blocks.{level}.upsamplers.0.{tail}")
                    }
                    ("1", tail) => format!("up_blocks.{level}.attentions.{place}.{tail}"),
                    _ => return None,
                }
            }
            _ => return None,
        })
    };
    split().unwrap_or_else(|| name.to_string())
}

fn resnet(tail: &str) -> Option<String> {
    let parts = [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    parts.iter().find_map(|(old, new)| Some(format!("{new}{}", tail.strip_prefix(old)?)))
}

/// Resnets a level of a CompVis UNet: the first downsampler stands after the first level.
pub(super) fn unet_layers_per_block<'a>(names: impl Iterator<Item = &'a str> + Clone) -> usize {
    let block = |name: &str| name.strip_prefix("input_blocks.")?.split('.').next()?.parse::<usize>().ok();
    let sampler = names.clone().filter(|name| name.contains(".0.op.")).filter_map(block).min();
    let last = names.filter_map(block).max();
    sampler.map_or(last.unwrap_or(0), |n| n.saturating_sub(1)).clamp(1, 64)
}

/// VAE, from CompVis or from diffusers before 0.17.
pub(super) fn vae(name: &str, levels: usize) -> String {
    let translated = compvis_vae(name, levels).unwrap_or_else(|| name.to_string());
    let Some((path, tail)) = translated.split_once("mid_block.attentions.0.") else { return translated };
    let parts = [("query.", "to_q."), ("key.", "to_k."), ("value.", "to_v."), ("proj_attn.", "to_out.0.")];
    let renamed = parts.iter().find_map(|(old, new)| Some(format!("{new}{}", tail.strip_prefix(old)?)));
    format!("{path}mid_block.attentions.0.{}", renamed.as_deref().unwrap_or(tail))
}

fn compvis_vae(name: &str, levels: usize) -> Option<String> {
    let (half, rest) = name.split_once('.')?;
    if !matches!(half, "encoder" | "decoder") {
        return None;
    }
    if let Some(tail) = rest.strip_prefix("norm_out.") {
        return Some(format!("{half}.conv_norm_out.{tail}"));
    }
    if let Some(tail) = rest.strip_prefix("mid.") {
        let (part, tail) = tail.split_once('.')?;
        return Some(match part {
            "block_1" => format!("{half}.mid_block.resnets.0.{}", vae_resnet(tail)),
            "block_2" => format!("{half}.mid_block.resnets.1.{}", vae_resnet(tail)),
            "attn_1" => format!("{half}.mid_block.attentions.0.{}", vae_attention(tail)?),
            _ => return None,
        });
    }
    let (blocks, sampler, samplers, rest) = match rest.strip_prefix("down.") {
        Some(rest) => ("down_blocks", "downsample", "downsamplers", rest),
        None => ("up_blocks", "upsample", "upsamplers", rest.strip_prefix("up.")?),
    };
    let (level, tail) = rest.split_once('.')?;
    let level: usize = level.parse().ok()?;
    let level = if blocks == "up_blocks" { levels.checked_sub(level.saturating_add(1))? } else { level };
    let tail = match tail.split_once('.')? {
        ("block", tail) => {
            let (place, tail) = tail.split_once('.')?;
            format!("resnets.{place}.{}", vae_resnet(tail))
        }
        (part, tail) if part == sampler => format!("{samplers}.0.{tail}"),
        _ => return None,
    };
    Some(format!("{half}.{blocks}.{level}.{tail}"))
}

fn vae_resnet(tail: &str) -> String {
    tail.replacen("nin_shortcut.", "conv_shortcut.", 1)
}

fn vae_attention(tail: &str) -> Option<String> {
    let parts = [
        ("norm.", "group_norm."),
        ("q.", "to_q."),
        ("k.", "to_k."),
        ("v.", "to_v."),
        ("proj_out.", "to_out.0."),
    ];
    parts.iter().find_map(|(old, new)| Some(format!("{new}{}", tail.strip_prefix(old)?)))
}

/// Levels of a CompVis VAE.
pub(super) fn vae_levels<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    let level = |name: &str| name.strip_prefix("decoder.up.")?.split('.').next()?.parse::<usize>().ok();
    names.filter_map(level).max().map_or(0, |last| last.saturating_add(1))
}

/// Text encoder in Hugging Face's names, with what old or complete CLIP files have besides.
pub(super) fn clip_text(name: &str) -> Renamed {
    const OUTSIDE: [&str; 5] =
        ["vision_model.", "visual_projection.", "text_projection.", "logit_scale", "text_projection"];
    if name.ends_with("embeddings.position_ids") || OUTSIDE.iter().any(|part| name.starts_with(part)) {
        return Renamed::Dropped;
    }
    // Files of 2022 lack the inner `text_model.`
    let inner = ["embeddings.", "encoder.", "final_layer_norm."];
    if inner.iter().any(|part| name.starts_with(part)) {
        return Renamed::As(format!("text_model.{name}"));
    }
    Renamed::As(name.to_string())
}

/// Text encoder in OpenCLIP's names; layers from `kept_layers` on are not used by Stable Diffusion 2.x.
pub(super) fn open_clip_text(name: &str, kept_layers: usize) -> Renamed {
    let Some(rest) = name.strip_prefix("transformer.resblocks.") else {
        return match name {
            "token_embedding.weight" => Renamed::As("text_model.embeddings.token_embedding.weight".into()),
            "positional_embedding" => Renamed::As("text_model.embeddings.position_embedding.weight".into()),
            "ln_final.weight" => Renamed::As("text_model.final_layer_norm.weight".into()),
            "ln_final.bias" => Renamed::As("text_model.final_layer_norm.bias".into()),
            "text_projection" | "text_projection.weight" | "logit_scale" | "attn_mask" => Renamed::Dropped,
            other => Renamed::As(other.into()),
        };
    };
    let layer = rest.split_once('.').and_then(|(layer, tail)| Some((layer.parse::<usize>().ok()?, tail)));
    let Some((layer, tail)) = layer else { return Renamed::As(name.into()) };
    if layer >= kept_layers {
        return Renamed::Dropped;
    }
    let path = format!("text_model.encoder.layers.{layer}.");
    for (packed, kind) in [("attn.in_proj_weight", "weight"), ("attn.in_proj_bias", "bias")] {
        if tail == packed {
            return Renamed::Thirds(
                ["q", "k", "v"].map(|part| format!("{path}self_attn.{part}_proj.{kind}")),
            );
        }
    }
    let parts = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
        ("attn.out_proj.", "self_attn.out_proj."),
    ];
    let renamed = parts.iter().find_map(|(old, new)| Some(format!("{path}{new}{}", tail.strip_prefix(old)?)));
    Renamed::As(renamed.unwrap_or_else(|| name.into()))
}

/// Layers an OpenCLIP text tower stores.
pub(super) fn open_clip_layers<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    let layer =
        |name: &str| name.strip_prefix("transformer.resblocks.")?.split('.').next()?.parse::<usize>().ok();
    names.filter_map(layer).max().map_or(0, |last| last.saturating_add(1))
}
