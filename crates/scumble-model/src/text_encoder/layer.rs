//! One layer of the text encoder, norms first:
//!
//! ```text
//! h += self_attn(layer_norm1 h)   (causal)
//! h += fc2(act(fc1(layer_norm2 h)))
//! ```

use std::sync::Arc;

use scumble_tensor::backend::Activation;
use scumble_tensor::ops::activation::activation;
use scumble_tensor::{Result, Tape, Var};

use super::config::TextEncoderConfig;
use crate::nn::{Attention, AttentionNames, AttentionSizes, LayerNorm, Projection, Scope, Tap};

pub(super) struct Layer {
    tap: Tap,
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    mlp_tap: Tap,
    fc1: Arc<Projection>,
    activation: Activation,
    fc2: Arc<Projection>,
}

impl Layer {
    pub(super) fn new(scope: &Scope<'_, '_>, config: &TextEncoderConfig) -> crate::Result<Self> {
        let TextEncoderConfig { width, heads, inner_width, eps, .. } = *config;
        let sizes = AttentionSizes { width, context: width, heads, bias: true, causal: true };
        let mlp = scope.at("mlp");
        Ok(Self {
            tap: scope.tap(),
            norm1: scope.at("layer_norm1").layer_norm(width, eps)?,
            attention: Attention::new(&scope.at("self_attn"), AttentionNames::CLIP, sizes)?,
            norm2: scope.at("layer_norm2").layer_norm(width, eps)?,
            mlp_tap: mlp.tap(),
            fc1: mlp.at("fc1").linear(width, inner_width, true)?,
            activation: config.activation,
            fc2: mlp.at("fc2").linear(inner_width, width, true)?,
        })
    }

    pub(super) fn forward(&self, tape: &Tape<'_>, h: &Var) -> Result<Var> {
        let h = self.attention.forward(tape, &self.norm1.forward(tape, h)?, None, Some(h))?;
        let hidden = self.fc1.forward(tape, &self.norm2.forward(tape, &h)?)?;
        let hidden = activation(tape, self.activation, &hidden)?;
        let y = self.mlp_tap.with_residual(tape, Some(&h), |h| self.fc2.forward_add(tape, &hidden, h))?;
        self.tap.show(&y);
        Ok(y)
    }
}
