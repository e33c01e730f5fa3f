//! The forms of a dialect in torch's container, for the programs of 2022 that read nothing else.
//!
//! ```text
//! original             NAME.pt [up_0, down_0, up_1, ...] of the UNet, NAME.text_encoder.pt likewise, NAME.ti.pt {token: [d]}
//! a1111-embedding      NAME.pt {string_to_token: {"*": 265}, string_to_param: {"*": [n, d]}, name, step, ...}
//! diffusers-embedding  NAME.bin {token: [d] or [n, d]}
//! ```
//!
//! They hold tensors and no metadata. Of a list of factors even the names are left out: what it means is its order, so
//! it is only written where its readers take that order for the same modules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_model::base::checkpoint::write_embedding;
use scumble_model::files::{FileError, TensorInfo, TorchItem, write_torch};
use scumble_tensor::Tensor;

use super::original::{EMBED, Original};
use super::original_list::{TEXT_ENDING, TOKEN_ENDING, ends_with, numbered_name};
use super::{AdapterFile, Dialect, Encoded, MemorySource};
use crate::error::{AdapterError, Result};
use crate::table::{ModuleTable, Tower};

/// What a dialect's files hold in this container.
#[derive(Clone, Copy)]
enum Form {
    /// A tower's factors in their order, and tokens by name, each in a file of its own.
    Lists,
    /// A1111's dictionary around the rows of one word.
    Embedding,
    /// Rows by token.
    Rows,
}

/// Dialects with such a form, and how its files end.
const ENDINGS: [(&str, &str, Form); 3] = [
    ("original", ".pt", Form::Lists),
    ("a1111-embedding", ".pt", Form::Embedding),
    ("diffusers-embedding", ".bin", Form::Rows),
];

/// How files end that readers take for torch's.
const TORCH_ENDINGS: [&str; 4] = [".pt", ".bin", ".pth", ".ckpt"];

/// Whether a file of this name is written in torch's container instead of safetensors.
pub fn is_pickled_name(path: &Path) -> bool {
    TORCH_ENDINGS.iter().any(|ending| ends_with(path, ending))
}

/// How a dialect's pickled files end, if it has any.
pub fn pickled_ending(dialect: &dyn Dialect) -> Option<&'static str> {
    form_of(dialect).map(|(ending, _)| ending)
}

fn form_of(dialect: &dyn Dialect) -> Option<(&'static str, Form)> {
    ENDINGS.iter().find(|(name, ..)| *name == dialect.name()).map(|(_, ending, form)| (*ending, *form))
}

/// The files beside `NAME.pt` that a reader of the original's lists takes as parts of the same adapter.
pub fn companions(path: &Path, dialect: &dyn Dialect) -> Vec<PathBuf> {
    let is_whole = dialect.name() == Original.name() && is_whole(path);
    let endings = if is_whole { &[TEXT_ENDING, TOKEN_ENDING][..] } else { &[] };
    endings.iter().filter_map(|ending| beside(path, ending)).collect()
}

/// A list's name that says neither text encoder nor tokens.
fn is_whole(path: &Path) -> bool {
    ends_with(path, ".pt") && !ends_with(path, TEXT_ENDING) && !ends_with(path, TOKEN_ENDING)
}

/// `NAME.pt` -> `NAME` + `ending`.
fn beside(path: &Path, ending: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(".pt")?;
    Some(path.with_file_name(format!("{name}{ending}")))
}

/// Writes what a dialect made of an adapter; each file whole or not at all.
pub(super) fn save(path: &Path, encoded: &Encoded, table: &ModuleTable, dialect: &dyn Dialect) -> Result<()> {
    let Some((ending, form)) = form_of(dialect) else {
        return Err(wrong_name(path, format!("{} has no pickled form", dialect.name())));
    };
    if !ends_with(path, ending) {
        return Err(wrong_name(path, format!("{} has a pickled form in {ending} only", dialect.name())));
    }
    match form {
        Form::Lists => save_lists(path, encoded, table),
        Form::Embedding => save_embedding(path, encoded),
        Form::Rows => write_items(path, &encoded.tensors, TorchItem::Dict),
    }
}

fn wrong_name(path: &Path, what: String) -> AdapterError {
    AdapterError::Path { path: path.into(), what: format!("{what}; end the name in .safetensors") }
}

fn refuse<T>(dialect: &'static str, reason: String) -> Result<T> {
    Err(AdapterError::CannotHold { dialect, reason })
}

fn save_embedding(path: &Path, encoded: &Encoded) -> Result<()> {
    let [(key, rows)] = &encoded.tensors[..] else {
        return refuse(
            "a1111-embedding",
            "its .pt holds one text encoder's rows, and these are for SDXL's two; write .safetensors".into(),
        );
    };
    if key != "emb_params" {
        return refuse(
            "a1111-embedding",
            format!("its .pt is for the first text encoder, and these are `{key}`; write .safetensors"),
        );
    }
    let name = encoded.metadata.get("name").map(String::as_str).unwrap_or_default();
    Ok(write_embedding(path, name, rows)?)
}

/// What an encoded original consists of.
#[derive(Default)]
struct Lists<'e> {
    towers: BTreeMap<Tower, Vec<&'e Tensor>>,
    tokens: Vec<(String, Tensor)>,
}

