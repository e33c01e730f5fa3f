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
    /// Whether one of a pair's factors looks cut off at its largest magnitude.
    #[serde(skip)]
    pub limited: bool,
}

impl ModuleSummary {
    /// Measures a module.
    pub(super) fn of(path: &str, factors: &ModuleFactors) -> Result<Self> {
        let (mut not_finite, mut zero, mut limited) = (Vec::new(), Vec::new(), false);
        for (part, tensor) in factors.tensors() {
            let numbers = tensor.to_vec::<f32>()?;
            let bad = numbers.iter().filter(|value| !value.is_finite()).count();
            if bad > 0 {
                not_finite.push((part, bad));
            }
            if numbers.iter().all(|value| *value == 0.0) {
                zero.push(part);
            }
            limited |= is_cut_off(&numbers);
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
            limited: is_pair && limited,
            not_finite,
            zero,
        })
    }

    /// Whether it changes nothing.
    pub fn is_without_effect(&self) -> bool {
        self.norm == Some(0.0) && !self.kind.contains("bias") && !self.kind.contains("DoRA")
    }
}

/// Whether a limit was put on these numbers: what was beyond it now has the largest magnitude exactly, so that many more
/// numbers have it than the magnitude below. A few may by chance, and where a coarse type rounds (bf16 has 128 steps from
/// one power of two to the next) the last steps hold about as many each; a pattern of few values has most of its numbers
/// at the end.
fn is_cut_off(numbers: &[f32]) -> bool {
    /// At least so many, and one of so many, have the largest magnitude.
    const FEWEST: usize = 4;
    const ONE_OF: usize = 500;
    /// So many times as many as have the next one.
    const TIMES: usize = 8;
    let [(_, most), (next, fewer)] = largest_magnitudes(numbers);
    let many = most >= FEWEST && most * ONE_OF >= numbers.len() && 2 * most <= numbers.len();
    many && next > 0.0 && most >= TIMES * fewer
}

/// The two largest magnitudes and how many numbers have each; what is not finite counts for nothing.
fn largest_magnitudes(numbers: &[f32]) -> [(f32, usize); 2] {
    let [mut first, mut second] = [(0f32, 0), (0f32, 0)];
    for magnitude in numbers.iter().map(|value| value.abs()).filter(|magnitude| magnitude.is_finite()) {
        if magnitude > first.0 {
            (first, second) = ((magnitude, 1), first);
        } else if magnitude == first.0 {
            first.1 += 1;
        } else if magnitude > second.0 {
            second = (magnitude, 1);
        } else if magnitude == second.0 {
            second.1 += 1;
        }
    }
    [first, second]
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

#[cfg(test)]
mod tests {
    use scumble_tensor::DType;
    use scumble_tensor::rng::stream;

    use super::*;

    /// As a file of that type would hold it.
    fn stored(numbers: Vec<f32>, dtype: DType) -> Vec<f32> {
        let tensor = Tensor::from_slice(&numbers, &[numbers.len()]).unwrap().to_dtype(dtype).unwrap();
        tensor.to_vec().unwrap()
    }

    #[test]
    fn a_limit_is_told_from_what_happens_by_itself() {
        let normal = |n: usize| stream(3, "limits").randn(n);
        let uniform =
            |n: usize| stream(3, "limits").rand(n).into_iter().map(|v| 2.0 * v - 1.0).collect::<Vec<_>>();
        let limited =
            |limit: f32| normal(3072).into_iter().map(|v| v.clamp(-limit, limit)).collect::<Vec<_>>();
        let types = [DType::F32, DType::F16, DType::BF16];
        for dtype in types {
            assert!(is_cut_off(&stored(limited(1.5), dtype)), "{dtype}: a tenth beyond the limit");
            assert!(is_cut_off(&stored(limited(2.5), dtype)), "{dtype}: a hundredth beyond the limit");
        }
        let signs: Vec<f32> = normal(3072).into_iter().map(f32::signum).collect();
        let mut twice = normal(3072);
        twice[5] = 9.0;
        twice[77] = -9.0;
        for dtype in types {
            for (what, numbers) in [
                ("normal", normal(100_000)),
                ("few normal", normal(16)),
                ("uniform, as untrained factors are", uniform(3072)),
                ("uniform and many", uniform(400_000)),
                ("zero", vec![0.0; 3072]),
                ("constant", vec![0.25; 3072]),
                ("signs", signs.clone()),
                (
                    "signs and zeros",
                    signs.iter().enumerate().map(|(i, v)| if i % 3 == 0 { 0.0 } else { *v }).collect(),
                ),
                ("two alike", twice.clone()),
                ("four of five alike", vec![1.0, -1.0, 1.0, 1.0, 0.5]),
                ("nothing", Vec::new()),
            ] {
                assert!(!is_cut_off(&stored(numbers, dtype)), "{what} in {dtype}");
            }
        }
        assert!(!is_cut_off(&[f32::NAN, f32::INFINITY, f32::INFINITY, f32::INFINITY, f32::INFINITY, 1.0]));
    }
}
