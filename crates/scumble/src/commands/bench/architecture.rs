//! Configurations of the published models and of the one inside the program, and texts for them.

use scumble_model::base::embedded;
use scumble_tensor::{Result, Tensor};
use serde_json::{Value, json};

use super::Arch;

/// Tokens of a prompt.
pub const TOKENS: usize = 77;

/// Made-up texts, i64 `[count, TOKENS]`.
pub fn token_ids(arch: Arch, count: usize) -> Result<Tensor> {
    let words = size(&text_config(arch), "vocab_size");
    let ids: Vec<i64> = (0..count * TOKENS).map(|i| (i * 7919 % words) as i64).collect();
    Tensor::from_slice(&ids, &[count, TOKENS])
}

/// The `unet/config.json` of an architecture.
pub fn unet_config(arch: Arch) -> Value {
    let cross = "CrossAttnDownBlock2D";
    let up = "CrossAttnUpBlock2D";
    let (context, heads, linear) = match arch {
        Arch::Sd15 => (768, json!(8), false),
        Arch::Sd21 => (1024, json!([5, 10, 20, 20]), true),
        Arch::Embedded => return inside("unet"),
    };
    json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": false,
        "cross_attention_dim": context,
        "down_block_types": [cross, cross, cross, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", up, up, up],
        "use_linear_projection": linear,
    })
}

/// The configuration of a part of the model inside the program.
fn inside(part: &str) -> Value {
    embedded::config(part).unwrap_or_default()
}

/// Width of the text states.
pub fn context_width(arch: Arch) -> usize {
    size(&text_config(arch), "hidden_size")
}

/// A size in a configuration.
fn size(config: &Value, key: &str) -> usize {
    config[key].as_u64().map_or(1, |size| size as usize)
}

/// The `vae/config.json`; the published models share one.
pub fn vae_config(arch: Arch) -> Value {
    if arch == Arch::Embedded {
        return inside("vae");
    }
    json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": vec!["DownEncoderBlock2D"; 4],
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
    })
}

/// The `text_encoder/config.json` of an architecture: CLIP ViT-L/14, or the first 23 layers of OpenCLIP ViT-H/14.
pub fn text_config(arch: Arch) -> Value {
    let (width, heads, layers, activation) = match arch {
        Arch::Sd15 => (768, 12, 12, "quick_gelu"),
        Arch::Sd21 => (1024, 16, 23, "gelu"),
        Arch::Embedded => return inside("text_encoder"),
    };
    json!({
        "_class_name": "CLIPTextModel",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": activation,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "projection_dim": width,
        "vocab_size": 49408,
    })
}
