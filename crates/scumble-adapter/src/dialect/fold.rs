//! Alpha for dialects that have none: multiplied into the output side when written, taken out again when read.
//!
//! Dividing gives the same bytes back only where nothing was rounded (scales that are powers of two, as `1/2` and `1/4`
//! are). Only there is the alpha noted, so that a file read back is either exactly what it was or plainly at scale 1.

use serde_json::{Map, Value, json};

use super::assemble::multiplied;
use super::spelling::Spelling;
use super::{Encoded, WriteOptions};
use crate::adapter::{Adapter, LowRankFactors};
use crate::error::Result;

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
    /// The factors at scale 1, in the element type that will be stored.
    pub fn fold(
        &mut self,
        path: &str,
        factors: &LowRankFactors,
        options: &WriteOptions,
    ) -> Result<LowRankFactors> {
        let scale = factors.scale();
        let folded = factors.with_scale_folded(path)?;
        if scale == 1.0 {
            return Ok(folded);
        }
        let dtype = options.dtype.unwrap_or(factors.up().dtype());
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
}
