//! Alpha for dialects that have none: multiplied into the output side when written, taken out again when read.
//!
//! Dividing gives the same bytes back only where nothing was rounded (scales that are powers of two, as `1/2` and `1/4`
//! are). Only there is the alpha noted, so that a file read back is either exactly what it was or plainly at scale 1.
//! Whatever is rounded is counted and measured, see [`Rounding`].

use scumble_tensor::{DType, Tensor};
use serde_json::{Map, Value, json};

use super::assemble::multiplied;
use super::spelling::Spelling;
use super::{Encoded, Rounding, WriteOptions};
use crate::adapter::{Adapter, LowRankFactors};
use crate::error::{AdapterError, Result};

const NOTE_ALPHAS: &str = "alphas";
const NOTE_FILLED: &str = "filled";

/// What writing into a dialect without alpha did.
#[derive(Default)]
pub(super) struct Folded {
    alphas: Map<String, Value>,
    filled: Vec<String>,
    rounding: Rounding,
}

impl Folded {
    /// The factors at scale 1. A multiplied `up` is f32 and not rounded yet: whoever stores it asks for the type that
    /// [`WriteOptions::type_of`] gives for the old one, and is told there if a value is too large for it.
    pub fn fold(
        &mut self,
        path: &str,
        factors: &LowRankFactors,
        options: &WriteOptions,
    ) -> Result<LowRankFactors> {
        let scale = factors.scale();
        if scale == 1.0 {
            return Ok(factors.clone());
        }
        let up = multiplied(&factors.up().to_dtype(DType::F32)?, scale)?;
        if up.as_slice::<f32>()?.iter().any(|value| !value.is_finite()) {
            return Err(AdapterError::Factors {
                module: path.into(),
                what: format!("its scale of {scale} makes a value too large for f32; write kohya or peft"),
            });
        }
        let folded = LowRankFactors::new(path, factors.down().clone(), up, factors.rank() as f32)?;
        let dtype = options.type_of(factors.up());
        let wanted = factors.up().to_dtype(dtype)?;
        let stored = folded.to_dtype(dtype)?;
        let back = unfold(&stored, factors.alpha());
        let comes_back = back.is_ok_and(|back| back.up().bytes().ok() == wanted.bytes().ok());
        if comes_back {
            self.alphas.insert(path.to_owned(), json!(factors.alpha()));
        }
        let off = largest_rounding(&wanted, stored.up(), factors.alpha(), factors.rank())?;
        self.rounding.modules += usize::from(off > 0.0 || !comes_back);
        self.rounding.largest = self.rounding.largest.max(off);
        Ok(folded)
    }

    /// Notes that a module got a pair of zeros because the dialect numbers it.
    pub fn filled(&mut self, path: &str) {
        self.filled.push(path.to_owned());
    }

    /// Puts the notes into the file's metadata, and says what was rounded.
    pub fn store(self, encoded: &mut Encoded) {
        encoded.rounding = self.rounding;
        let mut spelling = Spelling::of(&encoded.metadata);
        spelling.forget(NOTE_ALPHAS);
        spelling.forget(NOTE_FILLED);
        if !self.alphas.is_empty() {
            spelling.set(NOTE_ALPHAS, self.alphas);
        }
        if !self.filled.is_empty() {
            spelling.set(NOTE_FILLED, self.filled);
        }
        spelling.store(&mut encoded.metadata);
    }
}

/// How far `stored` is from `alpha / rank` times `up` at most, as a part of it. Both sides are multiplied with the rank:
/// in f64 neither product of two f32 is rounded, so that what is exact measures 0.
fn largest_rounding(up: &Tensor, stored: &Tensor, alpha: f32, rank: usize) -> Result<f64> {
    let off = |(up, stored): (f64, f64)| {
        let exact = up * f64::from(alpha);
        ((stored * rank as f64 - exact) / exact).abs()
    };
    let numbers = up.to_vec::<f64>()?.into_iter().zip(stored.to_vec::<f64>()?);
    // Zeros are exact; what is not finite is refused elsewhere.
    Ok(numbers.map(off).filter(|off| off.is_finite()).fold(0.0, f64::max))
}

/// `up / (alpha / r)` with that alpha.
fn unfold(factors: &LowRankFactors, alpha: f32) -> Result<LowRankFactors> {
    let scale = alpha / factors.rank() as f32;
    let up = multiplied(factors.up(), 1.0 / scale)?;
    LowRankFactors::new("", factors.down().clone(), up, alpha)
}

