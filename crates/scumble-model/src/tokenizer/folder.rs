//! A model's `tokenizer/` folder.
//!
//! * `vocab.json` and `merges.txt`, or `tokenizer.json`, which has both inside: ids and merges.
//! * `tokenizer_config.json`, `special_tokens_map.json`: special tokens and the length. Where the configuration lists
//!   all added tokens (`added_tokens_decoder`) the map is not read; otherwise the map wins. Stable Diffusion 2's
//!   folders need that: their configuration names another padding than their map.
//! * `added_tokens.json`: learned tokens of older folders.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::bpe::MAX_ID;
use super::{AddedToken, CLIP_LENGTH, Result, SpecialTokens, Tokenizer, TokenizerError, TokenizerFiles};

/// Larger files are refused unread; the largest known is 4 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Lengths above this mean "no limit", which some configurations write as 1e30.
const MAX_LENGTH: f64 = 65_536.0;

type Merges = Vec<(String, String)>;

impl Tokenizer {
    /// The tokenizer of a folder.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        Self::from_source(Source::Folder(folder))
    }

    /// The tokenizer that a folder with these files would have.
    pub fn from_files(files: &TokenizerFiles) -> Result<Self> {
        Self::from_source(Source::Memory(files))
    }

    fn from_source(folder: Source<'_>) -> Result<Self> {
        let config = object(folder, "tokenizer_config.json")?.unwrap_or_default();
        let whole = object(folder, "tokenizer.json")?;
        let (vocabulary, merges) = vocabulary_and_merges(folder, whole.as_ref())?;
        let listed = config.contains_key("added_tokens_decoder");
        let map = if listed { None } else { object(folder, "special_tokens_map.json")? };
        let special = special_tokens(&config, &map.unwrap_or_default())?;
        let added = match (listed, whole) {
            (true, _) => added_tokens_decoder(&config)?,
            (false, Some(whole)) => added_tokens_list(&whole)?,
            (false, None) => {
                // This map has no flags: a special token keeps its own.
                let own = [&special.start, &special.end, &special.unknown, &special.pad];
                let is_own = |token: &AddedToken| own.iter().any(|special| special.content == token.content);
                let mut added = added_tokens_map(folder)?;
                added.retain(|(_, token)| !is_own(token) || !vocabulary.contains_key(&token.content));
                added
            }
        };
        Self::from_parts(vocabulary, &merges, &special, &added, max_length(&config)?)
    }
}

/// Where the files are.
#[derive(Clone, Copy)]
enum Source<'a> {
    Folder(&'a Path),
    Memory(&'a TokenizerFiles),
}

impl Source<'_> {
    /// For messages.
    fn path(self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.to_owned(),
            Self::Memory(_) => "(in the program)".into(),
        }
    }

    /// A text file; `None` when there is none.
    fn text(self, name: &str) -> Result<Option<String>> {
        match self {
            Self::Folder(folder) => text(&folder.join(name)),
            Self::Memory(files) => {
                Ok(files.iter().find(|(other, _)| *other == name).map(|(_, text)| text.clone()))
            }
        }
    }
}

fn max_length(config: &Map<String, Value>) -> Result<usize> {
    let Some(value) = config.get("model_max_length").filter(|value| !value.is_null()) else {
        return Ok(CLIP_LENGTH);
    };
    match value.as_f64() {
        Some(length) if length > MAX_LENGTH => Ok(CLIP_LENGTH),
        Some(length) if length >= 2.0 && length.fract() == 0.0 => Ok(length as usize),
        _ => {
            let expected = "a whole number from 2";
            Err(TokenizerError::content("tokenizer_config.json", "model_max_length", expected, value))
        }
    }
}

fn vocabulary_and_merges(
    folder: Source<'_>,
    whole: Option<&Map<String, Value>>,
) -> Result<(HashMap<String, u32>, Merges)> {
    if let Some(vocabulary) = object(folder, "vocab.json")? {
        let missing = || TokenizerError::NoVocabulary { path: folder.path() };
        let merges = folder.text("merges.txt")?.ok_or_else(missing)?;
        return Ok((ids(&vocabulary, "vocab.json")?, merge_lines(&merges)?));
    }
    let Some(whole) = whole else { return Err(TokenizerError::NoVocabulary { path: folder.path() }) };
    let model = whole.get("model");
    let part = |name: &str| model.and_then(|model| model.get(name));
    let wrong = |what: &str, expected: &str| {
        TokenizerError::content("tokenizer.json", what, expected, "something else or nothing")
    };
    let vocabulary =
        part("vocab").and_then(Value::as_object).ok_or_else(|| wrong("model.vocab", "an object"))?;
    let list = part("merges").and_then(Value::as_array).ok_or_else(|| wrong("model.merges", "a list"))?;
    // Older files write a merge as "a b", newer ones as ["a", "b"].
    let merge = |merge: &Value| match merge {
        Value::String(line) => line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(a), Value::String(b)] => Some((a.clone(), b.clone())),
            _ => None,
        },
        _ => None,
    };
    let merges: Option<Merges> = list.iter().map(merge).collect();
    Ok((ids(vocabulary, "tokenizer.json")?, merges.ok_or_else(|| wrong("model.merges", "pairs of tokens"))?))
}

