//! One layer of CLIP's encoders, norms first:
//!
//! ```text
//! h += self_attn(layer_norm1 h)   (causal in the text encoder)
//! h += fc2(act(fc1(layer_norm2 h)))
//! ```

use std::sync::Arc;

use scumble_tensor::backend::Activation;
use scumble_tensor::ops::activation::activation;
use scumble_tensor::{Result, Tape, Var};

use crate::nn::{Attention, AttentionNames, AttentionSizes, LayerNorm, Projection, Scope, Tap};

/// Sizes of a layer.
#[derive(Clone, Copy)]
pub(crate) struct LayerSizes {
    pub(crate) width: usize,
    pub(crate) inner_width: usize,
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    pub(crate) eps: f32,
    pub(crate) causal: bool,
}

pub(crate) struct Layer {
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
    pub(crate) fn new(scope: &Scope<'_, '_>, sizes: LayerSizes) -> crate::Result<Self> {
        let LayerSizes { width, inner_width, heads, activation, eps, causal } = sizes;
        let sizes = AttentionSizes { width, context: width, heads, bias: true, causal };
        let mlp = scope.at("mlp");
        Ok(Self {
            tap: scope.tap(),
            norm1: scope.at("layer_norm1").layer_norm(width, eps)?,
            attention: Attention::new(&scope.at("self_attn"), AttentionNames::CLIP, sizes)?,
            norm2: scope.at("layer_norm2").layer_norm(width, eps)?,
            mlp_tap: mlp.tap(),
            fc1: mlp.at("fc1").linear(width, inner_width, true)?,
            activation,
            fc2: mlp.at("fc2").linear(inner_width, width, true)?,
        })
    }

    pub(crate) fn forward(&self, tape: &Tape<'_>, h: &Var) -> Result<Var> {
        let h = self.attention.forward(tape, &self.norm1.forward(tape, h)?, None, Some(h))?;
        let hidden = self.fc1.forward(tape, &self.norm2.forward(tape, &h)?)?;
        let hidden = activation(tape, self.activation, &hidden)?;
        let y = self.mlp_tap.with_residual(tape, Some(&h), |h| self.fc2.forward_add(tape, &hidden, h))?;
        self.tap.show(&y);
        Ok(y)
    }
}
