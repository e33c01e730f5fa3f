//! The modules of a base that an adapter can change, and how every dialect spells their names.
//!
//! Flattened names are ambiguous (`to_out_0`, `proj_in`), so nothing ever splits them: the table is built from the
//! model's definition, every spelling of every module goes into one map, and readers look names up.

use std::collections::BTreeMap;

use crate::names;

/// A model that adapters change. Its name is the first part of a module path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tower {
    /// The denoiser.
    UNet,
    /// The text encoder.
    TextEncoder,
    /// SDXL's second text encoder.
    TextEncoder2,
}

impl Tower {
    /// Every tower.
    pub const ALL: [Tower; 3] = [Tower::UNet, Tower::TextEncoder, Tower::TextEncoder2];

    /// `unet`, `text_encoder` or `text_encoder_2`, as diffusers names the folders.
    pub const fn prefix(self) -> &'static str {
        match self {
            Tower::UNet => "unet",
            Tower::TextEncoder => "text_encoder",
            Tower::TextEncoder2 => "text_encoder_2",
        }
    }

    /// The tower that a prefixed path belongs to.
    pub fn of(path: &str) -> Option<Tower> {
        let prefix = path.split('.').next()?;
        Tower::ALL.into_iter().find(|tower| tower.prefix() == prefix)
    }
}

/// What a module computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// `y = x W^T`, weight `[out, in]`.
    Linear,
    /// Weight `[out, in, kh, kw]` in files.
    Conv {
        /// Kernel height and width.
        kernel: [usize; 2],
    },
    /// A group or layer norm: weight and bias `[n]`. Adapters add to both; nothing attaches to it.
    Norm,
}

/// One module of a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// diffusers path with the tower in front.
    pub path: String,
    /// What it computes.
    pub kind: ModuleKind,
    /// Input features or channels.
    pub inputs: usize,
    /// Output features or channels.
    pub outputs: usize,
}

impl Module {
    /// The path without its tower.
    pub fn local_path(&self) -> &str {
        self.path.split_once('.').map_or(self.path.as_str(), |(_, local)| local)
    }

    /// Number of weights of the module itself.
    pub fn weights(&self) -> usize {
        self.weight_dims().iter().product()
    }

    /// Kernel height and width; `[1, 1]` for what has none.
    pub fn kernel(&self) -> [usize; 2] {
        match self.kind {
            ModuleKind::Conv { kernel } => kernel,
            ModuleKind::Linear | ModuleKind::Norm => [1, 1],
        }
    }

    /// Whether it is a convolution.
    pub fn is_conv(&self) -> bool {
        matches!(self.kind, ModuleKind::Conv { .. })
    }

    /// Whether it is a norm layer.
    pub fn is_norm(&self) -> bool {
        self.kind == ModuleKind::Norm
    }

    /// Sizes of the weight in files: `[out, in]`, `[out, in, kh, kw]`, or `[n]` of a norm.
    pub fn weight_dims(&self) -> Vec<usize> {
        match self.kind {
            ModuleKind::Linear => vec![self.outputs, self.inputs],
            ModuleKind::Conv { kernel: [kh, kw] } => vec![self.outputs, self.inputs, kh, kw],
            ModuleKind::Norm => vec![self.outputs],
        }
    }

    /// The largest rank that still means something: beyond it the product cannot gain anything.
    pub fn max_rank(&self) -> usize {
        let kernel: usize = self.kernel().iter().product();
        (self.inputs * kernel).min(self.outputs)
    }
}

/// All modules of a base, found by path or by any dialect's spelling.
#[derive(Clone, Debug, Default)]
pub struct ModuleTable {
    /// Linear layers and convolutions, then the norms.
    modules: Vec<Module>,
    /// Where the norms begin.
    norms: usize,
    /// The original code's names of the UNet's modules, without tower.
    comp_vis: Vec<Option<String>>,
    by_path: BTreeMap<String, usize>,
    flattened: BTreeMap<String, usize>,
    dotted: BTreeMap<String, usize>,
}

impl ModuleTable {
    /// Builds the table. Paths carry their tower; a path that occurs twice keeps its first module.
    pub fn new(modules: impl IntoIterator<Item = Module>) -> Self {
        let mut table = Self::default();
        let (norms, projections): (Vec<Module>, Vec<Module>) = modules.into_iter().partition(Module::is_norm);
        for module in projections.into_iter().chain(norms) {
            if !table.by_path.contains_key(&module.path) {
                table.by_path.insert(module.path.clone(), table.modules.len());
                table.norms += usize::from(!module.is_norm());
                table.modules.push(module);
            }
        }
        let comp_vis = names::CompVis::new(&table);
        table.comp_vis = table.modules.iter().map(|module| comp_vis.of(module)).collect();
        for (index, module) in table.modules.iter().enumerate() {
            for name in names::flattened_spellings(module, table.comp_vis[index].as_deref()) {
                table.flattened.entry(name).or_insert(index);
            }
            for name in names::dotted_spellings(module) {
                table.dotted.entry(name).or_insert(index);
            }
        }
        table
    }

    /// All linear layers and convolutions, in the order they were given: what factors can be for.
    pub fn modules(&self) -> &[Module] {
        &self.modules[..self.norms]
    }

    /// All norm layers, which adapters can only add a difference to.
    pub fn norms(&self) -> &[Module] {
        &self.modules[self.norms..]
    }

    /// The linear layers and convolutions of one tower.
    pub fn tower(&self, tower: Tower) -> impl Iterator<Item = &Module> {
        self.modules().iter().filter(move |module| Tower::of(&module.path) == Some(tower))
    }

    /// Whether there is a second text encoder, which only SDXL has.
    pub fn is_sdxl(&self) -> bool {
        self.tower(Tower::TextEncoder2).next().is_some() || self.get("unet.add_embedding.linear_1").is_some()
    }

    /// The module of a path, norms included.
    pub fn get(&self, path: &str) -> Option<&Module> {
        self.by_path.get(path).map(|&index| &self.modules[index])
    }

    /// The original code's name of a UNet module, such as `input_blocks.1.1.proj_in`.
    pub fn comp_vis_name(&self, path: &str) -> Option<&str> {
        self.comp_vis[*self.by_path.get(path)?].as_deref()
    }

    /// The module of a flattened name such as `lora_unet_mid_block_attentions_0_proj_in`.
    pub fn by_flattened_name(&self, name: &str) -> Option<&Module> {
        self.flattened.get(name).map(|&index| &self.modules[index])
    }

    /// The module of a dotted name in any of its spellings (see [`names::dotted_spellings`]).
    pub fn by_dotted_name(&self, name: &str) -> Option<&Module> {
        self.dotted.get(name).map(|&index| &self.modules[index])
    }

    /// Width of the text encoder's states, and so of a learned token; `None` without a text encoder.
    pub fn text_width(&self) -> Option<usize> {
        self.width_of(Tower::TextEncoder)
    }

    /// Width of one text encoder's states.
    pub fn width_of(&self, tower: Tower) -> Option<usize> {
        self.tower(tower).find(|m| m.path.ends_with(".self_attn.q_proj")).map(|m| m.inputs)
    }

    /// The path nearest in spelling to `path`, for messages.
    pub fn nearest(&self, path: &str) -> Option<&str> {
        self.modules()
            .iter()
            .map(|module| (strsim::jaro_winkler(&module.path, path), module.path.as_str()))
            .filter(|(likeness, _)| *likeness > 0.9)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, path)| path)
    }
}
