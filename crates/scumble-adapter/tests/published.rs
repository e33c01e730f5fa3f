//! The published files of the original tool, where they are at hand: described rightly, converted, merged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;

use common::shared;
use scumble_adapter::architecture::Architecture;
use scumble_adapter::dialect::{ReadOptions, TokenPolicy, WriteOptions, by_name, load_adapter, save_adapter};
use scumble_adapter::inspect::{AdapterContent, Content, InspectOptions, Inspection, inspect};
use scumble_adapter::merge::{Input, MergeOptions, Mode, Weights, merge};
use scumble_adapter::rank::RankRule;
use scumble_cpu::CpuBackend;

/// What is known of a file: name, family, modules by tower, rank, tokens, words of its notes, start of its sha256.
struct Known {
    name: &'static str,
    family: &'static str,
    towers: &'static [(&'static str, usize)],
    rank: usize,
    dtype: &'static str,
    tokens: &'static [(&'static str, f64)],
    notes: &'static [&'static str],
    sha256: &'static str,
}

const UNALIGNED: &str = "no multiple of 8";
const UNTRAINED: &str = "exactly zero";
const NO_FF: &str = "before 21 December 2022";
const OLD_ORDER: &str = "up to 0.14";
const BARE: &str = "bare list";
const LIMITED_TEXT: &str = "in 48 of 48 modules many numbers have one and the same largest magnitude";
const LIMITED: &str = "in 192 of 192 modules many numbers have one and the same largest magnitude";

const FILES: [Known; 11] = [
    Known {
        name: "analog_svd_distill.text_encoder.pt",
        family: "sd1",
        towers: &[("text_encoder", 48)],
        rank: 4,
        dtype: "f32",
        tokens: &[],
        notes: &[BARE, LIMITED_TEXT],
        sha256: "eb7b807f",
    },
    Known {
        name: "analog_svd_rank4.safetensors",
        family: "sd1",
        towers: &[("unet", 144), ("text_encoder", 48)],
        rank: 4,
        dtype: "f16",
        tokens: &[],
        notes: &[OLD_ORDER, LIMITED, UNALIGNED],
        sha256: "337293d2",
    },
    Known {
        name: "lora_disney.pt",
        family: "sd2",
        towers: &[("unet", 128)],
        rank: 4,
        dtype: "f32",
        tokens: &[],
        notes: &[BARE, NO_FF, UNTRAINED],
        sha256: "72f687f8",
    },
    Known {
        name: "lora_disney.safetensors",
        family: "sd1",
        towers: &[("unet", 144), ("text_encoder", 48)],
        rank: 1,
        dtype: "f32",
        tokens: &[("<s1>", 0.4107), ("<s2>", 0.4110)],
        notes: &[OLD_ORDER, UNALIGNED],
        sha256: "cea222b3",
    },
    Known {
        name: "lora_disney_inpainting.safetensors",
        family: "sd1",
        towers: &[("unet", 144), ("text_encoder", 48)],
        rank: 1,
        dtype: "f16",
        tokens: &[("<s1>", 0.4134), ("<s2>", 0.4145)],
        notes: &[OLD_ORDER, UNALIGNED],
        sha256: "1c3163b7",
    },
    Known {
        name: "lora_illust.pt",
        family: "sd2",
        towers: &[("unet", 128)],
        rank: 4,
        dtype: "f32",
        tokens: &[],
        notes: &[BARE, NO_FF, UNTRAINED],
        sha256: "7f6acb0b",
    },
    Known {
        name: "lora_kiriko.pt",
        family: "sd2",
        towers: &[("unet", 128), ("text_encoder", 92)],
        rank: 4,
        dtype: "f32",
        tokens: &[],
        notes: &[BARE, NO_FF, UNTRAINED],
        sha256: "63c72fd9",
    },
    Known {
        name: "lora_kiriko.text_encoder.pt",
        family: "sd2",
        towers: &[("text_encoder", 92)],
        rank: 4,
        dtype: "f32",
        tokens: &[],
        notes: &[BARE],
        sha256: "298591dd",
    },
    Known {
        name: "lora_kiriko2.text_encoder.pt",
        family: "sd1",
        towers: &[("text_encoder", 48)],
        rank: 4,
        dtype: "f32",
        tokens: &[],
        notes: &[BARE],
        sha256: "13525cfd",
    },
    Known {
        name: "lora_kiriko2.ti.pt",
        family: "sd1",
        towers: &[],
        rank: 0,
        dtype: "",
        tokens: &[("<krk>", 0.7456)],
        notes: &[],
        sha256: "afdd5882",
    },
    Known {
        name: "lora_pop.pt",
        family: "sd2",
        towers: &[("unet", 128)],
        rank: 4,
        dtype: "f32",
        tokens: &[],
        notes: &[BARE, NO_FF, UNTRAINED],
        sha256: "18a15658",
    },
];

