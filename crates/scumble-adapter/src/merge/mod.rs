//! Several adapters into one.
//!
//! | mode | per module, with weights `w_i` and deltas `dW_i = (alpha / r) up_i @ down_i` |
//! |---|---|
//! | lpl | factors averaged: `up = sum w_i up_i`, `down = sum w_i down_i`; the original's rule, with cross terms |
//! | ljl, concat | factors stacked along the rank: exactly `sum w_i dW_i`, ranks add up |
//! | exact | `sum w_i dW_i` at the rank asked for, by QR of the stacked factors and a small SVD |
//! | ties, dare, dare-ties, magnitude | on the dense deltas (see [`sparse`]), then the best approximation of a rank |
//!
//! Norms and biases are weighted sums in every mode. Kinds other than plain low-rank pairs (LoCon cores, LoHa, LoKr, full
//! differences) are taken as dense deltas, one module at a time, and come out as low-rank pairs; a single one that is
//! taken whole stays what it is. DoRA is refused: its effect depends on the base.
//!
//! A module that only some inputs have is the sum over those. Results depend on the order of the inputs only by
//! rounding, by the names that colliding tokens get, and, with DARE, by which random numbers an input meets.
//!
//! ```
//! use scumble_adapter::merge::{Input, MergeOptions, Weights, merge};
//! use scumble_adapter::rank::RankRule;
//! use scumble_adapter::{Adapter, architecture::Architecture};
//! use scumble_tensor::{Tensor, reference::ReferenceBackend};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let table = Architecture::Sd1.table()?;
//! let path = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k";
//! let filled = |value: f32, dims: &[usize]| Tensor::from_slice(&vec![value; dims.iter().product()], dims);
//! let (mut style, mut cat) = (Adapter::default(), Adapter::default());
//! style.insert(path, filled(0.1, &[1, 768])?, filled(1.0, &[1280, 1])?, 1.0)?;
//! cat.insert(path, filled(0.3, &[2, 768])?, filled(1.0, &[1280, 2])?, 2.0)?;
//!
//! let inputs = [
//!     Input { name: "style".into(), adapter: &style, weights: Weights::all(0.5) },
//!     Input { name: "cat".into(), adapter: &cat, weights: Weights::all(2.0) },
//! ];
//! let options = MergeOptions { rank: RankRule::Fixed(4), ..MergeOptions::default() };
//! let merged = merge(&inputs, &table, &options, &ReferenceBackend, &|_| ())?;
//!
//! // All rows are alike, so rank 1 holds the sum: 0.5 * 0.1 + 2 * 2 * 0.3 in every entry.
//! let pair = merged.adapter.modules[path].low_rank().ok_or("a pair")?;
//! assert_eq!(pair.rank(), 1);
//! assert!((pair.delta()?.to_vec::<f32>()?[0] - 1.25).abs() < 1e-5);
//! assert!(merged.report.kept() > 0.999_999);
//! # Ok(())
//! # }
//! ```

pub(crate) mod exact;
mod factors;
pub(crate) mod full;
pub mod recipe;
pub mod sparse;
pub(crate) mod tokens;
pub mod weights;

use std::collections::BTreeMap;

use scumble_tensor::{Backend, DType};

use crate::adapter::{Adapter, Change, LowRankFactors, ModuleFactors};
use crate::error::{AdapterError, Result};
use crate::parallel::{self, OnDone};
use crate::rank::{LossReport, ModuleLoss, RankRule};
use crate::rounding;
use crate::table::{Module, ModuleTable};

pub use tokens::Renamed;
pub use weights::Weights;

