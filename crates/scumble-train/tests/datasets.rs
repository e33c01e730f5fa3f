//! Runs over several folders, with held-out pictures, and on a base that fills holes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

mod common;

use std::path::Path;

use common::{Heard, Workplace, fixture, run, run_with};
use scumble_model::files::{SafetensorsFile, TensorSource, write_safetensors};
use scumble_tensor::{DType, Tensor};
use scumble_train::config::*;
use scumble_train::data::{DataError, gather};
use scumble_train::metrics::{self, StepRecord};
use scumble_train::picture::{Picture, png};
use scumble_train::run::event::Event;
use scumble_train::run::{Outcome, Start, Summary};
use scumble_train::{TrainConfig, TrainError};

fn resume() -> Start {
    Start::Resume { from: None, allow_changes: false }
}

/// The tensors of a run's adapter: its metadata tells the settings, which tests change.
fn factors(summary: &Summary) -> Vec<Vec<u8>> {
    let file = SafetensorsFile::open(&summary.adapters[0]).unwrap();
    file.names().iter().map(|name| file.read(name).unwrap().bytes().unwrap().to_vec()).collect()
}

fn records(folder: &Path) -> Vec<StepRecord> {
    metrics::read(&folder.join("metrics.jsonl")).unwrap()
}

/// A second folder with pictures of other shapes, and a dataset file over both.
fn two_concepts(place: &Workplace) -> TrainConfig {
    let root = place.folder.path();
    std::fs::create_dir(root.join("more")).unwrap();
    for (name, width, height) in [("wide", 120, 64), ("tall", 64, 120), ("square", 80, 80)] {
        let rgb = (0..width * height).flat_map(|i| [(i % 251) as u8, (i / width) as u8, 90]).collect();
        let picture = Picture::from_rgb(width, height, rgb).unwrap();
        png::write(&root.join(format!("more/{name}.png")), &picture, &[]).unwrap();
        std::fs::write(root.join(format!("more/{name}.txt")), format!("{name}, blue, small, thing")).unwrap();
    }
    let text = r#"
        [defaults]
        trigger = "sks"
        [[concept]]
        folder = "pictures"
        repeats = 2
        [[concept]]
        folder = "more"
        weight = 0.5
        shuffle_tags = true
        keep_tags = 1
        flip = true
    "#;
    std::fs::write(root.join("set.toml"), text).unwrap();
    let mut config = place.config();
    config.data.folder = "".into();
    config.data.dataset = Some(root.join("set.toml"));
    config.data.buckets = true;
    config.train.batch = 3;
    config
}

#[test]
fn several_folders_train_together_and_resume_in_the_same_bytes() {
    let place = Workplace::new();
    let mut config = two_concepts(&place);
    config.save.every = 2;
    let undisturbed = run(&config).unwrap();
    assert_eq!(undisturbed.outcome, Outcome::Finished);
    config.save.name = "again".into();
    run_with(&config, &Start::New, Some(3), &Heard::default()).unwrap();
    let resumed = run_with(&config, &resume(), None, &Heard::default()).unwrap();
    let checkpoint =
        |folder: &Path| std::fs::read(folder.join("checkpoints/step-00000006.safetensors")).unwrap();
    assert!(checkpoint(&undisturbed.folder) == checkpoint(&resumed.folder));

    // Every term of the file decides the course.
    let file = config.data.dataset.clone().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    for (old, new) in [
        ("repeats = 2", "repeats = 3"),
        ("weight = 0.5", "weight = 0.7"),
        ("keep_tags = 1", "keep_tags = 2"),
        ("flip = true", "flip = false"),
        ("trigger = \"sks\"", "trigger = \"zwx\""),
    ] {
        std::fs::write(&file, text.replace(old, new)).unwrap();
        let error = run_with(&config, &resume(), None, &Heard::default()).unwrap_err();
        assert!(matches!(&error, TrainError::Drift { .. }), "{old}: {error}");
        config.save.name = format!("changed {}", old.len());
        assert!(factors(&run(&config).unwrap()) != factors(&undisturbed), "`{new}` changes nothing");
        config.save.name = "again".into();
    }
}

