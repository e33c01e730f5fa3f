//! Optimizers: from a gradient to a changed parameter. One file each, one line in [`build`].
//!
//! An optimizer keeps its state by parameter name, so that a checkpoint can hold it and another run take it up.
//! Rates come with every call: schedules and parameter groups are the loop's business.

mod adamw;
pub mod learner;
mod sgd;

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Gradients, Param, Tensor};

pub use adamw::AdamW;
pub use learner::Learner;
pub use sgd::Sgd;

use crate::config::{OptimizerKind, Train};
use crate::error::Result;

/// Parameters that share a learning rate.
#[derive(Clone, Debug)]
pub struct Group {
    /// For logs: `unet`, `text_encoder`.
    pub name: String,
    /// Base rate; the schedule's factor multiplies it.
    pub lr: f64,
    /// In a fixed order.
    pub params: Vec<Param>,
}

/// Changes parameters along their gradients.
pub trait Optimizer: Send {
    /// Opens an update: called once before the parameters of all groups.
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
    match config.optimizer {
        OptimizerKind::AdamW => Box::new(AdamW::new([config.beta1, config.beta2], config.eps, weight_decay)),
        OptimizerKind::Sgd => Box::new(Sgd::new(weight_decay)),
    }
}

/// One update of all groups: every parameter that has a gradient, in order. `factor` is the schedule's.
pub fn apply(
    optimizer: &mut dyn Optimizer,
    backend: &dyn Backend,
    groups: &[Group],
    mut gradients: Gradients,
    factor: f64,
    scale: f64,
) -> Result<()> {
    optimizer.begin();
    for group in groups {
        for param in &group.params {
            if let Some(gradient) = gradients.take(param.id()) {
                optimizer.update(backend, param, &gradient, group.lr * factor, scale)?;
            }
        }
    }
    optimizer.end(backend)
}
