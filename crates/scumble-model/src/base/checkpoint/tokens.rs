//! Learned tokens: those of a folder, and those that are added.
//!
//! A folder has their names in its tokenizer and their rows at the end of the text encoder's table. A token of several
//! rows is `name`, `name_1`, `name_2`, ... there, as diffusers reads and writes it. Single files have no place for
//! tokens; theirs go into embedding files beside them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scumble_tensor::{DType, Tensor};
use serde_json::{Map, Value, json};

use super::{Checkpoint, Part, configs};
use crate::base::{Component, read_object};
use crate::files::{
    FileError, Result, TensorInfo, TensorSource, atomic_write, printable, read_text, write_safetensors,
};
use crate::tokenizer::Tokenizer;

/// The text encoder's table.
pub(super) const TABLE: &str = "text_model.embeddings.token_embedding.weight";
/// `tokenizer.json` takes three megabytes.
const MAX_FILE: u64 = 64 << 20;
/// Text encoders with their tokenizers' folders, and what their rows are called in files for both.
const TOWERS: [(Part, &str, &str); 2] =
    [(Part::TextEncoder, "tokenizer", "clip_l"), (Part::TextEncoder2, "tokenizer_2", "clip_g")];

/// A learned token.
#[derive(Clone, Debug)]
pub struct LearnedToken {
    /// As prompts have it.
    pub name: String,
    /// Its rows `[n, width]` for each text encoder, equally many for all.
    pub rows: BTreeMap<Part, Tensor>,
}

/// A learned token of a folder, and where its rows are.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub name: String,
    pub places: BTreeMap<Part, Range<usize>>,
}

/// The learned tokens, and how many rows of each table are before them.
pub(super) fn of_folder(
    folder: &Path,
    parts: &BTreeMap<Part, Component>,
) -> Result<(Vec<Stored>, BTreeMap<Part, usize>)> {
    let (mut stored, mut vocabulary): (Vec<Stored>, _) = (Vec::new(), BTreeMap::new());
    for (part, name, _) in TOWERS {
        let Some(component) = parts.get(&part) else { continue };
        let rows = rows_of(component);
        vocabulary.insert(part, rows);
        let tokenizer = folder.join(name);
        if !tokenizer.is_dir() {
            continue;
        }
        let opened = open_tokenizer(&tokenizer)?;
        let learned = opened.learned_tokens();
        if learned.is_empty() {
            continue;
        }
        vocabulary.insert(part, opened.own_ids());
        for (name, place) in grouped(&learned) {
            match stored.iter_mut().find(|token| token.name == name) {
                Some(token) => drop(token.places.insert(part, place)),
                None => stored.push(Stored { name, places: BTreeMap::from([(part, place)]) }),
            }
        }
    }
    Ok((stored, vocabulary))
}

fn open_tokenizer(folder: &Path) -> Result<Tokenizer> {
    Tokenizer::from_folder(folder)
        .map_err(|error| FileError::malformed(folder, "tokenizer", error.to_string()))
}

fn rows_of(component: &Component) -> usize {
    component.weights.info(TABLE).and_then(|info| info.shape.first().copied()).unwrap_or(0)
}

/// Names by id, with `name_1`, `name_2`, ... taken as further rows of `name`.
fn grouped(learned: &[(String, i64)]) -> Vec<(String, Range<usize>)> {
    let mut tokens: Vec<(String, Range<usize>)> = Vec::new();
    for (name, id) in learned {
        let id = *id as usize;
        match tokens.last_mut() {
            Some((first, rows)) if rows.end == id && *name == row_name(first, rows.len()) => rows.end += 1,
            _ => tokens.push((name.clone(), id..id + 1)),
        }
    }
    tokens
}

/// The name of a token's row in a tokenizer.
fn row_name(token: &str, row: usize) -> String {
    if row == 0 { token.to_owned() } else { format!("{token}_{row}") }
}

impl Checkpoint {
    /// The learned tokens it has: the folder's, then those that were added.
    pub fn learned_tokens(&self) -> Vec<&str> {
        let stored = self.learned.iter().map(|token| token.name.as_str());
        stored.chain(self.added.iter().map(|token| token.name.as_str())).collect()
    }

    /// Rows of a text encoder's table that are the vocabulary's, without learned tokens.
    pub fn vocabulary(&self, part: Part) -> Option<usize> {
        self.vocabulary.get(&part).copied()
    }

