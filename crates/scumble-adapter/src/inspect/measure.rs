//! What one module's change amounts to: its norm, and numbers that should not be there.
//!
//! The Frobenius norm of a plain pair needs no delta, `|up down|^2 = sum_ij (up^T up)_ij (down down^T)_ij`, and that of
//! a Kronecker product is the product of the norms. LoHa and LoCon cores are multiplied out, one module a thread.

use scumble_tensor::Tensor;
use serde::Serialize;

use crate::adapter::{Change, ModuleFactors};
use crate::error::Result;
use crate::linalg::Matrix;
use crate::linalg::matrix::dot;

/// One changed module.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleSummary {
    /// Its path.
    pub path: String,
    /// `LoRA`, `LoHa`, ...
    pub kind: String,
    /// Rank; none for what has none.
    pub rank: Option<usize>,
    /// Alpha; none for a difference.
    pub alpha: Option<f32>,
    /// What the product is multiplied with at strength 1.
    pub scale: f32,
    /// Element type of its largest tensor.
    pub dtype: String,
    /// Frobenius norm of the change at strength 1, without DoRA's magnitude; none where numbers are not finite.
    pub norm: Option<f64>,
    /// Numbers stored.
    pub numbers: usize,
    /// How many of them are not finite, by part.
    pub not_finite: Vec<(&'static str, usize)>,
    /// Parts that hold nothing but zeros.
    pub zero: Vec<&'static str>,
    /// Whether up and down have the same largest magnitude, which is the mark of a limit put on both.
    #[serde(skip)]
    pub limited_alike: bool,
}

impl ModuleSummary {
    /// Measures a module.
    pub(super) fn of(path: &str, factors: &ModuleFactors) -> Result<Self> {
        let (mut not_finite, mut zero, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        for (part, tensor) in factors.tensors() {
            let numbers = tensor.to_vec::<f32>()?;
            let bad = numbers.iter().filter(|value| !value.is_finite()).count();
            if bad > 0 {
                not_finite.push((part, bad));
            }
            let peak = numbers.iter().fold(0f32, |peak, value| peak.max(value.abs()));
            if peak == 0.0 && bad == 0 {
                zero.push(part);
            }
            peaks.push(peak);
        }
        let change = factors.change();
        let norm = match change {
            Some(change) if not_finite.is_empty() => Some(norm_of(change)?),
            Some(_) => None,
            None => Some(0.0),
        };
        let largest = factors.tensors().into_iter().max_by_key(|(_, tensor)| tensor.numel());
        let kind = factors.kind();
        let is_pair = factors.low_rank().is_some();
        Ok(Self {
            path: path.into(),
            kind,
            rank: factors.rank(),
            alpha: change.and_then(Change::alpha),
            scale: change.map_or(1.0, Change::scale),
            dtype: largest.map_or_else(String::new, |(_, tensor)| tensor.dtype().to_string()),
            norm,
            numbers: factors.elements(),
            limited_alike: is_pair && peaks.len() == 2 && peaks[0] == peaks[1] && peaks[0] > 0.0,
            not_finite,
            zero,
        })
    }

    /// Whether it changes nothing.
    pub fn is_without_effect(&self) -> bool {
        self.norm == Some(0.0) && !self.kind.contains("bias") && !self.kind.contains("DoRA")
    }
}

/// The Frobenius norm of a change at strength 1.
pub(crate) fn norm_of(change: &Change) -> Result<f64> {
    match change {
        Change::LowRank(pair) => {
            let (up, down) = (Matrix::from_tensor(pair.up())?, Matrix::transposed_from(pair.down())?);
            Ok(product_norm(&up, &down) * f64::from(pair.scale()).abs())
        }
        Change::Kronecker(factors) => Ok(factors.norm()?),
        Change::Full(diff) => norm(diff),
        Change::Tucker(_) | Change::Hadamard(_) => norm(&change.delta()?),
    }
}

/// Frobenius norm of a tensor.
pub(crate) fn norm(tensor: &Tensor) -> Result<f64> {
    let numbers = tensor.to_vec::<f64>()?;
    Ok(dot(&numbers, &numbers).sqrt())
}

/// `|up down^T|` for `up [out, r]`, `down [columns, r]`: each pair of columns once, as both Gram matrices are symmetric.
fn product_norm(up: &Matrix, down: &Matrix) -> f64 {
    let mut sum = 0.0;
    for i in 0..up.cols().min(down.cols()) {
        sum += dot(up.col(i), up.col(i)) * dot(down.col(i), down.col(i));
        for j in 0..i {
            sum += 2.0 * dot(up.col(i), up.col(j)) * dot(down.col(i), down.col(j));
        }
    }
    sum.max(0.0).sqrt()
}
