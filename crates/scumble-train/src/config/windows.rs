//! Which parts learn, and in which updates: the methods as presets over windows.
//!
//! ```text
//! lora                unet (and text_encoder if it trains): all updates; tokens, if there are any: all updates
//! textual-inversion   tokens: all updates
//! pivotal             tokens: first half;   unet, text_encoder: second half
//! pivotal-single      tokens: first half;   unet, text_encoder: all updates
//! full                unet (and text_encoder if `full.text_encoder`): all updates
//! ```
//!
//! A start or stop that is written down wins over the preset's.

use super::{Method, ScheduleKind, TrainConfig, Window};
use crate::error::{Result, TrainError};
use crate::lr_schedule::Schedule;

/// A part that can learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The UNet's factors or weights.
    Unet,
    /// The text encoder's factors or weights.
    TextEncoder,
    /// Rows of new words.
    Tokens,
}

impl Part {
    /// All parts, in the order in which they are updated.
    pub const ALL: [Part; 3] = [Part::Unet, Part::TextEncoder, Part::Tokens];

    /// The part's name in run files, metrics and checkpoints.
    pub fn name(self) -> &'static str {
        match self {
            Part::Unet => "unet",
            Part::TextEncoder => "text_encoder",
            Part::Tokens => "tokens",
        }
    }
}

impl TrainConfig {
    /// Whether a part learns at all.
    pub fn learns(&self, part: Part) -> bool {
        let factors = matches!(self.method, Method::Lora | Method::Pivotal | Method::PivotalSingle);
        match part {
            Part::Unet => factors || self.method == Method::Full,
            Part::TextEncoder => {
                factors && self.lora.text_encoder.train
                    || self.method == Method::Full && self.full.text_encoder
            }
            Part::Tokens => !self.tokens.add.is_empty(),
        }
    }

    /// Whether texts look different from update to update.
    pub fn text_learns(&self) -> bool {
        self.learns(Part::TextEncoder) || self.learns(Part::Tokens)
    }

    /// A part's window as it is written.
    pub fn window(&self, part: Part) -> &Window {
        match part {
            Part::Unet => &self.learn.unet,
            Part::TextEncoder => &self.learn.text_encoder,
            Part::Tokens => &self.learn.tokens,
        }
    }

    /// First update and the update before which a part ends.
    pub fn span(&self, part: Part) -> (u64, u64) {
        let (steps, split) = (self.train.steps, self.train.steps.div_ceil(2));
        let (start, stop) = match (self.method, part) {
            (Method::Pivotal | Method::PivotalSingle, Part::Tokens) => (0, split),
            (Method::Pivotal, _) => (self.learn.tokens.stop.unwrap_or(split), steps),
            _ => (0, steps),
        };
        let window = self.window(part);
        (window.start.unwrap_or(start), window.stop.unwrap_or(stop))
    }

    /// Base rate of a part.
    pub fn rate(&self, part: Part) -> f64 {
        self.window(part).lr.unwrap_or(match part {
            Part::Unet => self.train.lr,
            Part::TextEncoder => self.train.lr_text_encoder,
            Part::Tokens => self.train.lr_tokens,
        })
    }

    /// Weight decay of a part; new words have none unless it is written down.
    pub fn decay(&self, part: Part) -> f64 {
        let usual = if part == Part::Tokens { 0.0 } else { self.train.weight_decay };
        self.window(part).weight_decay.unwrap_or(usual)
    }

    /// Shape of a part's rate over its window of `steps` updates.
    pub fn schedule(&self, part: Part, steps: u64) -> Schedule {
        let (window, train) = (self.window(part), &self.train);
        let kind = window.schedule.unwrap_or(train.schedule);
        // `train.cycles` counts the waves of `train.schedule`; a part with waves of another kind has its usual ones.
        let has_cycles = |kind| matches!(kind, ScheduleKind::Cosine | ScheduleKind::CosineWithRestarts);
        let cycles = train.cycles.filter(|_| kind == train.schedule || !has_cycles(train.schedule));
        Schedule {
            kind,
            warmup: window.warmup.unwrap_or(train.warmup),
            steps,
            cycles: cycles.unwrap_or(kind.usual_cycles()),
            power: train.power,
            lr_end: 1e-7,
        }
    }

