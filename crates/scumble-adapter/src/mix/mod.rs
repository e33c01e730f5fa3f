//! Models into a model: sums of checkpoints, one tensor at a time.
//!
//! ```text
//! T = sum_i c_i T_i + sum_j w_j (B_j - C_j)
//! ```
//!
//! A share `c_i` is the model's weight; models without a weight share what the others leave to 1. So `a` and `b` at 0.3 are
//! `0.7 a + 0.3 b`, and `a` alone with a difference is `a + w (b - c)`. Block weights multiply a model's weight module by
//! module, and the models without a weight take up the rest there too, which is what block-weighted merging elsewhere
//! means by a list of 17 or 26 numbers for the second model.
//!
//! The first model says what the result is: its names, types and small files, and what no part uses. Its UNet may take
//! more channels than the others' (inpainting): those are kept as they are. So are rows of learned tokens; other models'
//! are not taken. The sums are f32 and rounded once.
//!
//! ```
//! use std::sync::Arc;
//! use scumble_adapter::mix::{MixInput, MixOptions, mix};
//! use scumble_model::base::checkpoint::{Checkpoint, Layout, OpenOptions};
//! use scumble_tensor::{Backend, reference::ReferenceBackend};
//!
//! # let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
//! # let folder = tempfile::tempdir()?;
//! # let (one, two) = (fixtures.join("tiny-sd1"), fixtures.join("single_file/tiny-sd1.ckpt"));
//! # let (one, two) = (one.display().to_string(), two.display().to_string());
//! # let out = folder.path().join("mix.safetensors");
//! let open = |model: &str| Checkpoint::open(model, &OpenOptions::default());
//! let painter = MixInput::new("painter", open(&one)?);
//! let photograph = MixInput { weight: Some(0.3), ..MixInput::new("photograph", open(&two)?) };
//!
//! let backend: Arc<dyn Backend> = Arc::new(ReferenceBackend);
//! let mixed = mix(&[painter, photograph], &MixOptions::default(), &backend)?;
//! mixed.save(&out, Layout::Safetensors, &mut |_| ())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use scumble_model::base::checkpoint::{Checkpoint, Part};
use scumble_model::files::TensorSource;
use scumble_tensor::Backend;

use crate::error::{AdapterError, Result};
use crate::table::Tower;
use source::{Mixed, Term};

/// The table of tokens.
const TABLE: &str = "text_model.embeddings.token_embedding.weight";
/// The convolution that takes a UNet's inputs.
const CONV_IN: &str = "conv_in.weight";
/// Embeddings are in no block and no list of modules; this module stands for their tower.
const LAST_NORM: &str = "text_model.final_layer_norm";

/// One model of a mix.
pub struct MixInput {
    /// What it is called in messages: normally the file's name.
    pub name: String,
    /// The model.
    pub checkpoint: Checkpoint,
    /// Take its difference from this one instead of the model itself; it has a name for messages too.
    pub minus: Option<(String, Checkpoint)>,
    /// Its weight; `None` is a share of what the others leave to 1, and for a difference 1.
    pub weight: Option<f64>,
    /// Factors of single modules, by path; 1 where there is no entry.
    pub blocks: BTreeMap<String, f32>,
}

impl MixInput {
    /// A model without weight.
    pub fn new(name: impl Into<String>, checkpoint: Checkpoint) -> Self {
        Self { name: name.into(), checkpoint, minus: None, weight: None, blocks: BTreeMap::new() }
    }

    /// Its weight on a module, if it has one of its own.
    fn weight_on(&self, path: &str) -> Option<f64> {
        let weight = self.weight.or(self.minus.is_some().then_some(1.0))?;
        Some(weight * f64::from(self.blocks.get(path).copied().unwrap_or(1.0)))
    }

    fn is_share(&self) -> bool {
        self.weight.is_none() && self.minus.is_none()
    }
}