#[test]
fn sizes_of_a_batch_are_added_up() {
    let place = Workplace::new();
    let mut config = two_concepts(&place);
    config.train.steps = 1;
    // All seven pictures, in one update or one after the other: the same gradient but for rounding.
    let first = |batch: usize, accumulate: usize| {
        let mut config = config.clone();
        (config.train.batch, config.train.accumulate) = (batch, accumulate);
        records(&run(&config).unwrap().folder).remove(0)
    };
    let together = first(11, 1);
    let again = first(11, 1);
    assert_eq!((together.loss, together.grad_norm), (again.loss, again.grad_norm));
    assert!(together.loss.is_finite() && together.grad_norm > 0.0);
}

#[test]
fn class_pictures_of_several_concepts_are_painted_and_trained_on() {
    let place = Workplace::new();
    let mut config = two_concepts(&place);
    let file = config.data.dataset.clone().unwrap();
    let class = "class_count = 2\nclass_prompt = ";
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text
        .replace("repeats = 2", &format!("{class}\"a dog\""))
        .replace("weight = 0.5", &format!("{class}\"a thing\""));
    config.data.class_steps = 1;
    config.train.steps = 1;
    let without = factors(&run(&config).unwrap());
    std::fs::write(&file, text).unwrap();
    let with = factors(&run(&config).unwrap());
    assert!(with != without);
    for folder in ["a-dog", "a-thing"] {
        let painted = config.save.folder.join("class-pictures").join(folder);
        assert_eq!(std::fs::read_dir(painted).unwrap().count(), 2);
    }
}

#[test]
fn held_out_pictures_are_tested_and_not_trained_on() {
    let place = Workplace::new();
    let mut config = place.config();
    (config.holdout.share, config.holdout.every, config.holdout.draws) = (0.25, 2, 2);
    let heard = Heard::default();
    let first = run_with(&config, &Start::New, None, &heard).unwrap();
    let tested: Vec<Option<f64>> = records(&first.folder).iter().map(|r| r.validation_loss).collect();
    assert_eq!(
        tested.iter().map(Option::is_some).collect::<Vec<_>>(),
        [false, true, false, true, false, true]
    );
    let heard_of: Vec<u64> = heard
        .0
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| if let Event::Tested { step, .. } = event { Some(*step) } else { None })
        .collect();
    assert_eq!(heard_of, [0, 2, 4, 6]);
    assert!(first.folder.join("best/lora.safetensors").is_file());
    let again = run(&config).unwrap();
    let second: Vec<Option<f64>> = records(&again.folder).iter().map(|r| r.validation_loss).collect();
    assert_eq!(tested, second);
    // More draws are another loss; holding out is another run.
    config.holdout.draws = 3;
    let more = records(&run(&config).unwrap().folder)[1].validation_loss;
    assert!(more.is_some() && more != tested[1]);
    let mut all = place.config();
    all.train.batch = 4;
    config.train.batch = 4;
    assert!(factors(&run(&all).unwrap()) != factors(&run(&config).unwrap()));

    // A folder of its own takes nothing away.
    let tests = place.folder.path().join("tests");
    std::fs::create_dir(&tests).unwrap();
    std::fs::copy(place.folder.path().join("pictures/0.png"), tests.join("0.png")).unwrap();
    let mut folder = place.config();
    folder.train.batch = 4;
    folder.holdout.folder = Some(tests);
    let with = run(&folder).unwrap();
    assert!(factors(&with) == factors(&run(&all).unwrap()));
    assert!(records(&with.folder)[5].validation_loss.is_some(), "after the last step");
    config.holdout.share = 0.9;
    let error = run(&config).unwrap_err();
    assert!(error.to_string().contains("held out") && !error.hints().is_empty(), "{error}");
}

