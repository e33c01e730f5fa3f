//! What a file's spelling said that the adapter itself does not: kept so that a way there and back gives the same file.
//!
//! One metadata entry, `scumble_spelling`, with a JSON object. A dialect notes on reading what it would not write by
//! itself (block numbers for names, no alpha tensors, another order of modules), and heeds it on writing. Nothing in
//! it changes what the adapter does, and a file without it is complete.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The metadata entry.
pub(super) const KEY: &str = "scumble_spelling";
/// Longer notes are not ours.
const MAX_BYTES: usize = 1 << 22;

/// The notes of an adapter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spelling(Map<String, Value>);

impl Spelling {
    /// From an adapter's metadata; what is damaged counts as absent.
    pub fn of(metadata: &BTreeMap<String, String>) -> Self {
        let text = metadata.get(KEY).filter(|text| text.len() <= MAX_BYTES);
        Self(text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
    }

    pub(super) fn get(&self, note: &str) -> Option<&Value> {
        self.0.get(note)
    }

    pub(super) fn text(&self, note: &str) -> Option<&str> {
        self.0.get(note)?.as_str()
    }

    pub(super) fn set(&mut self, note: &str, value: impl Into<Value>) {
        self.0.insert(note.into(), value.into());
    }

    /// Takes a note away, for the dialect that finds it out again from its own file.
    pub(super) fn forget(&mut self, note: &str) {
        self.0.shift_remove(note);
    }

    /// Puts the notes into metadata, or takes the entry away when there are none.
    pub(super) fn store(&self, metadata: &mut BTreeMap<String, String>) {
        if self.0.is_empty() {
            metadata.remove(KEY);
        } else {
            metadata.insert(KEY.into(), Value::Object(self.0.clone()).to_string());
        }
    }
}
