//! Results that never change, computed once: latents of pictures, states of texts.
//!
//! A key is a hash of everything that decides the result: the content of the picture, the crop, the weights. On disk an entry
//! is `<folder>/<kind>/<key>.safetensors`, written whole or not at all; one that can't be read is made again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use scumble_model::files::{SafetensorsFile, TensorSource, write_safetensors};
use scumble_tensor::Tensor;
use sha2::{Digest, Sha256};

use crate::config::CacheMode;
use crate::error::{Result, TrainError};

/// The tensors of an entry by name.
pub type Entry = BTreeMap<String, Tensor>;

/// One kind of result.
pub struct Cache {
    mode: CacheMode,
    folder: PathBuf,
    memory: Mutex<BTreeMap<String, Arc<Entry>>>,
}

/// A key made of everything that decides a result, in order.
pub fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // With the length in front no two lists of parts run together.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cache {
    /// A cache of this kind; `folder` matters on disk only.
    pub fn new(mode: CacheMode, folder: PathBuf) -> Self {
        Self { mode, folder, memory: Mutex::default() }
    }

    /// The entry of a key, made by `make` if it is not there.
    pub fn get(&self, key: &str, make: impl FnOnce() -> Result<Entry>) -> Result<Arc<Entry>> {
        match self.mode {
            CacheMode::None => Ok(Arc::new(make()?)),
            CacheMode::Memory => {
                let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(entry) = memory.get(key) {
                    return Ok(Arc::clone(entry));
                }
                let entry = Arc::new(make()?);
                memory.insert(key.to_owned(), Arc::clone(&entry));
                Ok(entry)
            }
            CacheMode::Disk => {
                let path = self.folder.join(format!("{key}.safetensors"));
                if let Ok(file) = SafetensorsFile::open(&path)
                    && let Ok(entry) = file
                        .names()
                        .into_iter()
                        .map(|name| Ok((name.clone(), file.read(&name)?)))
                        .collect::<Result<Entry>>()
                {
                    return Ok(Arc::new(entry));
                }
                let entry = make()?;
                std::fs::create_dir_all(&self.folder).map_err(TrainError::io("creating", &self.folder))?;
                let tensors: Vec<(String, Tensor)> =
                    entry.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
                write_safetensors(&path, &tensors, &BTreeMap::new())?;
                Ok(Arc::new(entry))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: f32) -> Entry {
        BTreeMap::from([("mean".to_owned(), Tensor::from_slice(&[value; 3], &[3]).unwrap())])
    }

    fn value(cache: &Cache, key: &str, made: f32) -> f32 {
        cache.get(key, || Ok(entry(made))).unwrap()["mean"].as_slice::<f32>().unwrap()[0]
    }

    #[test]
    fn entries_are_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, second, other_run) in
            [(CacheMode::None, 2.0, 3.0), (CacheMode::Memory, 1.0, 3.0), (CacheMode::Disk, 1.0, 1.0)]
        {
            let cache = Cache::new(mode, folder.path().join("latents"));
            assert_eq!([value(&cache, "k", 1.0), value(&cache, "k", 2.0)], [1.0, second], "{mode}");
            assert_eq!(value(&cache, "another", 5.0), 5.0);
            assert_eq!(
                value(&Cache::new(mode, folder.path().join("latents")), "k", 3.0),
                other_run,
                "{mode}"
            );
        }
    }

    #[test]
    fn a_damaged_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(CacheMode::Disk, folder.path().to_owned());
        assert_eq!(value(&cache, "k", 1.0), 1.0);
        let path = folder.path().join("k.safetensors");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!([value(&cache, "k", 2.0), value(&cache, "k", 3.0)], [2.0, 2.0]);
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_eq!(key(&[b"ab"]).len(), 64);
    }
}
