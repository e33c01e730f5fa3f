//! The transformer inside the UNet (diffusers' `Transformer2DModel` over `BasicTransformerBlock`s):
//!
//! ```text
//! x + proj_out(blocks(proj_in(norm x)))
//! block:  h += attn1(norm1 h);   h += attn2(norm2 h, text);   h += ff(norm3 h)
//! ff:     net.2(geglu(net.0.proj h)), four times the width inside
//! ```
//!
//! A picture `[n, h, w, c]` and its tokens `[n, h * w, c]` are the same memory.

use std::sync::Arc;

use scumble_tensor::backend::{Conv2dSpec, Padding};
use scumble_tensor::ops::geglu::geglu;
use scumble_tensor::{Error, Result, Tape, Var};

use super::config::{Level, UNetConfig};
use crate::nn::{Attention, AttentionNames, AttentionSizes, GroupNorm, LayerNorm, Projection, Scope, Tap};

/// Epsilon of the transformer's group norm; fixed in diffusers.
const NORM_EPS: f32 = 1e-6;

/// Epsilon of the blocks' layer norms; fixed in diffusers.
const LAYER_NORM_EPS: f32 = 1e-5;

pub(super) struct Transformer {
    tap: Tap,
    norm: GroupNorm,
    proj_in: Arc<Projection>,
    blocks: Vec<Block>,
    proj_out: Arc<Projection>,
}

impl Transformer {
    pub(super) fn new(scope: &Scope<'_, '_>, config: &UNetConfig, level: &Level) -> crate::Result<Self> {
        let channels = level.channels;
        // Heads that do not divide the channels make the inside narrower, as in diffusers.
        let inner = level.heads * (channels / level.heads);
        let project = |name: &str, inputs, outputs| {
            let pointwise = Conv2dSpec { stride: 1, padding: Padding::default() };
            if config.linear_projection {
                scope.at(name).linear(inputs, outputs, true)
            } else {
                scope.at(name).conv2d(inputs, outputs, 1, pointwise)
            }
        };
        let block = |index: usize| {
            let scope = scope.at("transformer_blocks").at(index);
            Block::new(&scope, inner, config.context_width(), level.heads)
        };
        Ok(Self {
            tap: scope.tap(),
            norm: scope.at("norm").group_norm(config.groups, channels, NORM_EPS)?,
            proj_in: project("proj_in", channels, inner)?,
            blocks: (0..level.transformer_layers).map(block).collect::<crate::Result<_>>()?,
            proj_out: project("proj_out", inner, channels)?,
        })
    }

    pub(super) fn forward<'m>(&'m self, tape: &Tape<'m>, x: &Var, states: &Var) -> Result<Var> {
        let [n, height, width, _] = x.value().nhwc("transformer")?;
        let tokens = height * width;
        let h = self.proj_in.forward(tape, &self.norm.forward(tape, x)?)?;
        let inner = h.value().shape().last();
        let mut h = h.reshape(&[n, tokens, inner])?;
        for block in &self.blocks {
            h = tape.checkpoint(&[&h, states], |tape, inputs| match inputs {
                [h, states] => block.forward(tape, h, states),
                _ => Err(Error::Tape("a transformer block has two inputs")),
            })?;
        }
        let h = h.reshape(&[n, height, width, inner])?;
        let y = self.proj_out.forward_add(tape, &h, Some(x))?;
        self.tap.show(&y);
        Ok(y)
    }
}

struct Block {
    tap: Tap,
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl Block {
    fn new(scope: &Scope<'_, '_>, width: usize, context: usize, heads: usize) -> crate::Result<Self> {
        let attention = |name: &str, context| {
            let sizes = AttentionSizes { width, context, heads, bias: false, causal: false };
            Attention::new(&scope.at(name), AttentionNames::DIFFUSERS, sizes)
        };
        Ok(Self {
            tap: scope.tap(),
            norm1: scope.at("norm1").layer_norm(width, LAYER_NORM_EPS)?,
            attn1: attention("attn1", width)?,
            norm2: scope.at("norm2").layer_norm(width, LAYER_NORM_EPS)?,
            attn2: attention("attn2", context)?,
            norm3: scope.at("norm3").layer_norm(width, LAYER_NORM_EPS)?,
            ff: FeedForward::new(&scope.at("ff"), width)?,
        })
    }

    fn forward(&self, tape: &Tape<'_>, h: &Var, states: &Var) -> Result<Var> {
        let h = self.attn1.forward(tape, &self.norm1.forward(tape, h)?, None, Some(h))?;
        let h = self.attn2.forward(tape, &self.norm2.forward(tape, &h)?, Some(states), Some(&h))?;
        let h = self.ff.forward_add(tape, &self.norm3.forward(tape, &h)?, &h)?;
        self.tap.show(&h);
        Ok(h)
    }
}

struct FeedForward {
    tap: Tap,
    gate_tap: Tap,
    gate: Arc<Projection>,
    out: Arc<Projection>,
}

impl FeedForward {
    fn new(scope: &Scope<'_, '_>, width: usize) -> crate::Result<Self> {
        let net = scope.at("net");
        Ok(Self {
            tap: scope.tap(),
            gate_tap: net.at(0).tap(),
            gate: net.at("0.proj").linear(width, 8 * width, true)?,
            out: net.at(2).linear(4 * width, width, true)?,
        })
    }

    fn forward_add(&self, tape: &Tape<'_>, x: &Var, residual: &Var) -> Result<Var> {
        let hidden = geglu(tape, &self.gate.forward(tape, x)?)?;
        self.gate_tap.show(&hidden);
        self.tap.with_residual(tape, Some(residual), |residual| self.out.forward_add(tape, &hidden, residual))
    }
}