impl<'e> Lists<'e> {
    /// Takes the numbered tensors in the order of their numbers; the others are tokens.
    fn of(encoded: &'e Encoded) -> Self {
        let by_key: BTreeMap<&str, &Tensor> =
            encoded.tensors.iter().map(|(key, tensor)| (key.as_str(), tensor)).collect();
        let mut lists = Self::default();
        for tower in Tower::ALL {
            let found = (0..).map_while(|position| by_key.get(numbered_name(tower, position).as_str()));
            let list: Vec<&Tensor> = found.copied().collect();
            if !list.is_empty() {
                lists.towers.insert(tower, list);
            }
        }
        let is_token = |key: &String| encoded.metadata.get(key).is_some_and(|value| value == EMBED);
        lists.tokens = encoded.tensors.iter().filter(|(key, _)| is_token(key)).cloned().collect();
        lists
    }

    /// The files it becomes: which, and a tower's list or the tokens.
    fn files(&self, path: &Path) -> Result<Vec<(PathBuf, Option<Tower>)>> {
        let has = |tower: Tower| self.towers.contains_key(&tower);
        let (unet, text, tokens) = (has(Tower::UNet), has(Tower::TextEncoder), !self.tokens.is_empty());
        let alone = |ending: &str, what: &str, is_alone: bool, tower| match is_alone {
            true => Ok(vec![(path.to_owned(), tower)]),
            false => refuse(
                "original",
                format!("NAME{ending} is for {what} alone, and this adapter is not that; write NAME.pt"),
            ),
        };
        if ends_with(path, TEXT_ENDING) {
            let is_alone = text && !unet && !tokens;
            return alone(TEXT_ENDING, "the text encoder's modules", is_alone, Some(Tower::TextEncoder));
        }
        if ends_with(path, TOKEN_ENDING) {
            return alone(TOKEN_ENDING, "learned tokens", tokens && !unet && !text, None);
        }
        if !unet {
            return refuse(
                "original",
                format!(
                    "NAME.pt is the list of the UNet's factors, and there are none; write the text encoder's to \
                     NAME{TEXT_ENDING}, tokens alone to NAME{TOKEN_ENDING}, or all to .safetensors"
                ),
            );
        }
        let part = |there: bool, ending: &str, tower| Some((beside(path, ending).filter(|_| there)?, tower));
        let parts = [part(text, TEXT_ENDING, Some(Tower::TextEncoder)), part(tokens, TOKEN_ENDING, None)];
        // Last, so that it is never there without its parts.
        Ok(parts.into_iter().flatten().chain([(path.to_owned(), Some(Tower::UNet))]).collect())
    }
}

fn save_lists(path: &Path, encoded: &Encoded, table: &ModuleTable) -> Result<()> {
    check_order(encoded, table)?;
    let lists = Lists::of(encoded);
    let files = lists.files(path)?;
    for companion in companions(path, &Original) {
        if companion.exists() && !files.iter().any(|(file, _)| *file == companion) {
            let what = format!(
                "it would be read as a part of {}, and is of another adapter; remove it or choose another name",
                path.display()
            );
            return Err(AdapterError::Path { path: companion, what });
        }
    }
    for (file, tower) in files {
        match tower.and_then(|tower| lists.towers.get(&tower)) {
            Some(list) => {
                let numbered = list.iter().enumerate().map(|(i, tensor)| (i.to_string(), (*tensor).clone()));
                write_items(&file, &numbered.collect::<Vec<_>>(), |pairs| {
                    TorchItem::List(pairs.into_iter().map(|(_, item)| item).collect())
                })?;
            }
            None => write_items(&file, &lists.tokens, TorchItem::Dict)?,
        }
    }
    Ok(())
}

/// Errors unless the numbers mean the same without the metadata that says which classes were counted.
fn check_order(encoded: &Encoded, table: &ModuleTable) -> Result<()> {
    let mut source = MemorySource { name: "list".into(), ..MemorySource::default() };
    source.tensors.extend(encoded.tensors.iter().cloned());
    source.metadata.clone_from(&encoded.metadata);
    let stated = Original.place(&AdapterFile { source: &source, path: None }, table)?;
    source.metadata.retain(|_, value| value == EMBED);
    let bare = Original.place(&AdapterFile { source: &source, path: None }, table)?;
    match bare.faults.is_empty() && bare.places == stated.places {
        true => Ok(()),
        false => refuse(
            "original",
            "a bare list says nothing but its order, and that of these modules means others to its readers; write .safetensors"
                .into(),
        ),
    }
}

/// Writes one object made of named tensors.
fn write_items(
    path: &Path,
    tensors: &[(String, Tensor)],
    root: impl FnOnce(Vec<(String, TorchItem)>) -> TorchItem,
) -> Result<()> {
    let by_key: BTreeMap<&str, &Tensor> = tensors.iter().map(|(key, t)| (key.as_str(), t)).collect();
    let item = |(key, tensor): &(String, Tensor)| {
        let info = TensorInfo { dtype: tensor.dtype(), shape: tensor.dims().to_vec() };
        (key.clone(), TorchItem::Tensor(key.clone(), info))
    };
    let missing = |key: &str| FileError::MissingTensor { file: path.into(), tensor: key.into() };
    write_torch(path, &root(tensors.iter().map(item).collect()), |key| {
        by_key.get(key).map(|tensor| (*tensor).clone()).ok_or_else(|| missing(key))
    })?;
    Ok(())
}
