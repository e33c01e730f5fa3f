//! A training run from its configuration to its files.
//!
//! ```text
//! check -> load base -> paint missing class pictures -> read pictures -> plan -> folder (new, or resumed)
//! -> picture of step 0 -> update, record, every so often save and paint -> last save, before and after
//! ```
//!
//! [`train`] does it all and tells a [`Reporter`]; [`plan`] stops before the folder. Between any two updates the run can end:
//! `stop` set from outside finishes the update in progress and saves; a kill loses the updates since the last save.

pub mod album;
pub mod base;
pub mod batch;
pub mod cache;
pub mod catalog;
pub mod channels;
pub mod event;
pub mod folder;
pub mod holdout;
pub mod learning;
pub mod painter;
mod rates;
pub mod samples;
pub mod session;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use scumble_adapter::dialect::save_adapter;
use scumble_model::files::atomic_write;
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Backend, DType};
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Origin};
use crate::config::{Method, TrainConfig};
use crate::data::concept::ClassPictures;
use crate::data::gather;
use crate::embeddings;
use crate::error::{Result, TrainError};
use crate::full;
use crate::metrics::{MetricsFile, StepRecord};
use crate::picture::sheet::{Sheet, SheetRow};
use crate::picture::{self, DecodeOptions, Picture, png};
use crate::plot::LossPlot;
use crate::preflight::{self, Plan};
use crate::tensorboard::{EventFile, Sample};
use base::Base;
use event::{Event, Reporter, SmoothLoss};
use folder::RunFolder;
use holdout::EarlyStop;
use painter::Painting;
use session::{Session, dialect_of, output_type, write_options};

/// What a run is given.
pub struct Services<'a> {
    /// Where it computes.
    pub backend: Arc<dyn Backend>,
    /// Who hears of it.
    pub reporter: &'a dyn Reporter,
    /// Set from outside to end the run after the update in progress.
    pub stop: &'a AtomicBool,
}

impl Services<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn phase(&self, text: &str) {
        self.reporter.event(Event::Phase(text.to_owned()));
    }
}

/// Where a run begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the beginning, in a folder of its own.
    #[default]
    New,
    /// At a checkpoint.
    Resume {
        /// A run's folder (its newest checkpoint) or a checkpoint file; the newest run of the name when absent.
        from: Option<PathBuf>,
        /// Go on although settings, pictures or base have changed.
        allow_changes: bool,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All updates are made.
    Finished,
    /// It was stopped from outside and saved.
    Interrupted,
}

/// What a run has come to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How it ended.
    pub outcome: Outcome,
    /// The run's folder.
    pub folder: PathBuf,
    /// Finished updates.
    pub steps: u64,
    /// Running mean of the loss at the end.
    pub loss: Option<f64>,
    /// The adapter in the spellings asked for.
    pub adapters: Vec<PathBuf>,
}

/// Loads everything and tells what a run would do, without writing anything.
pub fn plan(config: &TrainConfig, services: &Services<'_>) -> Result<Plan> {
    let (session, _) = open(config, services, false)?;
    preflight::plan(&session)
}

/// Trains.
pub fn train(config: &TrainConfig, start: &Start, services: &Services<'_>) -> Result<Summary> {
    config.check()?;
    let resume = find_checkpoint(config, start)?;
    let (mut session, interrupted) = open(config, services, true)?;
    if interrupted {
        return Err(TrainError::StoppedEarly);
    }
    let plan = preflight::plan(&session)?;
    session.recompute = plan.recompute;
    for warning in &plan.warnings {
        services.reporter.event(Event::Warning(warning.clone()));
    }
    services.reporter.event(Event::Planned(Box::new(plan)));
    let origin = session.origin()?;
    let (folder, done) = match resume {
        None => {
            let folder = RunFolder::create(&config.save)?;
            write_config(&folder, &session.config)?;
            (folder, 0)
        }
        Some((path, checkpoint)) => {
            let folder = RunFolder::open(&path, &config.save.name)?;
            folder.sweep()?;
            resume_from(&mut session, &checkpoint, &origin, start, services)?;
            // The run's file tells what it is from here on.
            write_config(&folder, &session.config)?;
            (folder, checkpoint.step)
        }
    };
    let stop = || services.stopped();
    session.samples.fill(&session.base, services.reporter, &stop)?;
    // The autoencoder's buffers have other sizes than a step's; without this they would lie idle for the whole run.
    scumble_tensor::memory::trim();
    let metrics = MetricsFile::open(&folder.metrics(), done)?;
    let events = match session.config.save.tensorboard {
        true => {
            let mut samples = folder.samples()?;
            // Later ones are of a course that ended, as are the metrics after the checkpoint; those of the first and of the
            // last step are painted anew.
            let steps = session.config.train.steps;
            samples.retain(|sample| sample.step <= done && done > 0 && sample.step < steps);
            Some(EventFile::create(&folder.events(), metrics.records(), &samples)?)
        }
        false => None,
    };
    Run { session, folder, origin, metrics, events, services }.go(done)
}

