//! Recorded training runs: losses, gradients and weights equal to those of PyTorch, diffusers and PEFT.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scumble_model::files::{SafetensorsFile, TensorSource, write_safetensors};
use scumble_model::nn::to_memory_layout;
use scumble_model::schedule::NoiseSchedule;
use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::UNet;
use scumble_tensor::reference::ReferenceBackend;
use scumble_tensor::{Backend, DType, Tensor};
use scumble_train::objective::Objective;
use scumble_train::step::{self, StepInput, StepOptions, Text};
use scumble_train::trace::{Networks, TraceSpec, run};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(path)).unwrap()).unwrap()
}

struct Model {
    backend: Arc<dyn Backend>,
    unet: UNet,
    text_encoder: TextEncoder,
    objective: Objective,
}

fn load(model: &str) -> Model {
    let backend: Arc<dyn Backend> = Arc::new(ReferenceBackend);
    let weights =
        |part: &str| SafetensorsFile::open(&fixture(&format!("{model}/{part}.safetensors"))).unwrap();
    let unet = UNet::load(
        &json(&format!("{model}/unet/config.json")),
        &weights("unet/diffusion_pytorch_model"),
        backend.as_ref(),
        DType::F32,
    )
    .unwrap();
    let text_encoder = TextEncoder::load(
        &json(&format!("{model}/text_encoder/config.json")),
        &weights("text_encoder/model"),
        backend.as_ref(),
        DType::F32,
    )
    .unwrap();
    let schedule =
        NoiseSchedule::from_config(&json(&format!("{model}/scheduler/scheduler_config.json"))).unwrap();
    let prediction = schedule.prediction_type();
    let objective = Objective::plain(schedule, prediction);
    Model { backend, unet, text_encoder, objective }
}

/// Differences of a result from the recorded one.
struct Difference {
    largest: f64,
    largest_over_rms: f64,
    largest_relative: f64,
    share_beyond_5e_6: f64,
}

fn difference(found: &[f64], expected: &[f64]) -> Difference {
    assert_eq!(found.len(), expected.len());
    let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
    let each: Vec<f64> = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).collect();
    assert!(each.iter().all(|d| d.is_finite()));
    let largest = each.iter().copied().fold(0.0, f64::max);
    let relative = each.iter().zip(expected).map(|(d, e)| d / e.abs().max(1e-30)).fold(0.0, f64::max);
    Difference {
        largest,
        largest_over_rms: largest / rms,
        largest_relative: relative,
        share_beyond_5e_6: each.iter().filter(|&&d| d > 5e-6).count() as f64 / each.len() as f64,
    }
}

/// Runs a trace and holds everything the file has against it, with the bounds of the fixtures' README.
fn check(model: &str, name: &str) {
    let file = SafetensorsFile::open(&fixture(&format!("traces/{name}.safetensors"))).unwrap();
    let spec = TraceSpec::parse(&json("traces/traces.json"), name).unwrap();
    let Model { backend, unet, text_encoder, objective } = load(model);
    let networks = Networks { unet: &unet, text_encoder: &text_encoder };
    let results = run(&backend, networks, &objective, &spec, &file).unwrap();
    let (mut beyond, mut elements) = (0.0, 0.0);
    for (key, found) in &results {
        let expected = file.read(key).unwrap();
        assert_eq!(found.dims(), expected.dims(), "{key}");
        let d = difference(&found.to_vec().unwrap(), &expected.to_vec().unwrap());
        let fits = match key.split('.').next().unwrap() {
            "loss" => d.largest_relative < 2e-5,
            "grad_norm" => d.largest_relative < 2e-4,
            "step1" => d.largest_over_rms < 1e-4,
            "grad1" | "row_grad" => d.largest_over_rms < 1e-3,
            _ => {
                beyond += d.share_beyond_5e_6 * found.numel() as f64;
                elements += found.numel() as f64;
                d.largest < 5e-4
            }
        };
        assert!(fits, "{key}: off by {:e}, {:e} of the rms", d.largest, d.largest_over_rms);
    }
    assert!(beyond / elements < 0.01, "{beyond} of {elements} weights are off by more than 5e-6");
    let inputs = ["init.", "latents", "noise", "timesteps", "input_ids"];
    for key in file.names().iter().filter(|key| !inputs.iter().any(|input| key.starts_with(input))) {
        assert!(results.iter().any(|(found, _)| found == key), "{key} was not computed");
    }
}

#[test]
fn lora_on_both_towers_of_sd1() {
    check("tiny-sd1", "tiny-sd1.lora");
}

#[test]
fn lora_on_both_towers_of_sd2_with_velocity_and_clipping() {
    check("tiny-sd2", "tiny-sd2.lora");
}

#[test]
fn lora_on_convolutions() {
    check("tiny-sd1", "tiny-sd1.lora_extended");
}

#[test]
fn textual_inversion() {
    check("tiny-sd1", "tiny-sd1.textual_inversion");
}

#[test]
fn full_fine_tuning() {
    check("tiny-sd1", "tiny-sd1.full");
}

