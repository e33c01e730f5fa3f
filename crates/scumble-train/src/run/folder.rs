//! The folder of a run.
//!
//! ```text
//! runs/<name>/
//!     config.toml            the resolved configuration; the same file runs it again
//!     metrics.jsonl          a line for each update
//!     loss.png               the plot of it
//!     events.out.tfevents.scumble  the same for TensorBoard, and the validation pictures
//!     checkpoints/           what `--resume` goes on from
//!     samples/               validation pictures; before-after.png, samples.png and samples.gif beside them
//!     <name>.safetensors     the adapter; <name>-step000250.safetensors for those on the way
//!     <name>/                instead of it the whole model, where whole weights learn; <name>-step000250/ on the way
//!     embeddings/            new words as files of their own; embeddings-step000250/ on the way
//!     best/                  adapter and words with the least validation loss, where pictures are held out
//! ```
//!
//! A folder that exists is never written into unasked. While a run is going on it holds `run.lock`; the system lets go of
//! the lock when the process ends in whatever way.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::checkpoint::Store;
use crate::config::{Existing, Save};
use crate::error::{Result, TrainError};
use crate::tensorboard::Sample;

use super::album;

/// What every run may have in its folder, whatever its name.
pub const RUN_FILES: [&str; 12] = [
    "before-after.png",
    "best",
    "checkpoints",
    "config.toml",
    "embeddings",
    EVENTS,
    "loss.png",
    "metrics.jsonl",
    "run.lock",
    "samples",
    "samples.gif",
    "samples.png",
];

/// TensorBoard finds files by a part of their names.
const EVENTS: &str = "events.out.tfevents.scumble";

/// A run's folder, locked for this process.
pub struct RunFolder {
    path: PathBuf,
    name: String,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run.
    pub fn create(save: &Save) -> Result<Self> {
        std::fs::create_dir_all(&save.folder).map_err(TrainError::io("creating", &save.folder))?;
        let first = save.folder.join(&save.name);
        let mut number = 1;
        let mut path = first.clone();
        loop {
            match std::fs::create_dir(&path) {
                Ok(()) => break,
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(TrainError::io("creating", path)(error));
                }
                Err(_) => {}
            }
            match save.existing {
                Existing::Number => {
                    number += 1;
                    path = save.folder.join(format!("{}-{number}", save.name));
                }
                Existing::Error => return Err(TrainError::RunExists { path }),
                Existing::Replace => clear(&path)?,
            }
        }
        Self::locked(path, &save.name)
    }

    /// Opens the folder of a run that is to go on.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        Self::locked(path.to_owned(), name)
    }

    /// Deletes what a killed process left half written.
    pub fn sweep(&self) -> Result<()> {
        self.checkpoints().sweep()?;
        for folder in [self.path.clone(), self.path.join("samples")] {
            for (name, path) in entries(&folder)? {
                if name.starts_with('.') && name.ends_with(".part") {
                    let removed = if path.is_dir() {
                        std::fs::remove_dir_all(&path)
                    } else {
                        std::fs::remove_file(&path)
                    };
                    removed.map_err(TrainError::io("deleting", path))?;
                }
            }
        }
        Ok(())
    }

    /// Adapters, models and words of steps on the way, in all spellings, with their steps.
    pub fn step_adapters(&self) -> Result<Vec<(u64, PathBuf)>> {
        let step = |name: &str| {
            let rest = name.strip_prefix(&self.name).or_else(|| name.strip_prefix("embeddings"))?;
            let rest = rest.strip_suffix(".safetensors").unwrap_or(rest);
            rest.rsplit_once("-step")?.1.parse().ok()
        };
        Ok(entries(&self.path)?.into_iter().filter_map(|(name, path)| Some((step(&name)?, path))).collect())
    }

    /// The newest folder of this name that has a checkpoint.
    pub fn newest(save: &Save) -> Result<PathBuf> {
        let mut newest = None;
        for number in 1.. {
            let name = if number == 1 { save.name.clone() } else { format!("{}-{number}", save.name) };
            let path = save.folder.join(name);
            if !path.exists() {
                break;
            }
            if !checkpoints_of(&path).steps()?.is_empty() {
                newest = Some(path);
            }
        }
        newest.ok_or_else(|| TrainError::NoCheckpoint {
            path: save.folder.join(&save.name),
            problem: "no run of this name has one".to_owned(),
        })
    }

    fn locked(path: PathBuf, name: &str) -> Result<Self> {
        let lock_path = path.join("run.lock");
        let lock = File::create(&lock_path).map_err(TrainError::io("creating", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TrainError::RunBusy { path }),
            // Some network file systems have no locks; a run there is as safe as the user's care.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(TrainError::io("locking", lock_path)(error)),
        }
        Ok(Self { path, name: name.to_owned(), _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The event file for TensorBoard.
    pub fn events(&self) -> PathBuf {
        self.path.join(EVENTS)
    }

    /// All validation pictures so far.
    pub fn samples(&self) -> Result<Vec<Sample>> {
        album::samples(&self.path.join("samples"))
    }

    /// The validation pictures on one sheet, and as an animation.
    pub fn album(&self) -> [PathBuf; 2] {
        [self.path.join("samples.png"), self.path.join("samples.gif")]
    }

    /// `loss.png`.
    pub fn loss_plot(&self) -> PathBuf {
        self.path.join("loss.png")
    }

    /// `before-after.png`.
    pub fn before_after(&self) -> PathBuf {
        self.path.join("before-after.png")
    }

    /// Where the adapter with the least validation loss is.
    pub fn best(&self) -> PathBuf {
        self.path.join("best")
    }

    /// The checkpoints.
    pub fn checkpoints(&self) -> Store {
        checkpoints_of(&self.path)
    }

    /// The validation picture of a prompt after a step.
    pub fn sample(&self, step: u64, prompt: usize) -> PathBuf {
        self.path.join("samples").join(format!("step-{step:08}-{prompt}.png"))
    }

    /// The whole model, of a step on the way or of the end.
    pub fn model(&self, step: Option<u64>) -> PathBuf {
        self.path.join(format!("{}{}", self.name, step.map(|s| format!("-step{s:06}")).unwrap_or_default()))
    }

    /// New words, of a step on the way or of the end.
    pub fn embeddings(&self, step: Option<u64>) -> PathBuf {
        self.path.join(format!("embeddings{}", step.map(|s| format!("-step{s:06}")).unwrap_or_default()))
    }

    /// The adapter in the given spelling (`""` for the first one asked for); of a step on the way or of the end.
    pub fn adapter(&self, spelling: &str, step: Option<u64>) -> PathBuf {
        let spelling = if spelling.is_empty() { String::new() } else { format!("-{spelling}") };
        let step = step.map(|step| format!("-step{step:06}")).unwrap_or_default();
        self.path.join(format!("{}{spelling}{step}.safetensors", self.name))
    }
}

/// Names and paths of the files in a folder, which need not exist; names that are not Unicode are none of ours.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::io("reading", folder)(error)),
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry.map_err(TrainError::io("reading", folder))?;
        entries.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
    }
    Ok(entries)
}

