//! New words that a model learns: rows behind the text encoder's table (textual inversion, Gal et al. 2022).
//!
//! Only these rows are parameters; the table of the base is not touched, not even copied. How a row begins:
//!
//! ```text
//! dog             the row of a word that is one token of the vocabulary
//! fluffy dog      the rows of the words' tokens in turn over the rows of the new word, at most as many as it has
//! <rand-0.017>    normal, standard deviation 0.017 (plain <rand>: the same)
//! <zero>          zeros
//! ```
//!
//! Norm prior: after an update with rate `lr` a row `e` of length `n` becomes `e / n (n + l (target - n))`,
//! `l = min(1, 100 lr)`. So new words stay as long as old ones, which other words of a prompt can compete with. The target is
//! the median length of the base's rows (about 0.39 in SD1.5; the original tool has 0.4).

use std::collections::BTreeMap;

use scumble_model::text_encoder::TextEncoder;
use scumble_model::tokenizer::Tokenizer;
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Backend, DType, Param, Tensor};

use crate::config::Tokens;
use crate::error::{Result, TrainError};

/// Name of the parameter, in checkpoints and logs.
pub const PARAM: &str = "text_encoder.tokens";

/// Standard deviation of `<rand>`: rows of about 0.47 at CLIP's width.
const RAND: f32 = 0.017;

/// The new words of a run.
pub struct LearnedTokens {
    rows: Param,
    words: Vec<(String, usize)>,
    prior: Option<f64>,
}

impl LearnedTokens {
    /// Adds the words of a configuration to tokenizer and text encoder.
    pub fn add(
        config: &Tokens,
        seed: u64,
        tokenizer: &mut Tokenizer,
        text_encoder: &TextEncoder,
        backend: &dyn Backend,
    ) -> Result<Self> {
        let table = backend.download(&text_encoder.token_embedding().base().value())?.to_dtype(DType::F32)?;
        let (width, known) = (table.shape().last(), table.shape().first());
        let table = table.as_slice::<f32>()?;
        let starts = config.starts()?;
        let mut values = Vec::new();
        for (index, (word, start)) in config.add.iter().zip(&starts).enumerate() {
            let rows = start.rows(word, tokenizer, config.vectors, |row| match row {
                Row::Of(id) => Ok(table
                    .get(id * width..(id + 1) * width)
                    .ok_or_else(|| refuse(word, "the base's table ends before its first word".to_owned()))?
                    .to_vec()),
                Row::Random(deviation, row) => {
                    let name = format!("token init {index}");
                    let values = stream_at(seed, &name, row as u64).randn(width);
                    Ok(values.into_iter().map(|value| value * deviation).collect())
                }
                Row::Zero => Ok(vec![0.0; width]),
            })?;
            values.extend(rows.into_iter().flatten());
        }
        let words: Vec<(&str, usize)> =
            config.add.iter().map(|word| (word.as_str(), config.vectors)).collect();
        // New ids follow the table, which may have more rows than the tokenizer has tokens.
        tokenizer.add_words(&words, known)?;
        let rows = Tensor::from_slice(&values, &[config.add.len() * config.vectors, width])?;
        let prior = config.norm_prior.then(|| config.norm.unwrap_or_else(|| median_norm(table, width)));
        let words = config.add.iter().map(|word| (word.clone(), config.vectors)).collect();
        let learned = Self { rows: Param::trainable(PARAM, backend.upload(&rows)?), words, prior };
        text_encoder.token_embedding().set_added(Some(learned.rows.clone()))?;
        Ok(learned)
    }

    /// The rows `[n, width]` of all words, one after the other.
    pub fn rows(&self) -> &Param {
        &self.rows
    }

    /// Pulls the rows to the usual length, after an update with rate `lr`.
    pub fn after_update(&self, backend: &dyn Backend, lr: f64) -> Result<()> {
        match self.prior {
            Some(target) => pull(backend, &self.rows, (100.0 * lr).min(1.0), target),
            None => Ok(()),
        }
    }

    /// The rows `[n, width]` of each word, host f32.
    pub fn by_word(&self, backend: &dyn Backend) -> Result<BTreeMap<String, Tensor>> {
        let rows = backend.download(&self.rows.value())?;
        let width = rows.shape().last();
        let values = rows.as_slice::<f32>()?;
        let mut at = 0;
        let mut all = BTreeMap::new();
        for (word, count) in &self.words {
            let part = &values[at * width..(at + count) * width];
            all.insert(word.clone(), Tensor::from_slice(part, &[*count, width])?);
            at += count;
        }
        Ok(all)
    }
}

/// `e <- e / |e| (|e| + strength (target - |e|))` for every row; rows of zeros stay.
pub fn pull(backend: &dyn Backend, rows: &Param, strength: f64, target: f64) -> Result<()> {
    let host = backend.download(&rows.value())?;
    let width = host.shape().last().max(1);
    let mut values = host.to_vec::<f32>()?;
    for row in values.chunks_exact_mut(width) {
        let norm = norm(row);
        if norm > 0.0 {
            let factor = ((norm + strength * (target - norm)) / norm) as f32;
            row.iter_mut().for_each(|value| *value *= factor);
        }
    }
    rows.set(backend.upload(&Tensor::from_slice(&values, host.dims())?)?);
    Ok(())
}

fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

fn median_norm(table: &[f32], width: usize) -> f64 {
    let mut norms: Vec<f64> = table.chunks_exact(width.max(1)).map(norm).collect();
    norms.sort_by(f64::total_cmp);
    norms.get(norms.len() / 2).copied().unwrap_or(0.4)
}