/// Where parts come from that are not to be mixed.
#[derive(Clone, Debug)]
pub struct MixOptions {
    /// Parts that are taken whole from one model, counted from 0.
    pub whole: BTreeMap<Part, usize>,
    /// Threads to use. The result does not depend on it.
    pub threads: usize,
}

impl Default for MixOptions {
    fn default() -> Self {
        Self { whole: BTreeMap::new(), threads: 1 }
    }
}

/// Puts the models together. Nothing is computed before the result is saved, but every tensor is known to fit; what does
/// not is an error that lists it.
///
/// `backend` is used by several threads at once: one without threads of its own is best.
pub fn mix(inputs: &[MixInput], options: &MixOptions, backend: &Arc<dyn Backend>) -> Result<Checkpoint> {
    check(inputs, options)?;
    let Some(first) = inputs.first() else { return Err(fault("nothing to merge: give models".into())) };
    let mut result = first.checkpoint.clone();
    let mut faults = Vec::new();
    for part in first.checkpoint.parts.keys().copied() {
        let Some(component) = result.parts.get_mut(&part) else { continue };
        match options.whole.get(&part) {
            Some(&index) => match taken_whole(inputs, index, part) {
                Ok(taken) => *component = taken,
                Err(what) => faults.push(what),
            },
            None => match mixed(inputs, part, options.threads, backend) {
                Ok(mixed) => component.weights = Arc::new(mixed),
                Err(found) => faults.extend(found),
            },
        }
    }
    if faults.is_empty() { Ok(result) } else { Err(AdapterError::DifferentModels { faults }) }
}

fn fault(what: String) -> AdapterError {
    AdapterError::Selection { what }
}

fn check(inputs: &[MixInput], options: &MixOptions) -> Result<()> {
    let Some(first) = inputs.first() else { return Err(fault("nothing to merge: give models".into())) };
    if first.minus.is_some() {
        return Err(fault("the first model cannot be a difference: it says what the result is".into()));
    }
    if let Some((part, index)) = options.whole.iter().find(|(_, index)| **index >= inputs.len()) {
        let what = format!("there is no model number {} to take the {} from", index + 1, part.folder());
        return Err(fault(what));
    }
    for input in inputs {
        let weights = input.blocks.values().map(|&weight| f64::from(weight)).chain(input.weight);
        if let Some(weight) = weights.into_iter().find(|weight| !weight.is_finite()) {
            return Err(fault(format!("{}: {weight} is no weight; use a number", input.name)));
        }
        let models =
            input.minus.iter().map(|(name, other)| (name, other)).chain([(&input.name, &input.checkpoint)]);
        for (name, checkpoint) in models {
            let (wanted, found) = (first.checkpoint.architecture, checkpoint.architecture);
            if wanted != found {
                let faults = vec![format!("{} is {wanted}, {name} is {found}", first.name)];
                return Err(AdapterError::DifferentModels { faults });
            }
        }
    }
    Ok(())
}

fn taken_whole(
    inputs: &[MixInput],
    index: usize,
    part: Part,
) -> std::result::Result<scumble_model::base::Component, String> {
    let (first, input) = (&inputs[0], &inputs[index]);
    let name = part.folder();
    let Some(component) = input.checkpoint.parts.get(&part) else {
        return Err(format!("{} has no {name}", input.name));
    };
    let rows =
        |checkpoint: &Checkpoint| checkpoint.parts.get(&part)?.weights.info(TABLE).map(|info| info.shape);
    let (here, there) = (rows(&first.checkpoint), rows(&input.checkpoint));
    if here != there {
        return Err(format!(
            "the {name} of {} has other learned tokens: a table of {there:?}, that of {} is {here:?}",
            input.name, first.name
        ));
    }
    Ok(component.clone())
}

/// The coefficients `(model or subtracted model, factor)` of a module.
fn coefficients(inputs: &[MixInput], path: &str) -> Vec<f64> {
    let weighted: f64 =
        inputs.iter().filter(|input| input.minus.is_none()).filter_map(|input| input.weight_on(path)).sum();
    let shares = inputs.iter().filter(|input| input.is_share()).count();
    let share = (1.0 - weighted) / shares.max(1) as f64;
    inputs.iter().map(|input| input.weight_on(path).unwrap_or(share)).collect()
}

