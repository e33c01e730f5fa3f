//! The UNet's `config.json`: every size of the model, and a named refusal of what is not built.
//!
//! `attention_head_dim` is the *number* of heads, a misnomer that diffusers keeps for the sake of its published files
//! (huggingface/diffusers issue 2011); `num_attention_heads` wins where it is given.

use serde_json::{Value, json};

use crate::nn::{Config, ConfigError};

type Result<T> = std::result::Result<T, ConfigError>;

/// One resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Channels.
    pub channels: usize,
    /// Residual blocks on the way down; one more on the way up.
    pub layers: usize,
    /// Whether transformers follow the residual blocks on the way down.
    pub attention_down: bool,
    /// Whether transformers follow the residual blocks on the way up.
    pub attention_up: bool,
    /// Heads of the attentions.
    pub heads: usize,
    /// Transformer blocks of each transformer.
    pub transformer_layers: usize,
}

/// Conditioning on pooled text and picture sizes (SDXL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextTimeConfig {
    /// Sinusoids of each of the six size numbers.
    pub size_width: usize,
    /// Width of all that goes into the added embedding: pooled text and the sinusoids of six numbers.
    pub input_width: usize,
}

/// Sizes of a UNet.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Resolutions, finest first; never empty.
    pub levels: Vec<Level>,
    /// Width of the text states, by level.
    pub context_widths: Vec<usize>,
    /// Groups of the group norms.
    pub groups: usize,
    /// Epsilon of the residual blocks' norms.
    pub eps: f32,
    /// Whether transformers begin and end with linear layers instead of 1x1 convolutions.
    pub linear_projection: bool,
    /// Zeros around the input of a downsample; 0 means below and right only.
    pub downsample_padding: usize,
    /// What the residual blocks of the mid block divide by.
    pub mid_scale: f32,
    /// Width of the time embedding.
    pub time_width: usize,
    /// Whether cosines come before sines.
    pub flip_sin_to_cos: bool,
    /// Shift of the sinusoids' frequencies.
    pub freq_shift: f32,
    /// Side of the first convolution's kernel.
    pub conv_in_kernel: usize,
    /// Side of the last convolution's kernel.
    pub conv_out_kernel: usize,
    /// Added embedding, where there is one.
    pub text_time: Option<TextTimeConfig>,
}

impl UNetConfig {
    /// Reads a `config.json`; missing keys have diffusers' defaults.
    pub fn parse(values: &Value) -> Result<Self> {
        let config = Config::new("unet", values)?;
        refuse_what_is_not_built(config)?;
        let levels = levels(config)?;
        let groups = config.size_or("norm_num_groups", 32)?;
        if let Some(level) = levels.iter().find(|level| level.channels % groups != 0) {
            let expected = format!("a divisor of the {} channels of a level", level.channels);
            return Err(config.error("norm_num_groups", expected, groups));
        }
        let first = levels.first().map_or(0, |level| level.channels);
        Ok(Self {
            in_channels: config.size_or("in_channels", 4)?,
            out_channels: config.size_or("out_channels", 4)?,
            context_widths: context_widths(config, levels.len())?,
            groups,
            eps: config.number_or("norm_eps", 1e-5)? as f32,
            linear_projection: config.flag_or("use_linear_projection", false)?,
            downsample_padding: padding(config)?,
            mid_scale: config.number_or("mid_block_scale_factor", 1.0)? as f32,
            time_width: config.size_or("time_embedding_dim", 4 * first)?,
            flip_sin_to_cos: config.flag_or("flip_sin_to_cos", true)?,
            freq_shift: config.number_or("freq_shift", 0.0)? as f32,
            conv_in_kernel: odd(config, "conv_in_kernel")?,
            conv_out_kernel: odd(config, "conv_out_kernel")?,
            text_time: text_time(config)?,
            levels,
        })
    }

    /// Channels of the finest level.
    pub fn first_channels(&self) -> usize {
        self.levels.first().map_or(0, |level| level.channels)
    }

    /// Width of the text states.
    pub fn context_width(&self) -> usize {
        self.context_widths.first().copied().unwrap_or(0)
    }
}

fn levels(config: Config<'_>) -> Result<Vec<Level>> {
    let channels = match config.get("block_out_channels") {
        Some(_) => config.sizes("block_out_channels")?,
        None => vec![320, 640, 1280, 1280],
    };
    let n = channels.len();
    let down = block_types(config, "down_block_types", ["CrossAttnDownBlock2D", "DownBlock2D"], n)?;
    let up = block_types(config, "up_block_types", ["CrossAttnUpBlock2D", "UpBlock2D"], n)?;
    let layers = config.size_per_level("layers_per_block", n, 2)?;
    let has_heads = config.get("num_attention_heads").is_some();
    let head_key = if has_heads { "num_attention_heads" } else { "attention_head_dim" };
    let heads = config.size_per_level(head_key, n, 8)?;
    let transformer_layers = config.size_per_level("transformer_layers_per_block", n, 1)?;
    let levels: Vec<Level> = (0..n)
        .map(|i| Level {
            channels: channels[i],
            layers: layers[i],
            attention_down: down[i],
            attention_up: up[n - 1 - i],
            heads: heads[i],
            transformer_layers: transformer_layers[i],
        })
        .collect();
    match levels.iter().find(|level| level.heads > level.channels) {
        Some(level) => Err(config.error(
            head_key,
            format!("at most the {} channels of its level", level.channels),
            level.heads,
        )),
        None => Ok(levels),
    }
}

