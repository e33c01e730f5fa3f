//! Lion (Chen et al. 2023, algorithm 2): the sign of a mean of gradients, and nothing else.
//!
//! ```text
//! c = b1 m + (1 - b1) g        p -= lr wd p        p -= lr sign(c)        m = b2 m + (1 - b2) g
//! ```
//!
//! Every element moves by `lr`, so the rate is a third to a tenth of AdamW's. State: `lion.m.<name>`.

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Param, Tensor};

use super::{Optimizer, host};
use crate::error::Result;

/// Lion with its mean of gradients.
pub struct Lion {
    betas: [f32; 2],
    weight_decay: f64,
    means: BTreeMap<String, Vec<f32>>,
}

impl Lion {
    /// Fresh.
    pub fn new(betas: [f64; 2], weight_decay: f64) -> Self {
        Self { betas: betas.map(|beta| beta as f32), weight_decay, means: BTreeMap::new() }
    }
}

impl Optimizer for Lion {
    fn begin(&mut self) {}

    fn update(
        &mut self,
        backend: &dyn Backend,
        param: &Param,
        gradient: &Tensor,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        let (mut values, gradient) = host::values(backend, param, gradient, scale)?;
        let means = self.means.entry(param.name().to_owned()).or_insert_with(|| vec![0.0; values.len()]);
        let ([b1, b2], kept) = (self.betas, (1.0 - lr * self.weight_decay) as f32);
        for ((value, &g), mean) in values.iter_mut().zip(&gradient).zip(means) {
            let c = b1 * *mean + (1.0 - b1) * g;
            let sign = if c > 0.0 {
                1.0
            } else if c < 0.0 {
                -1.0
            } else {
                0.0
            };
            *value = kept * *value - lr as f32 * sign;
            *mean = b2 * *mean + (1.0 - b2) * g;
        }
        host::set(backend, param, &values)
    }

    fn state(&self, _: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, mean) in &self.means {
            host::put(&mut state, format!("lion.m.{name}"), mean)?;
        }
        Ok(state)
    }

    fn restore(&mut self, _: &dyn Backend, params: &[Param], state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.means.clear();
        for param in params.iter().filter(|param| host::knows(state, "lion.m.", param)) {
            let key = format!("lion.m.{}", param.name());
            self.means.insert(param.name().to_owned(), host::take(state, &key, param.value().numel())?);
        }
        Ok(())
    }
}
