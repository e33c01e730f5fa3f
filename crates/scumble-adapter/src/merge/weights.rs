//! How much of an adapter goes into a merge: per tower, and per block.
//!
//! Block weights multiply the tower's weight. They are written as `NAME=WEIGHT` entries with commas between, later
//! ones over earlier ones:
//!
//! | name | modules |
//! |---|---|
//! | `down`, `mid`, `up`, `text` | that part |
//! | `down_blocks.1`, `attn2`, `unet.up_blocks.*.resnets.*` | a pattern over module paths, see [`crate::select`] |
//! | `IN04`, `M00` (also `MID`), `OUT08` | a block by its number in the original code |
//! | `BASE` | everything in no block: the text encoders, time embedding, first and last convolution |
//!
//! or as the bare lists of the block-weight extensions: 17 numbers (BASE, IN01 02 04 05 07 08, M00, OUT03 to 11), 26
//! (BASE, IN00 to 11, M00, OUT00 to 11), or as kohya's trainer has them, 25 (the same without BASE).

use std::collections::BTreeMap;

use crate::attach::Strength;
use crate::error::{AdapterError, Result};
use crate::names::CompVis;
use crate::select::matches;
use crate::table::{Module, ModuleTable, Tower};

/// The weights of one input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// Per tower.
    pub strength: Strength,
    /// Factors of single modules, by path; 1 where there is no entry.
    pub blocks: BTreeMap<String, f32>,
}

impl Weights {
    /// The same weight everywhere.
    pub fn all(weight: f32) -> Self {
        Self { strength: Strength { unet: weight, text_encoder: weight }, ..Self::default() }
    }

    /// The weight on a module.
    pub fn of(&self, path: &str) -> f64 {
        let tower = Tower::of(path).map_or(1.0, |tower| self.strength.of(tower));
        f64::from(tower) * f64::from(self.blocks.get(path).copied().unwrap_or(1.0))
    }

    /// Errors on weights that are no numbers.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        let Strength { unet, text_encoder } = self.strength;
        match [unet, text_encoder].iter().chain(self.blocks.values()).find(|weight| !weight.is_finite()) {
            Some(weight) => {
                Err(AdapterError::Selection { what: format!("{name}: {weight} is no weight; use a number") })
            }
            None => Ok(()),
        }
    }
}

/// Reads block weights (see the module's text) for the modules of a base.
pub fn parse_blocks(text: &str, table: &ModuleTable) -> Result<BTreeMap<String, f32>> {
    let fault = |what: String| AdapterError::Selection { what };
    let entries: Vec<&str> = text.split(',').map(str::trim).collect();
    let weight = |text: &str| match text.trim().parse::<f32>() {
        Ok(weight) if weight.is_finite() => Ok(weight),
        _ => Err(fault(format!("block weights: `{text}` is no number"))),
    };
    let (named, is_list) = if text.contains('=') {
        let pairs = entries.iter().map(|entry| {
            let (name, value) = entry
                .split_once('=')
                .ok_or_else(|| fault(format!("block weights: `{entry}` is not of the form NAME=WEIGHT")))?;
            Ok((name.trim().to_owned(), weight(value)?))
        });
        (pairs.collect::<Result<Vec<_>>>()?, false)
    } else {
        let names = list_names(entries.len()).ok_or_else(|| {
            fault(format!(
                "block weights: {} numbers; a list has 17, 25 or 26, else write NAME=WEIGHT",
                entries.len()
            ))
        })?;
        let pairs = names.into_iter().zip(&entries).map(|(name, value)| Ok((name, weight(value)?)));
        (pairs.collect::<Result<Vec<_>>>()?, true)
    };
    let comp_vis = CompVis::new(table);
    let mut blocks = BTreeMap::new();
    for (name, weight) in named {
        let mut found = false;
        let modules = table.modules().iter().chain(table.norms());
        for module in modules.filter(|module| is_in(module, &name, &comp_vis)) {
            blocks.insert(module.path.clone(), weight);
            found = true;
        }
        if !found && !is_list {
            let near =
                table.nearest(&name).map(|path| format!("; did you mean `{path}`?")).unwrap_or_default();
            return Err(fault(format!("block weights: `{name}` is no block or module of the base{near}")));
        }
    }
    Ok(blocks)
}

/// The names that a bare list of so many numbers stands for.
fn list_names(count: usize) -> Option<Vec<String>> {
    let inputs: Vec<usize> = if count == 17 { vec![1, 2, 4, 5, 7, 8] } else { (0..12).collect() };
    let outputs = if count == 17 { 3..12 } else { 0..12 };
    let names = (count != 25)
        .then(|| "BASE".to_owned())
        .into_iter()
        .chain(inputs.into_iter().map(|number| format!("IN{number:02}")))
        .chain(std::iter::once("M00".to_owned()))
        .chain(outputs.map(|number| format!("OUT{number:02}")));
    matches!(count, 17 | 25 | 26).then(|| names.collect())
}

