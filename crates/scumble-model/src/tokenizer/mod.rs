//! CLIP's tokenizer: text to the ids that the text encoder embeds.
//!
//! ```text
//! text -> split at added tokens -> NFC, whitespace runs to one space, lower case -> split at added tokens
//!      -> words (contractions, letters, single digits, runs of the rest) -> bytes -> byte-pair merges -> ids
//! ```
//!
//! The ids are those of the `transformers` tokenizer, which neither unescapes HTML nor repairs encodings as OpenAI's
//! first one did. [`Tokenizer::encode`] frames them with the start and end tokens and cuts or pads to 77.
//!
//! * [`Tokenizer::from_folder`]: a model's `tokenizer/` folder.
//! * [`Tokenizer::clip`]: the full vocabulary, which is in the program.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

mod added;
mod bpe;
mod embedded;
mod folder;
#[cfg(test)]
mod tests;
mod words;

pub use added::AddedToken;
use added::AddedTokens;
use bpe::Bpe;
pub(crate) use embedded::CLIP_VOCABULARY;
pub use embedded::{TokenizerFiles, clip_files, reduced_clip_files};

/// A tokenizer's result.
pub type Result<T> = std::result::Result<T, TokenizerError>;

/// Ids that CLIP's text encoders take at once.
const CLIP_LENGTH: usize = 77;

/// Why a tokenizer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file is larger than any tokenizer's.
    #[error("{}: {bytes} bytes; no tokenizer file is larger than {most}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The most that is read.
        most: u64,
    },
    /// A file does not hold what it should.
    #[error("{file}: {what}: expected {expected}, found {found}")]
    Content {
        /// The file.
        file: String,
        /// The field or line.
        what: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A folder without a vocabulary.
    #[error("{}: no tokenizer: neither vocab.json with merges.txt nor tokenizer.json", path.display())]
    NoVocabulary {
        /// The folder.
        path: PathBuf,
    },
    /// A merge that makes a token which has no id.
    #[error("merges, line {line}: `{token}` is not in the vocabulary")]
    Merge {
        /// Line of the merges, from 1.
        line: usize,
        /// The token.
        token: String,
    },
    /// A start, end, padding or unknown token without an id.
    #[error("the {role} token `{token}` is not in the vocabulary")]
    SpecialToken {
        /// What the token is for.
        role: &'static str,
        /// The token.
        token: String,
    },
    /// A new token that can't be added.
    #[error("the token `{token}` cannot be added: {reason}")]
    NewToken {
        /// The token.
        token: String,
        /// Why not.
        reason: String,
    },
}

impl TokenizerError {
    fn content(file: &str, what: &str, expected: &str, found: impl std::fmt::Display) -> Self {
        let found: String = found.to_string().chars().take(80).collect();
        Self::Content { file: file.to_owned(), what: what.to_owned(), expected: expected.to_owned(), found }
    }
}

/// What fills a caption up to its full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pad {
    /// The end token: Stable Diffusion 1.x.
    End,
    /// The token `!`, id 0: Stable Diffusion 2.x. It is then a special token: an exclamation mark in a caption
    /// gets that id too, as in `transformers`.
    ExclamationMark,
}

/// The special tokens of a tokenizer, with the way each is found in text.
#[derive(Clone, Debug)]
pub struct SpecialTokens {
    /// Begins every caption.
    pub start: AddedToken,
    /// Ends every caption.
    pub end: AddedToken,
    /// Stands for what the vocabulary cannot spell.
    pub unknown: AddedToken,
    /// Fills a caption up.
    pub pad: AddedToken,
}

/// Text to ids.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    bpe: Bpe,
    added: AddedTokens,
    start_id: u32,
    end_id: u32,
    pad_id: u32,
    max_length: usize,
    /// How many ids a new word has, by its first one; those with one are not listed.
    rows: BTreeMap<u32, u32>,
}

