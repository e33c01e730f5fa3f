//! Checkpoints: everything a run needs to go on, bit for bit, in one safetensors file.
//!
//! ```text
//! checkpoints/step-00000250.safetensors
//!     param.<name>         f32, as in memory          the factors
//!     optimizer.<key>                                 moments and counters, see the optimizer's file
//!     metadata: version, step, settings (JSON), data, base
//! ```
//!
//! Random draws are keyed by seed, name and position, so no generator state is needed: the step is enough. One file is
//! written whole or not at all, so whatever ends the process, the last checkpoint is complete. Old ones are
//! deleted only after the new one is on the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_model::files::{SafetensorsFile, TensorSource, write_safetensors};
use scumble_tensor::{Backend, DType, Param, Tensor};

use crate::error::{Result, TrainError};

/// Changes when the meaning of a checkpoint or of a random stream does; others are refused.
const VERSION: &str = "1";

/// What decides the course of a run; a resumed one must have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Settings by key, see [`crate::TrainConfig::deciding`].
    pub settings: BTreeMap<String, String>,
    /// Hash of the pictures and their texts.
    pub data: String,
    /// Hash of the base model's weights.
    pub base: String,
}

impl Origin {
    /// What differs from `then`, in words; empty when nothing does. A setting that was not known then had its default.
    pub fn changes_since(&self, then: &Self) -> Vec<String> {
        let nothing = "nothing".to_owned();
        let defaults = crate::TrainConfig::default().deciding().unwrap_or_default();
        let mut keys: Vec<&String> = then.settings.keys().chain(self.settings.keys()).collect();
        keys.sort();
        keys.dedup();
        let mut changes: Vec<String> = keys
            .into_iter()
            .filter(|key| {
                let old = then.settings.get(*key).or_else(|| defaults.get(*key));
                old != self.settings.get(*key)
            })
            .map(|key| {
                let old = then.settings.get(key).or_else(|| defaults.get(key)).unwrap_or(&nothing);
                let new = self.settings.get(key).unwrap_or(&nothing);
                format!("`{key}` was {old}, is {new}")
            })
            .collect();
        if self.data != then.data {
            changes.push("the pictures or their texts have changed".to_owned());
        }
        if self.base != then.base {
            changes.push("the base model has other weights".to_owned());
        }
        changes
    }
}

/// A point of a run.
pub struct Checkpoint {
    /// Finished updates.
    pub step: u64,
    /// What decided the course so far.
    pub origin: Origin,
    /// Moments and counters, see [`crate::optimizer::learner::state`].
    pub optimizer: BTreeMap<String, Tensor>,
    params: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Takes everything down to the host.
    pub fn capture(
        backend: &dyn Backend,
        step: u64,
        origin: &Origin,
        params: &[Param],
        optimizer: BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        let download = |param: &Param| Ok((param.name().to_owned(), backend.download(&param.value())?));
        Ok(Self {
            step,
            origin: origin.clone(),
            params: params.iter().map(download).collect::<Result<_>>()?,
            optimizer,
        })
    }

    /// Puts the parameters back; every one must be there with its shape, and nothing else.
    pub fn restore(&self, backend: &dyn Backend, params: &[Param]) -> Result<()> {
        let unfit = |param: &str, expected: String, found: String| TrainError::Mismatch {
            what: format!("checkpoint of step {}, `{param}`", self.step),
            expected,
            found,
        };
        for param in params {
            let expected = param.value();
            let stored = self.params.get(param.name());
            let fits = stored.is_some_and(|stored| stored.dims() == expected.dims());
            let Some(stored) = stored.filter(|stored| fits && stored.dtype() == DType::F32) else {
                let found = stored.map_or("nothing".to_owned(), |t| format!("{} {}", t.dtype(), t.shape()));
                return Err(unfit(param.name(), format!("f32 {}", expected.shape()), found));
            };
            param.set(backend.upload(&Tensor::from_slice(stored.as_slice::<f32>()?, stored.dims())?)?);
        }
        if let Some(surplus) = self.params.keys().find(|name| !params.iter().any(|p| p.name() == *name)) {
            return Err(unfit(surplus, "no such parameter".to_owned(), "a tensor".to_owned()));
        }
        Ok(())
    }

