//! Change of element type: `y = x` rounded to nearest; `dx = dy` in the type of `x`.
//!
//! Trainable weights are kept in f32 while activations may be bf16; the casts between them stand on the tape, so
//! that an f32 weight gets its f32 gradient unrounded.

use crate::dtype::DType;
use crate::error::Result;
use crate::tape::{Tape, Var};

/// `x` in another element type; `x` itself when it has that type.
pub fn cast(tape: &Tape<'_>, x: &Var, dtype: DType) -> Result<Var> {
    let from = x.value().dtype();
    if from == dtype {
        return Ok(x.clone());
    }
    let y = tape.backend().cast(x.value(), dtype)?;
    Ok(tape.record(&[x], y, || {
        move |backend, d_y, _| {
            // A weight's gradient arrives in f32 although the cast weight was not: then nothing is left to do.
            let d_x = if d_y.dtype() == from { d_y.clone() } else { backend.cast(d_y, from)? };
            Ok(vec![Some(d_x)])
        }
    }))
}

/// A parameter in the element type of the activations `like` that it meets.
pub(crate) fn matching(tape: &Tape<'_>, param: &Var, like: &Var) -> Result<Var> {
    cast(tape, param, like.value().dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::ReferenceBackend;
    use crate::tensor::Tensor;
    use std::sync::Arc;

    /// Both gradients are the seed; an f32 weight's stays f32, a bf16 activation's is rounded.
    #[test]
    fn gradients_keep_the_type_of_the_operand() {
        let backend = || Arc::new(ReferenceBackend);
        for (from, to) in [(DType::F32, DType::BF16), (DType::BF16, DType::F32)] {
            let tape = Tape::recording(backend());
            let x = Tensor::from_slice(&[1.25f32, -3.5], &[2]).unwrap().to_dtype(from).unwrap();
            let (x, leaf) = tape.watch(x);
            let y = cast(&tape, &x, to).unwrap();
            assert_eq!(y.value().to_vec::<f32>().unwrap(), [1.25, -3.5]);
            let seed = Tensor::from_slice(&[0.5f32, 2.0], &[2]).unwrap().to_dtype(to).unwrap();
            let gradients = tape.backward(&y, seed).unwrap();
            let gradient = gradients.get(leaf).unwrap();
            assert_eq!((gradient.dtype(), gradient.to_vec::<f32>().unwrap()), (from, vec![0.5, 2.0]));
        }
    }

    /// An f32 weight under bf16 activations gets an f32 gradient that was never rounded to bf16.
    #[test]
    fn master_weights_get_unrounded_gradients() {
        let tape = Tape::recording(Arc::new(ReferenceBackend));
        let x = Tensor::from_slice(&[1.0f32, 1.0 / 256.0], &[2, 1]).unwrap().to_dtype(DType::BF16).unwrap();
        let (w, leaf) = tape.watch(Tensor::from_slice(&[0.5f32], &[1, 1]).unwrap());
        let y = crate::ops::linear::linear(&tape, &Var::constant(x), &w, None, None).unwrap();
        let seed = Tensor::from_slice(&[1.0f32, 1.0], &[2, 1]).unwrap().to_dtype(DType::BF16).unwrap();
        let gradients = tape.backward(&y, seed).unwrap();
        assert_eq!(gradients.get(leaf).unwrap().as_slice::<f32>().unwrap(), [1.0 + 1.0 / 256.0]);
    }
}
