//! The full CLIP vocabulary, carried in the program for checkpoints that bring none.
//!
//! Ids: 256 byte letters, the same with `</w>`, the tokens of the first 48,894 merges in order, start, end.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::bpe::byte_letters;
use super::{AddedToken, CLIP_LENGTH, Pad, Result, SpecialTokens, Tokenizer, TokenizerError};

/// OpenAI's merge list (MIT, `assets/clip/LICENSE`).
static MERGES: &[u8] = include_bytes!("../../assets/clip/bpe_simple_vocab_16e6.txt.gz");
/// Merges that CLIP uses; the list goes on.
const USED: usize = 48_894;
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Ids that are no merges: two for each byte, start and end.
const OTHERS: usize = 2 * 256 + 2;

/// Unpacked and built once: both paddings share the tables.
static TOKENIZER: LazyLock<std::result::Result<Tokenizer, String>> =
    LazyLock::new(|| build(USED).map_err(|error| error.to_string()));

impl Tokenizer {
    /// The tokenizer of Stable Diffusion, complete: 49,408 ids, captions of 77.
    pub fn clip(pad: Pad) -> Result<Self> {
        let damaged =
            |error: &String| TokenizerError::content("(in the program)", "vocabulary", "intact", error);
        TOKENIZER.as_ref().map_err(damaged)?.clone().padded(pad)
    }

    /// As [`Tokenizer::clip`] with fewer ids: the first merges only, for text encoders with a smaller table.
    pub fn clip_with_vocabulary(size: usize, pad: Pad) -> Result<Self> {
        match merges_of(size)? {
            USED => Self::clip(pad),
            used => build(used)?.padded(pad),
        }
    }

    fn padded(mut self, pad: Pad) -> Result<Self> {
        if pad == Pad::ExclamationMark {
            let end = (self.end_id, AddedToken::normalized(END));
            self.added.insert([end, (0, AddedToken::exact("!"))])?;
            self.pad_id = 0;
        }
        Ok(self)
    }
}

/// Ids of CLIP's whole vocabulary.
pub(crate) const CLIP_VOCABULARY: usize = OTHERS + USED;

/// Merges of the vocabulary's first `size` ids.
fn merges_of(size: usize) -> Result<usize> {
    size.checked_sub(OTHERS).filter(|&used| used <= USED).ok_or_else(|| {
        let expected = format!("{OTHERS} to {CLIP_VOCABULARY} ids");
        TokenizerError::content("(in the program)", "size of the vocabulary", &expected, size)
    })
}

/// The files of the tokenizer in the program, as a `tokenizer/` folder holds them: names and contents. `size` is the
/// number of ids, as in [`Tokenizer::clip_with_vocabulary`].
pub fn clip_files(size: usize, pad: Pad) -> Result<TokenizerFiles> {
    Ok(files_of(parts(merges_of(size)?)?, pad))
}

