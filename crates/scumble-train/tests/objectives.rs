//! Every setting of objective, masks, texts and sizes changes what is learnt, or is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

mod common;

use common::{Workplace, run};
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_train::TrainConfig;
use scumble_train::config::*;
use scumble_train::picture::{Picture, png};

type Change = fn(&mut TrainConfig);

fn factors(config: &TrainConfig) -> Vec<Vec<u8>> {
    let summary = run(config).unwrap_or_else(|error| panic!("{error}: {:?}", error.hints()));
    let file = SafetensorsFile::open(&summary.adapters[0]).unwrap();
    file.names().iter().map(|name| file.read(name).unwrap().bytes().unwrap().to_vec()).collect()
}

/// Fails for a change that trains the same factors.
fn heard(base: &TrainConfig, changes: &[(&str, Change)]) {
    let plain = factors(base);
    for (name, change) in changes {
        let mut changed = base.clone();
        change(&mut changed);
        assert!(factors(&changed) != plain, "`{name}` changes nothing");
    }
}

fn short(place: &Workplace) -> TrainConfig {
    let mut config = place.config();
    config.train.steps = 2;
    config.train.batch = 2;
    config.train.seed = 5;
    config
}

#[test]
fn every_objective_is_heard() {
    let place = Workplace::new();
    heard(
        &short(&place),
        &[
            ("loss huber", |c| c.objective.loss = LossShape::Huber),
            ("loss smooth_l1", |c| c.objective.loss = LossShape::SmoothL1),
            ("debiased", |c| c.objective.debiased = true),
            ("multires_levels", |c| c.objective.multires_levels = 6),
            ("input_perturbation", |c| c.objective.input_perturbation = 0.2),
            ("timestep_min", |c| c.objective.timestep_min = 900),
            ("timestep_max", |c| c.objective.timestep_max = Some(100)),
            ("logit-normal", |c| c.objective.timesteps = TimestepShape::LogitNormal),
            ("cubic", |c| c.objective.timesteps = TimestepShape::Cubic),
            ("cubic-fine", |c| c.objective.timesteps = TimestepShape::CubicFine),
        ],
    );
    let mut huber = short(&place);
    huber.objective.loss = LossShape::Huber;
    heard(
        &huber,
        &[
            ("huber_c", |c| c.objective.huber_c = 0.3),
            ("constant", |c| c.objective.huber_schedule = HuberCurve::Constant),
            ("exponential", |c| c.objective.huber_schedule = HuberCurve::Exponential),
        ],
    );
    let mut noises = short(&place);
    noises.train.noise_offset = 0.2;
    heard(&noises, &[("noise_offset_random", |c| c.objective.noise_offset_random = true)]);
    noises.train.noise_offset = 0.0;
    noises.objective.multires_levels = 4;
    heard(&noises, &[("multires_discount", |c| c.objective.multires_discount = 0.9)]);
    let mut middle = short(&place);
    middle.objective.timesteps = TimestepShape::LogitNormal;
    heard(
        &middle,
        &[
            ("timestep_mean", |c| c.objective.timestep_mean = 1.5),
            ("timestep_deviation", |c| c.objective.timestep_deviation = 0.2),
        ],
    );
}

#[test]
fn objectives_for_velocity_are_heard_and_refused_elsewhere() {
    let place = Workplace::new();
    let changes: &[(&str, Change)] = &[
        ("scale_v", |c| c.objective.scale_v = true),
        ("zero_terminal_snr", |c| c.objective.zero_terminal_snr = true),
    ];
    let mut velocity = short(&place);
    velocity.base.prediction = Some(Prediction::Velocity);
    heard(&velocity, changes);
    heard(
        &velocity,
        &[
            ("min_snr_gamma", |c| c.train.min_snr_gamma = Some(1.0)),
            ("debiased", |c| c.objective.debiased = true),
        ],
    );
    for (name, change) in changes {
        let mut epsilon = short(&place);
        change(&mut epsilon);
        let error = run(&epsilon).unwrap_err();
        assert!(error.to_string().contains(name) && error.hints().len() == 1, "{name}: {error}");
    }
    // Painted while training, the rescaled noise levels must work too.
    velocity.objective.zero_terminal_snr = true;
    common::paint(&mut velocity, &["a dog"], 0);
    run(&velocity).unwrap();
    let mut beyond = short(&place);
    beyond.objective.timestep_max = Some(1001);
    assert!(run(&beyond).unwrap_err().to_string().contains("timestep_max"));
}

