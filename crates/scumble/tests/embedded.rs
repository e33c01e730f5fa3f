//! The base inside the program from outside: it is what is used where no base is named, and what is exported is the same.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::process::Command;

use common::{Place, fail, fixture, run, scumble, text};

fn painted(place: &Place, name: &str, more: &[&str]) -> Vec<u8> {
    let mut command = place.scumble();
    command.args(["generate", "-p", "a red boat on the sea", "--steps", "2", "--out", name]);
    run(command.args(more));
    let picture = place.picture(name);
    assert_eq!((picture.width, picture.height), (64, 64));
    picture.rgb
}

#[test]
fn it_is_the_usual_base_and_its_export_paints_the_same() {
    let place = Place::new();
    let own = painted(&place, "own.png", &[]);
    assert_eq!(painted(&place, "named.png", &["--base", "embedded"]), own);
    run(place.scumble().args(["export-base", "world"]));
    assert_eq!(painted(&place, "exported.png", &["--base", "world"]), own);
    let said = fail(place.scumble().args(["export-base", "world"]), 1);
    assert!(said.contains("is there already") && said.contains("--force"), "{said}");
    run(place.scumble().args(["export-base", "world", "--force"]));
    // A single file of it is the same model again.
    run(place.scumble().args(["convert", "embedded", "world.safetensors"]));
    let single = painted(&place, "single.png", &["--base", "world.safetensors", "--size", "64"]);
    assert_eq!(single.len(), own.len());
}

#[test]
fn what_somebody_did_to_its_cache_is_put_right() {
    let place = Place::new();
    let cache = place.path("cache");
    let with_cache = |command: &mut Command| {
        command.env("SCUMBLE_CACHE", &cache);
        command.args(["generate", "-p", "a fish", "--steps", "1", "--force", "--out", "fish.png"]);
        run(command);
        place.bytes("fish.png")
    };
    let first = with_cache(&mut place.scumble());
    let folders: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [folder] = folders.as_slice() else { panic!("{folders:?}") };
    assert!(folder.file_name().unwrap().to_str().unwrap().starts_with("embedded-base-"), "{folder:?}");
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    let good = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &good[..1000]).unwrap();
    std::fs::remove_dir_all(folder.join("tokenizer")).unwrap();
    assert_eq!(with_cache(&mut place.scumble()), first);
    assert_eq!(std::fs::read(&weights).unwrap(), good);
    // Where nothing can be written, the folder for temporary files is used.
    std::fs::write(place.path("taken"), "").unwrap();
    let mut elsewhere = place.scumble();
    elsewhere.env("SCUMBLE_CACHE", place.path("taken/cache"));
    elsewhere.args(["generate", "-p", "a fish", "--steps", "1", "--out", "other.png"]);
    run(&mut elsewhere);
}

#[test]
fn training_without_a_base_teaches_it_at_its_size() {
    let place = Place::new();
    let images = fixture("images").display().to_string();
    let train = |more: &[&str]| {
        let mut command = place.scumble();
        command.args(["train", "--images", &images, "--prompt", "a photo", "--dry-run"]);
        let output = run(command.args(more));
        text(&output.stdout) + &text(&output.stderr)
    };
    let plan = train(&[]);
    assert!(plan.contains("embedded") && plan.contains("64x64"), "{plan}");
    assert!(train(&["--size", "128"]).contains("128x128"));
}

#[test]
fn only_its_own_judge_is_taken_unasked() {
    let said = fail(scumble().args(["eval", "--pictures"]).arg(fixture("images")), 2);
    assert!(said.contains("--clip"), "{said}");
}
