//! Whole runs of every method on a tiny base: what moves, what rests, what is written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Heard, Workplace, run, run_with};
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_train::config::*;
use scumble_train::run::{Outcome, Start, Summary};
use scumble_train::{TrainConfig, TrainError, metrics};

fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = SafetensorsFile::open(path).unwrap();
    let read = |name: String| (file.read(&name).unwrap().bytes().unwrap().to_vec(), name);
    file.names().into_iter().map(read).map(|(bytes, name)| (name, bytes)).collect()
}

/// Parameters of a checkpoint.
fn params(summary: &Summary, step: u64) -> BTreeMap<String, Vec<u8>> {
    let all = tensors(&summary.folder.join(format!("checkpoints/step-{step:08}.safetensors")));
    all.into_iter().filter(|(name, _)| name.starts_with("param.")).collect()
}

fn words(place: &Workplace, method: Method) -> TrainConfig {
    let mut config = place.config();
    config.method = method;
    config.tokens.add = vec!["<s1>".into(), "<s2>".into()];
    config.train.lr_tokens = 1e-2;
    config.save.every = 1;
    config.save.keep_last = 0;
    config.save.dtype = FileType::F32;
    config
}

#[test]
fn a_textual_inversion_moves_the_new_rows_and_nothing_else() {
    let place = Workplace::new();
    let mut config = words(&place, Method::TextualInversion);
    config.tokens.init = vec!["dog".into()];
    (config.data.template, config.data.prompt) = (Template::Object, None);
    let summary = run(&config).unwrap();
    let (before, after) = (params(&summary, 0), params(&summary, 6));
    assert_eq!(before.keys().collect::<Vec<_>>(), ["param.text_encoder.tokens"]);
    assert_ne!(before, after);
    let names: Vec<_> = summary.adapters.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    let expected =
        ["s1.safetensors", "s1-diffusers.safetensors", "s2.safetensors", "s2-diffusers.safetensors"];
    assert_eq!(names, expected);
    assert_ne!(tensors(&summary.adapters[0])["emb_params"], tensors(&summary.adapters[2])["emb_params"][..4]);
    let table = SafetensorsFile::open(&common::fixture("tiny-sd1/text_encoder/model.safetensors")).unwrap();
    let table = table.read("text_model.embeddings.token_embedding.weight").unwrap();
    let table = table.to_vec::<f32>().unwrap();
    // Both words begin with the row of `dog`.
    let rows: Vec<f32> = before["param.text_encoder.tokens"]
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(rows[..48], rows[48..]);
    assert!(table.chunks_exact(48).any(|row| row == &rows[..48]));
}

