//! Whole runs on a tiny base: reproducible, resumable, every option heard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

mod common;

use common::{Heard, Workplace, adapter, paint, run, run_with, tensors};
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_tensor::DType;
use scumble_train::config::*;
use scumble_train::metrics;
use scumble_train::run::{Outcome, Start};
use scumble_train::{TrainConfig, TrainError};

fn resume() -> Start {
    Start::Resume { from: None, allow_changes: false }
}

/// The largest difference of two adapters, as a share of the largest value of each factor.
fn distance(a: &std::path::Path, b: &std::path::Path) -> f64 {
    let (a, b) = (SafetensorsFile::open(a).unwrap(), SafetensorsFile::open(b).unwrap());
    assert_eq!(a.names(), b.names());
    let mut worst = 0f64;
    for name in a.names() {
        let (a, b) = (
            a.read(&name).unwrap().to_vec::<f64>().unwrap(),
            b.read(&name).unwrap().to_vec::<f64>().unwrap(),
        );
        let largest = a.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
        let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        worst = worst.max(off / largest);
    }
    worst
}

#[test]
fn the_same_run_gives_the_same_bytes_in_a_folder_of_its_own() {
    let place = Workplace::new();
    let mut config = place.config();
    config.lora.unet.dropout = 0.1;
    let (first, second) = (run(&config).unwrap(), run(&config).unwrap());
    assert_eq!(first.outcome, Outcome::Finished);
    assert!(first.folder.ends_with("lora") && second.folder.ends_with("lora-2"));
    assert!(adapter(&first) == adapter(&second));
    let records = |folder: &std::path::Path| metrics::read(&folder.join("metrics.jsonl")).unwrap();
    let (a, b) = (records(&first.folder), records(&second.folder));
    assert_eq!(a.len(), 6);
    assert!(a.iter().zip(&b).all(|(a, b)| (a.loss, a.grad_norm, &a.lr) == (b.loss, b.grad_norm, &b.lr)));
    for file in ["config.toml", "loss.png", "lora.safetensors"] {
        assert!(first.folder.join(file).is_file(), "{file}");
    }
    // The file in the folder is the run.
    let text = std::fs::read_to_string(first.folder.join("config.toml")).unwrap();
    let third = run(&TrainConfig::from_toml(&text).unwrap()).unwrap();
    assert!(adapter(&first) == adapter(&third));
    config.train.seed = 1;
    assert!(tensors(&first) != tensors(&run(&config).unwrap()));
}

#[test]
fn stopped_and_resumed_it_ends_in_the_same_bytes() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.batch = 3;
    config.train.schedule = ScheduleKind::Cosine;
    config.data.flip = true;
    config.lora.text_encoder.train = true;
    config.lora.unet.dropout = 0.1;
    config.save.every = 2;
    config.save.keep_last = 0;
    let undisturbed = run(&config).unwrap();

    config.save.name = "again".into();
    let stopped = run_with(&config, &Start::New, Some(3), &Heard::default()).unwrap();
    assert_eq!((stopped.outcome, stopped.steps), (Outcome::Interrupted, 3));
    assert!(stopped.folder.join("again-step000003.safetensors").is_file());
    let resumed = run_with(&config, &resume(), None, &Heard::default()).unwrap();
    assert_eq!((resumed.outcome, &resumed.folder), (Outcome::Finished, &stopped.folder));
    // The name is part of the metadata; the tensors are the same.
    assert_eq!(distance(&undisturbed.adapters[0], &resumed.adapters[0]), 0.0);
    let steps: Vec<u64> =
        metrics::read(&resumed.folder.join("metrics.jsonl")).unwrap().iter().map(|r| r.step).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    let checkpoint = |folder: &std::path::Path, step: u64| {
        std::fs::read(folder.join(format!("checkpoints/step-{step:08}.safetensors"))).unwrap()
    };
    assert!(checkpoint(&undisturbed.folder, 6) == checkpoint(&resumed.folder, 6), "optimizer and all");

    // From a checkpoint in the middle as well.
    let from = Some(undisturbed.folder.join("checkpoints/step-00000002.safetensors"));
    config.save.name = "lora".into();
    let before = adapter(&undisturbed);
    let again =
        run_with(&config, &Start::Resume { from, allow_changes: false }, None, &Heard::default()).unwrap();
    assert!(before == adapter(&again));
}

