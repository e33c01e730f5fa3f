//! The VAE's `config.json`, with diffusers' defaults.

use serde_json::{Value, json};

use crate::nn::{Config, ConfigError};

/// Sizes of a VAE.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of the pictures that go in.
    pub in_channels: usize,
    /// Channels of the pictures that come out.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels by level, finest first; never empty.
    pub channels: Vec<usize>,
    /// Residual blocks of an encoder level; a decoder level has one more.
    pub layers: usize,
    /// Groups of the norms.
    pub groups: usize,
    /// Whether the mid blocks have attention.
    pub mid_attention: bool,
    /// Whether a 1x1 convolution follows the encoder.
    pub quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub post_quant_conv: bool,
    /// Factor of the latents.
    pub scaling_factor: f32,
}

impl VaeConfig {
    /// Reads a `config.json`.
    pub fn parse(values: &Value) -> Result<Self, ConfigError> {
        let config = Config::new("vae", values)?;
        config.only("act_fn", &[json!("silu"), json!("swish")])?;
        config.only("shift_factor", &[json!(0)])?;
        config.only("latents_mean", &[])?;
        config.only("latents_std", &[])?;
        let channels = match config.get("block_out_channels") {
            Some(_) => config.sizes("block_out_channels")?,
            None => vec![64],
        };
        check_blocks(config, "down_block_types", "DownEncoderBlock2D", channels.len())?;
        check_blocks(config, "up_block_types", "UpDecoderBlock2D", channels.len())?;
        let groups = config.size_or("norm_num_groups", 32)?;
        if let Some(other) = channels.iter().find(|&&channels| channels % groups != 0) {
            return Err(config.error(
                "norm_num_groups",
                format!("a divisor of the {other} channels of a level"),
                groups,
            ));
        }
        let scaling_factor = config.number_or("scaling_factor", 0.18215)? as f32;
        if scaling_factor == 0.0 {
            return Err(config.error("scaling_factor", "a number other than 0", scaling_factor));
        }
        Ok(Self {
            in_channels: config.size_or("in_channels", 3)?,
            out_channels: config.size_or("out_channels", 3)?,
            latent_channels: config.size_or("latent_channels", 4)?,
            channels,
            layers: config.size_or("layers_per_block", 1)?,
            groups,
            mid_attention: config.flag_or("mid_block_add_attention", true)?,
            quant_conv: config.flag_or("use_quant_conv", true)?,
            post_quant_conv: config.flag_or("use_post_quant_conv", true)?,
            scaling_factor,
        })
    }
}

fn check_blocks(config: Config<'_>, key: &str, known: &str, count: usize) -> Result<(), ConfigError> {
    let types = match config.get(key) {
        Some(_) => config.texts(key)?,
        None => vec![known],
    };
    match types.iter().find(|&&name| name != known) {
        Some(other) => Err(config.error(key, format!("`{known}`"), format!("`{other}`"))),
        None if types.len() != count => {
            Err(config.error(key, format!("{count} blocks, as many as block_out_channels"), types.len()))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_key() {
        for (key, value) in [
            ("down_block_types", json!(["AttnDownEncoderBlock2D"])),
            ("up_block_types", json!(["UpDecoderBlock2D", "UpDecoderBlock2D"])),
            ("shift_factor", json!(0.1)),
            ("latents_mean", json!([0.0])),
            ("norm_num_groups", json!(48)),
            ("scaling_factor", json!(0.0)),
        ] {
            assert_eq!(VaeConfig::parse(&json!({ key: value })).unwrap_err().key, key);
        }
        assert_eq!(VaeConfig::parse(&json!({})).unwrap().channels, [64]);
    }
}