fn ids(vocabulary: &Map<String, Value>, file: &str) -> Result<HashMap<String, u32>> {
    let entry = |(token, id): (&String, &Value)| Ok((token.clone(), checked_id(id, token, file)?));
    vocabulary.iter().map(entry).collect()
}

fn checked_id(value: &Value, token: &str, file: &str) -> Result<u32> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| id < MAX_ID);
    let expected = format!("a whole number below {MAX_ID}");
    let what: String = token.chars().take(60).collect();
    id.ok_or_else(|| TokenizerError::content(file, &format!("id of `{what}`"), &expected, value))
}

fn merge_lines(text: &str) -> Result<Merges> {
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with("#version") {
            continue;
        }
        let pair = line.split_once(' ').filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(' '));
        let Some((a, b)) = pair else {
            let what = format!("line {}", number + 1);
            return Err(TokenizerError::content(
                "merges.txt",
                &what,
                "two tokens with a space between",
                line,
            ));
        };
        merges.push((a.to_owned(), b.to_owned()));
    }
    Ok(merges)
}

fn special_tokens(config: &Map<String, Value>, map: &Map<String, Value>) -> Result<SpecialTokens> {
    let token = |field: &str, default: &str| -> Result<AddedToken> {
        let value =
            [map, config].into_iter().find_map(|file| file.get(field).filter(|value| !value.is_null()));
        value.map_or_else(|| Ok(AddedToken::exact(default)), |value| added_token(value, field))
    };
    Ok(SpecialTokens {
        start: token("bos_token", "<|startoftext|>")?,
        end: token("eos_token", "<|endoftext|>")?,
        unknown: token("unk_token", "<|endoftext|>")?,
        pad: token("pad_token", "<|endoftext|>")?,
    })
}

/// A token as files write it: its text, or an object with the text and how it is found.
fn added_token(value: &Value, what: &str) -> Result<AddedToken> {
    if let Some(content) = value.as_str() {
        return Ok(AddedToken::exact(content));
    }
    let Some(content) = value.get("content").and_then(Value::as_str) else {
        let expected = "a token's text, or an object with `content`";
        return Err(TokenizerError::content("tokenizer configuration", what, expected, value));
    };
    let flag = |name: &str, default: bool| value.get(name).and_then(Value::as_bool).unwrap_or(default);
    Ok(AddedToken {
        content: content.to_owned(),
        normalized: flag("normalized", !flag("special", false)),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        single_word: flag("single_word", false),
    })
}

fn added_tokens_decoder(config: &Map<String, Value>) -> Result<Vec<(u32, AddedToken)>> {
    let file = "tokenizer_config.json";
    let Some(list) = config.get("added_tokens_decoder").and_then(Value::as_object) else {
        let found = "something else";
        return Err(TokenizerError::content(file, "added_tokens_decoder", "an object", found));
    };
    let entry = |(id, token): (&String, &Value)| {
        let number = id.parse::<u32>().map_or(Value::Null, Value::from);
        Ok((checked_id(&number, id, file)?, added_token(token, "added_tokens_decoder")?))
    };
    list.iter().map(entry).collect()
}

fn added_tokens_list(whole: &Map<String, Value>) -> Result<Vec<(u32, AddedToken)>> {
    let list = whole.get("added_tokens").and_then(Value::as_array);
    let entry = |token: &Value| {
        let id = checked_id(token.get("id").unwrap_or(&Value::Null), "an added token", "tokenizer.json")?;
        Ok((id, added_token(token, "added_tokens")?))
    };
    list.into_iter().flatten().map(entry).collect()
}

fn added_tokens_map(folder: Source<'_>) -> Result<Vec<(u32, AddedToken)>> {
    let file = "added_tokens.json";
    let list = object(folder, file)?.unwrap_or_default();
    let entry =
        |(token, id): (&String, &Value)| Ok((checked_id(id, token, file)?, AddedToken::normalized(token)));
    list.iter().map(entry).collect()
}

/// A file that must hold a JSON object; `None` when there is no such file.
fn object(folder: Source<'_>, name: &str) -> Result<Option<Map<String, Value>>> {
    let Some(text) = folder.text(name)? else { return Ok(None) };
    let file = folder.path().join(name).display().to_string();
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| TokenizerError::content(&file, "content", "valid JSON", error))?;
    match value {
        Value::Object(object) => Ok(Some(object)),
        _ => Err(TokenizerError::content(&file, "content", "an object", "something else")),
    }
}

/// A text file; `None` when there is none. Refuses what no tokenizer file is.
fn text(path: &Path) -> Result<Option<String>> {
    let read = |source| TokenizerError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    let bytes = file.metadata().map_err(read)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(TokenizerError::TooLarge { path: path.to_owned(), bytes, most: MAX_FILE_BYTES });
    }
    let mut text = String::new();
    // A pipe or device has no length; the reading is bounded too.
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(read)?;
    Ok(Some(text))
}