/// One part of all models, summed.
fn mixed(
    inputs: &[MixInput],
    part: Part,
    threads: usize,
    backend: &Arc<dyn Backend>,
) -> std::result::Result<Mixed, Vec<String>> {
    let mut sources: Vec<(&str, Arc<dyn TensorSource>)> = Vec::new();
    let mut vocabulary = usize::MAX;
    for input in inputs {
        let minus = input.minus.iter().map(|(name, checkpoint)| (name, checkpoint));
        for (name, checkpoint) in std::iter::once((&input.name, &input.checkpoint)).chain(minus) {
            vocabulary = vocabulary.min(checkpoint.vocabulary(part).unwrap_or(usize::MAX));
            match checkpoint.parts.get(&part) {
                Some(component) => sources.push((name, Arc::clone(&component.weights))),
                None => {
                    let part = part.folder();
                    return Err(vec![format!("{name} has no {part}; take that of another model whole")]);
                }
            }
        }
    }
    let mut faults = Vec::new();
    let (first_name, first) = (sources[0].0, Arc::clone(&sources[0].1));
    for (name, source) in &sources[1..] {
        compare(part, (first_name, &*first), (name, &**source), &mut faults);
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut plans = BTreeMap::new();
    for tensor in first.names() {
        let factors = coefficients(inputs, &path_of(part, &tensor));
        let mut terms = Vec::new();
        let mut source = 0;
        for (input, factor) in inputs.iter().zip(factors) {
            terms.push(Term { source, factor });
            source += 1;
            if input.minus.is_some() {
                terms.push(Term { source, factor: -factor });
                source += 1;
            }
        }
        plans.insert(tensor, terms);
    }
    let sources = sources.into_iter().map(|(_, source)| source).collect();
    Ok(Mixed { sources, plans, vocabulary, threads, backend: Arc::clone(backend) })
}

/// The module that a tensor's block weight is looked up by.
fn path_of(part: Part, tensor: &str) -> String {
    let module = tensor.rsplit_once('.').map_or(tensor, |(module, _)| module);
    let module = if module.starts_with("text_model.embeddings.") { LAST_NORM } else { module };
    let tower = Tower::ALL.into_iter().find(|tower| crate::bake::part_of(*tower) == part);
    format!("{}.{module}", tower.map_or(part.folder(), Tower::prefix))
}

/// What keeps two models' parts from being added.
fn compare(
    part: Part,
    first: (&str, &dyn TensorSource),
    other: (&str, &dyn TensorSource),
    faults: &mut Vec<String>,
) {
    let names = |source: &dyn TensorSource| -> BTreeSet<String> { source.names().into_iter().collect() };
    let (here, there) = (names(first.1), names(other.1));
    let folder = part.folder();
    faults.extend(here.difference(&there).map(|name| format!("{} lacks {folder}.{name}", other.0)));
    faults.extend(there.difference(&here).map(|name| format!("{} lacks {folder}.{name}", first.0)));
    for name in here.intersection(&there) {
        let shape = |source: &dyn TensorSource| source.info(name).map(|info| info.shape).unwrap_or_default();
        let (a, b) = (shape(first.1), shape(other.1));
        let fewer = |index: usize| {
            a.len() == b.len() && (0..a.len()).all(|i| a[i] == b[i] || (i == index && a[i] > b[i]))
        };
        let fits = a == b
            || (name == TABLE && a.get(1) == b.get(1))
            || (part == Part::Unet && name == CONV_IN && fewer(1));
        if !fits {
            let hint = match part == Part::Unet && name == CONV_IN {
                true => "; where one takes more inputs, name it first",
                false => "",
            };
            faults.push(format!("{folder}.{name} is {a:?} in {} and {b:?} in {}{hint}", first.0, other.0));
        }
    }
}
