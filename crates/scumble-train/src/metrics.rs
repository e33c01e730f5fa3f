//! `metrics.jsonl`: one JSON object a line and step, for plots and for other programs.
//!
//! ```text
//! {"step":1,"loss":0.0843,"lr":{"unet":0.0001},"grad_norm":0.52,"seconds":0.31}
//! ```
//!
//! A line after which pictures that are held out were tested has their `validation_loss` too.
//!
//! Lines are only ever added, each in one write. A resumed run first drops the lines after its checkpoint (and a line
//! that a killed process left half written), so that the file tells one course.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use scumble_model::files::atomic_write;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// What is known after an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Finished updates.
    pub step: u64,
    /// Loss of the update, weights included.
    pub loss: f64,
    /// Learning rate of each group.
    pub lr: BTreeMap<String, f64>,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// Duration of the update.
    pub seconds: f64,
    /// Loss of the pictures that are not trained on, after updates that it was measured after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// The open file.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    records: Vec<StepRecord>,
}

impl MetricsFile {
    /// Opens the file for a run that has finished `done` updates; later lines go.
    pub fn open(path: &Path, done: u64) -> Result<Self> {
        let mut records = read(path)?;
        records.retain(|record| record.step <= done);
        let text: String = records.iter().map(line).collect::<Result<_>>()?;
        atomic_write(path, |file| file.write_all(text.as_bytes()))?;
        let file = OpenOptions::new().append(true).open(path).map_err(TrainError::io("opening", path))?;
        Ok(Self { path: path.to_owned(), file, records })
    }

    /// Adds a line.
    pub fn append(&mut self, record: StepRecord) -> Result<()> {
        let text = line(&record)?;
        self.file.write_all(text.as_bytes()).map_err(TrainError::io("writing", &self.path))?;
        self.records.push(record);
        Ok(())
    }

    /// All steps so far.
    pub fn records(&self) -> &[StepRecord] {
        &self.records
    }
}

fn line(record: &StepRecord) -> Result<String> {
    let text = serde_json::to_string(record)
        .map_err(|error| TrainError::io("writing", "metrics.jsonl")(std::io::Error::other(error)))?;
    Ok(text + "\n")
}

/// The records of a metrics file, up to the first line that is not whole. A missing file has none.
pub fn read(path: &Path) -> Result<Vec<StepRecord>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::io("reading", path)(error)),
    };
    Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> StepRecord {
        let lr = BTreeMap::from([("unet".to_owned(), 1e-4)]);
        StepRecord { step, loss: 0.1 / step as f64, lr, grad_norm: 0.5, seconds: 0.25, validation_loss: None }
    }

    #[test]
    fn a_resumed_run_drops_what_came_after_its_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, 0).unwrap();
        for step in 1..=5 {
            file.append(record(step)).unwrap();
        }
        drop(file);
        let mut half = std::fs::read_to_string(&path).unwrap();
        half.push_str("{\"step\":6,\"lo");
        std::fs::write(&path, half).unwrap();
        assert_eq!(read(&path).unwrap().len(), 5);

        let mut file = MetricsFile::open(&path, 3).unwrap();
        file.append(record(4)).unwrap();
        assert_eq!(read(&path).unwrap(), (1..=4).map(record).collect::<Vec<_>>());
        assert_eq!(file.records().len(), 4);
    }
}
