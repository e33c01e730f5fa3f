//! An adapter in memory.
//!
//! By module path, what is done to the module's weight `W [out, in]` (or `[out, in, kh, kw]`) and bias:
//!
//! ```text
//! W' = W + strength * dW      dW by kind: see [`Change`]; with DoRA see [`Magnitude`]
//! b' = b + strength * db
//! ```
//!
//! There is one scale rule, `alpha / r`. Dialects that have another (scale 1, or `alpha / sqrt(r)`) are turned into
//! it when read, so nothing behind the door has to know them. Tensors keep the type the file had.

mod factors;
mod hadamard;
mod kronecker;
mod low_rank;
mod magnitude;
mod product;
mod shapes;
#[cfg(test)]
mod tests;
mod tucker;

use std::collections::BTreeMap;

use scumble_tensor::{DType, Tensor};

use crate::error::{AdapterError, Result};
use crate::table::Tower;

pub use factors::{Change, ModuleFactors};
pub use hadamard::{HadamardFactors, HadamardSide};
pub use kronecker::{KroneckerFactor, KroneckerFactors};
pub use low_rank::LowRankFactors;
pub use magnitude::{Axis, Magnitude};
pub use tucker::TuckerFactors;

/// A set of changes to a base, with learned tokens and the file's own words about itself.
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    /// By module path with tower prefix, such as `unet.mid_block.attentions.0.proj_in`.
    pub modules: BTreeMap<String, ModuleFactors>,
    /// Learned tokens: text to rows `[n, d]`.
    pub tokens: BTreeMap<String, Tensor>,
    /// The rows of the same tokens for SDXL's second text encoder, `[n, d2]`.
    pub tokens_2: BTreeMap<String, Tensor>,
    /// Metadata of the file it came from, or for the file it goes to.
    pub metadata: BTreeMap<String, String>,
}

impl Adapter {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty() && self.tokens.is_empty() && self.tokens_2.is_empty()
    }

    /// Adds a low-rank pair.
    pub fn insert(&mut self, path: &str, down: Tensor, up: Tensor, alpha: f32) -> Result<()> {
        let factors = LowRankFactors::new(path, down, up, alpha)?;
        self.modules.insert(path.to_owned(), factors.into());
        Ok(())
    }

    /// The plain low-rank pairs, in path order. Modules of other kinds are passed over: whoever can serve pairs only
    /// asks [`Adapter::require_low_rank`] first.
    pub fn low_rank(&self) -> impl Iterator<Item = (&str, &LowRankFactors)> {
        self.modules.iter().filter_map(|(path, factors)| Some((path.as_str(), factors.low_rank()?)))
    }

    /// Errors on the first module that is more than a plain low-rank pair; `purpose` completes "cannot be ...".
    pub fn require_low_rank(&self, purpose: &'static str) -> Result<()> {
        match self.modules.iter().find(|(_, factors)| factors.low_rank().is_none()) {
            None => Ok(()),
            Some((path, factors)) => {
                Err(AdapterError::Kind { module: path.clone(), kind: factors.kind(), purpose })
            }
        }
    }

    /// Paths of one tower's modules.
    pub fn paths_of(&self, tower: Tower) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str).filter(move |path| Tower::of(path) == Some(tower))
    }

    /// The ranks that occur, ascending.
    pub fn ranks(&self) -> Vec<usize> {
        let ranks: std::collections::BTreeSet<usize> =
            self.modules.values().filter_map(ModuleFactors::rank).collect();
        ranks.into_iter().collect()
    }

    /// Errors on the first NaN or infinity.
    pub fn check_finite(&self) -> Result<()> {
        for (path, factors) in &self.modules {
            for (part, tensor) in factors.tensors() {
                check_finite(path, part, tensor)?;
            }
        }
        let tokens = self.tokens.iter().chain(&self.tokens_2);
        tokens.into_iter().try_for_each(|(token, rows)| check_finite(token, "token", rows))
    }

    /// All factors in another element type; tokens stay, as they are few and every dialect keeps them in f32.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let modules = self
            .modules
            .iter()
            .map(|(path, factors)| Ok((path.clone(), factors.to_dtype(dtype)?)))
            .collect::<Result<_>>()?;
        Ok(Self { modules, ..self.clone() })
    }
}

fn check_finite(module: &str, part: &'static str, tensor: &Tensor) -> Result<()> {
    let count = tensor.to_vec::<f64>()?.iter().filter(|value| !value.is_finite()).count();
    if count == 0 { Ok(()) } else { Err(AdapterError::NotFinite { module: module.into(), part, count }) }
}
