//! `scumble eval`, `demo` and `bench quality` from outside, on a tiny base and a tiny CLIP model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

mod common;

use std::path::Path;

use common::{fail, fixture, run, scumble, text};
use scumble_train::picture::{DecodeOptions, read};
use serde_json::Value;

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", text(bytes)))
}

fn close(found: &Value, expected: &Value) {
    let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((found - expected).abs() < 2e-6, "{found} instead of {expected}");
}

#[test]
fn alignments_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let expected = json(&std::fs::read(fixture("tiny-clip/alignment.json")).unwrap());
    let names: Vec<&String> = expected["texts"].as_object().unwrap().keys().collect();
    for (index, name) in names.iter().enumerate() {
        let text = expected["texts"][name.as_str()].as_str().unwrap().replace("dog", "sks");
        for (place, is_here) in [("pictures", true), ("references", index < 2)] {
            if is_here {
                let to = folder.path().join(place).join(name);
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(fixture("images").join(name), &to).unwrap();
                std::fs::write(to.with_extension("txt"), &text).unwrap();
            }
        }
    }
    let mut command = scumble();
    command.args(["eval", "--json", "--trigger", "sks", "--class", "dog", "--clip"]);
    command.arg(fixture("tiny-clip")).arg("--pictures").arg(folder.path().join("pictures"));
    command.arg("--references").arg(folder.path().join("references"));
    let report = json(&run(&mut command).stdout);
    let pictures = report["pictures"].as_array().unwrap();
    assert_eq!(pictures.len(), names.len());
    let mut sum = 0.0;
    for picture in pictures {
        let at = names.iter().position(|name| picture["name"] == **name).unwrap();
        close(&picture["text_alignment"], &expected["text_alignment"][at]);
        close(&picture["image_alignment"], &expected["image_alignment"][at]);
        assert_eq!(picture["text"], expected["texts"][names[at].as_str()]);
        sum += expected["text_alignment"][at].as_f64().unwrap();
    }
    close(&report["text_alignment"]["mean"], &Value::from(sum / names.len() as f64));
    assert_eq!(report["references"], 2);
    assert_eq!(report["retrieval"]["distractors"], 2);
}

/// The program on the tiny base and CLIP model, painting in two steps.
fn eval(folder: &Path) -> std::process::Command {
    let mut command = scumble();
    command.current_dir(folder).args(["eval", "--steps", "2", "--guidance", "2", "--clip"]);
    command.arg(fixture("tiny-clip")).arg("--base").arg(fixture("tiny-sd1"));
    command
}

#[test]
fn painted_pictures_are_judged_kept_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = fixture("lora/kohya.safetensors");
    let mut command = eval(folder.path());
    command.args([
        "--json",
        "--trigger",
        "sks dog",
        "--class",
        "a dog",
        "--seeds",
        "2",
        "-p",
        "sks dog here",
    ]);
    command.args(["-p", "sks dog there", "--out", "kept", "--adapter"]).arg(&adapter);
    let report = json(&run(&mut command).stdout);
    assert_eq!(report["pictures"].as_array().unwrap().len(), 4);
    assert_eq!(report["pictures"][0]["text"], "a dog here");
    assert_eq!(report["drift"]["drift"]["count"], 4);
    assert!(report["drift"]["pixels"]["mean"].as_f64().unwrap() > 0.0);
    let kept = folder.path().join("kept");
    assert_eq!(json(&std::fs::read(kept.join("report.json")).unwrap()), report);
    read(&kept.join("sheet.png"), &DecodeOptions::default()).unwrap();
    std::fs::remove_file(kept.join("sheet.png")).unwrap();
    // The pictures say what they were painted from, so judging the folder gives the same numbers.
    let mut again = scumble();
    again.args(["eval", "--json", "--trigger", "sks dog", "--class", "a dog", "--clip"]);
    again.arg(fixture("tiny-clip")).arg("--pictures").arg(&kept);
    let again = json(&run(&mut again).stdout);
    close(&again["text_alignment"]["mean"], &report["text_alignment"]["mean"]);
    let taken = fail(eval(folder.path()).args(["-p", "x", "--out", "kept"]), 1);
    assert!(taken.contains("not empty"), "{taken}");
}

