//! Builds layers from a component's weights and accounts for every tensor.
//!
//! A [`Loader`] walks one source. Constructors ask it for tensors by path through a [`Scope`]; it converts the
//! element type, puts convolutions into memory's layout and uploads, one tensor at a time, so there is never a second
//! copy of a model. What is missing or misshapen is noted and an empty tensor takes its place; [`Loader::finish`]
//! adds what nobody asked for and fails with the whole list.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use scumble_tensor::backend::Conv2dSpec;
use scumble_tensor::{Backend, DType, Param, Tensor};

use super::embedding::Embedding;
use super::layout::{convert, to_memory_layout};
use super::modules::Modules;
use super::norm::{GroupNorm, LayerNorm};
use super::observe::{Slot, Tap};
use super::projection::{Kind, Projection};
use crate::error::{Error, Result};
use crate::files::TensorSource;

/// A list longer than this says no more than its beginning; building stops.
const MOST_PROBLEMS: usize = 4096;

/// How many problems of a kind are written out.
const SHOWN: usize = 8;

/// One tensor that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The model needs it, the file has it not.
    Missing {
        /// Name in the file.
        name: String,
        /// Shape the model needs, in file layout.
        expected: Vec<usize>,
    },
    /// The file has it, the model needs it not.
    Surplus {
        /// Name in the file.
        name: String,
    },
    /// It has another shape.
    Shape {
        /// Name in the file.
        name: String,
        /// Shape the model needs, in file layout.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// It holds no floating-point numbers.
    Type {
        /// Name in the file.
        name: String,
        /// Type in the file.
        found: DType,
    },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Missing { name, expected } => write!(f, "missing: `{name}` {expected:?}"),
            Problem::Surplus { name } => write!(f, "not part of the model: `{name}`"),
            Problem::Shape { name, expected, found } => {
                write!(f, "misshapen: `{name}` is {found:?}, expected {expected:?}")
            }
            Problem::Type { name, found } => write!(f, "not floating-point numbers: `{name}` is {found}"),
        }
    }
}

/// Weights that are not those of the model.
#[derive(Debug)]
pub struct WeightsError {
    /// Which component.
    pub component: &'static str,
    /// Which file.
    pub source: String,
    /// What is wrong, complete unless building had to stop.
    pub problems: Vec<Problem>,
}

impl std::fmt::Display for WeightsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} does not hold the {} that the configuration describes", self.source, self.component)?;
        let mut shown: BTreeMap<_, usize> = BTreeMap::new();
        let mut hidden = 0;
        for problem in &self.problems {
            let kind = match problem {
                Problem::Missing { .. } => 0,
                Problem::Shape { .. } => 1,
                Problem::Type { .. } => 2,
                Problem::Surplus { .. } => 3,
            };
            let count = shown.entry(kind).or_default();
            *count += 1;
            if *count <= SHOWN {
                write!(f, "\n  {problem}")?;
            } else {
                hidden += 1;
            }
        }
        if hidden > 0 { write!(f, "\n  and {hidden} more") } else { Ok(()) }
    }
}

impl std::error::Error for WeightsError {}

/// Other names under which a tensor may be filed.
type Aliases = fn(&str) -> Option<String>;

/// See the module's text.
pub struct Loader<'a> {
    component: &'static str,
    source: &'a dyn TensorSource,
    backend: &'a dyn Backend,
    dtype: DType,
    aliases: Aliases,
    tolerated: &'a [&'a str],
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    used: BTreeSet<String>,
    problems: Vec<Problem>,
    projections: BTreeMap<String, Arc<Projection>>,
    params: Vec<Param>,
    slot: Arc<Slot>,
}

impl<'a> Loader<'a> {
    /// Loads `component` from `source` as `dtype` onto `backend`.
    pub fn new(
        component: &'static str,
        source: &'a dyn TensorSource,
        backend: &'a dyn Backend,
        dtype: DType,
    ) -> Self {
        let state = RefCell::default();
        Self { component, source, backend, dtype, aliases: |_| None, tolerated: &[], state }
    }

    /// Looks under `aliases(name)` for a tensor that is not there under its own name.
    pub fn with_aliases(mut self, aliases: Aliases) -> Self {
        self.aliases = aliases;
        self
    }