#[test]
fn a_run_that_gets_no_better_stops_early_and_says_where_the_best_is() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.steps = 40;
    // Far too fast: it only gets worse.
    config.train.lr = 0.5;
    config.train.max_grad_norm = 0.0;
    (config.holdout.share, config.holdout.every, config.holdout.patience) = (0.25, 1, 3);
    let heard = Heard::default();
    let summary = run_with(&config, &Start::New, None, &heard).unwrap();
    assert_eq!(summary.outcome, Outcome::Finished);
    assert!(summary.steps < 40, "{}", summary.steps);
    assert!(heard.notes().iter().any(|note| note.contains("stopped early")), "{:?}", heard.notes());
    assert!(summary.adapters[0].is_file());
    let losses: Vec<f64> = records(&summary.folder).iter().filter_map(|r| r.validation_loss).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(losses.len() - 4, losses.iter().position(|&loss| loss == best).unwrap());
    let kept = SafetensorsFile::open(&summary.folder.join("best/lora.safetensors")).unwrap();
    assert_eq!(kept.metadata()["ss_steps"], (losses.len() - 3).to_string());
    // Going on with what has ended ends at once.
    let again = run_with(&config, &resume(), None, &Heard::default()).unwrap();
    assert_eq!(again.steps, summary.steps);
}

/// The tiny base with five more input channels, whose weights are not zero.
fn inpainting_base(place: &Workplace) -> std::path::PathBuf {
    let folder = place.folder.path().join("inpainting base");
    copy(&fixture("tiny-sd1"), &folder);
    let config = folder.join("unet/config.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    json["in_channels"] = 9.into();
    std::fs::write(&config, json.to_string()).unwrap();
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    let file = SafetensorsFile::open(&weights).unwrap();
    let tensors: Vec<(String, Tensor)> = file
        .names()
        .into_iter()
        .map(|name| {
            let tensor = file.read(&name).unwrap();
            if name != "conv_in.weight" {
                return (name, tensor);
            }
            let &[out, 4, 3, 3] = tensor.dims() else { panic!("{}", tensor.shape()) };
            let old = tensor.to_vec::<f32>().unwrap();
            let mut wide = Vec::new();
            for filter in old.chunks_exact(36) {
                wide.extend(filter);
                wide.extend((0..45).map(|i| 0.3 * filter[i % 36]));
            }
            (name, Tensor::from_slice(&wide, &[out, 9, 3, 3]).unwrap().to_dtype(DType::F16).unwrap())
        })
        .collect();
    drop(file);
    write_safetensors(&weights, &tensors, &Default::default()).unwrap();
    folder
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { _ = std::fs::copy(&path, &target).unwrap() }
    }
}

#[test]
fn a_base_for_inpainting_learns_with_holes_of_its_own_or_given_ones() {
    let place = Workplace::new();
    let mut config = place.config();
    config.base.model = inpainting_base(&place).display().to_string();
    config.train.steps = 2;
    common::paint(&mut config, &["a dog"], 0);
    (config.holdout.share, config.holdout.every) = (0.25, 1);
    let first = run(&config).unwrap();
    assert!(records(&first.folder).iter().all(|record| record.validation_loss.unwrap().is_finite()));
    assert!(first.folder.join("before-after.png").is_file());
    let plain = factors(&first);
    assert!(factors(&run(&config).unwrap()) == plain, "holes are drawn from the seed");
    let mut whole = config.clone();
    whole.inpaint.whole = 1.0;
    assert!(factors(&run(&whole).unwrap()) != plain, "inpaint.whole changes nothing");
    for picture in 0..4 {
        let mask = Picture::filled(72, 64, [if picture % 2 == 0 { 255 } else { 0 }; 3]);
        png::write(&place.folder.path().join(format!("pictures/{picture}.mask.png")), &mask, &[]).unwrap();
    }
    // A floor of 1 leaves the loss alone: what differs is the hole.
    (config.mask.source, config.mask.floor) = (MaskSource::File, 1.0);
    let random = factors(&run(&config).unwrap());
    config.inpaint.holes = Holes::Mask;
    assert!(factors(&run(&config).unwrap()) != random, "inpaint.holes changes nothing");
}

