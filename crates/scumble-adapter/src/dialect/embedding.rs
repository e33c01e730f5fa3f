//! Textual inversion files: learned tokens alone.
//!
//! ```text
//! AUTOMATIC1111 .pt     {string_to_token: {"*": 265}, string_to_param: {"*": [n, d]}, name, step, sd_checkpoint, ...}
//! the same, safetensors emb_params [n, d]           SDXL: clip_l [n, 768] and clip_g [n, 1280]
//! diffusers             {token: [d] or [n, d]}, as learned_embeds.bin or .safetensors
//! original .ti.pt       {token: [d]}, several tokens
//! ```
//!
//! Where the file does not say the token, it is the file's name, as its readers take it.

use scumble_model::files::{PickleFile, TensorSource, Value};

use super::encode::Encoded;
use super::{AdapterFile, Dialect, Place, Placement, WriteOptions};
use crate::adapter::Adapter;
use crate::error::{AdapterError, Result};
use crate::table::{ModuleTable, Tower};

/// AUTOMATIC1111's embeddings.
pub(super) struct A1111;
/// diffusers' embeddings.
pub(super) struct LearnedEmbeds;

/// Keys of tensors, and the tower that the rows are for; cog's SDXL trainer has names of its own.
const VECTORS: [(&str, Tower); 5] = [
    ("emb_params", Tower::TextEncoder),
    ("clip_l", Tower::TextEncoder),
    ("clip_g", Tower::TextEncoder2),
    ("text_encoders_0", Tower::TextEncoder),
    ("text_encoders_1", Tower::TextEncoder2),
];
const PARAMS: &str = "string_to_param.";
/// A token's number, which some exporters wrap in a tensor. Readers look the token up themselves.
const NUMBERS: &str = "string_to_token.";

/// More rows than an embedding can have: a prompt has 75 places.
const MAX_ROWS: usize = 1024;
/// More tokens than any file of them has.
const MAX_TOKENS: usize = 4096;

fn file_name(file: &AdapterFile<'_>) -> String {
    let stem = file.path.and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    stem.filter(|stem| !stem.is_empty()).unwrap_or_else(|| "embedding".into())
}

/// The name inside a pickled embedding.
fn pickled_name(file: &AdapterFile<'_>) -> Option<String> {
    let pickle = PickleFile::open(file.path?).ok()?;
    let name = pickle.root().get("name").and_then(Value::as_text)?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

impl Dialect for A1111 {
    fn name(&self) -> &'static str {
        "a1111-embedding"
    }

    fn recognises(&self, source: &dyn TensorSource) -> bool {
        let names = source.names();
        names.iter().any(|name| name.starts_with(PARAMS))
            || (!names.is_empty() && names.iter().all(|name| VECTORS.iter().any(|(known, _)| known == name)))
    }

    fn place(&self, file: &AdapterFile<'_>, _: &ModuleTable) -> Result<Placement> {
        let mut placement = Placement::default();
        let names = file.source.names();
        let params: Vec<&String> = names.iter().filter(|name| name.starts_with(PARAMS)).collect();
        if params.len() > 1 {
            return Err(file.malformed(format!("string_to_param has {} entries, expected one", params.len())));
        }
        let stated = file.source.metadata().get("name").filter(|name| !name.is_empty()).cloned();
        let name = if params.is_empty() { stated } else { pickled_name(file) };
        let name = name.unwrap_or_else(|| file_name(file));
        for key in &names {
            let tower = if key.starts_with(PARAMS) {
                Some(Tower::TextEncoder)
            } else {
                VECTORS.iter().find(|(known, _)| known == key).map(|(_, tower)| *tower)
            };
            let place = match tower {
                Some(tower) => Place::Token(name.clone(), tower),
                None if key.starts_with(NUMBERS) => Place::Known,
                None => continue,
            };
            placement.places.insert(key.clone(), place);
        }
        Ok(placement)
    }

    fn is_structural(&self, key: &str, _value: &str) -> bool {
        key == "name" || key == "format"
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, adapter: &Adapter, _: &ModuleTable, _: &WriteOptions) -> Result<Encoded> {
        let token = only_token(self.name(), adapter)?;
        let mut encoded = Encoded { metadata: adapter.metadata.clone(), ..Encoded::default() };
        encoded.metadata.insert("name".into(), token.clone());
        encoded.metadata.insert("format".into(), "pt".into());
        match (adapter.tokens.get(&token), adapter.tokens_2.get(&token)) {
            (Some(rows), None) => encoded.tensors.push(("emb_params".into(), rows.clone())),
            (first, second) => {
                encoded.tensors.extend(first.map(|rows| ("clip_l".to_owned(), rows.clone())));
                encoded.tensors.extend(second.map(|rows| ("clip_g".to_owned(), rows.clone())));
            }
        }
        Ok(encoded)
    }
}

