//! Adapters of every kind through whole runs on a tiny base: they learn, are saved, go on after an end in the middle to the
//! same bytes, and every setting of theirs is heard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Heard, Workplace, adapter, fixture, run, run_with};
use scumble_adapter::attach::{Strength, Towers, attach};
use scumble_adapter::dialect::{ReadOptions, load_adapter};
use scumble_adapter::{Adapter, Change};
use scumble_cpu::CpuBackend;
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_model::unet::UNet;
use scumble_tensor::DType;
use scumble_train::config::*;
use scumble_train::run::{Outcome, Start};
use scumble_train::{TrainConfig, TrainError};

type Setting = fn(&mut TrainConfig);

/// Every kind with a name.
const KINDS: &[(&str, Setting)] = &[
    ("dora", |c| c.lora.kind = AdapterKind::Dora),
    ("loha", |c| c.lora.kind = AdapterKind::Loha),
    ("lokr", |c| c.lora.kind = AdapterKind::Lokr),
    ("pissa", |c| c.lora.init = AdapterInit::Pissa),
];

fn config(place: &Workplace) -> TrainConfig {
    let mut config = place.config();
    config.lora.unet.rank = 2;
    config.lora.unet.targets = Targets::All;
    config.lora.text_encoder.train = true;
    config.lora.text_encoder.rank = 2;
    config.lora.unet.dropout = 0.1;
    config.train.lr = 5e-3;
    config.train.steps = 4;
    config.train.ema_decay = Some(0.9);
    config.save.dtype = FileType::F32;
    config
}

fn unet() -> UNet {
    let folder = fixture("tiny-sd1/unet");
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let weights = SafetensorsFile::open(&folder.join("diffusion_pytorch_model.safetensors")).unwrap();
    let backend = CpuBackend::new(Some(2)).unwrap();
    UNet::load(&serde_json::from_str(&text).unwrap(), &weights, &backend, DType::F32).unwrap()
}

/// The UNet's part of a saved adapter.
fn load(path: &Path, unet: &UNet) -> Adapter {
    let table = Towers { unet: Some(unet.modules()), text_encoder: None }.table();
    load_adapter(path, &table, ReadOptions { partial: true }).unwrap().adapter
}

/// Whether a module's output counts: in the middle of the smallest pictures one token attends to itself, whatever query and
/// key are.
fn counts(path: &str) -> bool {
    !(path.starts_with("unet.mid_block.") && (path.ends_with("attn1.to_q") || path.ends_with("attn1.to_k")))
}

/// How far each module's weight moves, as a share of its length.
fn moves(adapter: &Adapter, unet: &UNet) -> BTreeMap<String, f64> {
    let length = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let backend = CpuBackend::new(Some(2)).unwrap();
    let each = adapter.modules.iter().map(|(path, factors)| {
        let projection = &unet.projections()[path.strip_prefix("unet.").unwrap()];
        let base = scumble_model::nn::Modules::export(&backend, projection.weight()).unwrap();
        let delta = factors.delta_on(path, &base).unwrap().unwrap().to_vec::<f64>().unwrap();
        (path.clone(), length(&delta) / length(&base.to_vec::<f64>().unwrap()))
    });
    each.collect()
}