fn write_config(folder: &RunFolder, config: &TrainConfig) -> Result<()> {
    let text = config.to_toml()?;
    Ok(atomic_write(&folder.config(), |file| std::io::Write::write_all(file, text.as_bytes()))?)
}

/// The checkpoint to go on from and the folder of its run.
fn find_checkpoint(config: &TrainConfig, start: &Start) -> Result<Option<(PathBuf, Checkpoint)>> {
    let Start::Resume { from, .. } = start else { return Ok(None) };
    let path = match from {
        Some(path) => path.clone(),
        None => RunFolder::newest(&config.save)?,
    };
    if path.is_dir() {
        let checkpoint = folder::checkpoints_of(&path).latest()?;
        return Ok(Some((path, checkpoint)));
    }
    let checkpoint = Checkpoint::read(&path)?;
    let run = path.parent().and_then(Path::parent).map(Path::to_owned);
    let run = run.filter(|run| run.join("config.toml").is_file());
    let run = run.ok_or_else(|| TrainError::NoCheckpoint {
        path: path.clone(),
        problem: "it does not lie in the `checkpoints` folder of a run".to_owned(),
    })?;
    Ok(Some((run, checkpoint)))
}

fn resume_from(
    session: &mut Session,
    checkpoint: &Checkpoint,
    origin: &Origin,
    start: &Start,
    services: &Services<'_>,
) -> Result<()> {
    let changes = origin.changes_since(&checkpoint.origin);
    if !changes.is_empty() {
        match start {
            Start::Resume { allow_changes: true, .. } => {
                services
                    .reporter
                    .event(Event::Warning(format!("going on with changes: {}", changes.join("; "))));
            }
            _ => return Err(TrainError::Drift { changes }),
        }
    }
    session.restore(checkpoint)
}

/// Loads base, class pictures and samples. The flag tells whether `stop` was set while painting.
fn open(config: &TrainConfig, services: &Services<'_>, paint: bool) -> Result<(Session, bool)> {
    config.check()?;
    let config = config.resolved();
    // Cheap mistakes first: a wrong folder must not wait for gigabytes of base model.
    services.phase("reading the pictures");
    let mut dataset = gather::pictures(&config)?;
    let held = holdout::split(&config, &mut dataset)?;
    // Weights that learn are f32; what is computed with them takes the precision of the activations.
    let weights = match config.method {
        Method::Full => DType::F32,
        _ => config.train.precision.dtype(),
    };
    let base = Base::load(&config.base, weights, services.backend.as_ref(), services.reporter)?;
    if !config.validate.prompts.is_empty() {
        painter::sampler_kind(&base, config.validate.sampler.as_deref())?;
    }
    let complete = !paint || paint_class_pictures(&config, &base, services)?;
    let session =
        Session::open(config, Arc::clone(&services.backend), base, dataset, held, services.reporter)?;
    if session.base.is_inpainting() {
        let samples = &session.samples;
        let class = samples.class_dataset().into_iter().flat_map(|class| &class.items);
        let pictures = samples.dataset().items.iter().chain(class);
        services.reporter.event(Event::Note(channels::origin(&session.config.inpaint, pictures)));
    }
    Ok((session, !complete))
}