/// What a run says of its holes, and that a base without an input for them is asked for some.
#[test]
fn the_notes_say_where_holes_come_from() {
    let place = Workplace::new();
    let told = |config: &TrainConfig| {
        let heard = Heard::default();
        let plan = common::plan(config, &heard).unwrap();
        (heard.notes().join("\n"), plan.warnings.join("\n"))
    };
    let mut config = place.config();
    let (notes, warnings) = told(&config);
    assert!(!notes.contains("holes") && !warnings.contains("inpaint"), "{notes} {warnings}");
    config.inpaint.whole = 0.5;
    assert!(told(&config).1.contains("`[inpaint]` has no effect"), "{:?}", told(&config));
    config.base.model = inpainting_base(&place).display().to_string();
    let (notes, warnings) = told(&config);
    assert!(notes.contains("at random, in 50 %") && !warnings.contains("inpaint"), "{notes} {warnings}");
    let mask = |picture: usize| {
        let path = place.folder.path().join(format!("pictures/{picture}.mask.png"));
        png::write(&path, &Picture::filled(72, 64, [255; 3]), &[]).unwrap();
    };
    mask(0);
    (config.mask.source, config.inpaint.holes) = (MaskSource::File, Holes::Mask);
    let notes = told(&config).0;
    assert!(notes.contains("of 1 pictures their own mask; 3 ") && notes.contains("at random"), "{notes}");
    (1..4).for_each(mask);
    let notes = told(&config).0;
    assert!(notes.contains("each picture's own mask") && !notes.contains("at random"), "{notes}");
}

/// Masks that are asked for and are nowhere end the run before anything is loaded.
#[test]
fn masks_that_are_nowhere_are_refused() {
    let place = Workplace::new();
    let refused = |config: &TrainConfig, words: &[&str]| {
        let error = run(config).unwrap_err();
        let said = format!("{error} {:?}", error.hints());
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    let mut config = place.config();
    config.mask.source = MaskSource::Auto;
    refused(&config, &["`mask.source`", "pictures`", "<name>.mask.png", "transparency"]);
    let mask = place.folder.path().join("pictures/0.mask.png");
    png::write(&mask, &Picture::filled(72, 64, [255; 3]), &[]).unwrap();
    // Of four pictures one has a mask; some share of them takes it away, and leaves others.
    let shares = [0.25, 0.5, 0.75];
    let held_out = shares.into_iter().filter(|&share| {
        config.holdout.share = share;
        let dataset = gather::pictures(&config).unwrap();
        let taken = dataset.clone().hold_out(share);
        taken.is_err_and(|error| matches!(error, DataError::MasksHeldOut { masks: 1 }))
    });
    let share = held_out.collect::<Vec<_>>();
    assert!(!share.is_empty(), "no share takes the only mask");
    config.holdout.share = share[0];
    refused(&config, &["held out", "mask.source"]);

    let file = place.folder.path().join("set.toml");
    std::fs::write(&file, "[[concept]]\nfolder = \"pictures\"\n").unwrap();
    let mut config = place.config();
    (config.data.folder, config.data.dataset) = (Default::default(), Some(file.clone()));
    assert!(gather::pictures(&config).is_ok());
    config.mask.floor = 0.5;
    refused(&config, &["`mask.floor`", "set.toml", "[defaults]", "<name>.mask.png"]);
    (config.mask, config.inpaint.holes) = (Default::default(), Holes::Mask);
    refused(&config, &["`inpaint.holes`", "set.toml"]);
    std::fs::write(&file, "[[concept]]\nfolder = \"pictures\"\nmask = \"file\"\n").unwrap();
    assert_eq!(gather::pictures(&config).unwrap().report.masks, 1);
}
