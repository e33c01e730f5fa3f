//! Which modules an adapter is made for: presets, then patterns over module paths.
//!
//! A pattern with `*` (any run of characters, dots included) or `?` (any one character) must match a whole path, with
//! its tower: `unet.up_blocks.*.attn2.*`. A pattern without them matches wherever its dotted parts stand in a row
//! in the path: `attn2`, `mid_block`, `attn1.to_q`. Excluding wins over including.

use std::str::FromStr;

use crate::error::{AdapterError, Result};
use crate::table::{Module, ModuleKind, ModuleTable, Tower};

/// A named set of modules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// `attention`: queries, keys, values and outputs of every attention.
    Attention,
    /// `attention+ff`: also the feed-forward's first projection, as the original does. Text encoder: attention.
    #[default]
    AttentionFf,
    /// `all-linear`: every linear layer and 1x1 convolution of the transformers, and the text encoder's MLPs.
    AllLinear,
    /// `all`: also resnets and resamplers.
    All,
}

impl Preset {
    /// Every preset, in the order of size.
    pub const ALL: [Preset; 4] = [Preset::Attention, Preset::AttentionFf, Preset::AllLinear, Preset::All];

    /// The name users type.
    pub const fn name(self) -> &'static str {
        match self {
            Preset::Attention => "attention",
            Preset::AttentionFf => "attention+ff",
            Preset::AllLinear => "all-linear",
            Preset::All => "all",
        }
    }

    fn covers(self, module: &Module) -> bool {
        let path = module.path.as_str();
        let attention = [".attn1.", ".attn2.", ".self_attn."].iter().any(|part| path.contains(part));
        let in_transformer = path.contains(".attentions.") || path.contains(".encoder.layers.");
        let in_block = in_transformer || path.contains(".resnets.") || path.contains("samplers.");
        match self {
            Preset::Attention => attention,
            Preset::AttentionFf => attention || path.ends_with(".ff.net.0.proj"),
            Preset::AllLinear => in_transformer,
            Preset::All => in_block,
        }
    }
}

impl FromStr for Preset {
    type Err = AdapterError;

    fn from_str(name: &str) -> Result<Self> {
        Preset::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| AdapterError::Selection {
            what: format!(
                "no target preset is called `{name}`; there are {}",
                Preset::ALL.map(Preset::name).join(", ")
            ),
        })
    }
}

/// Modules of one tower and what they get.
#[derive(Clone, Debug)]
pub struct TowerTargets {
    /// The tower.
    pub tower: Tower,
    /// The modules to start from.
    pub preset: Preset,
    /// Rank of the factors.
    pub rank: usize,
    /// Alpha of the scale `alpha / rank`.
    pub alpha: f32,
    /// Rank and alpha of convolutions with a kernel larger than one pixel, where they differ.
    pub conv: Option<(usize, f32)>,
}

impl TowerTargets {
    /// The same rank for all, and alpha.
    pub fn new(tower: Tower, preset: Preset, rank: usize, alpha: f32) -> Self {
        Self { tower, preset, rank, alpha, conv: None }
    }

    fn for_module(&self, module: &Module) -> (usize, f32) {
        let has_kernel = module.kernel() != [1, 1];
        self.conv.filter(|_| has_kernel).unwrap_or((self.rank, self.alpha))
    }
}

/// What an adapter is made for.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Per tower; a tower that is not listed is left alone.
    pub towers: Vec<TowerTargets>,
    /// Patterns that add modules.
    pub include: Vec<String>,
    /// Patterns that take modules away.
    pub exclude: Vec<String>,
}

/// A module that was chosen, with its rank and alpha.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen<'t> {
    /// The module.
    pub module: &'t Module,
    /// Rank of its factors.
    pub rank: usize,
    /// Alpha of its scale.
    pub alpha: f32,
}

impl Targets {
    /// The chosen modules, in path order. Errors on a pattern that matches nothing, a rank that is larger than a layer,
    /// and an empty choice.
    pub fn choose<'t>(&self, table: &'t ModuleTable) -> Result<Vec<Chosen<'t>>> {
        for pattern in self.include.iter().chain(&self.exclude) {
            if !table.modules().iter().any(|module| matches(pattern, &module.path)) {
                return Err(unmatched_pattern(pattern, table));
            }
        }
        let mut chosen = Vec::new();
        for targets in &self.towers {
            for module in table.tower(targets.tower) {
                let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, &module.path));
                if (targets.preset.covers(module) || any(&self.include)) && !any(&self.exclude) {
                    let (rank, alpha) = targets.for_module(module);
                    check_rank(module, rank, alpha)?;
                    chosen.push(Chosen { module, rank, alpha });
                }
            }
        }
        if chosen.is_empty() {
            return Err(AdapterError::Selection {
                what: "no module is left to train; choose a larger preset or exclude less".into(),
            });
        }
        chosen.sort_by(|a, b| a.module.path.cmp(&b.module.path));
        Ok(chosen)
    }
}

