//! What a run tells whoever watches it. Front ends print it, draw it or send it on; the run never prints.

use std::path::PathBuf;

use crate::metrics::StepRecord;
use crate::preflight::Plan;

/// Something happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A new phase began, such as `loading the base model`.
    Phase(String),
    /// Part of the phase is done.
    Progress {
        /// Things done.
        done: usize,
        /// Things in all.
        total: usize,
    },
    /// Something worth knowing; all is well.
    Note(String),
    /// Something that the user should know and may want to change.
    Warning(String),
    /// The preflight is done.
    Planned(Box<Plan>),
    /// The folder of the run is ready and training begins.
    Started {
        /// The folder.
        folder: PathBuf,
        /// Updates that were finished before: 0, or where a resumed run goes on.
        done: u64,
        /// Updates of the whole run.
        steps: u64,
    },
    /// An update is finished.
    Step {
        /// Its numbers.
        record: StepRecord,
        /// Updates of the whole run.
        steps: u64,
        /// Running mean of the loss.
        smooth_loss: f64,
        /// Updates a second, of this process.
        per_second: f64,
    },
    /// Pictures that are not trained on were tested.
    Tested {
        /// Finished updates.
        step: u64,
        /// Their loss.
        loss: f64,
        /// The least so far, and the step that it was measured after.
        best: (u64, f64),
    },
    /// Files are on the disk.
    Saved {
        /// Finished updates.
        step: u64,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// A validation picture is on the disk.
    Picture {
        /// Finished updates.
        step: u64,
        /// Which of `validate.prompts`.
        prompt: usize,
        /// The file.
        path: PathBuf,
    },
}

/// Hears events; called from the thread that trains.
pub trait Reporter {
    /// Takes note.
    fn event(&self, event: Event);
}

/// Any function is a reporter.
impl<F: Fn(Event)> Reporter for F {
    fn event(&self, event: Event) {
        self(event);
    }
}

/// Running mean of the loss: `m = 0.98 m + 0.02 x` without the start's bias.
#[derive(Clone, Copy, Debug, Default)]
pub struct SmoothLoss {
    sum: f64,
    weight: f64,
}

impl SmoothLoss {
    /// Takes a value in and gives the mean.
    pub fn add(&mut self, loss: f64) -> f64 {
        self.sum = 0.98 * self.sum + 0.02 * loss;
        self.weight = 0.98 * self.weight + 0.02;
        self.sum / self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_has_no_bias_to_the_start() {
        let mut smooth = SmoothLoss::default();
        for _ in 0..5 {
            assert!((smooth.add(0.3) - 0.3).abs() < 1e-12);
        }
        assert!(smooth.add(1.3) > 0.3 && smooth.add(0.3) < 0.6);
    }
}