#[test]
fn a_changed_run_is_not_resumed_unless_told() {
    let place = Workplace::new();
    let mut config = place.config();
    let nothing = run_with(&config, &resume(), None, &Heard::default()).unwrap_err();
    assert!(matches!(nothing, TrainError::NoCheckpoint { .. }), "{nothing}");
    run_with(&config, &Start::New, Some(2), &Heard::default()).unwrap();
    config.train.lr = 5e-4;
    config.train.steps = 8;
    std::fs::write(place.folder.path().join("pictures/0.txt"), "a new text").unwrap();
    let error = run_with(&config, &resume(), None, &Heard::default()).unwrap_err();
    let TrainError::Drift { changes } = &error else { panic!("{error}") };
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert!(
        changes[0].contains("train.lr") && changes[1].contains("train.steps") && changes[2].contains("texts")
    );
    let heard = Heard::default();
    let start = Start::Resume { from: None, allow_changes: true };
    assert_eq!(run_with(&config, &start, None, &heard).unwrap().steps, 8);
    assert!(heard.warnings().iter().any(|text| text.contains("train.lr")), "{:?}", heard.warnings());
}

#[test]
fn two_passes_of_one_are_a_batch_of_two() {
    let place = Workplace::new();
    let mut config = place.config();
    config.save.dtype = FileType::F32;
    config.train.optimizer = OptimizerKind::Sgd; // Adam would blow rounding up where a gradient is near zero
    // Small and short: at 64 x 64 pixels the lowest level has one cell, and its norms magnify rounding step by step.
    config.train.lr = 1e-2;
    config.train.steps = 2;
    config.train.batch = 2;
    let together = run(&config).unwrap();
    config.train.batch = 1;
    config.train.accumulate = 2;
    let apart = run(&config).unwrap();
    let off = distance(&together.adapters[0], &apart.adapters[0]);
    assert!(off < 1e-3, "{off}");
    config.train.accumulate = 1;
    assert!(distance(&together.adapters[0], &run(&config).unwrap().adapters[0]) > 1e-2);
}

