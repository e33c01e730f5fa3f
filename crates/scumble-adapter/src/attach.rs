//! Adapters on a loaded model: attached live, or folded into its weights.
//!
//! Live, each module gets a branch `y + strength * (alpha / r) * up(down(x))` whose factor can be changed between two
//! calls; at strength 0 the base computes exactly what it does alone. Folded, `W <- W + strength * (alpha / r) up @
//! down` costs nothing afterwards. Either way every module is checked before the first is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_model::nn::{Branch, Kind, LowRank, Modules, Projection, to_memory_layout};
use scumble_tensor::{Backend, DType, Param, Tensor};

use crate::adapter::{Adapter, LowRankFactors};
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

    fn projection(&self, path: &str) -> Option<&'m Arc<Projection>> {
        let (_, local) = path.split_once('.')?;
        self.get(Tower::of(path)?)?.projections().get(local)
    }

    /// The table of everything that can be adapted on these models.
    pub fn table(&self) -> ModuleTable {
        ModuleTable::new(Tower::ALL.into_iter().flat_map(|tower| {
            let projections = self.get(tower).into_iter().flat_map(|modules| modules.projections().values());
            projections.map(move |projection| module_of(tower, projection))
        }))
    }
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
    pub branch: Arc<LowRank>,
    /// `alpha / r`.
    pub scale: f32,
}

/// Branches on a model. Dropping the handle leaves them there.
#[must_use = "without the handle the adapter can only be taken off together with all others"]
pub struct Attached {
    mounted: Vec<Mounted>,
}

impl Attached {
    /// Mounts branches at a strength; takes those already mounted off again if one is refused.
    pub(crate) fn mount(mounted: Vec<Mounted>, strength: Strength) -> Result<Self> {
        strength.check()?;
        let attached = Self { mounted };
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
    }

    /// Changes the strength of each module, by its path; it holds from the next call on.
    pub fn set_strengths(&self, strength: impl Fn(&str) -> f32) {
        for item in &self.mounted {
            let path = format!("{}.{}", item.tower.prefix(), item.projection.path());
            item.branch.set_scale(item.scale * strength(&path));
        }
    }

    /// The paths of the modules it sits on.
    pub fn paths(&self) -> Vec<String> {
        let path = |item: &Mounted| format!("{}.{}", item.tower.prefix(), item.projection.path());
        self.mounted.iter().map(path).collect()
    }

    /// Takes the branches off.
    pub fn detach(self) {
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

/// Every module of the adapter with its projection, shapes checked; or all the modules that do not fit.
pub(crate) fn fit<'m>(
    adapter: &Adapter,
    towers: Towers<'m>,
) -> Result<Vec<(Tower, &'m Arc<Projection>, LowRankFactors)>> {
    adapter.require_low_rank("put onto a model")?;
    let (mut fitted, mut faults, mut guess) = (Vec::new(), Vec::new(), None);
    for (path, factors) in adapter.low_rank() {
        let Some(tower) = Tower::of(path) else {
            faults.push(format!("{path}: no tower of that name"));
            continue;
        };
        if towers.get(tower).is_none() {
            continue;
        }
        let Some(projection) = towers.projection(path) else {
            faults.push(format!("{path}: the base has no such module"));
            continue;
        };
        match factors.shaped_for(&module_of(tower, projection)) {
            Ok(shaped) => fitted.push((tower, projection, shaped)),
            Err(fault) => {
                if path.ends_with("attn2.to_k") && guess.is_none() {
                    let found = factors.down().dims()[1];
                    let family = family_of_width(found).unwrap_or("another base's");
                    let wanted = projection.in_features();
                    guess = (found != wanted).then(|| {
                        format!("this looks like {family} adapter: attn2.to_k takes {found}, the base wants {wanted}")
                    });
                }
                faults.push(format!("{path}: {fault}"));
            }
        }
    }
    if faults.is_empty() { Ok(fitted) } else { Err(AdapterError::WrongBase { faults, guess }) }
}

/// Attaches an adapter live. Several can sit on one model; their changes add up.
pub fn attach(
    adapter: &Adapter,
    towers: Towers<'_>,
    strength: Strength,
    backend: &dyn Backend,
) -> Result<Attached> {
    adapter.check_finite()?;
    let mounted = fit(adapter, towers)?
        .into_iter()
        .map(|(tower, projection, factors)| {
            let (down, up) = engine_factors(&factors, projection.weight().value().dtype(), backend)?;
            let name = format!("{}.{}", tower.prefix(), projection.path());
            let down = Param::frozen(format!("{name}.down"), down);
            let up = Param::frozen(format!("{name}.up"), up);
            let branch = Arc::new(LowRank::new(down, up, factors.scale()));
            Ok(Mounted { tower, projection: Arc::clone(projection), branch, scale: factors.scale() })
        })
        .collect::<Result<Vec<_>>>()?;
    Attached::mount(mounted, strength)
}

/// Adds an adapter to the weights for good: `W <- W + strength * (alpha / r) up @ down`, summed in f32.
pub fn fold(adapter: &Adapter, towers: Towers<'_>, strength: Strength, backend: &dyn Backend) -> Result<()> {
    adapter.check_finite()?;
    strength.check()?;
    for (tower, projection, factors) in fit(adapter, towers)? {
        let scale = factors.scale() * strength.of(tower);
        if scale == 0.0 {
            continue;
        }
        let (down, up) = engine_factors(&factors, DType::F32, backend)?;
        let branch = LowRank::new(Param::frozen("down", down), Param::frozen("up", up), scale);
        let delta = branch.delta(backend, projection)?;
        projection.add_delta(backend, &delta)?;
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
    for (tower, projection, factors) in fit(adapter, towers)? {
        let host = Modules::export(backend, projection.weight())?.to_dtype(DType::F32)?;
        let delta = factors.delta()?;
        let (base, delta) = (host.as_slice::<f32>()?, delta.as_slice::<f32>()?);
        let scale = strength.of(tower);
        let sum: Vec<f32> = base.iter().zip(delta).map(|(w, d)| w + scale * d).collect();
        let path = format!("{}.{}", tower.prefix(), projection.path());
        weights.insert(path, Tensor::from_slice(&sum, host.dims())?);
    }
    Ok(weights)
}