#[test]
fn every_kind_learns_stops_and_goes_on_to_the_same_bytes() {
    let unet = unet();
    for (name, change) in KINDS {
        let place = Workplace::new();
        let mut config = config(&place);
        change(&mut config);
        config.save.every = 1;
        config.save.keep_last = 0;
        let through = run(&config).unwrap();
        // The file says what kind it is, and every layer has moved.
        let saved = load(&through.adapters[0], &unet);
        for (path, moved) in moves(&saved, &unet) {
            assert!(moved > 1e-5 || !counts(&path), "{name}: {path} moved by {moved:.1e}");
            let factors = &saved.modules[&path];
            let is = match *name {
                "dora" => factors.magnitude().is_some(),
                "loha" => matches!(factors.change(), Some(Change::Hadamard(_))),
                "lokr" => matches!(factors.change(), Some(Change::Kronecker(_))),
                _ => factors.low_rank().is_some_and(|pair| pair.rank() == 4),
            };
            assert!(is, "{name}: {path} is a {}", factors.kind());
        }
        let towers = Towers { unet: Some(unet.modules()), text_encoder: None };
        let backend = CpuBackend::new(Some(2)).unwrap();
        attach(&saved, towers, Strength::default(), &backend).unwrap().detach();

        config.save.name = "again".into();
        let stopped = run_with(&config, &Start::New, Some(2), &Heard::default()).unwrap();
        assert_eq!((stopped.outcome, stopped.steps), (Outcome::Interrupted, 2));
        let start = Start::Resume { from: None, allow_changes: false };
        let resumed = run_with(&config, &start, None, &Heard::default()).unwrap();
        let checkpoint =
            |folder: &Path| std::fs::read(folder.join("checkpoints/step-00000004.safetensors")).unwrap();
        assert!(checkpoint(&through.folder) == checkpoint(&resumed.folder), "{name}");
        let tensors = |path: &Path| -> Vec<Vec<u8>> {
            let file = SafetensorsFile::open(path).unwrap();
            file.names().iter().map(|name| file.read(name).unwrap().bytes().unwrap().to_vec()).collect()
        };
        assert!(tensors(&through.adapters[0]) == tensors(&resumed.adapters[0]), "{name}");
    }
}

/// Recomputed blocks run every branch twice: the second time must be the first.
#[test]
fn recomputed_blocks_change_nothing_but_rounding() {
    for (name, change) in KINDS {
        let place = Workplace::new();
        let mut config = config(&place);
        change(&mut config);
        config.train.steps = 1;
        let first = |config: &TrainConfig| {
            let folder = run(config).unwrap().folder;
            let record = scumble_train::metrics::read(&folder.join("metrics.jsonl")).unwrap().remove(0);
            (record.loss, record.grad_norm)
        };
        let kept = first(&config);
        config.train.checkpointing = true;
        let recomputed = first(&config);
        assert_eq!(kept.0, recomputed.0, "{name}");
        assert!((kept.1 / recomputed.1 - 1.0).abs() < 1e-4, "{name}: {} {}", kept.1, recomputed.1);
    }
}

#[test]
fn half_precision_learns_every_kind() {
    let unet = unet();
    for (name, change) in KINDS {
        let place = Workplace::new();
        let mut config = config(&place);
        change(&mut config);
        config.train.precision = Precision::Bf16;
        config.train.steps = 2;
        config.train.ema_decay = None;
        let saved = load(&run(&config).unwrap().adapters[0], &unet);
        for (path, moved) in moves(&saved, &unet) {
            assert!(moved > 1e-5 || !counts(&path), "{name}: {path} moved by {moved:.1e}");
        }
    }
}

#[test]
fn every_setting_is_heard() {
    let place = Workplace::new();
    let mut base = config(&place);
    base.train.steps = 2;
    base.train.ema_decay = None;
    base.lora.text_encoder = TextLora::default();
    let tensors = |config: &TrainConfig| {
        let file = SafetensorsFile::open(&run(config).unwrap().adapters[0]).unwrap();
        let read = |name: String| (file.read(&name).unwrap().bytes().unwrap().to_vec(), name);
        file.names().into_iter().map(read).collect::<Vec<_>>()
    };
    let lokr = |c: &mut TrainConfig| c.lora.kind = AdapterKind::Lokr;
    let check = |name: &str, from: &dyn Fn(&mut TrainConfig), change: &dyn Fn(&mut TrainConfig)| {
        let mut before = base.clone();
        from(&mut before);
        let mut after = before.clone();
        change(&mut after);
        assert!(tensors(&before) != tensors(&after), "`{name}` changes nothing");
    };
    let plain = |_: &mut TrainConfig| {};
    check("lora.kind", &plain, &|c| c.lora.kind = AdapterKind::Dora);
    check("lora.init", &plain, &|c| c.lora.init = AdapterInit::Kaiming);
    check("lora.init", &plain, &|c| c.lora.init = AdapterInit::Orthogonal);
    check("lora.rank_stabilized", &plain, &|c| c.lora.rank_stabilized = true);
    check("lora.unet.conv_rank", &plain, &|c| c.lora.unet.conv_rank = Some(1));
    check("lora.unet.conv_alpha", &|c| c.lora.unet.conv_rank = Some(1), &|c| {
        c.lora.unet.conv_alpha = Some(0.5);
    });
    check("learn.lora_plus", &plain, &|c| c.learn.lora_plus = Some(16.0));
    check("learn.blocks", &plain, &|c| c.learn.blocks = Some("mid=3".into()));
    check("lora.lokr_factor", &lokr, &|c| c.lora.lokr_factor = Some(2));
    check("lora.lokr_whole", &lokr, &|c| c.lora.lokr_whole = true);
    check("lora.lokr_both", &lokr, &|c| c.lora.lokr_both = true);
}

