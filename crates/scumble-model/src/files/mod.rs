//! Files of weights: safetensors, sharded safetensors, torch's pickles. Memory-mapped in, whole or not at all out.
//!
//! Everything is behind [`TensorSource`]: names, types and shapes at once, elements on demand. No reader executes
//! anything, and none takes memory by what a file claims before checking the claim against the file's length.

mod atomic;
mod early_flush;
mod error;
mod pickle;
mod positioned;
mod safetensors;
mod sharded;
mod source;
mod stream;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use atomic::{AtomicFile, AtomicFolder, atomic_write};
pub(crate) use error::printable;
pub use error::{FileError, Result};
pub use pickle::{PickleFile, PickledTensor, TorchItem, Value, write_torch};
pub use safetensors::{SafetensorsFile, write_safetensors, write_safetensors_with};
pub use sharded::ShardedFile;
pub(crate) use sharded::shard_names;
pub use source::{TensorInfo, TensorSource};
pub use stream::{Watch, read_ahead, write_safetensors_from, write_state_dict};

/// Opens a file of weights by its content, whatever its extension says: safetensors, torch (zip or legacy), or the
/// `.index.json` of several.
pub fn open_any(path: &Path) -> Result<Box<dyn TensorSource>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if name.ends_with(".index.json") {
        return Ok(Box::new(ShardedFile::open(path)?));
    }
    let start = first_bytes(path)?;
    refuse_stand_ins(path, &start)?;
    let is_safetensors = match start.as_slice() {
        [b'P', b'K', 3 | 5, ..] => false,
        [_, _, _, _, _, _, _, _, b'{', ..] => true,
        _ => name.ends_with(".safetensors") || name.ends_with(".sft"),
    };
    if is_safetensors {
        Ok(Box::new(SafetensorsFile::open(path)?))
    } else {
        Ok(Box::new(PickleFile::open(path)?))
    }
}

fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|source| FileError::Open { file: path.into(), source })?;
    let mut start = Vec::new();
    file.take(64).read_to_end(&mut start).map_err(|source| FileError::Read { file: path.into(), source })?;
    Ok(start)
}

/// Downloads that went wrong in the two usual ways deserve a better word than "damaged".
fn refuse_stand_ins(path: &Path, start: &[u8]) -> Result<()> {
    let reason = if start.starts_with(b"version https://git-lfs") {
        "it is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
    } else if start.trim_ascii_start().to_ascii_lowercase().starts_with(b"<!doctype html")
        || start.trim_ascii_start().starts_with(b"<html")
    {
        "it is a web page, not the file itself: the download needs a log-in or another address"
    } else {
        return Ok(());
    };
    Err(FileError::malformed(path, "weights", reason))
}

/// Reads a text file that must not be longer than `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let file = File::open(path).map_err(|source| FileError::Open { file: path.into(), source })?;
    let too_long = || Err(FileError::malformed(path, "text", format!("it is longer than {limit} bytes")));
    // Pipes have no length, and files may grow: what is read is counted too.
    if file.metadata().is_ok_and(|meta| meta.len() > limit) {
        return too_long();
    }
    let mut text = String::new();
    let read = file
        .take(limit + 1)
        .read_to_string(&mut text)
        .map_err(|source| FileError::Read { file: path.into(), source })?;
    if read as u64 > limit { too_long() } else { Ok(text) }
}

#[cfg(test)]
pub(crate) mod safetensors_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors_tests::fixtures;

    #[test]
    fn content_decides_the_format() {
        let folder = tempfile::tempdir().unwrap();
        for (source, name) in [
            ("pickles/expected.safetensors", "a.ckpt"),
            ("pickles/list_zip.pt", "a.safetensors"),
            ("pickles/list_legacy.pt", "a.bin"),
        ] {
            let path = folder.path().join(name);
            std::fs::copy(fixtures().join(source), &path).unwrap();
            assert!(!open_any(&path).unwrap().names().is_empty(), "{name}");
        }
        for (content, words) in [
            ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            ("\n<!DOCTYPE html><html>", "web page"),
        ] {
            let path = folder.path().join("pointer.safetensors");
            std::fs::write(&path, content).unwrap();
            let error = open_any(&path).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
