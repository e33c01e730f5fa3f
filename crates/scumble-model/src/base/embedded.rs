//! The base that the program carries: a small model of 64 x 64 pictures, pre-trained on the drawn little world, and the
//! dual encoder that judges its pictures.
//!
//! Its files are bytes of the program. Everything that reads models reads folders, so the bytes are laid out once in a cache
//! folder and compared at every use; whatever somebody did to them there is put right. The folder's name has a hash of them,
//! so that programs with different weights do not take turns in writing them.
//!
//! How it was made is in `recipes/embedded` and `docs/pretraining.md`.

use std::borrow::Cow;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::files::{AtomicFolder, FileError, Result, atomic_write};

/// What users call it, the base and the dual encoder alike.
pub const NAME: &str = "embedded";

/// Pixels of a side of its pictures.
pub const SIDE: usize = 64;

/// Path below the folder, and content.
type Files = &'static [(&'static str, &'static [u8])];

macro_rules! files {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../assets/embedded/", $folder, "/", $path)))),+]
    };
}

const BASE: Files = files!("base":
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
);
const CLIP: Files = files!("clip":
    "config.json",
    "merges.txt",
    "model.safetensors",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
);

/// The folder of a base: that of the embedded one for its name, unless something of that name is there, else `spec`.
pub(crate) fn base_path(spec: &str) -> Result<Cow<'_, Path>> {
    locate(spec, "base", BASE)
}

/// Likewise for a dual encoder.
pub(crate) fn clip_path(spec: &str) -> Result<Cow<'_, Path>> {
    locate(spec, "clip", CLIP)
}

/// The configuration of a part of the embedded base, `unet` say; `None` where it has no such part.
pub fn config(part: &str) -> Option<serde_json::Value> {
    let path = format!("{part}/config.json");
    let (_, bytes) = BASE.iter().find(|(name, _)| *name == path)?;
    serde_json::from_slice(bytes).ok()
}

/// Writes the embedded base as a folder in diffusers' layout, with the dual encoder in `clip` below it. `target` is replaced
/// as a whole.
///
/// # Errors
/// What the file system says.
pub fn export(target: &Path) -> Result<()> {
    let folder = AtomicFolder::create(target)?;
    write(BASE, folder.path())?;
    write(CLIP, &folder.path().join("clip"))?;
    folder.commit()
}

fn locate<'a>(spec: &'a str, kind: &str, files: Files) -> Result<Cow<'a, Path>> {
    let path = Path::new(spec);
    if spec != NAME || path.exists() {
        return Ok(Cow::Borrowed(path));
    }
    unpacked(&cache_folders(), kind, files).map(Cow::Owned)
}

/// The files in the preferred cache, or where that takes nothing in the other.
fn unpacked([preferred, other]: &[PathBuf; 2], kind: &str, files: Files) -> Result<PathBuf> {
    let below = |cache: &Path| {
        let folder = cache.join(format!("{NAME}-{kind}-{}", short_hash(files)));
        lay_out(cache, &folder, files).map(|()| folder)
    };
    below(preferred).or_else(|_| below(other))
}

/// Tells one generation of the files from another.
fn short_hash(files: Files) -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in files {
        hash.update(name);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn lay_out(cache: &Path, folder: &Path, files: Files) -> Result<()> {
    if is_there(folder, files) {
        return Ok(());
    }
    std::fs::create_dir_all(cache).map_err(|source| FileError::Write { file: cache.into(), source })?;
    let fresh = AtomicFolder::create(folder)?;
    write(files, fresh.path())?;
    let placed = fresh.commit();
    // Another process may have done the same at the same time.
    if is_there(folder, files) { Ok(()) } else { placed }
}

fn is_there(folder: &Path, files: Files) -> bool {
    files.iter().all(|(name, bytes)| {
        let path = folder.join(name);
        let size = std::fs::metadata(&path).map(|meta| meta.len());
        size.is_ok_and(|size| size == bytes.len() as u64)
            && std::fs::read(&path).is_ok_and(|found| found == *bytes)
    })
}

fn write(files: Files, folder: &Path) -> Result<()> {
    for (name, bytes) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|source| FileError::Write { file: parent.into(), source })?;
        }
        atomic_write(&path, |file| file.write_all(bytes))?;
    }
    Ok(())
}

/// Where the environment or the system wants caches, and the folder for temporary files.
fn cache_folders() -> [PathBuf; 2] {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let below = |root: &str, inner: &str| variable(root).map(|root| root.join(inner));
    let system = if cfg!(windows) {
        below("LOCALAPPDATA", "scumble")
    } else if cfg!(target_os = "macos") {
        below("HOME", "Library/Caches/scumble")
    } else {
        below("XDG_CACHE_HOME", "scumble").or_else(|| below("HOME", ".cache/scumble"))
    };
    let temporary = std::env::temp_dir().join("scumble");
    [variable("SCUMBLE_CACHE").or(system).unwrap_or_else(|| temporary.clone()), temporary]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_laid_out_once_and_put_right() {
        let cache = tempfile::tempdir().unwrap();
        let caches = [cache.path().join("new"), cache.path().join("other")];
        let folder = unpacked(&caches, "clip", CLIP).unwrap();
        let changed = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
        let config = folder.join("config.json");
        let first = changed(&config);
        assert_eq!(unpacked(&caches, "clip", CLIP).unwrap(), folder);
        assert_eq!(changed(&config), first, "nothing is written twice");
        let good = std::fs::read(&config).unwrap();
        let mut bad = good.clone();
        bad[3] ^= 1;
        std::fs::write(&config, bad).unwrap();
        std::fs::remove_file(folder.join("vocab.json")).unwrap();
        unpacked(&caches, "clip", CLIP).unwrap();
        assert_eq!(std::fs::read(&config).unwrap(), good);
        assert!(folder.join("vocab.json").exists());
    }

    #[test]
    fn a_cache_that_takes_nothing_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, "").unwrap();
        let good = place.path().join("good");
        let folder = unpacked(&[file.join("below"), good.clone()], "clip", CLIP).unwrap();
        assert!(folder.starts_with(good));
        let error = unpacked(&[file.join("below"), file.join("above")], "clip", CLIP).unwrap_err();
        assert!(error.to_string().contains("above"), "{error}");
    }

    #[test]
    fn other_weights_have_another_folder() {
        let files: [Files; 3] = [&[("a", b"bc")], &[("a", b"bd")], &[("ab", b"c")]];
        let hashes = files.map(short_hash);
        assert!(hashes[0] != hashes[1] && hashes[0] != hashes[2], "{hashes:?}");
        assert_eq!(hashes[0], short_hash(files[0]));
    }

    #[test]
    fn other_names_are_paths() {
        assert_eq!(base_path("some/where").unwrap(), Path::new("some/where"));
    }
}
