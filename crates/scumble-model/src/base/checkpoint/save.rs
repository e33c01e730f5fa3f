//! Writing a checkpoint in any layout, whole or not at all, one tensor at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Checkpoint, EXTRAS_FILE, FOLDER_KEY, Layout, Part, SPELLING_KEY, tokens, write_embedding};
use crate::files::{
    AtomicFolder, FileError, Result, Watch, atomic_write, write_safetensors_from, write_state_dict,
};

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// Embedding files beside a single file, for tokens that it has no place for.
    pub embeddings: Vec<PathBuf>,
}

impl Checkpoint {
    /// Writes the checkpoint at `path`, replacing what is there. `watch` is told of bytes as they pass.
    pub fn save(&self, path: &Path, layout: Layout, watch: &mut Watch<'_>) -> Result<Saved> {
        match layout {
            Layout::Folder => self.save_folder(path, watch).map(|()| Saved::default()),
            Layout::Safetensors | Layout::Ckpt => {
                let source = self.assembled()?;
                let metadata = self.single_metadata();
                if layout == Layout::Ckpt {
                    write_state_dict(path, source.as_ref(), &metadata, watch)?;
                } else {
                    write_safetensors_from(path, source.as_ref(), &metadata, watch)?;
                }
                self.save_learned(path)
            }
        }
    }

    fn single_metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = self.metadata.clone();
        if self.layout == Layout::Folder {
            metadata.entry("format".into()).or_insert_with(|| "pt".into());
            metadata.insert(FOLDER_KEY.into(), json!(self.files).to_string());
        }
        metadata
    }

    /// Learned rows do not fit a single file's table, which has the vocabulary's size for its readers.
    fn save_learned(&self, path: &Path) -> Result<Saved> {
        let mut saved = Saved::default();
        let Some(text) = self.parts.get(&Part::TextEncoder).filter(|_| !self.learned.is_empty()) else {
            return Ok(saved);
        };
        let engine = |source| FileError::engine(path, tokens::TABLE, source);
        let table = text.weights.read(tokens::TABLE)?;
        let width = table.shape().last();
        let row_bytes = width * table.dtype().size();
        let bytes = table.bytes().map_err(engine)?;
        for (index, token) in self.learned.iter().enumerate() {
            let start = (self.vocabulary + index) * row_bytes;
            let row = bytes.get(start..start + row_bytes).ok_or_else(|| {
                FileError::tensor(path, tokens::TABLE, format!("a row for `{token}`"), "fewer rows")
            })?;
            let row = scumble_tensor::Tensor::from_bytes(table.dtype(), row, &[1, width]).map_err(engine)?;
            let plain: String = token.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let file = path.with_file_name(format!("{stem}.{plain}.pt"));
            write_embedding(&file, &plain, &row)?;
            saved.embeddings.push(file);
        }
        Ok(saved)
    }

    fn save_folder(&self, path: &Path, watch: &mut Watch<'_>) -> Result<()> {
        let folder = AtomicFolder::create(path)?;
        let root = folder.path();
        if let Some(source) = &self.folder {
            copy_others(source, root, 0)?;
        }
        for (name, text) in &self.files {
            let file = root.join(name);
            make_parent(&file)?;
            atomic_write(&file, |file| std::io::Write::write_all(file, text.as_bytes()))?;
        }
        for (part, component) in &self.parts {
            let file = root.join(part.folder()).join(part.weight_file());
            make_parent(&file)?;
            // Readers want to know who laid the tensors out.
            let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
            write_safetensors_from(&file, component.weights.as_ref(), &metadata, watch)?;
        }
        if self.extras_are_complete {
            let mut metadata = self.metadata.clone();
            if !self.spelling.is_empty() {
                let spelling: BTreeMap<_, _> =
                    self.spelling.iter().map(|(ours, s)| (ours, (&s.name, &s.shape))).collect();
                metadata.insert(SPELLING_KEY.into(), json!(spelling).to_string());
            }
            write_safetensors_from(&root.join(EXTRAS_FILE), self.extras.as_ref(), &metadata, watch)?;
        }
        folder.commit()
    }
}

fn make_parent(file: &Path) -> Result<()> {
    let parent = file.parent().unwrap_or(file);
    std::fs::create_dir_all(parent).map_err(|source| FileError::Write { file: file.into(), source })
}

/// Copies everything of a folder but the parts' weights, which are written anew, and files of weights beside them.
fn copy_others(from: &Path, to: &Path, depth: usize) -> Result<()> {
    let fail = |source| FileError::Read { file: from.into(), source };
    for entry in std::fs::read_dir(from).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name().to_string_lossy().into_owned();
        if source.is_dir() {
            if depth < 3 && !name.starts_with('.') {
                std::fs::create_dir_all(&target)
                    .map_err(|source| FileError::Write { file: target.clone(), source })?;
                copy_others(&source, &target, depth + 1)?;
            }
            continue;
        }
        let parts = [Part::Unet, Part::TextEncoder, Part::TextEncoder2, Part::Vae];
        let in_part = from.file_name().is_some_and(|name| parts.iter().any(|part| name == part.folder()));
        let endings = [".safetensors", ".bin", ".ckpt", ".index.json", ".msgpack", ".onnx", ".pb"];
        let is_weights = endings.iter().any(|ending| name.ends_with(ending)) || name.contains(".index.");
        if is_weights && (in_part || depth == 0) {
            continue;
        }
        std::fs::copy(&source, &target)
            .map_err(|source| FileError::Write { file: target.clone(), source })?;
    }
    Ok(())
}
