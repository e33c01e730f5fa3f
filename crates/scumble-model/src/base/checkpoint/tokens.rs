//! Learned tokens of a folder: names in its tokenizer, rows at the end of the text encoder's table.

use std::collections::BTreeMap;
use std::path::Path;

use super::Part;
use crate::base::Component;
use crate::files::{FileError, Result};
use crate::tokenizer::Tokenizer;

/// The text encoder's table.
pub(super) const TABLE: &str = "text_model.embeddings.token_embedding.weight";

/// The learned tokens in row order, and how many rows are before them.
pub(super) fn of_folder(folder: &Path, parts: &BTreeMap<Part, Component>) -> Result<(Vec<String>, usize)> {
    let tokenizer = folder.join("tokenizer");
    let rows = parts.get(&Part::TextEncoder).and_then(|part| part.weights.info(TABLE));
    let rows = rows.and_then(|info| info.shape.first().copied()).unwrap_or(0);
    if !tokenizer.is_dir() {
        return Ok((Vec::new(), rows));
    }
    let opened = Tokenizer::from_folder(&tokenizer)
        .map_err(|error| FileError::malformed(&tokenizer, "tokenizer", error.to_string()))?;
    let learned = opened.learned_tokens();
    let vocabulary = learned.first().map_or(rows, |(_, id)| *id as usize);
    Ok((learned.into_iter().map(|(token, _)| token).collect(), vocabulary))
}