#[test]
fn every_option_is_heard() {
    let place = Workplace::new();
    std::fs::write(place.folder.path().join("pictures/1.txt"), "a red square").unwrap();
    let tensors = |config: &TrainConfig| tensors(&run(config).unwrap());
    let mut config = place.config();
    config.train.steps = 3;
    config.train.seed = 5;
    config.data.trigger = Some("sks".into());
    let plain = tensors(&config);
    type Change = fn(&mut TrainConfig);
    let changes: &[(&str, Change)] = &[
        ("base.prediction", |c| c.base.prediction = Some(Prediction::Velocity)),
        ("data.width", |c| c.data.width = 72),
        ("data.captions", |c| (c.data.captions, c.data.prompt) = (CaptionSource::FileName, None)),
        ("data.prompt", |c| c.data.prompt = Some("a cat".into())),
        ("data.trigger", |c| c.data.trigger = Some("zwx".into())),
        ("data.template", |c| (c.data.template, c.data.prompt) = (Template::Object, None)),
        ("data.template", |c| (c.data.template, c.data.prompt) = (Template::Style, None)),
        ("data.crop", |c| c.data.crop = Crop::Random),
        ("data.flip", |c| c.data.flip = true),
        ("data.repeats", |c| c.data.repeats = 3),
        ("lora.exclude", |c| c.lora.exclude = vec!["unet.mid_block.*".into()]),
        ("lora.include", |c| c.lora.include = vec!["conv1".into()]),
        ("lora.unet.targets", |c| c.lora.unet.targets = Targets::Attention),
        ("lora.unet.rank", |c| c.lora.unet.rank = 2),
        ("lora.unet.alpha", |c| c.lora.unet.alpha = Some(1.0)),
        ("lora.unet.dropout", |c| c.lora.unet.dropout = 0.5),
        ("lora.text_encoder.train", |c| c.lora.text_encoder.train = true),
        ("train.steps", |c| c.train.steps = 4),
        ("train.batch", |c| c.train.batch = 2),
        ("train.accumulate", |c| c.train.accumulate = 2),
        ("train.seed", |c| c.train.seed = 7),
        ("train.lr", |c| c.train.lr = 2e-3),
        ("train.schedule", |c| c.train.schedule = ScheduleKind::Linear),
        ("train.warmup", |c| c.train.warmup = 2),
        ("train.optimizer", |c| c.train.optimizer = OptimizerKind::Sgd),
        ("adamw8", |c| c.train.optimizer = OptimizerKind::AdamW8),
        ("adafactor", |c| c.train.optimizer = OptimizerKind::Adafactor),
        ("lion", |c| c.train.optimizer = OptimizerKind::Lion),
        ("prodigy", |c| (c.train.optimizer, c.train.lr) = (OptimizerKind::Prodigy, 1.0)),
        ("train.beta1", |c| c.train.beta1 = 0.5),
        ("train.beta2", |c| c.train.beta2 = Some(0.5)),
        ("train.eps", |c| c.train.eps = 1e-2),
        ("train.weight_decay", |c| c.train.weight_decay = 10.0),
        ("train.max_grad_norm", |c| c.train.max_grad_norm = 1e-9),
        ("train.min_snr_gamma", |c| c.train.min_snr_gamma = Some(1.0)),
        ("train.noise_offset", |c| c.train.noise_offset = 0.2),
        ("save.dtype", |c| c.save.dtype = FileType::Bf16),
        ("save.formats", |c| c.save.formats = vec![FileFormat::Peft]),
    ];
    for (name, change) in changes {
        let mut changed = config.clone();
        change(&mut changed);
        assert!(tensors(&changed) != plain, "`{name}` changes nothing");
    }
    // These change how, not what.
    let same: &[(&str, Change)] = &[
        ("cache none", |c| (c.cache.latents, c.cache.texts) = (CacheMode::None, CacheMode::None)),
        ("cache disk", |c| (c.cache.latents, c.cache.texts) = (CacheMode::Disk, CacheMode::Disk)),
        ("cache disk, filled", |c| (c.cache.latents, c.cache.texts) = (CacheMode::Disk, CacheMode::Disk)),
        ("threads", |c| c.train.threads = Some(1)),
        ("train.checkpointing", |c| c.train.checkpointing = true),
        ("train.memory", |c| c.train.memory = Some(1e3)),
        ("validation", |c| paint(c, &["sks dog"], 0)),
        ("tensorboard", |c| c.save.tensorboard = false),
    ];
    for (name, change) in same {
        let mut changed = config.clone();
        change(&mut changed);
        assert!(tensors(&changed) == plain, "`{name}` changes the result");
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradient() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.steps = 2;
    let records = |config: &TrainConfig| {
        let folder = run(config).unwrap().folder;
        metrics::read(&folder.join("metrics.jsonl")).unwrap()
    };
    let kept = records(&config);
    config.train.checkpointing = true;
    for (kept, recomputed) in kept.iter().zip(records(&config)) {
        assert_eq!((kept.loss, kept.grad_norm), (recomputed.loss, recomputed.grad_norm));
    }
}

#[test]
fn cycles_power_and_the_text_encoders_own_settings_are_heard() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.steps = 3;
    config.lora.text_encoder.train = true;
    let check = |base: &TrainConfig, name: &str, change: &dyn Fn(&mut TrainConfig)| {
        let mut changed = base.clone();
        change(&mut changed);
        assert!(tensors(&run(base).unwrap()) != tensors(&run(&changed).unwrap()), "{name}");
    };
    check(&config, "rank", &|c| c.lora.text_encoder.rank = 2);
    check(&config, "alpha", &|c| c.lora.text_encoder.alpha = Some(1.0));
    check(&config, "dropout", &|c| c.lora.text_encoder.dropout = 0.5);
    check(&config, "targets", &|c| c.lora.text_encoder.targets = Targets::AllLinear);
    check(&config, "lr_text_encoder", &|c| c.train.lr_text_encoder = 1e-3);
    config.train.schedule = ScheduleKind::CosineWithRestarts;
    check(&config, "cycles", &|c| c.train.cycles = Some(2.0));
    config.train.schedule = ScheduleKind::Polynomial;
    check(&config, "power", &|c| c.train.power = 3.0);
}

