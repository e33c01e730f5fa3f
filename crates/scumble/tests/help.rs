//! What the program says about itself.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{fail, run, scumble, text};

fn help(verb: &[&str]) -> String {
    let output = run(scumble().args(verb).arg("--help"));
    assert!(output.stderr.is_empty(), "{verb:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn mentions(verb: &[&str], words: &[&str]) {
    let help = help(verb);
    for word in words {
        assert!(help.contains(word), "`scumble {} --help` lacks {word}:\n{help}", verb.join(" "));
    }
}

#[test]
fn every_verb_tells_its_options() {
    mentions(
        &[],
        &[
            "train",
            "generate",
            "grid",
            "runs",
            "probe",
            "bench",
            "completions",
            "--quiet",
            "--threads",
            "--color",
            "130",
        ],
    );
    let options = [
        "--base",
        "--images",
        "--size",
        "--prompt",
        "--trigger",
        "--captions",
        "--template",
        "--crop",
        "--flip",
        "--class-prompt",
        "--class-images",
        "--class-count",
        "--prior-weight",
        "--rank",
        "--alpha",
        "--targets",
        "--adapter-kind",
        "--adapter-init",
        "--rank-stabilized",
        "--conv-rank",
        "--lokr-factor",
        "--lora-plus",
        "--block-lr",
        "--text-encoder",
        "--steps",
        "--batch",
        "--accumulate",
        "--lr",
        "--schedule",
        "--warmup",
        "--min-snr-gamma",
        "--noise-offset",
        "--seed",
        "--checkpointing",
        "--memory",
        "--out",
        "--name",
        "--existing",
        "--save-every",
        "--keep-last",
        "--format",
        "--save-type",
        "--validate",
        "--config",
        "--dry-run",
        "--resume",
        "--allow-changes",
        "--json",
        "--set",
        "Pictures:",
        "Adapter:",
        "Examples:",
    ];
    mentions(&["train"], &options);
    let options = [
        "--base",
        "--prompt",
        "--negative",
        "--out",
        "--force",
        "--steps",
        "--guidance",
        "--sampler",
        "--seed",
        "--size",
        "--count",
        "--adapter",
        "--fold",
        "--allow-partial",
        "--json",
        "Examples:",
    ];
    mentions(&["generate"], &options);
    mentions(
        &["inspect"],
        &["--base", "--json", "--modules", "--tensors", "--metadata", "--quick", "Examples:"],
    );
    mentions(&["diff"], &["--for", "--modules", "--json", "Examples:"]);
    let probes = ["text", "unet", "vae", "pipeline", "sampler", "targets", "rng", "trace", "losses", "lora"];
    mentions(&["probe"], &probes);
    for probe in probes {
        mentions(&["probe", probe], &["--out"]);
    }
    mentions(&["bench"], &["step", "text", "ops", "generate", "vae", "compare"]);
    mentions(
        &["bench", "step"],
        &["--arch", "--precision", "--full", "--rank", "--batch", "--latent", "--json"],
    );
    mentions(&["completions"], &["bash", "zsh", "fish", "powershell"]);
}

/// Every sampler that help names is one that can be asked for, and so on for the other lists in help texts.
#[test]
fn lists_in_help_texts_are_complete() {
    use scumble_train::config::{CaptionSource, Existing, FileFormat, FileType, Targets, Template};
    let train = help(&["train"]);
    for name in [
        Targets::NAMES,
        CaptionSource::NAMES,
        Template::NAMES,
        Existing::NAMES,
        FileFormat::NAMES,
        FileType::NAMES,
    ]
    .concat()
    {
        assert!(train.contains(name), "`scumble train --help` lacks {name}");
    }
    let generate = help(&["generate"]);
    for kind in scumble_model::sampler::SAMPLERS {
        assert!(generate.contains(kind.name), "`scumble generate --help` lacks {}", kind.name);
    }
}

#[test]
fn without_arguments_it_shows_help() {
    let output = scumble().output().unwrap();
    let shown = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(2));
    assert!(shown.contains("Usage: scumble") && shown.contains("train"), "{shown}");
}

#[test]
fn version() {
    let output = run(scumble().arg("--version"));
    assert_eq!(text(&output.stdout), format!("scumble {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_for_each_shell_know_the_options() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = text(&run(scumble().args(["completions", shell])).stdout);
        for word in ["scumble", "train", "min-snr-gamma", "allow-partial"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    assert!(fail(scumble().args(["completions", "fihs"]), 2).contains("fish"));
}

#[test]
fn wrong_usage_is_told_with_the_nearest_right_one() {
    assert!(fail(scumble().arg("trian"), 2).contains("'train'"));
    assert!(fail(scumble().args(["train", "--stepz", "3"]), 2).contains("--steps"));
    assert!(fail(scumble().args(["generate", "--steps", "3"]), 2).contains("--prompt"));
    assert!(fail(scumble().args(["train", "--targets", "atention"]), 2).contains("attention"));
    assert!(fail(scumble().args(["train", "--size", "wide"]), 2).contains("wide"));
    assert!(fail(scumble().args(["train", "--allow-changes"]), 2).contains("--resume"));
    assert!(fail(scumble().args(["train", "--set", "steps"]), 2).contains("section.key=value"));
}

#[test]
fn colours_only_where_wanted() {
    let train = |color: &[&str], variable: Option<(&str, &str)>| {
        let mut command = scumble();
        command.args(["train", "--images", "nothing"]).args(color).envs(variable);
        fail(&mut command, 1)
    };
    assert!(!train(&[], None).contains('\x1b'));
    assert!(train(&["--color", "always"], None).contains("\x1b[1;31merror:\x1b[0m"));
    assert!(!train(&[], Some(("NO_COLOR", "1"))).contains('\x1b'));
    assert!(train(&[], Some(("CLICOLOR_FORCE", "1"))).contains('\x1b'));
    assert!(!train(&["--color", "never"], Some(("CLICOLOR_FORCE", "1"))).contains('\x1b'));
}
