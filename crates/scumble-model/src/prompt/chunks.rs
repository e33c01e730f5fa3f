//! From parts with weights to rows of 77 ids.

use super::parse::Part;
use crate::tokenizer::Tokenizer;

/// How far back from a chunk's end a comma may be for the chunk to end there.
const COMMA_REACH: usize = 20;

/// What text is made of: one id for a piece of a word, several for a learned word of several rows. Those stay together.
pub type Tokens = Vec<Vec<i64>>;

/// One row of ids for the text encoder, and the weight of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Start, words, end, padding: as many as [`Tokenizer::max_length`].
    pub ids: Vec<i64>,
    /// One for each id; 1 for start, end and padding.
    pub weights: Vec<f32>,
}

impl Chunk {
    /// Whether any weight is another than 1.
    pub fn is_weighted(&self) -> bool {
        self.weights.iter().any(|weight| *weight != 1.0)
    }
}

/// The chunks of a prompt, at least one. `tokenize` turns text into ids.
pub fn chunks(tokenizer: &Tokenizer, parts: &[Part], tokenize: impl Fn(&str) -> Tokens) -> Vec<Chunk> {
    let mut builder = Builder {
        tokenizer,
        room: tokenizer.max_length().saturating_sub(2).max(1),
        comma: tokenizer.id_of(",</w>"),
        done: Vec::new(),
        words: Vec::new(),
        last_comma: None,
    };
    for part in parts {
        match part {
            Part::Break => builder.close(),
            Part::Text(text, weight) => {
                for token in tokenize(text) {
                    builder.push(&token, *weight);
                }
            }
        }
    }
    if !builder.words.is_empty() || builder.done.is_empty() {
        builder.close();
    }
    builder.done
}

/// Fills the shorter list up with rows of no words, so that both have as many states.
pub fn level(tokenizer: &Tokenizer, a: &mut Vec<Chunk>, b: &mut Vec<Chunk>) {
    let most = a.len().max(b.len());
    let empty = chunks(tokenizer, &[], |_| Vec::new());
    for list in [a, b] {
        list.extend(empty.iter().cycle().take(most - list.len()).cloned());
    }
}

struct Builder<'a> {
    tokenizer: &'a Tokenizer,
    room: usize,
    comma: Option<i64>,
    done: Vec<Chunk>,
    /// Ids and weights of the chunk under way.
    words: Vec<(i64, f32)>,
    /// How many ids the chunk under way has up to and with its last comma.
    last_comma: Option<usize>,
}

impl Builder<'_> {
    fn push(&mut self, token: &[i64], weight: f32) {
        let is_comma = matches!((token, self.comma), (&[id], Some(comma)) if id == comma);
        if self.words.len() + token.len() > self.room && !self.words.is_empty() {
            let at_comma = self.last_comma.filter(|&end| self.words.len() - end < COMMA_REACH && !is_comma);
            let moved = at_comma.map(|end| self.words.split_off(end)).unwrap_or_default();
            self.close();
            self.words = moved;
        }
        // A learned word of more rows than a chunk has room for cannot be kept together.
        for id in token {
            if self.words.len() == self.room {
                self.close();
            }
            self.words.push((*id, weight));
        }
        if is_comma {
            self.last_comma = Some(self.words.len());
        }
    }

    fn close(&mut self) {
        let words = std::mem::take(&mut self.words);
        self.last_comma = None;
        let mut ids = vec![self.tokenizer.start_id()];
        let mut weights = vec![1.0];
        ids.extend(words.iter().map(|(id, _)| id));
        weights.extend(words.iter().map(|(_, weight)| weight));
        ids.push(self.tokenizer.end_id());
        ids.resize(self.tokenizer.max_length(), self.tokenizer.pad_id());
        weights.resize(ids.len(), 1.0);
        self.done.push(Chunk { ids, weights });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::parse;
    use crate::tokenizer::Pad;

    fn tokenizer() -> Tokenizer {
        Tokenizer::clip(Pad::End).unwrap()
    }

    fn of(prompt: &str) -> Vec<Chunk> {
        let tokenizer = tokenizer();
        let tokenize = |text: &str| tokenizer.tokenize_all(text).into_iter().map(|id| vec![id]).collect();
        chunks(&tokenizer, &parse(prompt), tokenize)
    }

    #[test]
    fn a_short_prompt_is_one_row_as_ever() {
        for prompt in ["", "a photo of a cat", "hello, world!!!"] {
            let chunks = of(prompt);
            assert_eq!(chunks.len(), 1);
            assert_eq!(chunks[0].ids, tokenizer().encode(prompt));
            assert!(!chunks[0].is_weighted());
        }
        let weighted = &of("a (red:1.5) dog")[0];
        assert_eq!(weighted.ids, tokenizer().encode("a red dog"));
        assert_eq!(weighted.weights[..5], [1.0, 1.0, 1.5, 1.0, 1.0]);
    }

    #[test]
    fn long_prompts_and_breaks_make_chunks() {
        let words = |n: usize| "dog ".repeat(n);
        assert_eq!(of(&words(75)).len(), 1);
        let two = of(&words(76));
        assert_eq!(two.len(), 2);
        assert_eq!(two[1].ids, tokenizer().encode("dog"));
        let broken = of("a cat BREAK a dog");
        assert_eq!(broken[0].ids, tokenizer().encode("a cat"));
        assert_eq!(broken[1].ids, tokenizer().encode("a dog"));
        assert_eq!(of("a BREAK").len(), 1);
        assert_eq!(of("BREAK a").len(), 2);
    }

    #[test]
    fn a_chunk_ends_at_a_comma_near_its_end() {
        let near = format!("{}, {}", "dog ".repeat(60), "cat ".repeat(20));
        let chunks = of(&near);
        assert_eq!(chunks[0].ids, tokenizer().encode(&format!("{},", "dog ".repeat(60))));
        assert_eq!(chunks[1].ids, tokenizer().encode(&"cat ".repeat(20)));
        let far = format!("{}, {}", "dog ".repeat(40), "cat ".repeat(50));
        assert_eq!(of(&far)[0].ids[75], tokenizer().encode("cat")[1]);
    }

    #[test]
    fn learned_words_stay_together() {
        let tokenizer = tokenizer();
        let tokenize = |text: &str| match text {
            "x" => vec![vec![50_000, 50_001, 50_002]],
            other => tokenizer.tokenize_all(other).into_iter().map(|id| vec![id]).collect(),
        };
        let parts = [Part::Text("dog ".repeat(73), 1.0), Part::Text("x".to_owned(), 1.2)];
        let two = chunks(&tokenizer, &parts, tokenize);
        assert_eq!(two[1].ids[1..4], [50_000, 50_001, 50_002]);
        assert_eq!(two[1].weights[..5], [1.0, 1.2, 1.2, 1.2, 1.0]);
        let all = |_: &str| vec![(0..200).collect()];
        assert_eq!(chunks(&tokenizer, &[Part::Text("y".to_owned(), 1.0)], all).len(), 3);
    }
}
