//! `scumble bench` as a user meets it, with what is quick.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{fail, run, scumble, text};
use serde_json::Value;

#[test]
fn a_peer_is_compared_round_by_round() {
    let peer = r#"echo starting; echo '{"encode_s": 1000.0, "decode_s": 2000, "batch": 1, "unknown_s": 1}'"#;
    let vae = ["--", "vae", "--size", "64", "--repeats", "1", "--precision", "bf16"];
    let mut command = scumble();
    command.args(["bench", "compare", "--rounds", "1", "--json", "--peer", peer]).args(vae);
    let line: Value = serde_json::from_str(&text(&run(&mut command).stdout)).unwrap();
    let medians = line["medians"].as_object().unwrap();
    assert_eq!(medians.keys().collect::<Vec<_>>(), ["decode_s", "encode_s"]);
    for (name, peer) in [("encode_s", 1000.0), ("decode_s", 2000.0)] {
        let [ours, theirs, ratio] = ["ours", "peer", "ratio"].map(|key| medians[name][key].as_f64().unwrap());
        assert_eq!(theirs, peer);
        assert!(ours > 0.0 && (ratio * ours / theirs - 1.0).abs() < 0.01, "{line}");
    }
}

#[test]
fn peers_that_fail_or_print_something_else_are_errors() {
    let compare = |peer: &str, ours: &[&str]| {
        let mut command = scumble();
        command.args(["bench", "compare", "--peer", peer, "--"]).args(ours);
        command
    };
    let error = fail(&mut compare("echo no torch >&2; exit 3", &["vae"]), 1);
    assert!(error.contains("the peer failed") && error.contains("no torch"), "{error}");
    let error = fail(&mut compare("echo done", &["vae"]), 1);
    assert!(error.contains("`done`"), "{error}");
    let error = fail(&mut compare("echo '{}'", &["ops"]), 2);
    assert!(error.contains("step, text, generate or vae"), "{error}");
    fail(scumble().args(["bench", "compare", "--peer", "true"]), 2);
}

#[test]
fn operations_are_measured_in_both_precisions() {
    for precision in ["f32", "bf16"] {
        let mut command = scumble();
        command.args(["bench", "ops", "--only", "silu", "--precision", precision, "--json"]);
        let line: Value = serde_json::from_str(&text(&run(&mut command).stdout)).unwrap();
        assert_eq!(line["precision"], precision);
        assert_eq!(line["distrusted"], Value::Array(Vec::new()));
        assert!(line["ops"].as_array().unwrap().iter().all(|op| op["ms"].as_f64().unwrap() > 0.0), "{line}");
    }
}

#[test]
fn the_text_encoder_is_measured_with_and_without_gradients() {
    let mut command = scumble();
    command.args(["bench", "text", "--batch", "1", "--repeats", "1", "--json"]);
    let line: Value = serde_json::from_str(&text(&run(&mut command).stdout)).unwrap();
    for measured in ["forward_s", "gradients_s"] {
        assert!(line[measured].as_f64().unwrap() > 0.0, "{line}");
    }
    fail(scumble().args(["bench", "text", "--batch", "0"]), 2);
}

#[test]
fn the_small_base_is_measured_in_every_way_of_training() {
    let trained = |more: &[&str]| {
        let mut command = scumble();
        command.args(["bench", "step", "--arch", "embedded", "--latent", "16", "--steps", "1", "--json"]);
        let line: Value = serde_json::from_str(&text(&run(command.args(more)).stdout)).unwrap();
        assert!(line["step_s"].as_f64().unwrap() > 0.0 && line["arch"] == "embedded", "{line}");
        line["trained"].as_u64().unwrap()
    };
    let adapter = trained(&["--rank", "2"]);
    assert!(adapter < trained(&["--rank", "2", "--targets", "all-linear"]));
    assert!(trained(&["--full"]) > 20 * adapter);
    for (what, measured) in [("text", "gradients_s"), ("generate", "decode_s")] {
        let mut command = scumble();
        command.args(["bench", what, "--arch", "embedded", "--batch", "1", "--repeats", "1", "--json"]);
        let line: Value = serde_json::from_str(&text(&run(&mut command).stdout)).unwrap();
        assert!(line[measured].as_f64().unwrap() > 0.0 && line["arch"] == "embedded", "{line}");
    }
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    for device in ["auto", "cpu"] {
        run(scumble().args(["bench", "text", "--arch", "embedded", "--repeats", "1", "--device", device]));
    }
    let error = fail(scumble().args(["bench", "text", "--arch", "embedded", "--device", "gpu"]), 2);
    assert!(error.contains("--device") && error.contains("cpu"), "{error}");
}

#[test]
fn a_wrong_precision_is_refused_by_every_door() {
    let error = fail(scumble().args(["bench", "vae"]).env("SCUMBLE_PRECISION", "f8"), 2);
    assert!(error.contains("f8"), "{error}");
    let mut train = scumble();
    train.args(["train", "--base", "x", "--images", "y"]).env("SCUMBLE_PRECISION", "f8");
    let error = fail(&mut train, 2);
    assert!(error.contains("SCUMBLE_PRECISION") && error.contains("bf16"), "{error}");
}
