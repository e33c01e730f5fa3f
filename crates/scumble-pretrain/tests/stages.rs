//! All three stages, small: they learn, they repeat to the byte, they go on after an end, and what they leave opens.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scumble_cpu::CpuBackend;
use scumble_model::base::{BaseFiles, BaseOptions};
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_pretrain::session::{Report, model_folder};
use scumble_pretrain::{Recipe, TrainError, run};
use scumble_tensor::Backend;

const AUTOENCODER: &str = r#"
    stage = { kind = "autoencoder", side = 16, channels = [8, 16], layers = 1, latent_channels = 4, groups = 4, kl = 1e-4 }
    train = { seed = 1, steps = 20, batch = 4, lr = 4e-3, warmup = 2, weight_decay = 0.0, beta2 = 0.99, max_grad_norm = 1.0, ema = 0.9, checkpoint_every = 10 }
"#;
const CONTRASTIVE: &str = r#"
    [stage]
    kind = "contrastive"
    side = 16
    patch = 8
    merges = 10
    projection = 16
    text = { width = 16, layers = 1, heads = 2 }
    vision = { width = 16, layers = 1, heads = 2 }
    [train]
    seed = 2
    steps = 20
    batch = 8
    lr = 1e-2
    warmup = 2
    weight_decay = 0.01
    beta2 = 0.98
    max_grad_norm = 1.0
    ema = 0.9
    checkpoint_every = 10
"#;
const DIFFUSION: &str = r#"
    stage = { kind = "diffusion", channels = [16, 16], attention_levels = 1, layers = 1, head_width = 8, groups = 4, scenes = 12, caption_dropout = 0.2, text_rate = 0.5 }
    train = { seed = 3, steps = 20, batch = 4, lr = 4e-3, warmup = 2, weight_decay = 0.01, beta2 = 0.99, max_grad_norm = 1.0, ema = 0.9, checkpoint_every = 10 }
"#;
const STAGES: [(&str, &str); 3] =
    [("autoencoder", AUTOENCODER), ("contrastive", CONTRASTIVE), ("diffusion", DIFFUSION)];

fn backend() -> Arc<dyn Backend> {
    Arc::new(CpuBackend::new(Some(1)).unwrap())
}

/// Losses of a stage until `stop_after` updates.
fn stage(text: &str, out: &Path, resume: bool, stop_after: u64) -> Vec<f64> {
    let losses = std::cell::RefCell::new(Vec::new());
    let stop = AtomicBool::new(false);
    let tell = |report: &Report| {
        losses.borrow_mut().push(report.loss);
        stop.store(report.done >= stop_after, Ordering::Relaxed);
    };
    run(&Recipe::parse(text).unwrap(), out, resume, &backend(), &tell, &stop).unwrap();
    losses.into_inner()
}

