//! How an adapter's strength on the UNet changes over the steps of a picture.
//!
//! With `p` the place in the sampler's whole schedule, 0 at its first call of the model and 1 at its last, and `s` at the
//! start of each call's share of it (`call / calls`). A picture that begins with another one leaves the first calls out, so
//! it begins at a later place. `t` is the model's timestep, about 999 at first and 0 at last, whatever the sampler:
//!
//! ```text
//! constant  1        linear:a:b  a + (b - a) p        cosine:a:b  a + (b - a) (1 - cos(pi p)) / 2
//! window:a:b  1 while a <= s < b, else 0       timesteps:a:b  1 while a <= t < b, else 0
//! ```
//!
//! The factor multiplies the adapter's strength. The text encoder, which is run once for a picture, keeps its strength.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{PaintError, Result};

/// A factor over the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Schedule {
    /// Always 1.
    #[default]
    Constant,
    /// From one factor to another, evenly.
    Linear(f32, f32),
    /// From one factor to another, slowly at both ends.
    Cosine(f32, f32),
    /// 1 in a part of the run, 0 outside.
    Window(f32, f32),
    /// 1 in an interval of timesteps, 0 outside: for adapters that were trained on one.
    Timesteps(f32, f32),
}

impl Schedule {
    /// Reads `constant`, `linear:1:0`, `cosine:0:1` or `window:0.2:0.8`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |reason: String| {
            PaintError::setting(
                format!("strength schedule `{text}`"),
                reason,
                "write constant, linear:FROM:TO, cosine:FROM:TO, window:FROM:TO or timesteps:FROM:TO, such as linear:1:0",
            )
        };
        let words: Vec<&str> = text.trim().split(':').collect();
        let numbers: Option<Vec<f32>> =
            words[1..].iter().map(|word| word.parse().ok().filter(|n: &f32| n.is_finite())).collect();
        let Some(numbers) = numbers else { return Err(wrong("its numbers can't be read".to_owned())) };
        match (words[0], numbers.as_slice()) {
            ("constant", []) => Ok(Self::Constant),
            ("linear", &[from, to]) => Ok(Self::Linear(from, to)),
            ("cosine", &[from, to]) => Ok(Self::Cosine(from, to)),
            ("window", &[from, to]) if (0.0..=1.0).contains(&from) && from < to && to <= 1.0 => {
                Ok(Self::Window(from, to))
            }
            ("window", [_, _]) => {
                Err(wrong("a window lies between 0 and 1 and ends after it begins".to_owned()))
            }
            ("timesteps", &[from, to]) if from >= 0.0 && from < to => Ok(Self::Timesteps(from, to)),
            ("timesteps", [_, _]) => {
                Err(wrong("timesteps are 0 and more, and the interval ends after it begins".to_owned()))
            }
            ("constant" | "linear" | "cosine" | "window" | "timesteps", _) => {
                Err(wrong("it has another number of numbers".to_owned()))
            }
            (name, _) => Err(wrong(format!("there is no schedule `{name}`"))),
        }
    }

    /// The factor at call `call` of `calls`, where the model sees timestep `timestep`.
    pub fn factor(self, call: usize, calls: usize, timestep: f64) -> f32 {
        let place = call as f32 / calls.saturating_sub(1).max(1) as f32;
        let share = call as f32 / calls.max(1) as f32;
        match self {
            Self::Constant => 1.0,
            Self::Linear(from, to) => from + (to - from) * place,
            Self::Cosine(from, to) => from + (to - from) * (1.0 - (std::f32::consts::PI * place).cos()) / 2.0,
            Self::Window(from, to) => {
                if (from..to).contains(&share) {
                    1.0
                } else {
                    0.0
                }
            }
            Self::Timesteps(from, to) => {
                if (f64::from(from)..f64::from(to)).contains(&timestep) {
                    1.0
                } else {
                    0.0
                }
            }
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Linear(from, to) => write!(f, "linear:{from}:{to}"),
            Self::Cosine(from, to) => write!(f, "cosine:{from}:{to}"),
            Self::Window(from, to) => write!(f, "window:{from}:{to}"),
            Self::Timesteps(from, to) => write!(f, "timesteps:{from}:{to}"),
        }
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.to_string()
    }
}

impl TryFrom<String> for Schedule {
    type Error = PaintError;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_over_a_run() {
        let over = |text: &str| -> Vec<f32> {
            let schedule = Schedule::parse(text).unwrap();
            assert_eq!(schedule.to_string(), text);
            (0..5)
                .map(|call| (schedule.factor(call, 5, 800.0 - call as f64 * 200.0) * 1000.0).round() / 1000.0)
                .collect()
        };
        assert_eq!(over("constant"), [1.0; 5]);
        assert_eq!(over("linear:1:0"), [1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(over("cosine:0:2"), [0.0, 0.293, 1.0, 1.707, 2.0]);
        assert_eq!(over("window:0.2:0.6"), [0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(over("timesteps:200:700"), [0.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(Schedule::Linear(0.5, 0.0).factor(0, 1, 0.0), 0.5);
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "linear",
            "linear:1",
            "linear:1:x",
            "linear:1:nan",
            "window:0.8:0.2",
            "window:-1:1",
            "sine:0:1",
            "timesteps:5",
            "timesteps:-1:5",
            "timesteps:7:7",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
