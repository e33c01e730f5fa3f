//! Configurations derived from the shapes of tensors, for single files, which bring none.
//!
//! Shapes tell channels, levels, layers and the widths of attention. They do not tell how many heads share a width, how
//! many channels share a norm, or which activation is used: those are the family's values, and where a small model
//! cannot have them, the nearest that divides. [`BaseOptions::config`](super::BaseOptions::config) overrides all.

use std::path::Path;

use serde_json::{Value, json};

use super::Family;
use crate::files::{FileError, Result, TensorSource};

/// More levels or layers than this are no model that exists.
const MAX_DEPTH: usize = 64;

/// Sizes of a tensor that must be there with that many dimensions.
fn shape(source: &dyn TensorSource, name: &str, rank: usize) -> Result<Vec<usize>> {
    let file = source.describe();
    let info = source.info(name).ok_or_else(|| FileError::missing_tensor(&file, name))?;
    if info.shape.len() == rank && info.shape.iter().all(|&size| (1..=1 << 20).contains(&size)) {
        return Ok(info.shape);
    }
    let found = format!("{:?}", info.shape);
    Err(FileError::tensor(Path::new(&file), name, format!("{rank} sizes between 1 and 1048576"), found))
}

/// How many of `name(0)`, `name(1)`, ... there are.
fn count(source: &dyn TensorSource, name: impl Fn(usize) -> String) -> usize {
    (0..MAX_DEPTH).take_while(|&index| source.info(&name(index)).is_some()).count()
}

/// The largest group count up to 32, the published models' value, that divides all channels.
fn groups(channels: &[usize]) -> usize {
    let divides = |groups: &usize| channels.iter().all(|channels| channels % groups == 0);
    [32, 16, 8, 4, 2].into_iter().find(divides).unwrap_or(1)
}

/// Output channels of the first resnet of each level.
fn level_channels(source: &dyn TensorSource, prefix: &str) -> Result<Vec<usize>> {
    let name = |level: usize| format!("{prefix}.{level}.resnets.0.conv2.weight");
    // The first level is required, so that its absence is named.
    let levels = count(source, name).max(1);
    (0..levels).map(|level| Ok(shape(source, &name(level), 4)?[0])).collect()
}

/// Configuration of a UNet2DConditionModel.
pub(super) fn unet(source: &dyn TensorSource, family: Family) -> Result<Value> {
    let conv_in = shape(source, "conv_in.weight", 4)?;
    let conv_out = shape(source, "conv_out.weight", 4)?;
    let channels = level_channels(source, "down_blocks")?;
    let layers = count(source, |layer| format!("down_blocks.0.resnets.{layer}.conv1.weight"));
    let attends: Vec<bool> = (0..channels.len())
        .map(|level| source.info(&format!("down_blocks.{level}.attentions.0.norm.weight")).is_some())
        .collect();
    let at = |level: usize| format!("down_blocks.{level}.attentions.0.transformer_blocks");
    let depths: Vec<usize> = (0..channels.len())
        .map(|level| count(source, |block| format!("{}.{block}.attn2.to_k.weight", at(level))).max(1))
        .collect();
    let to_k = match attends.iter().position(|&attends| attends) {
        Some(level) => format!("{}.0.attn2.to_k.weight", at(level)),
        None => "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight".into(),
    };
    let cross_attention_dim = shape(source, &to_k, 2)?[1];
    let linear =
        source.info("mid_block.attentions.0.proj_in.weight").is_some_and(|info| info.shape.len() == 2);
    let block_types = |attending: &str, plain: &str| -> Vec<String> {
        attends.iter().map(|&attends| if attends { attending.into() } else { plain.into() }).collect()
    };
    let mut up_types = block_types("CrossAttnUpBlock2D", "UpBlock2D");
    up_types.reverse();
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        // diffusers' name for the number of heads.
        "attention_head_dim": heads(family, &channels),
        "block_out_channels": channels,
        "center_input_sample": false,
        "cross_attention_dim": cross_attention_dim,
        "down_block_types": block_types("CrossAttnDownBlock2D", "DownBlock2D"),
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": conv_in[1],
        "layers_per_block": layers,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": groups(&channels),
        "out_channels": conv_out[0],
        "sample_size": 64,
        "transformer_layers_per_block": if depths.iter().all(|&depth| depth == 1) { json!(1) } else { json!(depths) },
        "up_block_types": up_types,
        "use_linear_projection": linear,
    });
    added_inputs(source, &mut config, &channels)?;
    Ok(config)
}

