//! What will happen when an adapter is put on a certain base.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::dialect::family::with_file;
use crate::dialect::{Leftover, gather};
use crate::error::Result;
use crate::table::{ModuleTable, Tower};

/// The account of an adapter on a base.
#[derive(Clone, Debug, Serialize)]
pub struct Fit {
    /// The base as the user named it.
    pub base: String,
    /// Whether everything in the file finds its place.
    pub fits_whole: bool,
    /// Modules of the base that are changed, by tower: how many, of how many it has.
    pub towers: BTreeMap<&'static str, (usize, usize)>,
    /// Modules whose sizes are wrong, each with the reason.
    pub misfits: Vec<Leftover>,
    /// Tensors that belong to no module of the base.
    pub unmatched: Vec<Leftover>,
    /// What the file seems to be made for instead.
    pub guess: Option<String>,
    /// Learned tokens that fit.
    pub new_tokens: Vec<String>,
    /// Learned tokens whose names the base's tokenizer already has as one token: their rows would be replaced.
    pub known_tokens: Vec<String>,
}

/// A base to look at an adapter with.
pub struct BaseView<'a> {
    /// As the user named it.
    pub name: &'a str,
    /// Its modules.
    pub table: &'a ModuleTable,
    /// Whether its tokenizer has a text as one token.
    pub knows_token: &'a dyn Fn(&str) -> bool,
}

/// Tries the file on the base.
pub fn fit(path: &Path, base: &BaseView<'_>) -> Result<Fit> {
    let gathered = with_file(path, base.table, |dialect, file| gather(dialect, file, base.table))?;
    let (adapter, report) = (gathered.adapter, gathered.report);
    let towers = Tower::ALL.into_iter().filter_map(|tower| {
        let changed = adapter.paths_of(tower).count();
        let modules = base.table.tower(tower).count();
        (modules > 0).then_some((tower.prefix(), (changed, modules)))
    });
    let mut tokens: Vec<&String> = adapter.tokens.keys().chain(adapter.tokens_2.keys()).collect();
    tokens.sort();
    tokens.dedup();
    let (known, new): (Vec<&String>, Vec<&String>) =
        tokens.into_iter().partition(|token| (base.knows_token)(token.as_str()));
    Ok(Fit {
        base: base.name.into(),
        fits_whole: report.is_complete() && !adapter.is_empty(),
        towers: towers.collect(),
        misfits: report.misfits,
        unmatched: report.unmatched,
        guess: report.guess,
        new_tokens: new.into_iter().cloned().collect(),
        known_tokens: known.into_iter().cloned().collect(),
    })
}
