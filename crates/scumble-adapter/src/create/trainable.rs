//! An adapter whose factors an optimizer changes, whatever its kind.
//!
//! Each tensor of a module's factors becomes a parameter `<path>.<part>` with f32 master values in the engine's layout:
//! input sides of convolutions `[r, kh, kw, in]`, everything else a matrix, a magnitude `[out]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_model::nn::{
    Decomposed, Factor, Hadamard, Kronecker, LowRank, Projection, Tunable, to_file_layout, to_memory_layout,
};
use scumble_tensor::{Backend, DType, Param, Tensor};
use sha2::{Digest, Sha256};

use crate::adapter::{Adapter, Axis, Change, KroneckerFactor, LowRankFactors, ModuleFactors};
use crate::attach::{Attached, Mounted, Strength, Towers};
use crate::error::{AdapterError, Result};
use crate::table::{Module, ModuleTable, Tower};

/// One module's trainable factors.
#[derive(Clone, Debug)]
pub struct TrainableModule {
    /// The module, with its tower.
    pub module: Module,
    /// Parts and their parameters, in the order of [`Change::tensors`], a magnitude last.
    pub params: Vec<(&'static str, Param)>,
    /// Frozen factors `<path>.<part>.start` that the change counts from.
    start: Vec<(&'static str, Param)>,
    /// The factors that it was made of: kind, shapes, alpha.
    template: ModuleFactors,
}

/// An adapter whose factors an optimizer changes: f32 master values on the backend's device.
#[derive(Clone, Debug)]
pub struct TrainableLora {
    modules: BTreeMap<String, TrainableModule>,
}

impl TrainableLora {
    /// Makes an adapter's factors trainable: a fresh one's (see [`super::fresh`]) or one to go on from. It must fit
    /// `table`.
    pub fn new(adapter: &Adapter, table: &ModuleTable, backend: &dyn Backend) -> Result<Self> {
        adapter.check_finite()?;
        let (mut modules, mut faults) = (BTreeMap::new(), Vec::new());
        for (path, factors) in &adapter.modules {
            check_kind(path, factors)?;
            let Some(module) = table.get(path) else {
                faults.push(format!("{path}: the base has no such module"));
                continue;
            };
            match factors.shaped_for(module) {
                Err(fault) => faults.push(format!("{path}: {fault}")),
                Ok(template) => {
                    let params = template.tensors().into_iter().map(|(part, tensor)| {
                        let value = backend.upload(&engine_layout(&template, part, tensor, module)?)?;
                        Ok((part, Param::trainable(format!("{path}.{part}"), value)))
                    });
                    let params = params.collect::<Result<_>>()?;
                    let trainable =
                        TrainableModule { module: module.clone(), params, start: Vec::new(), template };
                    modules.insert(path.clone(), trainable);
                }
            }
        }
        if faults.is_empty() {
            Ok(Self { modules })
        } else {
            Err(AdapterError::WrongBase { faults, guess: None })
        }
    }

    /// Lets the change count from where the factors are now, as PiSSA wants it: `scale (up down - up0 down0)`. The adapter
    /// that comes out has both pairs side by side, so it is a plain one of twice the rank. For low-rank pairs only.
    pub fn counted_from_start(mut self) -> Result<Self> {
        for (path, module) in &mut self.modules {
            if module.template.low_rank().is_none() {
                let kind = module.template.kind();
                return Err(AdapterError::Kind {
                    module: path.clone(),
                    kind,
                    purpose: "counted from its start",
                });
            }
            let frozen = |(part, param): &(&'static str, Param)| {
                (*part, Param::frozen(format!("{}.start", param.name()), param.value()))
            };
            module.start = module.params.iter().map(frozen).collect();
        }
        Ok(self)
    }

    /// The modules, in path order.
    pub fn modules(&self) -> impl Iterator<Item = &TrainableModule> {
        self.modules.values()
    }

    /// All factors, in path order, parts in their kind's order (`down` before `up`).
    pub fn params(&self) -> Vec<Param> {
        self.modules().flat_map(TrainableModule::own_params).collect()
    }

    /// The factors of one tower, in the same order.
    pub fn params_of(&self, tower: Tower) -> Vec<Param> {
        let of_tower = |module: &&TrainableModule| Tower::of(&module.module.path) == Some(tower);
        self.modules().filter(of_tower).flat_map(TrainableModule::own_params).collect()
    }

    /// Frozen factors that the change counts from: whoever keeps the parameters must keep them too.
    pub fn starts(&self) -> Vec<Param> {
        self.modules().flat_map(|module| module.start.iter().map(|(_, param)| param.clone())).collect()
    }

    /// Puts the branches onto the models. `dropout` is the probability that an input of a branch is dropped while
    /// training; every branch draws masks of its own.
    pub fn attach(&self, towers: Towers<'_>, dropout: f32, backend: &dyn Backend) -> Result<Attached> {
        if !(0.0..1.0).contains(&dropout) {
            return Err(AdapterError::Selection {
                what: format!("dropout {dropout} is outside 0 (none) to 1 (excluded)"),
            });
        }
        let table = towers.table();
        let mut mounted = Vec::new();
        for (path, module) in &self.modules {
            let Some(tower) = Tower::of(path) else { continue };
            if towers.get(tower).is_none() {
                continue;
            }
            let projection = towers
                .projection(path)
                .filter(|_| table.get(path) == Some(&module.module))
                .ok_or_else(|| AdapterError::WrongBase {
                    faults: vec![format!("{path}: the model has no module of these sizes there")],
                    guess: None,
                })?;
            let (branch, scale) = module.branch(projection, dropout, backend)?;
            mounted.push(Mounted { tower, projection: Arc::clone(projection), branch, scale });
        }
        Attached::mount(mounted, Strength::default())
    }

    /// The factors as they are now, in the files' layout and f32.
    pub fn to_adapter(&self, backend: &dyn Backend) -> Result<Adapter> {
        let mut adapter = Adapter::default();
        for (path, module) in &self.modules {
            adapter.modules.insert(path.clone(), module.factors(backend)?);
        }
        Ok(adapter)
    }

    /// Takes an adapter's values over, for going on from it: it must have exactly these modules, kinds, ranks and alphas.
    pub fn load(&self, adapter: &Adapter, backend: &dyn Backend) -> Result<()> {
        let refuse = |what: String| Err(AdapterError::Selection { what });
        if let Some(path) = self.modules.keys().find(|path| !adapter.modules.contains_key(*path)) {
            return refuse(format!(
                "the adapter to go on from has no {path}; train with the modules it was made for"
            ));
        }
        if let Some(path) = adapter.modules.keys().find(|path| !self.modules.contains_key(*path)) {
            return refuse(format!("the adapter to go on from has {path}, which is not chosen now"));
        }
        adapter.check_finite()?;
        let mut values = Vec::new();
        for (path, factors) in &adapter.modules {
            let module = &self.modules[path];
            if !module.start.is_empty() {
                return refuse(format!("{path} counts from its own start and can't go on from an adapter"));
            }
            let shaped = factors
                .shaped_for(&module.module)
                .map_err(|what| AdapterError::Factors { module: path.clone(), what })?;
            let (theirs, ours) = (describe(&shaped), describe(&module.template));
            if theirs != ours {
                return refuse(format!(
                    "{path}: the adapter to go on from is {theirs}, now {ours} is chosen"
                ));
            }
            for ((part, param), (_, tensor)) in module.params.iter().zip(shaped.tensors()) {
                let value = engine_layout(&module.template, part, tensor, &module.module)?;
                values.push((param, backend.upload(&value)?));
            }
        }
        values.into_iter().for_each(|(param, value)| param.set(value));
        Ok(())
    }
}

impl TrainableModule {
    fn own_params(&self) -> impl Iterator<Item = Param> {
        self.params.iter().map(|(_, param)| param.clone())
    }

    fn param(&self, part: &str) -> Result<Param> {
        let found = self.params.iter().find(|(name, _)| *name == part);
        found.map(|(_, param)| param.clone()).ok_or_else(|| AdapterError::Factors {
            module: self.module.path.clone(),
            what: format!("its {} has no {part}", self.template.kind()),
        })
    }

    /// The branch and the scale that stands for strength 1.
    fn branch(
        &self,
        projection: &Projection,
        dropout: f32,
        backend: &dyn Backend,
    ) -> Result<(Arc<dyn Tunable>, f32)> {
        let site = site(&self.module.path);
        let param = |part: &str| self.param(part);
        let scale = self.template.change().map_or(1.0, Change::scale);
        let branch: Arc<dyn Tunable> = match self.template.change() {
            Some(Change::LowRank(_)) if self.template.magnitude().is_some() => {
                let pair = [param("down")?, param("up")?];
                let branch = Decomposed::new(projection, pair, param("magnitude")?, scale, backend)?;
                return Ok((Arc::new(branch.with_dropout(dropout, site)), 1.0));
            }
            Some(Change::Hadamard(_)) => {
                let sides = [[param("w1_a")?, param("w1_b")?], [param("w2_a")?, param("w2_b")?]];
                Arc::new(Hadamard::new(sides, scale).with_dropout(dropout, site))
            }
            Some(Change::Kronecker(factors)) => {
                let factor = |factor: &KroneckerFactor, [whole, a, b]: [&str; 3]| match factor {
                    KroneckerFactor::Whole(_) => Ok(Factor::Whole(param(whole)?)),
                    _ => Ok(Factor::Pair { a: param(a)?, b: param(b)? }) as Result<Factor>,
                };
                let w1 = factor(factors.w1(), ["w1", "w1_a", "w1_b"])?;
                let w2 = factor(factors.w2(), ["w2", "w2_a", "w2_b"])?;
                Arc::new(Kronecker::new(w1, w2, scale).with_dropout(dropout, site))
            }
            _ => {
                let mut branch =
                    LowRank::new(param("down")?, param("up")?, scale).with_dropout(dropout, site);
                if let [(_, down), (_, up)] = &self.start[..] {
                    branch = branch.counted_from(down.clone(), up.clone());
                }
                Arc::new(branch)
            }
        };
        Ok((branch, scale))
    }

    /// The factors as they are now, in the files' layout.
    fn factors(&self, backend: &dyn Backend) -> Result<ModuleFactors> {
        let now = self.template.map(&|part, tensor| {
            let value = backend.download(&self.param(part)?.value())?;
            Ok(file_layout(&value)?.reshape(tensor.dims())?)
        })?;
        let ([(_, down), (_, up)], Some(pair)) = (&self.start[..], now.low_rank()) else { return Ok(now) };
        let host = |param: &Param| backend.download(&param.value());
        let down = file_layout(&host(down)?)?.reshape(pair.down().dims())?;
        let up = host(up)?.reshape(pair.up().dims())?;
        Ok(beside(&self.module, pair, &down, &up)?.into())
    }
}

/// `scale (up down - up0 down0)` as one pair of twice the rank.
fn beside(module: &Module, pair: &LowRankFactors, down0: &Tensor, up0: &Tensor) -> Result<LowRankFactors> {
    let (rank, outputs) = (pair.rank(), module.outputs);
    let (down_dims, up_dims) = LowRankFactors::shapes_for(module, 2 * rank);
    let mut down = pair.down().to_vec::<f32>()?;
    down.extend(down0.to_vec::<f32>()?);
    let (up, up0) = (pair.up().to_vec::<f32>()?, up0.to_vec::<f32>()?);
    let row = |row: usize| row * rank..(row + 1) * rank;
    let up: Vec<f32> = (0..outputs)
        .flat_map(|o| up[row(o)].iter().copied().chain(up0[row(o)].iter().map(|value| -value)))
        .collect();
    let (down, up) = (Tensor::from_slice(&down, &down_dims)?, Tensor::from_slice(&up, &up_dims)?);
    LowRankFactors::new(&module.path, down, up, 2.0 * pair.alpha())
}

/// Errors for what no branch trains.
fn check_kind(path: &str, factors: &ModuleFactors) -> Result<()> {
    let cores = |tensor: &(&str, &Tensor)| ["mid", "t1", "t2"].contains(&tensor.0);
    let trains = factors.bias().is_none()
        && !factors.tensors().iter().any(cores)
        && match (factors.change(), factors.magnitude()) {
            (Some(Change::LowRank(_)), magnitude) => {
                magnitude.is_none_or(|magnitude| magnitude.axis() == Axis::Output)
            }
            (Some(Change::Hadamard(_) | Change::Kronecker(_)), None) => true,
            _ => false,
        };
    if trains {
        return Ok(());
    }
    Err(AdapterError::CannotTrain { module: path.to_owned(), kind: factors.kind() })
}

/// Kind, rank and alpha in words: what must agree to go on from an adapter.
fn describe(factors: &ModuleFactors) -> String {
    let rank = factors.rank().map_or("no rank".to_owned(), |rank| format!("rank {rank}"));
    let alpha = factors.change().and_then(Change::alpha);
    let alpha = alpha.filter(|_| factors.rank().is_some());
    let alpha = alpha.map_or(String::new(), |alpha| format!(" and alpha {alpha}"));
    let shapes: Vec<String> = match factors.low_rank() {
        Some(_) => Vec::new(),
        None => factors.tensors().iter().map(|(part, tensor)| format!("{part} {}", tensor.shape())).collect(),
    };
    let shapes = if shapes.is_empty() { String::new() } else { format!(" ({})", shapes.join(", ")) };
    format!("{} with {rank}{alpha}{shapes}", factors.kind())
}

/// A tensor of the files as the engine wants it: f32, the kernel of an input side in front of the channels.
fn engine_layout(factors: &ModuleFactors, part: &str, tensor: &Tensor, module: &Module) -> Result<Tensor> {
    let tensor = tensor.to_dtype(DType::F32)?;
    if part == "magnitude" {
        return Ok(tensor.reshape(&[tensor.numel()])?);
    }
    let rows = tensor.shape().first();
    let columns = tensor.numel() / rows.max(1);
    let has_kernel = match factors.change() {
        Some(Change::LowRank(_)) => part == "down",
        Some(Change::Hadamard(_)) => ["w1_b", "w2_b"].contains(&part),
        Some(Change::Kronecker(_)) => ["w2", "w2_b"].contains(&part),
        _ => false,
    };
    if !module.is_conv() || !has_kernel {
        return Ok(tensor.reshape(&[rows, columns])?);
    }
    let [kh, kw] = module.kernel();
    Ok(to_memory_layout(&tensor.reshape(&[rows, columns / (kh * kw).max(1), kh, kw])?)?)
}

/// Back: what has a kernel has four sizes.
fn file_layout(value: &Tensor) -> Result<Tensor> {
    Ok(if value.dims().len() == 4 { to_file_layout(value)? } else { value.clone() })
}

/// A number of a branch's own for its dropout masks: it depends on the path alone, so it survives any change of order.
fn site(path: &str) -> u64 {
    let digest = Sha256::digest(path.as_bytes());
    digest.iter().take(8).fold(0, |site, &byte| site << 8 | u64::from(byte))
}
