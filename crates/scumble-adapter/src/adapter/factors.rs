//! What an adapter does to one module, whatever its kind.
//!
//! A change of the weight of one of the kinds in [`Change`], a difference for the bias, and the DoRA magnitude as a
//! decoration of the change. Norm layers know only differences.

use scumble_tensor::{DType, Tensor};

use super::hadamard::{HadamardFactors, NAMES};
use super::kronecker::{KroneckerFactor, KroneckerFactors, W1, W2};
use super::low_rank::LowRankFactors;
use super::magnitude::Magnitude;
use super::shapes::{check_float, expect_dims, finite_alpha, invalid};
use super::tucker::TuckerFactors;
use crate::error::{AdapterError, Result};
use crate::table::Module;

/// The change of a weight.
#[derive(Clone, Debug)]
pub enum Change {
    /// A plain product of two factors: LoRA, and LoCon on convolutions.
    LowRank(LowRankFactors),
    /// LoCon with the kernel in a core.
    Tucker(TuckerFactors),
    /// LoHa.
    Hadamard(HadamardFactors),
    /// LoKr.
    Kronecker(KroneckerFactors),
    /// The difference itself, `[out, in]`, `[out, in, kh, kw]`, or `[n]` of a norm layer; it has no alpha.
    Full(Tensor),
}

impl Change {
    /// The change as f32 `[out, in * kh * kw]` (norm: `[n, 1]`), the scale multiplied in.
    pub fn delta(&self) -> Result<Tensor> {
        match self {
            Change::LowRank(factors) => factors.delta(),
            Change::Tucker(factors) => factors.delta(),
            Change::Hadamard(factors) => factors.delta(),
            Change::Kronecker(factors) => factors.delta(),
            Change::Full(diff) => {
                let rows = diff.shape().first();
                Ok(diff.to_dtype(DType::F32)?.reshape(&[rows, diff.numel() / rows.max(1)])?)
            }
        }
    }

    /// Rank; `None` for what has none (a difference, a Kronecker product of whole matrices).
    pub fn rank(&self) -> Option<usize> {
        match self {
            Change::LowRank(factors) => Some(factors.rank()),
            Change::Tucker(factors) => Some(factors.rank()),
            Change::Hadamard(factors) => Some(factors.rank()),
            Change::Kronecker(factors) => factors.rank(),
            Change::Full(_) => None,
        }
    }

    /// Alpha of the scale; `None` for a difference.
    pub fn alpha(&self) -> Option<f32> {
        match self {
            Change::LowRank(factors) => Some(factors.alpha()),
            Change::Tucker(factors) => Some(factors.alpha()),
            Change::Hadamard(factors) => Some(factors.alpha()),
            Change::Kronecker(factors) => Some(factors.alpha()),
            Change::Full(_) => None,
        }
    }

    /// What the product is multiplied with at strength 1.
    pub fn scale(&self) -> f32 {
        match self {
            Change::LowRank(factors) => factors.scale(),
            Change::Tucker(factors) => factors.scale(),
            Change::Hadamard(factors) => factors.scale(),
            Change::Kronecker(factors) => factors.scale(),
            Change::Full(_) => 1.0,
        }
    }

