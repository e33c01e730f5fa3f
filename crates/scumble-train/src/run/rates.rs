//! Rates of single parameters: LoRA+ for the output sides of pairs, and factors by block.
//!
//! ```text
//! rate of a parameter = rate of its part * factor of its block * (LoRA+ ratio, if it is an output side)
//! ```
//!
//! LoRA+ (Hayou et al. 2024): the output side of a pair starts at zero and moves the function more per unit of change the
//! wider the layer is, so that one rate for both sides is too small for it.

use std::collections::BTreeMap;

use scumble_adapter::ModuleTable;
use scumble_adapter::merge::weights::parse_blocks;
use scumble_tensor::Param;

use crate::config::{Part, TrainConfig};
use crate::error::{Result, TrainError};

/// Factors of all parameters that need one.
pub struct Rates {
    blocks: BTreeMap<String, f32>,
    up: Option<f64>,
}

impl Rates {
    /// As the configuration says, for the modules of a base.
    pub fn new(config: &TrainConfig, table: &ModuleTable) -> Result<Self> {
        let blocks = match &config.learn.blocks {
            Some(text) => parse_blocks(text, table)?,
            None => BTreeMap::new(),
        };
        if let Some((_, factor)) = blocks.iter().find(|(_, factor)| **factor < 0.0) {
            return Err(setting(
                config,
                &format!("a factor of {factor} would learn backwards"),
                "use 0 or more",
            ));
        }
        Ok(Self { blocks, up: config.learn.lora_plus })
    }

    /// Sorts out a part's parameters: those that learn, and their factors where they are not 1. A factor of 0 holds a
    /// parameter still.
    pub fn sort(&self, part: Part, params: Vec<Param>) -> (Vec<Param>, BTreeMap<String, f64>) {
        let mut factors = BTreeMap::new();
        let learning = params.into_iter().filter(|param| {
            let factor = self.factor(part, param.name());
            if factor != 1.0 {
                factors.insert(param.name().to_owned(), factor);
            }
            param.set_trainable(factor != 0.0);
            factor != 0.0
        });
        let learning = learning.collect();
        (learning, factors)
    }

    fn factor(&self, part: Part, name: &str) -> f64 {
        let (module, last) = name.rsplit_once('.').unwrap_or((name, ""));
        // Whole weights are named within their model.
        let prefix = format!("{}.", part.name());
        let path = if module.starts_with(&prefix) { module.to_owned() } else { prefix + module };
        let block = self.blocks.get(&path).map_or(1.0, |&factor| f64::from(factor));
        let side = self.up.filter(|_| last == "up").unwrap_or(1.0);
        block * side
    }
}

/// Errors when rates by block were asked for and no parameter has one, or none is left that learns.
pub fn check(config: &TrainConfig, learning: usize, factors: usize) -> Result<()> {
    if config.learn.blocks.is_none() {
        return Ok(());
    }
    if factors == 0 {
        return Err(setting(
            config,
            "no layer that learns is in these blocks",
            "name blocks that have factors",
        ));
    }
    if learning == 0 {
        return Err(setting(config, "no layer is left that learns", "give one block a factor above 0"));
    }
    Ok(())
}

fn setting(config: &TrainConfig, problem: &str, hint: &str) -> TrainError {
    TrainError::Setting {
        key: "learn.blocks".to_owned(),
        value: format!("{:?}", config.learn.blocks.as_deref().unwrap_or_default()),
        problem: problem.to_owned(),
        hint: hint.to_owned(),
    }
}
