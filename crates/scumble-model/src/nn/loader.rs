//! Builds layers from a component's weights and accounts for every tensor.
//!
//! A [`Loader`] walks one source. Constructors ask it for tensors by path through a [`Scope`]; it converts the
//! element type, puts convolutions into memory's layout and uploads, one tensor at a time, so there is never a second
//! copy of a model. What is missing or misshapen is noted and an empty tensor takes its place; [`Loader::finish`]
//! adds what nobody asked for and fails with the whole list.
//!
//! Without a file ([`Loader::fresh`]) every tensor starts at random, see `init`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use scumble_tensor::backend::Conv2dSpec;
use scumble_tensor::{Backend, DType, Param, Tensor};

use super::embedding::Embedding;
use super::init::Init;
use super::layout::{convert, to_memory_layout};
use super::modules::Modules;
use super::norm::{GroupNorm, LayerNorm};
use super::observe::{Slot, Tap};
use super::projection::{Kind, Projection};
use crate::error::{Error, Result};
use crate::files::{TensorInfo, TensorSource};

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
    origin: Origin<'a>,
    backend: &'a dyn Backend,
    dtype: DType,
    aliases: Aliases,
    tolerated: &'a [&'a str],
    state: RefCell<State>,
}

#[derive(Clone, Copy)]
enum Origin<'a> {
    File(&'a dyn TensorSource),
    Fresh { seed: u64 },
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
        Self::from_origin(component, Origin::File(source), backend, dtype)
    }

    /// Starts every tensor of `component` at random, as a function of `seed` and its name.
    pub fn fresh(component: &'static str, seed: u64, backend: &'a dyn Backend, dtype: DType) -> Self {
        Self::from_origin(component, Origin::Fresh { seed }, backend, dtype)
    }

    fn from_origin(
        component: &'static str,
        origin: Origin<'a>,
        backend: &'a dyn Backend,
        dtype: DType,
    ) -> Self {
        let state = RefCell::default();
        Self { component, origin, backend, dtype, aliases: |_| None, tolerated: &[], state }
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

    fn locate(&self, name: &str) -> Option<(&'a dyn TensorSource, String, TensorInfo)> {
        let Origin::File(source) = self.origin else { return None };
        let own = source.info(name).map(|info| (source, name.to_owned(), info));
        own.or_else(|| {
            let alias = (self.aliases)(name)?;
            source.info(&alias).map(|info| (source, alias, info))
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
        let source = match self.origin {
            Origin::File(source) => source.describe(),
            Origin::Fresh { seed } => format!("random weights of seed {seed}"),
        };
        WeightsError { component: self.component, source, problems }.into()
    }

    /// The tensor `name` in file layout and file type if it is there and has one of the shapes `accepted`, the
    /// first of which is the model's; it comes under that one.
    fn fetch(&self, name: &str, accepted: &[&[usize]]) -> Result<Option<Tensor>> {
        let expected = accepted.first().copied().unwrap_or_default();
        let Some((source, filed, info)) = self.locate(name) else {
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
        Ok(Some(source.read(&filed)?.reshape(expected)?))
    }

    /// The parameter `name`, on the backend, in memory layout; an empty one where something is wrong.
    fn param(&self, name: String, accepted: &[&[usize]], init: Init) -> Result<Param> {
        let dims = accepted.first().copied().unwrap_or_default();
        let weight = match self.origin {
            Origin::File(_) => self.fetch(&name, accepted)?,
            Origin::Fresh { seed } => Some(init.value(seed, &name, dims)?),
        };
        let value = match weight {
            Some(weight) => self.backend.upload(&convert(&to_memory_layout(&weight)?, self.dtype)?)?,
            None => Tensor::zeros(self.dtype, &vec![0; dims.len()])?,
        };
        let param = Param::frozen(name, value);
        self.state.borrow_mut().params.push(param.clone());
        Ok(param)
    }

    /// The built model's table of contents; errors with everything that was missing, misshapen or left over.
    pub fn finish(self) -> Result<Modules> {
        let state = self.state.take();
        let mut problems = state.problems;
        let names = if let Origin::File(source) = self.origin { source.names() } else { Vec::new() };
        for name in names {
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

    /// The table `name` of shape `dims` below this path.
    pub fn table(&self, name: &str, dims: &[usize]) -> Result<Param> {
        self.param(name, dims, Init::Normal(0.02))
    }

    fn param(&self, name: &str, dims: &[usize], init: Init) -> Result<Param> {
        self.loader.param(self.name(name), &[dims], init)
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

    /// A convolution with a square kernel and no bias.
    pub fn conv2d_unbiased(
        &self,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        spec: Conv2dSpec,
    ) -> Result<Arc<Projection>> {
        self.projection(Kind::Conv2d(spec), &[&[outputs, inputs, kernel, kernel]], false)
    }

    fn projection(&self, kind: Kind, weight: &[&[usize]], bias: bool) -> Result<Arc<Projection>> {
        let dims = weight.first().copied().unwrap_or_default();
        let (outputs, inputs) = (dims.first().copied().unwrap_or(0), dims.iter().skip(1).product());
        let init = Init::Uniform { inputs };
        let weight = self.loader.param(self.name("weight"), weight, init)?;
        let mut bias = if bias { Some(self.param("bias", &[outputs], init)?) } else { None };
        if weight.value().numel() == 0 || bias.as_ref().is_some_and(|bias| bias.value().numel() == 0) {
            bias = None; // something is wrong and will be said in `finish`; until then any shape will do
        }
        let projection = Arc::new(Projection::new(self.tap(), kind, weight, bias)?);
        self.loader.state.borrow_mut().projections.insert(self.path.clone(), Arc::clone(&projection));
        Ok(projection)
    }

    /// A group norm.
    pub fn group_norm(&self, groups: usize, channels: usize, eps: f32) -> Result<GroupNorm> {
        let gamma = self.param("weight", &[channels], Init::Constant(1.0))?;
        let beta = self.param("bias", &[channels], Init::Constant(0.0))?;
        Ok(GroupNorm { tap: self.tap(), gamma, beta, groups, eps })
    }

    /// A layer norm.
    pub fn layer_norm(&self, width: usize, eps: f32) -> Result<LayerNorm> {
        let gamma = self.param("weight", &[width], Init::Constant(1.0))?;
        let beta = self.param("bias", &[width], Init::Constant(0.0))?;
        Ok(LayerNorm { tap: self.tap(), gamma, beta, eps })
    }

    /// A lookup table.
    pub fn embedding(&self, rows: usize, width: usize) -> Result<Embedding> {
        let base = self.table("weight", &[rows, width])?;
        Ok(Embedding { tap: self.tap(), base, added: RwLock::new(None) })
    }
}

#[cfg(test)]
mod tests {
    use scumble_tensor::reference::ReferenceBackend;

    use super::*;
    use crate::files::Result as FileResult;

    /// Weights in memory.
    struct Weights(BTreeMap<String, Tensor>, BTreeMap<String, String>);

    impl Weights {
        fn new(tensors: &[(&str, &[f32], &[usize])]) -> Self {
            let tensor = |(name, values, dims): &(&str, &[f32], &[usize])| {
                ((*name).to_owned(), Tensor::from_slice(values, dims).unwrap())
            };
            Self(tensors.iter().map(tensor).collect(), BTreeMap::new())
        }
    }

    impl TensorSource for Weights {
        fn describe(&self) -> String {
            "`weights`".to_owned()
        }
        fn names(&self) -> Vec<String> {
            self.0.keys().cloned().collect()
        }
        fn info(&self, name: &str) -> Option<TensorInfo> {
            self.0.get(name).map(|tensor| TensorInfo { dtype: tensor.dtype(), shape: tensor.dims().to_vec() })
        }
        fn read(&self, name: &str) -> FileResult<Tensor> {
            Ok(self.0[name].clone())
        }
        fn metadata(&self) -> &BTreeMap<String, String> {
            &self.1
        }
    }

    const POINTWISE: Conv2dSpec = Conv2dSpec {
        stride: 1,
        padding: scumble_tensor::backend::Padding { top: 0, bottom: 0, left: 0, right: 0 },
    };

    #[test]
    fn every_problem_is_named() {
        let mut weights = Weights::new(&[
            ("a.weight", &[0.0; 6], &[2, 3]),
            ("a.bias", &[0.0; 3], &[3]),
            ("extra", &[0.0], &[1]),
            ("position_ids", &[0.0], &[1]),
        ]);
        weights.0.insert("c.weight".to_owned(), Tensor::from_slice(&[1i64], &[1]).unwrap());
        let loader =
            Loader::new("toy", &weights, &ReferenceBackend, DType::F32).tolerating(&["position_ids"]);
        loader.root().at("a").linear(3, 2, true).unwrap();
        loader.root().at("b").conv2d(1, 4, 3, POINTWISE).unwrap();
        loader.root().at("c").table("weight", &[1]).unwrap();
        let error = loader.finish().err().unwrap().to_string();
        assert_eq!(
            error,
            "`weights` does not hold the toy that the configuration describes\n  \
             misshapen: `a.bias` is [3], expected [2]\n  missing: `b.weight` [4, 1, 3, 3]\n  \
             missing: `b.bias` [4]\n  not floating-point numbers: `c.weight` is i64\n  \
             not part of the model: `extra`"
        );
    }

    #[test]
    fn pointwise_convolutions_and_linear_layers_are_the_same_numbers() {
        let six: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let weights = Weights::new(&[
            ("a.weight", &six, &[2, 3, 1, 1]),
            ("b.weight", &six, &[2, 3]),
            ("b.bias", &[0.0; 2], &[2]),
        ]);
        let loader = Loader::new("toy", &weights, &ReferenceBackend, DType::F64);
        let a = loader.root().at("a").linear(3, 2, false).unwrap();
        let b = loader.root().at("b").conv2d(3, 2, 1, POINTWISE).unwrap();
        assert_eq!((a.weight().value().dims(), b.weight().value().dims()), (&[2, 3][..], &[2, 1, 1, 3][..]));
        assert_eq!(a.weight().value().to_vec::<f32>().unwrap(), b.weight().value().to_vec::<f32>().unwrap());
        let modules = loader.finish().unwrap();
        assert_eq!(modules.projections().keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(modules.params().len(), 3);
    }

    #[test]
    fn endless_configurations_stop() {
        let weights = Weights::new(&[]);
        let loader = Loader::new("toy", &weights, &ReferenceBackend, DType::F32);
        let asked =
            (0..1 << 20).take_while(|index| loader.root().at(index).layer_norm(1 << 20, 1e-5).is_ok());
        assert!(asked.count() < MOST_PROBLEMS);
    }

    #[test]
    fn fresh_weights_depend_on_seed_and_name() {
        let first = |seed, name: &str| {
            let loader = Loader::fresh("toy", seed, &ReferenceBackend, DType::F32);
            let layer = loader.root().at(name).linear(16, 4, true).unwrap();
            loader.finish().unwrap();
            layer.weight().value().to_vec::<f32>().unwrap()
        };
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        assert!(first(1, "a").iter().all(|value| value.abs() <= 0.25));
    }
}
