//! `scumble merge` from outside.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::path::Path;

use common::{Place, fail, fixture, run, scumble, tensors, text};
use scumble_model::files::{SafetensorsFile, TensorSource as _};

/// `scumble merge` in a place, for the small base.
fn merge(place: &Place) -> std::process::Command {
    let mut command = scumble();
    command.current_dir(place.path("")).arg("merge").arg("--for").arg(fixture("tiny-sd1"));
    command
}

fn lora(name: &str) -> String {
    fixture("lora").join(name).display().to_string()
}

fn metadata(path: &Path, key: &str) -> String {
    SafetensorsFile::open(path).unwrap().metadata().get(key).cloned().unwrap_or_default()
}

#[test]
fn a_merge_can_be_repeated_from_its_own_recipe() {
    let place = Place::with(&[]);
    for (name, to) in
        [("cloneofsimo.safetensors", "style.safetensors"), ("cloneofsimo_f16.safetensors", "cat.safetensors")]
    {
        std::fs::copy(lora(name), place.path(to)).unwrap();
    }
    let output = run(merge(&place).args([
        "style.safetensors:0.7",
        "cat.safetensors:0.3:0.1",
        "--rank",
        "3",
        "--blocks",
        "2:mid=0,BASE=0.5",
        "-o",
        "mix.safetensors",
    ]));
    assert_eq!(text(&output.stdout), "mix.safetensors\n");
    assert!(text(&output.stderr).contains("156 modules, rank 3"), "{}", text(&output.stderr));
    let recipe = metadata(&place.path("mix.safetensors"), "scumble_recipe");
    assert!(recipe.contains("weight = 0.7") && recipe.contains("text_encoder = 0.1"), "{recipe}");
    assert!(recipe.contains("sha256 = ") && !recipe.contains("/"), "{recipe}");

    run(merge(&place).args(["--recipe", "mix.safetensors", "-o", "again.safetensors"]));
    assert_eq!(tensors(&place.path("mix.safetensors")), tensors(&place.path("again.safetensors")));
    std::fs::write(place.path("mix.toml"), recipe.replace("mix.safetensors", "third.safetensors")).unwrap();
    run(merge(&place).args(["--recipe", "mix.toml", "--threads", "1"]));
    assert_eq!(tensors(&place.path("mix.safetensors")), tensors(&place.path("third.safetensors")));

    std::fs::copy(lora("cloneofsimo.safetensors"), place.path("cat.safetensors")).unwrap();
    let message = fail(merge(&place).args(["--recipe", "mix.safetensors", "-o", "fourth.safetensors"]), 1);
    assert!(message.contains("cat.safetensors") && message.contains("SHA-256"), "{message}");
}

