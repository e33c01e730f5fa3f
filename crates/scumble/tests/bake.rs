//! `scumble merge --base` from outside: adapters into models and out again.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::process::Command;

use common::{Place, difference, fail, fixture, run, tensors, text};
use scumble_model::files::{TensorSource as _, open_any};

fn lora(name: &str) -> String {
    fixture("lora").join(name).display().to_string()
}

/// `scumble merge` into the small base.
fn bake(place: &Place) -> Command {
    let mut command = place.scumble();
    command.arg("merge").arg("--base").arg(fixture("tiny-sd1"));
    command
}

fn metadata(place: &Place, file: &str, key: &str) -> String {
    open_any(&place.path(file)).unwrap().metadata().get(key).cloned().unwrap_or_default()
}

/// The picture of a baked model is the picture of the model with the adapter on it.
#[test]
fn a_baked_model_paints_what_the_adapter_painted() {
    let place = Place::with(&[]);
    let adapter = lora("peft.safetensors");
    let output = run(bake(&place).args([&format!("{adapter}:0.9"), "-o", "baked.safetensors"]));
    assert_eq!(text(&output.stdout), "baked.safetensors\n");
    assert!(text(&output.stderr).contains("156 modules added"), "{}", text(&output.stderr));
    let paint = |base: &str, adapter: Option<&str>, out: &str| {
        let mut command = place.scumble();
        command.args(["generate", "--base", base, "--prompt", "a red dog", "--size", "64", "--steps", "2"]);
        command.args(["--out", out]).args(adapter.map(|adapter| format!("--adapter={adapter}")));
        run(&mut command);
        place.picture(out)
    };
    let base = fixture("tiny-sd1").display().to_string();
    let worn = paint(&base, Some(&format!("{adapter}:0.9")), "worn.png");
    let plain = paint(&base, None, "plain.png");
    let baked = paint("baked.safetensors", None, "baked.png");
    assert!(difference(&worn, &plain) > 30, "the adapter must be seen: {}", difference(&worn, &plain));
    assert!(difference(&worn, &baked) <= 6, "{}", difference(&worn, &baked));
}

#[test]
fn the_result_carries_its_recipe_in_every_layout() {
    let place = Place::with(&[]);
    std::fs::copy(lora("cloneofsimo.safetensors"), place.path("style.safetensors")).unwrap();
    let options = ["style.safetensors:0.5:0.25", "--blocks", "mid=0"];
    let output = run(bake(&place).args(options).args(["-o", "folder", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["tokens"], serde_json::json!(["<s1>", "<s2>"]));
    assert_eq!(report["modules"], 147, "the middle's nine are left out");
    run(bake(&place).args(options).args(["-o", "one.ckpt", "--mode", "upl-ckpt-v2"]));
    assert!(place.path("one.s1.pt").exists() && place.path("one.s2.pt").exists());
    let unet = "folder/unet/diffusion_pytorch_model.safetensors";
    for file in [unet, "one.ckpt"] {
        let recipe = metadata(&place, file, "scumble_recipe");
        assert!(recipe.contains("base = \"tiny-sd1\"") && recipe.contains("sha256 = "), "{recipe}");
        assert!(recipe.contains("text_encoder = 0.25") && !recipe.contains('/'), "{recipe}");
    }
    // Written down, it gives the same model; the base stands beside the recipe there.
    let toml = format!(
        "base = '{}'\nout = 'again.ckpt'\n[[inputs]]\nfile = 'style.safetensors'\nunet = 0.5\ntext_encoder = 0.25\nblocks = 'mid=0'\n",
        fixture("tiny-sd1").display()
    );
    std::fs::write(place.path("recipe.toml"), toml).unwrap();
    run(place.scumble().args(["merge", "--recipe", "recipe.toml", "--threads", "1", "--tokens", "omit"]));
    assert!(!place.path("again.s1.pt").exists());
    for file in ["one.ckpt", "again.ckpt"] {
        run(place.scumble().args(["convert", file, &format!("{file}.d"), "--to", "folder"]));
    }
    for part in ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"] {
        assert!(
            tensors(&place.path("one.ckpt.d").join(part)) == tensors(&place.path("again.ckpt.d").join(part))
        );
    }
    // The recipe lives on in what the model is converted to.
    run(place.scumble().args(["convert", "folder", "two.safetensors"]));
    assert!(metadata(&place, "two.safetensors", "scumble_recipe").contains("style.safetensors"));
}

#[test]
fn what_was_baked_in_f32_comes_out_again() {
    let place = Place::with(&[]);
    let adapter = lora("kohya.safetensors");
    let input = format!("{adapter}:0.75");
    run(bake(&place).args([&input, "-o", "in.safetensors", "--dtype", "f32"]));
    let mut command = place.scumble();
    command.args(["merge", "--base", "in.safetensors", "--unmerge", &input, "-o", "out", "--dtype", "f16"]);
    let output = run(&mut command);
    assert!(text(&output.stderr).contains("taken out of"), "{}", text(&output.stderr));
    for part in ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"] {
        let (found, wanted) =
            (tensors(&place.path("out").join(part)), tensors(&fixture("tiny-sd1").join(part)));
        // What f32 rounds away is far below f16, but a value half way between two can fall to either side.
        let values = found.values().flatten().zip(wanted.values().flatten());
        let differing = values.filter(|(a, b)| a != b).count();
        assert!(differing * 100_000 < found.values().flatten().count(), "{differing}");
    }
}

#[test]
fn mistakes_are_named_and_nothing_is_written() {
    let place = Place::with(&[]);
    let x = lora("peft.safetensors");
    let big = fixture("tiny-sd2").display().to_string();
    std::fs::create_dir(place.path("mine")).unwrap();
    std::fs::write(place.path("mine/diary.txt"), "x").unwrap();
    let cases: [(&[&str], i32, &str); 11] = [
        (&[&x], 2, "no name for the result"),
        (&[&x, "-o", "a.what"], 2, "--format"),
        (&[&x, "-o", "a.ckpt", "--rank", "4"], 2, "a rank means nothing"),
        (&[&x, "-o", "a.ckpt", "--mode", "ties"], 2, "mode ties makes adapters"),
        (&[&x, "-o", "a.safetensors", "--mode", "upl-ckpt-v2"], 2, "makes a .ckpt"),
        (&[&x, "-o", "a.ckpt", "--alpha", "0.5"], 2, "weights follow the files"),
        (&[&x, "-o", "a.ckpt", "--for", "sd1"], 2, "--for means nothing"),
        (&[&x, "-o", "mine"], 1, "is there already"),
        (&[&x, "-o", "mine", "--force"], 1, "no model"),
        (&[&x, "-o", "no/such/a.ckpt"], 1, "no/such"),
        (&[&x, "-o", "a.ckpt", "--dtype", "i8"], 2, "i8"),
    ];
    for (arguments, code, word) in cases {
        let message = fail(bake(&place).args(arguments), code);
        assert!(message.contains(word), "{arguments:?}: {message}");
    }
    let other =
        |base: &str| fail(place.scumble().args(["merge", "--base", base, &x, "-o", "a.safetensors"]), 1);
    let message = other(&big);
    assert!(message.contains("peft.safetensors") && message.contains("attn2.to_k"), "{message}");
    assert!(other("no-model.safetensors").contains("no-model.safetensors"));
    assert!(
        fail(place.scumble().args(["merge", &x, "--unmerge", "-o", "a.safetensors"]), 2).contains("--base")
    );
    assert_eq!(place.files(), ["mine/diary.txt"]);
}
