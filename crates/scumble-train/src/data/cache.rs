//! Results kept on disk under the content they came from: latents, text states.
//!
//! An entry is a safetensors file `<kind>-<64 hex digits>.safetensors`; the digits are SHA-256 over all parts of the key, each with
//! its length in front. Its metadata repeats the key and holds a SHA-256 over the tensors' bytes, so that a damaged entry is
//! recognised. A cache never stops a run: an entry that is damaged, or holds numbers that are not finite, is reported and
//! computed again. Entries are written whole or not at all; several runs may share a folder.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use scumble_model::files::{FileError, SafetensorsFile, TensorSource, write_safetensors};
use scumble_tensor::{DType, Tensor};
use sha2::{Digest, Sha256};

use super::hex;

const KEY: &str = "scumble.key";
const CHECKSUM: &str = "scumble.sha256";

/// The name of an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey {
    kind: &'static str,
    digest: String,
}

impl CacheKey {
    /// A key of a kind (letters, for the file name) from everything that the entry depends on.
    pub fn new(kind: &'static str, parts: &[&str]) -> Self {
        let mut digest = Sha256::new();
        for part in [&[kind], parts].concat() {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        }
        Self { kind, digest: hex(&digest.finalize()) }
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind, self.digest)
    }
}

/// What was found under a key.
#[derive(Debug)]
pub enum Loaded {
    /// The tensors by name.
    Hit(BTreeMap<String, Tensor>),
    /// Nothing.
    Miss,
    /// An entry that cannot be used; the sentence says why. Compute it again and store it over this one.
    Damaged(String),
}

/// A folder of entries.
#[derive(Clone, Debug)]
pub struct DiskCache {
    folder: PathBuf,
}

impl DiskCache {
    /// Uses a folder, made if it is not there.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.into() })
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        self.folder.join(format!("{key}.safetensors"))
    }

    /// The tensors under a key.
    pub fn load(&self, key: &CacheKey) -> Loaded {
        let path = self.path(key);
        if !path.exists() {
            return Loaded::Miss;
        }
        match read(&path, key) {
            Ok(tensors) => Loaded::Hit(tensors),
            Err(reason) => Loaded::Damaged(format!("the cache entry `{key}` is computed again: {reason}")),
        }
    }

    /// Stores tensors under a key, replacing what was there.
    pub fn store(&self, key: &CacheKey, tensors: &BTreeMap<String, Tensor>) -> Result<(), FileError> {
        let path = self.path(key);
        let failed = |source| FileError::Engine {
            file: path.clone(),
            tensor: key.to_string(),
            source: Box::new(source),
        };
        let checksum = checksum(tensors).map_err(failed)?;
        let metadata = BTreeMap::from([(KEY.into(), key.to_string()), (CHECKSUM.into(), checksum)]);
        let tensors: Vec<(String, Tensor)> = tensors.iter().map(|(n, t)| (n.clone(), t.clone())).collect();
        write_safetensors(&path, &tensors, &metadata)
    }
}

fn read(path: &Path, key: &CacheKey) -> Result<BTreeMap<String, Tensor>, String> {
    let text = |e: &dyn fmt::Display| e.to_string();
    let file = SafetensorsFile::open(path).map_err(|e| text(&e))?;
    if file.metadata().get(KEY) != Some(&key.to_string()) {
        return Err("it belongs to another key".into());
    }
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let tensor = file.read(&name).map_err(|e| text(&e))?;
        if !all_finite(&tensor).map_err(|e| text(&e))? {
            return Err(format!("`{name}` holds values that are not finite"));
        }
        tensors.insert(name, tensor);
    }
    if file.metadata().get(CHECKSUM) != Some(&checksum(&tensors).map_err(|e| text(&e))?) {
        return Err("its content does not match its checksum".into());
    }
    Ok(tensors)
}

/// SHA-256 over names, shapes, types and bytes.
fn checksum(tensors: &BTreeMap<String, Tensor>) -> Result<String, scumble_tensor::Error> {
    let mut digest = Sha256::new();
    for (name, tensor) in tensors {
        digest.update(format!("{name:?} {} {:?}", tensor.dtype(), tensor.dims()));
        digest.update(tensor.bytes()?);
    }
    Ok(hex(&digest.finalize()))
}

fn all_finite(tensor: &Tensor) -> Result<bool, scumble_tensor::Error> {
    Ok(match tensor.dtype() {
        DType::F32 => tensor.as_slice::<f32>()?.iter().all(|v| v.is_finite()),
        DType::F16 => tensor.as_slice::<f16>()?.iter().all(|v| v.is_finite()),
        DType::BF16 => tensor.as_slice::<bf16>()?.iter().all(|v| v.is_finite()),
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(values: &[f32]) -> BTreeMap<String, Tensor> {
        BTreeMap::from([("mean".to_owned(), Tensor::from_slice(values, &[values.len()]).unwrap())])
    }

    #[test]
    fn entries_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(&dir.path().join("a/b")).unwrap();
        let key = CacheKey::new("latents", &["x"]);
        assert!(matches!(cache.load(&key), Loaded::Miss));
        cache.store(&key, &entry(&[1.0, -2.5])).unwrap();
        let Loaded::Hit(found) = cache.load(&key) else { panic!("not found") };
        assert_eq!(found["mean"].as_slice::<f32>().unwrap(), [1.0, -2.5]);
        cache.store(&key, &entry(&[3.0])).unwrap();
        let Loaded::Hit(found) = cache.load(&key) else { panic!("not found") };
        assert_eq!(found["mean"].as_slice::<f32>().unwrap(), [3.0]);
    }

    #[test]
    fn damage_of_any_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path()).unwrap();
        let key = CacheKey::new("latents", &["x"]);
        cache.store(&key, &entry(&[1.0, -2.5, 0.125])).unwrap();
        let path = cache.path(&key);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            match cache.load(&key) {
                Loaded::Damaged(reason) => assert!(reason.contains("computed again"), "{reason}"),
                // The padding of the header means nothing.
                Loaded::Hit(found) => {
                    assert_eq!(found["mean"].as_slice::<f32>().unwrap(), [1.0, -2.5, 0.125])
                }
                Loaded::Miss => panic!("byte {at}"),
            }
        }
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(cache.load(&key), Loaded::Damaged(_)));
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(cache.load(&key), Loaded::Damaged(_)));
    }

    #[test]
    fn entries_of_other_keys_and_numbers_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path()).unwrap();
        let (a, b) = (CacheKey::new("latents", &["a", "b"]), CacheKey::new("latents", &["ab"]));
        assert_ne!(a, b, "parts do not run together");
        cache.store(&a, &entry(&[1.0])).unwrap();
        std::fs::copy(cache.path(&a), cache.path(&b)).unwrap();
        let Loaded::Damaged(reason) = cache.load(&b) else { panic!("taken") };
        assert!(reason.contains("another key"), "{reason}");
        cache.store(&a, &entry(&[f32::NAN])).unwrap();
        let Loaded::Damaged(reason) = cache.load(&a) else { panic!("taken") };
        assert!(reason.contains("not finite"), "{reason}");
    }
}
