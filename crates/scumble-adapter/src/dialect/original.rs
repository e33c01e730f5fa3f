//! The original LoRA for diffusion models: numbered factors, `unet:{i}:up`, `unet:{i}:down`, `text_encoder:{i}:...`.
//!
//! Metadata: `{model}` -> JSON list of the classes whose layers were counted, `{model}:{i}:rank` -> number,
//! `{token}` -> `<embed>`; a learned token's key is the token itself, `[d]`. The scale is 1: alpha is folded into
//! `up` when written. Numbers are resolved by [`crate::positional`]; the shapes decide among the orders.

use std::collections::{BTreeMap, BTreeSet};

use scumble_model::files::TensorSource;
use scumble_tensor::{DType, Tensor};

use super::encode::Encoded;
use super::fold::{self, Folded};
use super::part::Part;
use super::spelling::Spelling;
use super::{
    AdapterFile, Dialect, Leftover, Place, Placement, TokenPolicy, WriteOptions, check_known, check_plain,
};
use crate::adapter::{Adapter, LowRankFactors};
use crate::error::{AdapterError, Result};
use crate::positional::{Candidate, Generation, Target, candidates, order, target_of};
use crate::table::{Module, ModuleTable, Tower};

/// See the module's text.
pub(super) struct Original;

/// The order of diffusers 0.15, which published files do not have.
const NOTE_ORDER: &str = "original_order";

/// The metadata value that marks a learned token.
pub(super) const EMBED: &str = "<embed>";

/// `unet:12:up` -> its parts.
fn numbered(key: &str) -> Option<(Tower, usize, Part)> {
    let (model, rest) = key.split_once(':')?;
    let (index, part) = rest.split_once(':')?;
    let tower = Tower::ALL.into_iter().find(|tower| tower.prefix() == model)?;
    let part = match part {
        "up" => Part::Up,
        "down" => Part::Down,
        _ => return None,
    };
    // More slots than any model has layers is no index.
    let index = index.bytes().all(|b| b.is_ascii_digit()).then(|| index.parse().ok()).flatten()?;
    (index < 100_000).then_some((tower, index, part))
}

/// Inputs and outputs of a numbered pair, as far as its factors say.
pub(crate) type Sizes = (Option<usize>, Option<usize>);

/// The sizes of every numbered pair of a file, by tower and number.
pub(crate) fn numbered_sizes(source: &dyn TensorSource) -> BTreeMap<Tower, BTreeMap<usize, Sizes>> {
    let mut towers: BTreeMap<Tower, BTreeMap<usize, Sizes>> = BTreeMap::new();
    for key in source.names() {
        let Some((tower, index, part)) = numbered(&key) else { continue };
        let size = Some(width(source, &key, part)).filter(|&size| size > 0);
        let sizes = towers.entry(tower).or_default().entry(index).or_default();
        match part {
            Part::Up => sizes.1 = size,
            _ => sizes.0 = size,
        }
    }
    towers
}

/// Width of a factor: inputs of `down`, outputs of `up`; 0 for anything that is no factor.
fn width(source: &dyn TensorSource, key: &str, part: Part) -> usize {
    let Some(info) = source.info(key) else { return 0 };
    match (part, &info.shape[..]) {
        (Part::Up, [outputs, _, ..]) => *outputs,
        (Part::Down, [_, inputs, ..]) => *inputs,
        _ => 0,
    }
}

/// Whether a list of `count` pairs fits some order of the tower exactly; `width(slot, up)` is a factor's.
pub(super) fn fits_tower(
    table: &ModuleTable,
    tower: Tower,
    count: usize,
    width: impl Fn(usize, bool) -> Option<usize>,
) -> bool {
    candidates(table, tower, None).iter().any(|candidate| {
        let mut slots = candidate.modules.iter().enumerate();
        candidate.modules.len() == count
            && slots.all(|(i, m)| width(i, true) == Some(m.outputs) && width(i, false) == Some(m.inputs))
    })
}

/// The slots of one tower: index -> parts -> key.
type Slots = BTreeMap<usize, BTreeMap<Part, String>>;

/// How many factors of the file have the widths that the candidate expects.
fn fitting(source: &dyn TensorSource, slots: &Slots, candidate: &Candidate<'_>) -> usize {
    let fits = |index: usize, part: Part, key: &str| {
        candidate.modules.get(index).is_some_and(|module| {
            width(source, key, part) == if part == Part::Up { module.outputs } else { module.inputs }
        })
    };
    slots
        .iter()
        .flat_map(|(&i, parts)| parts.iter().map(move |(&part, key)| fits(i, part, key)))
        .filter(|&f| f)
        .count()
}

