//! Normalising text and splitting it into words.
//!
//! A word is an English contraction's ending, a run of letters, one digit, or a run of anything else that is no space.

use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization as _;

/// Start and end token come first: text that spells them, where they are not found as tokens, is one match.
const WORD: &str =
    concat!(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d", r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+");

/// Compiles a pattern of this file; they are constant, and the tests compile each.
fn compiled(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| compiled(WORD));

/// NFC, runs of white space to one space, lower case letter by letter (a final sigma is like any other).
pub(super) fn normalized(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_space = false;
    for c in text.nfc() {
        if !c.is_whitespace() {
            out.extend(c.to_lowercase());
        } else if !in_space {
            out.push(' ');
        }
        in_space = c.is_whitespace();
    }
    out
}

/// Calls `with` for every word of normalised text until it returns false.
pub(super) fn for_each(text: &str, mut with: impl FnMut(&str) -> bool) {
    let Some(words) = WORDS.as_ref() else { return };
    for word in words.find_iter(text) {
        for part in spelled_special(word.as_str()) {
            if !part.is_empty() && !with(part) {
                return;
            }
        }
    }
}

/// The byte-level step splits letters from signs once more, which only matters for a spelled special token.
fn spelled_special(word: &str) -> [&str; 3] {
    let name = word.strip_prefix("<|").and_then(|rest| rest.strip_suffix("|>"));
    match name.filter(|name| name.starts_with(char::is_alphabetic)) {
        Some(name) => ["<|", name, "|>"],
        None => [word, "", ""],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        for_each(&normalized(text), |word| {
            words.push(word.to_owned());
            true
        });
        words
    }

    #[test]
    fn contractions_digits_and_signs_are_words() {
        assert_eq!(words("I'm 42,  isn't\tit?!"), ["i", "'m", "4", "2", ",", "isn", "'t", "it", "?!"]);
        assert_eq!(words("<|ENDOFTEXT|>!!"), ["<|", "endoftext", "|>", "!!"]);
        assert_eq!(words("!!<|endoftext|>"), ["!!<|", "endoftext", "|>"]);
    }

    #[test]
    fn normal_form_is_composed_and_lower() {
        assert_eq!(normalized("  A\u{300}\u{b}\u{2028}ΟΔΟΣ"), " à οδοσ");
    }

    #[test]
    fn splitting_stops_when_told() {
        let mut seen = 0;
        for_each("a b c d", |_| {
            seen += 1;
            seen < 2
        });
        assert_eq!(seen, 2);
    }
}
