//! Rates of single parameters: any optimizer, with what it is given multiplied by a factor for each name.
//!
//! LoRA+ and rates by block are nothing but such factors.

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Param, Tensor};

use super::Optimizer;
use crate::error::Result;

/// See the module's text.
pub struct PerParameter {
    inner: Box<dyn Optimizer>,
    factors: BTreeMap<String, f64>,
}

impl PerParameter {
    /// Factors by parameter name; a parameter without one has the rate as it is.
    pub fn new(inner: Box<dyn Optimizer>, factors: BTreeMap<String, f64>) -> Self {
        Self { inner, factors }
    }
}

impl Optimizer for PerParameter {
    fn begin(&mut self) {
        self.inner.begin();
    }

    fn update(
        &mut self,
        backend: &dyn Backend,
        param: &Param,
        gradient: &Tensor,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        let factor = self.factors.get(param.name()).copied().unwrap_or(1.0);
        self.inner.update(backend, param, gradient, lr * factor, scale)
    }

    fn end(&mut self, backend: &dyn Backend) -> Result<()> {
        self.inner.end(backend)
    }

    fn effective_rate(&self, lr: f64) -> f64 {
        self.inner.effective_rate(lr)
    }

    fn state(&self, backend: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
        self.inner.state(backend)
    }

    fn restore(
        &mut self,
        backend: &dyn Backend,
        params: &[Param],
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        self.inner.restore(backend, params, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::Sgd;
    use scumble_tensor::reference::ReferenceBackend;

    #[test]
    fn each_parameter_has_its_own_rate() {
        let param = |name| Param::trainable(name, Tensor::from_slice(&[1f32], &[1]).unwrap());
        let params = [param("a"), param("b"), param("c")];
        let factors = BTreeMap::from([("b".to_owned(), 4.0), ("c".to_owned(), 0.5)]);
        let mut optimizer = PerParameter::new(Box::new(Sgd::new(0.0)), factors);
        optimizer.begin();
        let gradient = Tensor::from_slice(&[1f32], &[1]).unwrap();
        for param in &params {
            optimizer.update(&ReferenceBackend, param, &gradient, 0.125, 1.0).unwrap();
        }
        optimizer.end(&ReferenceBackend).unwrap();
        assert_eq!(params.map(|param| param.value().to_vec::<f32>().unwrap()[0]), [0.875, 0.5, 0.9375]);
    }
}
