//! What `inspect` notes on traces of old tools, each in a file that has it and in one that has not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{fixture, load, table};
use scumble_adapter::dialect::{WriteOptions, by_name, save_adapter};
use scumble_adapter::inspect::{Content, InspectOptions, inspect};
use scumble_adapter::{Adapter, LowRankFactors};
use scumble_model::files::{SafetensorsFile, TensorSource, write_safetensors};
use scumble_tensor::rng::stream;
use scumble_tensor::{DType, Tensor};

fn notes(path: &Path) -> Vec<String> {
    let table = table("tiny-sd1");
    let options = InspectOptions { base: Some(&table), threads: 1, ..InspectOptions::default() };
    match inspect(path, &options).unwrap().content {
        Content::Adapter(content) => content.quirks,
        other => panic!("{}: {other:?}", path.display()),
    }
}

fn has(notes: &[String], words: &str) -> bool {
    notes.iter().any(|note| note.contains(words))
}

#[test]
fn the_order_of_the_numbers_is_told() {
    let old = notes(&fixture("lora/cloneofsimo.safetensors"));
    assert!(has(&old, "diffusers up to 0.14 (attn1, ff, attn2)") && !has(&old, "0.15"), "{old:?}");
    let new = notes(&fixture("lora/cloneofsimo_ge015.safetensors"));
    assert!(has(&new, "diffusers 0.15 and later (attn1, attn2, ff)") && !has(&new, "0.14"), "{new:?}");
    let kohya = notes(&fixture("lora/kohya.safetensors"));
    assert!(!has(&kohya, "numbered"), "{kohya:?}");
}

#[test]
fn wrong_ranks_in_the_metadata_are_counted() {
    let words = "the ranks in its metadata are wrong for";
    let right = notes(&fixture("lora/cloneofsimo_extended.safetensors"));
    assert!(!has(&right, words), "{right:?}");
    let file = SafetensorsFile::open(&fixture("lora/cloneofsimo_extended.safetensors")).unwrap();
    let tensors: Vec<(String, Tensor)> =
        file.names().into_iter().map(|key| (key.clone(), file.read(&key).unwrap())).collect();
    let mut metadata = file.metadata().clone();
    // The old converter wrote 4 for all; the factors have rank 2.
    metadata.iter_mut().filter(|(key, _)| key.ends_with(":rank")).for_each(|(_, rank)| *rank = "4".into());
    let wrong = metadata.keys().filter(|key| key.ends_with(":rank")).count();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("converted.safetensors");
    write_safetensors(&path, &tensors, &metadata).unwrap();
    let found = notes(&path);
    assert!(wrong > 0 && has(&found, &format!("{words} {wrong} modules")), "{found:?}");
}

/// An adapter whose factors' numbers were made by `numbers`, written in an element type and looked at.
fn notes_of(dtype: DType, numbers: &dyn Fn(usize) -> Vec<f32>) -> Vec<String> {
    let table = table("tiny-sd1");
    let mut adapter = Adapter::default();
    for path in load("kohya.safetensors").unwrap().adapter.modules.keys() {
        let module = table.get(path).unwrap();
        let (down, up) = LowRankFactors::shapes_for(module, 8);
        let tensor = |dims: &[usize]| {
            let numbers = numbers(dims.iter().product());
            Tensor::from_slice(&numbers, dims).unwrap().to_dtype(dtype).unwrap()
        };
        adapter.insert(path, tensor(&down), tensor(&up), 8.0).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let kohya = by_name("kohya").unwrap();
    save_adapter(&path, &adapter, &table, kohya, &WriteOptions::default()).unwrap();
    notes(&path)
}

/// A limit at a quantile shows in every element type; what is merely rounded, constant or zero does not look like one.
#[test]
fn factors_with_a_limit_are_told_from_others() {
    let words = "one and the same largest magnitude";
    let normal = |n: usize| stream(6, "factors").randn(n);
    let limited = |n: usize| normal(n).into_iter().map(|value| value.clamp(-1.5, 1.5)).collect::<Vec<_>>();
    let uniform = |n: usize| stream(6, "factors").rand(n);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let found = notes_of(dtype, &limited);
        assert!(has(&found, words) && has(&found, "in 156 of 156 modules"), "{dtype}: {found:?}");
        let others: BTreeMap<&str, &dyn Fn(usize) -> Vec<f32>> = BTreeMap::from([
            ("normal", &normal as &dyn Fn(usize) -> Vec<f32>),
            ("uniform", &uniform),
            ("constant", &|n| vec![0.1; n]),
            ("zero", &|n| vec![0.0; n]),
        ]);
        for (name, numbers) in others {
            let found = notes_of(dtype, numbers);
            assert!(!has(&found, words), "{name} in {dtype}: {found:?}");
        }
    }
}
