//! The size that the product promises: a rank-4 adapter of attention and feed-forward for SD1.5 is about 3 MB in f16.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use scumble_adapter::architecture::Architecture;
use scumble_adapter::create::{Init, fresh};
use scumble_adapter::dialect::{WriteOptions, by_name, save_adapter};
use scumble_adapter::select::{Preset, Targets, TowerTargets};
use scumble_adapter::{ModuleTable, Tower};
use scumble_tensor::DType;

fn file_bytes(table: &ModuleTable, dialect: &str, towers: &[(Tower, Preset)]) -> u64 {
    let towers = towers.iter().map(|&(tower, preset)| TowerTargets::new(tower, preset, 4, 4.0));
    let targets = Targets { towers: towers.collect(), ..Targets::default() };
    let adapter = fresh(&targets, table, Init::Normal, 0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.safetensors");
    let options = WriteOptions { dtype: Some(DType::F16), ..WriteOptions::default() };
    save_adapter(&path, &adapter, table, by_name(dialect).unwrap(), &options).unwrap();
    std::fs::metadata(&path).unwrap().len()
}

#[test]
fn rank_four_on_sd15_is_three_megabytes() {
    let table = Architecture::Sd1.table().unwrap();
    let unet = (Tower::UNet, Preset::AttentionFf);
    let text = (Tower::TextEncoder, Preset::Attention);
    for dialect in ["kohya", "peft", "original"] {
        let both = file_bytes(&table, dialect, &[unet, text]);
        assert!((2_900_000..3_300_000).contains(&both), "{dialect}: {both} bytes");
        let alone = file_bytes(&table, dialect, &[unet]);
        assert!((2_400_000..2_700_000).contains(&alone), "{dialect}: {alone} bytes");
    }
}