/// Name and bytes of every file of a stage's model.
fn model(out: &Path, name: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![model_folder(out, name)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((
                    path.strip_prefix(out).unwrap().display().to_string(),
                    std::fs::read(&path).unwrap(),
                ));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn twenty_updates_repeat_and_survive_an_interruption_and_leave_a_base_that_opens() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut diffusion = Vec::new();
    for (name, text) in STAGES {
        let losses = stage(text, whole.path(), false, 20);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(mean(&losses[15..]) < mean(&losses[..5]), "{name} learns: {losses:?}");
        let mut again = stage(text, broken.path(), false, 13);
        again.extend(stage(text, broken.path(), true, 20));
        assert_eq!(again, losses, "{name} repeats");
        assert_eq!(model(broken.path(), name), model(whole.path(), name), "{name}, to the byte");
        diffusion = losses;
    }
    // Another one goes on where that one ended.
    let more =
        format!("name = \"longer\"\n{DIFFUSION}").replace("channels =", "from = \"diffusion\", channels =");
    let losses = stage(&more, whole.path(), false, 20);
    assert!(losses[0] < diffusion[0], "{} after {}", losses[0], diffusion[0]);
    let folder = model_folder(whole.path(), "diffusion");
    let files = BaseFiles::open(&folder.display().to_string(), &BaseOptions::default()).unwrap();
    assert_eq!(files.tokenizer.open().unwrap().tokenize_all("a red boat").len(), 3);
    let factor = files.vae.config["scaling_factor"].as_f64().unwrap();
    assert!(factor > 0.0 && factor != 1.0, "{factor}");
    let clip = SafetensorsFile::open(&model_folder(whole.path(), "contrastive").join("model.safetensors"));
    assert_eq!(clip.unwrap().info("logit_scale").unwrap().numel(), 1);
}

#[test]
fn a_second_autoencoder_goes_on_from_the_first() {
    let out = tempfile::tempdir().unwrap();
    let first = stage(AUTOENCODER, out.path(), false, 20);
    let more =
        format!("name = \"more\"\n{AUTOENCODER}").replace("side = 16", "side = 16, from = \"autoencoder\"");
    let second = stage(&more, out.path(), false, 20);
    assert!(second[0] < first[0], "{} after {}", second[0], first[0]);
    assert_ne!(model(out.path(), "more"), model(out.path(), "autoencoder"));
    let missing =
        more.replace("from = \"autoencoder\"", "from = \"nothing\"").replace("\"more\"", "\"other\"");
    let result = run(
        &Recipe::parse(&missing).unwrap(),
        out.path(),
        false,
        &backend(),
        &|_: &Report| {},
        &AtomicBool::new(false),
    );
    let error = result.unwrap_err().to_string();
    assert!(error.contains("nothing"), "{error}");
}

#[test]
fn a_run_is_neither_replaced_nor_continued_as_another() {
    let out = tempfile::tempdir().unwrap();
    stage(AUTOENCODER, out.path(), false, 2);
    let none = |_: &Report| {};
    let again = |text: &str, resume| {
        run(&Recipe::parse(text).unwrap(), out.path(), resume, &backend(), &none, &AtomicBool::new(true))
    };
    assert!(matches!(again(AUTOENCODER, false), Err(TrainError::RunExists { .. })));
    let other = AUTOENCODER.replace("lr = 4e-3", "lr = 5e-3");
    let Err(TrainError::Drift { changes }) = again(&other, true) else { panic!("another rate") };
    assert!(changes.iter().any(|change| change.contains("train.lr")), "{changes:?}");
    assert_eq!(again(AUTOENCODER, true).unwrap(), 2);
    let error = again(DIFFUSION, false).unwrap_err().to_string();
    assert!(error.contains("contrastive"), "an earlier stage is missing: {error}");
}

#[test]
fn recipes_that_can_not_be_are_refused_by_name() {
    for (from, to, word) in [
        ("side = 16", "side = 15", "stage.side"),
        ("groups = 4", "groups = 3", "stage.channels"),
        ("steps = 20", "steps = 0", "train.steps"),
        ("ema = 0.9", "ema = 1.0", "train.ema"),
        ("lr = 4e-3", "lr = nan", "train.lr"),
        ("kl = 1e-4", "kl = 1e-4, kll = 1", "kll"),
        ("kl = 1e-4", "kl = 1e-4, from = \"../x\"", "stage.from"),
    ] {
        let error = Recipe::parse(&AUTOENCODER.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(word), "{to}: {error}");
    }
}

/// The recipes of the bundled base are what the program reads.
#[test]
fn the_bundled_recipes_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/embedded");
    let files =
        ["1-autoencoder", "2-autoencoder-colours", "3-contrastive", "4-diffusion", "5-diffusion-longer"];
    let names =
        files.map(|name| Recipe::read(&folder.join(format!("{name}.toml"))).unwrap().name().to_owned());
    assert_eq!(names, ["autoencoder", "autoencoder-colours", "contrastive", "diffusion", "diffusion-longer"]);
}