#[test]
fn only_the_last_checkpoints_and_their_adapters_are_kept() {
    let place = Workplace::new();
    let mut config = place.config();
    config.save.every = 1;
    config.save.keep_last = 2;
    config.save.formats = vec![FileFormat::Original, FileFormat::Peft, FileFormat::Kohya];
    let summary = run(&config).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(&summary.folder)
        .unwrap()
        .chain(std::fs::read_dir(summary.folder.join("checkpoints")).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    names.sort();
    let expected = [
        "lora-kohya-step000005.safetensors",
        "lora-kohya.safetensors",
        "lora-peft-step000005.safetensors",
        "lora-peft.safetensors",
        "lora-step000005.safetensors",
        "lora.safetensors",
        "step-00000005.safetensors",
        "step-00000006.safetensors",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_run_that_diverges_stops_and_keeps_its_last_checkpoint() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.optimizer = OptimizerKind::Sgd;
    config.train.lr = 1e3;
    config.train.max_grad_norm = 0.0;
    config.train.weight_decay = 0.0;
    config.train.steps = 200;
    config.save.dtype = FileType::F32;
    config.save.every = 1;
    let error = run(&config).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, TrainError::NotFinite { .. } | TrainError::Adapter(_)), "{message}");
    assert!(message.contains("step") || message.contains("finite"), "{message}");
    let store = scumble_train::run::folder::checkpoints_of(&place.folder.path().join("runs/lora"));
    let last = store.latest().unwrap();
    assert!(last.step < 200);
}

#[test]
fn validation_pictures_begin_with_the_base_and_end_in_a_sheet() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.lr = 0.05;
    paint(&mut config, &["a photo of sks dog", "a cat"], 4);
    let summary = run(&config).unwrap();
    let picture = |step: u64, prompt: usize| {
        std::fs::read(summary.folder.join(format!("samples/step-{step:08}-{prompt}.png"))).unwrap()
    };
    for step in [0, 4, 6] {
        for prompt in 0..2 {
            assert!(!picture(step, prompt).is_empty());
        }
    }
    assert!(picture(0, 0) != picture(6, 0));
    assert!(picture(0, 0) != picture(0, 1));
    assert!(summary.folder.join("before-after.png").is_file());
    config.train.steps = 2;
    config.validate.every = 0;
    let other = run(&config).unwrap();
    let first = std::fs::read(other.folder.join("samples/step-00000000-0.png")).unwrap();
    assert!(first == picture(0, 0), "before training it is the base's picture, whatever the run");
}

#[test]
fn every_setting_of_the_painting_is_heard() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.steps = 1;
    paint(&mut config, &["a photo of sks dog"], 0);
    let before = |change: &dyn Fn(&mut TrainConfig)| {
        let mut changed = config.clone();
        change(&mut changed);
        std::fs::read(run(&changed).unwrap().folder.join("samples/step-00000000-0.png")).unwrap()
    };
    let plain = before(&|_| ());
    type Change = fn(&mut TrainConfig);
    let changes: &[(&str, Change)] = &[
        ("validate.negative", |c| c.validate.negative = "a cat".into()),
        ("validate.seed", |c| c.validate.seed = 1),
        ("validate.steps", |c| c.validate.steps = 3),
        ("validate.guidance", |c| c.validate.guidance = 2.0),
        ("validate.sampler", |c| c.validate.sampler = Some("euler".into())),
    ];
    for (name, change) in changes {
        assert!(before(change) != plain, "`{name}` changes nothing");
    }
}

#[test]
fn the_cache_and_what_is_computed_again_go_where_they_are_told() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.steps = 1;
    let folder = place.folder.path().join("elsewhere");
    (config.cache.latents, config.cache.folder) = (CacheMode::Disk, Some(folder.clone()));
    run(&config).unwrap();
    assert!(std::fs::read_dir(&folder).unwrap().count() > 0);
    assert!(!place.folder.path().join("runs/cache").exists());
    (config.cache.latents, config.cache.folder) = (CacheMode::Memory, None);
    run(&config).unwrap();
    assert!(!place.folder.path().join("runs/cache").exists());
    (config.cache.latents, config.cache.texts) = (CacheMode::None, CacheMode::Disk);
    run(&config).unwrap();
    assert!(place.folder.path().join("runs/cache").exists());

    let stop = std::sync::atomic::AtomicBool::new(false);
    let backend = std::sync::Arc::new(scumble_cpu::CpuBackend::new(Some(1)).unwrap());
    let services = scumble_train::run::Services { backend, reporter: &|_| {}, stop: &stop };
    let blocks =
        |config: &TrainConfig| scumble_train::run::plan(config, &services).unwrap().recomputed_blocks;
    assert_eq!(blocks(&config), 0);
    config.train.checkpointing = true;
    assert!(blocks(&config) > 0);
}