    fn write(&self, path: &Path) -> Result<()> {
        let prefixed = |prefix: &str, tensors: &BTreeMap<String, Tensor>| -> Vec<(String, Tensor)> {
            tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect()
        };
        let mut tensors = prefixed("param.", &self.params);
        tensors.extend(prefixed("optimizer.", &self.optimizer));
        let settings: serde_json::Map<String, serde_json::Value> =
            self.origin.settings.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let metadata = BTreeMap::from([
            ("version".to_owned(), VERSION.to_owned()),
            ("step".to_owned(), self.step.to_string()),
            ("settings".to_owned(), serde_json::Value::Object(settings).to_string()),
            ("data".to_owned(), self.origin.data.clone()),
            ("base".to_owned(), self.origin.base.clone()),
        ]);
        Ok(write_safetensors(path, &tensors, &metadata)?)
    }

    /// Reads a checkpoint file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = SafetensorsFile::open(path)?;
        let unfit = |what: &str| TrainError::NoCheckpoint { path: path.to_owned(), problem: what.to_owned() };
        let field = |key: &str| file.metadata().get(key).ok_or_else(|| unfit(&format!("it has no `{key}`")));
        let version = field("version")?;
        if version != VERSION {
            return Err(unfit(&format!("it has version {version}, this program reads version {VERSION}")));
        }
        let step = field("step")?.parse().map_err(|_| unfit("its step is no number"))?;
        let settings =
            serde_json::from_str(field("settings")?).map_err(|_| unfit("its settings can't be read"))?;
        let (mut params, mut optimizer) = (BTreeMap::new(), BTreeMap::new());
        for name in file.names() {
            let tensor = file.read(&name)?;
            if let Some(name) = name.strip_prefix("param.") {
                params.insert(name.to_owned(), tensor);
            } else if let Some(key) = name.strip_prefix("optimizer.") {
                optimizer.insert(key.to_owned(), tensor);
            } else {
                return Err(unfit(&format!("it has a tensor `{name}` that no checkpoint has")));
            }
        }
        let origin = Origin { settings, data: field("data")?.clone(), base: field("base")?.clone() };
        Ok(Self { step, origin, params, optimizer })
    }
}

