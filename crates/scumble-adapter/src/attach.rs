//! Adapters on a loaded model: attached live, or folded into its weights.
//!
//! Live, each module gets a branch `y + strength * dW x` whose factor can be changed between two calls; at strength 0
//! the base computes exactly what it does alone. A low-rank pair is computed as two thin products, every other kind
//! as its dense difference (with DoRA that of the base it is put on). Differences of biases and norms have no branch:
//! they are added to the base's own numbers and taken off again. Folded, `W <- W + strength * dW` costs nothing
//! afterwards. Either way every module is checked before the first is touched.
//!
//! In the words of the original program: [`attach`] is `patch_pipe` and `inject`, [`Attached::set_strength`] is
//! `tune_lora_scale`, [`Attached::detach`] is `remove`, and [`fold`] is `collapse`.
//!
//! ```
//! use scumble_adapter::attach::{Strength, Towers, attach, fold};
//! use scumble_adapter::dialect::{ReadOptions, load_adapter};
//! # use std::{path::Path, sync::Arc};
//! # use scumble_model::{files::open_any, text_encoder::TextEncoder};
//! # use scumble_tensor::{Backend, DType, reference::ReferenceBackend};
//! # let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
//! # let backend: Arc<dyn Backend> = Arc::new(ReferenceBackend);
//! # let config = std::fs::read_to_string(fixtures.join("tiny-sd1/text_encoder/config.json"))?;
//! # let weights = open_any(&fixtures.join("tiny-sd1/text_encoder/model.safetensors"))?;
//! # let text_encoder = TextEncoder::load(&serde_json::from_str(&config)?, &*weights, &*backend, DType::F32)?;
//! # let file = fixtures.join("lora/cloneofsimo.text_encoder.pt");
//! let towers = Towers { text_encoder: Some(text_encoder.modules()), ..Towers::default() };
//! // Any dialect; every tensor of the file has found its place, or this is an error.
//! let adapter = load_adapter(&file, &towers.table(), ReadOptions::default())?.adapter;
//!
//! let attached = attach(&adapter, towers, Strength::default(), &*backend)?;
//! attached.set_strength(Strength { unet: 0.8, text_encoder: 0.5 });
//! attached.detach();
//!
//! fold(&adapter, towers, Strength::default(), &*backend)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use scumble_model::nn::{Branch, Difference, Kind, LowRank, Modules, Projection, Tunable, to_memory_layout};
use scumble_tensor::{Backend, DType, Param, Tensor};

use crate::adapter::{Adapter, LowRankFactors, ModuleFactors};
use crate::attach_rows::Rows;
use crate::dialect::family_of_width;
use crate::error::{AdapterError, Result};
use crate::table::{Module, ModuleKind, ModuleTable, Tower};

/// The models that adapters go onto. An adapter's modules of a tower that is `None` are left out by the caller's
/// choice.
#[derive(Clone, Copy, Default)]
pub struct Towers<'m> {
    /// The UNet's modules.
    pub unet: Option<&'m Modules>,
    /// The text encoder's modules.
    pub text_encoder: Option<&'m Modules>,
}

impl<'m> Towers<'m> {
    /// The modules of one tower.
    pub fn get(&self, tower: Tower) -> Option<&'m Modules> {
        match tower {
            Tower::UNet => self.unet,
            Tower::TextEncoder => self.text_encoder,
            Tower::TextEncoder2 => None,
        }
    }

    pub(crate) fn projection(&self, path: &str) -> Option<&'m Arc<Projection>> {
        let (_, local) = path.split_once('.')?;
        self.get(Tower::of(path)?)?.projections().get(local)
    }

    /// The table of everything that can be adapted on these models.
    pub fn table(&self) -> ModuleTable {
        ModuleTable::new(Tower::ALL.into_iter().flat_map(|tower| {
            let projections = self.get(tower).into_iter().flat_map(|modules| modules.projections().values());
            let norms = self.get(tower).into_iter().flat_map(move |modules| norms_of(tower, modules));
            projections.map(move |projection| module_of(tower, projection)).chain(norms)
        }))
    }

    /// The parameter `part` (`weight` or `bias`) of the module at `path`.
    fn param(&self, path: &str, part: &str) -> Option<&'m Param> {
        let (_, local) = path.split_once('.')?;
        let modules = self.get(Tower::of(path)?)?;
        modules.params().iter().find(|param| {
            param.name().strip_prefix(local).and_then(|rest| rest.strip_prefix('.')) == Some(part)
        })
    }
}