/// Paints the class pictures that are missing; `false` when it was stopped.
fn paint_class_pictures(config: &TrainConfig, base: &Base, services: &Services<'_>) -> Result<bool> {
    for class in gather::class_pictures(config)? {
        if !paint_class(config, base, &class, services)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn paint_class(
    config: &TrainConfig,
    base: &Base,
    class: &ClassPictures,
    services: &Services<'_>,
) -> Result<bool> {
    let folder = &class.folder;
    let present = gather::class_dataset(config, class)?.items.len();
    let missing = class.count.saturating_sub(present);
    if missing == 0 {
        return Ok(true);
    }
    services.phase("painting class pictures");
    std::fs::create_dir_all(folder).map_err(TrainError::io("creating", folder))?;
    let mut number = 0;
    for done in 0..missing {
        let path = loop {
            let path = folder.join(format!("class-{number:05}.png"));
            if !path.exists() {
                break path;
            }
            number += 1;
        };
        let painting = Painting {
            prompt: &class.prompt,
            negative: "",
            seed: stream_at(config.train.seed, "class picture", number).random64(),
            steps: config.data.class_steps,
            guidance: 7.5,
            sampler: None,
            width: config.data.width,
            height: config.data.height,
        };
        let Some(picture) = painter::paint(base, &services.backend, &painting, services.stop)? else {
            return Ok(false);
        };
        png::write(&path, &picture, &[])?;
        services.reporter.event(Event::Progress { done: done + 1, total: missing });
    }
    Ok(true)
}

/// Which adapter is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    /// That of the end.
    End,
    /// One on the way.
    Step,
    /// The one with the least validation loss.
    Best,
}

struct Run<'a> {
    session: Session,
    folder: RunFolder,
    origin: Origin,
    metrics: MetricsFile,
    events: Option<EventFile>,
    services: &'a Services<'a>,
}

