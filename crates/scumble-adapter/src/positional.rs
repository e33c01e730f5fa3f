//! The order behind `unet:{i}:up`: the original files number modules instead of naming them.
//!
//! Slot `i` is the i-th linear layer (or convolution) met under modules of the listed classes while walking the
//! model: all down blocks, all up blocks, then the middle; in a block first the attentions, then the resnets. In a
//! transformer block the GEGLU projection stands between the two attentions (diffusers <= 0.14) or behind them
//! (>= 0.15); files from before 2022-12-21 do not have it. Text layers go k, v, q, out. Only shapes can tell which
//! order a file has, see [`candidates`].

use std::collections::BTreeSet;

use crate::table::{Module, ModuleTable, Tower};

/// What the class names of a file's list stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `CrossAttention` (diffusers <= 0.14) or `Attention`: the four projections of an attention.
    Attention,
    /// `GEGLU`: the feed-forward's first projection.
    Geglu,
    /// `ResnetBlock2D`: the convolutions and the time projection of a resnet.
    Resnet,
    /// `CLIPAttention`.
    TextAttention,
    /// `CLIPMLP`.
    TextMlp,
}

impl Target {
    /// From a class name in a file.
    pub fn from_class(class: &str) -> Option<Self> {
        Some(match class {
            "CrossAttention" | "Attention" => Target::Attention,
            "GEGLU" => Target::Geglu,
            "ResnetBlock2D" => Target::Resnet,
            "CLIPAttention" => Target::TextAttention,
            "CLIPMLP" => Target::TextMlp,
            _ => return None,
        })
    }

    /// The class names written into files.
    pub const fn classes(self) -> &'static [&'static str] {
        match self {
            Target::Attention => &["CrossAttention", "Attention"],
            Target::Geglu => &["GEGLU"],
            Target::Resnet => &["ResnetBlock2D"],
            Target::TextAttention => &["CLIPAttention"],
            Target::TextMlp => &["CLIPMLP"],
        }
    }
}

/// Where the GEGLU projection stands among the attentions of a transformer block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// attn1, ff, attn2: diffusers up to 0.14. All published files are of this kind.
    UpTo014,
    /// attn1, attn2, ff: diffusers 0.15 and later.
    From015,
}

/// Sort key of a module: section (down, up, mid), block, list, index, layer, slot.
type Place = [usize; 6];

fn place(module: &Module, generation: Generation) -> Option<(Target, Place)> {
    let parts: Vec<&str> = module.local_path().split('.').collect();
    let number = |text: &str| text.parse::<usize>().ok();
    if Tower::of(&module.path)? != Tower::UNet {
        let ["text_model", "encoder", "layers", layer, inner @ ..] = &parts[..] else { return None };
        let (target, slot) = text_slot(inner)?;
        return Some((target, [0, 0, 0, 0, number(layer)?, slot]));
    }
    let (section, block, rest) = match &parts[..] {
        ["down_blocks", block, rest @ ..] => (0, number(block)?, rest),
        ["up_blocks", block, rest @ ..] => (1, number(block)?, rest),
        ["mid_block", rest @ ..] => (2, 0, rest),
        _ => return None,
    };
    match rest {
        ["attentions", index, "transformer_blocks", layer, inner @ ..] => {
            let (target, slot) = transformer_slot(&inner.join("."), generation)?;
            Some((target, [section, block, 0, number(index)?, number(layer)?, slot]))
        }
        ["resnets", index, inner] => {
            let slot =
                ["conv1", "time_emb_proj", "conv2", "conv_shortcut"].iter().position(|n| n == inner)?;
            Some((Target::Resnet, [section, block, 1, number(index)?, 0, slot]))
        }
        _ => None,
    }
}

fn transformer_slot(inner: &str, generation: Generation) -> Option<(Target, usize)> {
    const PROJECTIONS: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];
    let (attn2, geglu) = match generation {
        Generation::UpTo014 => (5, 4),
        Generation::From015 => (4, 8),
    };
    if inner == "ff.net.0.proj" {
        return Some((Target::Geglu, geglu));
    }
    let (attention, projection) = inner.split_once('.')?;
    let first = match attention {
        "attn1" => 0,
        "attn2" => attn2,
        _ => return None,
    };
    Some((Target::Attention, first + PROJECTIONS.iter().position(|name| *name == projection)?))
}

fn text_slot(inner: &[&str]) -> Option<(Target, usize)> {
    const PROJECTIONS: [&str; 4] = ["k_proj", "v_proj", "q_proj", "out_proj"];
    match inner {
        ["self_attn", projection] => {
            Some((Target::TextAttention, PROJECTIONS.iter().position(|name| name == projection)?))
        }
        ["mlp", "fc1"] => Some((Target::TextMlp, 4)),
        ["mlp", "fc2"] => Some((Target::TextMlp, 5)),
        _ => None,
    }
}

/// Which target a module falls under, if any class list can reach it.
pub fn target_of(module: &Module) -> Option<Target> {
    place(module, Generation::UpTo014).map(|(target, _)| target)
}

/// The modules of `tower` under `targets`, by slot.
pub fn order<'t>(
    table: &'t ModuleTable,
    tower: Tower,
    targets: &BTreeSet<Target>,
    generation: Generation,
) -> Vec<&'t Module> {
    let mut slots: Vec<(Place, &Module)> = table
        .tower(tower)
        .filter_map(|module| {
            let (target, place) = place(module, generation)?;
            targets.contains(&target).then_some((place, module))
        })
        .collect();
    slots.sort_by_key(|(place, _)| *place);
    slots.into_iter().map(|(_, module)| module).collect()
}

/// One way to read the numbers of a file.
pub struct Candidate<'t> {
    /// The targets it covers.
    pub targets: BTreeSet<Target>,
    /// The order inside transformer blocks.
    pub generation: Generation,
    /// Modules by slot.
    pub modules: Vec<&'t Module>,
}

/// All ways to read a file's numbers, most usual first; `stated` (the targets of the file's class list) before
/// everything else.
pub fn candidates<'t>(
    table: &'t ModuleTable,
    tower: Tower,
    stated: Option<&BTreeSet<Target>>,
) -> Vec<Candidate<'t>> {
    use Target::{Attention, Geglu, Resnet, TextAttention, TextMlp};
    let usual: &[&[Target]] = match tower {
        Tower::UNet => &[
            &[Attention, Geglu],
            &[Attention],
            &[Attention, Geglu, Resnet],
            &[Attention, Resnet],
            &[Geglu],
            &[Resnet],
        ],
        Tower::TextEncoder | Tower::TextEncoder2 => {
            &[&[TextAttention], &[TextAttention, TextMlp], &[TextMlp]]
        }
    };
    let mut sets: Vec<BTreeSet<Target>> = stated.into_iter().cloned().collect();
    for set in usual.iter().map(|set| set.iter().copied().collect()) {
        if !sets.contains(&set) {
            sets.push(set);
        }
    }
    sets.into_iter()
        .flat_map(|targets| {
            [Generation::UpTo014, Generation::From015].map(|generation| Candidate {
                modules: order(table, tower, &targets, generation),
                targets: targets.clone(),
                generation,
            })
        })
        .filter(|candidate| !candidate.modules.is_empty())
        .collect()
}