/// Names and contents of a `tokenizer/` folder.
pub type TokenizerFiles = [(&'static str, String); 4];

/// The files of a smaller tokenizer: CLIP's first `first` merges and all that it takes to make each of `words` as CLIP
/// makes it, so that these words are the pieces that they are in CLIP. Merges keep their order.
pub fn reduced_clip_files<'w>(
    first: usize,
    words: impl IntoIterator<Item = &'w str>,
    pad: Pad,
) -> Result<TokenizerFiles> {
    let merges = merges()?;
    let ranks: HashMap<(&str, &str), usize> =
        merges.iter().zip(0..).map(|((a, b), rank)| ((a.as_str(), b.as_str()), rank)).collect();
    let mut kept: BTreeSet<usize> = (0..first.min(merges.len())).collect();
    for word in words {
        kept.extend(merges_for(&ranks, word));
    }
    let kept = kept.into_iter().map(|rank| merges[rank].clone()).collect();
    Ok(files_of(with_tokens(kept), pad))
}

/// Ranks of the merges that a word of plain lower-case letters goes through.
fn merges_for(ranks: &HashMap<(&str, &str), usize>, word: &str) -> Vec<usize> {
    let mut pieces: Vec<String> = word.chars().map(String::from).collect();
    if let Some(last) = pieces.last_mut() {
        last.push_str("</w>");
    }
    let mut used = Vec::new();
    let rank_at =
        |pieces: &[String], at: usize| ranks.get(&(pieces[at].as_str(), pieces[at + 1].as_str())).copied();
    while let Some((rank, at)) =
        (1..pieces.len()).filter_map(|next| rank_at(&pieces, next - 1).map(|rank| (rank, next - 1))).min()
    {
        let right = pieces.remove(at + 1);
        pieces[at].push_str(&right);
        used.push(rank);
    }
    used
}

fn files_of((tokens, merges): Parts, pad: Pad) -> TokenizerFiles {
    let vocabulary: serde_json::Map<String, Value> =
        tokens.into_iter().zip(0..).map(|(token, id)| (token, Value::from(id))).collect();
    let lines: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let pad = if pad == Pad::ExclamationMark { "!" } else { END };
    let token = |content: &str| json!({ "content": content, "lstrip": false, "normalized": true, "rstrip": false, "single_word": false });
    let typed = |content: &str| {
        let mut token = token(content);
        token["__type"] = "AddedToken".into();
        token
    };
    let special = json!({
        "bos_token": token(START), "eos_token": token(END), "pad_token": pad, "unk_token": token(END),
    });
    let config = json!({
        "add_prefix_space": false, "bos_token": typed(START), "do_lower_case": true, "eos_token": typed(END),
        "errors": "replace", "model_max_length": CLIP_LENGTH, "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer", "unk_token": typed(END),
    });
    [
        ("vocab.json", Value::Object(vocabulary).to_string()),
        ("merges.txt", format!("#version: 0.2\n{}\n", lines.join("\n"))),
        ("special_tokens_map.json", format!("{special:#}\n")),
        ("tokenizer_config.json", format!("{config:#}\n")),
    ]
}

/// The tokenizer of the first `used` merges.
fn build(used: usize) -> Result<Tokenizer> {
    let (tokens, merges) = parts(used)?;
    let vocabulary: HashMap<String, u32> = tokens.into_iter().zip(0..).collect();
    let special = SpecialTokens {
        start: AddedToken::normalized(START),
        end: AddedToken::exact(END),
        unknown: AddedToken::exact(END),
        pad: AddedToken::exact(END),
    };
    Tokenizer::from_parts(vocabulary, &merges, &special, &[], CLIP_LENGTH)
}

/// Tokens in the order of their ids, and merges in their order.
type Parts = (Vec<String>, Vec<(String, String)>);

/// The vocabulary of the first `used` merges.
fn parts(used: usize) -> Result<Parts> {
    let mut merges = merges()?;
    merges.truncate(used);
    Ok(with_tokens(merges))
}

/// All merges that CLIP uses.
fn merges() -> Result<Vec<(String, String)>> {
    let mut text = String::new();
    let unpacked = flate2::read::GzDecoder::new(MERGES).read_to_string(&mut text);
    unpacked.map_err(|source| TokenizerError::Read { path: "(in the program)".into(), source })?;
    let pair = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    Ok(text.lines().skip(1).take(USED).filter_map(pair).collect())
}

/// Merges with the vocabulary that they make.
fn with_tokens(merges: Vec<(String, String)>) -> Parts {
    let mut letters = byte_letters();
    // Printable bytes come first, in the order of their letters; the others follow from U+0100 on.
    letters.sort_unstable();
    let ends = letters.iter().map(|letter| format!("{letter}</w>"));
    let tokens = letters.iter().map(char::to_string).chain(ends);
    let tokens = tokens.chain(merges.iter().map(|(a, b)| [a.as_str(), b].concat()));
    let tokens = tokens.chain([START.to_owned(), END.to_owned()]).collect();
    (tokens, merges)
}