    /// Does not mind tensors that nobody asks for when their name ends so.
    pub fn tolerating(mut self, endings: &'a [&'a str]) -> Self {
        self.tolerated = endings;
        self
    }

    /// The root of the model.
    pub fn root(&self) -> Scope<'_, 'a> {
        Scope { loader: self, path: String::new() }
    }

    /// Whether the source has this tensor, under its own name or an alias.
    pub fn has(&self, name: &str) -> bool {
        self.locate(name).is_some()
    }

    fn locate(&self, name: &str) -> Option<(String, crate::files::TensorInfo)> {
        let own = self.source.info(name).map(|info| (name.to_owned(), info));
        own.or_else(|| {
            let alias = (self.aliases)(name)?;
            self.source.info(&alias).map(|info| (alias, info))
        })
    }

    fn complain(&self, problem: Problem) -> Result<Option<Tensor>> {
        let mut state = self.state.borrow_mut();
        state.problems.push(problem);
        if state.problems.len() < MOST_PROBLEMS {
            return Ok(None);
        }
        Err(self.failure(std::mem::take(&mut state.problems)))
    }

    fn failure(&self, problems: Vec<Problem>) -> Error {
        WeightsError { component: self.component, source: self.source.describe(), problems }.into()
    }

    /// The tensor `name` in file layout and file type if it is there and has one of the shapes `accepted`, the
    /// first of which is the model's; it comes under that one.
    fn fetch(&self, name: &str, accepted: &[&[usize]]) -> Result<Option<Tensor>> {
        let expected = accepted.first().copied().unwrap_or_default();
        let Some((filed, info)) = self.locate(name) else {
            return self.complain(Problem::Missing { name: name.to_owned(), expected: expected.to_vec() });
        };
        self.state.borrow_mut().used.insert(filed.clone());
        if !info.dtype.is_float() {
            return self.complain(Problem::Type { name: filed, found: info.dtype });
        }
        if !accepted.contains(&info.shape.as_slice()) {
            let (expected, found) = (expected.to_vec(), info.shape);
            return self.complain(Problem::Shape { name: filed, expected, found });
        }
        Ok(Some(self.source.read(&filed)?.reshape(expected)?))
    }

    /// The parameter `name`, on the backend, in memory layout; an empty one where something is wrong.
    fn param(&self, name: String, accepted: &[&[usize]]) -> Result<Param> {
        let value = match self.fetch(&name, accepted)? {
            Some(weight) => self.backend.upload(&convert(&to_memory_layout(&weight)?, self.dtype)?)?,
            None => Tensor::zeros(self.dtype, &vec![0; accepted.first().map_or(0, |dims| dims.len())])?,
        };
        let param = Param::frozen(name, value);
        self.state.borrow_mut().params.push(param.clone());
        Ok(param)
    }

    /// The built model's table of contents; errors with everything that was missing, misshapen or left over.
    pub fn finish(self) -> Result<Modules> {
        let state = self.state.take();
        let mut problems = state.problems;
        for name in self.source.names() {
            let tolerated = self.tolerated.iter().any(|ending| name.ends_with(ending));
            if !tolerated && !state.used.contains(&name) {
                problems.push(Problem::Surplus { name });
            }
        }
        if !problems.is_empty() {
            return Err(self.failure(problems));
        }
        Ok(Modules { projections: state.projections, params: state.params, slot: state.slot })
    }
}

/// A path inside a model, with constructors for the layers there.
pub struct Scope<'l, 'a> {
    loader: &'l Loader<'a>,
    path: String,
}

impl Scope<'_, '_> {
    /// The module `name` below this one.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Self { loader: self.loader, path }
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the source has the tensor `name` below this path.
    pub fn has(&self, name: &str) -> bool {
        self.loader.has(&self.name(name))
    }

    fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The line to an observer of this module's output.
    pub fn tap(&self) -> Tap {
        Tap::new(self.path.clone(), &self.loader.state.borrow().slot)
    }

    /// The parameter `name` of shape `dims` below this path.
    pub fn param(&self, name: &str, dims: &[usize]) -> Result<Param> {
        self.loader.param(self.name(name), &[dims])
    }

    /// A linear layer. A 1x1 convolution's weight is the same numbers and is accepted.
    pub fn linear(&self, inputs: usize, outputs: usize, bias: bool) -> Result<Arc<Projection>> {
        let weight = [outputs, inputs];
        self.projection(Kind::Linear, &[&weight, &[outputs, inputs, 1, 1]], bias)
    }

    /// A convolution with a square kernel. A linear layer's weight is accepted for a 1x1 one.
    pub fn conv2d(
        &self,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        spec: Conv2dSpec,
    ) -> Result<Arc<Projection>> {
        let weight = [outputs, inputs, kernel, kernel];
        let squeezed = [outputs, inputs];
        let accepted: &[&[usize]] = if kernel == 1 { &[&weight, &squeezed] } else { &[&weight] };
        self.projection(Kind::Conv2d(spec), accepted, true)
    }

    fn projection(&self, kind: Kind, weight: &[&[usize]], bias: bool) -> Result<Arc<Projection>> {
        let outputs = weight.first().and_then(|dims| dims.first()).copied().unwrap_or(0);
        let weight = self.loader.param(self.name("weight"), weight)?;
        let mut bias = if bias { Some(self.param("bias", &[outputs])?) } else { None };
        if weight.value().numel() == 0 || bias.as_ref().is_some_and(|bias| bias.value().numel() == 0) {
            bias = None; // something is wrong and will be said in `finish`; until then any shape will do
        }
        let projection = Arc::new(Projection::new(self.tap(), kind, weight, bias)?);
        self.loader.state.borrow_mut().projections.insert(self.path.clone(), Arc::clone(&projection));
        Ok(projection)
    }

    /// A group norm.
    pub fn group_norm(&self, groups: usize, channels: usize, eps: f32) -> Result<GroupNorm> {
        let gamma = self.param("weight", &[channels])?;
        let beta = self.param("bias", &[channels])?;
        Ok(GroupNorm { tap: self.tap(), gamma, beta, groups, eps })
    }

    /// A layer norm.
    pub fn layer_norm(&self, width: usize, eps: f32) -> Result<LayerNorm> {
        let gamma = self.param("weight", &[width])?;
        let beta = self.param("bias", &[width])?;
        Ok(LayerNorm { tap: self.tap(), gamma, beta, eps })
    }

    /// A lookup table.
    pub fn embedding(&self, rows: usize, width: usize) -> Result<Embedding> {
        let base = self.param("weight", &[rows, width])?;
        Ok(Embedding { tap: self.tap(), base, added: RwLock::new(None) })
    }
}