/// The order whose length is the file's and which most shapes agree with; the first such, so the usual ones win.
/// Where no length agrees (a file with holes, or of another base), the longest agreement in shapes decides.
fn resolve<'t>(
    source: &dyn TensorSource,
    slots: &Slots,
    table: &'t ModuleTable,
    tower: Tower,
    stated: Option<&BTreeSet<Target>>,
) -> Option<Candidate<'t>> {
    let count = slots.keys().next_back().map_or(0, |last| last + 1);
    let score =
        |candidate: &Candidate<'_>| (candidate.modules.len() == count, fitting(source, slots, candidate));
    candidates(table, tower, stated).into_iter().fold(None, |best: Option<Candidate<'t>>, candidate| {
        match best {
            Some(best) if score(&best) >= score(&candidate) => Some(best),
            _ => Some(candidate),
        }
    })
}

/// Numbers are only as good as their count: with one missing, all behind it may mean other modules.
fn miscount(tower: Tower, found: usize, table: &ModuleTable) -> Leftover {
    let mut counts: Vec<usize> = candidates(table, tower, None).iter().map(|c| c.modules.len()).collect();
    counts.sort_unstable();
    counts.dedup();
    let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
    let name = tower.prefix().to_owned();
    Leftover {
        name,
        reason: format!("{found} numbered pairs; on this base there are {}", counts.join(" or ")),
    }
}

/// The targets of a class list; names that stand for nothing we know are left to the shapes.
fn stated_targets(file: &AdapterFile<'_>, tower: Tower) -> Result<Option<BTreeSet<Target>>> {
    let Some(list) = file.source.metadata().get(tower.prefix()) else { return Ok(None) };
    let classes: Vec<String> = serde_json::from_str(list).map_err(|error| {
        file.malformed(format!("metadata `{}` is no list of class names: {error}", tower.prefix()))
    })?;
    Ok(Some(classes.iter().filter_map(|class| Target::from_class(class)).collect()))
}

impl Dialect for Original {
    fn name(&self) -> &'static str {
        "original"
    }

    fn recognises(&self, source: &dyn TensorSource) -> bool {
        source.names().iter().any(|key| numbered(key).is_some())
    }

    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement> {
        let mut towers: BTreeMap<Tower, Slots> = BTreeMap::new();
        let mut placement = Placement::default();
        for key in file.source.names() {
            if let Some((tower, index, part)) = numbered(&key) {
                towers.entry(tower).or_default().entry(index).or_default().insert(part, key);
            } else if file.source.metadata().get(&key).is_some_and(|value| value == EMBED) {
                placement.places.insert(key.clone(), Place::Token(key, Tower::TextEncoder));
            }
        }
        for (tower, slots) in &towers {
            let stated = stated_targets(file, *tower)?;
            let Some(order) = resolve(file.source, slots, table, *tower, stated.as_ref()) else { continue };
            if slots.len() != order.modules.len() || slots.keys().enumerate().any(|(i, &slot)| i != slot) {
                placement.faults.push(miscount(*tower, slots.len(), table));
            }
            if *tower == Tower::UNet && order.targets.contains(&Target::Geglu) {
                placement.order = Some(order.generation);
            }
            for (index, parts) in slots {
                let Some(module) = order.modules.get(*index) else { continue };
                for (part, key) in parts {
                    placement.places.insert(key.clone(), Place::Factor(module.path.clone(), *part));
                }
            }
        }
        Ok(placement)
    }

    fn note(&self, _: &AdapterFile<'_>, placement: &Placement, _: &ModuleTable, spelling: &mut Spelling) {
        let newer = placement.order == Some(Generation::From015);
        match newer {
            true => spelling.set(NOTE_ORDER, "0.15"),
            false => spelling.forget(NOTE_ORDER),
        }
    }

    fn finish(&self, adapter: &mut Adapter, spelling: &mut Spelling) -> Result<()> {
        fold::restore(adapter, spelling)
    }

    fn is_structural(&self, key: &str, value: &str) -> bool {
        // The original's tools take any key that ends in `rank` for a number.
        key.ends_with("rank") || value == EMBED || Tower::ALL.iter().any(|tower| tower.prefix() == key)
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, adapter: &Adapter, table: &ModuleTable, options: &WriteOptions) -> Result<Encoded> {
        check_known(self.name(), adapter, table)?;
        check_plain(self.name(), adapter)?;
        if table.is_sdxl() || !adapter.tokens_2.is_empty() {
            return Err(AdapterError::CannotHold {
                dialect: self.name(),
                reason: "it numbers the modules of SD1 and SD2, and this is for SDXL; write kohya or peft"
                    .into(),
            });
        }
        let mut encoded = Encoded::default();
        let travelling = adapter.metadata.iter().filter(|(key, value)| !self.is_structural(key, value));
        encoded.metadata.extend(travelling.map(|(key, value)| (key.clone(), value.clone())));
        let mut spelling = Spelling::of(&adapter.metadata);
        let noted = (spelling.text(NOTE_ORDER) == Some("0.15")).then_some(Generation::From015);
        let generation = options.generation.or(noted).unwrap_or(Generation::UpTo014);
        spelling.forget(NOTE_ORDER);
        spelling.store(&mut encoded.metadata);
        let mut folded = Folded::default();
        for tower in Tower::ALL {
            let targets = targets_of(self.name(), adapter, table, tower)?;
            if targets.is_empty() {
                continue;
            }
            let classes: Vec<&str> = targets.iter().flat_map(|target| target.classes()).copied().collect();
            encoded.metadata.insert(tower.prefix().into(), serde_json::json!(classes).to_string());
            for (index, module) in order(table, tower, &targets, generation).into_iter().enumerate() {
                let slot = format!("{}:{index}", tower.prefix());
                write_slot(&mut encoded, &mut folded, adapter, module, &slot, options)?;
            }
        }
        folded.store(&mut encoded);
        if options.tokens != TokenPolicy::Omit {
            for (token, rows) in &adapter.tokens {
                write_token(self.name(), &mut encoded, token, rows)?;
            }
        }
        Ok(encoded)
    }
}

