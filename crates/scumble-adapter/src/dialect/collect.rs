//! From placed tensors to an adapter: kinds, ranks, shapes, finite values; every key used or named.

use std::collections::BTreeMap;

use scumble_model::files::TensorSource;
use scumble_tensor::Tensor;

use super::assemble::Parts;
use super::part::Part;
use super::report::{Leftover, LoadReport};
use super::spelling::{self, Spelling};
use super::{AdapterFile, DIALECTS, Dialect, Place, Placement, ReadOptions, detect, guess, names_of};
use crate::adapter::{Adapter, ModuleFactors};
use crate::error::{AdapterError, Result};
use crate::positional::Generation;
use crate::table::{Module, ModuleTable, Tower};

/// A thousand rows of the widest text states.
const MAX_TOKEN_ELEMENTS: usize = 1 << 21;

/// Keys of one module's parts.
#[derive(Default)]
struct Keys {
    parts: BTreeMap<Part, String>,
    fault: Option<String>,
}

/// Reads an opened file: finds its dialect, places its tensors in the base's modules and checks all of it.
pub fn read_source(
    file: &AdapterFile<'_>,
    table: &ModuleTable,
    options: ReadOptions,
) -> Result<(Adapter, LoadReport)> {
    read_as(dialect_of(file)?, file, table, options)
}

