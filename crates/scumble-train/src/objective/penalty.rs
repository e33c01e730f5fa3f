//! The shape of the loss: how a difference `d` between prediction and target counts.
//!
//! ```text
//! squared        d^2
//! pseudo-Huber   2 c (sqrt(d^2 + c^2) - c)     near 0 like d^2, far off like 2 c |d|: outliers pull less
//! smooth L1      2 (sqrt(d^2 + c^2) - c)
//! ```
//!
//! `c` may follow the timestep, `c0` being its value for pure noise:
//!
//! ```text
//! constant       c0
//! exponential    exp(ln(c0) t / T)                              from 1 down to c0
//! snr            (1 - c0) / (1 + sigma)^2 + c0,  sigma = sqrt((1 - a) / a)
//! ```
//!
//! The schedules are those of sd-scripts (after Khrapov et al. 2024): clean pictures are compared squared, noisy ones
//! more robustly.

use scumble_model::schedule::NoiseSchedule;
use scumble_tensor::backend::LossKind;
use scumble_tensor::ops::concat::{concat_rows, slice_rows};
use scumble_tensor::ops::loss::loss;
use scumble_tensor::{Tape, Tensor, Var};

use crate::error::Result;

/// How `c` follows the timestep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HuberSchedule {
    /// It does not.
    Constant,
    /// Exponentially.
    Exponential,
    /// With the noise level.
    Snr,
}

/// The rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Penalty {
    /// The square.
    Squared,
    /// Pseudo-Huber.
    Huber {
        /// Where it turns from square to straight, at pure noise.
        c: f64,
        /// And elsewhere.
        schedule: HuberSchedule,
    },
    /// Smooth L1.
    SmoothL1 {
        /// Where it turns from square to straight, at pure noise.
        c: f64,
        /// And elsewhere.
        schedule: HuberSchedule,
    },
}

impl HuberSchedule {
    /// `c` at a timestep.
    pub fn c(self, c: f64, timestep: i64, noise: &NoiseSchedule) -> Result<f64> {
        Ok(match self {
            HuberSchedule::Constant => c,
            HuberSchedule::Exponential => (c.ln() * timestep as f64 / noise.timesteps() as f64).exp(),
            HuberSchedule::Snr => {
                // sigma = 1 / sqrt(snr); at pure noise it is infinite and c is c0.
                let sigma = 1.0 / f64::from(noise.snr(timestep)?).sqrt();
                (1.0 - c) / (1.0 + sigma).powi(2) + c
            }
        })
    }
}

impl Penalty {
    /// The engine's loss at a timestep.
    pub fn kind(self, timestep: i64, noise: &NoiseSchedule) -> Result<LossKind> {
        Ok(match self {
            Penalty::Squared => LossKind::Mse,
            Penalty::Huber { c, schedule } => {
                LossKind::PseudoHuber { c: schedule.c(c, timestep, noise)? as f32 }
            }
            Penalty::SmoothL1 { c, schedule } => {
                LossKind::PseudoSmoothL1 { c: schedule.c(c, timestep, noise)? as f32 }
            }
        })
    }

    /// The loss of each sample, f32 `[n]`: `pred` and `target` `[n, h, w, c]`, `weight` of each pixel `[n, h, w]`.
    pub fn each(
        self,
        tape: &Tape<'_>,
        noise: &NoiseSchedule,
        (pred, target): (&Var, &Tensor),
        timesteps: &[i64],
        weight: Option<&Tensor>,
    ) -> Result<Var> {
        let kinds: Vec<LossKind> = timesteps.iter().map(|&t| self.kind(t, noise)).collect::<Result<_>>()?;
        let alike = kinds.windows(2).all(|pair| pair[0] == pair[1]);
        if let (true, Some(&kind)) = (alike, kinds.first()) {
            return Ok(loss(tape, kind, pred, target, weight)?);
        }
        let backend = tape.backend();
        let one = |(row, &kind): (usize, &LossKind)| {
            let weight = weight.map(|weight| backend.slice_rows(weight, row, 1)).transpose()?;
            let pred = slice_rows(tape, pred, row, 1)?;
            Ok(loss(tape, kind, &pred, &backend.slice_rows(target, row, 1)?, weight.as_ref())?)
        };
        let each: Vec<Var> = kinds.iter().enumerate().map(one).collect::<Result<_>>()?;
        Ok(concat_rows(tape, &each.iter().collect::<Vec<_>>())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::Backend;
    use scumble_tensor::reference::ReferenceBackend;
    use std::sync::Arc;

    fn noise() -> NoiseSchedule {
        let config =
            serde_json::json!({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012});
        NoiseSchedule::from_config(&config).unwrap()
    }

    #[test]
    fn c_follows_its_schedule() {
        let noise = noise();
        let c = |schedule: HuberSchedule, t| schedule.c(0.1, t, &noise).unwrap();
        assert_eq!(c(HuberSchedule::Constant, 900), 0.1);
        assert!((c(HuberSchedule::Exponential, 0) - 1.0).abs() < 1e-12);
        assert!((c(HuberSchedule::Exponential, 500) - 0.1f64.sqrt()).abs() < 1e-12);
        // a_500 = .2763325: sigma = 1.6183, (1 - .1) / 2.6183^2 + .1
        assert!((c(HuberSchedule::Snr, 500) - 0.231_28).abs() < 1e-4, "{}", c(HuberSchedule::Snr, 500));
        assert!(c(HuberSchedule::Snr, 0) > 0.9 && c(HuberSchedule::Snr, 999) < 0.12);
    }

    #[test]
    fn a_mixed_batch_is_its_samples_with_their_gradients() {
        let noise = noise();
        let backend: Arc<dyn Backend> = Arc::new(ReferenceBackend);
        let values: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin()).collect();
        let pred = Tensor::from_slice(&values, &[2, 2, 3, 2]).unwrap();
        let target = Tensor::from_slice(&[0.1f32; 24], &[2, 2, 3, 2]).unwrap();
        let weights: Vec<f32> = (0..12).map(|i| i as f32 / 8.0).collect();
        let weight = Tensor::from_slice(&weights, &[2, 2, 3]).unwrap();
        let penalty = Penalty::Huber { c: 0.1, schedule: HuberSchedule::Snr };
        let all = |rows: std::ops::Range<usize>, timesteps: &[i64]| {
            let cut = |tensor: &Tensor| backend.slice_rows(tensor, rows.start, rows.len()).unwrap();
            let tape = Tape::recording(Arc::clone(&backend));
            let (pred, leaf) = tape.watch(cut(&pred));
            let each =
                penalty.each(&tape, &noise, (&pred, &cut(&target)), timesteps, Some(&cut(&weight))).unwrap();
            let seed = Tensor::from_slice(&vec![1f32; rows.len()], &[rows.len()]).unwrap();
            let gradient = tape.backward(&each, seed).unwrap().take(leaf).unwrap();
            (each.value().to_vec::<f32>().unwrap(), gradient.to_vec::<f32>().unwrap())
        };
        let (together, gradient) = all(0..2, &[10, 900]);
        let (first, first_gradient) = all(0..1, &[10]);
        let (second, second_gradient) = all(1..2, &[900]);
        assert_eq!(together, [first, second].concat());
        assert_eq!(gradient, [first_gradient, second_gradient].concat());
        assert!(gradient.iter().any(|&value| value != 0.0));
    }
}