impl Run<'_> {
    fn go(mut self, first: u64) -> Result<Summary> {
        let (steps, reporter) = (self.session.config.train.steps, self.services.reporter);
        let path = self.folder.path().to_owned();
        reporter.event(Event::Started { folder: path.clone(), done: first, steps });
        let mut smooth = SmoothLoss::default();
        let mut loss = self.metrics.records().iter().map(|record| smooth.add(record.loss)).last();
        let mut early = EarlyStop::new(self.session.config.holdout.patience);
        for record in self.metrics.records() {
            _ = record.validation_loss.map(|loss| early.add(record.step, loss));
        }
        if first == 0 {
            // From here on there is something to resume.
            self.save_checkpoint(0)?;
            self.paint(0)?;
            if let Some(loss) = self.session.test()? {
                reporter.event(Event::Tested { step: 0, loss, best: (0, loss) });
            }
        } else if self.lacks_pictures(first) {
            // A stop in the middle of painting, or before it.
            self.paint(first)?;
        }
        let started = Instant::now();
        let mut painting = 0.0;
        for done in first..steps {
            if early.is_over() {
                return self.give_up(done, loss, &early);
            }
            if self.services.stopped() {
                return self.interrupted(done, loss);
            }
            let clock = Instant::now();
            let update = self.session.update(done, reporter)?;
            let seconds = clock.elapsed().as_secs_f64();
            let clock = Instant::now();
            let validation_loss =
                match (done + 1) % self.session.config.holdout.every == 0 || done + 1 == steps {
                    true => self.session.test()?,
                    false => None,
                };
            painting += clock.elapsed().as_secs_f64();
            let record = StepRecord {
                step: done + 1,
                loss: update.loss,
                lr: update.rates,
                grad_norm: update.grad_norm,
                seconds,
                validation_loss,
            };
            self.metrics.append(record.clone())?;
            if let Some(events) = &mut self.events {
                events.append(&record)?;
            }
            let smooth_loss = smooth.add(update.loss);
            loss = Some(smooth_loss);
            let per_second =
                (done + 1 - first) as f64 / (started.elapsed().as_secs_f64() - painting).max(1e-9);
            reporter.event(Event::Step { record, steps, smooth_loss, per_second });
            let config = &self.session.config;
            let due = |every: u64| every > 0 && (done + 1) % every == 0 && done + 1 < steps;
            let (save, paint) = (due(config.save.every), due(config.validate.every));
            let clock = Instant::now();
            if let Some(loss) = validation_loss {
                self.tested(done + 1, loss, &mut early)?;
            }
            if save {
                self.save(done + 1)?;
            }
            if paint {
                self.paint(done + 1)?;
            }
            painting += clock.elapsed().as_secs_f64();
        }
        self.finish(steps, loss)
    }

    /// Takes note of a validation loss, and keeps the adapter if none was better.
    fn tested(&self, step: u64, loss: f64, early: &mut EarlyStop) -> Result<()> {
        let better = early.add(step, loss);
        let best = early.best().unwrap_or((step, loss));
        self.services.reporter.event(Event::Tested { step, loss, best });
        // Whole models are gigabytes: of those only the last is written.
        if better && self.session.config.method != Method::Full {
            self.save_adapters(step, Spot::Best)?;
        }
        Ok(())
    }

    /// Ends a run that has stopped getting better.
    fn give_up(&mut self, done: u64, loss: Option<f64>, early: &EarlyStop) -> Result<Summary> {
        let (step, best) = early.best().unwrap_or((done, f64::NAN));
        let text = format!(
            "stopped early: the validation loss was least after step {step} ({best:.4}); the adapter of that step is in `{}`",
            self.folder.best().display()
        );
        self.services.reporter.event(Event::Note(text));
        self.finish(done, loss)
    }

    fn summary(&self, outcome: Outcome, steps: u64, loss: Option<f64>, adapters: Vec<PathBuf>) -> Summary {
        Summary { outcome, folder: self.folder.path().to_owned(), steps, loss, adapters }
    }

    fn interrupted(&mut self, done: u64, loss: Option<f64>) -> Result<Summary> {
        self.services.phase("stopping: saving");
        let adapters = self.save(done)?;
        self.album()?;
        Ok(self.summary(Outcome::Interrupted, done, loss, adapters))
    }

    fn finish(&mut self, steps: u64, loss: Option<f64>) -> Result<Summary> {
        self.services.phase("saving");
        self.save_checkpoint(steps)?;
        let adapters = self.save_adapters(steps, Spot::End)?;
        self.plot()?;
        self.paint(steps)?;
        self.before_and_after(steps)?;
        self.album()?;
        self.services.reporter.event(Event::Saved { step: steps, files: adapters.clone() });
        Ok(self.summary(Outcome::Finished, steps, loss, adapters))
    }

    /// Adapter first, checkpoint last: a checkpoint that is there tells that all of its step is.
    fn save(&self, step: u64) -> Result<Vec<PathBuf>> {
        let adapters = self.save_adapters(step, Spot::Step)?;
        self.save_checkpoint(step)?;
        self.plot()?;
        self.services.reporter.event(Event::Saved { step, files: adapters.clone() });
        Ok(adapters)
    }

    fn save_checkpoint(&self, step: u64) -> Result<()> {
        let session = &self.session;
        let point = Checkpoint::capture(
            session.backend.as_ref(),
            step,
            &self.origin,
            &session.kept(),
            session.optimizer_state()?,
        )?;
        let store = self.folder.checkpoints();
        store.save(&point, session.config.save.keep_last)?;
        // The adapters of a step go with its checkpoint. They are looked for, because a kill may have come between.
        let kept = store.steps()?;
        for (step, path) in self.folder.step_adapters()? {
            if !kept.contains(&step) {
                let removed =
                    if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.map_err(TrainError::io("deleting", path))?;
            }
        }
        Ok(())
    }

    /// One path for each format; the first has the plain name.
    fn adapter_paths(&self, step: Option<u64>) -> Vec<PathBuf> {
        let formats = &self.session.config.save.formats;
        let path = |(index, format): (usize, &crate::config::FileFormat)| {
            self.folder.adapter(if index == 0 { "" } else { format.name() }, step)
        };
        formats.iter().enumerate().map(path).collect()
    }

    /// The adapter in all spellings, new words, or the whole model; those of the end have plain names.
    fn save_adapters(&self, done: u64, spot: Spot) -> Result<Vec<PathBuf>> {
        let session = &self.session;
        let config = &session.config;
        let step = (spot == Spot::Step).then_some(done);
        if config.method == Method::Full {
            let folder = self.folder.model(step);
            let (backend, dtype) = (session.backend.as_ref(), output_type(config));
            let write = || full::write(&session.base, backend, dtype, config.full.text_encoder, &folder);
            session.with_result(write)?;
            return Ok(vec![folder]);
        }
        let adapter = session.adapter(done)?;
        let best = self.folder.best();
        if spot == Spot::Best {
            std::fs::create_dir_all(&best).map_err(TrainError::io("creating", &best))?;
        }
        let place = |path: PathBuf| match (spot, path.file_name()) {
            (Spot::Best, Some(name)) => best.join(name),
            _ => path,
        };
        let mut paths = Vec::new();
        if session.learning.lora.is_some() {
            for (path, &format) in self.adapter_paths(step).into_iter().zip(&config.save.formats) {
                let (path, options) = (place(path), write_options(config, format));
                save_adapter(&path, &adapter, &session.table, dialect_of(format)?, &options)?;
                paths.push(path);
            }
        }
        if !adapter.tokens.is_empty() {
            paths.extend(embeddings::write(&adapter.tokens, &place(self.folder.embeddings(step)))?);
        }
        Ok(paths)
    }

    fn plot(&self) -> Result<()> {
        let points: Vec<(u64, f64)> = self.metrics.records().iter().map(|r| (r.step, r.loss)).collect();
        if points.is_empty() {
            return Ok(());
        }
        let title = format!("{}: loss", self.session.config.save.name);
        let tests: Vec<(u64, f64)> =
            self.metrics.records().iter().filter_map(|r| Some((r.step, r.validation_loss?))).collect();
        let plot = LossPlot { title: &title, x_label: "step", points: &points, tests: &tests };
        let picture = plot.render();
        Ok(png::write(&self.folder.loss_plot(), &picture, &[])?)
    }

    /// Whether pictures of a step on the way are due and not all there.
    fn lacks_pictures(&self, step: u64) -> bool {
        let config = &self.session.config;
        let due = config.validate.every > 0
            && step.is_multiple_of(config.validate.every)
            && step < config.train.steps;
        due && (0..config.validate.prompts.len()).any(|prompt| !self.folder.sample(step, prompt).exists())
    }

    /// Validation pictures after a step.
    fn paint(&mut self, step: u64) -> Result<()> {
        let config = &self.session.config;
        if config.validate.prompts.is_empty() {
            return Ok(());
        }
        self.services.phase(&format!("painting after step {step}"));
        for (index, prompt) in config.validate.prompts.iter().enumerate() {
            let painting = Painting {
                prompt,
                negative: &config.validate.negative,
                seed: config.validate.seed,
                steps: config.validate.steps,
                guidance: config.validate.guidance,
                sampler: config.validate.sampler.as_deref(),
                width: config.data.width,
                height: config.data.height,
            };
            let (base, backend) = (&self.session.base, &self.services.backend);
            let paint = || painter::paint(base, backend, &painting, self.services.stop);
            let Some(picture) = self.session.with_result(paint)? else {
                return Ok(());
            };
            let path = self.folder.sample(step, index);
            let folder = path.parent().unwrap_or(self.folder.path());
            std::fs::create_dir_all(folder).map_err(TrainError::io("creating", folder))?;
            let bytes = png::encode(&picture, &[("scumble", prompt)])?;
            atomic_write(&path, |file| std::io::Write::write_all(file, &bytes))?;
            if let Some(events) = &mut self.events {
                events.append_sample(&Sample { step, prompt: index, path: path.clone() }, &bytes)?;
            }
            self.services.reporter.event(Event::Picture { step, prompt: index, path });
        }
        Ok(())
    }

    /// The validation pictures of all steps put together.
    fn album(&self) -> Result<()> {
        let config = &self.session.config;
        let [sheet, animation] = self.folder.album();
        let samples = self.folder.samples()?;
        album::write(&config.save.name, &config.validate.prompts, &samples, [&sheet, &animation])
    }

    /// A sheet of the validation pictures of step 0 and of the end.
    fn before_and_after(&self, steps: u64) -> Result<()> {
        let config = &self.session.config;
        let read = |path: PathBuf| -> Option<Picture> {
            // Pictures that were deleted or never painted leave their place empty.
            picture::read(&path, &DecodeOptions::default()).ok()
        };
        let row = |(index, prompt): (usize, &String)| SheetRow {
            label: prompt.clone(),
            pictures: [0, steps].map(|step| read(self.folder.sample(step, index))).to_vec(),
        };
        let rows: Vec<SheetRow> = config.validate.prompts.iter().enumerate().map(row).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let sheet = Sheet {
            title: config.save.name.clone(),
            subtitle: format!("{steps} steps, pictures: {}", self.session.samples.dataset().items.len()),
            columns: vec!["before".to_owned(), "after".to_owned()],
            rows,
        };
        Ok(png::write(&self.folder.before_after(), &sheet.render(), &[])?)
    }
}
