//! Optimizers: from a gradient to a changed parameter. One file each, one line in [`build`].
//!
//! An optimizer keeps its state by parameter name, so that a checkpoint can hold it and another run take it up.
//! Rates come with every call: schedules and windows are the business of a [`Learner`].

mod adafactor;
mod adamw;
mod adamw8;
mod host;
pub mod learner;
mod lion;
mod per_parameter;
mod prodigy;
mod sgd;

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Param, Tensor};

pub use adafactor::Adafactor;
pub use adamw::AdamW;
pub use adamw8::AdamW8;
pub use learner::Learner;
pub use lion::Lion;
pub use per_parameter::PerParameter;
pub use prodigy::Prodigy;
pub use sgd::Sgd;

use crate::config::{OptimizerKind, Train};
use crate::error::Result;

/// Changes parameters along their gradients.
pub trait Optimizer: Send {
    /// Opens an update: called once before the parameters.
    fn begin(&mut self);
    /// Changes one parameter. `scale` multiplies the gradient (clipping).
    fn update(
        &mut self,
        backend: &dyn Backend,
        param: &Param,
        gradient: &Tensor,
        lr: f64,
        scale: f64,
    ) -> Result<()>;
    /// Closes an update: for optimizers that must have seen all gradients before they change anything.
    fn end(&mut self, _backend: &dyn Backend) -> Result<()> {
        Ok(())
    }
    /// The rate that `lr` amounts to; optimizers that find theirs themselves take `lr` as a factor of it.
    fn effective_rate(&self, lr: f64) -> f64 {
        lr
    }
    /// Everything that the next update depends on, by name, as host tensors.
    fn state(&self, backend: &dyn Backend) -> Result<BTreeMap<String, Tensor>>;
    /// Takes up a state that [`Optimizer::state`] gave, for these parameters.
    fn restore(
        &mut self,
        backend: &dyn Backend,
        params: &[Param],
        state: &BTreeMap<String, Tensor>,
    ) -> Result<()>;
}

/// The optimizer that a configuration asks for, with this weight decay.
pub fn build(config: &Train, weight_decay: f64) -> Box<dyn Optimizer> {
    let betas = [config.beta1, config.beta2.unwrap_or(config.optimizer.usual_beta2())];
    match config.optimizer {
        OptimizerKind::AdamW => Box::new(AdamW::new(betas, config.eps, weight_decay)),
        OptimizerKind::AdamW8 => Box::new(AdamW8::new(betas, config.eps, weight_decay)),
        OptimizerKind::Adafactor => Box::new(Adafactor::new(weight_decay)),
        OptimizerKind::Lion => Box::new(Lion::new(betas, weight_decay)),
        OptimizerKind::Prodigy => Box::new(Prodigy::new(betas, config.eps, weight_decay, config.d_coef)),
        OptimizerKind::Sgd => Box::new(Sgd::new(weight_decay)),
    }
}