/// Norm layers are the modules whose weight is a vector.
fn norms_of(tower: Tower, modules: &Modules) -> impl Iterator<Item = Module> {
    modules.params().iter().filter_map(move |param| {
        let (local, value) = (param.name().strip_suffix(".weight")?, param.value());
        let [width] = *value.dims() else { return None };
        Some(Module {
            path: format!("{}.{local}", tower.prefix()),
            kind: ModuleKind::Norm,
            inputs: width,
            outputs: width,
        })
    })
}

fn module_of(tower: Tower, projection: &Projection) -> Module {
    Module {
        path: format!("{}.{}", tower.prefix(), projection.path()),
        kind: match projection.kind() {
            Kind::Linear => ModuleKind::Linear,
            Kind::Conv2d(_) => ModuleKind::Conv { kernel: projection.kernel() },
        },
        inputs: projection.in_features(),
        outputs: projection.out_features(),
    }
}

/// What the adapter's own scale is multiplied with, per tower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// On the UNet.
    pub unet: f32,
    /// On the text encoder.
    pub text_encoder: f32,
}

impl Default for Strength {
    fn default() -> Self {
        Self { unet: 1.0, text_encoder: 1.0 }
    }
}

impl Strength {
    /// The strength on one tower.
    pub fn of(self, tower: Tower) -> f32 {
        match tower {
            Tower::UNet => self.unet,
            Tower::TextEncoder | Tower::TextEncoder2 => self.text_encoder,
        }
    }

    fn check(self) -> Result<()> {
        if self.unet.is_finite() && self.text_encoder.is_finite() {
            return Ok(());
        }
        Err(AdapterError::Selection {
            what: format!("strength {} (text {}) is no number", self.unet, self.text_encoder),
        })
    }
}

/// One branch and where it sits.
pub(crate) struct Mounted {
    pub tower: Tower,
    pub projection: Arc<Projection>,
    pub branch: Arc<dyn Tunable>,
    /// What the strength is multiplied with: `alpha / r` of a pair, 1 of a difference.
    pub scale: f32,
}

/// Branches on a model. Dropping the handle leaves them there.
#[must_use = "without the handle the adapter can only be taken off together with all others"]
pub struct Attached {
    mounted: Vec<Mounted>,
    rows: Vec<Rows>,
}

impl Attached {
    /// Mounts branches at a strength; takes those already mounted off again if one is refused.
    pub(crate) fn mount(mounted: Vec<Mounted>, strength: Strength) -> Result<Self> {
        strength.check()?;
        let attached = Self { mounted, rows: Vec::new() };
        attached.set_strength(strength);
        for item in &attached.mounted {
            let branch: Arc<dyn Branch> = item.branch.clone();
            if let Err(error) = item.projection.attach(branch) {
                attached.detach();
                return Err(error.into());
            }
        }
        Ok(attached)
    }

    /// Number of modules it sits on.
    pub fn modules(&self, tower: Tower) -> usize {
        self.mounted.iter().filter(|item| item.tower == tower).count()
    }

    /// Changes the strength; it holds from the next call on.
    pub fn set_strength(&self, strength: Strength) {
        for item in &self.mounted {
            item.branch.set_scale(item.scale * strength.of(item.tower));
        }
        self.rows.iter().for_each(|rows| rows.set_strength(strength.of(rows.tower)));
    }

    /// Changes the strength of each module, by its path; it holds from the next call on.
    pub fn set_strengths(&self, strength: impl Fn(&str) -> f32) {
        for item in &self.mounted {
            let path = format!("{}.{}", item.tower.prefix(), item.projection.path());
            item.branch.set_scale(item.scale * strength(&path));
        }
        self.rows.iter().for_each(|rows| rows.set_strength(strength(&rows.path)));
    }

    /// The paths of the modules that it changes, sorted, each once: branches, biases and norms.
    pub fn paths(&self) -> Vec<String> {
        let path = |item: &Mounted| format!("{}.{}", item.tower.prefix(), item.projection.path());
        let rows = self.rows.iter().map(|rows| rows.path.clone());
        let paths: BTreeSet<String> = self.mounted.iter().map(path).chain(rows).collect();
        paths.into_iter().collect()
    }

    /// Takes the branches off.
    pub fn detach(self) {
        self.rows.iter().rev().for_each(Rows::remove);
        for item in self.mounted {
            let branch: Arc<dyn Branch> = item.branch;
            item.projection.detach(&branch);
        }
    }
}

