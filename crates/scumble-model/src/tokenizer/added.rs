//! Tokens that are found in the text as they are, before it is split into words: special ones and learned ones.
//!
//! A token is looked for either in the text as written or in the normalised text, then whatever its case. Among
//! those that begin at one place the longest wins.

use std::borrow::Cow;
use std::collections::BTreeMap;

use regex::Regex;

use super::bpe::MAX_ID;
use super::{Result, TokenizerError, words};

/// The most added tokens, and the longest: learned tokens are a few short names.
const MAX_TOKENS: usize = 10_000;
const MAX_TOKEN_BYTES: usize = 1024;

/// A token and how it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// The text it stands for.
    pub content: String,
    /// Looked for in the normalised text.
    pub normalized: bool,
    /// Takes the white space before it along.
    pub lstrip: bool,
    /// Takes the white space after it along.
    pub rstrip: bool,
    /// Found only where no letter, digit or underscore is beside it.
    pub single_word: bool,
}

impl AddedToken {
    /// A learned token: found in the normalised text.
    pub fn normalized(content: &str) -> Self {
        Self { normalized: true, ..Self::exact(content) }
    }

    /// A special token: found as written only.
    pub fn exact(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            normalized: false,
            lstrip: false,
            rstrip: false,
            single_word: false,
        }
    }
}

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    /// An added token.
    Token(u32),
    /// Normalised text without any.
    Text(Cow<'a, str>),
}

/// Tokens of one kind and the pattern that finds them.
#[derive(Clone, Debug, Default)]
struct Finder {
    pattern: Option<Regex>,
    /// By the text that the pattern finds.
    tokens: BTreeMap<String, (u32, AddedToken)>,
}

/// All added tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct AddedTokens {
    by_content: BTreeMap<String, (u32, AddedToken)>,
    exact: Finder,
    normalized: Finder,
}

impl AddedTokens {
    /// Adds tokens; a content that is there already is replaced.
    pub(super) fn insert(&mut self, tokens: impl IntoIterator<Item = (u32, AddedToken)>) -> Result<()> {
        for (id, token) in tokens {
            let problem = match () {
                () if id >= MAX_ID => Some(format!("its id {id} is too large")),
                () if token.content.is_empty() => Some("it is empty".to_owned()),
                () if token.content.len() > MAX_TOKEN_BYTES => Some("it is too long".to_owned()),
                () if self.by_content.len() >= MAX_TOKENS => Some("there are too many".to_owned()),
                () => None,
            };
            if let Some(reason) = problem {
                let token = token.content.chars().take(60).collect();
                return Err(TokenizerError::NewToken { token, reason });
            }
            self.by_content.insert(token.content.clone(), (id, token));
        }
        let of_kind = |normalized: bool| {
            let tokens = self.by_content.values().filter(move |(_, token)| token.normalized == normalized);
            Finder::new(tokens.cloned().map(|(id, token)| {
                let text = if normalized { words::normalized(&token.content) } else { token.content.clone() };
                (text, (id, token))
            }))
        };
        (self.exact, self.normalized) = (of_kind(false)?, of_kind(true)?);
        Ok(())
    }

    pub(super) fn id_of(&self, content: &str) -> Option<u32> {
        self.by_content.get(content).map(|(id, _)| *id)
    }

    /// Tokens with ids from `start` on.
    pub(super) fn behind(&self, start: u32) -> impl Iterator<Item = (String, i64)> {
        let tokens = self.by_content.iter().filter(move |(_, (id, _))| *id >= start);
        tokens.map(|(content, (id, _))| (content.clone(), i64::from(*id)))
    }

    /// One more than the largest id.
    pub(super) fn id_end(&self) -> u32 {
        self.by_content.values().map(|(id, _)| id + 1).max().unwrap_or(0)
    }

    /// The text in pieces, in order, as they are asked for.
    pub(super) fn split<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Piece<'a>> {
        self.exact.split(text).into_iter().flat_map(|piece| match piece {
            Found::Token(id) => vec![Piece::Token(id)],
            Found::Text(text) => {
                let text = words::normalized(text);
                let piece = |found| match found {
                    Found::Token(id) => Piece::Token(id),
                    Found::Text(text) => Piece::Text(Cow::Owned(text.to_owned())),
                };
                self.normalized.split(&text).into_iter().map(piece).collect()
            }
        })
    }
}