/// Where a row's first values come from.
enum Row {
    Of(usize),
    Random(f32, usize),
    Zero,
}

/// How a word begins.
enum Start {
    Words(Vec<String>),
    Random(f32),
    Zero,
}

impl Tokens {
    /// One start for each word.
    fn starts(&self) -> Result<Vec<Start>> {
        let parse = |text: &String| Start::parse(text);
        let starts: Vec<Start> = match self.init.as_slice() {
            [] => self.add.iter().map(|_| Ok(Start::Random(RAND))).collect::<Result<_>>()?,
            [one] => self.add.iter().map(|_| Start::parse(one)).collect::<Result<_>>()?,
            each => each.iter().map(parse).collect::<Result<_>>()?,
        };
        Ok(starts)
    }

    /// Errors when a start can't be read.
    pub(crate) fn check_starts(&self) -> Result<()> {
        self.starts().map(drop)
    }
}

impl Start {
    fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        match text.strip_prefix('<').and_then(|text| text.strip_suffix('>')) {
            Some("zero") => Ok(Start::Zero),
            Some("rand") => Ok(Start::Random(RAND)),
            Some(rest) => {
                let deviation = rest.strip_prefix("rand-").and_then(|number| number.parse::<f32>().ok());
                let deviation = deviation.filter(|d| d.is_finite() && (0.0..=10.0).contains(d));
                deviation.map(Start::Random).ok_or_else(|| start_error(text))
            }
            None if text.is_empty() => Err(start_error(text)),
            None => Ok(Start::Words(text.split_whitespace().map(str::to_owned).collect())),
        }
    }

    fn rows(
        &self,
        word: &str,
        tokenizer: &Tokenizer,
        count: usize,
        mut row: impl FnMut(Row) -> Result<Vec<f32>>,
    ) -> Result<Vec<Vec<f32>>> {
        let ids: Vec<usize> = match self {
            Start::Words(words) => tokens_of(word, words, tokenizer, count)?,
            _ => Vec::new(),
        };
        (0..count)
            .map(|index| match self {
                Start::Words(_) => row(Row::Of(ids[index % ids.len()])),
                Start::Random(deviation) => row(Row::Random(*deviation, index)),
                Start::Zero => row(Row::Zero),
            })
            .collect()
    }
}

fn start_error(text: &str) -> TrainError {
    TrainError::Setting {
        key: "tokens.init".to_owned(),
        value: format!("{text:?}"),
        problem: "is no start of a new word".to_owned(),
        hint: "write a word such as `dog`, several words, `<rand-0.017>` or `<zero>`".to_owned(),
    }
}

/// The tokens of some words, which must not be more than there are rows.
fn tokens_of(word: &str, words: &[String], tokenizer: &Tokenizer, rows: usize) -> Result<Vec<usize>> {
    let tokens = |start: &String| tokenizer.tokenize_all(start).into_iter().map(|id| id as usize);
    let ids: Vec<usize> = words.iter().flat_map(tokens).collect();
    if !ids.is_empty() && ids.len() <= rows {
        return Ok(ids);
    }
    let (start, s) = (words.join(" "), if rows == 1 { "" } else { "s" });
    let what = if words.len() > rows {
        format!("starts as {} words (`{start}`)", words.len())
    } else {
        format!("starts as `{start}`, which is {} tokens of this base,", ids.len())
    };
    Err(refuse(word, format!("{what} but has {rows} row{s}")))
}

fn refuse(word: &str, problem: String) -> TrainError {
    TrainError::Setting {
        key: "tokens.init".to_owned(),
        value: format!("\"{word}\""),
        problem,
        hint: "start it as a common single word such as `dog`, give it as many rows with `tokens.vectors`, or start it as \
               <rand-0.017>"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::reference::ReferenceBackend;

    #[test]
    fn the_norm_prior_pulls_lengths_and_keeps_directions() {
        let rows = Param::trainable("rows", Tensor::from_slice(&[3f32, 4.0, 0.0, 0.0], &[2, 2]).unwrap());
        pull(&ReferenceBackend, &rows, 0.2, 0.4).unwrap();
        let values = rows.value().to_vec::<f32>().unwrap();
        let length = 5.0 + 0.2 * (0.4 - 5.0);
        assert!((values[0] - 0.6 * length).abs() < 1e-6 && (values[1] - 0.8 * length).abs() < 1e-6);
        assert_eq!(values[2..], [0.0, 0.0], "a row without direction stays");
    }

    #[test]
    fn starts_are_read_and_rubbish_is_named() {
        let parse = |text: &str| Start::parse(text);
        assert!(matches!(parse("dog"), Ok(Start::Words(words)) if words == ["dog"]));
        assert!(matches!(parse(" fluffy  dog "), Ok(Start::Words(words)) if words.len() == 2));
        assert!(matches!(parse("<rand-0.5>"), Ok(Start::Random(0.5))));
        assert!(matches!(parse("<rand>"), Ok(Start::Random(RAND))));
        assert!(matches!(parse("<zero>"), Ok(Start::Zero)));
        for text in ["", "<>", "<rand-x>", "<rand-nan>", "<rand--1>", "<one>"] {
            let error = parse(text).err().unwrap();
            assert!(error.to_string().contains("tokens.init") && error.hints().len() == 1, "{error}");
        }
    }
}
