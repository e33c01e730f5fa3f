//! Spellings of module names.
//!
//! Flattened (kohya): `<prefix>_<path with '.' as '_'>`, prefix `lora_unet`, `lora_te` (SDXL: `lora_te1`,
//! `lora_te2`), with diffusers names or, in SDXL and some SD1 files, the block names of the original code (CompVis):
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

/// How the UNet's modules are named in flattened names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// diffusers' names, which SD1 and SD2 files have.
    Diffusers,
    /// The original code's block numbers, which SDXL files have.
    CompVis,
}

impl Naming {
    /// The name users type.
    pub const fn name(self) -> &'static str {
        match self {
            Naming::Diffusers => "diffusers",
            Naming::CompVis => "compvis",
        }
    }

    /// What files for a base usually have.
    pub fn usual(table: &ModuleTable) -> Self {
        if table.is_sdxl() { Self::CompVis } else { Self::Diffusers }
    }
}

/// The flattened name that we write: `lora_unet`, `lora_te`, or `lora_te1` and `lora_te2` where there are two.
pub fn flattened(table: &ModuleTable, module: &Module, naming: Naming) -> Option<String> {
    let prefix = match Tower::of(&module.path)? {
        Tower::UNet => "lora_unet",
        Tower::TextEncoder if table.is_sdxl() => "lora_te1",
        Tower::TextEncoder => "lora_te",
        Tower::TextEncoder2 => "lora_te2",
    };
    let local = match naming {
        Naming::CompVis => table.comp_vis_name(&module.path).unwrap_or(module.local_path()),
        Naming::Diffusers => module.local_path(),
    };
    Some(format!("{prefix}_{}", local.replace('.', "_")))
}

/// Every flattened name that we read for a module; `comp_vis` is its name in the original code.
pub fn flattened_spellings(module: &Module, comp_vis: Option<&str>) -> Vec<String> {
    let local = module.local_path();
    let (prefixes, other): (&[&str], Option<&str>) = match Tower::of(&module.path) {
        Some(Tower::UNet) => (&["lora_unet", "lycoris", "lycoris_unet"], comp_vis),
        Some(Tower::TextEncoder) => (
            &["lora_te", "lora_te1", "lycoris", "lycoris_te", "lycoris_te1"],
            local.strip_prefix("text_model."),
        ),
        Some(Tower::TextEncoder2) => (&["lora_te2", "lycoris_te2"], local.strip_prefix("text_model.")),
        None => return Vec::new(),
    };
    let locals: Vec<String> =
        [Some(local), other].into_iter().flatten().map(|l| l.replace('.', "_")).collect();
    prefixes.iter().flat_map(|prefix| locals.iter().map(move |local| format!("{prefix}_{local}"))).collect()
}

/// Every dotted name that we read for a module: with and without the tower, text encoders also without the
/// `text_model` level that newer libraries leave out. The second text encoder's always have the tower in front.
pub fn dotted_spellings(module: &Module) -> Vec<String> {
    let local = module.local_path();
    let mut names = vec![module.path.clone()];
    let Some(tower) = Tower::of(&module.path) else { return names };
    let locals = [Some(local), local.strip_prefix("text_model.")];
    if tower != Tower::TextEncoder2 {
        names.extend(locals.into_iter().flatten().map(str::to_owned));
    }
    names.extend(locals[1].map(|inner| format!("{}.{inner}", tower.prefix())));
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

    /// The original code's name of a UNet module, without tower; `None` for text encoders.
    pub fn of(&self, module: &Module) -> Option<String> {
        (Tower::of(&module.path) == Some(Tower::UNet)).then(|| self.local(module.local_path()))?
    }

    /// As [`CompVis::of`], by the path within the UNet.
    pub fn local(&self, local: &str) -> Option<String> {
        const FIXED: [(&str, &str); 7] = [
            ("add_embedding.linear_1", "label_emb.0.0"),
            ("add_embedding.linear_2", "label_emb.0.2"),
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
            ["norm1"] => "in_layers.0".to_owned(),
            ["norm2"] => "out_layers.0".to_owned(),
            ["conv1"] => "in_layers.2".to_owned(),
            ["time_emb_proj"] => "emb_layers.1".to_owned(),
            ["conv2"] => "out_layers.3".to_owned(),
            ["conv_shortcut"] => "skip_connection".to_owned(),
            other => other.join("."),
        };
        Some(format!("{place}.{inner}"))
    }
}