#[test]
fn masks_are_heard() {
    let place = Workplace::new();
    for picture in 0..4 {
        let pixel = |i: usize| [if i % 72 < 10 + 12 * picture { 255 } else { 90 }; 3];
        let mask = Picture::from_rgb(72, 64, (0..72 * 64).flat_map(pixel).collect()).unwrap();
        png::write(&place.folder.path().join(format!("pictures/{picture}.mask.png")), &mask, &[]).unwrap();
    }
    heard(&short(&place), &[("mask.source", |c| c.mask.source = MaskSource::File)]);
    let mut masked = short(&place);
    masked.mask.source = MaskSource::Auto;
    heard(
        &masked,
        &[
            ("floor", |c| c.mask.floor = 0.6),
            ("temperature", |c| c.mask.temperature = 3.0),
            ("normalize", |c| c.mask.normalize = true),
            ("original", |c| c.mask.loss = MaskLoss::Original),
        ],
    );
    // A floor of 1 is no mask.
    masked.mask.floor = 1.0;
    assert!(factors(&masked) == factors(&short(&place)));
    // Kept masks are the ones that are made anew.
    masked.mask.floor = 0.1;
    let mut uncached = masked.clone();
    uncached.cache.latents = CacheMode::None;
    assert!(factors(&masked) == factors(&uncached));
}

#[test]
fn texts_and_sizes_are_heard() {
    let place = Workplace::new();
    let mut config = short(&place);
    let tags: Vec<String> = (0..60).map(|i| format!("red thing {i}")).collect();
    for picture in 0..4 {
        let file = place.folder.path().join(format!("pictures/{picture}.png"));
        let rgb = (0..112 * 64 * 3).map(|i| (i * (picture + 3) / 5) as u8).collect();
        png::write(&file, &Picture::from_rgb(112, 64, rgb).unwrap(), &[]).unwrap();
        let text = format!("sks dog, {}", tags.join(", "));
        std::fs::write(place.folder.path().join(format!("pictures/{picture}.txt")), text).unwrap();
    }
    heard(
        &config,
        &[
            ("prefix", |c| c.data.prefix = Some("a painting of".into())),
            ("shuffle_tags", |c| c.data.shuffle_tags = true),
            ("tag_dropout", |c| c.data.tag_dropout = 0.5),
            ("caption_dropout", |c| c.data.caption_dropout = 1.0),
            ("max_tokens 150", |c| c.data.max_tokens = 150),
            ("buckets", |c| c.data.buckets = true),
        ],
    );
    config.data.max_tokens = 225;
    heard(&config, &[("max_tokens 150", |c| c.data.max_tokens = 150)]);
    let mut learning = config.clone();
    learning.lora.text_encoder.train = true;
    heard(&learning, &[("max_tokens with a learning text encoder", |c| c.data.max_tokens = 75)]);
    config.data.max_tokens = 75;
    config.data.shuffle_tags = true;
    heard(&config, &[("keep_tags", |c| c.data.keep_tags = 5)]);
    config.data.shuffle_tags = false;
    config.data.buckets = true;
    heard(
        &config,
        &[
            ("bucket_step", |c| c.data.bucket_step = Some(32)),
            ("bucket_min", |c| c.data.bucket_min = Some(64)),
            ("bucket_max", |c| c.data.bucket_max = Some(64)),
        ],
    );
    std::fs::write(place.folder.path().join("pictures/0.txt"), "short").unwrap();
    heard(&short(&place), &[("suffix", |c| c.data.suffix = Some(", film grain".into()))]);
}
