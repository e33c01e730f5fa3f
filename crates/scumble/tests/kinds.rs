//! Adapters of every kind as a user meets them: trained, killed and gone on with, painted with, mixed, converted.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::process::Stdio;

use common::{Place, fail, fixture, run, scumble, shapes, tensors, text};

/// Options that make a kind, and a key its file must have.
const KINDS: [(&str, &[&str], &str); 5] = [
    ("dora", &["--adapter-kind", "dora"], "dora_scale"),
    ("loha", &["--adapter-kind", "loha"], "hada_w1_a"),
    ("lokr", &["--adapter-kind", "lokr", "--lokr-factor", "4"], "lokr_w1"),
    ("pissa", &["--adapter-init", "pissa"], "lora_up.weight"),
    ("even", &["--adapter-init", "orthogonal", "--rank-stabilized", "--lora-plus", "8"], "lora_up.weight"),
];

fn train(place: &Place, options: &[&str]) -> std::process::Command {
    let mut command = place.train();
    command.args(["--rank", "2", "--targets", "all", "--text-encoder", "--text-rank", "2"]).args(options);
    command
}

#[test]
fn every_kind_is_painted_with_mixed_and_converted() {
    let place = Place::new();
    run(&mut place.generate("base.png"));
    let base = place.bytes("base.png");
    let tiny = fixture("tiny-sd1").display().to_string();
    for (name, options, key) in KINDS {
        let output = run(train(&place, options).args(["--name", name]));
        let file = text(&output.stdout).trim().to_owned();
        let keys = shapes(&place.path(&file));
        assert!(keys.keys().any(|found| found.ends_with(key)), "{name}: {:?}", keys.keys().next());
        let picture = format!("{name}.png");
        run(place.generate(&picture).args(["--adapter", &file]));
        assert!(place.bytes(&picture) != base, "{name} changes the picture");
        // Another spelling and back: nothing is lost.
        if ["dora", "pissa"].contains(&name) {
            let convert = |from: &str, to: &str, dialect: &str| {
                let flags = ["--to", dialect, "--base", &tiny];
                run(place.scumble().args(["convert", from, to]).args(flags));
            };
            convert(&file, "peft.safetensors", "peft");
            convert("peft.safetensors", "back.safetensors", "kohya");
            assert!(tensors(&place.path("back.safetensors")) == tensors(&place.path(&file)), "{name}");
            for file in ["peft.safetensors", "back.safetensors"] {
                std::fs::remove_file(place.path(file)).unwrap();
            }
        }
        let mut resize = place.scumble();
        resize.args(["resize", &file, "--rank", "1", "-o", "small.safetensors", "--for", &tiny]);
        let mut merge = scumble();
        merge.current_dir(place.path("")).args(["merge", &file, &format!("{file}:0.5"), "--rank", "2"]);
        merge.args(["-o", "mix.safetensors", "--for", &tiny]);
        if name == "dora" {
            // The pair gets another rank and keeps its lengths; a sum depends on the base, which merging does not have.
            run(&mut resize);
            assert!(shapes(&place.path("small.safetensors")).keys().any(|found| found.ends_with(key)));
            std::fs::remove_file(place.path("small.safetensors")).unwrap();
            let message = fail(&mut merge, 1);
            assert!(message.contains("DoRA"), "{message}");
            continue;
        }
        for (command, made) in [(&mut resize, "small.safetensors"), (&mut merge, "mix.safetensors")] {
            run(command);
            let keys = shapes(&place.path(made));
            assert!(keys.keys().any(|key| key.ends_with("lora_up.weight")), "{name} {made}");
            run(place.generate("made.png").args(["--adapter", made]));
            assert!(place.bytes("made.png") != base, "{name} {made}");
            std::fs::remove_file(place.path(made)).unwrap();
            std::fs::remove_file(place.path("made.png")).unwrap();
        }
    }
}

#[test]
fn killed_in_the_middle_every_kind_ends_in_the_same_bytes() {
    for (name, options, _) in KINDS {
        let long = |place: &Place| {
            let mut command = train(place, options);
            command.args(["--steps", "8", "--save-every", "2", "--ema-decay", "0.9"]);
            command
        };
        let undisturbed = Place::new();
        run(&mut long(&undisturbed));
        let place = Place::new();
        let mut child = long(&place).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let checkpoint = place.path("runs/lora/checkpoints/step-00000002.safetensors");
        let start = std::time::Instant::now();
        while !checkpoint.exists() && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed().as_secs() < 120, "{name}: nothing happens");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        run(place.scumble().args(["train", "--resume", "last"]));
        for file in ["runs/lora/lora.safetensors", "runs/lora/checkpoints/step-00000008.safetensors"] {
            assert!(place.bytes(file) == undisturbed.bytes(file), "{name}: {file}");
        }
    }
}

#[test]
fn what_does_not_go_together_says_so() {
    let place = Place::new();
    for (options, word) in [
        (&["--adapter-kind", "dorra"][..], "expected one of lora, dora, loha, lokr"),
        (&["--adapter-kind", "dora", "--adapter-init", "pissa"], "`lora.init`"),
        (&["--lokr-factor", "8"], "is for `lokr`"),
        (&["--adapter-kind", "lokr", "--format", "peft"], "no place for `lokr`"),
        (&["--adapter-kind", "loha", "--lora-plus", "4"], "`learn.lora_plus`"),
        (&["--block-lr", "1,2,3"], "a list has 17, 25 or 26"),
        (&["--block-lr", "mdi=2"], "`mdi` is no block"),
        (&["--conv-rank", "2", "--targets", "attention"], "no 3x3 convolution"),
        (&["--adapter-init", "orthogonal", "--rank", "3"], "even rank"),
        (&["--adapter-kind", "lora", "--method", "full", "--adapter-init", "kaiming"], "has no factors"),
    ] {
        let code = if options.contains(&"dorra") { 2 } else { 1 };
        let message = fail(place.train().args(options), code);
        assert!(message.contains(word), "{options:?}: {message}");
        assert!(!place.path("runs").exists(), "{options:?} leaves nothing");
    }
}
