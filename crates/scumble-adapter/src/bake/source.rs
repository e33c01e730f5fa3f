//! A part of a model whose tensors change while they are read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use scumble_model::files::{FileError, TensorInfo, TensorSource};
use scumble_tensor::{Backend, DType, Tensor};

use super::rows::{self, Sum};
use crate::adapter::{Change, LowRankFactors, ModuleFactors};
use crate::error::{AdapterError, Result};

/// One adapter's change of one tensor.
#[derive(Clone)]
pub(super) struct Edit {
    /// What its change is multiplied with, beside its own scale.
    pub strength: f32,
    pub what: What,
}

/// Which of a module's numbers change.
#[derive(Clone)]
pub(super) enum What {
    /// The weight.
    Weight(Box<ModuleFactors>),
    /// The bias, by this.
    Bias(Tensor),
}

/// The tensors of `inner`, the edits added.
pub(super) struct Changed {
    pub inner: Arc<dyn TensorSource>,
    /// By tensor.
    pub edits: BTreeMap<String, Vec<Edit>>,
    pub threads: usize,
    pub backend: Arc<dyn Backend>,
}

impl TensorSource for Changed {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn names(&self) -> Vec<String> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.inner.info(name)
    }

    fn read(&self, name: &str) -> std::result::Result<Tensor, FileError> {
        let weight = self.inner.read(name)?;
        let Some(edits) = self.edits.get(name) else { return Ok(weight) };
        self.edited(name, weight, edits).map_err(|error| file_error(&self.describe(), name, error))
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.inner.metadata()
    }
}

impl Changed {
    fn edited(&self, name: &str, weight: Tensor, edits: &[Edit]) -> Result<Tensor> {
        let mut sum = Sum::default();
        let mut pairs = Vec::new();
        for Edit { strength, what } in edits {
            match what {
                What::Bias(diff) => sum.dense.push((*strength, diff.to_dtype(DType::F32)?)),
                What::Weight(factors) => match (factors.change(), factors.magnitude()) {
                    (Some(Change::LowRank(pair)), None) => pairs.push((*strength, pair)),
                    _ => {
                        let delta = factors.delta_on(name, &weight)?;
                        sum.dense.extend(delta.map(|delta| (*strength, delta)));
                    }
                },
            }
        }
        if let Some((up, down)) = stacked(&pairs)? {
            sum.pair = Some((up, self.backend.upload(&down)?));
        }
        rows::add(name, weight, &sum, self.threads, &*self.backend)
    }
}

/// The pairs side by side: `up [rows, sum of ranks]` with scales and strengths in it, and `down` under each other.
fn stacked(pairs: &[(f32, &LowRankFactors)]) -> Result<Option<(Tensor, Tensor)>> {
    let Some((_, first)) = pairs.first() else { return Ok(None) };
    let (rows, columns) = (first.up().shape().first(), first.down().numel() / first.rank().max(1));
    let rank: usize = pairs.iter().map(|(_, pair)| pair.rank()).sum();
    let mut down = Vec::with_capacity(rank * columns);
    let mut up = vec![0f32; rows * rank];
    let mut first_column = 0;
    for (strength, pair) in pairs {
        let scale = f64::from(pair.scale()) * f64::from(*strength);
        down.extend(pair.down().to_vec::<f32>()?);
        let (width, values) = (pair.rank(), pair.up().to_vec::<f32>()?);
        for (row, values) in up.chunks_exact_mut(rank).zip(values.chunks_exact(width)) {
            let to = &mut row[first_column..first_column + width];
            to.iter_mut().zip(values).for_each(|(to, &value)| *to = (scale * f64::from(value)) as f32);
        }
        first_column += width;
    }
    Ok(Some((Tensor::from_slice(&up, &[rows, rank])?, Tensor::from_slice(&down, &[rank, columns])?)))
}

/// Sources speak of files.
pub(crate) fn file_error(source: &str, name: &str, error: AdapterError) -> FileError {
    match error {
        AdapterError::File(error) => error,
        AdapterError::Tensor(error) => FileError::engine(Path::new(source), name, error),
        AdapterError::Factors { what, .. } => {
            FileError::Computed { file: source.into(), tensor: name.into(), reason: what }
        }
        other => FileError::Computed { file: source.into(), tensor: name.into(), reason: other.to_string() },
    }
}