/// The factors as the engine wants them: `down [r, in]` or `[r, kh, kw, in]`, `up [out, r]`, in one element type.
pub(crate) fn engine_factors(
    factors: &LowRankFactors,
    dtype: DType,
    backend: &dyn Backend,
) -> Result<(Tensor, Tensor)> {
    let down = to_memory_layout(factors.down())?.to_dtype(dtype)?;
    let up = factors.up().reshape(&[factors.up().shape().first(), factors.rank()])?.to_dtype(dtype)?;
    Ok((backend.upload(&down)?, backend.upload(&up)?))
}

/// One module of an adapter on its place, shapes checked.
pub(crate) struct Fitted<'m> {
    tower: Tower,
    path: String,
    /// `None` for a norm.
    projection: Option<&'m Arc<Projection>>,
    factors: ModuleFactors,
}

/// Every module of the adapter with its place; or all the modules that do not fit.
pub(crate) fn fit<'m>(adapter: &Adapter, towers: Towers<'m>) -> Result<Vec<Fitted<'m>>> {
    let table = towers.table();
    let (mut fitted, mut faults, mut guess) = (Vec::new(), Vec::new(), None);
    for (path, factors) in &adapter.modules {
        let Some(tower) = Tower::of(path) else {
            faults.push(format!("{path}: no tower of that name"));
            continue;
        };
        if towers.get(tower).is_none() && tower != Tower::TextEncoder2 {
            continue;
        }
        let Some(module) = table.get(path) else {
            faults.push(format!("{path}: the base has no such module"));
            continue;
        };
        if factors.bias().is_some() && towers.param(path, "bias").is_none() {
            faults.push(format!("{path}: it changes the bias, and the base's module has none"));
            continue;
        }
        match factors.shaped_for(module) {
            Ok(factors) => {
                let (path, projection) = (path.clone(), towers.projection(path));
                fitted.push(Fitted { tower, path, projection, factors });
            }
            Err(fault) => {
                let found = factors.low_rank().map(|pair| pair.down().dims()[1]);
                if let Some(found) = found.filter(|found| *found != module.inputs)
                    && path.ends_with("attn2.to_k")
                    && guess.is_none()
                {
                    let family = family_of_width(found).unwrap_or("another base's");
                    let wanted = module.inputs;
                    guess = Some(format!(
                        "this looks like {family} adapter: attn2.to_k takes {found}, the base wants {wanted}"
                    ));
                }
                faults.push(format!("{path}: {fault}"));
            }
        }
    }
    if faults.is_empty() { Ok(fitted) } else { Err(AdapterError::WrongBase { faults, guess }) }
}

impl Fitted<'_> {
    /// The change of the projection's weight as f32 in the files' layout; `None` where there is none.
    fn delta(&self, projection: &Projection, backend: &dyn Backend) -> Result<Option<Tensor>> {
        let base = match self.factors.magnitude() {
            None => return self.factors.delta(&self.path)?.map(|d| dense(projection, &d)).transpose(),
            Some(_) => Modules::export(backend, projection.weight())?,
        };
        self.factors.delta_on(&self.path, &base)?.map(|delta| dense(projection, &delta)).transpose()
    }

    /// The branch that does the same, and its own scale.
    fn branch(
        &self,
        projection: &Projection,
        backend: &dyn Backend,
    ) -> Result<Option<(Arc<dyn Tunable>, f32)>> {
        let dtype = projection.weight().value().dtype();
        if let (Some(crate::Change::LowRank(pair)), None) = (self.factors.change(), self.factors.magnitude())
        {
            let (down, up) = engine_factors(pair, dtype, backend)?;
            let down = Param::frozen(format!("{}.down", self.path), down);
            let up = Param::frozen(format!("{}.up", self.path), up);
            return Ok(Some((Arc::new(LowRank::new(down, up, pair.scale())), pair.scale())));
        }
        let Some(delta) = self.delta(projection, backend)? else { return Ok(None) };
        let weight = backend.upload(&to_memory_layout(&delta)?.to_dtype(dtype)?)?;
        let weight = Param::frozen(format!("{}.difference", self.path), weight);
        Ok(Some((Arc::new(Difference::new(weight, 1.0)), 1.0)))
    }

    /// What is added to vectors of the base: the bias, and of a norm also the weight.
    fn rows(&self, towers: Towers<'_>) -> Result<Vec<Rows>> {
        let mut rows = Vec::new();
        let mut add = |part: &str, diff: Tensor| -> Result<()> {
            if let Some(param) = towers.param(&self.path, part) {
                rows.push(Rows::prepare(self.tower, &self.path, param, &diff)?);
            }
            Ok(())
        };
        if let Some(bias) = self.factors.bias() {
            add("bias", bias.clone())?;
        }
        if self.projection.is_none()
            && let Some(delta) = self.factors.delta(&self.path)?
        {
            add("weight", delta.reshape(&[delta.numel()])?)?;
        }
        Ok(rows)
    }
}