    /// A learned token with its rows.
    pub fn learned_token(&self, name: &str) -> Result<Option<LearnedToken>> {
        if let Some(added) = self.added.iter().find(|token| token.name == name) {
            return Ok(Some(added.clone()));
        }
        let Some(stored) = self.learned.iter().find(|token| token.name == name) else { return Ok(None) };
        let mut rows = BTreeMap::new();
        for (part, place) in &stored.places {
            let Some(component) = self.parts.get(part) else { continue };
            let source = PathBuf::from(component.weights.describe());
            let engine = |error| FileError::engine(&source, TABLE, error);
            let table = component.weights.read(TABLE)?;
            let width = table.shape().last();
            let row_bytes = width * table.dtype().size();
            let bytes = table.bytes().map_err(engine)?;
            let bytes = bytes.get(place.start * row_bytes..place.end * row_bytes).ok_or_else(|| {
                let expected = format!("rows {place:?} for `{}`", printable(name));
                FileError::tensor(&source, TABLE, expected, format!("{} rows", table.shape().first()))
            })?;
            let values = Tensor::from_bytes(table.dtype(), bytes, &[place.len(), width]).map_err(engine)?;
            rows.insert(*part, values);
        }
        Ok(Some(LearnedToken { name: name.into(), rows }))
    }

    /// Adds a learned token: a folder gets it into its tokenizer and its text encoder's table, a single file an
    /// embedding file beside it. Errors if a name is taken, or the rows are not for these text encoders.
    pub fn add_token(&mut self, token: LearnedToken) -> Result<()> {
        let refuse = |reason: String, hint: &str| {
            let reason = format!("it cannot take the token `{}`: {reason}", printable(&token.name));
            Err(FileError::Unsupported { base: self.name.clone(), reason, hint: hint.into() })
        };
        let another_name = "give the token another name with `scumble convert --rename-token`";
        if token.name.trim().is_empty() || token.name.trim() != token.name {
            return refuse("its name is empty or has white space around it".into(), another_name);
        }
        if self.learned_tokens().contains(&token.name.as_str()) {
            return refuse("it has one of that name".into(), another_name);
        }
        let mut count = None;
        for (part, rows) in &token.rows {
            let (Some(component), &[n, found]) = (self.parts.get(part), rows.dims()) else {
                return refuse(
                    format!("there is no `{}` for its {} rows", part.folder(), rows.shape()),
                    "choose the base that it was learned on",
                );
            };
            let width = component.weights.info(TABLE).and_then(|info| info.shape.last().copied());
            if width != Some(found) || n == 0 || *count.get_or_insert(n) != n {
                return refuse(
                    format!(
                        "its rows are {} where `{}` takes {width:?} numbers a row",
                        rows.shape(),
                        part.folder()
                    ),
                    "choose the base that it was learned on",
                );
            }
        }
        if token.rows.is_empty() {
            return refuse("it has no rows".into(), "leave it out");
        }
        self.added.push(token);
        Ok(())
    }

    /// A part's weights as a folder has them: with the rows of added tokens.
    pub(super) fn with_added_rows(
        &self,
        part: Part,
        weights: &Arc<dyn TensorSource>,
    ) -> Arc<dyn TensorSource> {
        let rows: Vec<Tensor> =
            self.added.iter().filter_map(|token| token.rows.get(&part).cloned()).collect();
        let weights = Arc::clone(weights);
        if rows.is_empty() { weights } else { Arc::new(Grown { weights, rows }) }
    }

    /// Writes the added tokens' names and the tables' sizes into the small files of a folder that is being made.
    pub(super) fn add_names(&self, root: &Path) -> Result<()> {
        for (part, folder, _) in TOWERS {
            let Some(component) = self.parts.get(&part) else { continue };
            let (mut names, first) = (Vec::new(), rows_of(component));
            for token in &self.added {
                let rows = token.rows.get(&part).map_or(0, |rows| rows.shape().first());
                names.extend((0..rows).map(|row| row_name(&token.name, row)));
            }
            if names.is_empty() {
                continue;
            }
            let names: Vec<(String, usize)> = names.into_iter().zip(first..).collect();
            self.name_in_tokenizer(&root.join(folder), &names)?;
            let file = root.join(part.folder()).join("config.json");
            let mut config = read_object(&file)?;
            config["vocab_size"] = json!(first + names.len());
            write_text(&file, &configs::pretty(&config))?;
        }
        Ok(())
    }

