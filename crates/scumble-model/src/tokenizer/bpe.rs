//! Byte-pair encoding: a word's bytes as symbols, then again and again the pair that comes first in the merge list.
//!
//! Bytes are written as letters so that a vocabulary is readable text: printable ones as themselves, the rest from
//! U+0100 on. A word's last symbol carries `</w>`. The pair to merge next comes from a heap, so that a word of n bytes
//! costs n log n: captions come from strangers, and a word may be a megabyte long.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::{Result, TokenizerError};

/// Marks a symbol that ends a word.
const WORD_END: &str = "</w>";
/// Ids above this are no vocabulary's.
pub(super) const MAX_ID: u32 = 1 << 24;

/// The letter that stands for each byte.
pub(super) fn byte_letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut next = 256;
    for byte in 0..=255u8 {
        letters[usize::from(byte)] = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or('\0')
            }
        };
    }
    letters
}

#[derive(Clone, Copy, Debug)]
struct Merge {
    rank: u32,
    id: u32,
}

/// A vocabulary and its merges.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    vocabulary: Arc<HashMap<String, u32>>,
    merges: Arc<HashMap<(u32, u32), Merge>>,
    /// The id of each byte, inside a word and at its end.
    bytes: Arc<[[u32; 2]; 256]>,
}

/// A symbol of the word under way: a linked list in a vector.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    before: usize,
    after: usize,
}

/// No symbol.
const NONE: usize = usize::MAX;

impl Bpe {
    pub(super) fn new(
        vocabulary: HashMap<String, u32>,
        merges: &[(String, String)],
        unknown: u32,
    ) -> Result<Self> {
        let mut pairs = HashMap::with_capacity(merges.len());
        for (line, (left, right)) in merges.iter().enumerate() {
            let id = |token: String| {
                let found = vocabulary.get(&token).copied();
                found.ok_or(TokenizerError::Merge { line: line + 1, token })
            };
            let pair = (id(left.clone())?, id(right.clone())?);
            pairs.insert(pair, Merge { rank: line as u32, id: id([left.as_str(), right].concat())? });
        }
        let mut bytes = [[unknown; 2]; 256];
        for (ids, letter) in bytes.iter_mut().zip(byte_letters()) {
            let id = |token: String| vocabulary.get(&token).copied().unwrap_or(unknown);
            *ids = [id(letter.to_string()), id(format!("{letter}{WORD_END}"))];
        }
        Ok(Self { vocabulary: Arc::new(vocabulary), merges: Arc::new(pairs), bytes: Arc::new(bytes) })
    }

    pub(super) fn id_of(&self, token: &str) -> Option<u32> {
        self.vocabulary.get(token).copied()
    }

    /// One more than the largest id.
    pub(super) fn id_end(&self) -> u32 {
        self.vocabulary.values().max().map_or(0, |id| id + 1)
    }

    /// Appends the ids of one word.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        let mut symbols = self.symbols(word);
        // The pair that comes first in the list, and of equal ones the leftmost.
        let mut heap = BinaryHeap::new();
        let propose = |heap: &mut BinaryHeap<_>, symbols: &[Symbol], left: usize| {
            let Some(right) = symbols.get(left).and_then(|symbol| symbols.get(symbol.after)) else { return };
            let pair = (symbols[left].id, right.id);
            if let Some(merge) = self.merges.get(&pair) {
                heap.push(Reverse((merge.rank, left, pair, merge.id)));
            }
        };
        (0..symbols.len()).for_each(|left| propose(&mut heap, &symbols, left));
        while let Some(Reverse((_, left, pair, id))) = heap.pop() {
            let right = symbols[left].after;
            // A pair proposed earlier may be gone: one of its symbols has been merged since.
            if right == NONE || (symbols[left].id, symbols[right].id) != pair {
                continue;
            }
            let after = symbols[right].after;
            symbols[left] = Symbol { id, before: symbols[left].before, after };
            symbols[right] = Symbol { id: u32::MAX, before: NONE, after: NONE };
            if let Some(symbol) = symbols.get_mut(after) {
                symbol.before = left;
            }
            propose(&mut heap, &symbols, symbols[left].before);
            propose(&mut heap, &symbols, left);
        }
        let mut at = 0;
        while let Some(symbol) = symbols.get(at) {
            ids.push(symbol.id);
            at = symbol.after;
        }
    }

    fn symbols(&self, word: &str) -> Vec<Symbol> {
        let last = word.len().saturating_sub(1);
        let symbol = |(i, byte): (usize, u8)| Symbol {
            id: self.bytes[usize::from(byte)][usize::from(i == last)],
            before: i.checked_sub(1).unwrap_or(NONE),
            after: if i == last { NONE } else { i + 1 },
        };
        word.bytes().enumerate().map(symbol).collect()
    }
}
