//! The runs in a folder, as their files tell: how far they came, what they left, whether they are still going on.
//!
//! Truth is what lies in a run's folder; nothing else is kept anywhere. A run whose `run.lock` is held is going on; one
//! that is not and has fewer updates than its configuration asks for was stopped.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::event::SmoothLoss;
use super::folder::{self, RunFolder};
use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use crate::metrics;

/// A path as people see it: one that is no Unicode is no error.
fn as_shown<S: serde::Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A process trains into its folder.
    Running,
    /// All updates are made.
    Finished,
    /// It ended before its last update.
    Stopped,
    /// Its configuration can't be read.
    Unreadable,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Unreadable => "unreadable",
        })
    }
}

/// A weight file or folder that a run has saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// Where it is.
    #[serde(serialize_with = "as_shown")]
    pub path: PathBuf,
    /// The update after which it was saved; none for that of the end.
    pub step: Option<u64>,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct RunInfo {
    /// Its folder.
    #[serde(serialize_with = "as_shown")]
    pub path: PathBuf,
    /// The folder's name.
    pub name: String,
    /// How it stands.
    pub state: State,
    /// Why its configuration can't be read.
    pub problem: Option<String>,
    /// Its configuration.
    #[serde(skip)]
    pub config: Option<TrainConfig>,
    /// Finished updates.
    pub step: u64,
    /// Updates that it is to make.
    pub steps: Option<u64>,
    /// Running mean of the loss at the end.
    pub loss: Option<f64>,
    /// Time that the updates took.
    pub seconds: f64,
    /// Updates that `--resume` can go on from.
    pub checkpoints: Vec<u64>,
    /// What it has saved, in the order of its steps, that of the end last.
    pub saved: Vec<Saved>,
    /// Size of everything in the folder.
    pub bytes: u64,
}

