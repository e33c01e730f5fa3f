//! AdamW (Loshchilov & Hutter 2019), as `torch.optim.AdamW` computes it; moments are f32.
//!
//! ```text
//! m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2        p -= lr wd p
//! p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)
//! ```
//!
//! State: `adamw.step` i64 `[]`, and for each parameter `adamw.m.<name>`, `adamw.v.<name>`.

use std::collections::BTreeMap;

use scumble_tensor::backend::AdamWStep;
use scumble_tensor::{Backend, DType, Param, Tensor};

use super::Optimizer;
use crate::error::{Result, TrainError};

/// AdamW with its moments.
pub struct AdamW {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    step: u64,
    moments: BTreeMap<String, [Tensor; 2]>,
}

impl AdamW {
    /// Fresh: no update made yet.
    pub fn new(betas: [f64; 2], eps: f64, weight_decay: f64) -> Self {
        Self { betas, eps, weight_decay, step: 0, moments: BTreeMap::new() }
    }
}

impl Optimizer for AdamW {
    fn begin(&mut self) {
        self.step += 1;
    }

    fn update(
        &mut self,
        backend: &dyn Backend,
        param: &Param,
        gradient: &Tensor,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        if !self.moments.contains_key(param.name()) {
            let zeros = || backend.upload(&Tensor::zeros(DType::F32, gradient.dims())?);
            self.moments.insert(param.name().to_owned(), [zeros()?, zeros()?]);
        }
        let Some([m, v]) = self.moments.get_mut(param.name()) else { return Ok(()) };
        let step = AdamWStep {
            lr,
            beta1: self.betas[0],
            beta2: self.betas[1],
            eps: self.eps,
            weight_decay: self.weight_decay,
            step: self.step,
            grad_scale: scale,
        };
        Ok(param.update(|value| backend.adamw(value, gradient, m, v, &step))?)
    }

    fn state(&self, backend: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::from([("adamw.step".to_owned(), Tensor::scalar(self.step as i64)?)]);
        for (name, [m, v]) in &self.moments {
            state.insert(format!("adamw.m.{name}"), backend.download(m)?);
            state.insert(format!("adamw.v.{name}"), backend.download(v)?);
        }
        Ok(state)
    }

    fn restore(
        &mut self,
        backend: &dyn Backend,
        params: &[Param],
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let lacking = |key: &str| TrainError::Mismatch {
            what: format!("optimizer state `{key}`"),
            expected: "a tensor".to_owned(),
            found: "nothing".to_owned(),
        };
        let step = state.get("adamw.step").ok_or_else(|| lacking("adamw.step"))?;
        self.step = step.item::<i64>()?.max(0) as u64;
        self.moments.clear();
        for param in params {
            // A parameter that has had no gradient yet has no moments: they are zero.
            let known = |kind: &str| state.contains_key(&format!("adamw.{kind}.{}", param.name()));
            if !known("m") && !known("v") {
                continue;
            }
            let take = |kind: &str| {
                let key = format!("adamw.{kind}.{}", param.name());
                let tensor = state.get(&key).ok_or_else(|| lacking(&key))?;
                let value = param.value();
                if tensor.dims() != value.dims() || tensor.dtype() != DType::F32 {
                    return Err(TrainError::Mismatch {
                        what: format!("optimizer state `{key}`"),
                        expected: format!("f32 {}", value.shape()),
                        found: format!("{} {}", tensor.dtype(), tensor.shape()),
                    });
                }
                // A copy of its own: the update works in place and must not find the checkpoint's memory shared.
                Ok(backend.upload(&Tensor::from_slice(tensor.as_slice::<f32>()?, tensor.dims())?)?)
            };
            self.moments.insert(param.name().to_owned(), [take("m")?, take("v")?]);
        }
        Ok(())
    }
}
