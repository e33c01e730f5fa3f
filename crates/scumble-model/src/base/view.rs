//! A source seen under other names and in other shapes; nothing is copied until a tensor is read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use scumble_tensor::{DType, Tensor};

use super::names;
use crate::files::{FileError, Result, TensorInfo, TensorSource, printable};

/// What becomes of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Renamed {
    /// It is not part of the component.
    Dropped,
    /// It has this name.
    As(String),
    /// It has this name, and rows and columns change places.
    Transposed(String),
    /// Its rows are query, key and value on top of each other.
    Thirds([String; 3]),
}

/// How a tensor of a view comes from tensors of its source.
#[derive(Clone, Debug)]
enum Take {
    /// The elements as they are, perhaps under other sizes.
    Whole(String),
    /// A third of the rows.
    Third(String, usize),
    /// The first rows.
    Head(String),
    /// Rows and columns exchanged.
    Transposed(String),
    /// One above the other.
    Stacked([String; 3]),
    /// No tensor of the source at all.
    Constant(Tensor),
}

struct Piece {
    source: Arc<dyn TensorSource>,
    take: Take,
    info: TensorInfo,
}

/// Tensors of other sources under names of its own.
pub(crate) struct View {
    label: String,
    pieces: BTreeMap<String, Piece>,
    metadata: BTreeMap<String, String>,
}

impl View {
    /// An empty view; `label` is what messages call it.
    pub(crate) fn new(label: String, metadata: BTreeMap<String, String>) -> Self {
        Self { label, pieces: BTreeMap::new(), metadata }
    }

    /// `inner` with `rename` asked about every tensor. Projections of a VAE's attention become matrices.
    pub(crate) fn renamed(inner: Arc<dyn TensorSource>, rename: impl Fn(&str) -> Renamed) -> Result<Self> {
        let mut view = Self::new(inner.describe(), inner.metadata().clone());
        for name in inner.names() {
            match rename(&name) {
                Renamed::Dropped => {}
                Renamed::As(new) => view.whole(&inner, &name, new)?,
                Renamed::Transposed(new) => view.transposed(&inner, &name, new)?,
                Renamed::Thirds(new) => view.thirds(&inner, &name, new)?,
            }
        }
        Ok(view)
    }

    fn insert(
        &mut self,
        name: String,
        source: &Arc<dyn TensorSource>,
        take: Take,
        info: TensorInfo,
    ) -> Result<()> {
        let piece = Piece { source: Arc::clone(source), take, info };
        let Some(other) = self.pieces.insert(name.clone(), piece) else { return Ok(()) };
        let names = |take: &Take| match take {
            Take::Whole(name) | Take::Third(name, _) | Take::Head(name) | Take::Transposed(name) => {
                format!("`{}`", printable(name))
            }
            Take::Stacked(names) => format!("`{}`", printable(&names[0])),
            Take::Constant(_) => "a constant".into(),
        };
        let new = self.pieces.get(&name).map_or(String::new(), |piece| names(&piece.take));
        Err(self.fault(&name, "one tensor", format!("{} and {new}", names(&other.take))))
    }

    fn fault(&self, name: &str, expected: &str, found: String) -> FileError {
        FileError::tensor(&PathBuf::from(&self.label), &printable(name), expected, found)
    }

    fn info_of(&self, source: &Arc<dyn TensorSource>, name: &str) -> Result<TensorInfo> {
        source.info(name).ok_or_else(|| FileError::missing_tensor(source.describe(), name))
    }

    /// The tensor `name` of `source` under another name.
    pub(crate) fn whole(&mut self, source: &Arc<dyn TensorSource>, name: &str, new: String) -> Result<()> {
        let mut info = self.info_of(source, name)?;
        if names::vae::is_projection(&new) {
            info.shape = squeezed(info.shape);
        }
        self.insert(new, source, Take::Whole(name.into()), info)
    }

    /// As [`View::whole`], under other sizes of the same product.
    pub(crate) fn reshaped(
        &mut self,
        source: &Arc<dyn TensorSource>,
        name: &str,
        new: String,
        shape: Vec<usize>,
    ) -> Result<()> {
        let info = self.info_of(source, name)?;
        // Sizes may be a stranger's.
        let elements = shape.iter().try_fold(1, |product: usize, &size| product.checked_mul(size));
        if elements != Some(info.numel()) {
            return Err(self.fault(name, &format!("the elements of {shape:?}"), format!("{:?}", info.shape)));
        }
        self.insert(new, source, Take::Whole(name.into()), TensorInfo { shape, ..info })
    }

    /// The first `rows` rows of a tensor.
    pub(crate) fn head(
        &mut self,
        source: &Arc<dyn TensorSource>,
        name: &str,
        new: String,
        rows: usize,
    ) -> Result<()> {
        let mut info = self.info_of(source, name)?;
        match info.shape.first_mut() {
            Some(there) if *there >= rows => *there = rows,
            _ => return Err(self.fault(name, &format!("at least {rows} rows"), format!("{:?}", info.shape))),
        }
        self.insert(new, source, Take::Head(name.into()), info)
    }

    /// A matrix with rows and columns exchanged.
    pub(crate) fn transposed(
        &mut self,
        source: &Arc<dyn TensorSource>,
        name: &str,
        new: String,
    ) -> Result<()> {
        let info = self.info_of(source, name)?;
        let [rows, columns] = info.shape[..] else {
            return Err(self.fault(name, "a matrix", format!("{:?}", info.shape)));
        };
        let info = TensorInfo { shape: vec![columns, rows], ..info };
        self.insert(new, source, Take::Transposed(name.into()), info)
    }

