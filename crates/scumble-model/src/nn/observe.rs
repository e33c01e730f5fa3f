//! Looking inside a model: the output of any module, by its diffusers path.
//!
//! Every module owns a [`Tap`], all taps of a model share one slot for an observer. Without an observer a tap is one
//! relaxed load of a flag. Modules whose output exists only fused with what follows (a norm with its SiLU, a
//! projection with the residual it is added to) compute it apart while somebody looks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use scumble_tensor::ops::add::add;
use scumble_tensor::{Result, Tape, Tensor, Var};

/// Receives module outputs.
pub trait Observer: Send + Sync {
    /// Whether the output of the module at `path` is of interest.
    fn wants(&self, path: &str) -> bool;
    /// The output of the module at `path`, channels-last, on the model's device.
    fn observe(&self, path: &str, output: &Tensor);
}

#[derive(Default)]
pub(super) struct Slot {
    present: AtomicBool,
    observer: RwLock<Option<Arc<dyn Observer>>>,
}

impl Slot {
    pub(super) fn set(&self, observer: Option<Arc<dyn Observer>>) {
        let mut slot = self.observer.write().unwrap_or_else(PoisonError::into_inner);
        self.present.store(observer.is_some(), Ordering::Release);
        *slot = observer;
    }
}

/// One module's end of the line to the observer.
pub struct Tap {
    path: String,
    slot: Arc<Slot>,
}

impl Tap {
    pub(super) fn new(path: impl Into<String>, slot: &Arc<Slot>) -> Self {
        Self { path: path.into(), slot: Arc::clone(slot) }
    }

    /// A tap nobody can listen to, for layers outside of a model.
    pub fn loose(path: impl Into<String>) -> Self {
        Self::new(path, &Arc::default())
    }

    /// The module's path.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn listener(&self) -> Option<Arc<dyn Observer>> {
        if !self.slot.present.load(Ordering::Acquire) {
            return None;
        }
        let observer = self.slot.observer.read().unwrap_or_else(PoisonError::into_inner);
        observer.clone().filter(|observer| observer.wants(&self.path))
    }

    /// Whether somebody wants this module's output.
    pub fn is_wanted(&self) -> bool {
        self.listener().is_some()
    }

    /// Shows an output, if somebody wants it.
    pub fn show(&self, output: &Var) {
        if let Some(observer) = self.listener() {
            observer.observe(&self.path, output.value());
        }
    }

    /// A module's output plus `residual`. `compute` fuses the sum when it is given the residual; when somebody wants
    /// the output itself it is computed without and the sum comes after.
    pub fn with_residual(
        &self,
        tape: &Tape<'_>,
        residual: Option<&Var>,
        compute: impl FnOnce(Option<&Var>) -> Result<Var>,
    ) -> Result<Var> {
        if !self.is_wanted() {
            return compute(residual);
        }
        let y = compute(None)?;
        self.show(&y);
        residual.map_or(Ok(y.clone()), |residual| add(tape, &y, residual))
    }
}

/// An observer that keeps the last output of each of the modules it was asked for.
pub struct Recorder {
    paths: Vec<String>,
    seen: Mutex<BTreeMap<String, Tensor>>,
}

impl Recorder {
    /// Listens to `paths`.
    pub fn new(paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect(), seen: Mutex::default() }
    }

    /// What was seen, by path; empties the recorder.
    pub fn take(&self) -> BTreeMap<String, Tensor> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Recorder {
    fn wants(&self, path: &str) -> bool {
        self.paths.iter().any(|wanted| wanted == path)
    }

    fn observe(&self, path: &str, output: &Tensor) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(path.to_owned(), output.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use scumble_tensor::reference::ReferenceBackend;

    use super::*;

    #[test]
    fn an_output_is_shown_without_the_residual_that_is_fused_to_it() {
        let slot = Arc::<Slot>::default();
        let tap = Tap::new("module", &slot);
        let tape = Tape::inference(Arc::new(ReferenceBackend));
        let value = |v: f32| Var::constant(Tensor::from_slice(&[v], &[1]).unwrap());
        let sum = |residual: Option<&Var>| residual.map_or(Ok(value(2.0)), |r| add(&tape, &value(2.0), r));
        let run = || tap.with_residual(&tape, Some(&value(3.0)), sum).unwrap().value().item::<f32>().unwrap();
        assert_eq!(run(), 5.0);
        let recorder = Arc::new(Recorder::new(["module"]));
        slot.set(Some(recorder.clone()));
        assert_eq!(run(), 5.0);
        assert_eq!(recorder.take()["module"].item::<f32>().unwrap(), 2.0);
        slot.set(None);
        assert_eq!(run(), 5.0);
        assert!(recorder.take().is_empty());
    }
}
