//! A module table with a file's own sizes, for adapters of a base that is none of the published ones.
//!
//! Names say which modules a file changes and factors say how wide those are, so a file can be described without its
//! base. Numbers (the original dialect) say less: among the orders that have as many modules as the file, the one
//! is taken in which every width of the published model stands for the fewest widths of the file. An order that is
//! not the file's mixes the wide feed-forward with the attentions and needs more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use scumble_model::files::TensorSource;

use crate::architecture::Architecture;
use crate::dialect::family::with_file;
use crate::dialect::{Part, Place, Placement, Side, numbered_sizes};
use crate::error::Result;
use crate::positional::candidates;
use crate::table::{Module, ModuleKind, ModuleTable, Tower};

/// A width or kernel beyond these is a claim, not a layer.
const MAX_WIDTH: usize = 1 << 15;
const MAX_KERNEL: usize = 16;
/// What tensors may claim beyond the bytes of their file: views of one number can claim any size.
const MAX_SURPLUS: u64 = 64 << 20;

/// The table of the family whose names the file has most of, each module as wide as the file says; nothing if no
/// family knows the names.
pub(super) fn own_table(path: &Path) -> Result<Option<ModuleTable>> {
    let mut best: Option<(usize, ModuleTable)> = None;
    for family in Architecture::ALL {
        let table = family.table()?;
        let sized = with_file(path, &table, |dialect, file| {
            if claims(file.source) > 4 * bytes_of(path) + MAX_SURPLUS {
                return Ok(None);
            }
            let numbers = numbered_sizes(file.source);
            let placement = dialect.place(file, &table)?;
            let tokens = token_widths(file.source, &placement);
            if numbers.is_empty() {
                Ok(by_names(file.source, &placement, &tokens, &table))
            } else {
                Ok(by_numbers(&numbers, &tokens, &table))
            }
        })?;
        if let Some((placed, sized)) = sized
            && best.as_ref().is_none_or(|(most, _)| placed > *most)
        {
            best = Some((placed, sized));
        }
    }
    Ok(best.map(|(_, table)| table))
}

fn claims(source: &dyn TensorSource) -> u64 {
    let bytes = |name: &String| source.info(name).map_or(0, |info| info.bytes() as u64);
    source.names().iter().map(bytes).fold(0, u64::saturating_add)
}

fn bytes_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Sizes that a file shows of one module.
#[derive(Clone, Copy, Default)]
struct Found {
    inputs: Option<usize>,
    outputs: Option<usize>,
    kernel: Option<[usize; 2]>,
}

/// How wide the learned tokens of each text encoder are.
type Tokens = BTreeMap<Tower, usize>;

fn token_widths(source: &dyn TensorSource, placement: &Placement) -> Tokens {
    let widths = placement.places.iter().filter_map(|(key, place)| match place {
        Place::Token(_, tower) => Some((*tower, source.info(key)?.shape.last().copied()?)),
        _ => None,
    });
    widths.collect()
}

/// The first layers of a text encoder tell how wide its tokens are; where the file does not change them, the tokens do.
fn note_tokens<'t>(found: &mut BTreeMap<&'t str, Found>, tokens: &Tokens, table: &'t ModuleTable) {
    for (tower, width) in tokens {
        for module in table.tower(*tower).filter(|module| module.path.ends_with(".self_attn.q_proj")) {
            found.entry(&module.path).or_default().inputs.get_or_insert(*width);
        }
    }
}

fn by_names(
    source: &dyn TensorSource,
    placement: &Placement,
    tokens: &Tokens,
    table: &ModuleTable,
) -> Option<(usize, ModuleTable)> {
    let mut found: BTreeMap<&str, Found> = BTreeMap::new();
    for (key, place) in &placement.places {
        let shape = source.info(key).map(|info| info.shape).unwrap_or_default();
        let Place::Factor(path, part) = place else { continue };
        let (path, part) = (path, *part);
        let is_norm = table.get(path).is_some_and(Module::is_norm);
        note(found.entry(path).or_default(), part, &shape, is_norm);
    }
    let placed = found.len() + tokens.len();
    note_tokens(&mut found, tokens, table);
    (placed > 0).then(|| (placed, resized(table, &found)))
}

/// What one tensor says about its module.
fn note(found: &mut Found, part: Part, shape: &[usize], is_norm: bool) {
    let size = |index: usize| shape.get(index).copied();
    match part {
        Part::Down => {
            found.inputs = size(1);
            if let [_, _, kh, kw] = *shape {
                found.kernel = Some([kh, kw]);
            }
        }
        Part::Up => found.outputs = size(0),
        Part::Mid => {
            if let [_, _, kh, kw] = *shape {
                found.kernel = Some([kh, kw]);
            }
        }
        Part::Hada1(Side::A) => found.outputs = size(0),
        Part::Hada1(Side::B) => found.inputs = size(1),
        Part::Diff if is_norm => found.outputs = size(0),
        Part::Diff => {
            (found.outputs, found.inputs) = (size(0), size(1));
            if let [_, _, kh, kw] = *shape {
                found.kernel = Some([kh, kw]);
            }
        }
        // Of a Kronecker product each matrix has a part of the sizes.
        Part::Lokr1(Side::Whole) | Part::Lokr2(Side::Whole) => {
            let times = |a: Option<usize>, b: Option<usize>| a.unwrap_or(1).checked_mul(b?);
            found.outputs = times(found.outputs, size(0));
            found.inputs = times(found.inputs, size(1));
            if let [_, _, kh, kw] = *shape {
                found.kernel = Some([kh, kw]);
            }
        }
        Part::Lokr1(Side::A) | Part::Lokr2(Side::A) => {
            found.outputs = found.outputs.unwrap_or(1).checked_mul(size(0).unwrap_or(1));
        }
        Part::Lokr1(Side::B) | Part::Lokr2(Side::B) => {
            found.inputs = found.inputs.unwrap_or(1).checked_mul(size(1).unwrap_or(1));
        }
        _ => {}
    }
}

