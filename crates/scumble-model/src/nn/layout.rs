//! Layouts: files hold convolutions as `[out, in, kh, kw]` (OIHW) and pictures as `[n, c, h, w]` (NCHW), memory
//! holds `[out, kh, kw, in]` (OHWI) and `[n, h, w, c]` (NHWC).
//!
//! Both are one permutation, so one pair of functions serves weights at the loader and pictures at the doors.
//! Matrices and vectors are the same on both sides. The element type is kept; `convert` changes that.

use half::slice::HalfFloatSliceExt;
use scumble_tensor::{DType, Element, Result, Tensor, with_element};

/// A host weight or picture as files hold it, put into memory's layout.
pub fn to_memory_layout(weight: &Tensor) -> Result<Tensor> {
    match *weight.dims() {
        [o, i, kh, kw] => {
            with_element!(weight.dtype(), T => swap::<T>(weight, [o, i, kh * kw], &[o, kh, kw, i]))
        }
        _ => Ok(weight.clone()),
    }
}

/// A host weight or picture in memory's layout, put into the files' layout.
pub fn to_file_layout(weight: &Tensor) -> Result<Tensor> {
    match *weight.dims() {
        [o, kh, kw, i] => {
            with_element!(weight.dtype(), T => swap::<T>(weight, [o, kh * kw, i], &[o, i, kh, kw]))
        }
        _ => Ok(weight.clone()),
    }
}

/// `[o, a, b]` -> `[o, b, a]`, under the sizes `dims`.
fn swap<T: Element>(weight: &Tensor, [_, a, b]: [usize; 3], dims: &[usize]) -> Result<Tensor> {
    if a == 1 || b == 1 {
        return weight.reshape(dims);
    }
    let source = bytemuck::cast_slice::<u8, T>(weight.bytes()?);
    Tensor::build::<T>(dims, |target| {
        for (to, from) in target.chunks_exact_mut(a * b).zip(source.chunks_exact(a * b)) {
            for (column, row) in to.chunks_exact_mut(a).enumerate() {
                for (index, value) in row.iter_mut().enumerate() {
                    *value = from[index * b + column];
                }
            }
        }
    })
}

/// A host tensor in another float type. f16 and bf16 to f32 use the processor's conversions: a base model has
/// hundreds of millions of them.
pub(super) fn convert(weight: &Tensor, dtype: DType) -> Result<Tensor> {
    match (weight.dtype(), dtype) {
        (DType::F16, DType::F32) => Tensor::try_build::<f32>(weight.dims(), |to| {
            weight.as_slice::<half::f16>()?.convert_to_f32_slice(to);
            Ok(())
        }),
        (DType::BF16, DType::F32) => Tensor::try_build::<f32>(weight.dims(), |to| {
            weight.as_slice::<half::bf16>()?.convert_to_f32_slice(to);
            Ok(())
        }),
        _ => weight.to_dtype(dtype),
    }
}

/// Index of the first element that is no finite number, if any.
pub fn find_non_finite(tensor: &Tensor) -> Result<Option<usize>> {
    let bytes = tensor.bytes()?;
    Ok(with_element!(tensor.dtype(), T => {
        bytemuck::cast_slice::<u8, T>(bytes).iter().position(|&value| !Element::to_f64(value).is_finite())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_each_others_inverse() {
        let values: Vec<f32> = (0..2 * 3 * 2 * 2).map(|i| i as f32).collect();
        let file = Tensor::from_slice(&values, &[2, 3, 2, 2]).unwrap();
        let memory = to_memory_layout(&file).unwrap();
        assert_eq!(memory.dims(), [2, 2, 2, 3]);
        // out 1, row 0, column 1, channel 2 is file element [1][2][0][1].
        assert_eq!(memory.as_slice::<f32>().unwrap()[12 + 3 + 2], values[12 + 8 + 1]);
        assert_eq!(to_file_layout(&memory).unwrap().as_slice::<f32>().unwrap(), values);
    }

    #[test]
    fn conversion_is_exact_for_halves() {
        let halves = [1.5, -0.25, 65504.0].map(half::f16::from_f32);
        let weight = Tensor::from_slice(&halves, &[3]).unwrap();
        assert_eq!(convert(&weight, DType::F32).unwrap().as_slice::<f32>().unwrap(), [1.5, -0.25, 65504.0]);
    }

    #[test]
    fn non_finite_elements_are_found() {
        let weight = Tensor::from_slice(&[1.0f32, f32::NAN], &[2]).unwrap();
        assert_eq!(find_non_finite(&weight).unwrap(), Some(1));
        assert_eq!(find_non_finite(&Tensor::from_slice(&[1i64], &[1]).unwrap()).unwrap(), None);
    }
}