/// The dialect of an opened file, or an error that says how it begins.
pub(super) fn dialect_of(file: &AdapterFile<'_>) -> Result<&'static dyn Dialect> {
    let keys = file.source.names();
    detect(file.source).ok_or_else(|| AdapterError::UnknownDialect {
        file: file.source.describe(),
        known: names_of(&DIALECTS),
        examples: match &keys[..keys.len().min(3)] {
            [] => "holds no tensors".to_owned(),
            first => {
                let first: Vec<String> = first.iter().map(|key| format!("{key:?}")).collect();
                format!("begins with the tensors {}", first.join(", "))
            }
        },
    })
}

/// As [`read_source`], for a file whose dialect is known.
pub fn read_as(
    dialect: &dyn Dialect,
    file: &AdapterFile<'_>,
    table: &ModuleTable,
    options: ReadOptions,
) -> Result<(Adapter, LoadReport)> {
    let Gathered { adapter, report, .. } = gather(dialect, file, table)?;
    if (!report.is_complete() && !options.partial) || adapter.is_empty() {
        return Err(AdapterError::Unmatched { file: file.source.describe(), report: Box::new(report) });
    }
    adapter.check_finite()?;
    Ok((adapter, report))
}

/// What a file holds, unjudged.
pub(crate) struct Gathered {
    /// What fits the table, whatever its numbers.
    pub adapter: Adapter,
    /// The account of the rest.
    pub report: LoadReport,
    /// The order inside transformer blocks that numbers turned out to have.
    pub order: Option<Generation>,
}

/// Takes everything that fits: neither leftovers nor numbers that are not finite are an error here.
pub(crate) fn gather(dialect: &dyn Dialect, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Gathered> {
    let placement = dialect.place(file, table)?;
    let misfits = placement.faults.clone();
    let mut report = LoadReport { dialect: dialect.name(), misfits, ..LoadReport::default() };
    let mut adapter = Adapter { metadata: travelling_metadata(dialect, file.source), ..Adapter::default() };
    let mut spelling = Spelling::of(file.source.metadata());
    dialect.note(file, &placement, table, &mut spelling);
    adapter.metadata.remove(spelling::KEY);
    let mut modules: BTreeMap<&str, Keys> = BTreeMap::new();
    for key in file.source.names() {
        match placement.places.get(&key) {
            Some(Place::Factor(path, part)) => {
                let keys = modules.entry(path).or_default();
                if let Some(other) = keys.parts.insert(*part, key.clone()) {
                    keys.fault = Some(format!("`{other}` and `{key}` are both for this module"));
                }
            }
            Some(Place::Unsupported(path, reason)) => {
                modules.entry(path).or_default().fault = Some(format!("`{key}`: {reason}"));
            }
            Some(Place::Token(token, tower)) => {
                let rows = token_rows(file, &key)?;
                match misfit_of_token(&rows, *tower, table) {
                    Some(reason) => report.misfits.push(Leftover { name: token.clone(), reason }),
                    None => {
                        let tokens = match tower {
                            Tower::TextEncoder2 => &mut adapter.tokens_2,
                            _ => &mut adapter.tokens,
                        };
                        tokens.insert(token.clone(), rows);
                    }
                }
            }
            Some(Place::Known) => {}
            None => report
                .unmatched
                .push(Leftover { name: key.clone(), reason: "the base has no such module".into() }),
        }
    }
    for (path, keys) in modules {
        match read_module(file, table, &placement, path, &keys)? {
            Ok(factors) => {
                adapter.modules.insert(path.to_owned(), factors);
            }
            Err(reason) => report.misfits.push(Leftover { name: path.to_owned(), reason }),
        }
    }
    dialect.finish(&mut adapter, &mut spelling)?;
    spelling.store(&mut adapter.metadata);
    let second_only = adapter.tokens_2.keys().filter(|token| !adapter.tokens.contains_key(*token)).count();
    (report.modules, report.tokens) = (adapter.modules.len(), adapter.tokens.len() + second_only);
    report.guess = guess::guess(file.source, &placement, table, &report);
    Ok(Gathered { adapter, report, order: placement.order })
}

fn travelling_metadata(dialect: &dyn Dialect, source: &dyn TensorSource) -> BTreeMap<String, String> {
    let travels = |(key, value): &(&String, &String)| !dialect.is_structural(key, value);
    source.metadata().iter().filter(travels).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The outer error is the file's, the inner one says why this module cannot be used.
fn read_module(
    file: &AdapterFile<'_>,
    table: &ModuleTable,
    placement: &Placement,
    path: &str,
    keys: &Keys,
) -> Result<std::result::Result<ModuleFactors, String>> {
    if let Some(fault) = &keys.fault {
        return Ok(Err(fault.clone()));
    }
    let Some(module) = table.get(path) else { return Ok(Err("the base has no such module".into())) };
    let mut tensors = BTreeMap::new();
    for (part, key) in &keys.parts {
        let info = file.source.info(key);
        if info.is_none_or(|info| part.is_absurd(&info.shape, module)) {
            return Ok(Err(format!("`{key}` is larger than any factor of this module can be")));
        }
        tensors.insert(*part, file.source.read(key)?);
    }
    let rule = placement.alpha.as_ref().map(|rule| move |rank: usize| rule(path, rank));
    Parts {
        module,
        keys: &keys.parts,
        tensors,
        rule: rule.as_ref().map(|rule| rule as &dyn Fn(usize) -> f32),
    }
    .assemble()
}

fn misfit_of_token(rows: &Tensor, tower: Tower, table: &ModuleTable) -> Option<String> {
    let found = rows.shape().last();
    match table.width_of(tower) {
        Some(width) if width != found => {
            let encoder = if tower == Tower::TextEncoder2 { "second text encoder" } else { "text encoder" };
            Some(format!("the token is {found} wide, the base's {encoder} {width}"))
        }
        None if tower == Tower::TextEncoder2 => Some("the base has no second text encoder".into()),
        _ => None,
    }
}

/// Token rows as `[n, d]`.
fn token_rows(file: &AdapterFile<'_>, key: &str) -> Result<Tensor> {
    let elements = file.source.info(key).map_or(0, |info| info.numel());
    if elements > MAX_TOKEN_ELEMENTS {
        return Err(file
            .malformed(format!("token `{key}` has {elements} numbers; {MAX_TOKEN_ELEMENTS} are the most")));
    }
    let tensor = file.source.read(key)?;
    if !tensor.dtype().is_float() {
        return Err(file.malformed(format!("token `{key}` is {}, expected a float type", tensor.dtype())));
    }
    match *tensor.dims() {
        [width] if width > 0 => Ok(tensor.reshape(&[1, width])?),
        [rows, width] if rows * width > 0 => Ok(tensor),
        _ => {
            Err(file.malformed(format!("token `{key}` has shape {}, expected [d] or [n, d]", tensor.shape())))
        }
    }
}

/// How many of a file's tensors a base has a place and the right size for, and how many not.
pub(super) fn agreement(
    file: &AdapterFile<'_>,
    placement: &Placement,
    table: &ModuleTable,
) -> (usize, usize) {
    let (mut agree, mut disagree) = (0, placement.faults.len());
    for key in file.source.names() {
        let shape = file.source.info(&key).map(|info| info.shape).unwrap_or_default();
        let agrees = match placement.places.get(&key) {
            None => Some(false),
            Some(Place::Factor(path, part)) => {
                table.get(path).map_or(Some(false), |module: &Module| part.agrees(&shape, module))
            }
            Some(Place::Token(_, tower)) => match (table.width_of(*tower), shape.last()) {
                (Some(width), Some(found)) => Some(width == *found),
                _ => Some(false),
            },
            Some(Place::Unsupported(..) | Place::Known) => None,
        };
        match agrees {
            Some(true) => agree += 1,
            Some(false) => disagree += 1,
            None => {}
        }
    }
    (agree, disagree)
}
