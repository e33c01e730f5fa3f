//! Plain gradient descent with weight decay, as `torch.optim.SGD` without momentum: `p -= lr (g + wd p)`.
//!
//! It has no state.

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Param, Tensor};

use super::Optimizer;
use crate::error::Result;

/// Gradient descent.
pub struct Sgd {
    weight_decay: f64,
}

impl Sgd {
    /// With this pull towards zero.
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay }
    }
}

impl Optimizer for Sgd {
    fn begin(&mut self) {}

    fn update(
        &mut self,
        backend: &dyn Backend,
        param: &Param,
        gradient: &Tensor,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        let mut value = param.value();
        if self.weight_decay != 0.0 {
            value = backend.scale(&value, (1.0 - lr * self.weight_decay) as f32)?;
        }
        param.set(backend.add_scaled(&value, gradient, (-lr * scale) as f32)?);
        Ok(())
    }

    fn state(&self, _: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
        Ok(BTreeMap::new())
    }

    fn restore(&mut self, _: &dyn Backend, _: &[Param], _: &BTreeMap<String, Tensor>) -> Result<()> {
        Ok(())
    }
}
