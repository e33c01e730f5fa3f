//! Adapters into a model's files: `W' = W + strength * dW`, one tensor at a time.
//!
//! A [`Checkpoint`] is a model as files. [`bake`] puts the changes in front of its tensors; they are computed when the
//! checkpoint is saved and each tensor passes, so a model of any size needs the memory of a few tensors. All kinds of
//! changes on linear layers, convolutions, norms and biases are exact before one rounding to the stored type. With DoRA each
//! adapter's change is that on the model as it is, as it is for adapters that are attached side by side.
//!
//! Learned tokens come along: into tokenizer and embedding table of a folder, into embedding files beside a single file.
//!
//! [`BakeOptions::subtract`] takes adapters out of a model that they were baked into, up to the roundings of both ways.
//! A DoRA cannot be taken out: its change would be computed from a model that has it already.
//!
//! In the words of the original program this is `lora_add --mode upl`, and `upl-ckpt-v2` where a `.ckpt` is saved.
//!
//! ```
//! use std::sync::Arc;
//! use scumble_adapter::bake::{BakeOptions, bake, table_of};
//! use scumble_adapter::dialect::{ReadOptions, load_adapter};
//! use scumble_adapter::merge::{Input, Weights};
//! use scumble_model::base::checkpoint::{Checkpoint, Layout, OpenOptions};
//! use scumble_tensor::reference::ReferenceBackend;
//!
//! # let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
//! # let folder = tempfile::tempdir()?;
//! # let (model, file) = (fixtures.join("single_file/tiny-sd1.ckpt"), fixtures.join("lora/peft.safetensors"));
//! # let (model, out) = (model.display().to_string(), folder.path().join("baked.safetensors"));
//! let mut checkpoint = Checkpoint::open(&model, &OpenOptions::default())?;
//! let adapter = load_adapter(&file, &table_of(&checkpoint)?, ReadOptions::default())?.adapter;
//!
//! let inputs = [Input { name: "style".into(), adapter: &adapter, weights: Weights::all(0.8) }];
//! let backend = Arc::new(ReferenceBackend);
//! let report = bake(&mut checkpoint, &inputs, &BakeOptions::default(), backend)?;
//! assert_eq!(report.modules, 156);
//! checkpoint.save(&out, Layout::Safetensors, &mut |_| ())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod rows;
pub(crate) mod source;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use scumble_model::base::checkpoint::{Checkpoint, Part};
use scumble_tensor::Backend;

use crate::adapter::ModuleFactors;
use crate::architecture::table_of_all;
use crate::error::{AdapterError, Result};
use crate::merge::{Input, Renamed};
use crate::table::{Module, ModuleTable, Tower};
use source::{Changed, Edit, What};

/// How to bake.
#[derive(Clone, Copy, Debug)]
pub struct BakeOptions {
    /// Take the changes off instead of adding them. Learned tokens stay where they are.
    pub subtract: bool,
    /// Add learned tokens.
    pub tokens: bool,
    /// Threads to use. The result does not depend on it.
    pub threads: usize,
}

impl Default for BakeOptions {
    fn default() -> Self {
        Self { subtract: false, tokens: true, threads: 1 }
    }
}

/// What baking will do when the checkpoint is saved.
#[derive(Clone, Debug, Default)]
pub struct BakeReport {
    /// Modules that change.
    pub modules: usize,
    /// Learned tokens that the model gets, by the names they have there.
    pub tokens: Vec<String>,
    /// Those that had another name.
    pub renamed: Vec<Renamed>,
    /// Learned tokens of the adapters that stay in the model although the adapters are taken out.
    pub staying: Vec<String>,
}

/// The modules of a checkpoint.
pub fn table_of(checkpoint: &Checkpoint) -> Result<ModuleTable> {
    let config = |part| checkpoint.parts.get(&part).map(|component| &component.config);
    table_of_all(config(Part::Unet), config(Part::TextEncoder), config(Part::TextEncoder2))
}

/// The part of a checkpoint that a tower is.
pub(crate) fn part_of(tower: Tower) -> Part {
    match tower {
        Tower::UNet => Part::Unet,
        Tower::TextEncoder => Part::TextEncoder,
        Tower::TextEncoder2 => Part::TextEncoder2,
    }
}