    pub(super) fn resolve_windows(&mut self) {
        // A window that is the whole run is left open, so that files without windows and with them mean the same.
        let whole = (0, self.train.steps);
        for part in Part::ALL {
            let span = self.span(part);
            if !self.learns(part) || span == whole {
                continue;
            }
            let window = match part {
                Part::Unet => &mut self.learn.unet,
                Part::TextEncoder => &mut self.learn.text_encoder,
                Part::Tokens => &mut self.learn.tokens,
            };
            (window.start, window.stop) = (Some(span.0), Some(span.1));
        }
    }

    /// Errors on windows that are empty, leave updates without anything to learn, or belong to nothing that learns.
    pub(super) fn check_windows(&self) -> Result<()> {
        let steps = self.train.steps;
        let refuse = |key: String, value: String, problem: String, hint: &str| {
            Err(TrainError::Setting { key, value, problem, hint: hint.to_owned() })
        };
        let mut spans = Vec::new();
        for part in Part::ALL {
            let key = format!("learn.{}", part.name());
            let window = self.window(part);
            if !self.learns(part) {
                if *window != Window::default() {
                    let problem = format!("with method `{}` this part does not learn", self.method);
                    let hint = "delete the section, or turn the part on";
                    return refuse(key, "{...}".into(), problem, hint);
                }
                continue;
            }
            let (start, stop) = self.span(part);
            if start >= stop || stop > steps {
                let problem = format!("its window is empty or ends after the run of {steps} updates");
                let hint =
                    "`start` is the first update, counted from 0, and `stop` the one before which it ends";
                return refuse(key, format!("{start} to {stop}"), problem, hint);
            }
            let warmup = self.schedule(part, stop - start).warmup;
            if warmup > stop - start {
                let problem = format!("is longer than the window of {} updates", stop - start);
                let key =
                    if window.warmup.is_some() { format!("{key}.warmup") } else { "train.warmup".into() };
                return refuse(key, warmup.to_string(), problem, "a twentieth of the updates is usual");
            }
            let end = if part == Part::Tokens && self.tokens.continue_lr.is_some() { steps } else { stop };
            spans.push((start, end));
        }
        spans.sort_unstable();
        let mut covered = 0;
        for (start, stop) in spans {
            if start > covered {
                break;
            }
            covered = covered.max(stop);
        }
        if covered < steps {
            let problem = format!("nothing learns in update {covered} of {steps}");
            let hint = "let the windows of `[learn]` meet, or change `train.steps`";
            return refuse("learn".into(), "{...}".into(), problem, hint);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_belong_to_the_schedule_that_they_are_written_for() {
        use ScheduleKind::{Constant, Cosine, CosineWithRestarts};
        let cycles = |all, own, written| {
            let mut config = TrainConfig::default();
            (config.train.schedule, config.train.cycles) = (all, written);
            config.learn.text_encoder.schedule = Some(own);
            // Spelled out or not, it is the same run.
            [config.resolved(), config].map(|config| config.schedule(Part::TextEncoder, 100).cycles)
        };
        assert_eq!(cycles(Cosine, CosineWithRestarts, None), [1.0; 2]);
        assert_eq!(cycles(CosineWithRestarts, Cosine, None), [0.5; 2]);
        assert_eq!(cycles(CosineWithRestarts, Cosine, Some(3.0)), [0.5; 2]);
        assert_eq!(cycles(Cosine, Cosine, Some(1.5)), [1.5; 2]);
        assert_eq!(cycles(Constant, CosineWithRestarts, Some(3.0)), [3.0; 2]);
        assert_eq!(cycles(Constant, Cosine, None), [0.5; 2]);
    }
}
