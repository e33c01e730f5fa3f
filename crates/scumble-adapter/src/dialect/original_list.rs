//! The original's first files: a pickled list `[up_0, down_0, up_1, down_1, ...]` and nothing else.
//!
//! The text encoder's list is in `<name>.text_encoder.pt`, learned tokens in `<name>.ti.pt` (a dictionary from token
//! to row), both beside `<name>.pt`. Here the three become one source with the names that the numbered safetensors
//! files have, so that [`super::original`] reads them all. Nothing is read before it is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_model::files::{FileError, Result as FileResult, TensorInfo, TensorSource, open_any};
use scumble_tensor::Tensor;

use super::original::{EMBED, fits_tower};
use crate::error::{AdapterError, Result};
use crate::table::{ModuleTable, Tower};

/// The text encoder's list.
pub(super) const TEXT_ENDING: &str = ".text_encoder.pt";
/// The learned tokens.
pub(super) const TOKEN_ENDING: &str = ".ti.pt";

/// The lists of an adapter under numbered names.
pub(super) struct Lists {
    parts: Vec<Box<dyn TensorSource>>,
    /// Our name -> which part and what it calls the tensor.
    names: BTreeMap<String, (usize, String)>,
    metadata: BTreeMap<String, String>,
    path: PathBuf,
}

/// Whether a file is one of these: a list of tensors, or tokens in a file of that name.
pub fn is_list(path: &Path, source: &dyn TensorSource) -> bool {
    ends_with(path, TOKEN_ENDING) || list_length(source).is_some()
}

/// Number of tensors, when they are named by position only.
fn list_length(source: &dyn TensorSource) -> Option<usize> {
    let names = source.names();
    let mut positions: Vec<usize> = names.iter().map(|name| name.parse().ok()).collect::<Option<_>>()?;
    positions.sort_unstable();
    let counted = !positions.is_empty() && positions.iter().enumerate().all(|(i, &position)| i == position);
    counted.then_some(positions.len())
}

pub(super) fn ends_with(path: &Path, ending: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending))
}

/// `<name>.pt` -> `<name>` + `ending`, if that file exists.
fn companion(path: &Path, ending: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let file = path.with_file_name(format!("{}{ending}", name.strip_suffix(".pt")?));
    file.is_file().then_some(file)
}

impl Lists {
    /// Takes an opened list and, if it is the UNet's, the two files beside it.
    pub(super) fn gather(path: &Path, source: Box<dyn TensorSource>, table: &ModuleTable) -> Result<Self> {
        let mut lists = Self {
            parts: Vec::new(),
            names: BTreeMap::new(),
            metadata: BTreeMap::new(),
            path: path.to_owned(),
        };
        if ends_with(path, TOKEN_ENDING) {
            lists.add_tokens(source);
            return Ok(lists);
        }
        let is_text = ends_with(path, TEXT_ENDING)
            || (!fits(&*source, table, Tower::UNet) && fits(&*source, table, Tower::TextEncoder));
        if is_text {
            lists.add_list(path, source, Tower::TextEncoder)?;
            return Ok(lists);
        }
        lists.add_list(path, source, Tower::UNet)?;
        if let Some(text) = companion(path, TEXT_ENDING) {
            lists.add_list(&text, open_any(&text)?, Tower::TextEncoder)?;
        }
        if let Some(tokens) = companion(path, TOKEN_ENDING) {
            lists.add_tokens(open_any(&tokens)?);
        }
        Ok(lists)
    }

    fn add_list(&mut self, path: &Path, source: Box<dyn TensorSource>, tower: Tower) -> Result<()> {
        let length = list_length(&*source).unwrap_or(0);
        if length == 0 || length % 2 == 1 {
            return Err(AdapterError::Malformed {
                file: path.display().to_string(),
                what: format!("expected a list of up and down factors in turn, found {length} in a list"),
            });
        }
        for position in 0..length {
            let name = numbered_name(tower, position);
            self.names.insert(name, (self.parts.len(), position.to_string()));
        }
        self.parts.push(source);
        Ok(())
    }

    fn add_tokens(&mut self, source: Box<dyn TensorSource>) {
        for token in source.names() {
            self.metadata.insert(token.clone(), EMBED.into());
            self.names.insert(token.clone(), (self.parts.len(), token));
        }
        self.parts.push(source);
    }
}

/// List position -> the name it has in numbered files: up first.
pub(super) fn numbered_name(tower: Tower, position: usize) -> String {
    let part = if position.is_multiple_of(2) { "up" } else { "down" };
    format!("{}:{}:{part}", tower.prefix(), position / 2)
}

fn fits(source: &dyn TensorSource, table: &ModuleTable, tower: Tower) -> bool {
    let length = list_length(source).unwrap_or(0);
    let width = |slot: usize, up: bool| {
        let info = source.info(&(2 * slot + usize::from(!up)).to_string())?;
        info.shape.get(usize::from(!up)).copied()
    };
    fits_tower(table, tower, length / 2, width)
}

impl TensorSource for Lists {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let (part, inner) = self.names.get(name)?;
        self.parts[*part].info(inner)
    }

    fn read(&self, name: &str) -> FileResult<Tensor> {
        let (part, inner) = self
            .names
            .get(name)
            .ok_or_else(|| FileError::MissingTensor { file: self.path.clone(), tensor: name.into() })?;
        self.parts[*part].read(inner)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}
