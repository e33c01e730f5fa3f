//! Ways of teaching a model something new, compared: what each learns of a bundled subject or style, what it does to
//! everything else, and what it costs.
//!
//! ```text
//! for a set:  base alone -> pictures of the set's prompts and of the world's (the latter: what drift is measured from)
//!   for a method:   train `steps` updates                              (equal steps; LoRA worn at several strengths)
//!                   train round(T / its seconds an update) updates     (equal time; T: what the adapter on the UNet took)
//!                   each: the same prompts and seeds painted, judged; size of the file
//! ```
//!
//! [`Method`] is what is compared, [`recipe`] the run file of each, [`report`] the tables. Prior preservation paints its class
//! pictures once for all runs of a set; that time is not counted.

mod method;
pub mod recipe;
pub mod report;
mod trial;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scumble_model::base::BaseFiles;
use scumble_paint::Studio;
use scumble_paint::request::Request;
use scumble_tensor::Backend;
use scumble_train::config::Precision;
use scumble_train::picture::Picture;
use scumble_train::run::event::Reporter;
use scumble_train::run::{self, Start, Summary};
use scumble_train::{TrainConfig, TrainError};
use scumble_world::novel::Set;
use serde::Serialize;

pub use method::Method;
pub use recipe::Rates;

use crate::error::Result;
use crate::evaluate::Drift;
use crate::judge::{Embedding, Judge};
use crate::measure::Mean;
use crate::{gallery, lesson, prompts};

/// What is compared and how.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The base as the user names it.
    pub base: String,
    /// What is taught.
    pub sets: Vec<Set>,
    /// How it is taught. The one without training is always looked at.
    pub methods: Vec<Method>,
    /// Updates where all have the same number.
    pub steps: u64,
    /// Trainings of each method, with seeds from 0 on; their pictures are judged together.
    pub trainings: u64,
    /// Whether to compare at equal time too.
    pub equal_time: bool,
    /// Pictures of an update.
    pub batch: usize,
    /// Width of the factors.
    pub rank: usize,
    /// Learning rates.
    pub rates: Rates,
    /// Strengths beside 1 at which the adapter on the UNet is looked at.
    pub strengths: Vec<f64>,
    /// Class pictures for prior preservation.
    pub class_count: usize,
    /// Seeds of each prompt.
    pub seeds: Vec<u64>,
    /// Prompts of the world on which drift is measured.
    pub drift_prompts: usize,
    /// Steps, guidance and sampler of all painting.
    pub painting: Request,
    /// Numbers to compute in.
    pub precision: Precision,
    /// Where everything goes; a new folder.
    pub out: PathBuf,
}

/// How a trial's updates were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regime {
    /// Nothing was trained.
    Untrained,
    /// As many updates as every other method.
    EqualSteps,
    /// As many as fit into the time of the adapter on the UNet.
    EqualTime,
}

/// What came out of one training.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// What was taught.
    pub set: &'static str,
    /// How.
    pub method: Method,
    /// How its updates were counted.
    pub regime: Regime,
    /// Strength at which an adapter is worn; 1 for everything else.
    pub strength: f64,
    /// Updates.
    pub steps: u64,
    /// Seconds of one update: the median.
    pub step_seconds: f64,
    /// Seconds of all updates of one training.
    pub train_seconds: f64,
    /// Numbers that learned.
    pub trained: usize,
    /// Bytes of what was learned on the disk.
    pub file_bytes: u64,
    /// Fit to the texts, the trigger read as its class.
    pub text_alignment: Mean,
    /// Likeness to the training pictures.
    pub image_alignment: Mean,
    /// On prompts that do not speak of it; `None` where nothing was trained.
    pub drift: Option<Drift>,
}

/// All trials and what was painted.
pub struct Outcome {
    /// In the order in which they were made.
    pub trials: Vec<Trial>,
    /// For each set a sheet: prompts from top to bottom, methods at equal steps from left to right.
    pub sheets: Vec<(&'static str, scumble_train::picture::Sheet)>,
}

/// Who hears how far it is.
pub struct Services<'a> {
    /// Where it computes.
    pub backend: Arc<dyn Backend>,
    /// Hears of each training.
    pub reporter: &'a dyn Reporter,
    /// Set from outside to end it all.
    pub stop: &'a AtomicBool,
    /// Hears of each new phase.
    pub phase: &'a dyn Fn(&str),
}