/// Adds adapters to a checkpoint's tensors, each with its weights. Nothing is read or computed yet but what is needed to
/// know that every change has its place; what has none is an error that lists it.
///
/// `backend` is used by several threads at once: one without threads of its own is best.
pub fn bake(
    checkpoint: &mut Checkpoint,
    inputs: &[Input<'_>],
    options: &BakeOptions,
    backend: Arc<dyn Backend>,
) -> Result<BakeReport> {
    let table = table_of(checkpoint)?;
    let (mut edits, mut faults) = (BTreeMap::new(), Vec::new());
    let mut changed = BTreeSet::new();
    for input in inputs {
        input.weights.check(&input.name)?;
        input.adapter.check_finite()?;
        for (path, factors) in &input.adapter.modules {
            let weight = input.weights.of(path) as f32;
            if weight == 0.0 {
                continue;
            }
            let strength = if options.subtract { -weight } else { weight };
            match place(checkpoint, &table, path, factors, options.subtract) {
                Ok(places) => {
                    changed.insert(path.as_str());
                    for (tower, tensor, what) in places {
                        let of_tower: &mut BTreeMap<String, Vec<Edit>> = edits.entry(tower).or_default();
                        of_tower.entry(tensor).or_default().push(Edit { strength, what });
                    }
                }
                Err(fault) => faults.push(format!("{}: {path}: {fault}", input.name)),
            }
        }
    }
    if !faults.is_empty() {
        return Err(AdapterError::WrongBase { faults, guess: None });
    }
    for (tower, edits) in edits {
        if let Some(component) = checkpoint.parts.get_mut(&part_of(tower)) {
            let (inner, backend) = (Arc::clone(&component.weights), Arc::clone(&backend));
            component.weights = Arc::new(Changed { inner, edits, threads: options.threads, backend });
        }
    }
    let mut report = BakeReport { modules: changed.len(), ..BakeReport::default() };
    if options.subtract {
        report.staying = tokens::there(checkpoint, inputs)?;
    } else if options.tokens {
        (report.tokens, report.renamed) = tokens::add(checkpoint, inputs)?;
    }
    Ok(report)
}

/// The tensors that a module's change goes to; what is wrong where it has no place.
fn place(
    checkpoint: &Checkpoint,
    table: &ModuleTable,
    path: &str,
    factors: &ModuleFactors,
    subtract: bool,
) -> std::result::Result<Vec<(Tower, String, What)>, String> {
    let module = table.get(path).ok_or("the base has no such module")?;
    let tower = Tower::of(path).ok_or("no tower of that name")?;
    if subtract && factors.magnitude().is_some() {
        return Err(format!(
            "a {} cannot be taken out: its change depends on the model without it",
            factors.kind()
        ));
    }
    let factors = factors.shaped_for(module)?;
    let mut places = Vec::new();
    if factors.change().is_some() {
        let name = tensor(checkpoint, tower, module, "weight", &module.weight_dims())?;
        places.push((tower, name, What::Weight(Box::new(factors.clone()))));
    }
    if let Some(bias) = factors.bias() {
        let name = tensor(checkpoint, tower, module, "bias", &[module.outputs])?;
        places.push((tower, name, What::Bias(bias.clone())));
    }
    Ok(places)
}

/// The name of a module's tensor, if the files have it in the expected sizes.
fn tensor(
    checkpoint: &Checkpoint,
    tower: Tower,
    module: &Module,
    kind: &str,
    wanted: &[usize],
) -> std::result::Result<String, String> {
    let part = part_of(tower);
    let component = checkpoint.parts.get(&part).ok_or_else(|| format!("there is no `{}`", part.folder()))?;
    let name = format!("{}.{kind}", module.local_path());
    match component.weights.info(&name) {
        Some(info) if info.shape == wanted => Ok(name),
        Some(info) => {
            Err(format!("its {kind} is {:?} in the files, {wanted:?} by the configuration", info.shape))
        }
        None => Err(format!("it has no {kind} in the files")),
    }
}
