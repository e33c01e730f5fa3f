//! A tiny base, tiny pictures and short runs.
#![allow(dead_code)] // every test program uses a part of it

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use scumble_cpu::CpuBackend;
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_train::picture::{Picture, png};
use scumble_train::preflight::Plan;
use scumble_train::run::event::Event;
use scumble_train::run::{Services, Start, Summary};
use scumble_train::{Result, TrainConfig};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}

/// A workplace with four pictures.
pub struct Workplace {
    pub folder: tempfile::TempDir,
}

impl Workplace {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pictures")).unwrap();
        for picture in 0..4usize {
            let pixel = |i: usize| {
                let (x, y) = (i % 72, i / 72);
                [(x * 3 + picture * 40) as u8, (y * 3) as u8, (x * y * (picture + 1) / 16) as u8]
            };
            let rgb = (0..72 * 64).flat_map(pixel).collect();
            let picture_file = folder.path().join(format!("pictures/{picture}.png"));
            png::write(&picture_file, &Picture::from_rgb(72, 64, rgb).unwrap(), &[]).unwrap();
        }
        Self { folder }
    }

    /// A run of six steps.
    pub fn config(&self) -> TrainConfig {
        let mut config = TrainConfig::default();
        config.base.model = fixture("tiny-sd1").display().to_string();
        config.data.folder = self.folder.path().join("pictures");
        config.data.width = 64;
        config.data.height = 64;
        config.data.prompt = Some("a photo of sks dog".into());
        config.train.steps = 6;
        config.train.lr = 1e-3;
        config.save.folder = self.folder.path().join("runs");
        config.save.every = 0;
        config
    }
}

/// Lets a run paint, in few steps.
pub fn paint(config: &mut TrainConfig, prompts: &[&str], every: u64) {
    config.validate.prompts = prompts.iter().map(|&prompt| prompt.to_owned()).collect();
    (config.validate.every, config.validate.steps) = (every, 2);
}

/// What a reporter heard.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<Event>>);

impl Heard {
    pub fn warnings(&self) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.iter()
            .filter_map(|e| if let Event::Warning(text) = e { Some(text.clone()) } else { None })
            .collect()
    }

    pub fn notes(&self) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.iter().filter_map(|e| if let Event::Note(text) = e { Some(text.clone()) } else { None }).collect()
    }
}

/// Runs; `stop_after` sets the stop flag when that step is heard of.
pub fn run_with(
    config: &TrainConfig,
    start: &Start,
    stop_after: Option<u64>,
    heard: &Heard,
) -> Result<Summary> {
    let stop = AtomicBool::new(false);
    let reporter = |event: Event| {
        if let Event::Step { record, .. } = &event
            && Some(record.step) == stop_after
        {
            stop.store(true, Ordering::Relaxed);
        }
        heard.0.lock().unwrap().push(event);
    };
    let backend = Arc::new(CpuBackend::new(Some(2)).unwrap());
    scumble_train::run::train(config, start, &Services { backend, reporter: &reporter, stop: &stop })
}

/// What a run would do.
pub fn plan(config: &TrainConfig, heard: &Heard) -> Result<Plan> {
    let reporter = |event: Event| heard.0.lock().unwrap().push(event);
    let (backend, stop) = (Arc::new(CpuBackend::new(Some(2)).unwrap()), AtomicBool::new(false));
    scumble_train::run::plan(config, &Services { backend, reporter: &reporter, stop: &stop })
}

pub fn run(config: &TrainConfig) -> Result<Summary> {
    run_with(config, &Start::New, None, &Heard::default())
}

/// The tensors of the (first) adapter of a finished run. Its metadata holds the settings, so files of runs with different
/// settings always differ.
pub fn tensors(summary: &Summary) -> Vec<(String, Vec<u8>)> {
    let file = SafetensorsFile::open(&summary.adapters[0]).unwrap();
    file.names()
        .into_iter()
        .map(|name| (name.clone(), file.read(&name).unwrap().bytes().unwrap().to_vec()))
        .collect()
}

/// Bytes of the (first) adapter of a finished run.
pub fn adapter(summary: &Summary) -> Vec<u8> {
    std::fs::read(&summary.adapters[0]).unwrap()
}
