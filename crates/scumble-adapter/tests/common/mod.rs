//! Fixtures and comparisons that the tests of this crate share.
#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests; each test binary uses its part")]

use std::path::{Path, PathBuf};

use scumble_adapter::dialect::{Loaded, ReadOptions, load_adapter};
use scumble_adapter::{Adapter, ModuleTable, Result, architecture};
use serde_json::Value;

/// A file of the repository's fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(path)
}

/// A file of the shared material, where there is any.
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SCUMBLE_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    Some(root.join(path)).filter(|file| file.exists())
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The table of a fixture base, from its configuration.
pub fn table(base: &str) -> ModuleTable {
    let config = |folder: &str| json(&fixture(&format!("{base}/{folder}/config.json")));
    architecture::table_of(Some(&config("unet")), Some(&config("text_encoder"))).unwrap()
}

/// An adapter of the fixtures on tiny-sd1.
pub fn load(name: &str) -> Result<Loaded> {
    load_adapter(&fixture(&format!("lora/{name}")), &table("tiny-sd1"), ReadOptions::default())
}

/// Largest difference of the two adapters' deltas; panics when their modules differ.
pub fn difference(a: &Adapter, b: &Adapter) -> f32 {
    assert!(a.modules.keys().eq(b.modules.keys()), "different modules");
    a.low_rank()
        .zip(b.low_rank())
        .flat_map(|((_, x), (_, y))| {
            let (x, y) = (x.delta().unwrap(), y.delta().unwrap());
            assert_eq!(x.dims(), y.dims());
            let pairs: Vec<(f32, f32)> = x
                .as_slice::<f32>()
                .unwrap()
                .iter()
                .copied()
                .zip(y.as_slice::<f32>().unwrap().iter().copied())
                .collect();
            pairs
        })
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max)
}

/// Every factor, alpha and token of two adapters is the same, byte for byte.
pub fn assert_same(a: &Adapter, b: &Adapter) {
    assert!(a.modules.keys().eq(b.modules.keys()), "different modules");
    for ((path, x), (_, y)) in a.low_rank().zip(b.low_rank()) {
        for (part, x, y) in [("down", x.down(), y.down()), ("up", x.up(), y.up())] {
            assert_eq!((x.dtype(), x.dims()), (y.dtype(), y.dims()), "{path}.{part}");
            assert_eq!(x.bytes().unwrap(), y.bytes().unwrap(), "{path}.{part}");
        }
        assert_eq!(x.alpha(), y.alpha(), "{path}");
    }
    assert!(a.tokens.keys().eq(b.tokens.keys()), "different tokens");
    for (token, rows) in &a.tokens {
        assert_eq!(rows.bytes().unwrap(), b.tokens[token].bytes().unwrap(), "{token}");
    }
}