impl Dialect for LearnedEmbeds {
    fn name(&self) -> &'static str {
        "diffusers-embedding"
    }

    fn recognises(&self, source: &dyn TensorSource) -> bool {
        let names = source.names();
        let is_token = |name: &String| {
            let bracketed = name.starts_with('<') && name.ends_with('>');
            let Some(info) = source.info(name) else { return false };
            let rows_fit = match *info.shape {
                [width] => width > 1,
                [rows, width] => (1..=MAX_ROWS).contains(&rows) && width > 1,
                _ => false,
            };
            // `0` is a position in a list, dots are module paths.
            let named = bracketed || !(name.contains('.') || name.bytes().all(|b| b.is_ascii_digit()));
            info.dtype.is_float() && rows_fit && named && !name.is_empty()
        };
        (1..=MAX_TOKENS).contains(&names.len()) && names.iter().all(is_token)
    }

    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement> {
        let mut placement = Placement::default();
        for key in file.source.names() {
            let width = file.source.info(&key).and_then(|info| info.shape.last().copied());
            let is_second = width.is_some()
                && width != table.width_of(Tower::TextEncoder)
                && width == table.width_of(Tower::TextEncoder2);
            let tower = if is_second { Tower::TextEncoder2 } else { Tower::TextEncoder };
            placement.places.insert(key.clone(), Place::Token(key, tower));
        }
        Ok(placement)
    }

    fn is_structural(&self, key: &str, _value: &str) -> bool {
        key == "format"
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, adapter: &Adapter, _: &ModuleTable, _: &WriteOptions) -> Result<Encoded> {
        let refuse = |reason: String| Err(AdapterError::CannotHold { dialect: self.name(), reason });
        let token = only_token(self.name(), adapter)?;
        let rows = match (adapter.tokens.get(&token), adapter.tokens_2.get(&token)) {
            (Some(rows), None) | (None, Some(rows)) => rows,
            _ => {
                return refuse(
                    "it has one text encoder's rows, and these are for SDXL's two; write a1111-embedding"
                        .into(),
                );
            }
        };
        let rows = match *rows.dims() {
            [1, width] => rows.reshape(&[width])?,
            _ => rows.clone(),
        };
        let mut encoded = Encoded { metadata: adapter.metadata.clone(), ..Encoded::default() };
        encoded.metadata.insert("format".into(), "pt".into());
        encoded.tensors.push((token, rows));
        Ok(encoded)
    }
}

/// The adapter's one token; errors when it has modules, none or several tokens.
fn only_token(dialect: &'static str, adapter: &Adapter) -> Result<String> {
    let refuse = |reason: String| Err(AdapterError::CannotHold { dialect, reason });
    if let Some(path) = adapter.modules.keys().next() {
        return refuse(format!(
            "it holds one learned token and no modules, and this adapter has {} ({path}); `--token` takes a token alone",
            adapter.modules.len()
        ));
    }
    let mut names: Vec<&String> = adapter.tokens.keys().chain(adapter.tokens_2.keys()).collect();
    names.sort();
    names.dedup();
    match names[..] {
        [name] => Ok(name.clone()),
        [] => refuse("the adapter has no learned token".into()),
        _ => refuse(format!(
            "it holds one learned token and there are {}: {}; choose one with `--token`",
            names.len(),
            names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
        )),
    }
}
