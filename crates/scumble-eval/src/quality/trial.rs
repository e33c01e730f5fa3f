//! One training and what came of it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scumble_model::base::{BaseFiles, BaseOptions};
use scumble_paint::adapters::AdapterUse;
use scumble_paint::request::{EmbeddingUse, Request};
use scumble_paint::studio::Studio;
use scumble_train::metrics;
use scumble_train::picture::Picture;
use scumble_train::run::Summary;
use scumble_train::run::event::Event;

use super::recipe::{self, Lesson, trigger};
use super::{Course, Method, Regime, Services, Trial};
use crate::error::{EvalError, Result};
use crate::gallery::{self, Wear};
use crate::measure::{self, Mean};
use crate::{evaluate, prompts};

/// A trial with its pictures.
pub(super) struct Done {
    pub trial: Trial,
    pub of_set: Vec<Picture>,
    pub of_world: Vec<Picture>,
    /// What the same training gives at other strengths.
    pub at_strengths: Vec<Trial>,
}

/// What a run left to paint with.
struct Learned {
    model: Option<PathBuf>,
    adapters: Vec<AdapterUse>,
    embeddings: Vec<EmbeddingUse>,
    bytes: u64,
}

/// What the judge says of a trial's pictures.
struct Seen {
    text_alignment: Mean,
    image_alignment: Mean,
    drift: Option<evaluate::Drift>,
}

/// Pictures of the set's prompts and of the world's.
#[derive(Default)]
struct Painted {
    of_set: Vec<Picture>,
    of_world: Vec<Picture>,
}

/// What the trainings of one method left, and what they cost.
#[derive(Default)]
struct Trainings {
    /// Seconds of each update.
    seconds: Vec<f64>,
    trained: usize,
    bytes: u64,
    /// All trainings' pictures at strength 1 and at each other strength.
    painted: Vec<Painted>,
}

impl Course<'_> {
    /// Trains, paints and judges; `None` when it was stopped.
    pub(super) fn trial(&self, method: Method, regime: Regime, steps: u64) -> Result<Option<Done>> {
        let comparison = self.comparison;
        let is_adapter_on_unet = method == Method::Lora && regime == Regime::EqualSteps;
        let mut strengths = vec![1.0];
        strengths.extend(comparison.strengths.iter().filter(|_| is_adapter_on_unet));
        let mut all = Trainings::default();
        all.painted.resize_with(strengths.len(), Painted::default);
        for training in 0..comparison.trainings {
            if !self.training(method, regime, steps, training, &strengths, &mut all)? {
                return Ok(None);
            }
        }
        let about = |strength: f64, seen: Seen| Trial {
            set: self.set.name(),
            method,
            regime,
            strength,
            steps,
            step_seconds: median(&all.seconds),
            train_seconds: all.seconds.iter().sum::<f64>() / comparison.trainings as f64,
            trained: all.trained,
            file_bytes: all.bytes,
            text_alignment: seen.text_alignment,
            image_alignment: seen.image_alignment,
            drift: seen.drift,
        };
        let mut trials = Vec::with_capacity(strengths.len());
        for (&strength, painted) in strengths.iter().zip(&all.painted) {
            trials.push(about(strength, self.look(painted)?));
        }
        let at_strengths = trials.split_off(1);
        let first = all.painted.into_iter().next().zip(trials.pop());
        Ok(first.map(|(painted, trial)| Done {
            trial,
            of_set: painted.of_set,
            of_world: painted.of_world,
            at_strengths,
        }))
    }

    /// One training of a method; `false` when it was stopped.
    fn training(
        &self,
        method: Method,
        regime: Regime,
        steps: u64,
        training: u64,
        strengths: &[f64],
        all: &mut Trainings,
    ) -> Result<bool> {
        let services = self.services;
        let time = if regime == Regime::EqualTime { "-equal-time" } else { "" };
        let number = if training == 0 { String::new() } else { format!("-{}", training + 1) };
        let name = format!("{}-{}{time}{number}", self.set.name(), method.name());
        (services.phase)(&format!("{}: {}, {steps} updates", self.set.name(), method.label()));
        let config = self.run_of(method, steps, training, &name)?;
        let trained = Cell::new(0);
        let reporter = |event: Event| {
            if let Event::Planned(plan) = &event {
                trained.set(plan.trainable_parameters);
            }
            services.reporter.event(event);
        };
        let Some(summary) = services.train(&config, &reporter)? else { return Ok(false) };
        let learned = learned(method, &summary, &trigger(method, self.set))?;
        let records = metrics::read(&summary.folder.join("metrics.jsonl"))?;
        all.seconds.extend(records.iter().map(|record| record.seconds));
        (all.trained, all.bytes) = (trained.get(), learned.bytes);
        for (&strength, painted) in strengths.iter().zip(&mut all.painted) {
            let Some(new) = self.paint(method, &learned, strength)? else { return Ok(false) };
            painted.of_set.extend(new.of_set);
            painted.of_world.extend(new.of_world);
        }
        discard(&summary, &learned)?;
        Ok(true)
    }

    /// The run file of a training, and its pictures.
    fn run_of(
        &self,
        method: Method,
        steps: u64,
        training: u64,
        name: &str,
    ) -> Result<scumble_train::TrainConfig> {
        let comparison = self.comparison;
        let place = comparison.out.join(self.set.name());
        let (pictures, runs) =
            (place.join(if method.has_word() { "pictures-word" } else { "pictures" }), place.join("runs"));
        recipe::write_pictures(method, self.set, self.side, &pictures)?;
        let class = place.join("class");
        Ok(recipe::config(
            method,
            &Lesson {
                vectors: recipe::vectors(self.files, self.set)?,
                base: &comparison.base,
                set: self.set,
                side: self.side,
                steps,
                seed: training,
                batch: comparison.batch,
                rank: comparison.rank,
                rates: comparison.rates,
                precision: comparison.precision,
                pictures: &pictures,
                runs: &runs,
                name,
                class: Some((&class, comparison.class_count)),
            },
        ))
    }

    /// Judges what was painted.
    fn look(&self, painted: &Painted) -> Result<Seen> {
        let (text_alignment, image_alignment) = self.alignments(&painted.of_set)?;
        let count = painted.of_world.len();
        let texts: Vec<String> = self.drift_questions().into_iter().cycle().take(count).collect();
        let before: Vec<Picture> = self.before.of_world.iter().cycle().take(count).cloned().collect();
        let drift = evaluate::drift(self.judge, &texts, &before, &painted.of_world)?;
        Ok(Seen { text_alignment, image_alignment, drift })
    }

    /// Paints what was learned.
    fn paint(&self, method: Method, learned: &Learned, strength: f64) -> Result<Option<Painted>> {
        let opened = match &learned.model {
            Some(folder) => Some(BaseFiles::open(&folder.display().to_string(), &BaseOptions::default())?),
            None => None,
        };
        let files = opened.as_ref().unwrap_or(self.files);
        let studio =
            Studio::open(files, Arc::clone(&self.services.backend), self.comparison.precision.dtype())?;
        let strength = strength as f32;
        let worn = |adapter: &AdapterUse| AdapterUse { unet: strength, text: strength, ..adapter.clone() };
        let common = Request {
            adapters: learned.adapters.iter().map(worn).collect(),
            embeddings: learned.embeddings.clone(),
            ..self.comparison.painting.clone()
        };
        let texts: Vec<String> =
            prompts::of_set(self.set, &trigger(method, self.set)).into_iter().map(|p| p.painted).collect();
        let seeds = &self.comparison.seeds;
        let Some(of_set) = paint(&studio, &gallery::requests(&texts, seeds, &common), self.services)? else {
            return Ok(None);
        };
        let of_world = paint(&studio, &gallery::requests(&self.drift_texts, seeds, &common), self.services)?;
        Ok(of_world.map(|of_world| Painted { of_set, of_world }))
    }

    /// Text and image alignment of pictures of the set's prompts, from one or several trainings.
    pub(super) fn alignments(&self, of_set: &[Picture]) -> Result<(Mean, Mean)> {
        let questions = prompts::of_set(self.set, self.set.name());
        let questions: Vec<&str> = questions.iter().map(|prompt| prompt.judged.as_str()).collect();
        let each = self.comparison.seeds.len();
        let texts = self.judge.texts(&questions)?;
        let texts: Vec<_> = texts.into_iter().flat_map(|text| std::iter::repeat_n(text, each)).collect();
        let texts: Vec<_> = texts.into_iter().cycle().take(of_set.len()).collect();
        let seen = self.judge.pictures(&of_set.iter().collect::<Vec<_>>())?;
        let text = Mean::of(&measure::text_alignment(&seen, &texts));
        let image = Mean::of(&measure::image_alignment(&seen, &self.references));
        text.zip(image).ok_or_else(|| EvalError::setting("seeds", "there are none", "name one at least"))
    }

    fn drift_questions(&self) -> Vec<String> {
        let each = self.comparison.seeds.len();
        self.drift_texts.iter().flat_map(|text| std::iter::repeat_n(text.clone(), each)).collect()
    }
}

