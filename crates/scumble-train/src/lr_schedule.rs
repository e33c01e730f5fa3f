//! Learning-rate schedules: the factor of the base rate at optimizer step `s`.
//!
//! `s` counts finished updates, so the first update uses `s = 0`; `w` warm-up steps, `n` steps in all and
//! `p = (s - w) / (n - w)`. Within the warm-up every schedule is `s / w`. After it:
//!
//! ```text
//! constant              1
//! linear                max(0, (n - s) / (n - w))
//! cosine                max(0, (1 + cos(2 pi c p)) / 2)              c = 1/2
//! cosine, restarts      0 if p >= 1 else (1 + cos(pi ((k p) mod 1))) / 2
//! polynomial            ((lr - end) (1 - p)^power + end) / lr,  and end / lr past the end
//! ```
//!
//! The same formulas as the schedulers of the `diffusers` library, so runs can be compared step by step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The shape of the learning rate over the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The same rate all the way.
    Constant,
    /// Straight down to zero.
    Linear,
    /// Half a cosine wave down to zero.
    Cosine,
    /// Several half waves, each starting at the full rate again.
    CosineWithRestarts,
    /// A power of the remaining part, down to a small rest.
    Polynomial,
}

impl ScheduleKind {
    /// Waves where none are written down.
    pub fn usual_cycles(self) -> f64 {
        if self == ScheduleKind::Cosine { 0.5 } else { 1.0 }
    }
}

/// A schedule with its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Shape.
    pub kind: ScheduleKind,
    /// Steps that climb from zero to the full rate.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Waves: full cycles for [`ScheduleKind::Cosine`] (0.5 ends at zero), repetitions for restarts.
    pub cycles: f64,
    /// Exponent of [`ScheduleKind::Polynomial`].
    pub power: f64,
    /// Rate at the end of [`ScheduleKind::Polynomial`].
    pub lr_end: f64,
}

impl Schedule {
    /// The factor for the update after `done` finished ones, for a base rate of `lr`.
    pub fn factor(&self, done: u64, lr: f64) -> f64 {
        let (s, w, n) = (done as f64, self.warmup as f64, self.steps as f64);
        if done < self.warmup {
            return s / w.max(1.0);
        }
        let p = (s - w) / (n - w).max(1.0);
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => ((n - s) / (n - w).max(1.0)).max(0.0),
            ScheduleKind::Cosine => (0.5 * (1.0 + (PI * self.cycles * 2.0 * p).cos())).max(0.0),
            ScheduleKind::CosineWithRestarts if p >= 1.0 => 0.0,
            ScheduleKind::CosineWithRestarts => {
                (0.5 * (1.0 + (PI * ((self.cycles * p) % 1.0)).cos())).max(0.0)
            }
            ScheduleKind::Polynomial if done > self.steps => self.lr_end / lr,
            ScheduleKind::Polynomial => ((lr - self.lr_end) * (1.0 - p).powf(self.power) + self.lr_end) / lr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_multipliers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/schedulers.json");
        let text = std::fs::read_to_string(path).unwrap();
        // The rest of that file has `NaN` and `Infinity`, which JSON does not know.
        let key = "\"lr_schedules\":";
        let rest = &text[text.find(key).unwrap() + key.len()..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<serde_json::Value>();
        let golden = values.next().unwrap().unwrap();
        let lr = golden["base_lr"].as_f64().unwrap();
        let warmup = golden["warmup"].as_u64().unwrap();
        let steps = golden["total"].as_u64().unwrap();
        let cases = [
            ("constant", ScheduleKind::Constant, 0, 1.0),
            ("constant_with_warmup", ScheduleKind::Constant, warmup, 1.0),
            ("linear", ScheduleKind::Linear, warmup, 1.0),
            ("cosine", ScheduleKind::Cosine, warmup, 0.5),
            ("cosine_with_restarts", ScheduleKind::CosineWithRestarts, warmup, 2.0),
            ("polynomial", ScheduleKind::Polynomial, warmup, 1.0),
        ];
        for (name, kind, warmup, cycles) in cases {
            let schedule = Schedule { kind, warmup, steps, cycles, power: 1.0, lr_end: 1e-7 };
            let expected = golden["multipliers"][name].as_array().unwrap();
            assert!(expected.len() > steps as usize);
            for (s, expected) in expected.iter().enumerate() {
                let (found, expected) = (schedule.factor(s as u64, lr), expected.as_f64().unwrap());
                assert!((found - expected).abs() < 1e-12, "{name} step {s}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn a_warm_up_as_long_as_the_run_stays_finite() {
        let base = Schedule {
            kind: ScheduleKind::Constant,
            warmup: 5,
            steps: 5,
            cycles: 0.5,
            power: 1.0,
            lr_end: 1e-7,
        };
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::Polynomial] {
            for s in 0..8 {
                let factor = Schedule { kind, ..base }.factor(s, 1e-4);
                assert!(factor.is_finite() && (0.0..=1.0).contains(&factor), "{kind:?} {s}: {factor}");
            }
        }
    }
}
