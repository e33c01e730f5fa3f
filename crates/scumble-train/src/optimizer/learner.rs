//! A part of the model that learns on terms of its own: factors of the UNet, factors of the text encoder, rows of new
//! tokens, whole weights.
//!
//! Each part has a rate, a schedule over its own window of updates, weight decay and an optimizer whose counters begin
//! with the window. Two-phase and single-loop pivotal tuning are nothing but such windows:
//!
//! ```text
//! update              0 ........ split ........ end
//! two phases          tokens ---->|unet, text ---->
//! single loop         tokens ---->|
//!                     unet, text ----------------->
//! ```
//!
//! Outside of its window a part gets no gradient and its values stay what they are, to the bit.

use std::collections::{BTreeMap, BTreeSet};

use scumble_tensor::{Backend, Gradients, LeafId, Param, Tensor};

use super::Optimizer;
use crate::error::Result;
use crate::lr_schedule::Schedule;

/// See the module's text.
pub struct Learner {
    /// For logs and checkpoints: `unet`, `text_encoder`, `tokens`.
    pub name: String,
    /// Base rate; the schedule multiplies it.
    pub lr: f64,
    /// Shape of the rate; its steps are those of the window.
    pub schedule: Schedule,
    /// First update that changes it.
    pub start: u64,
    /// The update before which it ends.
    pub stop: u64,
    /// In a fixed order.
    pub params: Vec<Param>,
    /// Changes them.
    pub optimizer: Box<dyn Optimizer>,
}

impl Learner {
    /// Whether update `done` (counted from 0) changes it.
    pub fn is_active(&self, done: u64) -> bool {
        (self.start..self.stop).contains(&done)
    }

    /// The rate of update `done`; 0 outside of the window.
    pub fn rate(&self, done: u64) -> f64 {
        if self.is_active(done) { self.lr * self.schedule.factor(done - self.start, self.lr) } else { 0.0 }
    }

    /// The rate of update `done` as the optimizer takes it.
    pub fn effective_rate(&self, done: u64) -> f64 {
        self.optimizer.effective_rate(self.rate(done))
    }

    fn apply(
        &mut self,
        backend: &dyn Backend,
        gradients: &mut Gradients,
        done: u64,
        scale: f64,
    ) -> Result<()> {
        let rate = self.rate(done);
        self.optimizer.begin();
        for param in &self.params {
            if let Some(gradient) = gradients.take(param.id()) {
                self.optimizer.update(backend, param, &gradient, rate, scale)?;
            }
        }
        self.optimizer.end(backend)
    }
}

/// Turns gradients on for what update `done` changes, and off for everything else.
pub fn focus(learners: &[Learner], done: u64) {
    let active: BTreeSet<LeafId> = learners
        .iter()
        .filter(|learner| learner.is_active(done))
        .flat_map(|learner| learner.params.iter().map(Param::id))
        .collect();
    for param in learners.iter().flat_map(|learner| &learner.params) {
        param.set_trainable(active.contains(&param.id()));
    }
}

/// The parameters that update `done` changes, each once.
pub fn active_params(learners: &[Learner], done: u64) -> Vec<Param> {
    distinct(learners.iter().filter(|learner| learner.is_active(done)))
}

/// All parameters, each once, in order.
pub fn all_params(learners: &[Learner]) -> Vec<Param> {
    distinct(learners.iter())
}

fn distinct<'l>(learners: impl Iterator<Item = &'l Learner>) -> Vec<Param> {
    let mut seen = BTreeSet::new();
    learners.flat_map(|learner| &learner.params).filter(|param| seen.insert(param.id())).cloned().collect()
}

/// Update `done` of every part whose window holds it.
pub fn apply(
    learners: &mut [Learner],
    backend: &dyn Backend,
    mut gradients: Gradients,
    done: u64,
    scale: f64,
) -> Result<()> {
    let active = learners.iter_mut().filter(|learner| learner.is_active(done));
    active.into_iter().try_for_each(|learner| learner.apply(backend, &mut gradients, done, scale))
}

/// State of all optimizers, as host tensors: `<part>/<key>`.
pub fn state(learners: &[Learner], backend: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
    let mut all = BTreeMap::new();
    for learner in learners {
        for (key, tensor) in learner.optimizer.state(backend)? {
            all.insert(format!("{}/{key}", learner.name), tensor);
        }
    }
    Ok(all)
}

