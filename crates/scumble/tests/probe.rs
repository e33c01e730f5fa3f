//! Every probe against the golden files, within the bounds that the files' own README states.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::path::PathBuf;

use common::{compare, fixture, run, scumble, tensors, text};

struct Probe {
    _folder: tempfile::TempDir,
    out: PathBuf,
}

/// Runs `probe <args>` and keeps its output file.
fn probe(args: &[&str]) -> Probe {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let resolved: Vec<String> = args
        .iter()
        .map(|arg| match arg.strip_prefix('@') {
            Some(path) => fixture(path).display().to_string(),
            None => (*arg).to_owned(),
        })
        .collect();
    run(scumble().arg("probe").args(resolved).arg("--out").arg(&out));
    Probe { _folder: folder, out }
}

fn each_model(check: impl Fn(&str)) {
    for model in ["tiny-sd1", "tiny-sd2"] {
        check(model);
    }
}

#[test]
fn text_states() {
    each_model(|model| {
        let spec = format!("@{model}/expected/expected.json");
        let result = probe(&["text", "--base", &format!("@{model}"), "--spec", &spec]);
        let golden = fixture(&format!("{model}/expected/text.safetensors"));
        let exact = |name: &str| if name == "input_ids" { 0.0 } else { 5e-5 };
        assert_eq!(compare(&result.out, &golden, exact), 5);
    });
}

#[test]
fn unet_outputs_taps_and_gradients() {
    each_model(|model| {
        let input = format!("@{model}/expected/unet.safetensors");
        let result = probe(&["unet", "--base", &format!("@{model}"), "--in", &input, "--taps"]);
        let golden = fixture(&format!("{model}/expected/unet.safetensors"));
        let bound = |name: &str| if name.contains("grad_") { 1e-3 } else { 1e-4 };
        let compared = compare(&result.out, &golden, bound);
        let outputs = ["sample", "timesteps", "encoder_hidden_states", "g"];
        let expected = tensors(&golden)
            .keys()
            .filter(|name| {
                !outputs.iter().any(|input| name.ends_with(&format!(".{input}")) && !name.contains("grad"))
            })
            .count();
        assert_eq!(compared, expected, "{model}: not every golden output was computed");
    });
}

/// Root mean square of the difference as a share of that of the golden values.
fn distance(actual: &[f64], golden: &[f64]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = square(&mut actual.iter().zip(golden).map(|(a, b)| a - b));
    (difference / square(&mut golden.iter().copied())).sqrt()
}

/// In bf16 these models, whose attention is sharp and whose weights are random, are off by 3 % in what they put out and by
/// 22 % in gradients: PyTorch's own bf16 is off by 2.9 to 3.2 % and 20 to 23 % on the same files.
#[test]
fn bf16_is_as_near_as_bf16_can_be() {
    each_model(|model| {
        let input = format!("@{model}/expected/unet.safetensors");
        let result = probe(&["unet", "--base", &format!("@{model}"), "--in", &input, "--precision", "bf16"]);
        let (found, golden) = (tensors(&result.out), tensors(&fixture(&input[1..])));
        for (name, values) in &found {
            let distance = distance(values, &golden[name]);
            let bound = if name.contains("grad_") { 0.35 } else { 0.06 };
            assert!((1e-4..bound).contains(&distance), "{model}: {name} is off by {distance}");
        }
    });
}

#[test]
fn vae_both_ways() {
    each_model(|model| {
        let input = format!("@{model}/expected/vae.safetensors");
        let result = probe(&["vae", "--base", &format!("@{model}"), "--in", &input]);
        assert_eq!(compare(&result.out, &fixture(&input[1..]), |_| 1e-4), 3);
    });
}