/// How factors or deltas are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Weighted average of the factors of two adapters.
    Lpl,
    /// Factors side by side, tokens renamed as the original does (`<s0-0>`, `<s1-0>`, ...).
    Ljl,
    /// Factors side by side, tokens renamed where they collide.
    Concat,
    /// Weighted sum of the deltas.
    Exact,
    /// TIES: small entries dropped, signs elected, agreeing entries averaged.
    Ties,
    /// DARE: random entries dropped, the others scaled up, then summed.
    Dare,
    /// DARE's dropping, then TIES' election.
    DareTies,
    /// Small entries dropped, then summed.
    Magnitude,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 8] = [
        Mode::Lpl,
        Mode::Ljl,
        Mode::Concat,
        Mode::Exact,
        Mode::Ties,
        Mode::Dare,
        Mode::DareTies,
        Mode::Magnitude,
    ];

    /// The name users type.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Lpl => "lpl",
            Mode::Ljl => "ljl",
            Mode::Concat => "concat",
            Mode::Exact => "exact",
            Mode::Ties => "ties",
            Mode::Dare => "dare",
            Mode::DareTies => "dare-ties",
            Mode::Magnitude => "magnitude",
        }
    }

    /// The mode of a name.
    pub fn from_name(name: &str) -> Result<Self> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| AdapterError::Selection {
            what: format!(
                "there is no merge mode `{name}`; there are {}",
                Mode::ALL.map(Mode::name).join(", ")
            ),
        })
    }

    /// Whether it drops entries of dense deltas, so that a density counts.
    pub const fn is_sparse(self) -> bool {
        matches!(self, Mode::Ties | Mode::Dare | Mode::DareTies | Mode::Magnitude)
    }
}

/// One adapter and how much of it.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// What it is called in messages and metadata: normally the file's name.
    pub name: String,
    /// The adapter.
    pub adapter: &'a Adapter,
    /// Its weights.
    pub weights: Weights,
}

/// How to merge.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// The mode.
    pub mode: Mode,
    /// Rank of the result; lpl and concatenation have no choice.
    pub rank: RankRule,
    /// Fraction of the entries that the sparse modes keep, more than 0 and at most 1.
    pub density: f64,
    /// Seed of what is drawn: DARE's entries and the range finder's start.
    pub seed: u64,
    /// Element type of the factors; `None` is the inputs' where they agree, else f32.
    pub dtype: Option<DType>,
    /// Threads to use. The result does not depend on it.
    pub threads: usize,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self { mode: Mode::Exact, rank: RankRule::Lossless, density: 0.5, seed: 0, dtype: None, threads: 1 }
    }
}

/// A merged adapter and what merging did.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The result.
    pub adapter: Adapter,
    /// Per module what the rank lost, before rounding to the element type.
    pub report: LossReport,
    /// Tokens that have another name in the result.
    pub renamed: Vec<Renamed>,
}

/// One input's part of one module.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    /// Which input.
    pub input: usize,
    /// Its weight on this module.
    pub weight: f64,
    /// Its factors.
    pub factors: &'a ModuleFactors,
}

impl<'a> Term<'a> {
    /// The change of the weight, if there is one; the weight on it may be 0.
    fn change(&self) -> Option<&'a Change> {
        self.factors.change()
    }
}

