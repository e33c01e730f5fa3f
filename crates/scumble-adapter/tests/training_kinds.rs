//! Every kind that learns against PEFT: prediction and gradients of all factors (`tools/goldens/kinds.py`), live, folded
//! and as it is trained.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{fixture, json};
use scumble_adapter::attach::{Strength, Towers, attach, fold};
use scumble_adapter::create::{Init, Kind, KroneckerOptions, TrainableLora, fresh_on};
use scumble_adapter::select::{Preset, Targets, TowerTargets};
use scumble_adapter::{
    Adapter, Axis, Change, HadamardFactors, HadamardSide, KroneckerFactor, KroneckerFactors, LowRankFactors,
    Magnitude, ModuleFactors, Tower,
};
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_model::nn::{to_file_layout, to_memory_layout};
use scumble_model::unet::{Conditioning, UNet};
use scumble_tensor::reference::ReferenceBackend;
use scumble_tensor::{Backend, DType, Tape, Tensor, Var};

const CASES: [&str; 7] = ["dora", "rslora", "loha", "loha_dense", "lokr", "lokr_whole", "lokr_both"];

struct Golden {
    file: SafetensorsFile,
    facts: serde_json::Value,
    backend: Arc<dyn Backend>,
}

impl Golden {
    fn open() -> Self {
        let file = SafetensorsFile::open(&fixture("kinds.safetensors")).unwrap();
        let facts = serde_json::from_str(&file.metadata()["cases"]).unwrap();
        Self { file, facts, backend: Arc::new(ReferenceBackend) }
    }

    fn tensor(&self, key: &str) -> Tensor {
        self.file.read(key).unwrap()
    }

    fn unet(&self) -> UNet {
        let config = json(&fixture("tiny-sd1/unet/config.json"));
        let weights =
            SafetensorsFile::open(&fixture("tiny-sd1/unet/diffusion_pytorch_model.safetensors")).unwrap();
        UNet::load(&config, &weights, self.backend.as_ref(), DType::F32).unwrap()
    }

    /// Parts by module of a case: its factors, or their gradients.
    fn parts(&self, case: &str, gradients: bool) -> BTreeMap<String, BTreeMap<String, Tensor>> {
        let (prefix, grad) = (format!("{case}."), format!("{case}.grad."));
        let mut parts: BTreeMap<String, BTreeMap<String, Tensor>> = BTreeMap::new();
        for name in self.file.names() {
            let of_gradient = name.strip_prefix(&grad);
            let rest = if gradients { of_gradient } else { name.strip_prefix(&prefix) };
            let Some((module, part)) = rest.and_then(|rest| rest.rsplit_once('.')) else { continue };
            if gradients || of_gradient.is_none() {
                parts.entry(format!("unet.{module}")).or_default().insert(part.into(), self.tensor(&name));
            }
        }
        assert!(!parts.is_empty(), "{case}");
        parts
    }

    fn adapter(&self, case: &str) -> Adapter {
        let alpha = self.facts[case]["alpha"].as_f64().unwrap() as f32;
        let mut adapter = Adapter::default();
        for (path, mut parts) in self.parts(case, false) {
            let mut take = |part: &str| parts.remove(part);
            let magnitude = take("magnitude").map(|m| Magnitude::new(&path, &m, Axis::Output).unwrap());
            let mut factor = |which: &str| match take(which) {
                Some(whole) => KroneckerFactor::Whole(whole),
                None => KroneckerFactor::Pair {
                    a: take(&format!("{which}_a")).unwrap(),
                    b: take(&format!("{which}_b")).unwrap(),
                },
            };
            let change = if case.starts_with("loha") {
                let sides = ["w1", "w2"].map(|which| match factor(which) {
                    KroneckerFactor::Pair { a, b } => HadamardSide { a, b, core: None },
                    other => panic!("{other:?}"),
                });
                Change::Hadamard(HadamardFactors::new(&path, sides, alpha).unwrap())
            } else if case.starts_with("lokr") {
                let (w1, w2) = (factor("w1"), factor("w2"));
                Change::Kronecker(KroneckerFactors::new(&path, w1, w2, alpha).unwrap())
            } else {
                let (down, up) = (take("down").unwrap(), take("up").unwrap());
                Change::LowRank(LowRankFactors::new(&path, down, up, alpha).unwrap())
            };
            assert!(parts.is_empty(), "{path}: {:?}", parts.keys());
            let factors = ModuleFactors::new(&path, Some(change), None, magnitude).unwrap();
            adapter.modules.insert(path, factors);
        }
        adapter
    }

