//! Learned tokens of adapters into a checkpoint, under names that nothing else has there.

use std::collections::BTreeMap;

use scumble_model::base::checkpoint::{Checkpoint, LearnedToken, Part};
use scumble_tensor::{DType, Tensor};

use crate::adapter::Adapter;
use crate::error::Result;
use crate::merge::tokens::{Tokens, free_name, gather};
use crate::merge::{Input, Mode, Renamed};

/// Adds the tokens of all inputs; those that the checkpoint has already with the same rows are left as they are. Gives
/// the names they have there, and the ones that are new names.
pub(super) fn add(checkpoint: &mut Checkpoint, inputs: &[Input<'_>]) -> Result<(Vec<String>, Vec<Renamed>)> {
    let Tokens { adapter, mut renamed } = gather(inputs, Mode::Exact)?;
    let mut added = Vec::new();
    for name in names(&adapter) {
        let rows = rows(&adapter, &name)?;
        let mut to = name.clone();
        if let Some(there) = checkpoint.learned_token(&name)? {
            if same(&there.rows, &rows)? {
                continue;
            }
            let taken: Vec<String> = checkpoint.learned_tokens().into_iter().map(str::to_owned).collect();
            to = free_name(&name, |new| taken.iter().any(|t| t == new) || rows_exist(&adapter, new));
            note(&mut renamed, inputs, &name, &to);
        }
        checkpoint.add_token(LearnedToken { name: to.clone(), rows })?;
        added.push(to);
    }
    Ok((added, renamed))
}

/// The names of the inputs' tokens that the checkpoint has with these rows.
pub(super) fn there(checkpoint: &Checkpoint, inputs: &[Input<'_>]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for input in inputs {
        for name in names(input.adapter) {
            if checkpoint.learned_token(&name)?.is_some() && !found.contains(&name) {
                found.push(name);
            }
        }
    }
    Ok(found)
}

fn names(adapter: &Adapter) -> Vec<String> {
    let mut names: Vec<String> = adapter.tokens.keys().chain(adapter.tokens_2.keys()).cloned().collect();
    names.sort();
    names.dedup();
    names
}

fn rows_exist(adapter: &Adapter, name: &str) -> bool {
    adapter.tokens.contains_key(name) || adapter.tokens_2.contains_key(name)
}

/// A token's rows `[n, width]` by text encoder.
fn rows(adapter: &Adapter, name: &str) -> Result<BTreeMap<Part, Tensor>> {
    let mut rows = BTreeMap::new();
    for (part, tokens) in [(Part::TextEncoder, &adapter.tokens), (Part::TextEncoder2, &adapter.tokens_2)] {
        if let Some(tensor) = tokens.get(name) {
            let width = tensor.shape().last();
            rows.insert(part, tensor.reshape(&[tensor.numel() / width.max(1), width])?);
        }
    }
    Ok(rows)
}

/// Whether rows are those that the checkpoint would store.
fn same(there: &BTreeMap<Part, Tensor>, new: &BTreeMap<Part, Tensor>) -> Result<bool> {
    if there.len() != new.len() {
        return Ok(false);
    }
    for (part, rows) in new {
        let Some(stored) = there.get(part).filter(|stored| stored.dims() == rows.dims()) else {
            return Ok(false);
        };
        let rounded = rows.to_dtype(DType::F32)?.to_dtype(stored.dtype())?;
        if rounded.bytes()? != stored.bytes()? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Notes that a token has another name in the end; one that was renamed before keeps the name it came with.
fn note(renamed: &mut Vec<Renamed>, inputs: &[Input<'_>], from: &str, to: &str) {
    if let Some(earlier) = renamed.iter_mut().find(|renamed| renamed.to == from) {
        earlier.to = to.to_owned();
        return;
    }
    let input = inputs.iter().position(|input| rows_exist(input.adapter, from)).unwrap_or(0);
    renamed.push(Renamed { input, from: from.to_owned(), to: to.to_owned() });
}