    fn name_in_tokenizer(&self, folder: &Path, names: &[(String, usize)]) -> Result<()> {
        if !folder.is_dir() {
            return Err(FileError::Unsupported {
                base: self.name.clone(),
                reason: format!("it has no `{}` to put learned tokens into", folder.display()),
                hint: "complete the folder, or leave the tokens out".into(),
            });
        }
        let tokenizer = open_tokenizer(folder)?;
        for (name, _) in names {
            let word = format!("{}</w>", name.to_lowercase());
            if tokenizer.id_of(name).is_some() || tokenizer.id_of(&word).is_some() {
                return Err(FileError::Unsupported {
                    base: self.name.clone(),
                    reason: format!("`{}` is a word of its vocabulary already", printable(name)),
                    hint: "give the token another name with `scumble convert --rename-token`".into(),
                });
            }
        }
        let entry = |name: &str| {
            json!({
                "content": name, "lstrip": false, "normalized": true, "rstrip": false,
                "single_word": false, "special": false,
            })
        };
        edit(folder, "added_tokens.json", true, |list| {
            list.extend(names.iter().map(|(name, id)| (name.clone(), json!(id))));
        })?;
        edit(folder, "tokenizer_config.json", false, |config| {
            if let Some(decoder) = config.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) {
                decoder.extend(names.iter().map(|(name, id)| (id.to_string(), entry(name))));
            }
        })?;
        edit(folder, "tokenizer.json", false, |whole| {
            if let Some(list) = whole.get_mut("added_tokens").and_then(Value::as_array_mut) {
                list.extend(names.iter().map(|(name, id)| {
                    let mut entry = entry(name);
                    entry["id"] = json!(id);
                    entry
                }));
            }
        })
    }
}

/// Changes an object in a file; a file that is missing is made if `make` says so.
fn edit(folder: &Path, name: &str, make: bool, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    let file = folder.join(name);
    if !file.exists() && !make {
        return Ok(());
    }
    let mut object = Map::new();
    if file.exists() {
        object = serde_json::from_str(&read_text(&file, MAX_FILE)?)
            .map_err(|error| FileError::malformed(&file, "JSON", error.to_string()))?;
    }
    change(&mut object);
    write_text(&file, &configs::pretty(&Value::Object(object)))
}

fn write_text(file: &Path, text: &str) -> Result<()> {
    atomic_write(file, |file| std::io::Write::write_all(file, text.as_bytes()))
}

/// The file for one token beside a single file of a model: AUTOMATIC1111's `.pt`, or for two text encoders its
/// safetensors.
pub(super) fn write_beside(path: &Path, token: &LearnedToken) -> Result<()> {
    if let [rows] = token.rows.values().collect::<Vec<_>>()[..] {
        return super::write_embedding(path, &token.name, rows);
    }
    let key = |part: Part| TOWERS.iter().find(|(of, _, _)| *of == part).map_or("clip_l", |(_, _, key)| key);
    let tensors: Vec<_> = token.rows.iter().map(|(part, rows)| (key(*part).into(), rows.clone())).collect();
    let metadata = BTreeMap::from([("format".into(), "pt".into()), ("name".into(), token.name.clone())]);
    write_safetensors(path, &tensors, &metadata)
}

/// A text encoder with further rows at the end of its table.
struct Grown {
    weights: Arc<dyn TensorSource>,
    rows: Vec<Tensor>,
}

impl TensorSource for Grown {
    fn describe(&self) -> String {
        self.weights.describe()
    }

    fn names(&self) -> Vec<String> {
        self.weights.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let mut info = self.weights.info(name)?;
        if name == TABLE
            && let Some(rows) = info.shape.first_mut()
        {
            *rows += self.rows.iter().map(|rows| rows.shape().first()).sum::<usize>();
        }
        Some(info)
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let table = self.weights.read(name)?;
        let Some(info) = self.info(name).filter(|_| name == TABLE) else { return Ok(table) };
        self.grown(&table, &info)
            .map_err(|error| FileError::engine(&PathBuf::from(self.describe()), name, error))
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.weights.metadata()
    }
}

impl Grown {
    fn grown(&self, table: &Tensor, info: &TensorInfo) -> scumble_tensor::Result<Tensor> {
        let mut bytes = Vec::with_capacity(info.bytes());
        bytes.extend_from_slice(table.bytes()?);
        for rows in &self.rows {
            bytes.extend_from_slice(rows.to_dtype(DType::F32)?.to_dtype(table.dtype())?.bytes()?);
        }
        Tensor::from_bytes(info.dtype, &bytes, &info.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_token_are_found_by_their_names() {
        let named = |names: &[(&str, i64)]| -> Vec<(String, Range<usize>)> {
            grouped(&names.iter().map(|(name, id)| (name.to_string(), *id)).collect::<Vec<_>>())
        };
        let tokens = named(&[("<a>", 7), ("<a>_1", 8), ("<a>_2", 9), ("<a>_4", 10), ("b", 12), ("b_1", 14)]);
        let wanted = [("<a>", 7..10), ("<a>_4", 10..11), ("b", 12..13), ("b_1", 14..15)];
        assert_eq!(tokens, wanted.map(|(name, rows)| (name.to_owned(), rows)));
    }
}