/// The same text states go to every level, so their widths must agree where they are used.
fn context_widths(config: Config<'_>, levels: usize) -> Result<Vec<usize>> {
    let widths = config.size_per_level("cross_attention_dim", levels, 1280)?;
    match widths.iter().find(|&&width| Some(&width) != widths.first()) {
        Some(other) => Err(config.error("cross_attention_dim", "the same width for every level", other)),
        None => Ok(widths),
    }
}

/// For each block whether it has attention; `names` are the block with and the one without.
fn block_types(config: Config<'_>, key: &str, names: [&str; 2], count: usize) -> Result<Vec<bool>> {
    let [with, without] = names;
    let types = match config.get(key) {
        Some(_) => config.texts(key)?,
        // The coarsest level, which is the first on the way up, has no attention by default.
        None if key.starts_with("down") => vec![with, with, with, without],
        None => vec![without, with, with, with],
    };
    if types.len() != count {
        return Err(config.error(key, format!("{count} blocks, as many as block_out_channels"), types.len()));
    }
    let has_attention = |name: &str| {
        if name == with || name == without {
            return Ok(name == with);
        }
        Err(config.error(key, format!("`{with}` or `{without}`"), format!("`{name}`")))
    };
    types.into_iter().map(has_attention).collect()
}

fn padding(config: Config<'_>) -> Result<usize> {
    config.only("downsample_padding", &[json!(0), json!(1)])?;
    Ok(if config.number_or("downsample_padding", 1.0)? == 0.0 { 0 } else { 1 })
}

/// The side of a kernel that keeps the size when padded alike on both sides.
fn odd(config: Config<'_>, key: &str) -> Result<usize> {
    let side = config.size_or(key, 3)?;
    if side % 2 == 1 && side < 16 { Ok(side) } else { Err(config.error(key, "1, 3, 5, ... 15", side)) }
}

fn text_time(config: Config<'_>) -> Result<Option<TextTimeConfig>> {
    if config.get("addition_embed_type").is_none() {
        return Ok(None);
    }
    config.only("addition_embed_type", &[json!("text_time")])?;
    let size_width = config.size("addition_time_embed_dim")?;
    let input_width = config.size("projection_class_embeddings_input_dim")?;
    if input_width <= 6 * size_width {
        let expected = format!("more than six times addition_time_embed_dim ({size_width})");
        return Err(config.error("projection_class_embeddings_input_dim", expected, input_width));
    }
    Ok(Some(TextTimeConfig { size_width, input_width }))
}

/// Keys that change the computation, with the values under which it is the one built here.
///
/// `resnet_skip_time_act`, `resnet_out_scale_factor` and `cross_attention_norm` act on other block types only,
/// `dropout` was for training from scratch, and `upcast_attention` asks for the f32 softmax that is always used.
fn refuse_what_is_not_built(config: Config<'_>) -> Result<()> {
    let no = [json!(false)];
    let cases: [(&str, &[Value]); 18] = [
        ("mid_block_type", &[json!("UNetMidBlock2DCrossAttn")]),
        ("only_cross_attention", &no),
        ("mid_block_only_cross_attention", &no),
        ("dual_cross_attention", &no),
        ("center_input_sample", &no),
        ("class_embeddings_concat", &no),
        ("act_fn", &[json!("silu"), json!("swish")]),
        ("class_embed_type", &[]),
        ("num_class_embeds", &[]),
        ("encoder_hid_dim", &[]),
        ("encoder_hid_dim_type", &[]),
        ("resnet_time_scale_shift", &[json!("default")]),
        ("time_embedding_type", &[json!("positional")]),
        ("attention_type", &[json!("default")]),
        ("time_cond_proj_dim", &[]),
        ("time_embedding_act_fn", &[]),
        ("timestep_post_act", &[]),
        ("reverse_transformer_layers_per_block", &[]),
    ];
    cases.iter().try_for_each(|(key, allowed)| config.only(key, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_diffusers() {
        let config = UNetConfig::parse(&json!({})).unwrap();
        let channels: Vec<_> = config.levels.iter().map(|level| level.channels).collect();
        assert_eq!(channels, [320, 640, 1280, 1280]);
        assert!(config.levels[2].attention_up && !config.levels[3].attention_up);
        assert_eq!((config.time_width, config.groups, config.levels[0].heads), (1280, 32, 8));
    }

    #[test]
    fn lists_per_level() {
        let config = UNetConfig::parse(&json!({
            "block_out_channels": [32, 64], "attention_head_dim": [2, 4], "layers_per_block": [1, 3],
            "transformer_layers_per_block": [1, 2], "cross_attention_dim": [8, 8],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        }));
        let levels = config.unwrap().levels;
        assert_eq!((levels[0].layers, levels[1].layers), (1, 3));
        assert_eq!((levels[0].heads, levels[1].transformer_layers), (2, 2));
        assert!(!levels[0].attention_up && levels[1].attention_up && levels[1].attention_down);
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (key, value) in [
            ("class_embed_type", json!("timestep")),
            ("dual_cross_attention", json!(true)),
            ("addition_embed_type", json!("image")),
            ("down_block_types", json!(["AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"])),
            ("only_cross_attention", json!([true, true, true, false])),
            ("cross_attention_dim", json!([8, 8, 16, 16])),
            ("norm_num_groups", json!(33)),
            ("conv_in_kernel", json!(4)),
        ] {
            let error = UNetConfig::parse(&json!({ key: value })).unwrap_err();
            assert_eq!(error.key, key, "{error}");
        }
    }
}
