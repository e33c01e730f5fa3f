//! `scumble merge models` from outside: sums, differences, and parts that are taken whole.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::collections::BTreeMap;

use common::{Place, fail, fixture, run, tensors};
use scumble_model::files::{SafetensorsFile, TensorSource as _, write_safetensors};
use scumble_tensor::{DType, Tensor};

/// `a.safetensors`, the small base, and `b.safetensors` and `c.safetensors` with all its weights times 1.5 and 3.
fn models(place: &Place) -> BTreeMap<String, Vec<f64>> {
    let base = SafetensorsFile::open(&fixture("single_file/tiny-sd1-single.safetensors")).unwrap();
    for (name, factor) in [("a", 1.0), ("b", 1.5), ("c", 3.0)] {
        let scaled = base.names().into_iter().map(|key| {
            let tensor = base.read(&key).unwrap();
            if !tensor.dtype().is_float() {
                return (key, tensor);
            }
            let values: Vec<f32> = tensor.to_vec::<f32>().unwrap().into_iter().map(|v| v * factor).collect();
            (key, Tensor::from_slice(&values, tensor.dims()).unwrap().to_dtype(DType::F32).unwrap())
        });
        let scaled: Vec<_> = scaled.collect();
        let path = place.path(&format!("{name}.safetensors"));
        write_safetensors(&path, &scaled, &base.metadata().clone()).unwrap();
    }
    tensors(&place.path("a.safetensors"))
}

/// Every weight of `mixed` over that of the base, by the part that its key begins with.
fn factors(base: &BTreeMap<String, Vec<f64>>, mixed: &BTreeMap<String, Vec<f64>>, part: &str) -> f64 {
    let mut found = None;
    for (key, values) in base.iter().filter(|(key, _)| key.starts_with(part)) {
        for (value, mixed) in values.iter().zip(&mixed[key]).filter(|(value, _)| value.abs() > 1e-3) {
            let factor = mixed / value;
            let first = *found.get_or_insert(factor);
            assert!((factor - first).abs() < 1e-3, "{key}: {factor} and {first}");
        }
    }
    found.unwrap()
}

const UNET: &str = "model.diffusion_model.input_blocks.1.";
const TEXT: &str = "cond_stage_model.transformer.text_model.encoder.";
const VAE: &str = "first_stage_model.";

#[test]
fn weights_differences_and_whole_parts_are_what_was_asked_for() {
    let place = Place::with(&[]);
    let base = models(&place);
    let cases: [(&[&str], [f64; 3]); 6] = [
        (&["a.safetensors:0.5", "c.safetensors:0.5"], [2.0, 2.0, 2.0]),
        (&["a.safetensors", "c.safetensors:0.25"], [1.5, 1.5, 1.5]),
        (&["a.safetensors", "--add", "c.safetensors:0.5", "--subtract", "b.safetensors"], [1.75, 1.75, 1.75]),
        (&["a.safetensors:0.5", "c.safetensors:0.5", "--vae", "2"], [2.0, 2.0, 3.0]),
        (&["a.safetensors:0.5", "c.safetensors:0.5", "--text-encoder", "1"], [2.0, 1.0, 2.0]),
        (&["a.safetensors", "c.safetensors:0.5", "--blocks", "2:BASE=0"], [2.0, 1.0, 2.0]),
    ];
    for (index, (arguments, expected)) in cases.into_iter().enumerate() {
        let out = format!("{index}.safetensors");
        run(place.scumble().args(["merge", "models"]).args(arguments).args(["-o", &out]));
        let mixed = tensors(&place.path(&out));
        let found = [UNET, TEXT, VAE].map(|part| factors(&base, &mixed, part));
        let close = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 2e-3);
        assert!(close, "{arguments:?}: {found:?}, expected {expected:?}");
    }
}

#[test]
fn differences_need_both_models() {
    let place = Place::with(&[]);
    models(&place);
    for arguments in [["--add", "c.safetensors"], ["--subtract", "b.safetensors"]] {
        let mut command = place.scumble();
        command.args(["merge", "models", "a.safetensors", "-o", "x.safetensors"]).args(arguments);
        let said = fail(&mut command, 2);
        assert!(said.contains("--add") && said.contains("--subtract"), "{said}");
    }
    let mut command = place.scumble();
    command.args(["merge", "models", "a.safetensors", "b.safetensors", "--vae", "3", "-o", "x.safetensors"]);
    let said = fail(&mut command, 2);
    assert!(said.contains("vae") && said.contains('3'), "{said}");
    assert!(!place.path("x.safetensors").exists());
}
