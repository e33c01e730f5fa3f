//! A running mean of what learns: `s <- d s + (1 - d) p` after every update, `d = min(decay, (1 + n) / (10 + n))` for the
//! n-th, so that the start counts no longer than it should.
//!
//! The mean is what is saved and painted with; training goes on with the values themselves.

use std::collections::BTreeMap;

use scumble_tensor::{Backend, Param, Tensor};

use crate::error::{Result, TrainError};

/// See the module's text.
pub struct Averages {
    decay: f64,
    updates: u64,
    params: Vec<Param>,
    means: Vec<Tensor>,
}

impl Averages {
    /// Begins with the parameters as they are.
    pub fn new(decay: f64, params: Vec<Param>) -> Self {
        let means = params.iter().map(Param::value).collect();
        Self { decay, updates: 0, params, means }
    }

    /// Takes an update in.
    pub fn add(&mut self, backend: &dyn Backend) -> Result<()> {
        self.updates += 1;
        let n = self.updates as f64;
        let decay = self.decay.min((1.0 + n) / (10.0 + n)) as f32;
        for (param, mean) in self.params.iter().zip(&mut self.means) {
            let kept = backend.scale(mean, decay)?;
            *mean = backend.add_scaled(&kept, &param.value(), 1.0 - decay)?;
        }
        Ok(())
    }

    /// Does `work` with the means in place of the parameters.
    pub fn in_place<R>(&self, work: impl FnOnce() -> R) -> R {
        let values: Vec<Tensor> = self.params.iter().map(Param::value).collect();
        self.params.iter().zip(&self.means).for_each(|(param, mean)| param.set(mean.clone()));
        let result = work();
        self.params.iter().zip(values).for_each(|(param, value)| param.set(value));
        result
    }

    /// Everything that the next update depends on: `ema/step` and `ema/<name>`.
    pub fn state(&self, backend: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::from([("ema/step".to_owned(), Tensor::scalar(self.updates as i64)?)]);
        for (param, mean) in self.params.iter().zip(&self.means) {
            state.insert(format!("ema/{}", param.name()), backend.download(mean)?);
        }
        Ok(state)
    }

    /// Takes up what [`Averages::state`] gave.
    pub fn restore(&mut self, backend: &dyn Backend, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let lacking = |key: &str, expected: String, found: String| TrainError::Mismatch {
            what: format!("checkpoint, `{key}`"),
            expected,
            found,
        };
        let take = |key: &str| {
            state.get(key).ok_or_else(|| lacking(key, "a tensor".to_owned(), "nothing".to_owned()))
        };
        self.updates = take("ema/step")?.item::<i64>()?.max(0) as u64;
        for (param, mean) in self.params.iter().zip(&mut self.means) {
            let key = format!("ema/{}", param.name());
            let stored = take(&key)?;
            if stored.dims() != mean.dims() || stored.dtype() != mean.dtype() {
                let expected = format!("{} {}", mean.dtype(), mean.shape());
                return Err(lacking(&key, expected, format!("{} {}", stored.dtype(), stored.shape())));
            }
            *mean = backend.upload(stored)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::reference::ReferenceBackend;

    #[test]
    fn the_mean_follows_slowly_and_survives_a_checkpoint() {
        let param = Param::trainable("p", Tensor::from_slice(&[1f32], &[1]).unwrap());
        let mut averages = Averages::new(0.9, vec![param.clone()]);
        param.set(Tensor::from_slice(&[2f32], &[1]).unwrap());
        averages.add(&ReferenceBackend).unwrap();
        let first = 2.0 / 11.0 + 2.0 * (9.0 / 11.0); // decay (1 + 1) / (10 + 1)
        let seen = |averages: &Averages| averages.in_place(|| param.value().to_vec::<f32>().unwrap()[0]);
        assert!((f64::from(seen(&averages)) - first).abs() < 1e-6);
        assert_eq!(param.value().to_vec::<f32>().unwrap(), [2.0], "training goes on with the values");
        let state = averages.state(&ReferenceBackend).unwrap();
        let mut again = Averages::new(0.9, vec![param.clone()]);
        again.restore(&ReferenceBackend, &state).unwrap();
        averages.add(&ReferenceBackend).unwrap();
        again.add(&ReferenceBackend).unwrap();
        assert_eq!(seen(&averages), seen(&again));
        assert!(again.restore(&ReferenceBackend, &BTreeMap::new()).is_err());
    }
}
