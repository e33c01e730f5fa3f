//! Fresh adapters for training, and trained ones out of the model.
//!
//! Initialisation: `up` is zero, so training starts from the base; `down` is normal with standard deviation `1/r`
//! (the original) or uniform within `+-1/sqrt(in * kh * kw)` (kohya: Kaiming with a = sqrt 5). Every module draws
//! from a stream of its own name, so that neither order nor the choice of other modules moves its numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_model::nn::{LowRank, to_file_layout};
use scumble_tensor::rng::{Generator, stream};
use scumble_tensor::{Backend, DType, Param, Tensor};
use sha2::{Digest, Sha256};

use crate::adapter::{Adapter, LowRankFactors};
use crate::attach::{Attached, Mounted, Strength, Towers, engine_factors};
use crate::error::{AdapterError, Result};
use crate::select::Targets;
use crate::table::{Module, ModuleKind, ModuleTable, Tower};

/// How `down` starts; `up` always starts at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// Normal, standard deviation `1 / rank`.
    #[default]
    Normal,
    /// Uniform within `+- 1 / sqrt(inputs of one output)`.
    Kaiming,
}

impl Init {
    fn draw(self, generator: &mut Generator, shape: &[usize]) -> Vec<f32> {
        let count = shape.iter().product();
        match self {
            Init::Normal => {
                let deviation = 1.0 / shape[0] as f32;
                generator.randn(count).into_iter().map(|value| value * deviation).collect()
            }
            Init::Kaiming => {
                let bound = 1.0 / (shape[1..].iter().product::<usize>() as f32).sqrt();
                generator.rand(count).into_iter().map(|value| (2.0 * value - 1.0) * bound).collect()
            }
        }
    }
}

/// An untrained adapter for the chosen modules: f32 factors, drawn by `seed`.
pub fn fresh(targets: &Targets, table: &ModuleTable, init: Init, seed: u64) -> Result<Adapter> {
    let mut adapter = Adapter::default();
    for chosen in targets.choose(table)? {
        let path = &chosen.module.path;
        let (down, up) = LowRankFactors::shapes_for(chosen.module, chosen.rank);
        let values = init.draw(&mut stream(seed, &format!("lora init {path}")), &down);
        adapter.insert(
            path,
            Tensor::from_slice(&values, &down)?,
            Tensor::zeros(DType::F32, &up)?,
            chosen.alpha,
        )?;
    }
    Ok(adapter)
}

/// One module's trainable factors.
#[derive(Clone, Debug)]
pub struct TrainablePair {
    /// The module, with its tower.
    pub module: Module,
    /// `<path>.down`, `[r, in]` or `[r, kh, kw, in]`.
    pub down: Param,
    /// `<path>.up`, `[out, r]`.
    pub up: Param,
    /// Alpha of the scale `alpha / r`.
    pub alpha: f32,
}

impl TrainablePair {
    fn rank(&self) -> usize {
        self.down.value().shape().first()
    }
}

/// An adapter whose factors an optimizer changes: f32 master values on the backend's device.
#[derive(Clone, Debug)]
pub struct TrainableLora {
    pairs: BTreeMap<String, TrainablePair>,
}

impl TrainableLora {
    /// Makes an adapter's factors trainable: a fresh one's (see [`fresh`]) or one to go on from. It must fit `table`.
    pub fn new(adapter: &Adapter, table: &ModuleTable, backend: &dyn Backend) -> Result<Self> {
        adapter.require_low_rank("trained on")?;
        adapter.check_finite()?;
        let (mut pairs, mut faults) = (BTreeMap::new(), Vec::new());
        for (path, factors) in adapter.low_rank() {
            let Some(module) = table.get(path) else {
                faults.push(format!("{path}: the base has no such module"));
                continue;
            };
            match factors.shaped_for(module) {
                Err(fault) => faults.push(format!("{path}: {fault}")),
                Ok(shaped) => {
                    let (down, up) = engine_factors(&shaped, DType::F32, backend)?;
                    let pair = TrainablePair {
                        module: module.clone(),
                        down: Param::trainable(format!("{path}.down"), down),
                        up: Param::trainable(format!("{path}.up"), up),
                        alpha: factors.alpha(),
                    };
                    pairs.insert(path.to_owned(), pair);
                }
            }
        }
        if faults.is_empty() {
            Ok(Self { pairs })
        } else {
            Err(AdapterError::WrongBase { faults, guess: None })
        }
    }

    /// The pairs, in path order.
    pub fn pairs(&self) -> impl Iterator<Item = &TrainablePair> {
        self.pairs.values()
    }

    /// All factors, in path order, `down` before `up`.
    pub fn params(&self) -> Vec<Param> {
        self.pairs().flat_map(|pair| [pair.down.clone(), pair.up.clone()]).collect()
    }

    /// The factors of one tower, in the same order.
    pub fn params_of(&self, tower: Tower) -> Vec<Param> {
        let of_tower = |pair: &&TrainablePair| Tower::of(&pair.module.path) == Some(tower);
        self.pairs().filter(of_tower).flat_map(|pair| [pair.down.clone(), pair.up.clone()]).collect()
    }

