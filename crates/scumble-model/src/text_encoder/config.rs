//! The text encoder's `config.json`, with transformers' defaults.

use scumble_tensor::backend::Activation;
use serde_json::{Value, json};

use crate::nn::{Config, ConfigError};

/// How the end of a prompt is found among its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndToken {
    /// The first occurrence of the largest id: what published Stable Diffusion configurations mean by their wrong
    /// `eos_token_id` of 2 (huggingface/transformers pull request 24773).
    Largest,
    /// The first occurrence of this id.
    Id(i64),
}

impl EndToken {
    /// Index of the end in `ids`; 0 where there is none.
    pub fn position(self, ids: &[i64]) -> usize {
        let end = match self {
            EndToken::Largest => ids.iter().copied().max(),
            EndToken::Id(id) => Some(id),
        };
        ids.iter().position(|&id| Some(id) == end).unwrap_or(0)
    }
}

/// Sizes of a text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct TextEncoderConfig {
    /// Rows of the token table.
    pub vocabulary: usize,
    /// Width of the states.
    pub width: usize,
    /// Width inside the feed-forward.
    pub inner_width: usize,
    /// Width of the projected pooled state, where there is one.
    pub projection_width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of the attentions.
    pub heads: usize,
    /// Most tokens of a prompt.
    pub positions: usize,
    /// Nonlinearity of the feed-forward.
    pub activation: Activation,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Where the pooled state is taken.
    pub end: EndToken,
}

impl TextEncoderConfig {
    /// Reads a `config.json`; that of a whole CLIP model has the text encoder's under `text_config`.
    pub fn parse(values: &Value) -> Result<Self, ConfigError> {
        let whole = Config::new("text encoder", values)?;
        let config = whole.get("text_config").map_or(Ok(whole), |text| Config::new("text encoder", text))?;
        let width = config.size_or("hidden_size", 512)?;
        let heads = config.size_or("num_attention_heads", 8)?;
        if width % heads != 0 {
            return Err(config.error(
                "num_attention_heads",
                format!("a divisor of hidden_size ({width})"),
                heads,
            ));
        }
        let gelus = [json!("quick_gelu"), json!("gelu")];
        config.only("hidden_act", &gelus)?;
        let is_quick = config.text_or("hidden_act", "quick_gelu")? == "quick_gelu";
        let end = config.number_or("eos_token_id", 49407.0)? as i64;
        Ok(Self {
            vocabulary: config.size_or("vocab_size", 49408)?,
            width,
            inner_width: config.size_or("intermediate_size", 2048)?,
            projection_width: config.size_or("projection_dim", 512)?,
            layers: config.size_or("num_hidden_layers", 12)?,
            heads,
            positions: config.size_or("max_position_embeddings", 77)?,
            activation: if is_quick { Activation::QuickGelu } else { Activation::Gelu },
            eps: config.number_or("layer_norm_eps", 1e-5)? as f32,
            end: if end == 2 { EndToken::Largest } else { EndToken::Id(end) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prompt() {
        assert_eq!(EndToken::Largest.position(&[7, 3, 9, 9, 0]), 2);
        assert_eq!(EndToken::Id(3).position(&[7, 3, 9, 3]), 1);
        assert_eq!(EndToken::Id(5).position(&[7, 3]), 0);
    }

    #[test]
    fn defaults_and_refusals() {
        let config = TextEncoderConfig::parse(&json!({"text_config": {"hidden_act": "gelu"}})).unwrap();
        assert_eq!((config.activation, config.layers), (Activation::Gelu, 12));
        assert_eq!(config.end, EndToken::Id(49407));
        assert_eq!(TextEncoderConfig::parse(&json!({"hidden_act": "relu"})).unwrap_err().key, "hidden_act");
        let error = TextEncoderConfig::parse(&json!({"num_attention_heads": 7})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "text encoder: `num_attention_heads` is 7, expected a divisor of hidden_size (512)"
        );
    }
}
