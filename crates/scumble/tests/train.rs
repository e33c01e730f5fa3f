//! `scumble train` as a user meets it: files, bytes, layers of settings, output streams.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::path::Path;

use common::{Place, difference, fail, fixture, run, shapes, tensors, text};
use serde_json::Value;

/// All values of the factors, without alphas, in a fixed order.
fn values(path: &Path) -> Vec<f64> {
    let all = tensors(path).into_iter().filter(|(name, _)| !name.ends_with("alpha"));
    let mut values: Vec<f64> = all.flat_map(|(_, values)| values).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn steps_of(place: &Place, metrics: &str) -> Vec<u64> {
    let lines = text(&place.bytes(metrics));
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records
        .map(|record| {
            assert!(record["loss"].as_f64().unwrap() > 0.0, "{record}");
            assert!(record["grad_norm"].as_f64().unwrap() > 0.0, "{record}");
            assert!(record["lr"]["unet"].as_f64().unwrap() > 0.0, "{record}");
            record["step"].as_u64().unwrap()
        })
        .collect()
}

/// The plan that `--dry-run --json` prints.
fn plan(command: &mut std::process::Command) -> Value {
    let output = run(command.args(["--dry-run", "--json"]));
    let lines = text(&output.stdout);
    assert_eq!(lines.lines().count(), 1, "{lines}");
    serde_json::from_str(&lines).unwrap()
}

fn losses(place: &Place, name: &str) -> Vec<f64> {
    let lines = text(&place.bytes(&format!("runs/{name}/metrics.jsonl")));
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    lines.lines().map(loss).collect()
}

/// The two precisions see the same noise and timesteps, so their losses can be held against each other step by step.
#[test]
fn bf16_learns_what_f32_learns() {
    let place = Place::new();
    for precision in ["f32", "bf16"] {
        run(place.train().args([
            "--name",
            precision,
            "--steps",
            "60",
            "--lr",
            "5e-3",
            "--precision",
            precision,
        ]));
    }
    let (exact, fast) = (losses(&place, "f32"), losses(&place, "bf16"));
    assert_ne!(exact, fast, "the precision was ignored");
    let end = |losses: &[f64]| losses[40..].iter().sum::<f64>() / 20.0;
    let start = exact[..20].iter().sum::<f64>() / 20.0;
    assert!(end(&exact) < 0.9 * start, "nothing was learnt: {start} to {}", end(&exact));
    let apart = (end(&exact) - end(&fast)).abs() / end(&exact);
    assert!(apart < 0.05, "f32 ends at {}, bf16 at {}", end(&exact), end(&fast));
}

#[test]
fn every_method_trains_in_bf16() {
    let place = Place::new();
    for method in ["textual-inversion", "pivotal", "pivotal-single", "full"] {
        let mut command = place.train();
        command.args(["--method", method, "--name", method, "--steps", "4"]);
        command.args(["--precision", "bf16"]);
        if method != "full" {
            command.args(["--token", "<zw>"]);
        }
        run(&mut command);
        assert!(losses(&place, method).iter().all(|loss| loss.is_finite()), "{method}");
    }
}

#[test]
fn a_whole_run_writes_everything() {
    let place = Place::new();
    let mut command = place.train();
    command.args(["--format", "kohya", "--format", "peft", "--format", "original"]);
    command.args(["--validate", "a red dog", "--validate", "a cat", "--set", "validate.steps=2"]);
    let output = run(command.args(["--validate-every", "2", "--save-every", "2", "--steps", "5"]));

    let expected = [
        "runs/lora/lora.safetensors",
        "runs/lora/lora-peft.safetensors",
        "runs/lora/lora-original.safetensors",
    ];
    assert_eq!(text(&output.stdout), expected.map(|path| format!("{path}\n")).concat());
    let [kohya, peft, original] = expected.map(|path| place.path(path));
    for (file, beginning) in [(&kohya, "lora_unet_"), (&peft, "unet."), (&original, "unet:")] {
        let names = shapes(file);
        assert!(names.len() >= 288, "{}: {}", file.display(), names.len());
        assert!(names.keys().all(|name| name.starts_with(beginning)), "{names:?}");
        assert!(values(file).iter().any(|&value| value != 0.0));
    }
    assert!(
        values(&kohya) == values(&peft) && values(&kohya) == values(&original),
        "spellings of the same factors"
    );

    assert_eq!(steps_of(&place, "runs/lora/metrics.jsonl"), [1, 2, 3, 4, 5]);
    let config: toml::Table = toml::from_str(&text(&place.bytes("runs/lora/config.toml"))).unwrap();
    assert_eq!(config["train"]["steps"].as_integer(), Some(5));
    assert!(place.picture("runs/lora/loss.png").width >= 200);
    assert!(place.picture("runs/lora/before-after.png").width >= 128);
    for prompt in 0..2 {
        let samples =
            [0, 2, 4, 5].map(|step| place.picture(&format!("runs/lora/samples/step-{step:08}-{prompt}.png")));
        assert_eq!((samples[0].width, samples[0].height), (64, 64));
        assert!(difference(&samples[0], &samples[3]) > 0, "training left no trace in the picture");
    }
    // The newest two checkpoints are kept, with the adapters of the steps on the way.
    let files = place.files();
    let kept: Vec<&str> =
        files.iter().filter_map(|file| file.strip_prefix("runs/lora/checkpoints/step-0000000")).collect();
    assert_eq!(kept, ["4.safetensors", "5.safetensors"]);
    assert!(files.iter().any(|file| file.ends_with("lora-peft-step000004.safetensors")), "{files:?}");
    assert!(!files.iter().any(|file| file.ends_with(".part") || file.contains("step000002")), "{files:?}");

    let said = text(&output.stderr);
    assert!(!said.contains(['\r', '\x1b']), "control bytes in a log: {said:?}");
    for word in ["pictures", "step 5/5", "loss", "it/s", "KB", "memory"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let place = Place::new();
    for name in ["one", "two"] {
        run(place.train().args(["--name", name, "--flip", "--crop", "random", "--noise-offset", "0.05"]));
    }
    // The file's name is in its metadata.
    let adapter = |name: &str| tensors(&place.path(&format!("runs/{name}/{name}.safetensors")));
    assert!(adapter("one") == adapter("two"));
    run(place.train().args([
        "--name",
        "one",
        "--flip",
        "--crop",
        "random",
        "--noise-offset",
        "0.05",
        "--out",
        "other",
    ]));
    assert!(place.bytes("runs/one/one.safetensors") == place.bytes("other/one/one.safetensors"));
    run(place.train().args([
        "--name",
        "other",
        "--flip",
        "--crop",
        "random",
        "--noise-offset",
        "0.05",
        "--seed",
        "1",
    ]));
    assert!(adapter("one") != adapter("other"));

    run(place.scumble().args(["train", "--config", "runs/one/config.toml"]));
    assert!(
        place.bytes("runs/one/one.safetensors") == place.bytes("runs/one-2/one.safetensors"),
        "from config.toml"
    );
}

#[test]
fn threads_do_not_show_in_the_result() {
    let place = Place::new();
    for threads in ["1", "2", "3"] {
        run(place.train().args(["--threads", threads, "--out", threads]));
    }
    let bytes = |threads| place.bytes(&format!("{threads}/lora/lora.safetensors"));
    assert!(bytes("1") == bytes("2") && bytes("1") == bytes("3"));
}

#[test]
fn rank_targets_and_towers_decide_what_is_in_the_file() {
    let place = Place::new();
    let shapes_with = |name: &str, args: &[&str]| {
        run(place.train().args(["--steps", "1", "--name", name]).args(args));
        shapes(&place.path(&format!("runs/{name}/{name}.safetensors")))
    };
    let ranks = |all: &std::collections::BTreeMap<String, Vec<usize>>, start: &str| {
        let downs =
            all.iter().filter(|(name, _)| name.starts_with(start) && name.ends_with("lora_down.weight"));
        let mut ranks: Vec<usize> = downs.map(|(_, shape)| shape[0]).collect();
        let count = ranks.len();
        ranks.dedup();
        (count, ranks)
    };
    let usual = shapes_with("usual", &[]);
    let (modules, rank) = ranks(&usual, "lora_unet_");
    assert_eq!((rank, ranks(&usual, "lora_te").0), (vec![4], 0));
    let thin = shapes_with("thin", &["--rank", "2", "--alpha", "1", "--save-type", "f32"]);
    assert_eq!(ranks(&thin, "lora_unet_"), (modules, vec![2]));
    let stored = tensors(&place.path("runs/thin/thin.safetensors"));
    assert!(stored.iter().filter(|(name, _)| name.ends_with("alpha")).all(|(_, alpha)| alpha == &[1.0]));
    assert!(place.bytes("runs/thin/thin.safetensors").windows(5).any(|window| window == b"\"F32\""));
    assert!(place.bytes("runs/usual/usual.safetensors").windows(5).any(|window| window == b"\"F16\""));

    let count = |name, targets| ranks(&shapes_with(name, &["--targets", targets]), "lora_unet_").0;
    let attention = count("attention", "attention");
    let [linear, all] = [count("linear", "all-linear"), count("all", "all")];
    assert!(attention < modules && modules < linear && linear < all, "{attention} {modules} {linear} {all}");

    let both = shapes_with("both", &["--text-encoder", "--text-rank", "3"]);
    assert_eq!(ranks(&both, "lora_unet_"), (modules, vec![4]));
    assert_eq!(ranks(&both, "lora_te").1, [3]);
    assert!(
        shapes_with("less", &["--set", r#"lora.exclude=["attn2"]"#])
            .keys()
            .all(|name| !name.contains("attn2"))
    );
}

#[test]
fn sizes_need_not_be_square() {
    let place = Place::new();
    let settings = plan(place.train().args(["--size", "72x56"]))["settings"].take();
    let settings: toml::Table = toml::from_str(settings.as_str().unwrap()).unwrap();
    assert_eq!(settings["data"]["width"].as_integer(), Some(72));
    assert_eq!(settings["data"]["height"].as_integer(), Some(56));
    run(place.train().args(["--size", "72x56", "--batch", "2", "--accumulate", "2", "--checkpointing"]));
    assert!(!place.bytes("runs/lora/lora.safetensors").is_empty());
}

#[test]
fn a_memory_budget_changes_what_is_kept_and_no_byte_of_the_adapter() {
    let place = Place::new();
    let planned = |memory: Option<&str>| {
        let mut command = place.train();
        command.args(memory.into_iter().flat_map(|gib| ["--memory", gib]));
        let plan = plan(&mut command)["plan"].take();
        (plan["memory_bytes"].as_u64().unwrap(), plan["recomputed_blocks"].as_u64().unwrap())
    };
    let (needed, none) = planned(None);
    assert_eq!(none, 0);
    let tight = needed as f64 * 0.97;
    let gib = (tight / f64::from(1 << 30)).to_string();
    let (fits, some) = planned(Some(&gib));
    assert!(fits as f64 <= tight && some > 0, "{needed} {fits} {some}");
    run(place.train().args(["--name", "wide"]));
    run(place.train().args(["--name", "tight", "--memory", &gib]));
    let learnt = |name: &str| values(&place.path(&format!("runs/{name}/{name}.safetensors")));
    assert_eq!(learnt("wide"), learnt("tight"));
    assert!(!learnt("tight").is_empty());
    let error = fail(place.train().args(["--memory", "0.0001"]), 1);
    assert!(error.contains("train.memory"), "{error}");
}

#[test]
fn what_is_typed_wins_over_environment_over_run_file_over_defaults() {
    let place = Place::new();
    std::fs::write(place.path("run.toml"), "[train]\nsteps = 2\nseed = 7\nbatch = 3\n").unwrap();
    let base = fixture("tiny-sd1").display().to_string();
    let settings = |environment: &[(&str, &str)], args: &[&str]| -> toml::Table {
        let mut command = place.scumble();
        command
            .args(["train", "--config", "run.toml", "--base", &base, "--images", "pictures", "--size", "64"]);
        let plan = plan(command.envs(environment.iter().copied()).args(args));
        toml::from_str(plan["settings"].as_str().unwrap()).unwrap()
    };
    let steps = |settings: &toml::Table| settings["train"]["steps"].as_integer().unwrap();
    let file = settings(&[], &[]);
    assert_eq!((steps(&file), file["train"]["seed"].as_integer()), (2, Some(7)));
    assert_eq!(file["train"]["accumulate"].as_integer(), Some(1));
    let environment =
        [("SCUMBLE_TRAIN_STEPS", "3"), ("SCUMBLE_LORA_UNET_RANK", "8"), ("SCUMBLE_DATA_FLIP", "true")];
    let above = settings(&environment, &[]);
    assert_eq!((steps(&above), above["train"]["batch"].as_integer()), (3, Some(3)));
    assert_eq!(above["lora"]["unet"]["rank"].as_integer(), Some(8));
    assert_eq!(above["data"]["flip"].as_bool(), Some(true));
    assert_eq!(steps(&settings(&environment, &["--set", "train.steps=4"])), 4);
    assert_eq!(steps(&settings(&environment, &["--set", "train.steps=4", "--steps", "5"])), 5);
    // And what is planned is what is done.
    let mut command = place.train();
    run(command
        .env("SCUMBLE_TRAIN_BATCH", "2")
        .env("SCUMBLE_SAVE_NAME", "mine")
        .args(["--config", "run.toml"]));
    assert_eq!(steps_of(&place, "runs/mine/metrics.jsonl"), [1, 2, 3]);
}

#[test]
fn every_option_reaches_its_setting() {
    let place = Place::new();
    std::fs::copy(place.path("pictures/plain.png"), place.path("pictures/plain.mask.png")).unwrap();
    let (text, new): (&[&str], &[&str]) = (&["--text-encoder"], &["--token", "<s>"]);
    let tags: &[&str] = &["--shuffle-tags"];
    // What is typed, what it needs beside it, the setting and its value.
    let cases: &[(&str, &[&str], &str, &str)] = &[
        ("--prediction=v_prediction", &[], "base.prediction", "'v_prediction'"),
        ("--offline", &[], "base.offline", "true"),
        ("--kind=style", &[], "kind", "'style'"),
        ("--method=pivotal-single", new, "method", "'pivotal-single'"),
        ("--token=<a>|<b>", &[], "tokens.add", "['<a>', '<b>']"),
        ("--init=dog", new, "tokens.init", "['dog']"),
        ("--vectors=2", new, "tokens.vectors", "2"),
        ("--lr-tokens=0.25", new, "train.lr_tokens", "0.25"),
        ("--ema-decay=0.5", &[], "train.ema_decay", "0.5"),
        ("--prompt=a dog", &[], "data.prompt", "'a dog'"),
        ("--trigger=sks", &[], "data.trigger", "'sks'"),
        ("--captions=file-name", &[], "data.captions", "'file-name'"),
        ("--template=object", &["--trigger", "sks"], "data.template", "'object'"),
        ("--crop=random", &[], "data.crop", "'random'"),
        ("--flip", &[], "data.flip", "true"),
        ("--buckets", &[], "data.buckets", "true"),
        ("--shuffle-tags", &[], "data.shuffle_tags", "true"),
        ("--keep-tags=2", tags, "data.keep_tags", "2"),
        ("--caption-dropout=0.5", &[], "data.caption_dropout", "0.5"),
        ("--mask=auto", &[], "mask.source", "'auto'"),
        ("--class-prompt=a dog", &[], "data.class_prompt", "'a dog'"),
        ("--class-images=class", &["--class-prompt", "a dog"], "data.class_folder", "'class'"),
        ("--class-count=7", &["--class-prompt", "a dog"], "data.class_count", "7"),
        ("--prior-weight=0.5", &["--class-prompt", "a dog"], "data.prior_weight", "0.5"),
        ("--rank=3", &[], "lora.unet.rank", "3"),
        ("--alpha=2", &[], "lora.unet.alpha", "2.0"),
        ("--targets=all", &[], "lora.unet.targets", "'all'"),
        ("--adapter-kind=loha", &[], "lora.kind", "'loha'"),
        ("--adapter-init=kaiming", &[], "lora.init", "'kaiming'"),
        ("--rank-stabilized", &[], "lora.rank_stabilized", "true"),
        ("--conv-rank=2", &["--targets", "all"], "lora.unet.conv_rank", "2"),
        ("--lokr-factor=4", &["--adapter-kind", "lokr"], "lora.lokr_factor", "4"),
        ("--text-encoder", &[], "lora.text_encoder.train", "true"),
        ("--text-rank=2", text, "lora.text_encoder.rank", "2"),
        ("--batch=2", &[], "train.batch", "2"),
        ("--accumulate=2", &[], "train.accumulate", "2"),
        ("--lr=0.5", &[], "train.lr", "0.5"),
        ("--lr-text-encoder=0.5", text, "train.lr_text_encoder", "0.5"),
        ("--lora-plus=16", &[], "learn.lora_plus", "16.0"),
        ("--block-lr=mid=0.5", &[], "learn.blocks", "'mid=0.5'"),
        ("--schedule=linear", &[], "train.schedule", "'linear'"),
        ("--warmup=2", &[], "train.warmup", "2"),
        ("--min-snr-gamma=5", &[], "train.min_snr_gamma", "5.0"),
        ("--noise-offset=0.05", &[], "train.noise_offset", "0.05"),
        ("--loss=huber", &[], "objective.loss", "'huber'"),
        ("--seed=9", &[], "train.seed", "9"),
        ("--checkpointing", &[], "train.checkpointing", "true"),
        ("--memory=100", &[], "train.memory", "100.0"),
        ("--precision=bf16", &[], "train.precision", "'bf16'"),
        ("--threads=1", &[], "train.threads", "1"),
        ("--out=others", &[], "save.folder", "'others'"),
        ("--name=dog", &[], "save.name", "'dog'"),
        ("--existing=error", &[], "save.existing", "'error'"),
        ("--save-every=2", &[], "save.every", "2"),
        ("--keep-last=5", &[], "save.keep_last", "5"),
        ("--format=peft", &[], "save.formats", "['peft']"),
        ("--save-type=f32", &[], "save.dtype", "'f32'"),
        ("--validate=a dog", &[], "validate.prompts", "['a dog']"),
        ("--validate-every=2", &["--validate", "a dog"], "validate.every", "2"),
        ("--test-images=pictures", &[], "holdout.folder", "'pictures'"),
        ("--hold-out=0.5", &[], "holdout.share", "0.5"),
        ("--test-every=2", &["--hold-out", "0.5"], "holdout.every", "2"),
        ("--patience=2", &["--hold-out", "0.5"], "holdout.patience", "2"),
    ];
    for (option, beside, key, value) in cases {
        let mut command = place.scumble();
        command.arg("train").arg("--base").arg(fixture("tiny-sd1"));
        command.args(["--images", "pictures", "--size", "64", "--steps", "3"]);
        let told = plan(command.args(*beside).arg(option));
        let settings: toml::Table = toml::from_str(told["settings"].as_str().unwrap()).unwrap();
        let expected: toml::Table = toml::from_str(&format!("value = {value}")).unwrap();
        let at = |table: &toml::Table| {
            let mut found = toml::Value::Table(table.clone());
            for part in key.split('.') {
                found = found.get(part).unwrap_or_else(|| panic!("{option}: no `{key}`")).clone();
            }
            found
        };
        assert_eq!(at(&settings), expected["value"], "{option}");
    }
    let said = fail(place.train().args(["--variant", "fp99"]), 1);
    assert!(said.contains("fp99"), "{said}");
}

/// A variant is one of a folder's, a configuration is lent to a single file.
#[test]
fn settings_of_the_other_kind_of_base_are_refused() {
    let place = Place::new();
    let single = fixture("single_file/tiny-sd1-single.safetensors");
    let refused = |command: &mut std::process::Command, words: &[&str]| {
        let said = fail(command, 1);
        assert!(words.iter().chain(&["hint:"]).all(|word| said.contains(word)), "{said}");
    };
    let variant = ["tiny-sd1-single.safetensors", "`variant`", "`fp16`", "a folder"];
    let train = || {
        let mut command = place.scumble();
        command.args(["train", "--images", "pictures", "--size", "64"]);
        command
    };
    refused(train().args(["--variant", "fp16", "--base"]).arg(&single), &variant);
    let file = format!("[base]\nvariant = \"fp16\"\nmodel = {single:?}\n");
    std::fs::write(place.path("run.toml"), file).unwrap();
    refused(train().args(["--config", "run.toml"]), &variant);
    let config = format!("base.config={:?}", fixture("tiny-sd1"));
    refused(place.train().args(["--set", &config]), &["tiny-sd1", "`config`", "a single file"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn unknown_settings_are_errors_with_a_suggestion() {
    let place = Place::new();
    let file = |content: &str| {
        std::fs::write(place.path("run.toml"), content).unwrap();
        fail(place.train().args(["--config", "run.toml"]), 1)
    };
    let said = file("[train]\nstepz = 3\n");
    assert!(said.contains("`train.stepz`") && said.contains("did you mean `train.steps`?"), "{said}");
    let said = file("[lora.unet]\nrnak = 3\n");
    assert!(said.contains("did you mean `lora.unet.rank`?"), "{said}");
    let said = file("[train]\nschedule = \"cosin\"\n");
    assert!(
        said.contains("cosin") && said.contains("train.schedule") && said.contains("cosine_with_restarts"),
        "{said}"
    );
    let said = file("[train]\nseed = \"many\"\n");
    assert!(said.contains("train.seed") && said.contains("many"), "{said}");
    let said = file("[train\nsteps = 3");
    assert!(said.contains("run.toml") && said.contains("line 1"), "{said}");
    let said = fail(place.train().args(["--config", "none.toml"]), 1);
    assert!(said.contains("none.toml"), "{said}");
    let said = fail(place.train().args(["--set", "train.learning_rate=1"]), 1);
    assert!(said.contains("train.learning_rate"), "{said}");
    let said = fail(place.train().env("SCUMBLE_TRAIN_BATCH", "fast"), 1);
    assert!(said.contains("train.batch") && said.contains("fast"), "{said}");
    assert!(!place.path("runs").exists());
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let place = Place::new();
    let before = place.files();
    let told = plan(&mut place.train());
    assert_eq!(
        (told["plan"]["steps"].as_u64(), told["plan"]["data"]["pictures"].as_u64()),
        (Some(3), Some(2))
    );
    for number in ["trainable_parameters", "memory_bytes", "modules"] {
        assert!(told["plan"][number].as_u64().unwrap() > 100, "{number}: {told}");
    }
    let shown = run(place.train().args(["--dry-run", "--class-prompt", "a dog", "--class-count", "2"]));
    let shown = text(&shown.stdout);
    for word in ["pictures", "numbers in", "KB", "memory", "time", "2 to be painted", "[train]", "steps = 3"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    // What it says about size is what is then written.
    assert_eq!(place.files(), before);
    run(&mut place.train());
    let size = place.bytes("runs/lora/lora.safetensors").len() as f64;
    let planned = told["plan"]["files"][0]["bytes"].as_f64().unwrap();
    assert!((planned / size - 1.0).abs() < 0.05, "{planned} planned, {size} written");

    place.make("empty", &[]);
    let said = fail(place.train().args(["--images", "empty", "--dry-run"]), 1);
    assert!(said.contains("empty"), "{said}");
}

#[test]
fn a_run_is_never_written_over_unasked() {
    let place = Place::new();
    run(&mut place.train());
    let first = place.bytes("runs/lora/config.toml");
    let output = run(place.train().args(["--seed", "1"]));
    assert_eq!(text(&output.stdout), "runs/lora-2/lora.safetensors\n");
    let before = place.files();
    let said = fail(place.train().args(["--existing", "error"]), 1);
    assert!(said.contains("runs/lora") && said.contains("--name"), "{said}");
    assert_eq!(place.files(), before);
    assert!(place.bytes("runs/lora/config.toml") == first);
    run(place.train().args(["--existing", "replace", "--seed", "2"]));
    assert!(place.bytes("runs/lora/config.toml") != first);
    assert!(!place.path("runs/lora-3").exists());
    // A folder that is no run is not replaced at all.
    std::fs::create_dir_all(place.path("runs/photos")).unwrap();
    std::fs::write(place.path("runs/photos/precious.jpg"), "x").unwrap();
    fail(place.train().args(["--existing", "replace", "--name", "photos"]), 1);
    assert_eq!(place.bytes("runs/photos/precious.jpg"), b"x");
}

#[test]
fn quiet_means_quiet_and_verbose_says_more() {
    let place = Place::new();
    let output = run(place.train().arg("--quiet"));
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), "runs/lora/lora.safetensors\n");
    let said = text(&run(place.train().args(["-v", "--save-every", "2"])).stderr);
    assert!(said.contains("computing on") && said.contains("step 2: saved"), "{said}");
    let output = run(place.train().args(["--json", "--quiet"]));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((summary["outcome"].as_str(), summary["steps"].as_u64()), (Some("finished"), Some(3)));
    assert!(place.path(summary["adapters"][0].as_str().unwrap()).is_file());
}

#[test]
fn the_text_belongs_to_its_picture_whatever_they_are_called() {
    let place = Place::with(&[]);
    let names = ["gray.jpg", "plain.png", "exif_6.jpg", "lossy.webp"];
    let pair = |folder: &str, name: &str, stem: &str| {
        place.make(folder, &[]);
        let ending = Path::new(name).extension().unwrap().to_str().unwrap();
        std::fs::copy(fixture("images").join(name), place.path(folder).join(format!("{stem}.{ending}")))
            .unwrap();
        std::fs::write(place.path(folder).join(format!("{stem}.txt")), format!("this is {name}\n")).unwrap();
    };
    let captions = |folder: &str, args: &[&str]| -> Vec<(String, String)> {
        let plan = plan(place.train().args(["--images", folder]).args(args));
        let examples = plan["plan"]["data"]["examples"].as_array().unwrap();
        let text = |example: &Value, key: &str| example[key].as_str().unwrap().to_owned();
        examples.iter().map(|example| (text(example, "file"), text(example, "caption"))).collect()
    };
    for name in names {
        pair("as they are", name, Path::new(name).file_stem().unwrap().to_str().unwrap());
    }
    for (name, caption) in captions("as they are", &[]) {
        assert_eq!(caption, format!("this is {name}"));
    }
    // Renamed so that the order is turned round, with names that contain each other and dots.
    for (name, stem) in names.iter().zip(["z", "y.z", "x", "x.y"]) {
        pair("renamed", name, stem);
    }
    let renamed = captions("renamed", &[]);
    let expected = [
        ("x.jpg", "exif_6.jpg"),
        ("x.y.webp", "lossy.webp"),
        ("y.z.png", "plain.png"),
        ("z.jpg", "gray.jpg"),
    ];
    for ((file, caption), (stem, name)) in renamed.iter().zip(expected) {
        assert_eq!((file.as_str(), caption.as_str()), (stem, format!("this is {name}").as_str()));
    }
    assert_eq!(renamed.len(), 4);

    let source =
        |args: &[&str]| captions("as they are", args).into_iter().map(|(_, caption)| caption).next().unwrap();
    assert_eq!(source(&["--captions", "file-name"]), "exif 6");
    assert_eq!(source(&["--captions", "prompt", "--prompt", "a dog"]), "a dog");
    assert_eq!(source(&["--trigger", "sks"]), "sks, this is exif_6.jpg");
    assert!(source(&["--trigger", "sks dog", "--template", "object"]).contains("sks dog"));
    std::fs::remove_file(place.path("as they are/gray.txt")).unwrap();
    let said = fail(place.train().args(["--images", "as they are", "--captions", "text"]), 1);
    assert!(said.contains("gray.jpg") && said.contains("gray.txt"), "{said}");
}

/// What is trained on is what was said: a text file gives the same factors as the same prompt, another text others.
#[test]
fn the_text_reaches_the_training() {
    let place = Place::new();
    let trained = |name: &str, args: &[&str]| {
        run(place.train().args(["--name", name]).args(args));
        values(&place.path(&format!("runs/{name}/{name}.safetensors")))
    };
    let by_prompt = trained("prompt", &["--prompt", "a red dog"]);
    for stem in ["plain", "baseline420"] {
        std::fs::write(place.path("pictures").join(format!("{stem}.txt")), "a red dog").unwrap();
    }
    assert!(trained("files", &["--prompt", "not this"]) == by_prompt);
    std::fs::write(place.path("pictures/plain.txt"), "a blue cat").unwrap();
    assert!(trained("other", &[]) != by_prompt);
}

#[test]
fn dreambooth_paints_what_is_missing_and_weighs_it() {
    let place = Place::new();
    let train = |name: &str, weight: &str| {
        let mut command = place.train();
        command.args([
            "--name",
            name,
            "--prompt",
            "a photo of sks dog",
            "--class-prompt",
            "a photo of a dog",
        ]);
        command.args(["--class-count", "2", "--class-images", "dogs", "--set", "data.class_steps=2"]);
        let output = run(command.args(["--prior-weight", weight]));
        (values(&place.path(&format!("runs/{name}/{name}.safetensors"))), text(&output.stderr))
    };
    place.make("dogs", &["plain.png"]);
    let (one, said) = train("one", "1");
    assert!(said.contains("painting class pictures"), "{said}");
    let painted: Vec<String> = place.files().into_iter().filter(|file| file.starts_with("dogs/")).collect();
    assert_eq!(painted, ["dogs/class-00000.png", "dogs/plain.png"]);
    assert_eq!(place.picture(&painted[0]).width, 64);
    let bytes = place.bytes(&painted[0]);
    let (half, said) = train("half", "0.5");
    assert!(!said.contains("painting class pictures") && place.bytes(&painted[0]) == bytes, "{said}");
    assert!(one != half, "the weight is not used");
    // Painted anew they are the same.
    std::fs::remove_file(place.path(&painted[0])).unwrap();
    let (again, _) = train("again", "1");
    assert!(place.bytes(&painted[0]) == bytes && again == one);
    run(place.train().args(["--name", "without", "--prompt", "a photo of sks dog"]));
    assert!(values(&place.path("runs/without/without.safetensors")) != one);
}

#[test]
fn single_files_and_the_other_family_are_bases_too() {
    let place = Place::new();
    for base in ["tiny-sd2", "single_file/tiny-sd1-single.safetensors"] {
        let mut command = place.scumble();
        command.arg("train").arg("--base").arg(fixture(base)).args(["--images", "pictures", "--size", "64"]);
        run(command.args(["--steps", "2", "--text-encoder", "--save-every", "1"]));
    }
    assert!(shapes(&place.path("runs/lora/lora.safetensors")).keys().any(|name| name.starts_with("lora_te")));
    // Layers that the states do not pass through never get a gradient; going on must not miss their moments.
    std::fs::remove_file(place.path("runs/lora/checkpoints/step-00000002.safetensors")).unwrap();
    let whole = place.bytes("runs/lora/lora.safetensors");
    run(place.scumble().args(["train", "--resume", "runs/lora"]));
    assert!(place.bytes("runs/lora/lora.safetensors") == whole);
}