#[test]
fn dialects_tokens_and_the_report() {
    let place = Place::with(&[]);
    let (one, other) = (lora("cloneofsimo.safetensors"), lora("kohya.safetensors"));
    let message = fail(merge(&place).args([&one, &other, "-o", "mix.safetensors"]), 1);
    assert!(message.contains("--tokens bundle"), "{message}");
    let output =
        run(merge(&place).args([&one, &other, "-o", "mix.safetensors", "--tokens", "omit", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["modules"].as_array().unwrap().len(), 156);
    assert!(report["kept"].as_f64().unwrap() > 0.999_999 && report["file"] == "mix.safetensors");
    let keys = tensors(&place.path("mix.safetensors"));
    assert!(keys.keys().all(|key| key.starts_with("lora_")), "kohya where the inputs disagree");
    // Both files hold one adapter, so the sum has its rank.
    assert!(report["modules"].as_array().unwrap().iter().all(|module| module["rank"] == 4), "{report}");
    run(merge(&place).args([
        &one,
        &one,
        "--format",
        "peft",
        "--dtype",
        "f16",
        "--tokens",
        "omit",
        "-o",
        "peft.safetensors",
    ]));
    assert!(tensors(&place.path("peft.safetensors")).keys().all(|key| key.contains(".lora_")));
}

#[test]
fn mistakes_are_named_and_nothing_is_written() {
    let place = Place::with(&[]);
    let (x, small) = (lora("peft.safetensors"), lora("diffusers_attn_procs.safetensors"));
    std::fs::write(place.path("there.safetensors"), "x").unwrap();
    std::fs::write(place.path("bad.toml"), "mode = \"exact\"\nranks = 3\n").unwrap();
    let weighted = |weight: &str| format!("{x}:{weight}");
    let cases: Vec<(Vec<String>, i32, &str)> = vec![
        (vec![], 2, "nothing to merge"),
        (vec![x.clone()], 2, "no name for the result"),
        (
            vec!["gone.safetensors:0.5".into(), "-o".into(), "a.safetensors".into()],
            1,
            "no adapter file `gone.safetensors`",
        ),
        (vec![weighted("nan"), "-o".into(), "a.safetensors".into()], 2, "NaN is no weight"),
        (vec![x.clone(), "-o".into(), "there.safetensors".into()], 1, "is there already"),
        (vec![x.clone(), "-o".into(), "a.png".into()], 1, ".safetensors"),
        (vec![x.clone(), "--rank".into(), "0".into(), "-o".into(), "a.safetensors".into()], 1, "rank 0"),
        (
            vec![x.clone(), "--mode".into(), "sum".into(), "-o".into(), "a.safetensors".into()],
            1,
            "no merge mode `sum`",
        ),
        (
            vec![x.clone(), "--density".into(), "0.5".into(), "-o".into(), "a.safetensors".into()],
            2,
            "a density is for",
        ),
        (
            vec![x.clone(), "--mode".into(), "ties".into(), "-o".into(), "a.safetensors".into()],
            1,
            "give a rank",
        ),
        (
            vec![x.clone(), "--alpha".into(), "0.3".into(), "-o".into(), "a.safetensors".into()],
            2,
            "is for lpl",
        ),
        (
            vec![x.clone(), small, "--mode".into(), "lpl".into(), "-o".into(), "a.safetensors".into()],
            1,
            "only one of the adapters",
        ),
        (
            vec![x.clone(), "--blocks".into(), "3:mid=0".into(), "-o".into(), "a.safetensors".into()],
            2,
            "no file number 3",
        ),
        (
            vec![x.clone(), "--blocks".into(), "mit=0".into(), "-o".into(), "a.safetensors".into()],
            1,
            "`mit` is no block",
        ),
        (
            vec![x.clone(), "--format".into(), "odd".into(), "-o".into(), "a.safetensors".into()],
            2,
            "no dialect `odd`",
        ),
        (vec!["--recipe".into(), "bad.toml".into(), "-o".into(), "a.safetensors".into()], 1, "ranks"),
        (vec!["--recipe".into(), x.clone(), "-o".into(), "a.safetensors".into()], 1, "carries no recipe"),
    ];
    for (arguments, code, word) in cases {
        let message = fail(merge(&place).args(&arguments), code);
        assert!(message.contains(word), "{arguments:?}: {message}");
    }
    let message = fail(scumble().args(["merge", &x, "-o"]).arg(place.path("a.safetensors")), 1);
    assert!(message.contains("--for"), "{message}");
    assert_eq!(place.files().len(), 2, "{:?}", place.files());
}

/// Variants are of folders, averaged weights of single files; one model of that kind among several is enough.
#[test]
fn options_that_none_of_the_models_has_use_for_are_refused() {
    let place = Place::with(&[]);
    let single = fixture("single_file/tiny-sd1-single.safetensors");
    let mix = |models: &[&Path], args: &[&str]| {
        let mut command = place.scumble();
        command.args(["merge", "models"]).args(models).args(["-o", "mix.safetensors"]).args(args);
        command
    };
    let folder = fixture("tiny-sd1");
    for (model, args, option) in
        [(&single, ["--variant", "fp16"], "--variant"), (&folder, ["--ema", "use"], "--ema use")]
    {
        let said = fail(&mut mix(&[model, model], &args), 2);
        assert!(said.contains(option) && said.contains("hint:"), "{said}");
        assert!(!place.path("mix.safetensors").exists());
    }
    // The folder is asked for the variant, and the file is not.
    let said = fail(&mut mix(&[&single, &folder], &["--variant", "fp16"]), 1);
    assert!(said.contains("tiny-sd1`") && said.contains("no weights of variant"), "{said}");
}

/// The original's three files, named by the first of them: the token is in the result.
#[test]
fn a_token_in_a_file_beside_an_adapter_is_merged_along() {
    let place = Place::with(&[]);
    for part in ["pt", "text_encoder.pt", "ti.pt"] {
        std::fs::copy(lora(&format!("cloneofsimo.{part}")), place.path(&format!("old.{part}"))).unwrap();
    }
    let kohya = lora("kohya.safetensors");
    run(merge(&place).args([
        "old.pt:0.5",
        &kohya,
        "--rank",
        "4",
        "--format",
        "original",
        "-o",
        "mix.safetensors",
    ]));
    let whole = tensors(Path::new(&lora("cloneofsimo.safetensors")));
    let mixed = tensors(&place.path("mix.safetensors"));
    let tokens: Vec<_> = whole.iter().filter(|(name, _)| name.starts_with('<')).collect();
    assert!(!tokens.is_empty());
    for (name, rows) in tokens {
        assert_eq!(mixed.get(name), Some(rows), "{name}");
    }
    let said = fail(
        merge(&place).args(["old.pt", &kohya, "--rank", "4", "--format", "kohya", "-o", "x.safetensors"]),
        1,
    );
    assert!(said.contains("--format original keeps tokens"), "{said}");
}