fn check_rank(module: &Module, rank: usize, alpha: f32) -> Result<()> {
    let fault = |what: String| Err(AdapterError::Selection { what });
    if rank == 0 {
        return fault(format!("rank 0 for {} trains nothing; use 1 or more", module.path));
    }
    if !alpha.is_finite() {
        return fault(format!("alpha {alpha} for {} is no number", module.path));
    }
    if rank > module.max_rank() {
        let kind = match module.kind {
            ModuleKind::Linear | ModuleKind::Norm => "",
            ModuleKind::Conv { .. } => ", as a convolution",
        };
        return fault(format!(
            "rank {rank} is larger than {}: it has {} inputs and {} outputs{kind}, so {} is the most; lower the rank or exclude it",
            module.path,
            module.inputs,
            module.outputs,
            module.max_rank()
        ));
    }
    Ok(())
}

fn unmatched_pattern(pattern: &str, table: &ModuleTable) -> AdapterError {
    let hint = table.nearest(pattern).map(|path| format!("; did you mean `{path}`?")).unwrap_or_default();
    AdapterError::Selection { what: format!("the pattern `{pattern}` matches no module of the base{hint}") }
}

/// Whether a pattern (see the module's text) matches a path.
pub fn matches(pattern: &str, path: &str) -> bool {
    if pattern.contains(['*', '?']) {
        return glob(pattern.as_bytes(), path.as_bytes());
    }
    let (wanted, parts): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), path.split('.').collect());
    parts.windows(wanted.len()).any(|run| run == wanted)
}

/// Linear in practice and quadratic at worst: on a mismatch only the last `*` takes one character more.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, t) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Architecture;

    fn targets(preset: Preset, rank: usize) -> Targets {
        let tower = |tower| TowerTargets::new(tower, preset, rank, rank as f32);
        Targets { towers: vec![tower(Tower::UNet), tower(Tower::TextEncoder)], ..Targets::default() }
    }

    #[test]
    fn presets_have_the_published_sizes_on_sd15() {
        let table = Architecture::Sd1.table().unwrap();
        for (preset, unet, text) in [
            (Preset::Attention, 128, 48),
            (Preset::AttentionFf, 144, 48),
            (Preset::AllLinear, 192, 72),
            (Preset::All, 278, 72),
        ] {
            let chosen = targets(preset, 4).choose(&table).unwrap();
            let count = |tower| chosen.iter().filter(|c| Tower::of(&c.module.path) == Some(tower)).count();
            assert_eq!((count(Tower::UNet), count(Tower::TextEncoder)), (unet, text), "{preset:?}");
        }
        // lora-formats.md section 5: parameters of rank 1.
        let parameters = |tower| -> usize {
            let chosen = targets(Preset::AttentionFf, 1).choose(&table).unwrap();
            chosen
                .iter()
                .filter(|c| Tower::of(&c.module.path) == Some(tower))
                .map(|c| c.module.inputs + c.module.outputs)
                .sum()
        };
        assert_eq!((parameters(Tower::UNet), parameters(Tower::TextEncoder)), (311_616, 73_728));
    }

    #[test]
    fn patterns() {
        let path = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";
        for (pattern, expected) in [
            ("attn2", true),
            ("attn2.to_k", true),
            ("attn", false),
            ("up_blocks.1", true),
            ("blocks.1", false),
            ("unet.*", true),
            ("unet.*.attn2.*", true),
            ("*.attn1.*", false),
            ("*to_?", true),
            ("*", true),
            ("unet.up_blocks.?.attentions.*.to_q", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern}");
        }
    }

    #[test]
    fn choices_that_cannot_work_are_refused() {
        let table = Architecture::Sd1.table().unwrap();
        let refused = |targets: Targets| targets.choose(&table).unwrap_err().to_string();
        let message = refused(targets(Preset::Attention, 321));
        assert!(message.contains("rank 321") && message.contains("unet.down_blocks.0"), "{message}");
        assert!(refused(targets(Preset::Attention, 0)).contains("rank 0"));
        let mut wrong = targets(Preset::Attention, 4);
        wrong.include = vec!["attn3".into()];
        assert!(refused(wrong.clone()).contains("attn3"));
        wrong.include.clear();
        wrong.exclude = vec!["*".into()];
        assert!(refused(wrong).contains("no module is left"));
        assert!(Preset::from_str("attn").is_err());
    }

    #[test]
    fn convolutions_with_a_kernel_may_have_a_rank_of_their_own() {
        let table = Architecture::Sd1.table().unwrap();
        let mut all = targets(Preset::All, 8);
        all.towers[0].conv = Some((2, 1.0));
        for chosen in all.choose(&table).unwrap() {
            let expected = if chosen.module.kernel() == [3, 3] { (2, 1.0) } else { (8, 8.0) };
            assert_eq!((chosen.rank, chosen.alpha), expected, "{}", chosen.module.path);
        }
    }

    #[test]
    fn excluding_wins() {
        let table = Architecture::Sd2.table().unwrap();
        let mut some = targets(Preset::Attention, 4);
        some.include = vec!["proj_in".into()];
        some.exclude = vec!["unet.mid_block.*".into(), "text_encoder".into()];
        let chosen = some.choose(&table).unwrap();
        assert_eq!(chosen.len(), 128 - 8 + 16 - 1);
    }
}
