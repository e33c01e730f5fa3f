//! Extraction against recorded singular values.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use common::{fixture, shared};
use scumble_adapter::dialect::MemorySource;
use scumble_adapter::extract::{ExtractOptions, Extracted, TowerPair, extract, table_of};
use scumble_adapter::linalg::sketch::Keep;
use scumble_adapter::{Module, Tower};
use scumble_cpu::CpuBackend;
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_tensor::{DType, Tensor};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";

fn options(rank: usize) -> ExtractOptions {
    ExtractOptions {
        keep: Keep::Rank(rank),
        clamp_quantile: None,
        dtype: Some(DType::F32),
        seed: 0,
        threads: 1,
    }
}

/// The tuned weights that are kept in the repository, over the base's own.
struct Model {
    base: [SafetensorsFile; 2],
    tuned: [MemorySource; 2],
    golden: SafetensorsFile,
}

impl Model {
    fn open() -> Self {
        let golden = SafetensorsFile::open(&fixture("lora/extract.safetensors")).unwrap();
        let base = [UNET, TEXT].map(|file| SafetensorsFile::open(&fixture("tiny-sd1").join(file)).unwrap());
        let tuned = [(&base[0], Tower::UNet), (&base[1], Tower::TextEncoder)].map(|(source, tower)| {
            let tensors = source.names().into_iter().map(|name| {
                let key = format!("tuned|{}.{}", tower.prefix(), name.trim_end_matches(".weight"));
                let tuned = golden
                    .info(&key)
                    .filter(|_| name.ends_with(".weight"))
                    .map(|_| golden.read(&key).unwrap());
                (name.clone(), tuned.unwrap_or_else(|| source.read(&name).unwrap()))
            });
            MemorySource { name: "tuned".into(), tensors: tensors.collect(), ..MemorySource::default() }
        });
        Self { base, tuned, golden }
    }

    fn pairs(&self) -> Vec<TowerPair<'_>> {
        [Tower::UNet, Tower::TextEncoder]
            .into_iter()
            .enumerate()
            .map(|(i, tower)| TowerPair { tower, base: &self.base[i], tuned: &self.tuned[i] })
            .collect()
    }

    fn run(&self, options: &ExtractOptions) -> Extracted {
        let pairs = self.pairs();
        let table = table_of(&pairs);
        let modules: Vec<&Module> = table.modules().iter().collect();
        extract(&pairs, &modules, options, &CpuBackend::new(Some(1)).unwrap(), &|_| ()).unwrap()
    }

    fn recorded(&self, what: &str, path: &str) -> Vec<f64> {
        self.golden.read(&format!("{what}|{path}")).unwrap().to_vec::<f64>().unwrap()
    }
}

#[test]
fn errors_are_the_best_that_the_rank_allows() {
    let model = Model::open();
    let extracted = model.run(&options(4));
    assert_eq!(extracted.report.modules.len(), 7, "only what differs");
    assert!(extracted.unchanged > 200 && extracted.left_out.is_empty(), "{:?}", extracted.left_out);
    for loss in &extracted.report.modules {
        let [norm, best] = model.recorded("errors", &loss.path)[..] else { unreachable!() };
        assert!((loss.norm - norm).abs() < 1e-5 * norm, "{}: {} for {norm}", loss.path, loss.norm);
        assert!(loss.error <= best * 1.001 + 1e-5, "{}: {} for {best}", loss.path, loss.error);
        assert_eq!((loss.rank, loss.rank_before), (4, None));
        let values = model.recorded("values", &loss.path);
        let pair = extracted.adapter.modules[&loss.path].low_rank().unwrap();
        let up = pair.up().to_vec::<f64>().unwrap();
        let column: f64 = up.iter().step_by(4).map(|value| value * value).sum();
        assert!(
            (column - values[0]).abs() < 1e-3 * values[0],
            "the first column is as long as the first value's root"
        );
    }
    let conv = &extracted.adapter.modules["unet.down_blocks.0.resnets.0.conv1"];
    assert_eq!(conv.low_rank().unwrap().down().dims().len(), 4);
    let threaded = model.run(&ExtractOptions { threads: 3, ..options(4) });
    common::assert_same(&extracted.adapter, &threaded.adapter);
    assert_eq!(extracted.report, threaded.report);
}

