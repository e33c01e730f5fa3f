//! The loop that all stages share: update, running mean, measurements, checkpoints; going on where a run ended.
//!
//! ```text
//! OUT/<stage>/recipe.toml, metrics.jsonl, loss.png, checkpoints/, model/
//! ```
//!
//! `model/` holds the running mean of the weights and is replaced as a whole with every checkpoint.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use scumble_model::files::{AtomicFolder, atomic_write};
use scumble_tensor::{Backend, Gradients, Param, Tensor};
use scumble_train::checkpoint::{Checkpoint, Origin, Store};
use scumble_train::clip::{clip_factor, global_norm};
use scumble_train::ema::Averages;
use scumble_train::lr_schedule::{Schedule, ScheduleKind};
use scumble_train::metrics::{MetricsFile, StepRecord};
use scumble_train::optimizer::{AdamW, Learner, learner};
use scumble_train::picture::png;
use scumble_train::plot::LossPlot;
use scumble_train::{Result, TrainError};

use crate::recipe::{Recipe, Stage, Train};
use crate::{autoencoder, contrastive, diffusion};

/// Checkpoints that are kept.
const KEPT: usize = 2;

/// What a stage knows and the loop does not.
pub trait Task {
    /// Parameters by part: name, rate as a share of the recipe's, parameters.
    fn parts(&self) -> Vec<(&'static str, f64, Vec<Param>)>;
    /// Loss and gradients of update `done`, counted from 0.
    fn step(&mut self, done: u64) -> Result<(f64, Gradients)>;
    /// Writes the model as its parameters are now.
    fn write(&self, folder: &Path) -> Result<()>;
}

/// What an update was like.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Finished updates.
    pub done: u64,
    /// Updates of the stage.
    pub steps: u64,
    /// Its loss.
    pub loss: f64,
    /// Its duration.
    pub seconds: f64,
}

/// Where a stage's model lies below the common folder.
pub fn model_folder(out: &Path, stage: &str) -> PathBuf {
    out.join(stage).join("model")
}

/// Runs a stage in `out`, from the start or (`resume`) from its last checkpoint. `tell` hears of every update; `stop` ends
/// the run after the current update with a checkpoint. Returns the finished updates.
pub fn run(
    recipe: &Recipe,
    out: &Path,
    resume: bool,
    backend: &Arc<dyn Backend>,
    tell: &dyn Fn(&Report),
    stop: &AtomicBool,
) -> Result<u64> {
    let mut task: Box<dyn Task> = match &recipe.stage {
        Stage::Autoencoder(sizes) => Box::new(autoencoder::Task::new(sizes, &recipe.train, out, backend)?),
        Stage::Contrastive(sizes) => Box::new(contrastive::Task::new(sizes, &recipe.train, backend)?),
        Stage::Diffusion(sizes) => Box::new(diffusion::Task::new(sizes, &recipe.train, out, backend)?),
    };
    let mut run = Run::open(recipe, out, resume, Arc::clone(backend), task.as_ref())?;
    while run.done < recipe.train.steps && !stop.load(Ordering::Relaxed) {
        let report = run.update(task.as_mut())?;
        tell(&report);
        if run.done.is_multiple_of(recipe.train.checkpoint_every) {
            run.save(task.as_ref())?;
        }
    }
    run.save(task.as_ref())?;
    Ok(run.done)
}

struct Run {
    folder: PathBuf,
    train: Train,
    origin: Origin,
    backend: Arc<dyn Backend>,
    learners: Vec<Learner>,
    averages: Averages,
    metrics: MetricsFile,
    store: Store,
    done: u64,
    saved: Option<u64>,
}

