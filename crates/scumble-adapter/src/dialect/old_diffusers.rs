//! diffusers up to 0.21: factors named by attention processors, `....attn1.processor.to_q_lora.down.weight`.
//!
//! With or without `unet.` in front; `to_out_lora` is `to_out.0`; text encoders say `self_attn.to_q_lora` or
//! `q_proj.lora_linear_layer`; the last files of the kind say `to_q.lora`. There is no alpha: the scale is 1.
//! Only read: no tool asks for it.

use std::collections::BTreeMap;

use super::{AdapterFile, Dialect, Part, Place, Placement};
use crate::error::Result;
use crate::names;
use crate::table::{Module, ModuleTable};

/// See the module's text.
pub(super) struct OldDiffusers;

/// Last part of a module's path -> what the processor calls it.
const PROCESSOR_NAMES: [(&str, &str); 8] = [
    (".to_q", ".processor.to_q_lora"),
    (".to_k", ".processor.to_k_lora"),
    (".to_v", ".processor.to_v_lora"),
    (".to_out.0", ".processor.to_out_lora"),
    (".q_proj", ".to_q_lora"),
    (".k_proj", ".to_k_lora"),
    (".v_proj", ".to_v_lora"),
    (".out_proj", ".to_out_lora"),
];

/// Every stem that stands before `.down.weight` for a module.
fn stems(module: &Module) -> Vec<String> {
    names::dotted_spellings(module)
        .into_iter()
        .flat_map(|name| {
            let processor = PROCESSOR_NAMES
                .iter()
                .find_map(|(ending, other)| Some(format!("{}{other}", name.strip_suffix(ending)?)));
            [Some(format!("{name}.lora")), Some(format!("{name}.lora_linear_layer")), processor]
        })
        .flatten()
        .collect()
}

impl Dialect for OldDiffusers {
    fn name(&self) -> &'static str {
        "old-diffusers"
    }

    fn recognises(&self, keys: &[String]) -> bool {
        keys.iter().any(|key| {
            [".down.weight", ".up.weight"].iter().any(|ending| {
                key.strip_suffix(ending).is_some_and(|stem| {
                    ["_lora", ".lora", ".lora_linear_layer"].iter().any(|end| stem.ends_with(end))
                })
            })
        })
    }

    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement> {
        let by_stem: BTreeMap<String, &Module> = table
            .modules()
            .iter()
            .flat_map(|module| stems(module).into_iter().map(move |stem| (stem, module)))
            .collect();
        let place = |key: &str| {
            let (stem, part) =
                [(".down.weight", Part::Down), (".up.weight", Part::Up), (".alpha", Part::Alpha)]
                    .into_iter()
                    .find_map(|(ending, part)| Some((key.strip_suffix(ending)?, part)))?;
            Some(Place::Factor(by_stem.get(stem)?.path.clone(), part))
        };
        let places = file.source.names().into_iter().filter_map(|key| {
            let place = place(&key)?;
            Some((key, place))
        });
        Ok(Placement { places: places.collect(), ..Placement::default() })
    }

    fn is_structural(&self, key: &str, _value: &str) -> bool {
        key == "format"
    }
}