#[test]
fn every_weight_of_the_unet_has_the_recorded_gradient() {
    let norms = json("traces/tiny-sd1.full.grad_norms.json");
    let norms = norms["norms"].as_object().unwrap();
    let file = SafetensorsFile::open(&fixture("traces/tiny-sd1.full.safetensors")).unwrap();
    let Model { backend, unet, text_encoder, objective } = load("tiny-sd1");
    unet.params().iter().for_each(|param| param.set_trainable(true));
    let first = |name: &str| {
        let tensor = file.read(name).unwrap();
        let dims = tensor.dims()[1..].to_vec();
        let length = dims.iter().product();
        (tensor.to_vec::<f64>().unwrap()[..length].to_vec(), dims)
    };
    let picture = |name: &str| {
        let (values, dims) = first(name);
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        to_memory_layout(&Tensor::from_slice(&values, &dims).unwrap()).unwrap()
    };
    let whole = |name: &str| first(name).0.iter().map(|&v| v as i64).collect::<Vec<_>>();
    let ids = Tensor::from_slice(&whole("input_ids"), &first("input_ids").1).unwrap();
    let timesteps = whole("timesteps");
    let share = vec![1.0 / timesteps.len() as f32; timesteps.len()];
    let (latents, noise) = (picture("latents"), picture("noise"));
    let text = Text::Ids(&text_encoder, &ids);
    let input = StepInput::new(&latents, &noise, &timesteps, text, &share);
    let output = step::run(&backend, &unet, &objective, &input, StepOptions::default()).unwrap();
    assert_eq!(unet.params().len(), norms.len());
    for param in unet.params() {
        let gradient = output.gradients.get(param.id()).unwrap();
        let norm = backend.sum_squares(gradient).unwrap().sqrt();
        let expected = norms[param.name()].as_f64().unwrap();
        assert!((norm - expected).abs() <= 1e-3 * expected, "{}: {norm} {expected}", param.name());
    }
}

#[test]
fn every_objective_has_pytorchs_losses_and_gradients() {
    const STEPS: usize = 2;
    let file = SafetensorsFile::open(&fixture("traces/tiny-sd1.full.safetensors")).unwrap();
    let noise = file.read("noise").unwrap();
    let step_length = noise.numel() / noise.dims()[0];
    let perturbed: Vec<f32> = noise.as_slice::<f32>().unwrap()[..STEPS * step_length]
        .iter()
        .enumerate()
        .map(|(i, value)| {
            let (step, n) = ((i / step_length) as f64, (i % step_length) as f64);
            value + (0.1 * (0.37 * n + step).sin()) as f32
        })
        .collect();
    let perturbed = Tensor::from_slice(&perturbed, &[&[STEPS], &noise.dims()[1..]].concat()).unwrap();
    let mask = |i: usize| {
        let (x, y, picture, step) = (i % 128, i / 128 % 128, i / (128 * 128) % 2, i / (2 * 128 * 128));
        match picture {
            0 => ((x + 2 * y + 7 * step) % 100) as f32 / 99.0,
            _ => f32::from(u8::from(x >= 40 && y < 90)),
        }
    };
    let masks: Vec<f32> = (0..STEPS * 2 * 128 * 128).map(mask).collect();
    let masks = Tensor::from_slice(&masks, &[STEPS, 2, 1, 128, 128]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inputs.safetensors");
    let first = |name: &str| {
        let tensor = file.read(name).unwrap();
        let length = tensor.bytes().unwrap().len() / tensor.dims()[0] * STEPS;
        let dims = [&[STEPS], &tensor.dims()[1..]].concat();
        (
            name.to_owned(),
            Tensor::from_bytes(tensor.dtype(), &tensor.bytes().unwrap()[..length], &dims).unwrap(),
        )
    };
    let inputs = ["latents", "noise", "timesteps", "input_ids"].map(first);
    let cases = json("traces/objectives.json");
    let cases = cases.as_object().unwrap();
    assert_eq!(cases.len(), 12);
    for (name, case) in cases {
        let mut spec = case["spec"].clone();
        let fields = spec.as_object_mut().unwrap();
        fields.extend([("kind".to_owned(), "full".into()), ("lr".to_owned(), 0.01.into())]);
        let mut tensors = inputs.to_vec();
        if name == "masked" {
            tensors.push(("mask_image".to_owned(), masks.clone()));
        }
        if name == "perturbed" {
            tensors.push(("input_noise".to_owned(), perturbed.clone()));
        }
        write_safetensors(&path, &tensors, &Default::default()).unwrap();
        let source = SafetensorsFile::open(&path).unwrap();
        let spec = TraceSpec::parse(&serde_json::json!({ "traces": { name: spec } }), name).unwrap();
        let Model { backend, unet, text_encoder, objective } = load("tiny-sd1");
        let networks = Networks { unet: &unet, text_encoder: &text_encoder };
        let results = run(&backend, networks, &objective, &spec, &source).unwrap();
        for (part, bound) in [("loss", 2e-5), ("grad_norm", 2e-4)] {
            let found = results.iter().find(|(found, _)| found == part).unwrap().1.to_vec::<f64>().unwrap();
            for (found, expected) in found.iter().zip(case[part].as_array().unwrap()) {
                let expected = expected.as_f64().unwrap();
                let off = (found - expected).abs() / expected.abs();
                assert!(off <= bound, "{name}.{part}: {found}, expected {expected}");
            }
        }
    }
}