impl Tokenizer {
    /// A tokenizer of its parts: the ids of all tokens, the pairs to merge in order, the special tokens, further
    /// added tokens with their ids, and the length that [`Tokenizer::encode`] gives.
    pub fn from_parts(
        vocabulary: HashMap<String, u32>,
        merges: &[(String, String)],
        special: &SpecialTokens,
        added: &[(u32, AddedToken)],
        max_length: usize,
    ) -> Result<Self> {
        let known = |token: &AddedToken| {
            let listed = added.iter().find(|(_, other)| other.content == token.content);
            vocabulary.get(&token.content).copied().or(listed.map(|(id, _)| *id))
        };
        let id_of = |role, token: &AddedToken| {
            known(token).ok_or_else(|| TokenizerError::SpecialToken { role, token: token.content.clone() })
        };
        let (start_id, end_id) = (id_of("start", &special.start)?, id_of("end", &special.end)?);
        let (unknown_id, pad_id) = (id_of("unknown", &special.unknown)?, id_of("padding", &special.pad)?);
        let mut tokens = AddedTokens::default();
        // Later entries of one content replace earlier ones; what a file lists explicitly is last.
        tokens.insert([
            (start_id, special.start.clone()),
            (end_id, special.end.clone()),
            (unknown_id, special.unknown.clone()),
            (pad_id, special.pad.clone()),
        ])?;
        tokens.insert(added.iter().cloned())?;
        let bpe = Bpe::new(vocabulary, merges, unknown_id)?;
        Ok(Self {
            bpe,
            added: tokens,
            start_id,
            end_id,
            pad_id,
            max_length: max_length.max(2),
            rows: BTreeMap::new(),
        })
    }

    /// The ids of `text`, with the start and end tokens, cut or padded to [`Tokenizer::max_length`].
    pub fn encode(&self, text: &str) -> Vec<i64> {
        let mut ids = vec![self.start_id];
        self.tokenize(text, self.max_length - 1, &mut ids);
        ids.push(self.end_id);
        ids.resize(self.max_length, self.pad_id);
        ids.into_iter().map(i64::from).collect()
    }

    /// All ids of `text`, without start, end and padding.
    pub fn tokenize_all(&self, text: &str) -> Vec<i64> {
        let mut ids = Vec::new();
        self.tokenize(text, usize::MAX, &mut ids);
        ids.into_iter().map(i64::from).collect()
    }

    /// How many ids `text` has, without start, end and padding.
    pub fn count(&self, text: &str) -> usize {
        self.tokenize_all(text).len()
    }

    /// Appends the ids of `text` until `ids` holds `most`.
    fn tokenize(&self, text: &str, most: usize, ids: &mut Vec<u32>) {
        for piece in self.added.split(text) {
            match piece {
                added::Piece::Token(id) => {
                    ids.extend(id..id + self.rows.get(&id).copied().unwrap_or(1));
                }
                added::Piece::Text(text) => words::for_each(&text, |word| {
                    self.bpe.encode(word, ids);
                    ids.len() < most
                }),
            }
            if ids.len() >= most {
                ids.truncate(most);
                return;
            }
        }
    }

    /// Adds tokens with new ids at the end of the vocabulary and returns those ids. In captions they are found
    /// whatever their case, before words are split.
    pub fn add_tokens(&mut self, tokens: &[&str]) -> Result<Vec<i64>> {
        let mut new = Vec::with_capacity(tokens.len());
        for (offset, token) in tokens.iter().enumerate() {
            let refuse = |reason: String| TokenizerError::NewToken { token: (*token).to_owned(), reason };
            if token.trim().is_empty() {
                return Err(refuse("it is empty".to_owned()));
            }
            let repeated = tokens[..offset].contains(token);
            if let Some(id) = self.id_of(token).or(repeated.then_some(0)) {
                return Err(refuse(match repeated {
                    true => "it is given twice".to_owned(),
                    false => format!("it exists already, with id {id}"),
                }));
            }
            new.push(((self.vocab_size() + offset) as u32, AddedToken::normalized(token)));
        }
        let ids = new.iter().map(|(id, _)| i64::from(*id)).collect();
        self.added.insert(new)?;
        Ok(ids)
    }