#[test]
fn rank_stabilised_factors_count_more() {
    let place = Workplace::new();
    let mut config = config(&place);
    config.train.steps = 1;
    config.lora.text_encoder = TextLora::default();
    config.lora.rank_stabilized = true;
    config.lora.unet.rank = 4;
    config.lora.unet.alpha = Some(3.0);
    config.lora.unet.targets = Targets::Attention;
    let unet = unet();
    let saved = load(&run(&config).unwrap().adapters[0], &unet);
    // alpha / sqrt(4).
    assert!(saved.modules.values().all(|factors| factors.change().unwrap().scale() == 1.5));
}

/// With plain gradient descent and no clipping a factor of the rate is a factor of the first step.
#[test]
fn blocks_and_output_sides_learn_at_their_own_rates() {
    let place = Workplace::new();
    let mut config = config(&place);
    config.train.optimizer = OptimizerKind::Sgd;
    config.train.max_grad_norm = 0.0;
    config.train.weight_decay = 0.0;
    config.train.steps = 1;
    config.train.ema_decay = None;
    config.lora.unet.dropout = 0.0;
    config.lora.unet.targets = Targets::Attention;
    let unet = unet();
    let ups = |config: &TrainConfig| -> BTreeMap<String, Vec<f32>> {
        let saved = load(&run(config).unwrap().adapters[0], &unet);
        let up = |(path, factors): (&String, &scumble_adapter::ModuleFactors)| {
            (path.clone(), factors.low_rank().unwrap().up().to_vec::<f32>().unwrap())
        };
        saved.modules.iter().map(up).collect()
    };
    let plain = ups(&config);
    config.learn.lora_plus = Some(4.0);
    config.learn.blocks = Some("down=2, up_blocks.1=0, mid=0.5".into());
    let changed = ups(&config);
    for (path, before) in &plain {
        let factor = match path.split('.').nth(1) {
            Some("down_blocks") => 8.0,
            Some("mid_block") => 2.0,
            _ if path.starts_with("unet.up_blocks.1.") => 0.0,
            _ => 4.0,
        };
        assert!(before.iter().any(|&value| value != 0.0) || !counts(path), "{path}");
        for (a, b) in before.iter().zip(&changed[path]) {
            assert!((a * factor - b).abs() <= 1e-6 * b.abs().max(1e-6), "{path}: {a} times {factor} is {b}");
        }
    }
}

#[test]
fn a_held_block_stays_through_a_stop() {
    let place = Workplace::new();
    let mut config = config(&place);
    config.learn.blocks = Some("down=0,text=0.5".into());
    config.save.every = 1;
    let through = run(&config).unwrap();
    let unet = unet();
    for (path, moved) in moves(&load(&through.adapters[0], &unet), &unet) {
        let is_held = path.starts_with("unet.down_blocks.");
        assert!((moved == 0.0) == is_held || !counts(&path), "{path}: {moved}");
    }
    let before = adapter(&through);
    let from = Some(through.folder.join("checkpoints/step-00000003.safetensors"));
    let again = run_with(&config, &Start::Resume { from, allow_changes: false }, None, &Heard::default());
    assert!(before == adapter(&again.unwrap()));
}

