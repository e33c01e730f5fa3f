//! Resizing: lossless at full rank, the best at less, and what the rules promise.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{difference, load, table};
use scumble_adapter::adapter::{Axis, Change, HadamardFactors, HadamardSide, Magnitude, ModuleFactors};
use scumble_adapter::rank::{LossReport, RankRule};
use scumble_adapter::resize::{ResizeOptions, resize};
use scumble_adapter::{Adapter, AdapterError, LowRankFactors};
use scumble_cpu::CpuBackend;
use scumble_tensor::rng::stream;
use scumble_tensor::{DType, Tensor};

fn options(rule: RankRule) -> ResizeOptions {
    ResizeOptions { rule, per_module: false, max_rank: None, dtype: None, seed: 0, threads: 1 }
}

fn run(adapter: &Adapter, options: &ResizeOptions) -> Result<(Adapter, LossReport), AdapterError> {
    resize(adapter, &table("tiny-sd1"), options, &CpuBackend::new(Some(1)).unwrap(), &|_| ())
}

#[test]
fn full_rank_is_lossless_and_alpha_follows() {
    // alpha 2 and 1 at rank 4: scales 0.5 and 0.25 have to survive.
    let adapter = load("kohya.safetensors").unwrap().adapter;
    for rule in [RankRule::Fixed(4), RankRule::Fixed(9), RankRule::Lossless, RankRule::Ratio(1e6)] {
        let (resized, report) = run(&adapter, &options(rule)).unwrap();
        assert!(difference(&resized, &adapter) < 1e-6, "{rule:?}");
        assert!(report.kept() == 1.0 && report.ranks() == Some((4, 4)), "{rule:?}: {:?}", report.ranks());
    }
    let (resized, _) = run(&adapter, &options(RankRule::Fixed(2))).unwrap();
    for (path, factors) in resized.low_rank() {
        assert_eq!(factors.scale(), adapter.modules[path].low_rank().unwrap().scale(), "{path}");
        assert_eq!(factors.up().dtype(), adapter.modules[path].low_rank().unwrap().up().dtype());
    }
    let threaded = run(&adapter, &ResizeOptions { threads: 4, ..options(RankRule::Fixed(2)) }).unwrap().0;
    common::assert_same(&resized, &threaded);
}

#[test]
fn the_reported_error_is_the_measured_one() {
    let adapter = load("cloneofsimo.safetensors").unwrap().adapter;
    let (resized, report) = run(&adapter, &options(RankRule::Fixed(2))).unwrap();
    for (loss, (path, factors)) in report.modules.iter().zip(resized.low_rank()) {
        let delta = |pair: &scumble_adapter::LowRankFactors| pair.delta().unwrap().to_vec::<f64>().unwrap();
        let (before, after) = (delta(adapter.modules[path].low_rank().unwrap()), delta(factors));
        let error = before.iter().zip(&after).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        assert!((loss.error - error).abs() < 1e-6, "{path}: {} reported, {error} measured", loss.error);
        assert_eq!((loss.rank_before, loss.rank, loss.path.as_str()), (Some(4), 2, path));
    }
}

#[test]
fn rules_hold_for_each_module_or_for_all_together() {
    let adapter = load("cloneofsimo.safetensors").unwrap().adapter;
    let rule = RankRule::Energy(0.8);
    let (_, each) = run(&adapter, &ResizeOptions { per_module: true, ..options(rule) }).unwrap();
    assert!(each.modules.iter().all(|module| module.kept() >= 0.8 - 1e-9));
    let (low, high) = each.ranks().unwrap();
    assert!(low < high, "ranks differ by module");
    let (_, together) = run(&adapter, &options(rule)).unwrap();
    let (low, high) = together.ranks().unwrap();
    assert_eq!(low, high, "one rank for all");
    assert!(together.kept() >= 0.8);
    let (_, less) = run(&adapter, &options(RankRule::Fixed(low - 1))).unwrap();
    assert!(less.kept() < 0.8, "the smallest rank that does");
    let capped = ResizeOptions { per_module: true, max_rank: Some(1), ..options(rule) };
    assert_eq!(run(&adapter, &capped).unwrap().1.ranks(), Some((1, 1)));
}

#[test]
fn other_kinds_become_pairs_and_dora_stays() {
    let random = |name: &str, dims: &[usize]| stream(3, name).randn_tensor(dims).unwrap();
    let paths =
        ["to_q", "to_k"].map(|name| format!("unet.mid_block.attentions.0.transformer_blocks.0.attn1.{name}"));
    let side = |name: &str| HadamardSide {
        a: random(name, &[32, 2]),
        b: random(&format!("{name}b"), &[2, 32]),
        core: None,
    };
    let loha = HadamardFactors::new(&paths[0], [side("w1"), side("w2")], 2.0).unwrap();
    let mut adapter = Adapter::default();
    adapter.modules.insert(paths[0].clone(), Change::Hadamard(loha).into());
    adapter.insert(&paths[1], random("down", &[6, 32]), random("up", &[32, 6]), 3.0).unwrap();
    let pair = adapter.modules[&paths[1]].change().cloned();
    let magnitude = Magnitude::new(&paths[1], &random("m", &[32]), Axis::Output).unwrap();
    let dora = ModuleFactors::new(&paths[1], pair, None, Some(magnitude)).unwrap();
    adapter.modules.insert(paths[1].clone(), dora);
    let (resized, report) = run(&adapter, &options(RankRule::Fixed(4))).unwrap();
    let pair = resized.modules[&paths[0]].low_rank().unwrap();
    assert_eq!((pair.rank(), report.modules[1].rank_before), (4, Some(2)), "LoHa of rank 2 has rank 4");
    assert!(report.modules[1].kept() > 1.0 - 1e-9 && report.modules[0].kept() < 1.0);
    assert!(resized.modules[&paths[1]].magnitude().is_some());
}

