//! Vectors of the base that an adapter adds to: biases, and the weights of norms.
//!
//! There is no branch for them, so the numbers themselves change: `v = base + strength * diff`. At strength 0 and when
//! taken off, the base's own tensor is put back, unless another adapter has changed it in the meantime; then the
//! difference is taken off by subtraction.

use std::sync::{Mutex, PoisonError};

use scumble_tensor::{Param, Tensor};

use crate::error::Result;
use crate::table::Tower;

/// One vector, its difference and what was last put there.
pub(crate) struct Rows {
    pub tower: Tower,
    /// The module's path, with its tower.
    pub path: String,
    param: Param,
    diff: Vec<f32>,
    state: Mutex<State>,
}

struct State {
    /// What was there before, and on top of which `strength * diff` stands.
    base: Tensor,
    /// What we put there.
    own: Tensor,
    strength: f32,
}

impl Rows {
    /// Checks the sizes; nothing is changed yet. Errors where the base's vector is not in host memory.
    pub fn prepare(tower: Tower, path: &str, param: &Param, diff: &Tensor) -> Result<Self> {
        let base = param.value();
        base.bytes()?;
        let diff = diff.reshape(base.dims())?.to_vec::<f32>()?;
        let state = Mutex::new(State { own: base.clone(), base, strength: 0.0 });
        Ok(Self { tower, path: path.into(), param: param.clone(), diff, state })
    }

    /// Puts `base + strength * diff` there.
    pub fn set_strength(&self, strength: f32) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if strength == state.strength {
            return;
        }
        let current = self.param.value();
        if !current.shares_memory_with(&state.own) && !current.shares_memory_with(&state.base) {
            // Another adapter stands on top of ours: move by the difference alone.
            let step = strength - state.strength;
            if let Some(moved) = self.sum(&current, step) {
                self.param.set(moved);
                state.strength = strength;
            }
            return;
        }
        let value = if strength == 0.0 { Some(state.base.clone()) } else { self.sum(&state.base, strength) };
        if let Some(value) = value {
            state.own = value.clone();
            self.param.set(value);
            state.strength = strength;
        }
    }

    /// Takes the difference off.
    pub fn remove(&self) {
        self.set_strength(0.0);
    }

    /// `None` only for a tensor that is not in host memory, which `prepare` refuses.
    fn sum(&self, base: &Tensor, strength: f32) -> Option<Tensor> {
        let values = base.to_vec::<f32>().ok()?;
        let sum: Vec<f32> = values.iter().zip(&self.diff).map(|(v, d)| v + strength * d).collect();
        Tensor::from_slice(&sum, base.dims()).ok()?.to_dtype(base.dtype()).ok()
    }
}
