//! Learned tokens of a folder: names in its tokenizer, rows at the end of the text encoder's table.

use std::collections::BTreeMap;
use std::path::Path;

use super::Part;
use crate::base::Component;
use crate::files::{FileError, Result};
use crate::tokenizer::Tokenizer;

/// The text encoder's table.
pub(super) const TABLE: &str = "text_model.embeddings.token_embedding.weight";

/// Learned tokens with their ids, which are their rows.
type Learned = Vec<(String, usize)>;

/// The learned tokens, and how many rows are before them.
pub(super) fn of_folder(folder: &Path, parts: &BTreeMap<Part, Component>) -> Result<(Learned, usize)> {
    let tokenizer = folder.join("tokenizer");
    let rows = parts.get(&Part::TextEncoder).and_then(|part| part.weights.info(TABLE));
    let rows = rows.and_then(|info| info.shape.first().copied()).unwrap_or(0);
    if !tokenizer.is_dir() {
        return Ok((Vec::new(), rows));
    }
    let opened = Tokenizer::from_folder(&tokenizer)
        .map_err(|error| FileError::malformed(&tokenizer, "tokenizer", error.to_string()))?;
    let learned: Learned =
        opened.learned_tokens().into_iter().map(|(token, id)| (token, id as usize)).collect();
    let vocabulary = if learned.is_empty() { rows } else { opened.own_ids() };
    Ok((learned, vocabulary))
}
