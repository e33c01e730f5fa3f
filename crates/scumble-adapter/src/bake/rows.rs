//! What is added to one tensor, and the adding: in place, block of rows by block, on several threads.
//!
//! ```text
//! W <- round(s W + up @ down + sum_j t_j D_j)    up [rows, R], down [R, columns], D_j [rows, columns]
//! ```
//!
//! The stacked pairs of all adapters are one product, computed for a block of rows at a time, so a plain LoRA never has a
//! dense difference. The sum is f32 and rounded once to the tensor's own type. Blocks are cut by shape and never by the
//! number of threads, so the bytes do not depend on it.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use scumble_tensor::backend::MatMul;
use scumble_tensor::{Backend, DType, Element, Tensor};

use crate::error::{AdapterError, Result};
use crate::parallel;

/// Elements of a block: 1 MB of f32, which stays in a core's cache.
const BLOCK: usize = 256 << 10;

/// What is added to a matrix.
pub(crate) struct Sum {
    /// What the matrix itself is multiplied with.
    pub keep: f32,
    /// `up [rows, R]` and `down [R, columns]`, f32, scales and strengths in `up`.
    pub pair: Option<(Tensor, Tensor)>,
    /// `[rows, columns]` of any fractions, each with its strength.
    pub dense: Vec<(f32, Tensor)>,
}

impl Default for Sum {
    fn default() -> Self {
        Self { keep: 1.0, pair: None, dense: Vec::new() }
    }
}

impl Sum {
    /// The rows from `start` on, as many as fill `delta`.
    fn rows(&self, start: usize, columns: usize, delta: &mut [f32], backend: &dyn Backend) -> Result<()> {
        match &self.pair {
            None => delta.fill(0.0),
            Some((up, down)) => {
                let (rank, rows) = (down.shape().first(), delta.len() / columns);
                let block = &up.as_slice::<f32>()?[start * rank..(start + rows) * rank];
                let block = backend.upload(&Tensor::from_slice(block, &[rows, rank])?)?;
                let product = backend.download(&backend.matmul(MatMul::nn(&block, down))?)?;
                delta.copy_from_slice(product.as_slice::<f32>()?);
            }
        }
        let mut wide = Vec::new();
        for (strength, dense) in &self.dense {
            let values = widened(dense, start * columns..start * columns + delta.len(), &mut wide)?;
            delta.iter_mut().zip(values).for_each(|(sum, value)| *sum += strength * value);
        }
        Ok(())
    }
}

/// Some elements as f32; `buffer` holds them where they are stored otherwise.
fn widened<'a>(tensor: &'a Tensor, range: Range<usize>, buffer: &'a mut Vec<f32>) -> Result<&'a [f32]> {
    buffer.resize(range.len(), 0.0);
    match tensor.dtype() {
        DType::F32 => return Ok(&tensor.as_slice::<f32>()?[range]),
        DType::F16 => tensor.as_slice::<f16>()?[range].convert_to_f32_slice(buffer),
        DType::BF16 => tensor.as_slice::<bf16>()?[range].convert_to_f32_slice(buffer),
        _ => {
            let values = tensor.as_slice::<f64>()?[range].iter().map(|&value| value as f32);
            buffer.iter_mut().zip(values).for_each(|(to, value)| *to = value);
        }
    }
    Ok(buffer)
}

/// An element type that weights are stored in.
trait Stored: Element {
    /// `keep` times `values` plus `delta`, rounded once. Returns how many finite values became infinite.
    fn add(values: &mut [Self], keep: f32, delta: &[f32]) -> usize;
}

fn not_finite(values: &[f32]) -> usize {
    values.iter().filter(|value| !value.is_finite()).count()
}

macro_rules! stored_in_half {
    ($half:ty) => {
        impl Stored for $half {
            fn add(values: &mut [Self], keep: f32, delta: &[f32]) -> usize {
                let mut wide = vec![0f32; values.len()];
                values.convert_to_f32_slice(&mut wide);
                let before = not_finite(&wide);
                wide.iter_mut().zip(delta).for_each(|(value, delta)| *value = keep * *value + delta);
                values.convert_from_f32_slice(&wide);
                values.iter().filter(|value| !value.is_finite()).count().saturating_sub(before)
            }
        }
    };
}
stored_in_half!(f16);
stored_in_half!(bf16);

impl Stored for f32 {
    fn add(values: &mut [Self], keep: f32, delta: &[f32]) -> usize {
        let before = not_finite(values);
        values.iter_mut().zip(delta).for_each(|(value, delta)| *value = keep * *value + delta);
        not_finite(values).saturating_sub(before)
    }
}

impl Stored for f64 {
    fn add(values: &mut [Self], keep: f32, delta: &[f32]) -> usize {
        let before = values.iter().filter(|value| !value.is_finite()).count();
        let sums = values.iter_mut().zip(delta);
        sums.for_each(|(value, delta)| *value = f64::from(keep) * *value + f64::from(*delta));
        values.iter().filter(|value| !value.is_finite()).count().saturating_sub(before)
    }
}

/// The sum in the weight's type and shape; its first size is the rows. Errors when a value becomes too large for
/// the type.
pub(crate) fn add(
    name: &str,
    weight: Tensor,
    sum: &Sum,
    threads: usize,
    backend: &dyn Backend,
) -> Result<Tensor> {
    let (weight, overflown) = match weight.dtype() {
        DType::F16 => add_as::<f16>(weight, sum, threads, backend)?,
        DType::BF16 => add_as::<bf16>(weight, sum, threads, backend)?,
        DType::F32 => add_as::<f32>(weight, sum, threads, backend)?,
        DType::F64 => add_as::<f64>(weight, sum, threads, backend)?,
        other => {
            return Err(AdapterError::Factors {
                module: name.into(),
                what: format!("the base stores it as {other}, to which nothing can be added"),
            });
        }
    };
    if overflown > 0 {
        return Err(AdapterError::Factors {
            module: name.into(),
            what: format!(
                "{overflown} values become too large for {}; use smaller weights, or store a wider type with `--dtype`",
                weight.dtype()
            ),
        });
    }
    Ok(weight)
}

