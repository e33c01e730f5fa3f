//! From placed tensors to an adapter: pairs, ranks, shapes, finite values; every key used or named.

use std::collections::BTreeMap;

use scumble_model::files::TensorSource;
use scumble_tensor::Tensor;

use super::report::{Leftover, LoadReport};
use super::{AdapterFile, DIALECTS, Dialect, Part, Place, Placement, ReadOptions, detect, guess, names_of};
use crate::adapter::{Adapter, LowRankFactors};
use crate::error::{AdapterError, Result};
use crate::table::{Module, ModuleTable};

/// A thousand rows of the widest text states.
const MAX_TOKEN_ELEMENTS: usize = 1 << 21;

/// Keys of one module's parts.
#[derive(Default)]
struct Parts {
    keys: BTreeMap<Part, String>,
    fault: Option<String>,
}

/// Reads an opened file: finds its dialect, places its tensors in the base's modules and checks all of it.
pub fn read_source(
    file: &AdapterFile<'_>,
    table: &ModuleTable,
    options: ReadOptions,
) -> Result<(Adapter, LoadReport)> {
    let keys = file.source.names();
    let dialect = detect(&keys).ok_or_else(|| AdapterError::UnknownDialect {
        file: file.source.describe(),
        known: names_of(&DIALECTS),
        examples: match &keys[..keys.len().min(3)] {
            [] => "holds no tensors".to_owned(),
            first => {
                let first: Vec<String> = first.iter().map(|key| format!("{key:?}")).collect();
                format!("begins with the tensors {}", first.join(", "))
            }
        },
    })?;
    read_as(dialect, file, table, options)
}

/// As [`read_source`], for a file whose dialect is known.
pub fn read_as(
    dialect: &dyn Dialect,
    file: &AdapterFile<'_>,
    table: &ModuleTable,
    options: ReadOptions,
) -> Result<(Adapter, LoadReport)> {
    let keys = file.source.names();
    let placement = dialect.place(file, table)?;
    let misfits = placement.faults.clone();
    let mut report = LoadReport { dialect: dialect.name(), misfits, ..LoadReport::default() };
    let mut adapter = Adapter { metadata: travelling_metadata(dialect, file.source), ..Adapter::default() };
    let mut modules: BTreeMap<&str, Parts> = BTreeMap::new();
    for key in &keys {
        match placement.places.get(key) {
            Some(Place::Factor(path, part)) => {
                let parts = modules.entry(path).or_default();
                if let Some(other) = parts.keys.insert(*part, key.clone()) {
                    parts.fault = Some(format!("`{other}` and `{key}` are both for this module"));
                }
            }
            Some(Place::Unsupported(path, reason)) => {
                modules.entry(path).or_default().fault = Some(format!("`{key}`: {reason}"));
            }
            Some(Place::Token(token)) => {
                let rows = token_rows(file, key)?;
                match table.text_width() {
                    Some(width) if width != rows.shape().last() => {
                        let found = rows.shape().last();
                        let reason = format!("the token is {found} wide, the base's text encoder {width}");
                        report.misfits.push(Leftover { name: token.clone(), reason });
                    }
                    _ => drop(adapter.tokens.insert(token.clone(), rows)),
                }
            }
            None => report
                .unmatched
                .push(Leftover { name: key.clone(), reason: "the base has no such module".into() }),
        }
    }
    for (path, parts) in modules {
        match read_module(file, table, &placement, path, &parts)? {
            Ok(factors) => {
                adapter.modules.insert(path.to_owned(), factors.into());
            }
            Err(reason) => report.misfits.push(Leftover { name: path.to_owned(), reason }),
        }
    }
    (report.modules, report.tokens) = (adapter.modules.len(), adapter.tokens.len());
    report.guess = guess::guess(file.source, &placement, table, &report);
    if (!report.is_complete() && !options.partial) || adapter.is_empty() {
        return Err(AdapterError::Unmatched { file: file.source.describe(), report: Box::new(report) });
    }
    adapter.check_finite()?;
    Ok((adapter, report))
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
    parts: &Parts,
) -> Result<std::result::Result<LowRankFactors, String>> {
    if let Some(fault) = &parts.fault {
        return Ok(Err(fault.clone()));
    }
    let Some(module) = table.get(path) else { return Ok(Err("the base has no such module".into())) };
    let (down, up) = match (parts.keys.get(&Part::Down), parts.keys.get(&Part::Up)) {
        (Some(down), Some(up)) => {
            if let Some(key) = [down, up].into_iter().find(|key| is_absurd(file.source, key, module)) {
                return Ok(Err(format!("`{key}` is larger than any factor of this module can be")));
            }
            (file.source.read(down)?, file.source.read(up)?)
        }
        (Some(down), None) => return Ok(Err(format!("`{down}` has no up factor"))),
        (None, Some(up)) => return Ok(Err(format!("`{up}` has no down factor"))),
        (None, None) => return Ok(Err("an alpha without factors".into())),
    };
    let rank = down.shape().first();
    let alpha = match (parts.keys.get(&Part::Alpha), &placement.alpha) {
        (Some(key), _) => {
            let tensor = file.source.read(key)?;
            if tensor.numel() != 1 {
                return Ok(Err(format!("`{key}` has shape {}, expected one number", tensor.shape())));
            }
            tensor.item::<f32>()?
        }
        (None, Some(rule)) => rule(path, rank),
        (None, None) => rank as f32,
    };
    Ok(match LowRankFactors::new(path, down, up, alpha) {
        Ok(factors) => factors.shaped_for(module),
        Err(AdapterError::Factors { what, .. }) => Err(what),
        Err(other) => return Err(other),
    })
}

/// Whether a tensor claims more elements than factors of rank 16384 have; pickles can claim sizes that they do not
/// store, and claims must not take memory.
fn is_absurd(source: &dyn TensorSource, key: &str, module: &Module) -> bool {
    let most = (module.weights() / module.inputs.min(module.outputs).max(1)).saturating_mul(1 << 14);
    source.info(key).is_none_or(|info| {
        info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_none_or(|n| n > most)
    })
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