#[test]
fn pipelines() {
    each_model(|model| {
        let spec = format!("@{model}/expected/expected.json");
        let input = format!("@{model}/expected/pipeline.safetensors");
        let result = probe(&["pipeline", "--base", &format!("@{model}"), "--spec", &spec, "--in", &input]);
        let golden = tensors(&fixture(&input[1..]));
        let ours = tensors(&result.out);
        for (name, expected) in golden.iter().filter(|(name, _)| *name != "initial_noise") {
            assert_eq!(ours.get(name).map(Vec::len), Some(expected.len()), "{name}");
        }
        // The other runs' decoded pictures have no golden values.
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("shared.safetensors");
        let kept: Vec<_> = {
            use scumble_model::files::{SafetensorsFile, TensorSource as _};
            let file = SafetensorsFile::open(&result.out).unwrap();
            let names = file.names().into_iter().filter(|name| golden.contains_key(name));
            names.map(|name| (name.clone(), file.read(&name).unwrap())).collect()
        };
        scumble_model::files::write_safetensors(&shared, &kept, &Default::default()).unwrap();
        assert_eq!(compare(&shared, &fixture(&input[1..]), |_| 5e-4), golden.len() - 1);
    });
}

#[test]
fn sampler_trajectories() {
    let result = probe(&["sampler", "--spec", "@schedulers.json", "--in", "@schedulers.safetensors"]);
    let (ours, golden) = (tensors(&result.out), tensors(&fixture("schedulers.safetensors")));
    let mut runs = 0;
    for (name, values) in &ours {
        let expected = &golden[name];
        assert_eq!(values.len(), expected.len(), "{name}");
        let worst = values.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let allowed = if name.ends_with("trajectory") || name.ends_with("sigmas") { 1e-4 } else { 1e-3 };
        assert!(worst <= allowed, "{name}: off by {worst:e}");
        runs += usize::from(name.ends_with("trajectory"));
    }
    assert_eq!(runs, 72);
    let one = probe(&[
        "sampler",
        "--spec",
        "@schedulers.json",
        "--in",
        "@schedulers.safetensors",
        "--run",
        "pndm.epsilon.8",
    ]);
    assert_eq!(tensors(&one.out).len(), 2);
}

#[test]
fn schedule_tables_and_targets() {
    let result = probe(&["targets", "--in", "@training_targets.safetensors"]);
    assert_eq!(compare(&result.out, &fixture("training_targets.safetensors"), |_| 1e-6), 12);
}

#[test]
fn random_draws() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rng.json");
    run(scumble().args(["probe", "rng", "--spec"]).arg(fixture("torch_rng.json")).arg("--out").arg(&out));
    let read = |path: &std::path::Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let (ours, golden) = (read(&out), read(&fixture("torch_rng.json")));
    let calls = |spec: &serde_json::Value| -> Vec<serde_json::Value> {
        let sequences = spec["sequences"].as_array().unwrap().iter();
        let in_sequences = sequences.flat_map(|sequence| sequence["calls"].as_array().unwrap().clone());
        spec["cases"].as_array().unwrap().iter().cloned().chain(in_sequences).collect()
    };
    let golden = calls(&golden);
    for (ours, golden) in calls(&ours).iter().zip(&golden) {
        let numbers = |call: &serde_json::Value| -> Vec<f64> {
            call["out"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
        };
        let op = golden["op"].as_str().unwrap();
        let allowed = if op.starts_with("randn") { 2e-6 } else { 1e-7 };
        for (a, b) in numbers(ours).iter().zip(&numbers(golden)) {
            assert!((a - b).abs() <= allowed, "{op} of seed {}: {a} is not {b}", golden["seed"]);
        }
    }
    assert!(golden.len() > 100);
}

/// How far factors may be after Adam steps: elements with a gradient near zero are sensitive to rounding, so a small
/// share of all elements may be off by more than rounding, none by more than half a learning rate.
#[derive(Default)]
struct Factors {
    elements: usize,
    off: usize,
}

impl Factors {
    fn compare(&mut self, name: &str, ours: &[f64], golden: &[f64]) {
        let differences = ours.iter().zip(golden).map(|(a, b)| (a - b).abs());
        let worst = differences.clone().fold(0.0, f64::max);
        assert!(worst <= 5e-4, "{name}: off by {worst:e}");
        self.off += differences.filter(|&difference| difference > 5e-6).count();
        self.elements += golden.len();
    }
}