/// LoHa in bf16 with an f32 bias, and nothing else: there is no pair that could decide about a common rank.
fn dense_only() -> Adapter {
    let random = |name: &str, dims: &[usize]| {
        stream(5, name).randn_tensor(dims).unwrap().to_dtype(DType::BF16).unwrap()
    };
    let mut adapter = Adapter::default();
    for name in ["to_q", "to_k", "to_v"] {
        let path = format!("unet.mid_block.attentions.0.transformer_blocks.0.attn1.{name}");
        let side = |part: &str| HadamardSide {
            a: random(&format!("{name}{part}a"), &[32, 3]),
            b: random(&format!("{name}{part}b"), &[3, 32]),
            core: None,
        };
        let loha = HadamardFactors::new(&path, [side("w1"), side("w2")], 2.0).unwrap();
        adapter.modules.insert(path.clone(), Change::Hadamard(loha).into());
    }
    let path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0";
    let full = Change::Full(stream(5, "full").randn_tensor(&[32, 32]).unwrap().to_dtype(DType::F16).unwrap());
    let bias = stream(5, "bias").randn_tensor(&[32]).unwrap();
    adapter.modules.insert(path.into(), ModuleFactors::new(path, Some(full), Some(bias), None).unwrap());
    adapter
}

#[test]
fn without_pairs_each_module_follows_the_rule() {
    let adapter = dense_only();
    for (rule, kept) in [(RankRule::Energy(0.9), 0.9), (RankRule::Norm(0.9), 0.81)] {
        let (_, report) = run(&adapter, &options(rule)).unwrap();
        for module in &report.modules {
            assert!(module.kept() >= kept - 1e-6 && module.rank > 1, "{rule:?}: {module:?}");
        }
        let (_, capped) = run(&adapter, &ResizeOptions { max_rank: Some(2), ..options(rule) }).unwrap();
        assert_eq!(capped.ranks(), Some((2, 2)), "{rule:?}");
    }
    let message = run(&adapter, &options(RankRule::Sum(0.9))).unwrap_err().to_string();
    assert!(message.contains("give a rank"), "{message}");
    // Beside a pair, the pair's rank holds.
    let mut mixed = adapter.clone();
    let path = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q";
    let random = |name: &str, dims: &[usize]| stream(5, name).randn_tensor(dims).unwrap();
    mixed.insert(path, random("down", &[4, 32]), random("up", &[32, 4]), 4.0).unwrap();
    let (_, report) = run(&mixed, &options(RankRule::Energy(0.999_999))).unwrap();
    assert_eq!(report.ranks(), Some((4, 4)));
}

#[test]
fn only_the_new_pair_gets_the_old_factors_type() {
    let mut adapter = dense_only();
    let untouched = "unet.mid_block.resnets.0.conv1";
    let (wide, half) = (stream(5, "b").randn_tensor(&[32]).unwrap(), DType::F16);
    adapter
        .modules
        .insert(untouched.into(), ModuleFactors::new(untouched, None, Some(wide.clone()), None).unwrap());
    let dora = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q";
    let random = |name: &str| stream(5, name).randn_tensor(&[32, 32]).unwrap().to_dtype(half).unwrap();
    let pair = LowRankFactors::new(dora, random("down"), random("up"), 4.0).unwrap();
    let magnitude = Magnitude::new(dora, &wide, Axis::Output).unwrap();
    let dora_factors =
        ModuleFactors::new(dora, Some(Change::LowRank(pair)), Some(wide.clone()), Some(magnitude)).unwrap();
    adapter.modules.insert(dora.into(), dora_factors);
    let counts = std::sync::Mutex::new(Vec::new());
    let resized = resize(
        &adapter,
        &table("tiny-sd1"),
        &options(RankRule::Fixed(4)),
        &CpuBackend::new(Some(1)).unwrap(),
        &|done| counts.lock().unwrap().push(done),
    );
    let resized = resized.unwrap().0;
    assert_eq!(*counts.lock().unwrap(), (1..=6).collect::<Vec<_>>(), "each module is counted once");
    for (path, factors) in &resized.modules {
        let before = &adapter.modules[path];
        if let (Some(Change::LowRank(pair)), Some(change)) = (factors.change(), before.change()) {
            let dtype = change.tensors()[0].1.dtype();
            assert_eq!([pair.down().dtype(), pair.up().dtype()], [dtype; 2], "{path}");
        }
        let bytes = |tensor: Option<&Tensor>| tensor.map(|t| (t.dtype(), t.bytes().unwrap().to_vec()));
        assert_eq!(bytes(factors.bias()), bytes(before.bias()), "{path}");
        let lengths = |factors: &ModuleFactors| bytes(factors.magnitude().map(Magnitude::values));
        assert_eq!(lengths(factors), lengths(before), "{path}");
    }
    assert!(resized.modules[untouched].bias().is_some() && resized.modules[dora].magnitude().is_some());
}

#[test]
fn ranks_that_mean_nothing_are_refused() {
    let adapter = load("cloneofsimo.safetensors").unwrap().adapter;
    for (rule, word) in [
        (RankRule::Fixed(0), "rank 0"),
        (RankRule::Fixed(5000), "is the most"),
        (RankRule::Energy(1.5), "no fraction"),
        (RankRule::Ratio(0.0), "ratio"),
    ] {
        let message = run(&adapter, &options(rule)).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
}