fn content(found: &Inspection) -> &AdapterContent {
    match &found.content {
        Content::Adapter(content) | Content::Embedding(content) => content,
        other => panic!("{}: {other:?}", found.file.display()),
    }
}

#[test]
fn each_is_described_rightly() {
    for known in &FILES {
        let Some(path) = shared(&format!("real_loras/{}", known.name)) else { continue };
        let found = inspect(&path, &InspectOptions { threads: 2, ..InspectOptions::default() }).unwrap();
        let (name, content) = (known.name, content(&found));
        assert_eq!(content.dialect, "original", "{name}");
        assert_eq!(content.family.as_ref().unwrap().name, known.family, "{name}");
        assert!(content.complete && content.not_finite.is_empty(), "{name}");
        let towers: Vec<(&str, usize)> =
            content.towers.iter().map(|tower| (tower.tower, tower.modules)).collect();
        assert_eq!(towers, known.towers, "{name}");
        for tower in &content.towers {
            assert_eq!(tower.ranks, BTreeMap::from([(known.rank, tower.modules)]), "{name}");
            assert_eq!(tower.dtypes.keys().collect::<Vec<_>>(), [known.dtype], "{name}");
            assert_eq!(tower.scales, [(1.0, tower.modules)], "{name}");
        }
        let tokens: Vec<&str> = content.tokens.iter().map(|token| token.token.as_str()).collect();
        assert_eq!(tokens, known.tokens.iter().map(|(token, _)| *token).collect::<Vec<_>>(), "{name}");
        for (token, (_, norm)) in content.tokens.iter().zip(known.tokens) {
            assert!((token.norms[0] - norm).abs() < 5e-4, "{name}: {:?}", token.norms);
        }
        assert_eq!(content.quirks.len(), known.notes.len(), "{name}: {:?}", content.quirks);
        for (quirk, words) in content.quirks.iter().zip(known.notes) {
            assert!(quirk.contains(words), "{name}: {quirk}");
        }
        let untrained = if known.notes.contains(&UNTRAINED) { 32 } else { 0 };
        assert_eq!(content.without_effect.len(), untrained, "{name}");
        assert!(content.without_effect.iter().all(|path| path.ends_with(".to_out.0")));
        assert!(found.hashes.unwrap().sha256.starts_with(known.sha256), "{name}");
    }
}

/// To kohya and PEFT, and back with the same change; then added to itself at half strength, which is itself.
#[test]
fn each_is_converted_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    for known in FILES.iter().filter(|known| !known.towers.is_empty()) {
        let Some(path) = shared(&format!("real_loras/{}", known.name)) else { continue };
        let family = Architecture::ALL.into_iter().find(|family| family.name() == known.family).unwrap();
        let table = family.table().unwrap();
        let loaded = load_adapter(&path, &table, ReadOptions::default()).unwrap().adapter;
        for dialect in ["kohya", "peft"] {
            let target = folder.path().join("converted.safetensors");
            let options = WriteOptions { tokens: TokenPolicy::Omit, ..WriteOptions::default() };
            save_adapter(&target, &loaded, &table, by_name(dialect).unwrap(), &options).unwrap();
            let again = load_adapter(&target, &table, ReadOptions::default()).unwrap();
            assert_eq!(again.report.dialect, dialect);
            let found = scumble_adapter::diff::difference(&loaded, &again.adapter, 2).unwrap();
            assert_eq!(found.distance, Some(0.0), "{} as {dialect}", known.name);
        }
        let input = || Input { name: known.name.into(), adapter: &loaded, weights: Weights::all(0.5) };
        let options =
            MergeOptions { mode: Mode::Exact, rank: RankRule::Fixed(known.rank), ..MergeOptions::default() };
        let backend = CpuBackend::new(Some(1)).unwrap();
        let merged = merge(&[input(), input()], &table, &options, &backend, &|_| ()).unwrap().adapter;
        let found = scumble_adapter::diff::difference(&loaded, &merged, 2).unwrap();
        assert!(found.distance.unwrap() < 2e-3, "{}: {:?}", known.name, found.distance);
    }
}