    fn predict<'u>(&self, unet: &'u UNet, tape: &Tape<'u>) -> Var {
        let sample = Var::constant(to_memory_layout(&self.tensor("sample")).unwrap());
        let timesteps = self.tensor("timesteps").to_vec::<f32>().unwrap();
        let states = Var::constant(self.tensor("states"));
        unet.forward(tape, &sample, &timesteps, Conditioning { states: &states, text_time: None }).unwrap()
    }

    fn check(&self, what: &str, unet: &UNet, case: &str) {
        let out = self.predict(unet, &Tape::inference(self.backend.clone()));
        let off = distance(&self.tensor(&format!("{case}.out")), &to_file_layout(out.value()).unwrap());
        assert!(off < 1e-4, "{case} {what}: off by {off:.2e} of the rms");
    }
}

fn on(unet: &UNet) -> Towers<'_> {
    Towers { unet: Some(unet.modules()), text_encoder: None }
}

/// Largest difference as a share of the expected values' rms.
fn distance(expected: &Tensor, found: &Tensor) -> f64 {
    assert_eq!(expected.numel(), found.numel(), "{} and {}", expected.shape(), found.shape());
    let (expected, found) = (expected.to_vec::<f64>().unwrap(), found.to_vec::<f64>().unwrap());
    let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
    expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / rms
}

#[test]
fn prediction_and_gradients_are_pefts() {
    let golden = Golden::open();
    for case in CASES {
        let unet = golden.unet();
        let (adapter, backend) = (golden.adapter(case), golden.backend.as_ref());
        let lora = TrainableLora::new(&adapter, &on(&unet).table(), backend).unwrap();
        let attached = lora.attach(on(&unet), 0.0, backend).unwrap();
        let tape = Tape::recording(golden.backend.clone());
        let out = golden.predict(&unet, &tape);
        let off = distance(&golden.tensor(&format!("{case}.out")), &to_file_layout(out.value()).unwrap());
        assert!(off < 1e-4, "{case}: off by {off:.2e} of the rms");
        let gradients = tape.backward(&out, to_memory_layout(&golden.tensor("g")).unwrap()).unwrap();
        // In the files' layout, which the adapter that comes out has.
        for param in lora.params() {
            param.set(gradients.get(param.id()).unwrap().clone());
        }
        let found = lora.to_adapter(backend).unwrap();
        for (path, parts) in golden.parts(case, true) {
            let tensors: BTreeMap<_, _> = found.modules[&path].tensors().into_iter().collect();
            assert_eq!(tensors.len(), parts.len(), "{path}");
            for (part, expected) in parts {
                let off = distance(&expected, tensors[part.as_str()]);
                assert!(off < 1e-3, "{case} {path} {part}: off by {off:.2e} of the rms");
            }
        }
        attached.detach();
    }
}

#[test]
fn live_and_folded_they_are_the_same() {
    let golden = Golden::open();
    for case in CASES {
        let unet = golden.unet();
        let (adapter, backend) = (golden.adapter(case), golden.backend.as_ref());
        let attached = attach(&adapter, on(&unet), Strength::default(), backend).unwrap();
        golden.check("live", &unet, case);
        attached.detach();
        fold(&adapter, on(&unet), Strength::default(), backend).unwrap();
        golden.check("folded", &unet, case);
    }
}

fn targets(rank: usize) -> Targets {
    let towers = vec![TowerTargets::new(Tower::UNet, Preset::All, rank, 2.0)];
    let exclude = vec!["up_blocks".into(), "down_blocks.2".into(), "down_blocks.3".into()];
    Targets { towers, exclude, ..Targets::default() }
}

#[test]
fn every_fresh_kind_begins_as_the_base_and_goes_out_and_in() {
    let golden = Golden::open();
    let backend = golden.backend.as_ref();
    let unet = golden.unet();
    let base = golden.predict(&unet, &Tape::inference(golden.backend.clone())).into_value();
    let both = KroneckerOptions { both: true, factor: Some(4), ..KroneckerOptions::default() };
    let whole = KroneckerOptions { whole: true, ..KroneckerOptions::default() };
    for (kind, rank) in [
        (Kind::LowRank(Init::Kaiming), 3),
        (Kind::LowRank(Init::Orthogonal), 4),
        (Kind::Decomposed(Init::Normal), 3),
        (Kind::Decomposed(Init::Orthogonal), 2),
        (Kind::Hadamard, 3),
        (Kind::Kronecker(KroneckerOptions::default()), 2),
        (Kind::Kronecker(both), 1),
        (Kind::Kronecker(whole), 2),
    ] {
        let adapter = fresh_on(&targets(rank), on(&unet), kind, 5, backend).unwrap();
        let lora = TrainableLora::new(&adapter, &on(&unet).table(), backend).unwrap();
        let attached = lora.attach(on(&unet), 0.0, backend).unwrap();
        let found = golden.predict(&unet, &Tape::inference(golden.backend.clone()));
        assert!(distance(&base, found.value()) < 1e-4, "{kind:?} begins as the base");
        attached.detach();
        let back = lora.to_adapter(backend).unwrap();
        assert_eq!(back.modules.len(), adapter.modules.len());
        for (path, factors) in &adapter.modules {
            for ((part, a), (_, b)) in factors.tensors().into_iter().zip(back.modules[path].tensors()) {
                assert_eq!((a.dims(), a.bytes().unwrap()), (b.dims(), b.bytes().unwrap()), "{path} {part}");
            }
        }
        lora.load(&adapter, backend).unwrap();
        let other = fresh_on(&targets(rank), on(&unet), kind, 6, backend).unwrap();
        assert!(other.modules.iter().all(|(path, factors)| {
            let values = |factors: &ModuleFactors| factors.tensors()[0].1.bytes().unwrap().to_vec();
            values(factors) != values(&adapter.modules[path])
        }));
    }
    let odd = fresh_on(&targets(3), on(&unet), Kind::LowRank(Init::Orthogonal), 5, backend).unwrap_err();
    assert!(odd.to_string().contains("even rank"), "{odd}");
}

