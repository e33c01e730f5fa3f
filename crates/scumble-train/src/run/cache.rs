//! Results that never change, computed once: latents of pictures, states of texts. In memory for this run, or on disk
//! ([`DiskCache`]) for later runs too.
//!
//! A cache never stops a run: what can't be read is computed again, what can't be stored is computed next time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use scumble_tensor::Tensor;

use super::event::{Event, Reporter};
use crate::config::CacheMode;
use crate::data::{CacheKey, DiskCache, Loaded};
use crate::error::{Result, TrainError};

/// The tensors of a result by name.
pub type Entry = BTreeMap<String, Tensor>;

/// Results of one kind.
pub enum Kept {
    /// Computed each time.
    Nowhere,
    /// Kept for this run.
    Memory(BTreeMap<CacheKey, Arc<Entry>>),
    /// Kept for later runs.
    Disk(DiskCache),
}

impl Kept {
    /// Results kept as `mode` says; `folder` matters on disk only.
    pub fn new(mode: CacheMode, folder: &Path) -> Result<Self> {
        Ok(match mode {
            CacheMode::None => Kept::Nowhere,
            CacheMode::Memory => Kept::Memory(BTreeMap::new()),
            CacheMode::Disk => {
                Kept::Disk(DiskCache::open(folder).map_err(TrainError::io("creating", folder))?)
            }
        })
    }

    /// Whether anything is kept.
    pub fn keeps(&self) -> bool {
        !matches!(self, Kept::Nowhere)
    }

    /// The result of a key, made by `make` if it is not kept yet.
    pub fn get(
        &mut self,
        key: &CacheKey,
        reporter: &dyn Reporter,
        make: impl FnOnce() -> Result<Entry>,
    ) -> Result<Arc<Entry>> {
        match self {
            Kept::Nowhere => Ok(Arc::new(make()?)),
            Kept::Memory(entries) => {
                if let Some(entry) = entries.get(key) {
                    return Ok(Arc::clone(entry));
                }
                let entry = Arc::new(make()?);
                entries.insert(key.clone(), Arc::clone(&entry));
                Ok(entry)
            }
            Kept::Disk(disk) => {
                match disk.load(key) {
                    Loaded::Hit(entry) => return Ok(Arc::new(entry)),
                    Loaded::Damaged(reason) => reporter.event(Event::Warning(reason)),
                    Loaded::Miss => {}
                }
                let entry = make()?;
                if let Err(error) = disk.store(key, &entry) {
                    reporter.event(Event::Warning(format!("a result can't be kept: {error}")));
                }
                Ok(Arc::new(entry))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kept: &mut Kept, key: &str, made: f32) -> f32 {
        let key = CacheKey::new("test", &[key]);
        let make = || Ok(BTreeMap::from([("mean".to_owned(), Tensor::from_slice(&[made; 3], &[3])?)]));
        kept.get(&key, &|_| {}, make).unwrap()["mean"].as_slice::<f32>().unwrap()[0]
    }

    #[test]
    fn results_are_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, second, other_run) in
            [(CacheMode::None, 2.0, 3.0), (CacheMode::Memory, 1.0, 3.0), (CacheMode::Disk, 1.0, 1.0)]
        {
            let mut kept = Kept::new(mode, folder.path()).unwrap();
            assert_eq!([value(&mut kept, "k", 1.0), value(&mut kept, "k", 2.0)], [1.0, second], "{mode}");
            assert_eq!(value(&mut kept, "another", 5.0), 5.0);
            let mut later = Kept::new(mode, folder.path()).unwrap();
            assert_eq!(value(&mut later, "k", 3.0), other_run, "{mode}");
        }
    }
}
