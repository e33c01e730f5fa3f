//! Multi-head attention with its four projections: the text encoder's, the UNet's (self and cross) and the VAE's.
//!
//! ```text
//! out( softmax(q k^T / sqrt(head width)) v ),   q = Q x,  k = K c,  v = V c,   c = context, or x itself
//! ```

use std::sync::Arc;

use scumble_tensor::backend::AttentionSpec;
use scumble_tensor::ops::attention::attention;
use scumble_tensor::{Result, Tape, Var};

use super::loader::Scope;
use super::observe::Tap;
use super::projection::Projection;

/// What a model calls the four projections.
#[derive(Clone, Copy)]
pub struct AttentionNames {
    /// Queries.
    pub q: &'static str,
    /// Keys.
    pub k: &'static str,
    /// Values.
    pub v: &'static str,
    /// Output.
    pub out: &'static str,
}

impl AttentionNames {
    /// `to_q`, `to_k`, `to_v`, `to_out.0`.
    pub const DIFFUSERS: Self = Self { q: "to_q", k: "to_k", v: "to_v", out: "to_out.0" };
    /// `q_proj`, `k_proj`, `v_proj`, `out_proj`.
    pub const CLIP: Self = Self { q: "q_proj", k: "k_proj", v: "v_proj", out: "out_proj" };
}

/// Widths and heads of an attention; see the fields.
#[derive(Clone, Copy)]
pub struct AttentionSizes {
    /// Width of input, output and, with all heads side by side, queries.
    pub width: usize,
    /// Width of what keys and values are made from.
    pub context: usize,
    /// Number of heads; divides the width.
    pub heads: usize,
    /// Whether queries, keys and values have a bias (the output has one always).
    pub bias: bool,
    /// Whether a position sees only itself and what is before.
    pub causal: bool,
}

/// See the module's text.
pub struct Attention {
    tap: Tap,
    q: Arc<Projection>,
    k: Arc<Projection>,
    v: Arc<Projection>,
    out: Arc<Projection>,
    spec: AttentionSpec,
}

impl Attention {
    /// The attention at `scope`.
    pub fn new(scope: &Scope<'_, '_>, names: AttentionNames, sizes: AttentionSizes) -> crate::Result<Self> {
        let AttentionSizes { width, context, heads, bias, causal } = sizes;
        let head_width = width / heads.max(1);
        Ok(Self {
            tap: scope.tap(),
            q: scope.at(names.q).linear(width, width, bias)?,
            k: scope.at(names.k).linear(context, width, bias)?,
            v: scope.at(names.v).linear(context, width, bias)?,
            out: scope.at(names.out).linear(width, width, true)?,
            spec: AttentionSpec { heads, scale: 1.0 / (head_width as f32).sqrt(), causal },
        })
    }

    /// `x [n, tokens, width]`, `context [n, keys, context width]` or none for self-attention; plus `residual`.
    pub fn forward(
        &self,
        tape: &Tape<'_>,
        x: &Var,
        context: Option<&Var>,
        residual: Option<&Var>,
    ) -> Result<Var> {
        let context = context.unwrap_or(x);
        let q = self.q.forward(tape, x)?;
        let k = self.k.forward(tape, context)?;
        let v = self.v.forward(tape, context)?;
        let mixed = attention(tape, &q, &k, &v, self.spec)?;
        self.tap.with_residual(tape, residual, |residual| self.out.forward_add(tape, &mixed, residual))
    }
}