/// PEFT begins with the leading singular vectors, and what it saves is the change since then as a pair of twice the rank.
#[test]
fn the_principal_start_is_pefts_and_counts_from_there() {
    let golden = Golden::open();
    let (backend, unet) = (golden.backend.as_ref(), golden.unet());
    let path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k";
    let targets = Targets {
        towers: vec![TowerTargets::new(Tower::UNet, Preset::AttentionFf, 4, 2.0)],
        ..Targets::default()
    };
    let kind = Kind::LowRank(Init::Principal);
    let adapter = fresh_on(&targets, on(&unet), kind, 5, backend).unwrap();
    let product = adapter.modules[&format!("unet.{path}")].delta(path).unwrap().unwrap();
    let off = distance(&golden.tensor(&format!("pissa.{path}.product")), &product);
    assert!(off < 1e-3, "{path}: off by {off:.2e} of the rms");
    let lora = TrainableLora::new(&adapter, &on(&unet).table(), backend).unwrap();
    let lora = lora.counted_from_start().unwrap();
    assert_eq!(lora.starts().len(), lora.params().len());
    let base = golden.predict(&unet, &Tape::inference(golden.backend.clone())).into_value();
    let attached = lora.attach(on(&unet), 0.0, backend).unwrap();
    let now = || golden.predict(&unet, &Tape::inference(golden.backend.clone())).into_value();
    assert!(distance(&base, &now()) < 1e-4, "it begins as the base");
    let zero = lora.to_adapter(backend).unwrap();
    let path = format!("unet.{path}");
    assert_eq!((zero.modules[&path].rank(), zero.modules[&path].low_rank().unwrap().alpha()), (Some(8), 4.0));
    let largest = zero.modules[&path].delta(&path).unwrap().unwrap().to_vec::<f32>().unwrap();
    assert!(largest.iter().all(|value| value.abs() < 1e-6), "and does nothing yet");
    // Move the factors: what is trained and the plain adapter that is saved do the same.
    for param in lora.params() {
        let moved: Vec<f32> = param
            .value()
            .to_vec::<f32>()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(i, v)| v + 0.1 * (i as f32).sin())
            .collect();
        param.set(Tensor::from_slice(&moved, param.value().dims()).unwrap());
    }
    let trained = now();
    assert!(distance(&base, &trained) > 1e-2);
    attached.detach();
    let saved = lora.to_adapter(backend).unwrap();
    let attached = attach(&saved, on(&unet), Strength::default(), backend).unwrap();
    assert!(distance(&trained, &now()) < 1e-4);
    attached.detach();
    assert!(lora.load(&adapter, backend).is_err());
}

#[test]
fn what_has_no_gradient_is_refused_by_name() {
    let golden = Golden::open();
    let (backend, unet) = (golden.backend.as_ref(), golden.unet());
    let table = on(&unet).table();
    let path = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k";
    let module = table.get(path).unwrap();
    let ones = |dims: &[usize]| Tensor::from_slice(&vec![1f32; dims.iter().product()], dims).unwrap();
    let refused = |factors: ModuleFactors| {
        let mut adapter = Adapter::default();
        adapter.modules.insert(path.into(), factors);
        TrainableLora::new(&adapter, &table, backend).unwrap_err().to_string()
    };
    let full = Change::Full(ones(&[module.outputs, module.inputs]));
    assert!(refused(full.into()).contains("full difference cannot be trained"));
    let pair = LowRankFactors::new(path, ones(&[1, module.inputs]), ones(&[module.outputs, 1]), 1.0).unwrap();
    let columns = Magnitude::new(path, &ones(&[module.inputs]), Axis::Input).unwrap();
    let dora = ModuleFactors::new(path, Some(Change::LowRank(pair)), None, Some(columns)).unwrap();
    assert!(refused(dora).contains("DoRA"));
}