    /// Adds one learned word and returns its id; `whole` finds it only where no letter, digit or underscore is beside
    /// it.
    pub fn add_word(&mut self, word: &str, whole: bool) -> Result<i64> {
        let id = self.add_tokens(&[word])?.first().copied().unwrap_or_default();
        if whole {
            let token = AddedToken { single_word: true, ..AddedToken::normalized(word) };
            self.added.insert([(id as u32, token)])?;
        }
        Ok(id)
    }

    /// Adds new words, each with so many ids in a row (a learned word may have several rows of the table), from `first` or
    /// the end of the vocabulary on, whichever is later. Returns the first id. A word that the vocabulary has already is
    /// refused.
    pub fn add_words(&mut self, words: &[(&str, usize)], first: usize) -> Result<i64> {
        let first = self.vocab_size().max(first);
        let (mut next, mut new) = (first as u64, Vec::with_capacity(words.len()));
        for (index, &(word, rows)) in words.iter().enumerate() {
            let refuse = |reason: String| TokenizerError::NewToken { token: word.to_owned(), reason };
            if word.trim().is_empty() || word.trim() != word {
                return Err(refuse("it is empty or has white space around it".to_owned()));
            }
            if words[..index].iter().any(|(other, _)| other.to_lowercase() == word.to_lowercase()) {
                return Err(refuse("it is given twice".to_owned()));
            }
            let known = [word.to_owned(), format!("{}</w>", word.to_lowercase())];
            if let Some(id) = known.iter().find_map(|word| self.id_of(word)) {
                return Err(refuse(format!(
                    "it exists already, with id {id}; choose a word that is none, such as `<{word}>`"
                )));
            }
            if rows == 0 || rows > self.max_length {
                return Err(refuse(format!(
                    "it would have {rows} ids; a text has room for {}",
                    self.max_length - 2
                )));
            }
            let id = u32::try_from(next).map_err(|_| refuse("there are too many tokens".to_owned()))?;
            new.push((id, AddedToken::normalized(word), rows as u32));
            next += rows as u64;
        }
        self.added.insert(new.iter().map(|(id, token, _)| (*id, token.clone())))?;
        self.rows.extend(new.into_iter().filter(|new| new.2 > 1).map(|(id, _, rows)| (id, rows)));
        Ok(first as i64)
    }

    /// Ids of the vocabulary itself, without added tokens behind it.
    pub fn own_ids(&self) -> usize {
        self.bpe.id_end() as usize
    }

    /// Added tokens with ids behind the vocabulary's, by id.
    pub fn learned_tokens(&self) -> Vec<(String, i64)> {
        let end = self.bpe.id_end();
        let mut tokens: Vec<(String, i64)> = self.added.behind(end).collect();
        tokens.sort_by_key(|(_, id)| *id);
        tokens
    }

    /// The id of a token: an added one, or an entry of the vocabulary (where word ends read `</w>`).
    pub fn id_of(&self, token: &str) -> Option<i64> {
        self.added.id_of(token).or_else(|| self.bpe.id_of(token)).map(i64::from)
    }

    /// The id that begins a caption.
    pub fn start_id(&self) -> i64 {
        i64::from(self.start_id)
    }

    /// The id that ends a caption.
    pub fn end_id(&self) -> i64 {
        i64::from(self.end_id)
    }

    /// The id that fills a caption up.
    pub fn pad_id(&self) -> i64 {
        i64::from(self.pad_id)
    }

    /// Length of what [`Tokenizer::encode`] returns.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// One more than the largest id: the rows that a table of embeddings needs.
    pub fn vocab_size(&self) -> usize {
        let rows = self.rows.iter().map(|(id, rows)| id + rows).max().unwrap_or(0);
        self.bpe.id_end().max(self.added.id_end()).max(rows) as usize
    }
}
