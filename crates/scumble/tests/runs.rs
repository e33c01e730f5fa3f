//! `scumble runs`: what is told of runs is what lies in their folders, and only runs are deleted.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Place, fail, run, text};
use scumble_train::config::{Save, TrainConfig};
use scumble_train::run::folder::RunFolder;

#[test]
fn runs_are_listed_shown_compared_and_deleted() {
    let place = Place::new();
    run(place.train().args(["--validate", "a dog", "--set", "validate.steps=1"]));
    run(place.train().args(["--lr", "0.02", "--rank", "2", "--save-every", "1"]));
    let told = |args: &[&str]| text(&run(place.scumble().arg("runs").args(args)).stdout);
    let list = told(&[]);
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("run") && lines.len() == 3, "{list}");
    assert!(
        lines[1].starts_with("lora ") && lines[1].contains("finished") && lines[1].contains("3/3"),
        "{list}"
    );
    assert_eq!(told(&["list"]), list);
    assert_eq!(told(&["list", "runs"]), list);
    let json: serde_json::Value = serde_json::from_str(&told(&["list", "--json"])).unwrap();
    assert_eq!((&json[1]["name"], &json[1]["checkpoints"]), (&"lora-2".into(), &serde_json::json!([2, 3])));

    // Another folder has other runs.
    let save = Save { folder: place.path("elsewhere"), name: "cat".into(), ..Save::default() };
    let folder = RunFolder::create(&save).unwrap();
    std::fs::write(folder.config(), TrainConfig::default().to_toml().unwrap()).unwrap();
    drop(folder);
    let other = told(&["list", "elsewhere"]);
    assert!(other.lines().count() == 2 && other.lines().nth(1).unwrap().starts_with("cat "), "{other}");

    let json: serde_json::Value = serde_json::from_str(&told(&["show", "lora", "--json"])).unwrap();
    assert_eq!((&json["name"], &json["state"]), (&"lora".into(), &"finished".into()));
    assert_eq!((&json["step"], json["saved"].as_array().map(Vec::len)), (&3.into(), Some(1)));
    let shown = told(&["show", "lora"]);
    for word in ["finished", "lora.safetensors", "before-after.png", "samples.gif", "loss.png"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(!shown.contains("--resume"), "{shown}");
    assert!(told(&["show", "runs/lora-2"]).contains("lora-step000002.safetensors"));

    let compared = told(&["compare", "lora", "lora-2", "--out", "losses.png"]);
    for word in ["train.lr", "0.02", "lora.unet.rank", "loss"] {
        assert!(compared.contains(word), "{word}: {compared}");
    }
    assert!(!compared.contains("train.seed"), "{compared}");
    assert_eq!(place.picture("losses.png").width, 1600);
    let error = fail(place.scumble().args(["runs", "compare", "lora", "lora-2", "--out", "losses.png"]), 1);
    assert!(error.contains("--force"), "{error}");
    std::fs::write(place.path("losses.png"), "x").unwrap();
    let compared = told(&["compare", "lora", "lora-2", "--out", "losses.png", "--force", "--json"]);
    assert_eq!(place.picture("losses.png").width, 1600);
    let json: serde_json::Value = serde_json::from_str(&compared).unwrap();
    let names: Vec<_> = json["runs"].as_array().unwrap().iter().map(|run| run["name"].clone()).collect();
    assert_eq!(names, ["lora", "lora-2"]);
    assert_eq!(json["differing"]["train.lr"], serde_json::json!(["0.01", "0.02"]));
    assert!(json["differing"].get("train.seed").is_none(), "{json}");
    let error = fail(place.scumble().args(["runs", "compare", "lora", "lora-2", "--force"]), 2);
    assert!(error.contains("--out"), "{error}");

    // Not without a yes, not while it is going on, not what is no run.
    let delete = |args: &[&str], code: i32| fail(place.scumble().args(["runs", "delete"]).args(args), code);
    assert!(delete(&["lora-2"], 2).contains("--yes"));
    let lock = RunFolder::open(&place.path("runs/lora-2"), "lora").unwrap();
    assert!(told(&[]).contains("running"));
    assert!(delete(&["--yes", "lora", "lora-2"], 1).contains("lora-2"));
    drop(lock);
    assert!(delete(&["--yes", "pictures"], 1).contains("no training run"));
    assert!(delete(&["--yes", "nothing"], 1).contains("nothing"));
    assert_eq!(told(&[]), list);
    run(place.scumble().args(["runs", "delete", "--yes", "lora-2"]));
    assert!(!place.path("runs/lora-2").exists() && place.path("runs/lora").exists());
}

#[test]
fn a_run_that_was_stopped_says_how_to_go_on() {
    let place = Place::new();
    run(place.train().args(["--steps", "2", "--name", "dog"]));
    let config = std::fs::read_to_string(place.path("runs/dog/config.toml")).unwrap();
    std::fs::write(place.path("runs/dog/config.toml"), config.replace("steps = 2", "steps = 4")).unwrap();
    let shown = text(&run(place.scumble().args(["runs", "show", "dog"])).stdout);
    assert!(shown.contains("stopped") && shown.contains("scumble train --resume runs/dog"), "{shown}");
}

#[test]
fn folders_without_runs_and_broken_ones() {
    let place = Place::with(&[]);
    assert!(fail(place.scumble().arg("runs"), 1).contains("scumble runs list FOLDER"));
    std::fs::create_dir(place.path("runs")).unwrap();
    let output = run(place.scumble().arg("runs"));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("no runs"));
    let save = Save { folder: place.path("runs"), ..Save::default() };
    let folder = RunFolder::create(&save).unwrap();
    std::fs::write(folder.config(), "[train]\nstepz = 3").unwrap();
    drop(folder);
    assert!(text(&run(place.scumble().arg("runs")).stdout).contains("unreadable"));
    let shown = text(&run(place.scumble().args(["runs", "show", "lora"])).stdout);
    assert!(shown.contains("stepz"), "{shown}");
    assert!(fail(place.scumble().args(["runs", "show", "pictures"]), 1).contains("no training run"));
    assert!(fail(place.scumble().args(["runs", "compare", "lora"]), 2).contains("RUN"));
}