    /// The name of the kind in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Change::LowRank(_) => "LoRA",
            Change::Tucker(_) => "LoCon with core",
            Change::Hadamard(_) => "LoHa",
            Change::Kronecker(_) => "LoKr",
            Change::Full(_) => "full difference",
        }
    }

    /// Its tensors, with the names of their parts.
    pub fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Change::LowRank(f) => vec![("down", &f.down), ("up", &f.up)],
            Change::Tucker(f) => vec![("down", &f.down), ("mid", &f.mid), ("up", &f.up)],
            Change::Hadamard(f) => f
                .sides
                .iter()
                .zip(NAMES)
                .flat_map(|(side, [a, b, core])| {
                    [Some((a, &side.a)), Some((b, &side.b)), side.core.as_ref().map(|t| (core, t))]
                })
                .flatten()
                .collect(),
            Change::Kronecker(f) => {
                let mut tensors = f.w1.tensors(W1);
                tensors.extend(f.w2.tensors(W2));
                tensors
            }
            Change::Full(diff) => vec![("diff", diff)],
        }
    }

    fn shaped_for(&self, module: &Module) -> std::result::Result<Self, String> {
        if module.is_norm() && !matches!(self, Change::Full(_)) {
            return Err(format!("a norm takes a difference only, not {}", self.kind()));
        }
        Ok(match self {
            Change::LowRank(factors) => Change::LowRank(factors.shaped_for(module)?),
            Change::Tucker(factors) => Change::Tucker(factors.shaped_for(module)?),
            Change::Hadamard(factors) => Change::Hadamard(factors.shaped_for(module)?),
            Change::Kronecker(factors) => Change::Kronecker(factors.shaped_for(module)?),
            Change::Full(diff) => Change::Full(expect_dims("diff", diff, &module.weight_dims())?),
        })
    }

    /// The change times `weight`, of the same kind. Alpha takes the weight; where none counts (a difference, a Kronecker
    /// product of whole matrices) the numbers are multiplied and become f32.
    ///
    /// Errors if alpha becomes infinite.
    pub fn scaled(&self, module: &str, weight: f64) -> Result<Self> {
        if weight == 1.0 {
            return Ok(self.clone());
        }
        let times = |alpha: f32| {
            let alpha = (f64::from(alpha) * weight) as f32;
            finite_alpha(module, alpha).map(|()| alpha)
        };
        let multiplied = |tensor: &Tensor| -> Result<Tensor> {
            let values = tensor.to_vec::<f64>()?.into_iter().map(|value| (value * weight) as f32);
            Ok(Tensor::from_slice(&values.collect::<Vec<_>>(), tensor.dims())?)
        };
        let mut scaled = self.clone();
        match &mut scaled {
            Change::LowRank(factors) => factors.alpha = times(factors.alpha)?,
            Change::Tucker(factors) => factors.alpha = times(factors.alpha)?,
            Change::Hadamard(factors) => factors.alpha = times(factors.alpha)?,
            Change::Kronecker(KroneckerFactors {
                w1: KroneckerFactor::Whole(w1),
                w2: KroneckerFactor::Whole(_),
                ..
            }) => *w1 = multiplied(w1)?,
            Change::Kronecker(factors) => factors.alpha = times(factors.alpha)?,
            Change::Full(diff) => *diff = multiplied(diff)?,
        }
        Ok(scaled)
    }

    /// The same kind with other tensors: `f` gets each with the name of its part, as [`Change::tensors`] lists them.
    pub fn map(&self, f: &dyn Fn(&'static str, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let mut mapped = self.clone();
        match &mut mapped {
            Change::LowRank(factors) => {
                factors.down = f("down", &factors.down)?;
                factors.up = f("up", &factors.up)?;
            }
            Change::Tucker(factors) => {
                factors.down = f("down", &factors.down)?;
                factors.mid = f("mid", &factors.mid)?;
                factors.up = f("up", &factors.up)?;
            }
            Change::Hadamard(factors) => {
                for (side, [a, b, core]) in factors.sides.iter_mut().zip(NAMES) {
                    side.a = f(a, &side.a)?;
                    side.b = f(b, &side.b)?;
                    side.core = side.core.as_ref().map(|tensor| f(core, tensor)).transpose()?;
                }
            }
            Change::Kronecker(factors) => {
                factors.w1 = factors.w1.map_named(W1, f)?;
                factors.w2 = factors.w2.map_named(W2, f)?;
            }
            Change::Full(diff) => *diff = f("diff", diff)?,
        }
        Ok(mapped)
    }

    fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(match self {
            Change::LowRank(factors) => Change::LowRank(factors.to_dtype(dtype)?),
            Change::Tucker(factors) => Change::Tucker(factors.to_dtype(dtype)?),
            Change::Hadamard(factors) => Change::Hadamard(factors.to_dtype(dtype)?),
            Change::Kronecker(factors) => Change::Kronecker(factors.to_dtype(dtype)?),
            Change::Full(diff) => Change::Full(diff.to_dtype(dtype)?),
        })
    }
}

/// Everything an adapter does to one module.
#[derive(Clone, Debug)]
pub struct ModuleFactors {
    change: Option<Change>,
    bias: Option<Tensor>,
    magnitude: Option<Magnitude>,
}

impl From<LowRankFactors> for ModuleFactors {
    fn from(factors: LowRankFactors) -> Self {
        Change::LowRank(factors).into()
    }
}

impl From<Change> for ModuleFactors {
    fn from(change: Change) -> Self {
        Self { change: Some(change), bias: None, magnitude: None }
    }
}

impl ModuleFactors {
    /// Puts the parts together: at least a change or a bias, and no magnitude without a change.
    pub fn new(
        module: &str,
        change: Option<Change>,
        bias: Option<Tensor>,
        magnitude: Option<Magnitude>,
    ) -> Result<Self> {
        if let Some(Change::Full(diff)) = &change {
            check_float(module, "diff", diff)?;
        }
        if let Some(bias) = &bias {
            check_float(module, "bias", bias)?;
            if bias.numel() != bias.shape().first() {
                return Err(invalid(module, format!("bias has shape {}, expected [out]", bias.shape())));
            }
        }
        match (&change, &bias, &magnitude) {
            (None, _, Some(_)) => Err(invalid(module, "a DoRA scale without factors".into())),
            (None, None, None) => Err(invalid(module, "no factors".into())),
            _ => Ok(Self { change, bias, magnitude }),
        }
    }