/// What conditions on more than text: SDXL's sizes (`[width of the sizes' embedding + pooled text] -> channels`), noise
/// levels or pictures. SDXL embeds 6 numbers in 256 channels each.
fn added_inputs(source: &dyn TensorSource, config: &mut Value, channels: &[usize]) -> Result<()> {
    if source.info("add_embedding.linear_1.weight").is_some() {
        let inputs = shape(source, "add_embedding.linear_1.weight", 2)?[1];
        config["addition_embed_type"] = json!("text_time");
        config["addition_time_embed_dim"] = json!(256);
        config["projection_class_embeddings_input_dim"] = json!(inputs);
    }
    if source.info("class_embedding.linear_1.weight").is_some() {
        let inputs = shape(source, "class_embedding.linear_1.weight", 2)?[1];
        config["class_embed_type"] = json!("projection");
        config["projection_class_embeddings_input_dim"] = json!(inputs);
    }
    if source.info("class_embedding.weight").is_some() {
        config["num_class_embeds"] = json!(shape(source, "class_embedding.weight", 2)?[0]);
        // The upscaling model's self-attention looks at the text too.
        let width = |level: usize| {
            let name = format!("down_blocks.{level}.attentions.0.transformer_blocks.0.attn1.to_k.weight");
            source.info(&name).and_then(|info| info.shape.get(1).copied())
        };
        let only: Vec<bool> = (0..channels.len())
            .map(|level| width(level).is_some_and(|width| width != channels[level]))
            .collect();
        config["only_cross_attention"] = json!(only);
        config["attention_head_dim"] = json!(8);
    }
    Ok(())
}

/// 1.x has 8 heads everywhere, 2.x heads of 64 channels.
fn heads(family: Family, channels: &[usize]) -> Value {
    match family {
        Family::Sd2 if channels.iter().all(|channels| channels % 64 == 0) => {
            json!(channels.iter().map(|channels| channels / 64).collect::<Vec<_>>())
        }
        _ => json!(8),
    }
}

/// Configuration of an AutoencoderKL.
pub(super) fn vae(source: &dyn TensorSource) -> Result<Value> {
    let channels = level_channels(source, "encoder.down_blocks")?;
    let layers = count(source, |layer| format!("encoder.down_blocks.0.resnets.{layer}.conv1.weight"));
    let conv_in = shape(source, "encoder.conv_in.weight", 4)?;
    let conv_out = shape(source, "decoder.conv_out.weight", 4)?;
    let latent = shape(source, "decoder.conv_in.weight", 4)?[1];
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
        "in_channels": conv_in[1],
        "latent_channels": latent,
        "layers_per_block": layers,
        "mid_block_add_attention": source.info("encoder.mid_block.attentions.0.to_q.weight").is_some(),
        "norm_num_groups": groups(&channels),
        "out_channels": conv_out[0],
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "up_block_types": vec!["UpDecoderBlock2D"; channels.len()],
        "use_post_quant_conv": source.info("post_quant_conv.weight").is_some(),
        "use_quant_conv": source.info("quant_conv.weight").is_some(),
    }))
}

/// Configuration of a CLIPTextModel. Token ids are those of the published configurations, which select the
/// end token by its being the largest id of a row.
pub(super) fn text_encoder(source: &dyn TensorSource, family: Family) -> Result<Value> {
    let tokens = shape(source, "text_model.embeddings.token_embedding.weight", 2)?;
    let positions = shape(source, "text_model.embeddings.position_embedding.weight", 2)?;
    let fc1 = shape(source, "text_model.encoder.layers.0.mlp.fc1.weight", 2)?;
    let layers = count(source, |layer| format!("text_model.encoder.layers.{layer}.layer_norm1.weight"));
    let width = tokens[1];
    let projects = source.info("text_projection.weight").and_then(|info| info.shape.first().copied());
    // Heads of 64 channels in every published model; at least 4, so that small ones have some.
    let heads = (width / 64).max(4);
    let heads = if width % heads == 0 { heads } else { 1 };
    Ok(json!({
        "architectures": [if projects.is_some() { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": if family == Family::Sd1 { "quick_gelu" } else { "gelu" },
        "hidden_size": width,
        "intermediate_size": fc1[0],
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": positions[0],
        "model_type": "clip_text_model",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": projects.unwrap_or(width),
        "vocab_size": tokens[0],
    }))
}
