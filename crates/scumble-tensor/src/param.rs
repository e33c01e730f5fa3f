//! Parameters: named tensors that an optimizer may change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::Result;
use crate::tape::LeafId;
use crate::tensor::Tensor;

/// A named weight of a model or an adapter, shared between the model that uses it and the optimizer that changes it.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

struct Inner {
    id: LeafId,
    name: String,
    value: RwLock<Tensor>,
    trainable: AtomicBool,
}

impl Param {
    /// A frozen parameter; `name` is its path in the model.
    pub fn frozen(name: impl Into<String>, value: Tensor) -> Self {
        Self(Arc::new(Inner {
            id: LeafId::fresh(),
            name: name.into(),
            value: RwLock::new(value),
            trainable: AtomicBool::new(false),
        }))
    }

    /// A parameter that gradients are computed for.
    pub fn trainable(name: impl Into<String>, value: Tensor) -> Self {
        let param = Self::frozen(name, value);
        param.set_trainable(true);
        param
    }

    /// The key of its gradient.
    pub fn id(&self) -> LeafId {
        self.0.id
    }

    /// Its path in the model.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether gradients are computed for it.
    pub fn is_trainable(&self) -> bool {
        self.0.trainable.load(Ordering::Relaxed)
    }

    /// Turns gradients on or off.
    pub fn set_trainable(&self, trainable: bool) {
        self.0.trainable.store(trainable, Ordering::Relaxed);
    }

    /// The current value (shared, not copied). Drop it before [`Param::update`], or the update copies.
    pub fn value(&self) -> Tensor {
        self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the value.
    pub fn set(&self, value: Tensor) {
        *self.0.value.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Changes the value in place.
    pub fn update<R>(&self, change: impl FnOnce(&mut Tensor) -> Result<R>) -> Result<R> {
        change(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Param({}, {:?})", self.name(), self.value())
    }
}