    /// The change of the weight; `None` where only the bias changes.
    pub fn change(&self) -> Option<&Change> {
        self.change.as_ref()
    }

    /// What is added to the module's bias, `[out]`; it has no alpha.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The DoRA magnitude.
    pub fn magnitude(&self) -> Option<&Magnitude> {
        self.magnitude.as_ref()
    }

    /// The low-rank pair, if that is all it is.
    pub fn low_rank(&self) -> Option<&LowRankFactors> {
        match self {
            Self { change: Some(Change::LowRank(factors)), bias: None, magnitude: None } => Some(factors),
            _ => None,
        }
    }

    /// The name of the kind in messages, such as `LoHa with DoRA`.
    pub fn kind(&self) -> String {
        let change = self.change.as_ref().map_or("bias difference", Change::kind);
        let dora = if self.magnitude.is_some() { " with DoRA" } else { "" };
        let bias = if self.change.is_some() && self.bias.is_some() { " with bias" } else { "" };
        format!("{change}{dora}{bias}")
    }

    /// Rank of the change, if it has one.
    pub fn rank(&self) -> Option<usize> {
        self.change.as_ref().and_then(Change::rank)
    }

    /// Numbers stored.
    pub fn elements(&self) -> usize {
        self.tensors().iter().map(|(_, tensor)| tensor.numel()).sum()
    }

    /// All tensors with the names of their parts.
    pub fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        let mut tensors = self.change.as_ref().map(Change::tensors).unwrap_or_default();
        tensors.extend(self.bias.as_ref().map(|bias| ("bias", bias)));
        tensors.extend(self.magnitude.as_ref().map(|magnitude| ("magnitude", magnitude.values())));
        tensors
    }

    /// The change of the weight as f32 `[out, in * kh * kw]` at strength 1; `None` where only the bias changes.
    /// With DoRA it depends on the base, so [`ModuleFactors::delta_on`] is asked instead and this is an error.
    pub fn delta(&self, module: &str) -> Result<Option<Tensor>> {
        match (&self.change, &self.magnitude) {
            (Some(_), Some(_)) => Err(AdapterError::NeedsBase { module: module.into() }),
            (change, _) => change.as_ref().map(Change::delta).transpose(),
        }
    }

    /// As [`ModuleFactors::delta`], with the base weight `[out, in]` or `[out, in, kh, kw]` at hand: exact for every
    /// kind.
    pub fn delta_on(&self, module: &str, base: &Tensor) -> Result<Option<Tensor>> {
        let delta = self.change.as_ref().map(Change::delta).transpose()?;
        match (delta, &self.magnitude) {
            (Some(delta), Some(magnitude)) => Ok(Some(magnitude.delta_on(module, base, &delta)?)),
            (delta, _) => Ok(delta),
        }
    }

    /// The same factors in exactly the shapes of `module`; a linear layer and a 1x1 convolution may stand for each
    /// other. `Err` says what was expected.
    pub fn shaped_for(&self, module: &Module) -> std::result::Result<Self, String> {
        let change = self.change.as_ref().map(|change| change.shaped_for(module)).transpose()?;
        let bias = self.bias.as_ref().map(|bias| expect_dims("bias", bias, &[module.outputs])).transpose()?;
        if let Some(magnitude) = &self.magnitude {
            magnitude.fits(module)?;
        }
        Ok(Self { change, bias, magnitude: self.magnitude.clone() })
    }

    /// The same kind with other tensors, see [`Change::map`]; a bias is `bias`, a magnitude `magnitude`.
    pub fn map(&self, f: &dyn Fn(&'static str, &Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            change: self.change.as_ref().map(|change| change.map(f)).transpose()?,
            bias: self.bias.as_ref().map(|bias| f("bias", bias)).transpose()?,
            magnitude: self.magnitude.as_ref().map(|magnitude| magnitude.map(f)).transpose()?,
        })
    }

    /// All tensors in another element type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self {
            change: self.change.as_ref().map(|change| change.to_dtype(dtype)).transpose()?,
            bias: self.bias.as_ref().map(|bias| bias.to_dtype(dtype)).transpose()?,
            magnitude: self.magnitude.as_ref().map(|magnitude| magnitude.to_dtype(dtype)).transpose()?,
        })
    }
}
