//! An adapter or embedding, described with or without its base.

use std::path::Path;

use scumble_model::files::TensorSource;
use scumble_tensor::Tensor;
use serde::Serialize;

use super::groups::{BlockSummary, TowerSummary, blocks, towers};
use super::measure::ModuleSummary;
use super::quirks::{Clues, quirks};
use super::sizes::own_table;
use crate::adapter::Adapter;
use crate::dialect::family::{FamilyGuess, guess_family, with_file};
use crate::dialect::{Gathered, Leftover, LoadReport, gather};
use crate::error::{AdapterError, Result};
use crate::linalg::matrix::dot;
use crate::parallel;
use crate::table::ModuleTable;

/// The family that an adapter seems to be made for.
#[derive(Clone, Debug, Serialize)]
pub struct FamilyFound {
    /// `sd1`, `sd2` or `sdxl`.
    pub name: &'static str,
    /// In words.
    pub title: String,
    /// What told it, a phrase each.
    pub reasons: Vec<String>,
    /// Tensors that have a place and the right size in the family's published model.
    pub agree: usize,
    /// Tensors that have not.
    pub disagree: usize,
}

/// A learned token.
#[derive(Clone, Debug, Serialize)]
pub struct TokenSummary {
    /// Its text.
    pub token: String,
    /// Rows, so places it takes in a prompt.
    pub rows: usize,
    /// Width for the text encoder.
    pub width: Option<usize>,
    /// Width for SDXL's second text encoder.
    pub width_2: Option<usize>,
    /// Norm of each row.
    pub norms: Vec<f64>,
    /// Numbers that are not finite.
    pub not_finite: usize,
}

/// An adapter in figures.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterContent {
    /// How the file spells it.
    pub dialect: &'static str,
    /// The published family, if it is for one.
    pub family: Option<FamilyFound>,
    /// Whether every tensor of the file is accounted for below.
    pub complete: bool,
    /// Modules whose tensors do not fit each other or the family.
    pub misfits: Vec<Leftover>,
    /// Tensors without a place.
    pub unmatched: Vec<Leftover>,
    /// By tower.
    pub towers: Vec<TowerSummary>,
    /// By block.
    pub blocks: Vec<BlockSummary>,
    /// Frobenius norm of the whole change; none where numbers are not finite.
    pub norm: Option<f64>,
    /// Learned tokens.
    pub tokens: Vec<TokenSummary>,
    /// Modules whose change is exactly zero.
    pub without_effect: Vec<String>,
    /// Tensors with numbers that are not finite: module, part and how many.
    pub not_finite: Vec<(String, String, usize)>,
    /// Traces of old tools.
    pub quirks: Vec<String>,
    /// Every module.
    pub modules: Vec<ModuleSummary>,
}

/// Describes an adapter file; `base` helps where the file is of none of the published families.
pub(super) fn describe(path: &Path, base: Option<&ModuleTable>, threads: usize) -> Result<AdapterContent> {
    let (family, table) = choose_table(path, base)?;
    with_file(path, &table, |dialect, file| {
        let Gathered { adapter, report, order } = gather(dialect, file, &table)?;
        let paths: Vec<(&String, _)> = adapter.modules.iter().collect();
        let modules =
            parallel::map(threads, &paths, &|_| (), |(path, factors)| ModuleSummary::of(path, factors))?;
        let clues = Clues {
            path,
            source: file.source as &dyn TensorSource,
            dialect: report.dialect,
            order,
            modules: &modules,
        };
        let quirks = quirks(&clues);
        content(family, report, &adapter, modules, quirks)
    })
}

/// Reads everything in a file that has a place in the base it seems to be for (see [`describe`]), and says what is
/// left; nothing is refused for its numbers.
pub fn read_unjudged(path: &Path, base: Option<&ModuleTable>) -> Result<(Adapter, LoadReport, ModuleTable)> {
    let (_, table) = choose_table(path, base)?;
    let gathered = with_file(path, &table, |dialect, file| gather(dialect, file, &table))?;
    Ok((gathered.adapter, gathered.report, table))
}

