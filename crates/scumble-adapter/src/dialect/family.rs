//! Which base an adapter was made for, when nobody says: each family's table is tried and the one that most tensors
//! agree with, in name and size, wins. What told it is said in words.

use std::path::Path;

use scumble_model::files::{TensorSource, open_any};

use super::collect::{agreement, dialect_of};
use super::original::Original;
use super::original_list::{Lists, is_list};
use super::part::Part;
use super::{AdapterFile, Dialect, Place, Placement};
use crate::architecture::Architecture;
use crate::error::{AdapterError, Result};
use crate::table::{ModuleKind, ModuleTable, Tower};

/// A family, its table and what speaks for it.
#[derive(Clone, Debug)]
pub struct FamilyGuess {
    /// The family that fits best.
    pub family: Architecture,
    /// Its modules.
    pub table: ModuleTable,
    /// What the file shows, a phrase each.
    pub reasons: Vec<String>,
    /// Tensors that have a place and the right size in this family.
    pub agree: usize,
    /// Tensors that have not.
    pub disagree: usize,
}

/// Tries every family; an error if no tensor fits any. Nothing but names and sizes is read.
pub fn guess_family(path: &Path) -> Result<FamilyGuess> {
    let mut best: Option<FamilyGuess> = None;
    let mut unread = None;
    for family in Architecture::ALL {
        let table = family.table()?;
        let Agreement { agree, disagree, reasons, unread: reason } = try_table(path, &table)?;
        unread = unread.or(reason);
        let better = best.as_ref().is_none_or(|best| {
            (disagree, std::cmp::Reverse(agree)) < (best.disagree, std::cmp::Reverse(best.agree))
        });
        if agree > 0 && better {
            best = Some(FamilyGuess { family, table, reasons, agree, disagree });
        }
    }
    best.ok_or_else(|| AdapterError::UnknownFamily { file: path.into(), unread })
}

/// How well a file suits a family.
struct Agreement {
    agree: usize,
    disagree: usize,
    reasons: Vec<String>,
    /// Why a module of the family that the file names is not read, if there is one.
    unread: Option<&'static str>,
}

fn try_table(path: &Path, table: &ModuleTable) -> Result<Agreement> {
    with_file(path, table, |dialect, file| {
        let placement = dialect.place(file, table)?;
        let (agree, disagree) = agreement(file, &placement, table);
        let unread = placement.places.values().find_map(|place| match place {
            Place::Unsupported(_, reason) => Some(*reason),
            _ => None,
        });
        Ok(Agreement { agree, disagree, reasons: evidence(file.source, &placement, table), unread })
    })
}

/// Opens an adapter file, with the files that belong to it, and finds its dialect.
pub(crate) fn with_file<T>(
    path: &Path,
    table: &ModuleTable,
    work: impl FnOnce(&dyn Dialect, &AdapterFile<'_>) -> Result<T>,
) -> Result<T> {
    let source = open_any(path)?;
    if is_list(path, &*source) {
        let lists = Lists::gather(path, source, table)?;
        work(&Original, &AdapterFile { source: &lists, path: Some(path) })
    } else {
        let file = AdapterFile { source: &*source, path: Some(path) };
        work(dialect_of(&file)?, &file)
    }
}

/// What tells the families apart, as far as the file has it.
pub(super) fn evidence(source: &dyn TensorSource, placement: &Placement, table: &ModuleTable) -> Vec<String> {
    let mut reasons = Vec::new();
    let factors = || {
        placement.places.iter().filter_map(|(key, place)| match place {
            Place::Factor(path, part) => Some((key, path, *part)),
            _ => None,
        })
    };
    if factors().any(|(_, path, _)| Tower::of(path) == Some(Tower::TextEncoder2)) {
        reasons.push("it changes a second text encoder".to_owned());
    }
    let width = |ending: &str| {
        factors().find_map(|(key, path, part)| {
            let agrees = path.ends_with(ending) && part == Part::Down;
            agrees.then(|| source.info(key)?.shape.get(1).copied())?
        })
    };
    if let Some(width) = width(".attn2.to_k") {
        reasons.push(format!("its cross-attention takes text states {width} wide"));
    }
    let text = factors().filter(|(_, path, _)| Tower::of(path) == Some(Tower::TextEncoder));
    let layers = text
        .filter_map(|(_, path, _)| path.split_once(".layers.")?.1.split('.').next()?.parse::<usize>().ok());
    if let Some(last) = layers.max() {
        let width = table.text_width().unwrap_or_default();
        reasons.push(format!("its text encoder has {} layers, {width} wide in that family", last + 1));
    }
    let depths = factors().filter_map(|(_, path, _)| {
        path.split_once(".transformer_blocks.")?.1.split('.').next()?.parse::<usize>().ok()
    });
    if let Some(deepest @ 1..) = depths.max() {
        reasons.push(format!("its transformers are up to {} blocks deep", deepest + 1));
    }
    let around = factors().find_map(|(key, path, part)| {
        (path.ends_with(".proj_in") && part == Part::Down).then(|| source.info(key))?
    });
    if let Some(info) = around {
        let what = if info.shape.len() == 4 { "convolutions" } else { "linear layers" };
        reasons.push(format!("the layers around its transformers are {what}"));
    }
    for place in placement.places.iter() {
        if let (key, Place::Token(token, _)) = place
            && let Some(width) = source.info(key).and_then(|info| info.shape.last().copied())
        {
            reasons.push(format!("the token {token} is {width} wide"));
            break;
        }
    }
    for entry in ["ss_base_model_version", "modelspec.architecture", "ss_sd_model_name"] {
        if let Some(value) =
            source.metadata().get(entry).filter(|value| !value.is_empty() && *value != "None")
        {
            let value: String = value.chars().filter(|c| !c.is_control()).take(80).collect();
            reasons.push(format!("its metadata says {entry} {value}"));
        }
    }
    reasons
}

/// A name for a table that is not one of the families.
pub fn family_of_table(table: &ModuleTable) -> Option<Architecture> {
    if table.is_sdxl() {
        return Some(Architecture::Sdxl);
    }
    let around = table.modules().iter().find(|module| module.path.ends_with(".proj_in"))?;
    Some(if around.kind == ModuleKind::Linear { Architecture::Sd2 } else { Architecture::Sd1 })
}