    pub(crate) fn thirds(
        &mut self,
        source: &Arc<dyn TensorSource>,
        name: &str,
        new: [String; 3],
    ) -> Result<()> {
        let mut info = self.info_of(source, name)?;
        match info.shape.first_mut() {
            Some(rows) if *rows % 3 == 0 => *rows /= 3,
            _ => {
                let expected = "rows in three equal parts (query, key, value)";
                return Err(self.fault(name, expected, format!("{:?}", info.shape)));
            }
        }
        for (third, new) in new.into_iter().enumerate() {
            self.insert(new, source, Take::Third(name.into(), third), info.clone())?;
        }
        Ok(())
    }

    /// Three tensors of equal type and sizes, one above the other.
    pub(crate) fn stacked(
        &mut self,
        source: &Arc<dyn TensorSource>,
        names: [String; 3],
        new: String,
    ) -> Result<()> {
        let mut info = self.info_of(source, &names[0])?;
        for name in &names[1..] {
            let other = self.info_of(source, name)?;
            if other != info {
                let found = format!("{} {:?}", other.dtype, other.shape);
                return Err(self.fault(name, &format!("{} {:?}", info.dtype, info.shape), found));
            }
        }
        match info.shape.first_mut() {
            Some(rows) => *rows *= 3,
            None => return Err(self.fault(&names[0], "rows", "a single number".into())),
        }
        self.insert(new, source, Take::Stacked(names), info)
    }

    /// A tensor that is in no file.
    pub(crate) fn constant(
        &mut self,
        source: &Arc<dyn TensorSource>,
        name: String,
        value: Tensor,
    ) -> Result<()> {
        let info = TensorInfo { dtype: value.dtype(), shape: value.dims().to_vec() };
        self.insert(name, source, Take::Constant(value), info)
    }
}

/// `[c, c, 1, 1]` and `[c, c, 1]` are `[c, c]`.
fn squeezed(mut shape: Vec<usize>) -> Vec<usize> {
    while shape.len() > 2 && shape.last() == Some(&1) {
        shape.pop();
    }
    shape
}

impl TensorSource for View {
    fn describe(&self) -> String {
        self.label.clone()
    }

    fn names(&self) -> Vec<String> {
        self.pieces.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.pieces.get(name).map(|piece| piece.info.clone())
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let file = || PathBuf::from(&self.label);
        let piece = self.pieces.get(name).ok_or_else(|| FileError::missing_tensor(file(), name))?;
        let engine = |source| FileError::engine(&file(), name, source);
        let (source, shape) = (&piece.source, &piece.info.shape);
        match &piece.take {
            Take::Whole(name) => source.read(name)?.reshape(shape).map_err(engine),
            Take::Third(name, third) => {
                let tensor = source.read(name)?;
                let bytes = tensor.bytes().map_err(engine)?;
                let part = bytes.len() / 3;
                let rows = &bytes[third * part..(third + 1) * part];
                Tensor::from_bytes(tensor.dtype(), rows, shape).map_err(engine)
            }
            Take::Head(name) => {
                let tensor = source.read(name)?;
                let bytes = tensor.bytes().map_err(engine)?;
                Tensor::from_bytes(tensor.dtype(), &bytes[..piece.info.bytes()], shape).map_err(engine)
            }
            Take::Transposed(name) => transpose(&source.read(name)?, shape).map_err(engine),
            Take::Stacked(names) => {
                let mut bytes = Vec::with_capacity(piece.info.bytes());
                for name in names {
                    bytes.extend_from_slice(source.read(name)?.bytes().map_err(engine)?);
                }
                Tensor::from_bytes(piece.info.dtype, &bytes, shape).map_err(engine)
            }
            Take::Constant(value) => Ok(value.clone()),
        }
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// The transpose of a matrix; `shape` is the result's.
fn transpose(matrix: &Tensor, shape: &[usize]) -> scumble_tensor::Result<Tensor> {
    let (size, from) = (matrix.dtype().size(), matrix.bytes()?);
    let [rows, columns] = [shape[0], shape[1]];
    let mut to = vec![0; from.len()];
    for row in 0..rows {
        for column in 0..columns {
            let (a, b) = ((row * columns + column) * size, (column * rows + row) * size);
            to[a..a + size].copy_from_slice(&from[b..b + size]);
        }
    }
    Tensor::from_bytes(matrix.dtype(), &to, shape)
}

/// A source with its fractions in another element type; whole numbers stay.
pub(crate) struct Cast {
    inner: Arc<dyn TensorSource>,
    dtype: DType,
}

impl Cast {
    pub(crate) fn new(inner: Arc<dyn TensorSource>, dtype: DType) -> Self {
        Self { inner, dtype }
    }
}

impl TensorSource for Cast {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn names(&self) -> Vec<String> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let info = self.inner.info(name)?;
        Some(if info.dtype.is_float() { TensorInfo { dtype: self.dtype, ..info } } else { info })
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let tensor = self.inner.read(name)?;
        if !tensor.dtype().is_float() {
            return Ok(tensor);
        }
        let engine = |source| FileError::engine(&PathBuf::from(self.describe()), name, source);
        tensor.to_dtype(self.dtype).map_err(engine)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.inner.metadata()
    }
}