/// Takes noted alphas out of the factors again and drops pairs of zeros that only filled a number.
pub(super) fn restore(adapter: &mut Adapter, spelling: &mut Spelling) -> Result<()> {
    let alphas = spelling.get(NOTE_ALPHAS).and_then(Value::as_object).cloned().unwrap_or_default();
    for (path, alpha) in alphas {
        let Some(alpha) = alpha.as_f64().map(|alpha| alpha as f32) else { continue };
        let Some(factors) = adapter.modules.get(&path).and_then(|factors| factors.low_rank()) else {
            continue;
        };
        // A note that does not give finite factors back is not ours.
        if factors.scale() == 1.0
            && alpha.is_finite()
            && alpha != 0.0
            && let Ok(restored) = unfold(factors, alpha)
            && restored.with_scale_folded(&path)?.up().bytes()? == factors.up().bytes()?
        {
            adapter.modules.insert(path, restored.into());
        }
    }
    let filled = spelling.get(NOTE_FILLED).and_then(Value::as_array).cloned().unwrap_or_default();
    for path in filled.iter().filter_map(Value::as_str) {
        let is_zero = adapter
            .modules
            .get(path)
            .and_then(|factors| factors.low_rank())
            .is_some_and(|f| f.up().bytes().is_ok_and(|bytes| bytes.iter().all(|&byte| byte == 0)));
        if is_zero {
            adapter.modules.remove(path);
        }
    }
    spelling.forget(NOTE_ALPHAS);
    spelling.forget(NOTE_FILLED);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rounded_is_counted_and_measured() {
        let numbers = [0.1f32, 0.7, -1.3, 2.9];
        let rounding = |numbers: &[f32], alpha, dtype| {
            let up = Tensor::from_slice(numbers, &[2, 2]).unwrap().to_dtype(dtype).unwrap();
            let factors = LowRankFactors::new("m", up.clone(), up, alpha).unwrap();
            let (mut folded, mut encoded) = (Folded::default(), Encoded::default());
            folded.fold("m", &factors, &WriteOptions::default()).unwrap();
            folded.store(&mut encoded);
            (encoded.rounding.modules, encoded.rounding.largest)
        };
        // Half a step of the type, and no less than a hundredth of that.
        for (dtype, half_step) in
            [(DType::F32, 2f64.powi(-24)), (DType::F16, 2f64.powi(-11)), (DType::BF16, 2f64.powi(-8))]
        {
            for alpha in [2.0, 1.0, 0.5, 4.0] {
                assert_eq!(rounding(&numbers, alpha, dtype), (0, 0.0), "alpha {alpha} in {dtype}");
            }
            let (modules, largest) = rounding(&numbers, 0.6, dtype);
            assert_eq!(modules, 1, "{dtype}");
            // The scale itself is an f32, which adds half a step of one.
            let most = half_step + 2f64.powi(-23);
            assert!((half_step / 100.0..=most).contains(&largest), "{dtype}: {largest:e}");
        }
        // 2^-24 is f16's smallest number: a quarter of it is nothing.
        let (modules, largest) = rounding(&[2f32.powi(-24), 1.0, 1.0, 1.0], 0.5, DType::F16);
        assert_eq!((modules, largest), (1, 1.0));
    }

    /// 30000 * 3 is no f16 number, but an f32 one; and 0.1 in f16 times 3 is not rounded to f16 on the way.
    #[test]
    fn multiplying_does_not_round_to_the_old_type() {
        let tensor = |values: &[f32], dims: &[usize], dtype| {
            Tensor::from_slice(values, dims).unwrap().to_dtype(dtype).unwrap()
        };
        let half = |values: &[f32], dims: &[usize]| tensor(values, dims, DType::F16);
        let factors =
            LowRankFactors::new("m", half(&[1.0, 1.0], &[1, 2]), half(&[30000.0, 0.1], &[2, 1]), 3.0);
        let (factors, options) = (factors.unwrap(), WriteOptions::default());
        let mut counted = Folded::default();
        let folded = counted.fold("m", &factors, &options).unwrap();
        let tenth = half(&[0.1], &[1]).to_vec::<f32>().unwrap()[0];
        assert_eq!(folded.up().to_vec::<f32>().unwrap(), [90000.0, 3.0 * tenth]);
        let mut encoded = Encoded::default();
        let wide = WriteOptions { dtype: Some(DType::F32), ..WriteOptions::default() };
        encoded.factor("up".into(), "m", folded.up(), wide.type_of(factors.up())).unwrap();
        let error = encoded.factor("up".into(), "m", folded.up(), options.type_of(factors.up()));
        assert!(error.unwrap_err().to_string().contains("too large for f16"));
        // The product itself may be too large.
        let huge = tensor(&[1e30, 1.0], &[2, 1], DType::F32);
        let huge = LowRankFactors::new("m", half(&[1.0, 1.0], &[1, 2]), huge, 1e30).unwrap();
        let message = counted.fold("m", &huge, &wide).unwrap_err().to_string();
        assert!(message.contains("too large for f32"), "{message}");
    }
}