#[test]
fn an_adapter_of_strength_zero_does_not_drift() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = format!("{}:0", fixture("lora/kohya.safetensors").display());
    let mut command = eval(folder.path());
    command.args(["--json", "-p", "sks", "--drift-prompt", "a house", "--adapter", &adapter]);
    let report = json(&run(&mut command).stdout);
    assert_eq!(report["drift"]["pixels"]["mean"], 0.0);
    assert!(report["drift"]["drift"]["mean"].as_f64().unwrap().abs() < 1e-9);
}

#[test]
fn held_out_captions_are_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = scumble();
    command.current_dir(folder.path()).args(["eval", "--json", "--held-out", "40", "--clip"]);
    let report = json(&run(command.arg(fixture("tiny-clip"))).stdout);
    assert_eq!(report["held_out"]["drawn"]["pictures"], 40);
    assert_eq!(report["held_out"]["drawn"]["distractors"], 20);
    assert!(report["held_out"].get("painted").is_none());
    let few = fail(scumble().args(["eval", "--held-out", "5", "--clip"]).arg(fixture("tiny-clip")), 2);
    assert!(few.contains("30 scenes"), "{few}");
}

#[test]
fn mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let clip = fixture("tiny-clip");
    let mut nothing = scumble();
    nothing.args(["eval", "--clip"]).arg(&clip);
    assert!(fail(&mut nothing, 2).contains("nothing to judge"));
    assert!(fail(&mut eval(folder.path()), 2).contains("nothing to paint"));
    let mut lonely = scumble();
    lonely.args(["eval", "--held-out", "30", "--drift-prompt", "x", "--clip"]).arg(&clip);
    assert!(fail(&mut lonely, 2).contains("--base"));
    let mut empty = scumble();
    empty.args(["eval", "--clip"]).arg(&clip).arg("--pictures").arg(folder.path());
    assert!(fail(&mut empty, 1).contains("no pictures"));
    let mut no_clip = scumble();
    no_clip.args(["eval", "--clip"]).arg(fixture("tiny-sd1")).arg("--pictures").arg(fixture("images"));
    assert!(fail(&mut no_clip, 1).contains("config.json"));
    assert!(fail(scumble().args(["demo", "--subject", "neon"]), 2).contains("robot"));
}

#[test]
fn the_demo_leaves_an_adapter_a_sheet_and_a_plot() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = scumble();
    command.current_dir(folder.path()).args(["demo", "--json", "--style", "chalk", "--steps", "2"]);
    command.args(["--batch", "1", "--rank", "2", "--paint-steps", "2", "--base"]).arg(fixture("tiny-sd1"));
    let shown = json(&run(&mut command).stdout);
    assert_eq!((shown["name"].as_str(), shown["steps"].as_u64()), (Some("chalk"), Some(2)));
    for file in ["adapter", "sheet", "plot", "config"] {
        let path = folder.path().join(shown[file].as_str().unwrap());
        assert!(path.is_file(), "{}", path.display());
    }
    // What it says to try next works.
    let mut next = scumble();
    next.current_dir(folder.path()).args([
        "generate",
        "--steps",
        "1",
        "-p",
        "a boat, in chalk style",
        "--base",
    ]);
    next.arg(fixture("tiny-sd1")).arg("--adapter");
    run(next.arg(format!("{}:0.8", shown["adapter"].as_str().unwrap())));
}

/// Drift of a whole model is from the one that it came from; it is not painted where nobody asks.
#[test]
fn a_tuned_model_is_compared_with_its_original() {
    let folder = tempfile::tempdir().unwrap();
    let mut bake = scumble();
    bake.current_dir(folder.path()).args(["merge", "-o", "tuned", "--base"]).arg(fixture("tiny-sd1"));
    run(bake.arg(fixture("lora/kohya.safetensors")));
    let drift = |original: &Path, more: &[&str]| {
        let mut command = scumble();
        command.current_dir(folder.path()).args(["eval", "--steps", "2", "--json", "-p", "a cat"]);
        command.arg("--clip").arg(fixture("tiny-clip")).args(["--base", "tuned", "--original"]).arg(original);
        json(&run(command.args(more)).stdout)["drift"].clone()
    };
    assert!(drift(&fixture("tiny-sd1"), &[])["drift"]["mean"].as_f64().unwrap() > 1e-3);
    assert!(drift(Path::new("tuned"), &[])["drift"]["mean"].as_f64().unwrap().abs() < 1e-6);
    assert_eq!(drift(&fixture("tiny-sd1"), &["--no-drift"]), Value::Null);
}