/// The checkpoints of a run.
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// In this folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where the checkpoint of a step is.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}.safetensors"))
    }

    /// Steps that have a file, ascending.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrainError::io("reading", &self.folder)(error)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.map_err(TrainError::io("reading", &self.folder))?.file_name();
            let step =
                name.to_str().and_then(|name| name.strip_prefix("step-")?.strip_suffix(".safetensors"));
            steps.extend(step.and_then(|step| step.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes a checkpoint, then deletes all but the newest `keep_last` (0: none is deleted).
    pub fn save(&self, checkpoint: &Checkpoint, keep_last: usize) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.folder).map_err(TrainError::io("creating", &self.folder))?;
        let path = self.path(checkpoint.step);
        checkpoint.write(&path)?;
        if keep_last > 0 {
            // Later ones are of a course that this run has left by resuming from before them.
            let mut steps = self.steps()?;
            let later = steps.split_off(steps.partition_point(|&step| step <= checkpoint.step));
            let old = steps.len().saturating_sub(keep_last);
            for step in steps.drain(..old).chain(later) {
                let path = self.path(step);
                std::fs::remove_file(&path).map_err(TrainError::io("deleting", &path))?;
            }
        }
        Ok(path)
    }

    /// The newest checkpoint.
    pub fn latest(&self) -> Result<Checkpoint> {
        let Some(&step) = self.steps()?.last() else {
            return Err(TrainError::NoCheckpoint {
                path: self.folder.clone(),
                problem: "there is none yet".to_owned(),
            });
        };
        Checkpoint::read(&self.path(step))
    }

    /// Deletes what a killed process left half written.
    pub fn sweep(&self) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(".step-") && name.ends_with(".part")) {
                std::fs::remove_file(entry.path()).map_err(TrainError::io("deleting", entry.path()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{AdamW, Optimizer};
    use scumble_tensor::reference::ReferenceBackend;

    fn origin() -> Origin {
        let settings = BTreeMap::from([("train.lr".to_owned(), "0.1".to_owned())]);
        Origin { settings, data: "d".into(), base: "b".into() }
    }

    fn params() -> Vec<Param> {
        let values = |scale: f32| (0..6).map(|i| i as f32 * scale).collect::<Vec<_>>();
        vec![
            Param::trainable("unet.a.down", Tensor::from_slice(&values(0.1), &[2, 3]).unwrap()),
            Param::trainable("unet.a.up", Tensor::from_slice(&values(-0.2), &[3, 2]).unwrap()),
        ]
    }

    fn update(backend: &ReferenceBackend, optimizer: &mut AdamW, params: &[Param], step: u64) {
        optimizer.begin();
        for param in params {
            let values: Vec<f32> = (0..6).map(|i| ((i + step) as f32).sin()).collect();
            let gradient = Tensor::from_slice(&values, param.value().dims()).unwrap();
            optimizer.update(backend, param, &gradient, 1e-2, 1.0).unwrap();
        }
    }

    fn bytes(params: &[Param]) -> Vec<Vec<u8>> {
        params.iter().map(|param| param.value().bytes().unwrap().to_vec()).collect()
    }

    #[test]
    fn going_on_from_a_checkpoint_gives_the_same_bytes() {
        // At step 0 the optimizer has no moments yet.
        for first in [0, 3] {
            let backend = ReferenceBackend;
            let folder = tempfile::tempdir().unwrap();
            let store = Store::new(folder.path().join("checkpoints"));
            let (through, mut optimizer) = (params(), AdamW::new([0.9, 0.999], 1e-8, 0.01));
            for step in 0..first {
                update(&backend, &mut optimizer, &through, step);
            }
            let checkpoint =
                Checkpoint::capture(&backend, first, &origin(), &through, optimizer.state(&backend).unwrap())
                    .unwrap();
            store.save(&checkpoint, 2).unwrap();
            for step in first..6 {
                update(&backend, &mut optimizer, &through, step);
            }

            let (resumed, mut optimizer) = (params(), AdamW::new([0.9, 0.999], 1e-8, 0.01));
            let checkpoint = store.latest().unwrap();
            assert_eq!((checkpoint.step, &checkpoint.origin), (first, &origin()));
            checkpoint.restore(&backend, &resumed).unwrap();
            optimizer.restore(&backend, &resumed, &checkpoint.optimizer).unwrap();
            for step in first..6 {
                update(&backend, &mut optimizer, &resumed, step);
            }
            assert_eq!(bytes(&resumed), bytes(&through));
        }
    }

    #[test]
    fn only_the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let save = |step, keep| {
            let point =
                Checkpoint::capture(&ReferenceBackend, step, &origin(), &[], BTreeMap::new()).unwrap();
            store.save(&point, keep).unwrap();
            store.steps().unwrap()
        };
        assert!(matches!(store.latest(), Err(TrainError::NoCheckpoint { .. })));
        save(2, 0);
        save(4, 0);
        assert_eq!(save(10, 0), [2, 4, 10]);
        assert_eq!(save(100_000_000, 2), [10, 100_000_000]);
        assert_eq!(save(50, 2), [10, 50], "a course that was left is not resumed later");
    }

    #[test]
    fn half_written_and_foreign_files_are_refused_and_swept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let point = Checkpoint::capture(&ReferenceBackend, 5, &origin(), &params(), BTreeMap::new()).unwrap();
        let path = store.save(&point, 1).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 100, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(store.latest().is_err(), "{length} bytes");
        }
        write_safetensors(&path, &[], &BTreeMap::new()).unwrap();
        assert!(matches!(store.latest(), Err(TrainError::NoCheckpoint { .. })));
        let left = folder.path().join(".step-00000006.safetensors.1-2.part");
        std::fs::write(&left, b"half").unwrap();
        store.sweep().unwrap();
        assert!(!left.exists() && path.exists());
    }

    #[test]
    fn drift_names_each_changed_setting() {
        let mut now = origin();
        assert!(now.changes_since(&origin()).is_empty());
        now.settings.insert("train.lr".into(), "0.2".into());
        now.settings.insert("data.trigger".into(), "\"sks\"".into());
        now.base = "other".into();
        let changes = now.changes_since(&origin());
        assert_eq!(changes.len(), 3);
        assert!(changes[0].contains("`data.trigger` was nothing"), "{changes:?}");
        assert!(changes[1].contains("`train.lr` was 0.1, is 0.2"), "{changes:?}");
    }

    #[test]
    fn other_factors_are_refused() {
        let point = Checkpoint::capture(&ReferenceBackend, 5, &origin(), &params(), BTreeMap::new()).unwrap();
        let fewer = &params()[..1];
        let error = point.restore(&ReferenceBackend, fewer).unwrap_err().to_string();
        assert!(error.contains("unet.a.up"), "{error}");
        let wider = [Param::trainable("unet.a.down", Tensor::zeros(DType::F32, &[4, 3]).unwrap())];
        let error = point.restore(&ReferenceBackend, &wider).unwrap_err().to_string();
        assert!(error.contains("[4, 3]") && error.contains("[2, 3]"), "{error}");
    }
}
