//! How modules are put together for people: by the block they stand in, and by what they are.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measure::ModuleSummary;
use crate::table::Tower;

/// The modules of one tower.
#[derive(Clone, Debug, Serialize)]
pub struct TowerSummary {
    /// `unet`, `text_encoder` or `text_encoder_2`.
    pub tower: &'static str,
    /// Modules that are changed.
    pub modules: usize,
    /// What they are: attention, feed-forward, ... and how many.
    pub targets: BTreeMap<&'static str, usize>,
    /// Kinds of factors, and how many.
    pub kinds: BTreeMap<String, usize>,
    /// Ranks, and how many modules have each.
    pub ranks: BTreeMap<usize, usize>,
    /// Alphas, ascending, and how many modules have each.
    pub alphas: Vec<(f32, usize)>,
    /// Scales `alpha / r`, ascending.
    pub scales: Vec<(f32, usize)>,
    /// Element types, and how many.
    pub dtypes: BTreeMap<String, usize>,
    /// Numbers stored.
    pub numbers: usize,
}

/// The change of one block.
#[derive(Clone, Debug, Serialize)]
pub struct BlockSummary {
    /// `unet.down_blocks.1`, `text_encoder.layers.3`, ...
    pub block: String,
    /// Modules in it.
    pub modules: usize,
    /// Root of the sum of squared norms; none where numbers are not finite.
    pub norm: Option<f64>,
}

/// The towers that are changed.
pub(super) fn towers(modules: &[ModuleSummary]) -> Vec<TowerSummary> {
    Tower::ALL
        .into_iter()
        .filter_map(|tower| {
            let of_tower = || modules.iter().filter(move |module| Tower::of(&module.path) == Some(tower));
            of_tower().next()?;
            Some(TowerSummary {
                tower: tower.prefix(),
                modules: of_tower().count(),
                targets: counted(of_tower().map(|module| class_of(&module.path))),
                kinds: counted(of_tower().map(|module| module.kind.clone())),
                ranks: counted(of_tower().filter_map(|module| module.rank)),
                alphas: counted_numbers(of_tower().filter_map(|module| module.alpha)),
                scales: counted_numbers(of_tower().map(|module| module.scale)),
                dtypes: counted(of_tower().map(|module| module.dtype.clone())),
                numbers: of_tower().map(|module| module.numbers).sum(),
            })
        })
        .collect()
}

fn counted<K: Ord>(values: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts
}

fn counted_numbers(values: impl Iterator<Item = f32>) -> Vec<(f32, usize)> {
    let mut counts: Vec<(f32, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    counts.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    counts
}

/// What a module is, in words.
pub(super) fn class_of(path: &str) -> &'static str {
    let has = |part: &str| path.contains(part);
    if has(".attn1.") {
        "self-attention"
    } else if has(".attn2.") {
        "cross-attention"
    } else if has(".self_attn.") {
        "attention"
    } else if has(".ff.") || has(".mlp.") {
        "feed-forward"
    } else if has("norm") {
        "norms"
    } else if has(".attentions.") {
        "transformer projections"
    } else if has(".resnets.") {
        "resnets"
    } else if has("samplers.") {
        "resampling"
    } else {
        "others"
    }
}

/// The norms by block, in the order in which a picture passes them.
pub(super) fn blocks(modules: &[ModuleSummary]) -> Vec<BlockSummary> {
    let mut blocks: BTreeMap<BlockPlace, (usize, Option<f64>)> = BTreeMap::new();
    for module in modules {
        let (count, squares) = blocks.entry(place_of(&module.path)).or_insert((0, Some(0.0)));
        *count += 1;
        *squares = squares.zip(module.norm).map(|(sum, norm)| sum + norm * norm);
    }
    let summary = |((_, _, _, block), (modules, squares)): (_, (usize, Option<f64>))| BlockSummary {
        block,
        modules,
        norm: squares.map(f64::sqrt),
    };
    blocks.into_iter().map(summary).collect()
}

/// Tower, section and number for sorting, and the block's name.
type BlockPlace = (usize, usize, usize, String);

fn place_of(path: &str) -> BlockPlace {
    let tower = Tower::of(path).unwrap_or(Tower::UNet);
    let order = Tower::ALL.iter().position(|other| *other == tower).unwrap_or(0);
    let local = path.split_once('.').map_or(path, |(_, local)| local);
    let local = local.strip_prefix("text_model.encoder.").unwrap_or(local);
    let mut parts = local.split('.');
    let first = parts.next().unwrap_or_default();
    let number = parts.next().and_then(|part| part.parse::<usize>().ok());
    let (section, number, name) = match (first, number) {
        ("down_blocks", Some(number)) => (1, number, format!("down_blocks.{number}")),
        ("mid_block", _) => (2, 0, "mid_block".to_owned()),
        ("up_blocks", Some(number)) => (3, number, format!("up_blocks.{number}")),
        ("layers", Some(number)) => (1, number, format!("layers.{number}")),
        ("conv_in" | "time_embedding" | "add_embedding", _) => (0, 0, "in".to_owned()),
        _ => (4, 0, "out".to_owned()),
    };
    (order, section, number, format!("{}.{name}", tower.prefix()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_in_the_order_of_the_picture() {
        let names = [
            "text_encoder.text_model.encoder.layers.10.mlp.fc1",
            "unet.up_blocks.3.resnets.0.conv1",
            "unet.conv_out",
            "unet.mid_block.attentions.0.proj_in",
            "unet.down_blocks.0.attentions.0.proj_in",
            "text_encoder.text_model.encoder.layers.2.mlp.fc1",
            "unet.time_embedding.linear_1",
        ];
        let mut places: Vec<_> = names.iter().map(|name| place_of(name)).collect();
        places.sort();
        let blocks: Vec<String> = places.into_iter().map(|(_, _, _, name)| name).collect();
        assert_eq!(
            blocks,
            [
                "unet.in",
                "unet.down_blocks.0",
                "unet.mid_block",
                "unet.up_blocks.3",
                "unet.out",
                "text_encoder.layers.2",
                "text_encoder.layers.10"
            ]
        );
    }
}