/// `[out, in * kh * kw]` in the sizes that the files give the projection's weight.
fn dense(projection: &Projection, delta: &Tensor) -> Result<Tensor> {
    let [kh, kw] = projection.kernel();
    let dims = match projection.kind() {
        Kind::Linear => vec![projection.out_features(), projection.in_features()],
        Kind::Conv2d(_) => vec![projection.out_features(), projection.in_features(), kh, kw],
    };
    Ok(delta.reshape(&dims)?)
}

/// Attaches an adapter live. Several can sit on one model; their changes add up.
pub fn attach(
    adapter: &Adapter,
    towers: Towers<'_>,
    strength: Strength,
    backend: &dyn Backend,
) -> Result<Attached> {
    adapter.check_finite()?;
    strength.check()?;
    let (mut mounted, mut rows) = (Vec::new(), Vec::new());
    for fitted in fit(adapter, towers)? {
        rows.extend(fitted.rows(towers)?);
        let Some(projection) = fitted.projection else { continue };
        if let Some((branch, scale)) = fitted.branch(projection, backend)? {
            mounted.push(Mounted { tower: fitted.tower, projection: Arc::clone(projection), branch, scale });
        }
    }
    let mut attached = Attached::mount(mounted, strength)?;
    attached.rows = rows;
    attached.set_strength(strength);
    Ok(attached)
}

/// Adds an adapter to the weights for good: `W <- W + strength * dW`, summed in f32.
pub fn fold(adapter: &Adapter, towers: Towers<'_>, strength: Strength, backend: &dyn Backend) -> Result<()> {
    adapter.check_finite()?;
    strength.check()?;
    for fitted in fit(adapter, towers)? {
        let strength = strength.of(fitted.tower);
        if strength == 0.0 {
            continue;
        }
        fitted.rows(towers)?.iter().for_each(|rows| rows.set_strength(strength));
        let Some(projection) = fitted.projection else { continue };
        if let (Some(crate::Change::LowRank(pair)), None) =
            (fitted.factors.change(), fitted.factors.magnitude())
        {
            let (down, up) = engine_factors(pair, DType::F32, backend)?;
            let scale = pair.scale() * strength;
            let branch = LowRank::new(Param::frozen("down", down), Param::frozen("up", up), scale);
            let delta = branch.delta(backend, projection)?;
            projection.add_delta(backend, &delta)?;
        } else if let Some(delta) = fitted.delta(projection, backend)? {
            let delta = backend.upload(&to_memory_layout(&delta)?)?;
            projection.add_delta(backend, &backend.scale(&delta, strength)?)?;
        }
    }
    Ok(())
}

/// The weights that [`fold`] would leave, by module path and in the files' layout, without touching the model: for
/// comparing and for merging one tensor at a time.
pub fn folded_weights(
    adapter: &Adapter,
    towers: Towers<'_>,
    strength: Strength,
    backend: &dyn Backend,
) -> Result<BTreeMap<String, Tensor>> {
    adapter.check_finite()?;
    strength.check()?;
    let mut weights = BTreeMap::new();
    for fitted in fit(adapter, towers)? {
        let Some(param) = towers.param(&fitted.path, "weight") else { continue };
        let host = Modules::export(backend, param)?.to_dtype(DType::F32)?;
        let Some(delta) = fitted.factors.delta_on(&fitted.path, &host)? else { continue };
        let (base, delta) = (host.as_slice::<f32>()?, delta.as_slice::<f32>()?);
        let scale = strength.of(fitted.tower);
        let sum: Vec<f32> = base.iter().zip(delta).map(|(w, d)| w + scale * d).collect();
        weights.insert(fitted.path.clone(), Tensor::from_slice(&sum, host.dims())?);
    }
    Ok(weights)
}