/// Paints all requests unless somebody stops it.
pub(super) fn paint(
    studio: &Studio,
    requests: &[Request],
    services: &Services<'_>,
) -> Result<Option<Vec<Picture>>> {
    gallery::paint(studio, requests, &Wear::default(), &mut |_| {}, &mut |_| services.flow())
}

/// Sorts a run's files into model, adapter and words. Words are in two spellings; one is enough.
fn learned(method: Method, summary: &Summary, word: &str) -> Result<Learned> {
    let mut learned = Learned { model: None, adapters: Vec::new(), embeddings: Vec::new(), bytes: 0 };
    for path in &summary.adapters {
        if path.is_dir() {
            learned.bytes += bytes_of(path)?;
            learned.model = Some(path.clone());
        } else if !path.starts_with(summary.folder.join("embeddings")) {
            learned.bytes += bytes_of(path)?;
            learned.adapters.push(AdapterUse::new(path.clone(), 1.0, 1.0));
        } else if method.has_word() && learned.embeddings.is_empty() {
            learned.bytes += bytes_of(path)?;
            learned.embeddings.push(EmbeddingUse { file: path.clone(), token: Some(word.to_owned()) });
        }
    }
    Ok(learned)
}

/// Bytes of a file, or of all weights in a folder.
fn bytes_of(path: &Path) -> Result<u64> {
    let io = |error: std::io::Error| EvalError::path(path, error.to_string(), "");
    let found = std::fs::metadata(path).map_err(io)?;
    if !found.is_dir() {
        return Ok(found.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path).map_err(io)? {
        sum += bytes_of(&entry.map_err(io)?.path())?;
    }
    Ok(sum)
}

/// Deletes what only this comparison needed: whole models and optimizer states would fill disks.
fn discard(summary: &Summary, learned: &Learned) -> Result<()> {
    for folder in learned.model.iter().chain([&summary.folder.join("checkpoints")]) {
        if folder.is_dir() {
            std::fs::remove_dir_all(folder)
                .map_err(|error| EvalError::path(folder, error.to_string(), "delete it yourself"))?;
        }
    }
    Ok(())
}

/// The middle of some durations; 0 without any.
fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