impl Run {
    fn open(
        recipe: &Recipe,
        out: &Path,
        resume: bool,
        backend: Arc<dyn Backend>,
        task: &dyn Task,
    ) -> Result<Self> {
        let folder = out.join(recipe.name());
        if !resume && folder.exists() {
            return Err(TrainError::RunExists { path: folder });
        }
        std::fs::create_dir_all(&folder).map_err(TrainError::io("creating", &folder))?;
        let text =
            toml::to_string(recipe).map_err(|error| TrainError::Toml { message: error.to_string() })?;
        let origin = Origin {
            settings: flat(&text)?,
            data: format!("scenes {}", crate::world::TRAINING_SCENES),
            base: backend.name().to_owned(),
        };
        let mut learners = learners(&recipe.train, task);
        let params = learner::all_params(&learners);
        params.iter().for_each(|param| param.set_trainable(true));
        let mut averages = Averages::new(recipe.train.ema, params.clone());
        let store = Store::new(folder.join("checkpoints"));
        store.sweep()?;
        let mut done = 0;
        if resume && !store.steps()?.is_empty() {
            let checkpoint = store.latest()?;
            let changes = origin.changes_since(&checkpoint.origin);
            if !changes.is_empty() {
                return Err(TrainError::Drift { changes });
            }
            checkpoint.restore(backend.as_ref(), &params)?;
            learner::restore(&mut learners, backend.as_ref(), &checkpoint.optimizer)?;
            averages.restore(backend.as_ref(), &checkpoint.optimizer)?;
            done = checkpoint.step;
        }
        let recipe_file = folder.join("recipe.toml");
        atomic_write(&recipe_file, |file| file.write_all(text.as_bytes()))?;
        let metrics = MetricsFile::open(&folder.join("metrics.jsonl"), done)?;
        let train = recipe.train.clone();
        Ok(Self { folder, train, origin, backend, learners, averages, metrics, store, done, saved: None })
    }

    fn update(&mut self, task: &mut dyn Task) -> Result<Report> {
        let start = Instant::now();
        let backend = self.backend.as_ref();
        let (loss, gradients) = task.step(self.done)?;
        let params = learner::all_params(&self.learners);
        let norm = global_norm(backend, &params, &gradients)?;
        for (what, value) in [("loss", loss), ("gradient", norm)] {
            if !value.is_finite() {
                let pictures = vec!["drawn scenes".to_owned()];
                return Err(TrainError::NotFinite { step: self.done + 1, what, value, pictures });
            }
        }
        let scale = clip_factor(norm, self.train.max_grad_norm);
        learner::apply(&mut self.learners, backend, gradients, self.done, scale)?;
        self.averages.add(backend)?;
        let rate = |learner: &Learner| (learner.name.clone(), learner.rate(self.done));
        let lr = self.learners.iter().map(rate).collect();
        self.done += 1;
        let seconds = start.elapsed().as_secs_f64();
        self.metrics.append(StepRecord {
            step: self.done,
            loss,
            lr,
            grad_norm: norm,
            seconds,
            validation_loss: None,
        })?;
        Ok(Report { done: self.done, steps: self.train.steps, loss, seconds })
    }

    fn save(&mut self, task: &dyn Task) -> Result<()> {
        if self.saved == Some(self.done) {
            return Ok(());
        }
        let backend = self.backend.as_ref();
        let mut state: BTreeMap<String, Tensor> = learner::state(&self.learners, backend)?;
        state.extend(self.averages.state(backend)?);
        let params = learner::all_params(&self.learners);
        let checkpoint = Checkpoint::capture(backend, self.done, &self.origin, &params, state)?;
        self.store.save(&checkpoint, KEPT)?;
        let whole = AtomicFolder::create(&self.folder.join("model"))?;
        self.averages.in_place(|| task.write(whole.path()))?;
        whole.commit()?;
        let points: Vec<(u64, f64)> = self.metrics.records().iter().map(|r| (r.step, r.loss)).collect();
        let plot = LossPlot { title: "loss", x_label: "updates", points: &points, tests: &[] };
        png::write(&self.folder.join("loss.png"), &plot.render(), &[])?;
        self.saved = Some(self.done);
        Ok(())
    }
}

fn learners(train: &Train, task: &dyn Task) -> Vec<Learner> {
    let part = |(name, share, params): (&'static str, f64, Vec<Param>)| Learner {
        name: name.to_owned(),
        lr: train.lr * share,
        schedule: Schedule {
            kind: ScheduleKind::Cosine,
            warmup: train.warmup,
            steps: train.steps,
            cycles: 0.5,
            power: 1.0,
            lr_end: 0.0,
        },
        start: 0,
        stop: train.steps,
        params,
        optimizer: Box::new(AdamW::new([0.9, train.beta2], 1e-8, train.weight_decay)),
    };
    task.parts().into_iter().filter(|(_, share, _)| *share > 0.0).map(part).collect()
}

/// A TOML text as `section.key` and value.
fn flat(text: &str) -> Result<BTreeMap<String, String>> {
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| TrainError::Toml { message: error.to_string() })?;
    let mut settings = BTreeMap::new();
    for (section, value) in table {
        match value {
            toml::Value::Table(keys) => {
                settings.extend(
                    keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value.to_string())),
                );
            }
            other => {
                settings.insert(section, other.to_string());
            }
        }
    }
    // More checkpoints change nothing.
    settings.remove("train.checkpoint_every");
    Ok(settings)
}
