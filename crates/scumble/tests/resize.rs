//! `scumble extract` and `scumble resize` from outside.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Place, fail, fixture, run, shapes, text};
use scumble_model::files::{SafetensorsFile, TensorSource as _, write_safetensors};
use scumble_tensor::{DType, Tensor};
use serde_json::Value;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const MODULE: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";

/// A folder `tuned` with the base's UNet, of which one attention layer, one convolution and one bias are moved.
fn tuned(place: &Place) {
    let base = SafetensorsFile::open(&fixture("tiny-sd1").join(UNET)).unwrap();
    let moved =
        [format!("{MODULE}.weight"), "mid_block.resnets.0.conv1.weight".into(), "conv_in.bias".into()];
    let tensors = base.names().into_iter().map(|name| {
        let tensor = base.read(&name).unwrap();
        if !moved.contains(&name) {
            return (name, tensor);
        }
        // A difference of rank 2 along rows and columns.
        let columns = tensor.numel() / tensor.dims()[0];
        let values = tensor.to_vec::<f32>().unwrap().into_iter().enumerate().map(|(index, value)| {
            let (row, column) = ((index / columns) as f32, (index % columns) as f32);
            value + 0.1 * (row * 0.7).sin() * (column * 0.3).cos() + 0.02 * (column * 0.9).sin()
        });
        let values: Vec<f32> = values.collect();
        (name, Tensor::from_slice(&values, tensor.dims()).unwrap().to_dtype(DType::F32).unwrap())
    });
    let tensors: Vec<(String, Tensor)> = tensors.collect();
    std::fs::create_dir_all(place.path("tuned/unet")).unwrap();
    write_safetensors(&place.path("tuned").join(UNET), &tensors, &Default::default()).unwrap();
    std::fs::copy(fixture("tiny-sd1/unet/config.json"), place.path("tuned/unet/config.json")).unwrap();
}