#[test]
fn missing_class_pictures_are_painted_once_and_trained_on() {
    let place = Workplace::new();
    let mut config = place.config();
    let plain = tensors(&run(&config).unwrap());
    config.data.class_prompt = Some("a photo of a dog".into());
    config.data.class_count = 3;
    config.data.class_steps = 2;
    let with = run(&config).unwrap();
    let folder = place.folder.path().join("runs/class-pictures/a-photo-of-a-dog");
    let files = || {
        let mut all: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let painted = files();
    assert_eq!(painted.len(), 3);
    assert!(painted[0] != painted[1]);
    assert!(plain != tensors(&with));
    assert!(adapter(&with) == adapter(&run(&config).unwrap()));
    assert!(painted == files());
    config.data.prior_weight = 0.2;
    assert!(tensors(&with) != tensors(&run(&config).unwrap()));
    let others = place.folder.path().join("others");
    (config.data.class_folder, config.data.class_steps) = (Some(others.clone()), 3);
    run(&config).unwrap();
    assert!(std::fs::read(others.join("class-00000.png")).unwrap() != painted[0], "class_steps");
}

#[test]
fn caches_that_would_be_wrong_are_turned_off_and_say_so() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.steps = 1;
    let notes = |config: &TrainConfig| {
        let heard = Heard::default();
        run_with(config, &Start::New, None, &heard).unwrap();
        heard.notes().join("\n")
    };
    assert_eq!(notes(&config), "");
    config.data.flip = true;
    assert!(notes(&config).contains("mirrored"));
    config.data.crop = Crop::Random;
    assert!(notes(&config).contains("random crops"));
    config.lora.text_encoder.train = true;
    assert!(notes(&config).contains("texts are not cached"));
}

#[test]
fn a_plan_writes_nothing_and_knows_the_sizes() {
    let place = Workplace::new();
    let mut config = place.config();
    config.data.class_prompt = Some("a dog".into());
    config.data.class_count = 5;
    config.save.formats = vec![FileFormat::Kohya, FileFormat::Peft];
    let stop = std::sync::atomic::AtomicBool::new(false);
    let backend = std::sync::Arc::new(scumble_cpu::CpuBackend::new(Some(2)).unwrap());
    let reporter = |_| {};
    let services = scumble_train::run::Services { backend, reporter: &reporter, stop: &stop };
    let plan = scumble_train::run::plan(&config, &services).unwrap();
    assert!(!place.folder.path().join("runs").exists());
    assert_eq!((plan.data.pictures, plan.class_pictures_to_paint, plan.steps), (4, 5, 6));
    assert_eq!(plan.epochs, 1.5);
    assert!(plan.memory_bytes > 1 << 20 && plan.seconds > 0.0);
    (config.data.class_prompt, config.data.class_count) = (None, Data::default().class_count);
    let summary = run(&config).unwrap();
    for (planned, path) in plan.files.iter().zip(&summary.adapters) {
        let real = std::fs::metadata(path).unwrap().len() as f64;
        let off = (planned.bytes as f64 - real).abs() / real;
        assert!(off < 0.1, "{}: {} planned, {real} written", planned.format, planned.bytes);
    }
}