fn add_as<T: Stored>(
    mut weight: Tensor,
    sum: &Sum,
    threads: usize,
    backend: &dyn Backend,
) -> Result<(Tensor, usize)> {
    if weight.get_mut::<T>()?.is_none() {
        // Somebody else holds it; what is theirs stays.
        weight = Tensor::from_bytes(weight.dtype(), weight.bytes()?, weight.dims())?;
    }
    let columns = (weight.numel() / weight.shape().first().max(1)).max(1);
    let rows = (BLOCK / columns).max(1);
    let Some(values) = weight.get_mut::<T>()? else { return Ok((weight, 0)) };
    let blocks: Vec<_> = values.chunks_mut(rows * columns).map(Mutex::new).enumerate().collect();
    let overflown = parallel::map(threads, &blocks, &|_| (), |(index, block)| {
        let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
        let mut delta = vec![0f32; block.len()];
        sum.rows(index * rows, columns, &mut delta, backend)?;
        Ok(T::add(&mut block, sum.keep, &delta))
    })?;
    drop(blocks);
    Ok((weight, overflown.into_iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_cpu::CpuBackend;
    use scumble_tensor::rng::stream;

    fn sum(rows: usize, columns: usize, rank: usize) -> Sum {
        let random = |name: &str, dims: [usize; 2]| {
            Tensor::from_slice(&stream(1, name).randn(dims[0] * dims[1]), &dims).unwrap()
        };
        Sum {
            pair: Some((random("up", [rows, rank]), random("down", [rank, columns]))),
            dense: vec![(0.5, random("dense", [rows, columns]))],
            ..Sum::default()
        }
    }

    /// Many blocks, the last one short, against the same sum in f64.
    #[test]
    fn blocks_and_threads_give_the_rounded_sum() {
        let (rows, columns, rank) = (701, 900, 3);
        let parts = sum(rows, columns, rank);
        let backend = CpuBackend::new(Some(1)).unwrap();
        let base = Tensor::from_slice(&stream(2, "w").randn(rows * columns), &[rows, columns]).unwrap();
        let (up, down) = parts.pair.as_ref().unwrap();
        let (up, down) = (up.to_vec::<f64>().unwrap(), down.to_vec::<f64>().unwrap());
        let dense = parts.dense[0].1.to_vec::<f64>().unwrap();
        for (dtype, bound) in
            [(DType::F16, 2e-3), (DType::BF16, 1.6e-2), (DType::F32, 1e-6), (DType::F64, 1e-6)]
        {
            let weight = base.to_dtype(dtype).unwrap();
            let kept = weight.clone();
            let one = add("w", weight.clone(), &parts, 1, &backend).unwrap();
            let three = add("w", weight, &parts, 3, &backend).unwrap();
            assert_eq!(one.bytes().unwrap(), three.bytes().unwrap());
            assert_eq!(kept.bytes().unwrap(), base.to_dtype(dtype).unwrap().bytes().unwrap());
            let (found, base) = (one.to_vec::<f64>().unwrap(), kept.to_vec::<f64>().unwrap());
            for (index, value) in found.iter().enumerate() {
                let (row, column) = (index / columns, index % columns);
                let product: f64 = (0..rank).map(|r| up[row * rank + r] * down[r * columns + column]).sum();
                let wanted = base[index] + product + 0.5 * dense[index];
                assert!((value - wanted).abs() <= bound * (1.0 + wanted.abs()), "{dtype}: {value} {wanted}");
            }
        }
    }

    #[test]
    fn parts_of_any_type_are_widened_and_the_weight_is_scaled() {
        let backend = CpuBackend::new(Some(1)).unwrap();
        let values = Tensor::from_slice(&[1.5f32, -2.0, 0.25, 8.0], &[2, 2]).unwrap();
        let types = [DType::F16, DType::BF16, DType::F32, DType::F64];
        let dense = types.map(|dtype| (0.5, values.to_dtype(dtype).unwrap())).to_vec();
        let sum = Sum { keep: -2.0, pair: None, dense };
        for dtype in types {
            let found = add("w", values.to_dtype(dtype).unwrap(), &sum, 2, &backend).unwrap();
            assert!(found.to_vec::<f32>().unwrap().iter().all(|&value| value == 0.0), "{dtype}");
        }
    }

    #[test]
    fn what_no_longer_fits_is_an_error() {
        let backend = CpuBackend::new(Some(1)).unwrap();
        let add = |values: [f32; 2], dtype| {
            let weight = Tensor::from_slice(&values, &[1, 2]).unwrap().to_dtype(dtype).unwrap();
            let large = Tensor::from_slice(&[60_000f32; 2], &[1, 2]).unwrap();
            add("w", weight, &Sum { dense: vec![(1.0, large)], ..Sum::default() }, 1, &backend)
        };
        let error = add([60_000.0, 0.0], DType::F16).unwrap_err().to_string();
        assert!(error.contains("1 values") && error.contains("f16"), "{error}");
        // A base that is broken already is not the adapter's fault.
        assert!(add([f32::NAN, 0.0], DType::F16).is_ok());
        assert!(add([60_000.0, 0.0], DType::F32).is_ok());
        assert!(add([1.0, 0.0], DType::I64).unwrap_err().to_string().contains("i64"));
    }
}