fn content(
    family: Option<FamilyFound>,
    report: LoadReport,
    adapter: &Adapter,
    modules: Vec<ModuleSummary>,
    quirks: Vec<String>,
) -> Result<AdapterContent> {
    let tokens = tokens(adapter)?;
    let in_modules = modules.iter().flat_map(|module| {
        module.not_finite.iter().map(|(part, count)| (module.path.clone(), (*part).to_owned(), *count))
    });
    let in_tokens = tokens.iter().filter(|token| token.not_finite > 0);
    let in_tokens = in_tokens.map(|token| (token.token.clone(), "token".to_owned(), token.not_finite));
    let not_finite = in_modules.chain(in_tokens).collect();
    let squares: Option<f64> = modules.iter().map(|module| module.norm.map(|norm| norm * norm)).sum();
    Ok(AdapterContent {
        dialect: report.dialect,
        family,
        complete: report.is_complete(),
        misfits: report.misfits,
        unmatched: report.unmatched,
        towers: towers(&modules),
        blocks: blocks(&modules),
        norm: squares.map(f64::sqrt),
        tokens,
        without_effect: modules
            .iter()
            .filter(|module| module.is_without_effect())
            .map(|module| module.path.clone())
            .collect(),
        not_finite,
        quirks,
        modules,
    })
}

/// The published family that most of the file agrees with; else the base that was named, if it fits better than the
/// names alone; else a table of the file's own sizes.
fn choose_table(path: &Path, base: Option<&ModuleTable>) -> Result<(Option<FamilyFound>, ModuleTable)> {
    let mut reason = None;
    let guess = match guess_family(path) {
        Ok(guess) => Some(guess),
        Err(AdapterError::UnknownFamily { unread, .. }) => {
            reason = unread;
            None
        }
        Err(error) => return Err(error),
    };
    if let Some(FamilyGuess { family, table, reasons, agree, disagree }) = guess
        && agree >= disagree
    {
        let found = FamilyFound { name: family.name(), title: family.to_string(), reasons, agree, disagree };
        return Ok((Some(found), table));
    }
    let leftover = |table: &ModuleTable| -> Result<(usize, std::cmp::Reverse<usize>)> {
        let gathered = with_file(path, table, |dialect, file| gather(dialect, file, table))?;
        let report = gathered.report;
        Ok((report.misfits.len() + report.unmatched.len(), std::cmp::Reverse(report.modules + report.tokens)))
    };
    let tables: Vec<ModuleTable> = base.cloned().into_iter().chain(own_table(path)?).collect();
    let mut best = None;
    for table in tables {
        let left = leftover(&table)?;
        if best.as_ref().is_none_or(|(least, _)| left < *least) {
            best = Some((left, table));
        }
    }
    match best {
        Some((_, table)) => Ok((None, table)),
        None => Err(AdapterError::UnknownFamily { file: path.into(), unread: reason }),
    }
}

fn tokens(adapter: &Adapter) -> Result<Vec<TokenSummary>> {
    let mut names: Vec<&String> = adapter.tokens.keys().chain(adapter.tokens_2.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|token| {
            let (first, second) = (adapter.tokens.get(token), adapter.tokens_2.get(token));
            let width = |rows: Option<&Tensor>| rows.map(|rows| rows.shape().last());
            let (mut norms, mut not_finite) = (Vec::new(), 0);
            for (index, rows) in [first, second].into_iter().flatten().enumerate() {
                let numbers = rows.to_vec::<f64>()?;
                not_finite += numbers.iter().filter(|value| !value.is_finite()).count();
                if index == 0 {
                    let rows = numbers.chunks(rows.shape().last().max(1));
                    norms.extend(rows.map(|row| dot(row, row).sqrt()));
                }
            }
            Ok(TokenSummary {
                token: token.clone(),
                rows: norms.len(),
                width: width(first),
                width_2: width(second),
                norms,
                not_finite,
            })
        })
        .collect()
}
