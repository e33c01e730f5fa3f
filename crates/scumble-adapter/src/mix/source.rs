//! A part of several models whose tensors are summed while they are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_model::files::{FileError, TensorInfo, TensorSource};
use scumble_tensor::{Backend, Tensor};

use super::{CONV_IN, TABLE};
use crate::bake::rows::{self, Sum};
use crate::bake::source::file_error;
use crate::error::Result;

/// One source's part of a sum.
#[derive(Clone, Copy)]
pub(super) struct Term {
    pub source: usize,
    pub factor: f64,
}

/// The sums of tensors; the first source says what there is.
pub(super) struct Mixed {
    pub sources: Vec<Arc<dyn TensorSource>>,
    /// By tensor.
    pub plans: BTreeMap<String, Vec<Term>>,
    /// Rows of the table of tokens that all have.
    pub vocabulary: usize,
    pub threads: usize,
    pub backend: Arc<dyn Backend>,
}

impl TensorSource for Mixed {
    fn describe(&self) -> String {
        self.sources.first().map(|source| source.describe()).unwrap_or_default()
    }

    fn names(&self) -> Vec<String> {
        self.plans.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.sources.first()?.info(name)
    }

    fn read(&self, name: &str) -> std::result::Result<Tensor, FileError> {
        let missing = || FileError::missing_tensor(self.describe(), name);
        let (first, plan) =
            (self.sources.first().ok_or_else(missing)?, self.plans.get(name).ok_or_else(missing)?);
        let tensor = first.read(name)?;
        let counting = |term: &&Term| term.factor != 0.0;
        let is_first_alone = plan.iter().filter(counting).all(|term| term.source == 0 && term.factor == 1.0)
            && plan.iter().any(|term| term.source == 0 && term.factor == 1.0);
        if is_first_alone || !tensor.dtype().is_float() {
            return Ok(tensor);
        }
        let mut sum = Sum { keep: 0.0, ..Sum::default() };
        for Term { source, factor } in plan.iter().filter(counting) {
            match source {
                0 => sum.keep += *factor as f32,
                _ => sum.dense.push((*factor as f32, self.sources[*source].read(name)?)),
            }
        }
        self.summed(name, tensor, sum).map_err(|error| file_error(&self.describe(), name, error))
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.sources[0].metadata()
    }
}

impl Mixed {
    fn summed(&self, name: &str, tensor: Tensor, mut sum: Sum) -> Result<Tensor> {
        let others = || sum.dense.iter().map(|(_, other)| other.dims());
        let (axis, common) = match name {
            TABLE => {
                (0, others().chain([tensor.dims()]).map(|d| d[0]).min().unwrap_or(0).min(self.vocabulary))
            }
            CONV_IN => (1, others().chain([tensor.dims()]).map(|d| d[1]).min().unwrap_or(0)),
            _ => (0, tensor.shape().first()),
        };
        if others().chain([tensor.dims()]).all(|dims| dims[axis] == common) {
            return rows::add(name, tensor, &sum, self.threads, &*self.backend);
        }
        for (_, other) in &mut sum.dense {
            *other = cut(other, axis, common)?;
        }
        let mixed = rows::add(name, cut(&tensor, axis, common)?, &sum, self.threads, &*self.backend)?;
        laid_over(&tensor, &mixed, axis)
    }
}

/// Elements before one step along `axis`, of one step, and how many steps there are.
fn steps(tensor: &Tensor, axis: usize) -> (usize, usize) {
    let step: usize = tensor.dims()[axis + 1..].iter().product();
    (step * tensor.dtype().size(), tensor.dims()[axis])
}

/// The first `count` of an axis.
fn cut(tensor: &Tensor, axis: usize, count: usize) -> Result<Tensor> {
    let (step, there) = steps(tensor, axis);
    let mut dims = tensor.dims().to_vec();
    dims[axis] = count;
    let bytes = tensor.bytes()?.chunks_exact((step * there).max(1));
    let kept: Vec<u8> = bytes.flat_map(|chunk| &chunk[..step * count]).copied().collect();
    Ok(Tensor::from_bytes(tensor.dtype(), &kept, &dims)?)
}

/// `tensor` with its beginning along an axis replaced by `head`.
fn laid_over(tensor: &Tensor, head: &Tensor, axis: usize) -> Result<Tensor> {
    let ((step, there), (_, count)) = (steps(tensor, axis), steps(head, axis));
    let mut bytes = tensor.bytes()?.to_vec();
    let to = bytes.chunks_exact_mut((step * there).max(1));
    for (to, from) in to.zip(head.bytes()?.chunks_exact((step * count).max(1))) {
        to[..step * count].copy_from_slice(from);
    }
    Ok(Tensor::from_bytes(tensor.dtype(), &bytes, tensor.dims())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_cut_and_laid_over() {
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let tensor = Tensor::from_slice(&values, &[2, 3, 4]).unwrap();
        let head = cut(&tensor, 1, 1).unwrap();
        assert_eq!(head.dims(), [2, 1, 4]);
        assert_eq!(head.to_vec::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0, 12.0, 13.0, 14.0, 15.0]);
        let zeros = Tensor::from_slice(&[0f32; 8], &[2, 1, 4]).unwrap();
        let over = laid_over(&tensor, &zeros, 1).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(over[..6], [0.0, 0.0, 0.0, 0.0, 4.0, 5.0]);
        assert_eq!(over[12..18], [0.0, 0.0, 0.0, 0.0, 16.0, 17.0]);
        assert_eq!(cut(&tensor, 0, 1).unwrap().to_vec::<f32>().unwrap(), values[..12]);
    }
}
