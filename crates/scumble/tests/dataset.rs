//! `scumble dataset` as a user meets it.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Place, fail, fixture, run, text};
use scumble_train::picture::{Picture, png};
use serde_json::Value;

fn place() -> Place {
    let place = Place::with(&[]);
    place.make("dog", &["plain.png", "rgba.png", "exif_6.jpg", "truncated.jpg"]);
    std::fs::write(place.path("dog/plain.txt"), "a cat, on a chair").unwrap();
    place
}

#[test]
fn check_says_what_will_be_used_how() {
    let place = place();
    let arguments = ["dataset", "check", "dog", "--size", "64", "--trigger", "sks"];
    let output = run(place.scumble().args(arguments));
    let (said, told) = (text(&output.stdout), text(&output.stderr));
    for part in
        ["pictures     3", "3 at 64x64", "\"sks, a cat, on a chair\"", "1 from text file", "2 from file name"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    for part in ["truncated.jpg", "contact sheet: contact-sheet.png"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(place.picture("contact-sheet.png").width > 700);
    run(place.scumble().args(arguments));
    assert_eq!(place.bytes("contact-sheet.png"), place.bytes("contact-sheet-2.png"));

    let output =
        run(place.scumble().args(arguments).args(["--json", "--no-sheet", "--mask", "alpha", "--buckets"]));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["pictures"].as_array().unwrap().len(), 3);
    assert_eq!(value["report"]["masks"], 1);
    assert!(value["pictures"].as_array().unwrap().iter().all(|seen| seen["blur"].as_f64().unwrap() < 1.0));
    assert!(!place.path("contact-sheet-3.png").exists());
    assert_eq!(
        place.files().iter().filter(|file| !file.starts_with("dog/")).count(),
        2,
        "nothing else is written"
    );
}

#[test]
fn check_takes_dataset_and_run_files() {
    let place = place();
    place.make("cat", &["plain.png"]);
    let set = "[[concept]]\nfolder = \"dog\"\nrepeats = 3\n[[concept]]\nname = \"kitten\"\nfolder = \"cat\"\nprompt = \"a kitten\"";
    std::fs::write(place.path("set.toml"), set).unwrap();
    let said = text(
        &run(place.scumble().args(["dataset", "check", "set.toml", "--size", "64", "--no-sheet"])).stdout,
    );
    for part in [
        "pictures     4",
        "10 visits",
        "kitten/plain.png",
        "\"a kitten\"",
        "the same picture as `dog/plain.png`",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let run_file = "[data]\nfolder = \"cat\"\nwidth = 64\nheight = 64\nprompt = \"from the run\"";
    std::fs::write(place.path("run.toml"), run_file).unwrap();
    let said = text(&run(place.scumble().args(["dataset", "check", "run.toml", "--no-sheet"])).stdout);
    assert!(said.contains("\"from the run\""), "{said}");
}

#[test]
fn rubbish_is_named_with_what_to_do() {
    let place = place();
    std::fs::create_dir(place.path("empty")).unwrap();
    std::fs::write(place.path("notes.txt"), "not = [toml").unwrap();
    std::fs::write(place.path("gone.toml"), "[[concept]]\nfolder = \"gone\"").unwrap();
    std::fs::write(place.path("hole.toml"), "[[concept]]\nfolder = \"empty\"").unwrap();
    std::fs::write(place.path("odd.toml"), "[[concept]]\nfolder = \"dog\"\nrepaets = 2").unwrap();
    for (data, part) in [
        ("nowhere", "is not a folder"),
        ("empty", "no pictures"),
        ("notes.txt", "is no TOML"),
        ("gone.toml", "gone"),
        ("hole.toml", "empty"),
        ("odd.toml", "repaets"),
    ] {
        let said = fail(place.scumble().args(["dataset", "check", data, "--size", "64"]), 1);
        assert!(said.contains(part) && said.contains("hint:"), "{data}: {said}");
    }
    let said = fail(place.scumble().args(["dataset", "check", "dog", "--size", "65"]), 1);
    assert!(said.contains("multiple of 8"), "{said}");
    let mut both = place.train();
    let said = fail(both.args(["--dataset", "odd.toml"]), 2);
    assert!(said.contains("--images"), "{said}");
    std::fs::write(place.path("dog/plain.mask.png"), place.bytes("dog/truncated.jpg")).unwrap();
    png::write(&place.path("dog/rgba.mask.png"), &Picture::filled(7, 9, [0; 3]), &[]).unwrap();
    let said = fail(place.scumble().args(["dataset", "check", "dog", "--size", "64", "--mask", "file"]), 1);
    assert!(said.contains("rgba.mask.png") && said.contains("7 x 9") && said.contains("hint:"), "{said}");
}

#[test]
fn prepared_pictures_can_be_trained_on_and_are_not_written_over() {
    let place = place();
    let mut command = place.scumble();
    command.args(["dataset", "prepare", "dog", "--out", "cut", "--size", "64"]);
    command.args(["--caption", "photo {n}: {caption}"]);
    let output = run(&mut command);
    assert_eq!(text(&output.stdout).lines().count(), 3);
    assert!(text(&output.stderr).contains("truncated.jpg"));
    assert_eq!(text(&place.bytes("cut/plain.txt")), "photo 2: a cat, on a chair\n");
    assert_eq!((place.picture("cut/exif_6.png").width, place.picture("cut/exif_6.png").height), (64, 64));
    let said = fail(&mut command, 1);
    assert!(said.contains("is there already") && said.contains("hint:"), "{said}");
    let mut train = place.scumble();
    train.arg("train").arg("--base").arg(fixture("tiny-sd1"));
    run(train.args(["--images", "cut", "--size", "64", "--steps", "1", "--quiet"]));
    let said = fail(place.scumble().args(["dataset", "prepare", "dog", "--out", "x", "--margin", "-1"]), 2);
    assert!(said.contains("--margin"), "{said}");
}

#[test]
fn train_takes_a_dataset_file_tests_and_plots() {
    let place = Place::with(&[]);
    place.make("a", &["plain.png", "rgba.png"]);
    place.make("b", &["exif_6.jpg", "gray.jpg"]);
    let set = "[[concept]]\nfolder = \"a\"\n[[concept]]\nfolder = \"b\"\nrepeats = 2\nshuffle_tags = true";
    std::fs::write(place.path("set.toml"), set).unwrap();
    let mut command = place.scumble();
    command.arg("train").arg("--base").arg(fixture("tiny-sd1"));
    command.args(["--dataset", "set.toml", "--size", "64", "--steps", "4", "--batch", "2", "--buckets"]);
    command.args(["--hold-out", "0.3", "--test-every", "2", "--loss", "huber"]);
    let output = run(&mut command);
    let said = text(&output.stderr);
    for part in ["b: 2, 2 times a round", "tested with", "step 2: validation loss", "before training"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let metrics = text(&place.bytes("runs/lora/metrics.jsonl"));
    assert_eq!(metrics.lines().filter(|line| line.contains("validation_loss")).count(), 2, "{metrics}");
    assert!(place.path("runs/lora/best/lora.safetensors").is_file());
}