/// Takes up what [`state`] gave. Checkpoints from before there were parts have keys without them.
pub fn restore(
    learners: &mut [Learner],
    backend: &dyn Backend,
    state: &BTreeMap<String, Tensor>,
) -> Result<()> {
    let of_one = state.keys().any(|key| key.starts_with("adamw."));
    for learner in learners {
        let prefix = format!("{}/", learner.name);
        let own = |(key, tensor): (&String, &Tensor)| {
            let key = if of_one { Some(key.as_str()) } else { key.strip_prefix(&prefix) };
            key.map(|key| (key.to_owned(), tensor.clone()))
        };
        let own: BTreeMap<String, Tensor> = state.iter().filter_map(own).collect();
        learner.optimizer.restore(backend, &learner.params, &own)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lr_schedule::ScheduleKind;
    use crate::optimizer::{AdamW, Sgd};
    use scumble_tensor::reference::ReferenceBackend;

    fn learner(name: &str, start: u64, stop: u64, param: &Param, adam: bool) -> Learner {
        let optimizer: Box<dyn Optimizer> =
            if adam { Box::new(AdamW::new([0.9, 0.999], 1e-8, 0.0)) } else { Box::new(Sgd::new(0.0)) };
        let schedule = Schedule {
            kind: ScheduleKind::Linear,
            warmup: 0,
            steps: stop - start,
            cycles: 1.0,
            power: 1.0,
            lr_end: 0.0,
        };
        let params = vec![param.clone()];
        Learner { name: name.into(), lr: 0.1, schedule, start, stop, params, optimizer }
    }

    fn gradients(params: &[&Param]) -> Gradients {
        let mut gradients = Gradients::default();
        for param in params {
            gradients
                .add(&ReferenceBackend, param.id(), Tensor::from_slice(&[1f32, -2.0], &[2]).unwrap())
                .unwrap();
        }
        gradients
    }

    fn param(name: &str) -> Param {
        Param::trainable(name, Tensor::from_slice(&[0.5f32, 0.5], &[2]).unwrap())
    }

    #[test]
    fn windows_and_rates() {
        let (a, b) = (param("a"), param("b"));
        let mut learners = [learner("a", 0, 2, &a, false), learner("b", 1, 5, &b, false)];
        let rates = |done| learners.iter().map(|l| l.rate(done)).collect::<Vec<_>>();
        assert_eq!([rates(0), rates(1), rates(3)], [vec![0.1, 0.0], vec![0.05, 0.1], vec![0.0, 0.05]]);
        focus(&learners, 0);
        assert!(a.is_trainable() && !b.is_trainable());
        focus(&learners, 3);
        assert!(!a.is_trainable() && b.is_trainable());
        assert_eq!((active_params(&learners, 1).len(), all_params(&learners).len()), (2, 2));
        apply(&mut learners, &ReferenceBackend, gradients(&[&a, &b]), 0, 1.0).unwrap();
        // Rate 0.1, gradient (1, -2); `b` is not on yet.
        assert_eq!(a.value().to_vec::<f32>().unwrap(), [0.4, 0.7]);
        assert_eq!(b.value().to_vec::<f32>().unwrap(), [0.5, 0.5]);
    }

    #[test]
    fn each_part_has_a_state_of_its_own() {
        let run = |resume_at: Option<u64>| {
            let (a, b) = (param("a"), param("b"));
            let make = || [learner("a", 0, 3, &a, true), learner("b", 1, 6, &b, true)];
            let mut learners = make();
            for done in 0..6 {
                if resume_at == Some(done) {
                    let state = state(&learners, &ReferenceBackend).unwrap();
                    learners = make();
                    restore(&mut learners, &ReferenceBackend, &state).unwrap();
                }
                apply(&mut learners, &ReferenceBackend, gradients(&[&a, &b]), done, 1.0).unwrap();
            }
            [a, b].map(|param| param.value().to_vec::<f32>().unwrap())
        };
        let through = run(None);
        assert!((0..6).all(|at| run(Some(at)) == through));
    }
}