/// A base folder with the fixture's networks and another noise schedule.
fn base_with_scheduler(place: &Workplace, change: impl Fn(&mut serde_json::Value)) -> String {
    let (from, to) = (common::fixture("tiny-sd1"), place.folder.path().join("base"));
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        std::fs::create_dir_all(to.join(part)).unwrap();
        for entry in std::fs::read_dir(from.join(part)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(part).join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::copy(from.join("model_index.json"), to.join("model_index.json")).unwrap();
    let path = to.join("scheduler/scheduler_config.json");
    let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    to.display().to_string()
}

#[test]
fn noise_at_the_end_needs_velocity() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.min_snr_gamma = Some(5.0);
    config.base.model = base_with_scheduler(&place, |config| config["rescale_betas_zero_snr"] = true.into());
    let error = run(&config).unwrap_err();
    assert!(error.to_string().contains("pure noise") && error.hints()[0].contains("v_prediction"), "{error}");
    config.base.prediction = Some(Prediction::Velocity);
    assert_eq!(run(&config).unwrap().outcome, Outcome::Finished);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_written() {
    let place = Workplace::new();
    let refused = |change: &dyn Fn(&mut TrainConfig)| {
        let mut config = place.config();
        change(&mut config);
        let error = run(&config).unwrap_err();
        assert!(!place.folder.path().join("runs").exists(), "{error}");
        assert!(
            !error.hints().is_empty() || matches!(error, TrainError::Adapter(_) | TrainError::Sampler(_)),
            "{error} has no hint"
        );
        error.to_string()
    };
    let empty = tempfile::tempdir().unwrap();
    assert!(refused(&|c| c.data.folder = empty.path().into()).contains("no pictures"));
    assert!(refused(&|c| c.data.folder = "/no/such/folder".into()).contains("/no/such/folder"));
    assert!(refused(&|c| c.base.model = "/no/such/base".into()).contains("/no/such/base"));
    assert!(refused(&|c| c.lora.unet.rank = 4000).contains("rank 4000"));
    assert!(refused(&|c| c.lora.exclude = vec!["nothing_like_it".into()]).contains("nothing_like_it"));
    assert!(
        refused(&|c| {
            paint(c, &["x"], 0);
            c.validate.sampler = Some("eulr".into());
        })
        .contains("eulr")
    );
}

#[test]
fn the_autoencoder_computes_in_f32_whatever_the_precision() {
    let place = Workplace::new();
    let mut config = place.config();
    (config.cache.latents, config.cache.texts) = (CacheMode::Disk, CacheMode::None);
    paint(&mut config, &["a photo of sks dog"], 0);
    let cached = || {
        let mut files = Vec::new();
        let mut folders = vec![place.folder.path().join("runs/cache")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    };
    run(&config).unwrap();
    let exact = cached();
    assert!(!exact.is_empty());
    config.train.precision = Precision::Bf16;
    let summary = run(&config).unwrap();
    assert_eq!(cached(), exact, "both precisions have the same latents");
    assert!(summary.folder.join("samples/step-00000006-0.png").is_file());

    let backend = scumble_cpu::CpuBackend::new(Some(2)).unwrap();
    let load = |dtype| scumble_train::run::base::Base::load(&config.base, dtype, &backend, &|_| {}).unwrap();
    let (exact, short) = (load(DType::F32), load(DType::BF16));
    assert_eq!((short.vae.dtype(), short.unet.dtype()), (DType::F32, DType::BF16));
    assert_eq!(exact.vae_hash, short.vae_hash);
    assert_ne!(exact.text_hash, short.text_hash);
}

#[test]
fn what_is_there_to_watch_after_a_stop_is_what_an_uninterrupted_run_leaves() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.steps = 4;
    paint(&mut config, &["sks dog", "a cat"], 1);
    let whole = run(&config).unwrap();
    let events = |summary: &scumble_train::run::Summary| -> Vec<(u64, bool)> {
        let bytes = std::fs::read(summary.folder.join("events.out.tfevents.scumble")).unwrap();
        let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let data = &rest[12..12 + length];
            // After the wall time: the step, in one byte, and what a summary holds.
            if data[9] == 0x10 {
                found.push((u64::from(data[10]), data.windows(8).any(|window| window == b"samples/")));
            }
            rest = &rest[16 + length..];
        }
        found
    };
    let expected: Vec<(u64, bool)> = [(0, true), (0, true)]
        .into_iter()
        .chain((1..=4).flat_map(|step| [(step, false), (step, true), (step, true)]))
        .collect();
    assert_eq!(events(&whole), expected);
    for name in ["samples.png", "samples.gif"] {
        assert!(whole.folder.join(name).is_file(), "{name}");
    }
    let stopped = run_with(&config, &Start::New, Some(2), &Heard::default()).unwrap();
    // The pictures of step 2 were left out in the hurry; going on paints them first.
    assert_eq!((stopped.steps, events(&stopped).len()), (2, 6));
    assert!(stopped.folder.join("samples.png").is_file());
    let resume = Start::Resume { from: Some(stopped.folder.clone()), allow_changes: false };
    let resumed = run_with(&config, &resume, None, &Heard::default()).unwrap();
    assert_eq!(events(&resumed), expected);
    for name in ["samples.png", "samples.gif"] {
        assert!(
            std::fs::read(resumed.folder.join(name)).unwrap()
                == std::fs::read(whole.folder.join(name)).unwrap()
        );
    }
    config.save.tensorboard = false;
    config.validate = Validate::default();
    let silent = run(&config).unwrap();
    for name in ["events.out.tfevents.scumble", "samples.png", "samples.gif"] {
        assert!(!silent.folder.join(name).exists(), "{name}");
    }
}