#[test]
fn ways_of_training_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = scumble();
    command
        .current_dir(folder.path())
        .args(["bench", "quality", "--steps", "2", "--batch", "1", "--rank", "2"]);
    command.args(["--seeds", "1", "--drift-prompts", "2", "--paint-steps", "1", "--class-count", "1"]);
    command.args(["--sets", "robot", "--json", "--base"]).arg(fixture("tiny-sd1"));
    let report = json(&run(command.arg("--clip").arg(fixture("tiny-clip"))).stdout);
    let trials = report["trials"].as_array().unwrap();
    let of = |regime: &str| trials.iter().filter(|trial| trial["regime"] == regime).collect::<Vec<_>>();
    assert_eq!(report["settings"]["strengths"], serde_json::json!([0.9, 0.7]));
    // The adapter on the UNet is worn at two more strengths, and sets the time of the others.
    assert_eq!((of("untrained").len(), of("equal-steps").len(), of("equal-time").len()), (1, 9, 6));
    let of_lora = trials.iter().filter(|trial| trial["method"] == "lora");
    let worn: Vec<&serde_json::Value> = of_lora.collect();
    assert_eq!(
        worn.iter().map(|trial| trial["strength"].as_f64().unwrap()).collect::<Vec<_>>(),
        [1.0, 0.9, 0.7]
    );
    assert!(worn[0]["drift"] != worn[1]["drift"] && worn[1]["drift"] != worn[2]["drift"]);
    for trial in of("equal-steps") {
        assert_eq!(trial["steps"], 2);
        assert!(trial["step_seconds"].as_f64().unwrap() > 0.0, "{trial}");
        assert!(
            trial["drift"]["drift"]["count"] == 2 && trial["file_bytes"].as_u64().unwrap() > 0,
            "{trial}"
        );
    }
    // A new word alone is the smallest file, a whole model the largest.
    let bytes = |method: &str| {
        let found = trials.iter().find(|trial| trial["method"] == method).unwrap();
        found["file_bytes"].as_u64().unwrap()
    };
    assert!(bytes("textual-inversion") < bytes("lora") && bytes("lora") < bytes("lora-text"));
    assert!(bytes("lora-text") < bytes("full"));
    let out = folder.path().join("quality");
    read(&out.join("robot.png"), &DecodeOptions::default()).unwrap();
    let tables = std::fs::read_to_string(out.join("tables.md")).unwrap();
    assert!(tables.contains("robot, equal updates") && tables.contains("robot, equal time"), "{tables}");
    let left = std::fs::read_dir(out.join("robot/runs/robot-full")).unwrap();
    assert!(left.flatten().all(|entry| !entry.path().is_dir()), "whole models are not kept");
}

#[test]
fn several_trainings_are_judged_together() {
    let folder = tempfile::tempdir().unwrap();
    let compared = |out: &str, trainings: &str| {
        let mut command = scumble();
        command.current_dir(folder.path()).args(["bench", "quality", "--steps", "2", "--batch", "1"]);
        command.args(["--seeds", "1", "--drift-prompts", "2", "--paint-steps", "1", "--sets", "neon"]);
        command.args(["--methods", "lora", "--strengths", "0.5", "--no-equal-time", "--lr-lora", "0.01"]);
        command.args(["--trainings", trainings, "--out", out, "--json", "--base"]).arg(fixture("tiny-sd1"));
        json(&run(command.arg("--clip").arg(fixture("tiny-clip"))).stdout)
    };
    let (one, two) = (compared("one", "1"), compared("two", "2"));
    assert_eq!(two["settings"]["rates"]["lora"], 0.01);
    assert_eq!(two["settings"]["trainings"], 2);
    for trial in 1..3 {
        let of = |report: &serde_json::Value, what: &str| report["trials"][trial][what].clone();
        let count = |report: &serde_json::Value| of(report, "drift")["drift"]["count"].as_u64().unwrap();
        assert_eq!((count(&one), count(&two)), (2, 4));
        assert_ne!(of(&one, "image_alignment")["mean"], of(&two, "image_alignment")["mean"]);
        assert_eq!(of(&two, "image_alignment")["count"], 16);
    }
    // The first of two is the one alone, the second another.
    let adapter = |path: &str| std::fs::read(folder.path().join(path)).unwrap();
    let first = adapter("two/neon/runs/neon-lora/neon-lora.safetensors");
    assert!(first == adapter("one/neon/runs/neon-lora/neon-lora.safetensors"));
    assert!(first != adapter("two/neon/runs/neon-lora-2/neon-lora-2.safetensors"));
}