#[test]
fn energies_halves_and_clamps() {
    let model = Model::open();
    let keep = Keep::Energy { fraction: 0.99, at_most: 64 };
    let extracted = model.run(&ExtractOptions { keep, ..options(1) });
    for loss in &extracted.report.modules {
        assert!(loss.kept() >= 0.99 - 1e-6 && loss.rank < 6, "{loss:?}");
    }
    let halves = model.run(&ExtractOptions { dtype: None, ..options(4) });
    let best = model.run(&options(4));
    for (half, best) in halves.report.modules.iter().zip(&best.report.modules) {
        assert!(half.error > best.error && half.error < best.error * 1.01, "rounding counts: {half:?}");
    }
    assert!(halves.adapter.low_rank().all(|(_, pair)| pair.up().dtype() == DType::F16));
    let clamped = model.run(&ExtractOptions { clamp_quantile: Some(0.99), ..options(4) });
    assert!(clamped.report.kept() < best.report.kept());
    for (path, pair) in clamped.adapter.low_rank() {
        let values: Vec<f32> =
            [pair.up(), pair.down()].iter().flat_map(|t| t.to_vec::<f32>().unwrap()).collect();
        let largest = values.iter().fold(0f32, |max, value| max.max(value.abs()));
        let at_limit = values.iter().filter(|value| value.abs() == largest).count();
        assert!(at_limit > 1, "{path}: nothing is clamped");
    }
}

#[test]
fn models_that_do_not_belong_together_are_refused() {
    let model = Model::open();
    let backend = CpuBackend::new(Some(1)).unwrap();
    let other = SafetensorsFile::open(&fixture("tiny-sd2").join(UNET)).unwrap();
    let pairs = [TowerPair { tower: Tower::UNet, base: &model.base[0], tuned: &other }];
    let table = table_of(&pairs);
    let modules: Vec<&Module> = table.modules().iter().take(3).collect();
    let message = extract(&pairs, &modules, &options(4), &backend, &|_| ()).unwrap_err().to_string();
    assert!(
        message.contains("not of one kind") && message.contains("unet.conv_in.weight: base [32, 4"),
        "{message}"
    );

    let name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    let tensors = model.base[0].names().into_iter().map(|key| {
        let tensor = model.base[0].read(&key).unwrap();
        let broken = Tensor::from_slice(&[f32::NAN; 32 * 32], &[32, 32]).unwrap();
        (key.clone(), if key == name { broken } else { tensor })
    });
    let tuned = MemorySource { name: "tuned".into(), tensors: tensors.collect(), ..MemorySource::default() };
    let pairs = [TowerPair { tower: Tower::UNet, base: &model.base[0], tuned: &tuned }];
    let table = table_of(&pairs);
    let modules: Vec<&Module> =
        table.modules().iter().filter(|module| module.path.contains("mid_block")).collect();
    let message = extract(&pairs, &modules, &options(4), &backend, &|_| ()).unwrap_err().to_string();
    assert!(message.contains("mid_block") && message.contains("the tuned weight holds 1024"), "{message}");
    for (bad, word) in [
        (options(0), "rank 0"),
        (options(9999), "is the most"),
        (ExtractOptions { clamp_quantile: Some(0.1), ..options(4) }, "clamp"),
        (ExtractOptions { keep: Keep::Energy { fraction: 2.0, at_most: 4 }, ..options(4) }, "no fraction"),
    ] {
        let message = extract(&pairs, &modules, &bad, &backend, &|_| ()).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
}

/// All modules of the recorded pair, where it is.
#[test]
fn the_complete_recorded_pair() {
    let (Some(tuned), Some(recorded)) =
        (shared("fixtures/tiny-sd1-tuned"), shared("fixtures/lora/svd_extract.json"))
    else {
        return;
    };
    let recorded = common::json(&recorded);
    let open = |folder: std::path::PathBuf| {
        [UNET, TEXT].map(|file| Arc::new(SafetensorsFile::open(&folder.join(file)).unwrap()))
    };
    let (base, tuned) = (open(fixture("tiny-sd1")), open(tuned));
    let pairs = [
        TowerPair { tower: Tower::UNet, base: base[0].as_ref(), tuned: tuned[0].as_ref() },
        TowerPair { tower: Tower::TextEncoder, base: base[1].as_ref(), tuned: tuned[1].as_ref() },
    ];
    let table = table_of(&pairs);
    let modules: Vec<&Module> =
        table.modules().iter().filter(|module| recorded["per_module"].get(&module.path).is_some()).collect();
    assert_eq!(modules.len(), 236);
    let backend = CpuBackend::new(Some(1)).unwrap();
    let extracted = extract(&pairs, &modules, &options(4), &backend, &|_| ()).unwrap();
    for loss in &extracted.report.modules {
        let expected = &recorded["per_module"][&loss.path];
        let best = expected["best_rank4_error"].as_f64().unwrap();
        assert!(loss.error <= best * 1.001 + 1e-5, "{}: {} for {best}", loss.path, loss.error);
        assert!((loss.norm - expected["frobenius"].as_f64().unwrap()).abs() < 1e-5, "{loss:?}");
    }
    assert_eq!(extracted.report.modules.len(), 236);
}
