//! What a built model is made of, by diffusers path: for adapters, optimizers and writers.

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_tensor::{Backend, Param, Result, Tensor};

use super::layout::to_file_layout;
use super::observe::{Observer, Slot};
use super::projection::Projection;

/// The projections and parameters of a model, and its observer.
pub struct Modules {
    pub(super) projections: BTreeMap<String, Arc<Projection>>,
    pub(super) params: Vec<Param>,
    pub(super) slot: Arc<Slot>,
}

impl Modules {
    /// Every linear layer and convolution, by path.
    pub fn projections(&self) -> &BTreeMap<String, Arc<Projection>> {
        &self.projections
    }

    /// Every parameter of the base, named as diffusers names it, in the order of construction.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Lets `observer` see module outputs from now on; `None` ends that.
    pub fn set_observer(&self, observer: Option<Arc<dyn Observer>>) {
        self.slot.set(observer);
    }

    /// A parameter's value on the host, in the layout of files.
    pub fn export(backend: &dyn Backend, param: &Param) -> Result<Tensor> {
        to_file_layout(&backend.download(&param.value())?)
    }

    /// Takes every adapter off.
    pub fn detach_all(&self) {
        self.projections.values().for_each(|projection| projection.detach_all());
    }
}