impl Services<'_> {
    /// Whether to go on.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Trains to the end; `None` when it was stopped.
    pub(crate) fn train(&self, config: &TrainConfig, reporter: &dyn Reporter) -> Result<Option<Summary>> {
        let services = run::Services { backend: Arc::clone(&self.backend), reporter, stop: self.stop };
        match run::train(config, &Start::New, &services) {
            Ok(summary) if summary.outcome == run::Outcome::Finished => Ok(Some(summary)),
            Ok(_) | Err(TrainError::StoppedEarly) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Compares; `None` when it was stopped.
pub fn compare(
    comparison: &Comparison,
    files: &BaseFiles,
    judge: &Judge,
    services: &Services<'_>,
) -> Result<Option<Outcome>> {
    let mut outcome = Outcome { trials: Vec::new(), sheets: Vec::new() };
    for &set in &comparison.sets {
        (services.phase)(&format!("{}: the base alone", set.name()));
        let studio = Studio::open(files, Arc::clone(&services.backend), comparison.precision.dtype())?;
        let side = studio.own_side();
        let references = lesson::pictures(set, side)?;
        let references = judge.pictures(&references.iter().collect::<Vec<_>>())?;
        let drift_texts = prompts::of_world(DRIFT_SEED, comparison.drift_prompts);
        let Some(before) = paint_without(comparison, &studio, set, &drift_texts, services)? else {
            return Ok(None);
        };
        drop(studio);
        let course =
            Course { comparison, files, judge, services, set, side, references, drift_texts, before };
        if !course.run(&mut outcome)? {
            return Ok(None);
        }
    }
    Ok(Some(outcome))
}

/// Scenes of the drift prompts; the pre-training's seeds are small.
const DRIFT_SEED: u64 = 7001;

/// What the base alone paints.
struct Before {
    of_set: Vec<Picture>,
    of_world: Vec<Picture>,
}

fn paint_without(
    comparison: &Comparison,
    studio: &Studio,
    set: Set,
    drift_texts: &[String],
    services: &Services<'_>,
) -> Result<Option<Before>> {
    let texts: Vec<String> = prompts::of_set(set, set.name()).into_iter().map(|p| p.painted).collect();
    let of_set = gallery::requests(&texts, &comparison.seeds, &comparison.painting);
    let of_world = gallery::requests(drift_texts, &comparison.seeds, &comparison.painting);
    let Some(of_set) = trial::paint(studio, &of_set, services)? else { return Ok(None) };
    Ok(trial::paint(studio, &of_world, services)?.map(|of_world| Before { of_set, of_world }))
}

/// All methods on one set.
struct Course<'a> {
    comparison: &'a Comparison,
    files: &'a BaseFiles,
    judge: &'a Judge,
    services: &'a Services<'a>,
    set: Set,
    side: usize,
    references: Vec<Embedding>,
    drift_texts: Vec<String>,
    before: Before,
}

impl Course<'_> {
    /// `false` when it was stopped.
    fn run(&self, outcome: &mut Outcome) -> Result<bool> {
        let comparison = self.comparison;
        let mut columns = vec![(Method::None, self.before.of_set.clone(), self.before.of_world.clone())];
        outcome.trials.push(self.untrained()?);
        let mut budget = None;
        let mut at_equal_steps = Vec::new();
        for &method in comparison.methods.iter().filter(|method| **method != Method::None) {
            let Some(done) = self.trial(method, Regime::EqualSteps, comparison.steps)? else {
                return Ok(false);
            };
            if method == Method::Lora {
                budget = Some(done.trial.train_seconds);
            }
            at_equal_steps.push((method, done.trial.train_seconds / done.trial.steps.max(1) as f64));
            outcome.trials.push(done.trial);
            outcome.trials.extend(done.at_strengths);
            columns.push((method, done.of_set, done.of_world));
        }
        // Without the adapter among the methods the first one sets the time.
        let budget = budget.or(at_equal_steps.first().map(|(_, step)| step * comparison.steps as f64));
        if let Some(budget) = budget.filter(|_| comparison.equal_time) {
            for (method, seconds) in at_equal_steps {
                let steps = ((budget / seconds.max(1e-9)).round() as u64).clamp(2, 20 * comparison.steps);
                if method == Method::Lora {
                    continue; // its time is the measure
                }
                let Some(done) = self.trial(method, Regime::EqualTime, steps)? else { return Ok(false) };
                outcome.trials.push(done.trial);
            }
        }
        outcome.sheets.push((self.set.name(), report::sheet(self, &columns)));
        Ok(true)
    }

    fn untrained(&self) -> Result<Trial> {
        let (text_alignment, image_alignment) = self.alignments(&self.before.of_set)?;
        Ok(Trial {
            set: self.set.name(),
            method: Method::None,
            regime: Regime::Untrained,
            strength: 1.0,
            steps: 0,
            step_seconds: 0.0,
            train_seconds: 0.0,
            trained: 0,
            file_bytes: 0,
            text_alignment,
            image_alignment,
            drift: None,
        })
    }
}