impl RunInfo {
    /// Reads the folder of a run.
    pub fn open(path: &Path) -> Result<Self> {
        if !is_run(path) {
            return Err(TrainError::NotARun { path: path.to_owned() });
        }
        let config_path = path.join("config.toml");
        let config = std::fs::read_to_string(&config_path)
            .map_err(TrainError::io("reading", &config_path))
            .and_then(|text| TrainConfig::from_toml(&text));
        let (config, problem) = match config {
            Ok(config) => (Some(config), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let records = metrics::read(&path.join("metrics.jsonl"))?;
        let mut smooth = SmoothLoss::default();
        let loss = records.iter().map(|record| smooth.add(record.loss)).last();
        let checkpoints = folder::checkpoints_of(path).steps()?;
        let step = records.last().map_or(0, |record| record.step);
        let steps = config.as_ref().map(|config| config.train.steps);
        let state = match steps {
            _ if is_locked(path) => State::Running,
            None => State::Unreadable,
            Some(steps) if step >= steps => State::Finished,
            Some(_) => State::Stopped,
        };
        Ok(Self {
            path: path.to_owned(),
            name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            state,
            problem,
            config,
            step,
            steps,
            loss,
            seconds: records.iter().map(|record| record.seconds).sum(),
            checkpoints,
            saved: saved(path)?,
            bytes: size_of(path),
        })
    }

    /// Whether `scumble train --resume` has something to do here.
    pub fn can_resume(&self) -> bool {
        self.state == State::Stopped && !self.checkpoints.is_empty()
    }

    /// Step and loss of every update.
    pub fn losses(&self) -> Result<Vec<(u64, f64)>> {
        let records = metrics::read(&self.path.join("metrics.jsonl"))?;
        Ok(records.into_iter().map(|record| (record.step, record.loss)).collect())
    }
}

/// All runs in a folder, by name; `folder` may be a run itself.
pub fn list(folder: &Path) -> Result<Vec<RunInfo>> {
    if is_run(folder) {
        return Ok(vec![RunInfo::open(folder)?]);
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(TrainError::io("reading", folder))? {
        paths.push(entry.map_err(TrainError::io("reading", folder))?.path());
    }
    paths.retain(|path| is_run(path));
    paths.sort_by_key(|path| natural(path));
    paths.iter().map(|path| RunInfo::open(path)).collect()
}

/// Deletes a run with everything in its folder; refuses what is no run and one that is going on.
pub fn delete(path: &Path) -> Result<()> {
    if !is_run(path) {
        return Err(TrainError::NotARun { path: path.to_owned() });
    }
    // Held until everything is gone, so that no process begins to train into it meanwhile.
    let lock = RunFolder::open(path, "")?;
    std::fs::remove_dir_all(path).map_err(TrainError::io("deleting", path))?;
    drop(lock);
    Ok(())
}

/// A folder with a configuration and at least one other trace of a run.
fn is_run(path: &Path) -> bool {
    let has = |name: &str| path.join(name).exists();
    path.is_dir() && has("config.toml") && ["run.lock", "metrics.jsonl", "checkpoints"].into_iter().any(has)
}

/// Whether a process holds the lock. Looking takes it shared for a moment, and changes nothing.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path.join("run.lock")) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Weights in a run's folder: files, and folders of whole models and of words.
fn saved(path: &Path) -> Result<Vec<Saved>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(TrainError::io("reading", path))? {
        let path = entry.map_err(TrainError::io("reading", path))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_weights = name.ends_with(".safetensors") && path.is_file()
            || path.join("model_index.json").is_file()
            || name.starts_with("embeddings") && path.is_dir();
        if is_weights && !name.starts_with('.') {
            let stem = name.strip_suffix(".safetensors").unwrap_or(&name);
            let step = stem.rsplit_once("-step").and_then(|(_, step)| step.parse().ok());
            found.push(Saved { path, step });
        }
    }
    found.sort_by_key(|saved| (saved.step.unwrap_or(u64::MAX), saved.path.clone()));
    Ok(found)
}

/// Bytes of all files below; what can't be looked at counts nothing. Links are not followed.
fn size_of(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => size_of(&entry.path()),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |found| found.len()),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

/// `dog-2` before `dog-10`.
fn natural(path: &Path) -> (String, u64) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rsplit_once('-').and_then(|(stem, number)| Some((stem.to_owned(), number.parse().ok()?))) {
        Some(numbered) => numbered,
        None => (name, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Save;

    fn run(parent: &Path, steps: u64, done: u64) -> RunFolder {
        let save = Save { folder: parent.into(), ..Save::default() };
        let run = RunFolder::create(&save).unwrap();
        let mut config = TrainConfig::default();
        config.train.steps = steps;
        std::fs::write(run.config(), config.to_toml().unwrap()).unwrap();
        let mut metrics = metrics::MetricsFile::open(&run.metrics(), 0).unwrap();
        for step in 1..=done {
            let record = metrics::StepRecord {
                step,
                loss: 0.5,
                lr: Default::default(),
                grad_norm: 1.0,
                seconds: 2.0,
                validation_loss: None,
            };
            metrics.append(record).unwrap();
        }
        std::fs::create_dir(run.path().join("checkpoints")).unwrap();
        std::fs::write(run.path().join("checkpoints/step-00000002.safetensors"), b"123").unwrap();
        std::fs::write(run.path().join("lora.safetensors"), b"1").unwrap();
        std::fs::write(run.path().join("lora-step000002.safetensors"), b"1").unwrap();
        run
    }

    #[test]
    fn runs_are_told_by_their_files() {
        let parent = tempfile::tempdir().unwrap();
        let running = run(parent.path(), 4, 3);
        drop(run(parent.path(), 3, 3));
        drop(run(parent.path(), 9, 3));
        std::fs::create_dir(parent.path().join("photos")).unwrap();
        let runs = list(parent.path()).unwrap();
        let told: Vec<_> = runs.iter().map(|run| (run.name.as_str(), run.state, run.step)).collect();
        let expected =
            [("lora", State::Running, 3), ("lora-2", State::Finished, 3), ("lora-3", State::Stopped, 3)];
        assert_eq!(told, expected);
        let stopped = &runs[2];
        assert!(stopped.can_resume() && !runs[0].can_resume() && !runs[1].can_resume());
        assert_eq!((stopped.checkpoints.as_slice(), stopped.seconds), ([2].as_slice(), 6.0));
        assert_eq!(stopped.saved.iter().map(|saved| saved.step).collect::<Vec<_>>(), [Some(2), None]);
        assert!((stopped.loss.unwrap() - 0.5).abs() < 1e-12 && stopped.bytes > 100);
        assert_eq!(stopped.losses().unwrap().len(), 3);
        assert!(matches!(delete(running.path()), Err(TrainError::RunBusy { .. })));
        drop(running);
        // Looking has not kept the lock.
        assert_eq!(RunInfo::open(&parent.path().join("lora")).unwrap().state, State::Stopped);
        delete(&parent.path().join("lora")).unwrap();
        assert_eq!(list(parent.path()).unwrap().len(), 2);
        assert_eq!(list(&parent.path().join("lora-2")).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_run_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join("config.toml"), "x").unwrap();
        assert!(matches!(delete(parent.path()), Err(TrainError::NotARun { .. })));
        assert!(RunInfo::open(parent.path()).is_err() && list(&parent.path().join("none")).is_err());
        std::fs::write(parent.path().join("metrics.jsonl"), "rubbish").unwrap();
        let broken = RunInfo::open(parent.path()).unwrap();
        assert_eq!((broken.state, broken.step), (State::Unreadable, 0));
        assert!(broken.problem.is_some());
    }

    #[test]
    fn numbers_are_sorted_as_numbers() {
        let mut names = ["dog-10", "dog", "dog-2", "cat"].map(Path::new).to_vec();
        names.sort_by_key(|path| natural(path));
        assert_eq!(names, ["cat", "dog", "dog-2", "dog-10"].map(Path::new));
    }
}
