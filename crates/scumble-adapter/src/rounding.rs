//! How far factors move when they are stored in a narrower element type than they were computed in.
//!
//! It is the length of the change against the length of the tensor, so that numbers near zero, which few-bit types hold
//! badly and which hardly count, do not hide how well the others are kept.

use scumble_tensor::Tensor;

use crate::adapter::ModuleFactors;
use crate::error::Result;

/// The largest `|stored - computed| / |computed|` (Frobenius norms) of a module's tensors; 0 where nothing is rounded.
pub(crate) fn moved(computed: &ModuleFactors, stored: &ModuleFactors) -> Result<f64> {
    let mut largest = 0.0f64;
    for ((_, computed), (_, stored)) in computed.tensors().into_iter().zip(stored.tensors()) {
        largest = largest.max(distance(computed, stored)?);
    }
    Ok(largest)
}

fn distance(computed: &Tensor, stored: &Tensor) -> Result<f64> {
    if computed.dtype() == stored.dtype() {
        return Ok(0.0);
    }
    let (computed, stored) = (computed.to_vec::<f64>()?, stored.to_vec::<f64>()?);
    let norm: f64 = computed.iter().map(|value| value * value).sum();
    let off: f64 = computed.iter().zip(&stored).map(|(a, b)| (a - b) * (a - b)).sum();
    Ok(if norm > 0.0 { (off / norm).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use scumble_tensor::DType;

    use super::*;
    use crate::adapter::LowRankFactors;

    #[test]
    fn the_worst_tensor_counts_and_exact_ones_do_not() {
        let of = |up: &[f32], down: &[f32]| -> ModuleFactors {
            let tensor = |values: &[f32], dims: &[usize]| Tensor::from_slice(values, dims).unwrap();
            LowRankFactors::new("m", tensor(down, &[1, 2]), tensor(up, &[2, 1]), 1.0).unwrap().into()
        };
        let measured =
            |factors: &ModuleFactors, dtype| moved(factors, &factors.to_dtype(dtype).unwrap()).unwrap();
        let exact = of(&[1.0, -0.5], &[3.0, 0.0]);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert_eq!(measured(&exact, dtype), 0.0, "{dtype}");
        }
        // 1 + 2^-9 lies halfway between two bf16 numbers, and goes to the even one, 1; f16 holds it.
        let factors = of(&[1.0 + 2f32.powi(-9), 0.0], &[3.0, 0.0]);
        let wanted = 2f64.powi(-9) / (1.0 + 2f64.powi(-9));
        assert_eq!((measured(&factors, DType::BF16), measured(&factors, DType::F16)), (wanted, 0.0));
        // What f16 loses altogether hardly counts beside what it keeps, and is all there is without it.
        assert!(measured(&of(&[1e-9, 1.0], &[1.0, 1.0]), DType::F16) < 1e-8);
        assert_eq!(measured(&of(&[1e-9, 0.0], &[1.0, 1.0]), DType::F16), 1.0);
    }
}