#[test]
fn settings_that_do_not_go_together_are_named() {
    let place = Workplace::new();
    let cases: &[(&str, Setting)] = &[
        ("lora.init", |c| (c.lora.kind, c.lora.init) = (AdapterKind::Dora, AdapterInit::Pissa)),
        ("lora.init", |c| (c.lora.kind, c.lora.init) = (AdapterKind::Loha, AdapterInit::Kaiming)),
        ("lora.init", |c| (c.lora.kind, c.lora.init) = (AdapterKind::Lokr, AdapterInit::Orthogonal)),
        ("lora.unet.rank", |c| (c.lora.unet.rank, c.lora.init) = (3, AdapterInit::Orthogonal)),
        ("lora.lokr_factor", |c| c.lora.lokr_factor = Some(4)),
        ("lora.lokr_factor", |c| (c.lora.kind, c.lora.lokr_factor) = (AdapterKind::Lokr, Some(0))),
        ("lora.lokr_whole", |c| c.lora.lokr_whole = true),
        ("lora.lokr_both", |c| {
            c.lora.kind = AdapterKind::Lokr;
            (c.lora.lokr_whole, c.lora.lokr_both) = (true, true);
        }),
        ("lora.rank_stabilized", |c| {
            c.lora.kind = AdapterKind::Lokr;
            (c.lora.lokr_whole, c.lora.rank_stabilized) = (true, true);
        }),
        ("lora.unet.conv_rank", |c| {
            (c.lora.unet.targets, c.lora.unet.conv_rank) = (Targets::Attention, Some(4));
        }),
        ("lora.unet.conv_rank", |c| c.lora.unet.conv_rank = Some(0)),
        ("lora.unet.conv_alpha", |c| c.lora.unet.conv_alpha = Some(1.0)),
        ("save.formats", |c| {
            (c.lora.kind, c.save.formats) = (AdapterKind::Dora, vec![FileFormat::Original]);
        }),
        ("save.formats", |c| {
            (c.lora.kind, c.save.formats) = (AdapterKind::Lokr, vec![FileFormat::Kohya, FileFormat::Peft]);
        }),
        ("learn.lora_plus", |c| (c.lora.kind, c.learn.lora_plus) = (AdapterKind::Loha, Some(4.0))),
        ("learn.lora_plus", |c| c.learn.lora_plus = Some(0.0)),
        ("lora.kind", |c| (c.method, c.lora.kind) = (Method::Full, AdapterKind::Dora)),
        ("learn.blocks", |c| {
            (c.method, c.learn.blocks) = (Method::TextualInversion, Some("mid=2".into()));
            c.tokens.add = vec!["<s>".into()];
        }),
        ("learn.blocks", |c| c.learn.blocks = Some("mid=-1".into())),
        ("learn.blocks", |c| {
            c.lora.exclude = vec!["unet.mid_block.*".into()];
            c.learn.blocks = Some("mid=2".into());
        }),
        ("learn.blocks", |c| c.learn.blocks = Some("unet.*=0,text=0".into())),
    ];
    for (key, change) in cases {
        let mut config = config(&place);
        config.lora.text_encoder.train = !matches!(*key, "learn.blocks" | "lora.kind");
        change(&mut config);
        match run(&config) {
            Err(error @ TrainError::Setting { .. }) => {
                assert!(error.to_string().starts_with(&format!("`{key}`")), "{key}: {error}");
                assert_eq!(error.hints().len(), 1, "{key}");
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    let mut config = config(&place);
    config.learn.blocks = Some("IN99=1".into());
    assert!(run(&config).unwrap_err().to_string().contains("IN99"));
}

#[test]
fn peft_holds_dora_and_every_spelling_pissa() {
    let place = Workplace::new();
    let unet = unet();
    let mut config = config(&place);
    config.train.steps = 2;
    config.lora.kind = AdapterKind::Dora;
    config.save.formats = vec![FileFormat::Kohya, FileFormat::Peft];
    let same = |paths: &[std::path::PathBuf]| {
        let first = moves(&load(&paths[0], &unet), &unet);
        for path in &paths[1..] {
            for (module, moved) in moves(&load(path, &unet), &unet) {
                assert!(
                    (moved - first[&module]).abs() < 1e-5 * moved.max(1e-3),
                    "{}: {module}",
                    path.display()
                );
            }
        }
    };
    same(&run(&config).unwrap().adapters);
    (config.lora.kind, config.lora.init) = (AdapterKind::Lora, AdapterInit::Pissa);
    config.lora.unet.targets = Targets::AttentionFf;
    config.save.formats = vec![FileFormat::Kohya, FileFormat::Peft, FileFormat::Original];
    same(&run(&config).unwrap().adapters);
}