enum Found<'a> {
    Token(u32),
    Text(&'a str),
}

impl Finder {
    fn new(tokens: impl Iterator<Item = (String, (u32, AddedToken))>) -> Result<Self> {
        let tokens: BTreeMap<_, _> = tokens.filter(|(text, _)| !text.is_empty()).collect();
        let mut texts: Vec<&String> = tokens.keys().collect();
        if texts.is_empty() {
            return Ok(Self::default());
        }
        // The pattern takes the first alternative that fits, so the longest come first.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let alternatives: Vec<String> = texts.iter().map(|text| regex::escape(text)).collect();
        let pattern = Regex::new(&alternatives.join("|")).map_err(|error| TokenizerError::NewToken {
            token: format!("{} tokens", tokens.len()),
            reason: error.to_string(),
        })?;
        Ok(Self { pattern: Some(pattern), tokens })
    }

    fn split<'a>(&self, text: &'a str) -> Vec<Found<'a>> {
        let mut pieces = Vec::new();
        let mut done = 0;
        for found in self.pattern.iter().flat_map(|pattern| pattern.find_iter(text)) {
            let Some((id, token)) = self.tokens.get(found.as_str()) else { continue };
            let (before, after) = (&text[..found.start()], &text[found.end()..]);
            if found.start() < done || (token.single_word && inside_word(before, after)) {
                continue;
            }
            let start = if token.lstrip { before.trim_end().len().max(done) } else { found.start() };
            let end = match token.rstrip {
                true => text.len() - after.trim_start().len(),
                false => found.end(),
            };
            if done < start {
                pieces.push(Found::Text(&text[done..start]));
            }
            pieces.push(Found::Token(*id));
            done = end;
        }
        if done < text.len() {
            pieces.push(Found::Text(&text[done..]));
        }
        pieces
    }
}

/// Whether a letter, digit or underscore stands right before or after.
fn inside_word(before: &str, after: &str) -> bool {
    let of_word = |c: char| c.is_alphanumeric() || c == '_';
    before.ends_with(of_word) || after.starts_with(of_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(tokens: &[AddedToken], text: &str) -> Vec<String> {
        let mut added = AddedTokens::default();
        added.insert((100..).zip(tokens.iter().cloned())).unwrap();
        let show = |piece| match piece {
            Piece::Token(id) => id.to_string(),
            Piece::Text(text) => text.into_owned(),
        };
        added.split(text).map(show).collect()
    }

    #[test]
    fn the_longest_token_wins_and_case_matters_for_exact_ones_only() {
        let tokens =
            [AddedToken::normalized("<S1>"), AddedToken::normalized("<s1>x"), AddedToken::exact("End")];
        assert_eq!(pieces(&tokens, "a <s1>xb<S1>End end"), ["a ", "101", "b", "100", "102", " end"]);
        assert_eq!(pieces(&[], "A B"), ["a b"]);
    }

    #[test]
    fn stripping_and_single_words() {
        let strip = AddedToken { lstrip: true, rstrip: true, ..AddedToken::exact("T") };
        assert_eq!(pieces(&[strip], "a  T  T b"), ["a", "100", "100", "b"]);
        let single = AddedToken { single_word: true, ..AddedToken::exact("sks") };
        assert_eq!(pieces(&[single], "sksy sks, _sks"), ["sksy ", "100", ", _sks"]);
    }

    #[test]
    fn hostile_lists_are_refused() {
        let mut added = AddedTokens::default();
        assert!(added.insert([(u32::MAX, AddedToken::exact("a"))]).is_err());
        assert!(added.insert([(1, AddedToken::exact(""))]).is_err());
        assert!(added.insert([(1, AddedToken::exact(&"a".repeat(2000)))]).is_err());
        assert!(added.insert((0..20_000).map(|i| (i, AddedToken::exact(&i.to_string())))).is_err());
    }
}