/// Merges adapters for the base that `table` describes; all work on matrices goes to `backend` or stays small.
///
/// `backend` is used by several threads at once: one without threads of its own is best. `on_done` hears how many
/// modules are finished.
pub fn merge(
    inputs: &[Input<'_>],
    table: &ModuleTable,
    options: &MergeOptions,
    backend: &dyn Backend,
    on_done: OnDone<'_>,
) -> Result<Merged> {
    check(inputs, table, options)?;
    let modules = modules_of(inputs, table)?;
    let merged = parallel::map(options.threads, &modules, on_done, |(module, terms)| {
        let (factors, loss) = merge_module(module, terms, options, backend)?;
        let dtype = options.dtype.unwrap_or_else(|| common_dtype(terms));
        let stored = factors.to_dtype(dtype)?;
        check_finite(&module.path, &stored, dtype)?;
        let moved = rounding::moved(&factors, &stored)?;
        Ok((module.path.clone(), stored, loss, moved))
    })?;
    let tokens = tokens::gather(inputs, options.mode)?;
    let (mut adapter, mut report) =
        (Adapter { metadata: common_metadata(inputs), ..tokens.adapter }, LossReport::default());
    for (path, factors, loss, moved) in merged {
        adapter.modules.insert(path, factors);
        report.modules.extend(loss);
        report.rounding = report.rounding.max(moved);
    }
    let renamed = tokens.renamed;
    describe(&mut adapter.metadata, inputs, &renamed);
    Ok(Merged { adapter, report, renamed })
}

/// Weight and bias of one module; no loss where only the bias changes.
fn merge_module(
    module: &Module,
    terms: &[Term<'_>],
    options: &MergeOptions,
    backend: &dyn Backend,
) -> Result<(ModuleFactors, Option<ModuleLoss>)> {
    if let Some(term) = terms.iter().find(|term| term.factors.magnitude().is_some()) {
        return Err(AdapterError::Factors {
            module: module.path.clone(),
            what: format!(
                "a {} in input {}: how far it moves a weight depends on the base, so it cannot be added to others; bake it into the model instead",
                term.factors.kind(),
                term.input + 1
            ),
        });
    }
    let changing: Vec<Term<'_>> = terms.iter().filter(|term| term.change().is_some()).copied().collect();
    let merged = match changing.as_slice() {
        [] => None,
        _ if module.is_norm() => Some(full::weighted_sum(module, &changing)?),
        changing => Some(match options.mode {
            Mode::Lpl => factors::average(module, changing)?,
            Mode::Ljl | Mode::Concat => factors::concatenate(module, changing)?,
            Mode::Exact => exact::weighted_sum(module, changing, options, backend)?,
            Mode::Ties | Mode::Dare | Mode::DareTies | Mode::Magnitude => {
                sparse::combine(module, changing, options, backend)?
            }
        }),
    };
    let (change, loss) = merged.map_or((None, None), |(change, loss)| (Some(change), Some(loss)));
    let bias = full::weighted_bias(terms)?;
    Ok((ModuleFactors::new(&module.path, change, bias, None)?, loss))
}

/// What can be refused before any work.
fn check(inputs: &[Input<'_>], table: &ModuleTable, options: &MergeOptions) -> Result<()> {
    let fault = |what: String| Err(AdapterError::Selection { what });
    options.rank.check()?;
    if inputs.is_empty() {
        return fault("nothing to merge: give one or more adapters".into());
    }
    if options.mode == Mode::Lpl && inputs.len() != 2 {
        return fault(format!("lpl averages two adapters, not {}; use `exact` or `concat`", inputs.len()));
    }
    if matches!(options.mode, Mode::Lpl | Mode::Ljl | Mode::Concat) && options.rank != RankRule::Lossless {
        return fault(format!(
            "{} takes the ranks of its inputs; use `exact` for a rank of your choice",
            options.mode.name()
        ));
    }
    if options.mode.is_sparse() {
        if !(options.density > 0.0 && options.density <= 1.0) {
            return fault(format!("a density of {} is none; use more than 0 and at most 1", options.density));
        }
        if !matches!(options.rank, RankRule::Fixed(_) | RankRule::Energy(_) | RankRule::Norm(_)) {
            return fault(format!(
                "what {} makes has no small rank by itself; give a rank, or an energy or norm to keep",
                options.mode.name()
            ));
        }
    }
    for input in inputs {
        input.weights.check(&input.name)?;
        input.adapter.check_finite()?;
    }
    if let RankRule::Fixed(rank) = options.rank {
        let most = inputs.iter().flat_map(|input| input.adapter.modules.keys());
        let most = most.filter_map(|path| table.get(path)).map(Module::max_rank).max().unwrap_or(rank);
        if rank > most {
            return fault(format!("rank {rank} is larger than any module can have; {most} is the most"));
        }
    }
    Ok(())
}

/// Every module that an input changes, with the inputs' parts. Those of weight 0 are among them: lpl needs both of its
/// inputs, and with TIES they vote on the signs.
fn modules_of<'a, 't>(
    inputs: &[Input<'a>],
    table: &'t ModuleTable,
) -> Result<Vec<(&'t Module, Vec<Term<'a>>)>> {
    let mut modules: BTreeMap<&str, (&Module, Vec<Term<'a>>)> = BTreeMap::new();
    let mut faults = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        for (path, factors) in &input.adapter.modules {
            let fitted = match table.get(path) {
                Some(module) => factors.shaped_for(module).map(|_| module),
                None => Err("the base has no such module".into()),
            };
            match fitted {
                Ok(module) => {
                    let term = Term { input: index, weight: input.weights.of(path), factors };
                    modules.entry(path).or_insert_with(|| (module, Vec::new())).1.push(term);
                }
                Err(fault) => faults.push(format!("{}: {path}: {fault}", input.name)),
            }
        }
    }
    if !faults.is_empty() {
        return Err(AdapterError::WrongBase { faults, guess: None });
    }
    Ok(modules.into_values().collect())
}

/// The inputs' element type where they agree.
fn common_dtype(terms: &[Term<'_>]) -> DType {
    let mut types = terms.iter().flat_map(|term| term.factors.tensors()).map(|(_, tensor)| tensor.dtype());
    let first = types.next().unwrap_or(DType::F32);
    if types.all(|dtype| dtype == first) { first } else { DType::F32 }
}

fn check_finite(path: &str, factors: &ModuleFactors, dtype: DType) -> Result<()> {
    for (_, tensor) in factors.tensors() {
        if tensor.to_vec::<f32>()?.iter().any(|value| !value.is_finite()) {
            return Err(AdapterError::Factors {
                module: path.into(),
                what: format!("a merged value is too large for {dtype}; use smaller weights, or write f32"),
            });
        }
    }
    Ok(())
}

/// A module that changes nothing.
pub(crate) fn nothing(module: &Module) -> Result<LowRankFactors> {
    let (down, up) = LowRankFactors::shapes_for(module, 1);
    let zeros = |dims: &[usize]| scumble_tensor::Tensor::zeros(DType::F32, dims);
    LowRankFactors::new(&module.path, zeros(&down)?, zeros(&up)?, 1.0)
}

/// What a mode without loss reports.
pub(crate) fn without_loss(module: &Module, rank: usize, norm: f64) -> ModuleLoss {
    ModuleLoss { path: module.path.clone(), rank_before: Some(rank), rank, norm, error: 0.0 }
}

/// What all inputs say alike, without what only held for the files they came from.
fn common_metadata(inputs: &[Input<'_>]) -> BTreeMap<String, String> {
    let Some((first, others)) = inputs.split_first() else { return BTreeMap::new() };
    let belongs_to_file = |key: &str| {
        key.starts_with("sshs_")
            || ["ss_session_id", "ss_output_name", "modelspec.title", "modelspec.date"].contains(&key)
    };
    let shared = first.adapter.metadata.iter().filter(|(key, value)| {
        (!belongs_to_file(key) || others.is_empty())
            && others.iter().all(|other| other.adapter.metadata.get(*key) == Some(value))
    });
    shared.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Says in the metadata what the result is made of.
fn describe(metadata: &mut BTreeMap<String, String>, inputs: &[Input<'_>], renamed: &[Renamed]) {
    let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    metadata.insert("modelspec.merged_from".into(), names.join(", "));
    if !renamed.is_empty() {
        let entries: Vec<serde_json::Value> = renamed
            .iter()
            .map(|renamed| {
                serde_json::json!({ "file": inputs[renamed.input].name, "was": renamed.from, "is": renamed.to })
            })
            .collect();
        metadata.insert("scumble_renamed_tokens".into(), serde_json::Value::Array(entries).to_string());
    }
}
