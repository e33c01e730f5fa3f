//! Spellings of module names.
//!
//! Flattened (kohya): `<prefix>_<path with '.' as '_'>`, prefix `lora_unet`, `lora_te` (also `lora_te1`), with
//! diffusers names or, in some SD1 files, the block names of the original code (CompVis):
//!
//! ```text
//! down_blocks.i.resnets.j     -> input_blocks.{s_i + j}.0      s_i = 1 + resnets and downsamplers before block i
//! down_blocks.i.attentions.j  -> input_blocks.{s_i + j}.1
//! down_blocks.i.downsamplers  -> input_blocks.{s_i + resnets of i}.0.op
//! up_blocks.i.resnets.j       -> output_blocks.{t_i + j}.0     t_i = resnets of the up blocks before i
//! up_blocks.i.attentions.j    -> output_blocks.{t_i + j}.1
//! up_blocks.i.upsamplers      -> output_blocks.{t_i + resnets of i - 1}.{2 with attentions, else 1}
//! mid_block.resnets.j, attentions.0 -> middle_block.{2j}, middle_block.1
//! ```
//!
//! With two resnets a block this is the published `3i + j + 1` and `3i + j`.

use std::collections::BTreeMap;

use crate::table::{Module, ModuleTable, Tower};

/// Flattened prefix of a tower that we write.
pub const fn flattened_prefix(tower: Tower) -> &'static str {
    match tower {
        Tower::UNet => "lora_unet",
        Tower::TextEncoder => "lora_te",
    }
}

/// The flattened name that we write: diffusers names, `lora_te` for the text encoder.
pub fn flattened(module: &Module) -> Option<String> {
    let tower = Tower::of(&module.path)?;
    Some(format!("{}_{}", flattened_prefix(tower), module.local_path().replace('.', "_")))
}

/// Every flattened name that we read for a module.
pub fn flattened_spellings(module: &Module, comp_vis: &CompVis) -> Vec<String> {
    let local = module.local_path();
    let (prefixes, locals): (&[&str], Vec<String>) = match Tower::of(&module.path) {
        Some(Tower::UNet) => (
            &["lora_unet", "lycoris"],
            [Some(local.to_owned()), comp_vis.local(local)].into_iter().flatten().collect(),
        ),
        Some(Tower::TextEncoder) => (&["lora_te", "lora_te1", "lycoris"], vec![local.to_owned()]),
        None => return Vec::new(),
    };
    let flat = |local: &String| local.replace('.', "_");
    prefixes.iter().flat_map(|prefix| locals.iter().map(move |l| format!("{prefix}_{}", flat(l)))).collect()
}

/// Every dotted name that we read for a module: with and without the tower, text encoders also without the
/// `text_model` level that newer libraries leave out.
pub fn dotted_spellings(module: &Module) -> Vec<String> {
    let local = module.local_path();
    let mut names = vec![module.path.clone(), local.to_owned()];
    if let Some(inner) = local.strip_prefix("text_model.") {
        names.push(format!("{}.{inner}", Tower::TextEncoder.prefix()));
        names.push(inner.to_owned());
    }
    names
}

/// Block numbering of the original code, worked out from the blocks a UNet has.
#[derive(Default)]
pub struct CompVis {
    /// First `input_blocks` number of each down block, and how many resnets it has.
    down: Vec<(usize, usize)>,
    /// First `output_blocks` number of each up block, how many resnets it has, and whether it has attention.
    up: Vec<(usize, usize, bool)>,
}

/// `(resnets, has attention, has resampler)` of a block.
type BlockParts = (usize, bool, bool);

impl CompVis {
    /// Counts the blocks of the table's UNet.
    pub fn new(table: &ModuleTable) -> Self {
        let mut blocks: BTreeMap<(&str, usize), BlockParts> = BTreeMap::new();
        for module in table.tower(Tower::UNet) {
            let parts: Vec<&str> = module.local_path().split('.').collect();
            let [side @ ("down_blocks" | "up_blocks"), block, list, index, ..] = parts[..] else { continue };
            let (Ok(block), Ok(index)) = (block.parse(), index.parse::<usize>()) else { continue };
            let entry = blocks.entry((side, block)).or_default();
            match list {
                "resnets" => entry.0 = entry.0.max(index + 1),
                "attentions" => entry.1 = true,
                _ => entry.2 = true,
            }
        }
        let mut numbering = Self::default();
        let (mut next_input, mut next_output) = (1, 0);
        for (&(side, _), &(resnets, attention, resampler)) in &blocks {
            if side == "down_blocks" {
                numbering.down.push((next_input, resnets));
                next_input += resnets + usize::from(resampler);
            } else {
                numbering.up.push((next_output, resnets, attention));
                next_output += resnets;
            }
        }
        numbering
    }

    /// The original code's name of a UNet module, without tower.
    pub fn local(&self, local: &str) -> Option<String> {
        const FIXED: [(&str, &str); 5] = [
            ("time_embedding.linear_1", "time_embed.0"),
            ("time_embedding.linear_2", "time_embed.2"),
            ("conv_in", "input_blocks.0.0"),
            ("conv_norm_out", "out.0"),
            ("conv_out", "out.2"),
        ];
        if let Some((_, name)) = FIXED.iter().find(|(ours, _)| *ours == local) {
            return Some((*name).to_owned());
        }
        let parts: Vec<&str> = local.split('.').collect();
        let number = |text: &str| text.parse::<usize>().ok();
        let (place, rest) = match parts[..] {
            ["mid_block", "attentions", index, ..] => {
                (format!("middle_block.{}", 2 * number(index)? + 1), &parts[3..])
            }
            ["mid_block", "resnets", index, ..] => {
                (format!("middle_block.{}", 2 * number(index)?), &parts[3..])
            }
            ["down_blocks", block, list, index, ..] => {
                let &(first, resnets) = self.down.get(number(block)?)?;
                let place = match list {
                    "resnets" => format!("input_blocks.{}.0", first + number(index)?),
                    "attentions" => format!("input_blocks.{}.1", first + number(index)?),
                    "downsamplers" => return Some(format!("input_blocks.{}.0.op", first + resnets)),
                    _ => return None,
                };
                (place, &parts[4..])
            }
            ["up_blocks", block, list, index, ..] => {
                let &(first, resnets, attention) = self.up.get(number(block)?)?;
                let place = match list {
                    "resnets" => format!("output_blocks.{}.0", first + number(index)?),
                    "attentions" => format!("output_blocks.{}.1", first + number(index)?),
                    "upsamplers" => {
                        format!(
                            "output_blocks.{}.{}",
                            (first + resnets).checked_sub(1)?,
                            1 + usize::from(attention)
                        )
                    }
                    _ => return None,
                };
                (place, &parts[4..])
            }
            _ => return None,
        };
        let inner = match rest {
            ["conv1"] => "in_layers.2".to_owned(),
            ["time_emb_proj"] => "emb_layers.1".to_owned(),
            ["conv2"] => "out_layers.3".to_owned(),
            ["conv_shortcut"] => "skip_connection".to_owned(),
            other => other.join("."),
        };
        Some(format!("{place}.{inner}"))
    }
}
