//! Fresh adapters for training, and trained ones out of the model.
//!
//! A [`Recipe`] says what each chosen module gets and how it starts ([`start`]); [`TrainableLora`] holds what an optimizer
//! changes. Every module draws from a stream of its own name, so that neither order nor the choice of other modules
//! moves its numbers.

mod factorization;
mod start;
mod trainable;

use scumble_tensor::rng::stream;
use scumble_tensor::{Backend, Tensor};

use crate::adapter::{Adapter, Axis, Change, Magnitude, ModuleFactors};
use crate::attach::Towers;
use crate::error::{AdapterError, Result};
use crate::select::Targets;
use crate::table::{Module, ModuleTable};

pub use factorization::factorization;
pub use trainable::{TrainableLora, TrainableModule};

/// How a low-rank pair starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// `down` normal with standard deviation `1 / rank`, `up` zero.
    #[default]
    Normal,
    /// `down` uniform within `+- 1 / sqrt(inputs of one output)`, `up` zero.
    Kaiming,
    /// Both random and their product zero: rows of one orthogonal matrix, odd ones in `down`, even ones in `up`. The rank
    /// must be even.
    Orthogonal,
    /// The leading singular vectors of the base weight (PiSSA). What the factors do counts from here on, see
    /// [`TrainableLora::counted_from_start`].
    Principal,
}

/// How LoKr cuts its matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KroneckerOptions {
    /// Wished-for size of the small matrix; `None` makes both as equal as can be. See [`factorization`].
    pub factor: Option<usize>,
    /// Keep both matrices whole, whatever the rank.
    pub whole: bool,
    /// Let the small matrix be a product as well where the rank is small enough.
    pub both: bool,
}

/// What each chosen module gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A low-rank pair: LoRA, and LoCon on convolutions.
    LowRank(Init),
    /// A pair and the length of each output's row apart: DoRA.
    Decomposed(Init),
    /// The elementwise product of two low-rank products: LoHa.
    Hadamard,
    /// A Kronecker product: LoKr.
    Kronecker(KroneckerOptions),
}

impl Default for Kind {
    fn default() -> Self {
        Kind::LowRank(Init::default())
    }
}

impl From<Init> for Kind {
    fn from(init: Init) -> Self {
        Kind::LowRank(init)
    }
}

impl Kind {
    /// Whether its start depends on the base weights.
    pub fn needs_base(self) -> bool {
        matches!(self, Kind::LowRank(Init::Principal) | Kind::Decomposed(_))
    }
}

/// An untrained adapter of one kind for the chosen modules: f32 factors, drawn by `seed`. Errors for kinds whose start
/// depends on the base weights; see [`fresh_on`].
pub fn fresh(targets: &Targets, table: &ModuleTable, kind: impl Into<Kind>, seed: u64) -> Result<Adapter> {
    make(targets, table, kind.into(), seed, &|module| {
        Err(AdapterError::NeedsBase { module: module.path.clone() })
    })
}

/// As [`fresh`], with the models at hand that it is for: every kind.
pub fn fresh_on(
    targets: &Targets,
    towers: Towers<'_>,
    kind: Kind,
    seed: u64,
    backend: &dyn Backend,
) -> Result<Adapter> {
    let on_base = |module: &Module| start::OnBase::new(module, towers, backend);
    make(targets, &towers.table(), kind, seed, &on_base)
}

fn make<'b>(
    targets: &Targets,
    table: &ModuleTable,
    kind: Kind,
    seed: u64,
    on_base: &dyn Fn(&Module) -> Result<start::OnBase<'b>>,
) -> Result<Adapter> {
    let mut adapter = Adapter::default();
    for chosen in targets.choose(table)? {
        let (module, path) = (chosen.module, &chosen.module.path);
        let mut random = stream(seed, &format!("lora init {path}"));
        let (change, magnitude): (Change, Option<Tensor>) = match kind {
            Kind::LowRank(Init::Principal) => {
                (Change::LowRank(on_base(module)?.principal(&chosen, random)?), None)
            }
            Kind::LowRank(init) => (Change::LowRank(start::pair(&chosen, init, &mut random)?), None),
            Kind::Decomposed(init) => {
                let norms = on_base(module)?.norms()?;
                (Change::LowRank(start::pair(&chosen, init, &mut random)?), Some(norms))
            }
            Kind::Hadamard => (Change::Hadamard(start::hadamard(&chosen, &mut random)?), None),
            Kind::Kronecker(options) => {
                (Change::Kronecker(start::kronecker(&chosen, options, &mut random)?), None)
            }
        };
        let magnitude = magnitude.map(|norms| Magnitude::new(path, &norms, Axis::Output)).transpose()?;
        let factors = ModuleFactors::new(path, Some(change), None, magnitude)?;
        adapter.modules.insert(path.clone(), factors);
    }
    Ok(adapter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Architecture;
    use crate::select::{Preset, TowerTargets};
    use crate::table::Tower;

    fn targets(preset: Preset, rank: usize) -> Targets {
        let towers = vec![TowerTargets::new(Tower::UNet, preset, rank, 2.0)];
        Targets { towers, ..Targets::default() }
    }

    const MODULE: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k";

    #[test]
    fn a_modules_numbers_depend_on_its_name_alone() {
        let table = Architecture::Sd1.table().unwrap();
        let down = |preset, seed| {
            let adapter = fresh(&targets(preset, 4), &table, Init::Normal, seed).unwrap();
            adapter.modules[MODULE].low_rank().unwrap().down().to_vec::<f32>().unwrap()
        };
        let first = down(Preset::Attention, 7);
        assert_eq!(first, down(Preset::AllLinear, 7));
        assert_ne!(first, down(Preset::Attention, 8));
    }

    #[test]
    fn starting_values() {
        let table = Architecture::Sd1.table().unwrap();
        let deviation = |init, rank| {
            let adapter = fresh(&targets(Preset::Attention, rank), &table, init, 1).unwrap();
            let pair = adapter.modules[MODULE].low_rank().unwrap();
            assert!(pair.up().to_vec::<f32>().unwrap().iter().all(|&value| value == 0.0));
            assert_eq!(pair.scale(), 2.0 / rank as f32);
            let values = pair.down().to_vec::<f64>().unwrap();
            (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
        };
        assert!((deviation(Init::Normal, 16) * 16.0 - 1.0).abs() < 0.03);
        // A uniform number within +-b has deviation b / sqrt 3.
        let bound = 1.0 / (768f64).sqrt();
        assert!((deviation(Init::Kaiming, 16) / (bound / 3f64.sqrt()) - 1.0).abs() < 0.03);
    }
}
