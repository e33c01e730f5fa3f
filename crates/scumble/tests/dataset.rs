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
fn each_option_changes_what_is_read() {
    let place = place();
    let check = |args: &[&str]| {
        let mut command = place.scumble();
        command.args(["dataset", "check", "dog", "--size", "64", "--no-sheet", "--json"]).args(args);
        command
    };
    let seen = |args: &[&str], file: &str, key: &str| {
        let value: Value = serde_json::from_slice(&run(&mut check(args)).stdout).unwrap();
        let pictures = value["pictures"].as_array().unwrap();
        pictures.iter().find(|seen| seen["file"] == file).unwrap()[key].clone()
    };
    // The texts of a picture that brings one, and of one that does not.
    for (args, with_text, without) in [
        (&[][..], "a cat, on a chair", "rgba"),
        (&["--trigger", "sks"], "sks, a cat, on a chair", "sks, rgba"),
        (&["--prompt", "a dog"], "a cat, on a chair", "a dog"),
        (&["--prompt", "a dog", "--captions", "prompt"], "a dog", "a dog"),
        (&["--captions", "file-name"], "plain", "rgba"),
        (&["--trigger", "sks", "--template", "object"], "a photo of a sks", "a photo of a sks"),
    ] {
        assert_eq!(seen(args, "plain.png", "caption"), with_text, "{args:?}");
        assert_eq!(seen(args, "rgba.png", "caption"), without, "{args:?}");
    }
    let said = fail(&mut check(&["--captions", "text"]), 1);
    assert!(said.contains(".txt") && said.contains("hint:"), "{said}");
    let sizes = |args: &[&str]| {
        ["trained_width", "trained_height"].map(|key| seen(args, "plain.png", key).as_u64().unwrap())
    };
    assert_eq!((sizes(&[]), sizes(&["--buckets"])), ([64, 64], [80, 48]));
    // A text that no picture could take.
    for captions in ["file-name", "text"] {
        let said = fail(&mut check(&["--prompt", "a dog", "--captions", captions]), 1);
        let words = ["`data.prompt`", captions, "hint:"];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    // A template writes all texts, of a folder's pictures as of a dataset file's.
    std::fs::write(place.path("set.toml"), "[[concept]]\nfolder = \"dog\"\n").unwrap();
    for data in ["dog", "set.toml"] {
        for option in [["--captions", "text"], ["--captions", "auto"], ["--prompt", "a dog"]] {
            let mut command = place.scumble();
            command.args(["dataset", "check", data, "--size", "64", "--no-sheet", "--trigger", "sks"]);
            let said = fail(command.args(["--template", "object"]).args(option), 2);
            let words = [option[0], "--template object", "hint:"];
            assert!(words.iter().all(|word| said.contains(word)), "{data} {option:?}: {said}");
        }
    }
    let said = text(&run(&mut check(&["--template", "none", "--captions", "file-name"])).stdout);
    assert!(said.contains("rgba"), "{said}");
    // The sheet goes where it is told to.
    run(place.scumble().args(["dataset", "check", "dog", "--size", "64", "--sheet", "look.png"]));
    assert!(place.picture("look.png").width > 700 && !place.path("contact-sheet.png").exists());
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

/// A picture 200 x 100, grey with a white square of 20 at (150, 70), and a mask of the square.
fn masked() -> Place {
    let place = Place::with(&[]);
    place.make("in", &[]);
    let square = |inside: u8, outside: u8| {
        let is_inside = |i: usize| (150..170).contains(&(i % 200)) && (70..90).contains(&(i / 200));
        let rgb = (0..200 * 100).flat_map(|i| [if is_inside(i) { inside } else { outside }; 3]).collect();
        Picture::from_rgb(200, 100, rgb).unwrap()
    };
    png::write(&place.path("in/a_dog.png"), &square(255, 60), &[]).unwrap();
    png::write(&place.path("in/a_dog.mask.png"), &square(255, 0), &[]).unwrap();
    place
}

#[test]
fn pictures_are_cut_and_filled_by_their_masks_as_asked() {
    let place = masked();
    let prepare = |out: &str, args: &[&str]| {
        let mut command = place.scumble();
        command.args(["dataset", "prepare", "in", "--size", "64", "--out", out, "--json"]).args(args);
        command
    };
    let told = |out: &str, args: &[&str]| -> Value {
        serde_json::from_slice(&run(&mut prepare(out, args)).stdout).unwrap()
    };
    let centre = told("centre", &[]);
    assert_eq!(centre[0]["source"], "a_dog.png");
    assert_eq!((centre[0]["caption"].as_str(), &centre[0]["by_mask"]), (Some("a dog"), &false.into()));
    assert!(place.path(centre[0]["file"].as_str().unwrap()).is_file());
    for (out, args, crop) in [
        ("around", &["--cut", "mask"][..], [147.0, 67.0, 26.0, 26.0]),
        ("wide", &["--cut", "mask", "--margin", "0.5"], [140.0, 60.0, 40.0, 40.0]),
        ("middle", &["--cut", "center"], [50.0, 0.0, 100.0, 100.0]),
    ] {
        let told = told(out, args);
        let found: Vec<f64> =
            told[0]["crop"].as_array().unwrap().iter().map(|side| side.as_f64().unwrap()).collect();
        assert!(found.iter().zip(crop).all(|(a, b)| (a - b).abs() < 1e-9), "{args:?}: {found:?}");
        assert_eq!(told[0]["by_mask"], out != "middle", "{args:?}");
    }
    for (background, expected) in [("keep", 60), ("white", 255), ("grey", 127), ("black", 0)] {
        run(&mut prepare(background, &["--background", background]));
        assert_eq!(place.picture(&format!("{background}/a_dog.png")).pixel(2, 2), [expected; 3]);
    }
    let refused = |args: &[&str], words: &[&str]| {
        let said = fail(&mut prepare("x", args), 2);
        assert!(words.iter().all(|word| said.contains(word)) && said.contains("hint:"), "{args:?}: {said}");
        assert!(!place.path("x").exists(), "{args:?}");
    };
    refused(&["--margin", "0.15"], &["--margin has no effect", "--cut mask"]);
    refused(&["--cut", "mask", "--margin", "-1"], &["--margin", "0 and 10"]);
    refused(&["--cut", "mask", "--margin", "nan"], &["--margin", "0 and 10"]);
    refused(&["--cut", "mask", "--mask", "none"], &["--cut mask", "--mask none"]);
    refused(&["--background", "white", "--mask", "none"], &["--background", "--mask none"]);
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
