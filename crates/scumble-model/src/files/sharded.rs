//! Weights in several files with an index: `{"metadata": {...}, "weight_map": {"name": "file", ...}}`.
//!
//! The index and the files must agree exactly. File names are names in the index's own folder: an index that
//! points elsewhere is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_tensor::Tensor;

use super::error::{FileError, Result, printable};
use super::source::{TensorInfo, TensorSource};

/// The index of a model with ten thousand tensors has a megabyte.
const MAX_INDEX: u64 = 64 << 20;
const FORMAT: &str = "weight index";

/// Several files of weights seen as one.
pub struct ShardedFile {
    index: PathBuf,
    shards: BTreeMap<String, Box<dyn TensorSource>>,
    /// Tensor to shard.
    places: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
}

impl ShardedFile {
    /// Opens the index and all its shards, safetensors or torch.
    pub fn open(index: &Path) -> Result<Self> {
        let places = read_index(index)?;
        let mut shards: BTreeMap<String, Box<dyn TensorSource>> = BTreeMap::new();
        for (tensor, shard) in &places {
            if !shards.contains_key(shard) {
                shards.insert(shard.clone(), super::open_any(&index.with_file_name(shard))?);
            }
            if shards.get(shard).is_none_or(|source| source.info(tensor).is_none()) {
                return Err(FileError::missing_tensor(index.with_file_name(shard), tensor));
            }
        }
        for (shard, source) in &shards {
            for tensor in source.names() {
                if places.get(&tensor) != Some(shard) {
                    let found = places.get(&tensor).map_or("no entry".into(), |other| format!("`{other}`"));
                    return Err(FileError::tensor(index, &printable(&tensor), format!("`{shard}`"), found));
                }
            }
        }
        let metadata = shards.values().next().map(|shard| shard.metadata().clone()).unwrap_or_default();
        Ok(Self { index: index.into(), shards, places, metadata })
    }

    fn shard(&self, tensor: &str) -> Option<&dyn TensorSource> {
        self.shards.get(self.places.get(tensor)?).map(Box::as_ref)
    }
}

impl TensorSource for ShardedFile {
    fn describe(&self) -> String {
        self.index.display().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.shard(name)?.info(name)
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        self.shard(name).ok_or_else(|| FileError::missing_tensor(&self.index, name))?.read(name)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// Names of the files that an index points to, each once.
pub(crate) fn shard_names(index: &Path) -> Result<Vec<String>> {
    let names: std::collections::BTreeSet<String> = read_index(index)?.into_values().collect();
    Ok(names.into_iter().collect())
}

fn read_index(index: &Path) -> Result<BTreeMap<String, String>> {
    let text = super::read_text(index, MAX_INDEX)?;
    let malformed = |reason: String| FileError::malformed(index, FORMAT, reason);
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| malformed("`weight_map` is missing".into()))?;
    let mut places = BTreeMap::new();
    for (tensor, shard) in map {
        let shard = shard.as_str().filter(|shard| is_plain_name(shard)).ok_or_else(|| {
            malformed(format!(
                "`{}`: {} is not the name of a file beside it",
                printable(tensor),
                printable(&shard.to_string())
            ))
        })?;
        places.insert(tensor.clone(), shard.to_string());
    }
    Ok(places)
}

/// A file name without any folder, on any system.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::write_safetensors;

    fn model(folder: &Path, index: &str) -> PathBuf {
        let write = |file: &str, names: &[&str]| {
            let tensors: Vec<_> = names
                .iter()
                .map(|name| (name.to_string(), Tensor::from_slice(&[name.len() as f32], &[1]).unwrap()))
                .collect();
            write_safetensors(&folder.join(file), &tensors, &BTreeMap::new()).unwrap();
        };
        write("m-00001-of-00002.safetensors", &["a", "bb"]);
        write("m-00002-of-00002.safetensors", &["ccc"]);
        let path = folder.join("m.safetensors.index.json");
        std::fs::write(&path, index).unwrap();
        path
    }

    #[test]
    fn shards_are_seen_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let one = "m-00001-of-00002.safetensors";
        let two = "m-00002-of-00002.safetensors";
        let index =
            model(folder.path(), &format!(r#"{{"weight_map":{{"a":"{one}","bb":"{one}","ccc":"{two}"}}}}"#));
        let file = crate::files::open_any(&index).unwrap();
        assert_eq!(file.names(), ["a", "bb", "ccc"]);
        assert_eq!(file.read("ccc").unwrap().to_vec::<f32>().unwrap(), [3.0]);
        assert_eq!(shard_names(&index).unwrap(), [one, two]);
        std::fs::remove_file(folder.path().join(two)).unwrap();
        let error = ShardedFile::open(&index).err().unwrap().to_string();
        assert!(error.contains(two), "{error}");
    }

    #[test]
    fn an_index_longer_than_the_limit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors.index.json");
        // A hole: nothing of it lies on disk or comes into memory.
        std::fs::File::create(&path).unwrap().set_len(MAX_INDEX + 1).unwrap();
        let error = ShardedFile::open(&path).err().unwrap().to_string();
        assert!(
            error.contains("m.safetensors.index.json") && error.contains("longer than 67108864"),
            "{error}"
        );
    }

    #[test]
    fn an_index_that_disagrees_is_refused() {
        let one = r#""a":"m-00001-of-00002.safetensors","bb":"m-00001-of-00002.safetensors""#;
        for (index, words) in [
            (format!(r#"{{"weight_map":{{{one},"d":"m-00002-of-00002.safetensors"}}}}"#), "no tensor `d`"),
            (r#"{"weight_map":{"a":"m-00001-of-00002.safetensors"}}"#.into(), "`bb`"),
            (r#"{"weight_map":{"a":"../secret.safetensors"}}"#.into(), "file beside it"),
            (r#"{"weight_map":{"a":"/etc/passwd"}}"#.into(), "file beside it"),
            (r#"{"weight_map":{"a":3}}"#.into(), "file beside it"),
            (r#"{"weights":{}}"#.into(), "weight_map"),
            ("[".repeat(5000), "recursion"),
            ("{".into(), "EOF"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let error = ShardedFile::open(&model(folder.path(), &index)).err().unwrap().to_string();
            assert!(error.contains(words), "{index}: {error}");
        }
    }
}