    /// Puts the branches onto the models. `dropout` is the probability that an input of a branch is dropped while
    /// training; every branch draws masks of its own.
    pub fn attach(&self, towers: Towers<'_>, dropout: f32) -> Result<Attached> {
        if !(0.0..1.0).contains(&dropout) {
            return Err(AdapterError::Selection {
                what: format!("dropout {dropout} is outside 0 (none) to 1 (excluded)"),
            });
        }
        let table = towers.table();
        let mut mounted = Vec::new();
        for (path, pair) in &self.pairs {
            let (Some(tower), Some((_, local))) = (Tower::of(path), path.split_once('.')) else { continue };
            let Some(modules) = towers.get(tower) else { continue };
            let projection = modules
                .projections()
                .get(local)
                .filter(|_| table.get(path) == Some(&pair.module))
                .ok_or_else(|| AdapterError::WrongBase {
                    faults: vec![format!("{path}: the model has no module of these sizes there")],
                    guess: None,
                })?;
            let scale = pair.alpha / pair.rank() as f32;
            let branch =
                LowRank::new(pair.down.clone(), pair.up.clone(), scale).with_dropout(dropout, site(path));
            mounted.push(Mounted {
                tower,
                projection: Arc::clone(projection),
                branch: Arc::new(branch),
                scale,
            });
        }
        Attached::mount(mounted, Strength::default())
    }

    /// The factors as they are now, in the files' layout and f32.
    pub fn to_adapter(&self, backend: &dyn Backend) -> Result<Adapter> {
        let mut adapter = Adapter::default();
        for (path, pair) in &self.pairs {
            let down = to_file_layout(&backend.download(&pair.down.value())?)?;
            let up = backend.download(&pair.up.value())?;
            let up = match pair.module.kind {
                ModuleKind::Linear | ModuleKind::Norm => up,
                ModuleKind::Conv { .. } => up.reshape(&[pair.module.outputs, pair.rank(), 1, 1])?,
            };
            adapter.insert(path, down, up, pair.alpha)?;
        }
        Ok(adapter)
    }

    /// Takes an adapter's values over, for resuming: it must have exactly these modules, ranks and alphas.
    pub fn load(&self, adapter: &Adapter, backend: &dyn Backend) -> Result<()> {
        let refuse = |what: String| Err(AdapterError::Selection { what });
        if let Some(path) = self.pairs.keys().find(|path| !adapter.modules.contains_key(*path)) {
            return refuse(format!(
                "the adapter to go on from has no {path}; train with the modules it was made for"
            ));
        }
        if let Some(path) = adapter.modules.keys().find(|path| !self.pairs.contains_key(*path)) {
            return refuse(format!("the adapter to go on from has {path}, which is not chosen now"));
        }
        adapter.require_low_rank("trained on")?;
        adapter.check_finite()?;
        let mut values = Vec::new();
        for (path, factors) in adapter.low_rank() {
            let pair = &self.pairs[path];
            if factors.rank() != pair.rank() || factors.alpha() != pair.alpha {
                return refuse(format!(
                    "{path}: the adapter to go on from has rank {} and alpha {}, now rank {} and alpha {} are chosen",
                    factors.rank(),
                    factors.alpha(),
                    pair.rank(),
                    pair.alpha
                ));
            }
            let shaped = factors
                .shaped_for(&pair.module)
                .map_err(|what| AdapterError::Factors { module: path.into(), what })?;
            values.push((pair, engine_factors(&shaped, DType::F32, backend)?));
        }
        for (pair, (down, up)) in values {
            pair.down.set(down);
            pair.up.set(up);
        }
        Ok(())
    }
}

/// A number of a branch's own for its dropout masks: it depends on the path alone, so it survives any change of order.
fn site(path: &str) -> u64 {
    let digest = Sha256::digest(path.as_bytes());
    digest.iter().take(8).fold(0, |site, &byte| site << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Architecture;
    use crate::select::{Preset, TowerTargets};

    fn targets(preset: Preset, rank: usize) -> Targets {
        let towers = vec![TowerTargets { tower: Tower::UNet, preset, rank, alpha: 2.0 }];
        Targets { towers, ..Targets::default() }
    }

    const MODULE: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k";

    #[test]
    fn a_modules_numbers_depend_on_its_name_alone() {
        let table = Architecture::Sd1.table().unwrap();
        let down = |preset, seed| {
            let adapter = fresh(&targets(preset, 4), &table, Init::Normal, seed).unwrap();
            adapter.modules[MODULE].low_rank().unwrap().down().to_vec::<f32>().unwrap()
        };
        let first = down(Preset::Attention, 7);
        assert_eq!(first, down(Preset::AllLinear, 7));
        assert_ne!(first, down(Preset::Attention, 8));
    }

    #[test]
    fn starting_values() {
        let table = Architecture::Sd1.table().unwrap();
        let deviation = |init, rank| {
            let adapter = fresh(&targets(Preset::Attention, rank), &table, init, 1).unwrap();
            let pair = adapter.modules[MODULE].low_rank().unwrap();
            assert!(pair.up().to_vec::<f32>().unwrap().iter().all(|&value| value == 0.0));
            assert_eq!(pair.scale(), 2.0 / rank as f32);
            let values = pair.down().to_vec::<f64>().unwrap();
            (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
        };
        assert!((deviation(Init::Normal, 16) * 16.0 - 1.0).abs() < 0.03);
        // A uniform number within +-b has deviation b / sqrt 3.
        let bound = 1.0 / (768f64).sqrt();
        assert!((deviation(Init::Kaiming, 16) / (bound / 3f64.sqrt()) - 1.0).abs() < 0.03);
    }
}