fn is_in(module: &Module, name: &str, comp_vis: &CompVis) -> bool {
    match name {
        "down" => matches("down_blocks", &module.path),
        "mid" => matches("mid_block", &module.path),
        "up" => matches("up_blocks", &module.path),
        "text" => module.path.starts_with(Tower::TextEncoder.prefix()),
        _ => match number_of(name) {
            Some(wanted) => wanted == block_of(module, comp_vis),
            None => matches(name, &module.path),
        },
    }
}

/// `IN04` as `input_blocks.4`, `M00` as `middle_block`, `BASE` as nothing; `None` for any other name.
fn number_of(name: &str) -> Option<String> {
    let number = |digits: &str| digits.parse::<usize>().ok();
    match name {
        "BASE" => Some(String::new()),
        "M00" | "MID" => Some("middle_block".into()),
        _ => match (name.strip_prefix("IN"), name.strip_prefix("OUT")) {
            (Some(digits), _) => Some(format!("input_blocks.{}", number(digits)?)),
            (_, Some(digits)) => Some(format!("output_blocks.{}", number(digits)?)),
            _ => None,
        },
    }
}

/// The block of a module in the original code's numbers; empty for what is in none.
fn block_of(module: &Module, comp_vis: &CompVis) -> String {
    if Tower::of(&module.path) != Some(Tower::UNet) || !module.local_path().contains("_block") {
        return String::new();
    }
    let Some(name) = comp_vis.local(module.local_path()) else { return String::new() };
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["middle_block", ..] => "middle_block".into(),
        [side, number, ..] => format!("{side}.{number}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Architecture;

    #[test]
    fn names_numbers_and_lists() {
        let table = Architecture::Sd1.table().unwrap();
        let weights = |text: &str| {
            let blocks = parse_blocks(text, &table).unwrap();
            move |path: &str| blocks.get(path).copied().unwrap_or(1.0)
        };
        let attention = "transformer_blocks.0.attn1.to_q";
        let (down, up) = (
            format!("unet.down_blocks.1.attentions.0.{attention}"),
            format!("unet.up_blocks.1.attentions.1.{attention}"),
        );
        let mid = format!("unet.mid_block.attentions.0.{attention}");
        let text = "text_encoder.text_model.encoder.layers.3.self_attn.q_proj";
        let named = weights("down=0.5, up_blocks.1=0.25, MID=0, BASE=2");
        assert_eq!([named(&down), named(&up), named(&mid), named(text)], [0.5, 0.25, 0.0, 2.0]);
        let numbered = weights("IN04=0.1,OUT04=0.2");
        assert_eq!([numbered(&down), numbered(&up), numbered(text)], [0.1, 0.2, 1.0]);
        let list: Vec<String> = (0..17).map(|i| i.to_string()).collect();
        let listed = weights(&list.join(","));
        assert_eq!([listed(text), listed(&down), listed(&mid), listed(&up)], [0.0, 3.0, 7.0, 9.0]);
        let list: Vec<String> = (0..26).map(|i| i.to_string()).collect();
        let listed = weights(&list.join(","));
        assert_eq!([listed(text), listed(&down), listed(&mid), listed(&up)], [0.0, 5.0, 13.0, 18.0]);
        let list: Vec<String> = (0..25).map(|i| i.to_string()).collect();
        let blocks = weights(&list.join(","));
        assert_eq!([blocks(text), blocks(&down), blocks(&mid), blocks(&up)], [1.0, 4.0, 12.0, 17.0]);
        // Norms are in the blocks as well, and in none where they stand alone.
        let norm = "unet.down_blocks.1.attentions.0.transformer_blocks.0.norm1";
        let last = "unet.conv_norm_out";
        let text_norm = "text_encoder.text_model.final_layer_norm";
        assert_eq!([named(norm), numbered(norm), listed(norm)], [0.5, 0.1, 5.0]);
        assert_eq!([named(last), named(text_norm), listed(last), listed(text_norm)], [2.0, 2.0, 0.0, 0.0]);
        let later = weights("attn1=0.3,down=0.6");
        assert_eq!([later(&down), later(&up)], [0.6, 0.3]);
    }

    #[test]
    fn mistakes_are_named() {
        let table = Architecture::Sd1.table().unwrap();
        for (text, word) in [
            ("1,2,3", "3 numbers"),
            ("down=x", "`x` is no number"),
            ("down=1,2", "`2` is not of the form"),
            ("dwon_blocks=1", "`dwon_blocks` is no block"),
            ("IN99=1", "`IN99`"),
            ("down=nan", "`nan`"),
        ] {
            let error = parse_blocks(text, &table).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(Weights::all(f32::INFINITY).check("a").is_err());
        assert_eq!(Weights::all(0.5).of("unet.x"), 0.5);
    }
}