/// The checkpoints in the folder of a run.
pub fn checkpoints_of(run: &Path) -> Store {
    Store::new(run.join("checkpoints"))
}

/// Deletes the folder of an old run; refuses what does not look like one.
fn clear(path: &Path) -> Result<()> {
    if !path.join("config.toml").is_file() && !path.join("run.lock").is_file() {
        return Err(TrainError::NotARun { path: path.to_owned() });
    }
    let lock = RunFolder::locked(path.to_owned(), "")?;
    std::fs::remove_dir_all(path).map_err(TrainError::io("deleting", path))?;
    drop(lock);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_exists_is_not_written_into_unasked() {
        let parent = tempfile::tempdir().unwrap();
        let mut save = Save { folder: parent.path().join("runs"), ..Save::default() };
        let first = RunFolder::create(&save).unwrap();
        assert_eq!(first.path(), parent.path().join("runs/lora"));
        let second = RunFolder::create(&save).unwrap();
        assert_eq!(second.path(), parent.path().join("runs/lora-2"));
        assert!(matches!(RunFolder::open(first.path(), "lora"), Err(TrainError::RunBusy { .. })));

        save.existing = Existing::Error;
        assert!(matches!(RunFolder::create(&save), Err(TrainError::RunExists { .. })));
        save.existing = Existing::Replace;
        assert!(matches!(RunFolder::create(&save), Err(TrainError::RunBusy { .. })));
        let old = first.path().join("old");
        std::fs::write(&old, b"").unwrap();
        drop(first);
        let replaced = RunFolder::create(&save).unwrap();
        assert!(replaced.path().ends_with("lora") && !old.exists());
    }

    #[test]
    fn only_runs_are_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let save = Save { folder: parent.path().into(), existing: Existing::Replace, ..Save::default() };
        let precious = parent.path().join("lora").join("photo.png");
        std::fs::create_dir(parent.path().join("lora")).unwrap();
        std::fs::write(&precious, b"").unwrap();
        assert!(matches!(RunFolder::create(&save), Err(TrainError::NotARun { .. })));
        assert!(precious.exists());
    }

    #[test]
    fn the_newest_run_with_a_checkpoint_is_found() {
        let parent = tempfile::tempdir().unwrap();
        let save = Save { folder: parent.path().into(), ..Save::default() };
        assert!(matches!(RunFolder::newest(&save), Err(TrainError::NoCheckpoint { .. })));
        for name in ["lora", "lora-2", "lora-3"] {
            std::fs::create_dir_all(parent.path().join(name).join("checkpoints")).unwrap();
        }
        let point = parent.path().join("lora-2/checkpoints/step-00000005.safetensors");
        std::fs::write(point, b"").unwrap();
        assert!(RunFolder::newest(&save).unwrap().ends_with("lora-2"));
    }
}
