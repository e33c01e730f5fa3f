//! Alpha for dialects that have none: multiplied into the output side when written, taken out again when read.
//!
//! Dividing gives the same bytes back only where nothing was rounded (scales that are powers of two, as `1/2` and `1/4`
//! are). Only there is the alpha noted, so that a file read back is either exactly what it was or plainly at scale 1.

use scumble_tensor::DType;
use serde_json::{Map, Value, json};

use super::assemble::multiplied;
use super::spelling::Spelling;
use super::{Encoded, WriteOptions};
use crate::adapter::{Adapter, LowRankFactors};
use crate::error::{AdapterError, Result};

const NOTE_ALPHAS: &str = "alphas";
const NOTE_FILLED: &str = "filled";

/// What writing into a dialect without alpha did.
#[derive(Default)]
pub(super) struct Folded {
    alphas: Map<String, Value>,
    filled: Vec<String>,
    rounded: usize,
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
        let back = unfold(&folded.to_dtype(dtype)?, factors.alpha());
        if back.is_ok_and(|back| back.up().bytes().ok() == wanted.bytes().ok()) {
            self.alphas.insert(path.to_owned(), json!(factors.alpha()));
        } else {
            self.rounded += 1;
        }
        Ok(folded)
    }

    /// Notes that a module got a pair of zeros because the dialect numbers it.
    pub fn filled(&mut self, path: &str) {
        self.filled.push(path.to_owned());
    }

    /// Puts the notes into the file's metadata, and says how many modules were rounded.
    pub fn store(self, encoded: &mut Encoded) {
        encoded.rounded = self.rounded;
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
    use scumble_tensor::Tensor;

    use super::*;

    #[test]
    fn what_cannot_be_taken_out_again_is_counted() {
        let factors = |alpha| {
            let up = Tensor::from_slice(&[0.1f32, 0.7, -1.3, 2.9], &[2, 2]).unwrap();
            LowRankFactors::new("m", up.clone(), up, alpha).unwrap()
        };
        for (alpha, expected) in [(2.0, 0), (1.0, 0), (0.6, 1)] {
            let (mut folded, mut encoded) = (Folded::default(), Encoded::default());
            folded.fold("m", &factors(alpha), &WriteOptions::default()).unwrap();
            folded.store(&mut encoded);
            assert_eq!(encoded.rounded, expected, "alpha {alpha}");
        }
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