fn resized(table: &ModuleTable, found: &BTreeMap<&str, Found>) -> ModuleTable {
    let sized = |module: &Module| {
        let mut module = module.clone();
        let Some(found) = found.get(module.path.as_str()) else { return module };
        let sane = |size: Option<usize>| size.filter(|size| (1..=MAX_WIDTH).contains(size));
        let kernel = found.kernel.filter(|kernel| kernel.iter().all(|size| (1..=MAX_KERNEL).contains(size)));
        module.inputs = sane(found.inputs).unwrap_or(module.inputs);
        module.outputs = sane(found.outputs).unwrap_or(module.outputs);
        module.kind = match (module.kind, kernel) {
            (ModuleKind::Norm, _) => ModuleKind::Norm,
            (_, Some(kernel)) => ModuleKind::Conv { kernel },
            (ModuleKind::Conv { kernel: [1, 1] }, None) => ModuleKind::Linear,
            (kind, None) => kind,
        };
        module
    };
    ModuleTable::new(table.modules().iter().chain(table.norms()).map(sized))
}

type Numbers = BTreeMap<Tower, BTreeMap<usize, (Option<usize>, Option<usize>)>>;

fn by_numbers(numbers: &Numbers, tokens: &Tokens, table: &ModuleTable) -> Option<(usize, ModuleTable)> {
    let mut found: BTreeMap<&str, Found> = BTreeMap::new();
    let mut layers = Vec::new();
    for (tower, slots) in numbers {
        if *tower != Tower::UNet {
            layers.extend(text_layers(*tower, slots));
            continue;
        }
        let orders = candidates(table, *tower, None);
        let fitting = orders.iter().filter(|candidate| candidate.modules.len() == slots.len());
        let order = fitting.min_by_key(|candidate| confusion(&candidate.modules, slots))?;
        for (module, (inputs, outputs)) in order.modules.iter().zip(slots.values()) {
            found.insert(&module.path, Found { inputs: *inputs, outputs: *outputs, kernel: None });
        }
    }
    let placed = found.len() + layers.len();
    note_tokens(&mut found, tokens, table);
    let sized = resized_as_it_is(table, &found);
    let replaced: BTreeSet<Tower> = layers.iter().filter_map(|module| Tower::of(&module.path)).collect();
    let kept = sized
        .modules()
        .iter()
        .chain(sized.norms())
        .filter(|module| !Tower::of(&module.path).is_some_and(|tower| replaced.contains(&tower)));
    let modules: Vec<Module> = kept.cloned().chain(layers).collect();
    (placed > 0).then(|| (placed, ModuleTable::new(modules)))
}

/// Numbers do not say what is a convolution; the table's word holds.
fn resized_as_it_is(table: &ModuleTable, found: &BTreeMap<&str, Found>) -> ModuleTable {
    let kinds: BTreeMap<&str, Found> = found
        .iter()
        .map(|(path, found)| {
            let kernel = table.get(path).filter(|module| module.is_conv()).map(Module::kernel);
            (*path, Found { kernel, ..*found })
        })
        .collect();
    resized(table, &kinds)
}

/// How many widths of the file the widths of the published model stand for, in this order.
fn confusion(modules: &[&Module], slots: &BTreeMap<usize, (Option<usize>, Option<usize>)>) -> usize {
    let mut pairs = BTreeSet::new();
    for (module, (inputs, outputs)) in modules.iter().zip(slots.values()) {
        pairs.insert((module.inputs, *inputs));
        pairs.insert((module.outputs, *outputs));
    }
    pairs.len()
}

/// Four projections a layer, as the original counts them.
fn text_layers(tower: Tower, slots: &BTreeMap<usize, (Option<usize>, Option<usize>)>) -> Vec<Module> {
    const PROJECTIONS: [&str; 4] = ["k_proj", "v_proj", "q_proj", "out_proj"];
    let module = |(position, (inputs, outputs)): (usize, &(Option<usize>, Option<usize>))| {
        let (layer, projection) = (position / 4, PROJECTIONS[position % 4]);
        Some(Module {
            path: format!("{}.text_model.encoder.layers.{layer}.self_attn.{projection}", tower.prefix()),
            kind: ModuleKind::Linear,
            inputs: (*inputs)?,
            outputs: (*outputs)?,
        })
    };
    slots.values().enumerate().filter_map(module).collect()
}
