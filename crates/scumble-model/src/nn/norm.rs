//! Normalisations: group norm over pictures (optionally with the SiLU that follows) and layer norm over tokens.

use scumble_tensor::backend::GroupNormSpec;
use scumble_tensor::ops::{group_norm::group_norm, layer_norm::layer_norm};
use scumble_tensor::{Param, Result, Tape, Var};

use super::observe::Tap;

/// Group norm with learned scale and shift, over `[n, h, w, c]` or `[n, tokens, c]`.
pub struct GroupNorm {
    pub(super) tap: Tap,
    pub(super) gamma: Param,
    pub(super) beta: Param,
    pub(super) groups: usize,
    pub(super) eps: f32,
}

impl GroupNorm {
    /// The normalised `x`.
    pub fn forward(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        let y = self.compute(tape, x, false)?;
        self.tap.show(&y);
        Ok(y)
    }

    /// SiLU of the normalised `x`, in one pass.
    pub fn forward_silu(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        if self.tap.is_wanted() {
            self.tap.show(&self.compute(tape, x, false)?);
        }
        self.compute(tape, x, true)
    }

    fn compute(&self, tape: &Tape<'_>, x: &Var, silu: bool) -> Result<Var> {
        let spec = GroupNormSpec { groups: self.groups, eps: self.eps, silu };
        group_norm(tape, x, &tape.param(&self.gamma), &tape.param(&self.beta), spec)
    }
}

/// Layer norm with learned scale and shift, over the last dimension.
pub struct LayerNorm {
    pub(super) tap: Tap,
    pub(super) gamma: Param,
    pub(super) beta: Param,
    pub(super) eps: f32,
}

impl LayerNorm {
    /// The normalised `x`.
    pub fn forward(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        let y = layer_norm(tape, x, &tape.param(&self.gamma), &tape.param(&self.beta), self.eps)?;
        self.tap.show(&y);
        Ok(y)
    }
}