#[test]
fn the_norm_prior_pulls_as_far_as_prodigy_goes() {
    let place = Workplace::new();
    let mut config = words(&place, Method::TextualInversion);
    config.tokens.init = vec!["dog".into()];
    config.tokens.norm = Some(0.4);
    (config.train.optimizer, config.train.lr_tokens) = (OptimizerKind::Prodigy, 1.0);
    (config.data.template, config.data.prompt) = (Template::Object, None);
    let summary = run(&config).unwrap();
    let length = |step: u64| {
        let rows = &params(&summary, step)["param.text_encoder.tokens"];
        let values = rows[..48 * 4].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    let (before, after) = (length(0), length(1));
    assert!((before - 0.4).abs() > 0.02, "{before}");
    // The rate of the first update is some millionths, which is no reason to be at the usual length at once.
    assert!((after - before).abs() < 0.1 * (before - 0.4).abs(), "{before} {after}");
}

#[test]
fn phases_follow_their_windows() {
    let place = Workplace::new();
    let moved = |config: &TrainConfig| {
        let summary = run(config).unwrap();
        let part = |step: u64| {
            let of = |prefix: &str| {
                let all = params(&summary, step);
                all.into_iter().filter(|(name, _)| name.starts_with(prefix)).collect::<BTreeMap<_, _>>()
            };
            [of("param.unet"), of("param.text_encoder.text_model"), of("param.text_encoder.tokens")]
        };
        let moves = |step| {
            let (a, b) = (part(step), part(step + 1));
            [0, 1, 2].map(|i| if a[i] == b[i] { '.' } else { 'x' }).iter().collect::<String>()
        };
        (0..6).map(moves).collect::<Vec<_>>().join(" ")
    };
    let mut config = words(&place, Method::Pivotal);
    config.lora.text_encoder.train = true;
    assert_eq!(moved(&config), "..x ..x ..x xx. xx. xx.");
    config.method = Method::PivotalSingle;
    assert_eq!(moved(&config), "xxx xxx xxx xx. xx. xx.");
    config.tokens.continue_lr = Some(1e-4);
    assert_eq!(moved(&config), "xxx xxx xxx xxx xxx xxx");
    config.tokens.continue_lr = None;
    config.method = Method::Lora;
    config.learn.tokens.stop = Some(2);
    config.learn.text_encoder.start = Some(4);
    assert_eq!(moved(&config), "x.x x.x x.. x.. xx. xx.");
}

#[test]
fn a_pivotal_run_goes_on_in_either_phase_and_ends_in_the_same_bytes() {
    let place = Workplace::new();
    let mut config = words(&place, Method::Pivotal);
    config.lora.text_encoder.train = true;
    config.train.schedule = ScheduleKind::Linear;
    config.train.ema_decay = Some(0.5);
    config.save.formats = vec![FileFormat::Original];
    let through = run(&config).unwrap();
    for stop in [2, 3, 5] {
        config.save.name = format!("stop{stop}");
        let stopped = run_with(&config, &Start::New, Some(stop), &Heard::default()).unwrap();
        assert_eq!((stopped.outcome, stopped.steps), (Outcome::Interrupted, stop));
        let start = Start::Resume { from: None, allow_changes: false };
        let resumed = run_with(&config, &start, None, &Heard::default()).unwrap();
        let point = |s: &Summary| tensors(&s.folder.join("checkpoints/step-00000006.safetensors"));
        assert!(point(&through) == point(&resumed), "stopped after {stop}");
        assert!(tensors(&through.adapters[0]) == tensors(&resumed.adapters[0]));
    }
    let saved = tensors(&through.adapters[0]);
    assert!(saved.contains_key("<s1>") && saved.contains_key("unet:0:up"), "{:?}", saved.keys());
    let rates = metrics::read(&through.folder.join("metrics.jsonl")).unwrap();
    assert_eq!((rates[0].lr["unet"], rates[0].lr["tokens"]), (0.0, 1e-2));
    assert_eq!((rates[3].lr["unet"], rates[3].lr["tokens"]), (1e-3, 0.0));
}

#[test]
fn full_fine_tuning_writes_a_model_that_can_be_trained_again() {
    let place = Workplace::new();
    let mut config = place.config();
    config.method = Method::Full;
    config.train.lr = 1e-4;
    config.train.steps = 4;
    config.save.every = 2;
    config.save.dtype = FileType::F32;
    config.save.name = "tuned".into();
    let summary = run(&config).unwrap();
    let folder = &summary.adapters[0];
    assert!(folder.is_dir() && folder.ends_with("tuned/tuned"));
    let weights = |root: &Path, part: &str| tensors(&root.join(part));
    let base = common::fixture("tiny-sd1");
    let file = |part| format!("{part}/diffusion_pytorch_model.safetensors");
    let (old, new) = (weights(&base, &file("unet")), weights(folder, &file("unet")));
    assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
    // The base is f16 and the result f32, so unchanged weights are compared by value.
    let text = "text_encoder/model.safetensors";
    assert_eq!(weights(&base, text).len(), weights(folder, text).len());
    for part in ["model_index.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json"] {
        assert!(folder.join(part).is_file(), "{part}");
    }
    // Stopped and resumed it ends in the same bytes.
    config.save.name = "again".into();
    let stopped = run_with(&config, &Start::New, Some(3), &Heard::default()).unwrap();
    assert!(stopped.folder.join("again-step000003").is_dir());
    let start = Start::Resume { from: None, allow_changes: false };
    let resumed = run_with(&config, &start, None, &Heard::default()).unwrap();
    assert!(weights(&resumed.adapters[0], &file("unet")) == new);
    // The text encoder too, when asked; and the result is a base like any other.
    config.base.model = folder.display().to_string();
    config.full.text_encoder = true;
    config.train.steps = 1;
    let both = run(&config).unwrap();
    assert!(weights(&both.adapters[0], text) != weights(folder, text));
    assert!(weights(&both.adapters[0], &file("vae")) == weights(folder, &file("vae")));
}

#[test]
fn every_option_of_words_and_windows_is_heard() {
    let place = Workplace::new();
    let mut config = words(&place, Method::PivotalSingle);
    config.lora.text_encoder.train = true;
    config.train.steps = 4;
    config.tokens.init = vec!["dog".into()];
    let result = |config: &TrainConfig| {
        let summary = run(config).unwrap();
        summary.adapters.iter().map(|path| tensors(path)).collect::<Vec<_>>()
    };
    let plain = result(&config);
    type Change = fn(&mut TrainConfig);
    let changes: &[(&str, Change)] = &[
        ("tokens.init", |c| c.tokens.init = vec!["photo".into()]),
        ("tokens.init each", |c| c.tokens.init = vec!["dog".into(), "<zero>".into()]),
        ("tokens.init random", |c| c.tokens.init = vec!["<rand-0.1>".into()]),
        ("tokens.vectors", |c| c.tokens.vectors = 2),
        ("tokens.norm_prior", |c| c.tokens.norm_prior = false),
        ("tokens.norm", |c| c.tokens.norm = Some(0.1)),
        ("tokens.continue_lr", |c| c.tokens.continue_lr = Some(1e-3)),
        ("train.lr_tokens", |c| c.train.lr_tokens = 1e-3),
        ("train.ema_decay", |c| c.train.ema_decay = Some(0.9)),
        ("data.template", |c| (c.data.template, c.data.prompt) = (Template::Person, None)),
        ("learn.tokens.stop", |c| c.learn.tokens.stop = Some(1)),
        ("learn.tokens.start", |c| c.learn.tokens.start = Some(1)),
        ("learn.tokens.lr", |c| c.learn.tokens.lr = Some(1e-4)),
        ("learn.tokens.weight_decay", |c| c.learn.tokens.weight_decay = Some(1.0)),
        ("learn.unet.lr", |c| c.learn.unet.lr = Some(1e-4)),
        ("learn.unet.schedule", |c| c.learn.unet.schedule = Some(ScheduleKind::Linear)),
        ("learn.unet.warmup", |c| c.learn.unet.warmup = Some(2)),
        ("learn.unet.weight_decay", |c| c.learn.unet.weight_decay = Some(9.0)),
        ("learn.unet.start", |c| c.learn.unet.start = Some(1)),
        ("learn.unet.stop", |c| c.learn.unet.stop = Some(3)),
        ("learn.tokens.schedule", |c| c.learn.tokens.schedule = Some(ScheduleKind::Linear)),
        ("learn.tokens.warmup", |c| c.learn.tokens.warmup = Some(2)),
        ("learn.text_encoder.stop", |c| c.learn.text_encoder.stop = Some(2)),
        ("learn.text_encoder.lr", |c| c.learn.text_encoder.lr = Some(1e-3)),
        ("learn.text_encoder.schedule", |c| c.learn.text_encoder.schedule = Some(ScheduleKind::Linear)),
        ("learn.text_encoder.warmup", |c| c.learn.text_encoder.warmup = Some(2)),
        ("learn.text_encoder.weight_decay", |c| c.learn.text_encoder.weight_decay = Some(99.0)),
    ];
    for (name, change) in changes {
        let mut changed = config.clone();
        change(&mut changed);
        assert!(result(&changed) != plain, "`{name}` changes nothing");
    }
    // Several words begin the rows of one word in turn.
    let mut rows = config.clone();
    rows.tokens.vectors = 2;
    let alike = result(&rows);
    rows.tokens.init = vec!["dog photo".into()];
    assert!(result(&rows) != alike);
    // So do the pieces of a word that the base has no token for, where there are rows for all of them.
    rows.tokens.vectors = 16;
    let alike = result(&rows);
    rows.tokens.init = vec!["unpronounceable".into()];
    assert!(result(&rows) != alike);
    // What a window takes from `[train]` when it is left out is the same as writing it down.
    let mut same = config.clone();
    same.learn.unet.lr = Some(config.train.lr);
    same.learn.tokens.stop = Some(2);
    assert!(result(&same) == plain);
}

#[test]
fn words_that_cannot_be_learned_are_refused_before_anything_is_written() {
    let place = Workplace::new();
    let refused = |change: &dyn Fn(&mut TrainConfig)| {
        let mut config = words(&place, Method::TextualInversion);
        change(&mut config);
        let error = run(&config).unwrap_err();
        assert!(!place.folder.path().join("runs").exists(), "{error}");
        assert!(!error.hints().is_empty() || matches!(error, TrainError::Tokenizer(_)), "{error}");
        error.to_string()
    };
    assert!(refused(&|c| c.tokens.add = vec!["dog".into()]).contains("exists"));
    assert!(refused(&|c| c.tokens.add = vec!["<a>".into(), "<a>".into()]).contains("twice"));
    assert!(refused(&|c| c.tokens.init = vec!["two words".into()]).contains("2 words"));
    assert!(refused(&|c| c.tokens.init = vec!["unpronounceable".into()]).contains("tokens of this base"));
    assert!(refused(&|c| c.data.trigger = Some("sks".into())).contains("occurs in no text"));
    assert!(refused(&|c| c.tokens.add.clear()).contains("new words"));
    assert!(refused(&|c| c.learn.tokens.stop = Some(3)).contains("nothing learns in update 3"));
}

#[test]
fn words_are_learned_on_the_second_family_too() {
    let place = Workplace::new();
    let mut config = words(&place, Method::Pivotal);
    config.base.model = common::fixture("tiny-sd2").display().to_string();
    config.train.steps = 2;
    config.tokens.vectors = 3;
    let summary = run(&config).unwrap();
    let file = SafetensorsFile::open(&summary.folder.join("embeddings/s1.safetensors")).unwrap();
    assert_eq!(file.read("emb_params").unwrap().dims(), [3, 64]);
}