fn trace(model: &str, name: &str) {
    let input = format!("@traces/{name}.safetensors");
    let base = format!("@{model}");
    let result =
        probe(&["trace", "--base", &base, "--spec", "@traces/traces.json", "--name", name, "--in", &input]);
    let (ours, golden) = (tensors(&result.out), tensors(&fixture(&input[1..])));
    let outputs = |name: &&String| {
        ["loss", "grad_norm"].contains(&name.as_str())
            || ["grad1.", "after", "step1."].iter().any(|start| name.starts_with(start))
    };
    let (mut compared, mut factors) = (0, Factors::default());
    for name in golden.keys().filter(outputs) {
        let (a, b) = (ours.get(name).unwrap_or_else(|| panic!("{name} is missing")), &golden[name]);
        if name.starts_with("after") {
            factors.compare(name, a, b);
        } else {
            let rms = (b.iter().map(|value| value * value).sum::<f64>() / b.len() as f64).sqrt();
            let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / rms;
            let allowed = match name.as_str() {
                "loss" => 2e-5,
                "grad_norm" => 2e-4,
                // The floor of the text encoder's q and k factors is 3e-4.
                _ if name.starts_with("grad1.") => 1e-3,
                _ => 1e-4,
            };
            assert!(worst <= allowed, "{name}: off by {worst:e}");
        }
        compared += 1;
    }
    assert!(compared > 20, "{name}: only {compared} tensors");
    let Factors { elements, off } = factors;
    assert!(off * 100 <= elements, "{name}: {off} of {elements} elements are off by more than 5e-6");
}

#[test]
fn training_traces() {
    trace("tiny-sd1", "tiny-sd1.lora");
    trace("tiny-sd2", "tiny-sd2.lora");
    trace("tiny-sd1", "tiny-sd1.lora_extended");
    trace("tiny-sd1", "tiny-sd1.full");
}

#[test]
fn losses() {
    let result = probe(&["losses", "--in", "@traces/losses.safetensors", "--spec", "@traces/traces.json"]);
    assert!(compare(&result.out, &fixture("traces/losses.safetensors"), |_| 2e-5) >= 18);
}

#[test]
fn adapters_of_every_dialect() {
    let golden = fixture("lora/lora_expected.safetensors");
    for (file, prefix) in [
        ("kohya.safetensors", "scale"),
        ("peft.safetensors", "scale"),
        ("cloneofsimo.safetensors", "scale"),
        ("cloneofsimo_ge015.safetensors", "scale"),
        ("diffusers_old.safetensors", "attn_only"),
        ("cloneofsimo_extended.safetensors", "extended"),
    ] {
        let adapter = format!("@lora/{file}");
        let folder = tempfile::tempdir().unwrap();
        // Only the outputs that belong to this file's modules: an input file with those keys.
        let input = folder.path().join("in.safetensors");
        let kept: Vec<_> = {
            use scumble_model::files::{SafetensorsFile, TensorSource as _};
            let all = SafetensorsFile::open(&golden).unwrap();
            let wanted = |name: &String| {
                ["sample", "timesteps", "input_ids", "base_text"].contains(&name.as_str())
                    || name.starts_with(prefix)
                    || prefix == "scale" && name.starts_with("fused")
            };
            all.names()
                .into_iter()
                .filter(wanted)
                .map(|name| (name.clone(), all.read(&name).unwrap()))
                .collect()
        };
        scumble_model::files::write_safetensors(&input, &kept, &Default::default()).unwrap();
        let input = input.display().to_string();
        let result = probe(&[
            "lora",
            "--base",
            "@tiny-sd1",
            "--spec",
            "@lora/lora.json",
            "--adapter",
            &adapter,
            "--in",
            &input,
        ]);
        let bound = |name: &str| if name.ends_with("text") && !name.contains("unet") { 5e-5 } else { 1e-4 };
        let compared = compare(&result.out, &golden, bound);
        assert_eq!(compared, kept.len() - 3, "{file}");
    }
}

#[test]
fn a_probe_says_what_it_lacks() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out.safetensors");
    let base = fixture("tiny-sd1");
    let wrong = fixture("training_targets.safetensors");
    let stderr = common::fail(
        scumble().args(["probe", "unet", "--base"]).arg(&base).arg("--in").arg(&wrong).arg("--out").arg(&out),
        1,
    );
    assert!(stderr.contains("sample") && !out.exists(), "{stderr}");
    let help = run(scumble().args(["probe", "--help"]));
    assert!(text(&help.stdout).contains("trace"));
}