#[test]
fn a_tuned_folder_becomes_an_adapter_and_a_smaller_one() {
    let place = Place::with(&[]);
    tuned(&place);
    let extract = |out: &str, more: &[&str]| {
        let mut command = place.scumble();
        command.arg("extract").arg("--base").arg(fixture("tiny-sd1")).args(["--tuned", "tuned", "-o", out]);
        command.args(more);
        command
    };
    let output = run(&mut extract("a.safetensors", &["--rank", "4"]));
    assert_eq!(text(&output.stdout), "a.safetensors\n");
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("1 modules, rank 4") && stderr.contains("2 other tensors differ too"),
        "{stderr}"
    );
    let keys = shapes(&place.path("a.safetensors"));
    assert!(keys.keys().all(|key| key.starts_with("lora_unet_mid_block_attentions_0_")), "{keys:?}");

    let output = run(&mut extract("b.safetensors", &["--rank", "3", "--conv", "--format", "peft", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["modules"].as_array().unwrap().len(), 2);
    assert!(
        report["kept"].as_f64().unwrap() > 0.9999 && report["left_out"][0] == "unet.conv_in.bias",
        "{report}"
    );

    let output = run(place
        .scumble()
        .arg("resize")
        .args(["b.safetensors", "--rank", "1", "-o", "c.safetensors", "--for"])
        .arg(fixture("tiny-sd1")));
    assert!(text(&output.stderr).contains("2 modules, rank 1"), "{}", text(&output.stderr));
    let keys = shapes(&place.path("c.safetensors"));
    assert_eq!(keys[&format!("unet.{MODULE}.lora_A.weight")], [1, 32], "PEFT as its input");
    assert_eq!(keys["unet.mid_block.resnets.0.conv1.lora_A.weight"], [1, 32, 3, 3]);
    let output = run(place
        .scumble()
        .arg("resize")
        .args([
            "b.safetensors",
            "--energy",
            "0.999",
            "--per-module",
            "--format",
            "kohya",
            "--dtype",
            "bf16",
            "-o",
            "d.safetensors",
            "--for",
        ])
        .arg(fixture("tiny-sd1")));
    assert_eq!(text(&output.stdout), "d.safetensors\n");

    let message = fail(&mut extract("a.safetensors", &[]), 1);
    assert!(message.contains("is there already"), "{message}");
    for (more, code, word) in [
        (&["--rank", "0"][..], 1, "rank 0"),
        (&["--rank", "100000"], 1, "is the most"),
        (&["--targets", "most"], 1, "no target preset"),
        (&["--rank", "4", "--energy", "0.5"], 2, "cannot be used with"),
        (&["--exclude", "attn1", "--dtype", "f32"], 1, "are equal in all"),
        (&["--dtype", "int8"], 2, "no element type"),
    ] {
        let message = fail(&mut extract("e.safetensors", more), code);
        assert!(message.contains(word), "{more:?}: {message}");
    }
    let message = fail(
        place.scumble().arg("extract").arg("--base").arg(fixture("tiny-sd2")).args([
            "--tuned",
            "tuned",
            "-o",
            "e.safetensors",
        ]),
        1,
    );
    assert!(message.contains("not of one kind") && message.contains("unet.conv_in.weight"), "{message}");
    let message = fail(
        place.scumble().args(["extract", "--base", "gone", "--tuned", "tuned", "-o", "e.safetensors"]),
        1,
    );
    assert!(message.contains("gone"), "{message}");
    let message = fail(place.scumble().args(["resize", "b.safetensors", "-o", "e.safetensors"]), 2);
    assert!(message.contains("--rank"), "{message}");
    assert!(!place.path("e.safetensors").exists());
}

/// What storing costs is said: an alpha that is multiplied in, and an element type of few bits.
#[test]
fn rounding_is_said_in_figures() {
    let place = Place::with(&[]);
    let base = fixture("tiny-sd1").display().to_string();
    let kohya = SafetensorsFile::open(&fixture("lora/kohya.safetensors")).unwrap();
    let three_quarters = |key: String| {
        let tensor = match key.ends_with(".alpha") {
            true => Tensor::scalar(3.0f32).unwrap(),
            false => kohya.read(&key).unwrap(),
        };
        (key, tensor)
    };
    let tensors: Vec<_> = kohya.names().into_iter().map(three_quarters).collect();
    write_safetensors(&place.path("in.safetensors"), &tensors, &Default::default()).unwrap();
    let said = |verb: &str, out: &str, args: &[&str]| {
        let mut command = place.scumble();
        command.args([verb, "in.safetensors", "--for", &base, "-o", out, "--json"]).args(args);
        let output = run(&mut command);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (text(&output.stderr), report["rounding"].as_f64().unwrap())
    };
    for (verb, rank) in [("resize", ["--rank", "2"]), ("merge", ["--rank", "2"])] {
        let out = |name: &str| format!("{verb}-{name}.safetensors");
        let (plain, moved) = said(verb, &out("plain"), &rank);
        assert!(moved == 0.0 && !plain.contains("rounds"), "{verb}: {plain}");
        // Half a step of a bf16 is 2^-9 of a number in the middle between two powers of two.
        let (narrow, moved) = said(verb, &out("narrow"), &[&rank[..], &["--dtype", "bf16"]].concat());
        assert!((5e-4..4e-3).contains(&moved), "{verb}: {moved:e}");
        assert!(
            narrow.contains("storing rounds") && narrow.contains(&format!("{moved:.1e}")),
            "{verb}: {narrow}"
        );
    }
    // Resizing keeps the scale, 3/4, for which this dialect has no place.
    let original = ["--rank", "2", "--dtype", "bf16", "--format", "original"];
    let folded = said("resize", "folded.safetensors", &original).0;
    assert!(folded.contains("156 modules") && folded.contains("e-3 of each"), "{folded}");
}

/// Which modules, how many of their directions and which values: each option shows in the result.
#[test]
fn options_of_extraction_and_resizing_count() {
    let place = Place::with(&[]);
    tuned(&place);
    let extract = |out: &str, more: &[&str]| {
        let mut command = place.scumble();
        command.arg("extract").arg("--base").arg(fixture("tiny-sd1")).args(["--tuned", "tuned", "-o", out]);
        run(command.args(["--format", "peft"]).args(more));
        shapes(&place.path(out))
    };
    let down = format!("unet.{MODULE}.lora_A.weight");
    assert_eq!(extract("all.safetensors", &["--energy", "0.99999"])[&down], [2, 32]);
    assert_eq!(extract("one.safetensors", &["--energy", "0.99999", "--max-rank", "1"])[&down], [1, 32]);
    let included = ["--rank", "2", "--targets", "attention", "--include", "unet.mid_block.resnets.0.conv1"];
    assert!(extract("more.safetensors", &included).keys().any(|key| key.contains("resnets.0.conv1")));
    extract("plain.safetensors", &["--rank", "2", "--dtype", "f32"]);
    extract("clamped.safetensors", &["--rank", "2", "--dtype", "f32", "--clamp-quantile", "0.9"]);
    let largest = |name: &str| {
        let values = SafetensorsFile::open(&place.path(name)).unwrap().read(&down).unwrap().to_vec::<f32>();
        values.unwrap().into_iter().fold(0.0f32, |largest, value| largest.max(value.abs()))
    };
    assert!(largest("clamped.safetensors") < 0.99 * largest("plain.safetensors"));

    // Each option with a value that keeps both directions, and with one that keeps the longer alone.
    let resized = |name: &str, more: &[&str]| {
        let mut command = place.scumble();
        command.args(["resize", "all.safetensors", "-o", name, "--for"]).arg(fixture("tiny-sd1"));
        run(command.args(more));
        shapes(&place.path(name))[&down][0]
    };
    for (index, (option, two, one)) in
        [("--norm", "0.99999", "0.5"), ("--sum", "0.99999", "0.5"), ("--ratio", "1000", "1.01")]
            .into_iter()
            .enumerate()
    {
        assert_eq!(resized(&format!("{index}-two.safetensors"), &[option, two]), 2, "{option}");
        assert_eq!(resized(&format!("{index}-one.safetensors"), &[option, one]), 1, "{option}");
        let limited = [option, two, "--max-rank", "1"];
        assert_eq!(resized(&format!("{index}-most.safetensors"), &limited), 1, "{option} --max-rank");
    }
}