/// The class groups that an adapter's modules fall under; modules that no class reaches cannot be written.
fn targets_of(
    dialect: &'static str,
    adapter: &Adapter,
    table: &ModuleTable,
    tower: Tower,
) -> Result<BTreeSet<Target>> {
    let mut targets = BTreeSet::new();
    for module in adapter.paths_of(tower).filter_map(|path| table.get(path)) {
        let target = target_of(module).ok_or_else(|| AdapterError::CannotHold {
            dialect,
            reason: format!("it has no number for {}; write kohya or peft instead", module.path),
        })?;
        targets.insert(target);
    }
    Ok(targets)
}

/// One numbered pair. A module that the adapter leaves alone still needs its number: it gets a zero pair of rank 1.
fn write_slot(
    encoded: &mut Encoded,
    folded: &mut Folded,
    adapter: &Adapter,
    module: &Module,
    slot: &str,
    options: &WriteOptions,
) -> Result<()> {
    let types = |pair: &LowRankFactors| [pair.up(), pair.down()].map(|tensor| options.type_of(tensor));
    let (factors, [up, down]) = match adapter.modules.get(&module.path).and_then(|found| found.low_rank()) {
        Some(pair) => (folded.fold(&module.path, pair, options)?, types(pair)),
        None => {
            folded.filled(&module.path);
            let (down, up) = LowRankFactors::shapes_for(module, 1);
            let dtype = adapter.low_rank().next().map_or(DType::F32, |(_, f)| f.up().dtype());
            let (down, up) = (Tensor::zeros(dtype, &down)?, Tensor::zeros(dtype, &up)?);
            let pair = LowRankFactors::new(&module.path, down, up, 1.0)?;
            let types = types(&pair);
            (pair, types)
        }
    };
    encoded.factor(format!("{slot}:up"), &module.path, factors.up(), up)?;
    encoded.factor(format!("{slot}:down"), &module.path, factors.down(), down)?;
    encoded.metadata.insert(format!("{slot}:rank"), factors.rank().to_string());
    Ok(())
}

fn write_token(dialect: &'static str, encoded: &mut Encoded, token: &str, rows: &Tensor) -> Result<()> {
    let refuse = |reason: String| Err(AdapterError::CannotHold { dialect, reason });
    if rows.shape().first() != 1 {
        return refuse(format!("token {token} has {} rows, it holds one a token", rows.shape().first()));
    }
    if token.contains(':') || encoded.metadata.contains_key(token) {
        return refuse(format!("a token cannot be called {token} in it"));
    }
    let row = rows.reshape(&[rows.shape().last()])?;
    encoded.tensors.push((token.to_owned(), row));
    encoded.metadata.insert(token.to_owned(), EMBED.into());
    Ok(())
}
