//! Writing a checkpoint in any layout, whole or not at all, one tensor at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::folder::is_weight_file;
use super::{
    Checkpoint, EXTRAS_FILE, FOLDER_KEY, FOLDER_NAMES_KEY, Layout, Part, SPELLING_KEY, configs, tokens,
};
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
                let metadata = self.single_metadata(path)?;
                let saved = self.save_learned(path, layout)?;
                if layout == Layout::Ckpt {
                    write_state_dict(path, source.as_ref(), &metadata, watch)?;
                } else {
                    write_safetensors_from(path, source.as_ref(), &metadata, watch)?;
                }
                Ok(saved)
            }
        }
    }

    fn single_metadata(&self, path: &Path) -> Result<BTreeMap<String, String>> {
        let mut metadata = self.metadata.clone();
        if let Some(names) = self.folder_names.metadata() {
            metadata.insert(FOLDER_NAMES_KEY.into(), names);
        }
        if self.folder.is_some() {
            metadata.entry("format".into()).or_insert_with(|| "pt".into());
            metadata.insert(FOLDER_KEY.into(), json!(self.files_without_learned(path)?).to_string());
        }
        Ok(metadata)
    }

    /// The configurations of the model that a single file holds: without the learned rows, which go beside it.
    fn files_without_learned(&self, path: &Path) -> Result<BTreeMap<String, String>> {
        let mut files = self.files.clone();
        for (part, folder, _) in self.tokenizers() {
            let Some(vocabulary) = self.vocabulary.get(&part) else { continue };
            if !self.learned.iter().any(|token| token.places.contains_key(&part)) {
                continue;
            }
            // They list the tokens; without them the vocabulary's own are made anew.
            for name in ["added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"] {
                files.remove(&format!("{folder}/{name}"));
            }
            let name = format!("{}/config.json", part.folder());
            if let Some(mut config) = configs::embedded_object(path, &files, &name)? {
                config["vocab_size"] = json!(vocabulary);
                files.insert(name, configs::pretty(&config));
            }
        }
        Ok(files)
    }

    /// Embedding files that writing a single file at `path` makes beside it, one for each learned token, in the order of
    /// [`Checkpoint::learned_tokens`].
    pub fn embedding_files(&self, path: &Path, layout: Layout) -> Vec<PathBuf> {
        if layout == Layout::Folder {
            return Vec::new();
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let stored = self.learned.iter().map(|token| (&token.name, token.places.len()));
        let tokens = stored.chain(self.added.iter().map(|token| (&token.name, token.rows.len())));
        let mut files: Vec<PathBuf> = Vec::new();
        for (number, (token, towers)) in tokens.enumerate() {
            let ending = if towers == 1 { "pt" } else { "safetensors" };
            let file = path.with_file_name(format!("{stem}.{}.{ending}", plain(token)));
            // Tokens that differ in signs alone would share a name.
            let taken = files.contains(&file);
            files.push(if taken {
                path.with_file_name(format!("{stem}.{}-{}.{ending}", plain(token), number + 1))
            } else {
                file
            });
        }
        files
    }

    /// Learned rows do not fit a single file's table, which has the vocabulary's size for its readers.
    fn save_learned(&self, path: &Path, layout: Layout) -> Result<Saved> {
        let mut saved = Saved::default();
        for (name, file) in self.learned_tokens().into_iter().zip(self.embedding_files(path, layout)) {
            if let Some(token) = self.learned_token(name)? {
                tokens::write_beside(&file, &token)?;
                saved.embeddings.push(file);
            }
        }
        Ok(saved)
    }

    fn save_folder(&self, path: &Path, watch: &mut Watch<'_>) -> Result<()> {
        let folder = AtomicFolder::create(path)?;
        let root = folder.path();
        match &self.folder {
            Some(source) => copy_others(source, root, 0)?,
            None => {
                for (name, text) in &self.files {
                    let file = root.join(name);
                    make_parent(&file)?;
                    atomic_write(&file, |file| std::io::Write::write_all(file, text.as_bytes()))?;
                }
            }
        }
        self.add_names(root)?;
        for (part, component) in &self.parts {
            let file = root.join(part.folder()).join(part.weight_file());
            make_parent(&file)?;
            // Readers want to know who laid the tensors out.
            let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
            if *part == Part::Unet {
                metadata.extend(super::own_words(&self.metadata));
            }
            let weights =
                self.folder_names.spelled(*part, self.with_added_rows(*part, &component.weights))?;
            write_safetensors_from(&file, weights.as_ref(), &metadata, watch)?;
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

/// A token's letters and digits, as file names take them.
fn plain(token: &str) -> String {
    let plain: String = token.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
    if plain.is_empty() { "token".into() } else { plain }
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
        if is_weight_file(&name) && (in_part || depth == 0) {
            continue;
        }
        std::fs::copy(&source, &target)
            .and_then(|_| std::fs::File::open(&target)?.sync_all())
            .map_err(|source| FileError::Write { file: target.clone(), source })?;
    }
    Ok(())
}
