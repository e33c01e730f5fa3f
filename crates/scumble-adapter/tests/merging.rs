//! Merging against the recorded results of the original tool and of dense arithmetic, and its laws on random adapters.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;

use common::{difference, fixture, shared, table};
use scumble_adapter::adapter::{
    Axis, Change, HadamardFactors, HadamardSide, KroneckerFactor, KroneckerFactors, Magnitude, ModuleFactors,
};
use scumble_adapter::architecture::Architecture;
use scumble_adapter::dialect::{ReadOptions, load_adapter};
use scumble_adapter::merge::{Input, MergeOptions, Merged, Mode, Weights, merge};
use scumble_adapter::rank::RankRule;
use scumble_adapter::{Adapter, Module, ModuleKind, ModuleTable};
use scumble_cpu::CpuBackend;
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_tensor::rng::stream;
use scumble_tensor::{DType, Tensor};

fn run(inputs: &[(&Adapter, Weights)], table: &ModuleTable, options: &MergeOptions) -> Merged {
    let inputs: Vec<Input<'_>> = inputs
        .iter()
        .enumerate()
        .map(|(index, (adapter, weights))| Input {
            name: format!("input {index}"),
            adapter,
            weights: weights.clone(),
        })
        .collect();
    let backend = CpuBackend::new(Some(1)).unwrap();
    merge(&inputs, table, options, &backend, &|_| ()).unwrap()
}

fn mode(mode: Mode) -> MergeOptions {
    MergeOptions { mode, ..MergeOptions::default() }
}

/// The six modules of the recorded merges.
struct Golden {
    file: SafetensorsFile,
    table: ModuleTable,
}

impl Golden {
    fn open() -> Self {
        let file = SafetensorsFile::open(&fixture("lora/merge.safetensors")).unwrap();
        Self { file, table: table("tiny-sd1") }
    }

    fn tensor(&self, key: &str) -> Tensor {
        self.file.read(key).unwrap()
    }

    fn adapter(&self, name: &str) -> Adapter {
        let mut adapter = Adapter::default();
        for key in self.file.names() {
            let Some(rest) = key.strip_prefix(&format!("{name}|")) else { continue };
            if rest.starts_with('<') {
                let row = self.tensor(&key);
                adapter.tokens.insert(rest.into(), row.reshape(&[1, row.numel()]).unwrap());
            } else if let Some(path) = rest.strip_suffix("|up") {
                let down = self.tensor(&format!("{name}|{path}|down"));
                let rank = down.dims()[0] as f32;
                adapter.insert(path, down, self.tensor(&key), rank).unwrap();
            }
        }
        adapter
    }

    fn modules(&self) -> Vec<String> {
        self.file.names().iter().filter_map(|key| Some(key.strip_prefix("values|")?.to_owned())).collect()
    }
}

#[test]
fn factor_modes_give_the_originals_bytes() {
    let golden = Golden::open();
    let [x, y, z] = ["X", "Y", "Z"].map(|name| golden.adapter(name));
    let (one, all) = (Weights::all(1.0), Weights::all);
    for (expected, how, a, b, w) in [
        ("lpl_alpha0.3", Mode::Lpl, &x, &y, [all(0.3), all(1.0 - 0.3)]),
        ("lpl_2.0_0.7", Mode::Lpl, &x, &y, [all(2.0), all(0.7)]),
        ("ljl_XY", Mode::Ljl, &x, &y, [one.clone(), one.clone()]),
        ("ljl_XZ", Mode::Ljl, &x, &z, [one.clone(), one.clone()]),
    ] {
        let [w_a, w_b] = w;
        let merged = run(&[(a, w_a), (b, w_b)], &golden.table, &mode(how));
        common::assert_same(&merged.adapter, &golden.adapter(expected));
        assert_eq!(merged.report.kept(), 1.0, "{expected}");
    }
}

#[test]
fn exact_sums_and_their_best_approximation() {
    let golden = Golden::open();
    let (x, y) = (golden.adapter("X"), golden.adapter("Y"));
    let inputs = [(&x, Weights::all(0.6)), (&y, Weights::all(0.9))];
    let full = run(&inputs, &golden.table, &mode(Mode::Exact));
    let rank4 = MergeOptions { rank: RankRule::Fixed(4), ..mode(Mode::Exact) };
    let short = run(&inputs, &golden.table, &rank4);
    assert_eq!(golden.modules().len(), 6);
    for path in golden.modules() {
        let delta = |merged: &Merged| merged.adapter.modules[&path].low_rank().unwrap().delta().unwrap();
        let check = |found: Tensor, key: String, bound: f64| {
            let expected = golden.tensor(&key).to_vec::<f64>().unwrap();
            let worst = found.to_vec::<f64>().unwrap().into_iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, f64::max);
            assert!(worst < bound, "{key}: off by {worst:e}");
        };
        check(delta(&full), format!("exact|{path}"), 2e-6);
        check(delta(&short), format!("exact|best_rank4.{path}"), 2e-5);
        let errors = golden.tensor(&format!("errors|{path}")).to_vec::<f64>().unwrap();
        let loss = short.report.modules.iter().find(|module| module.path == path).unwrap();
        assert!((loss.norm - errors[0]).abs() < 1e-5 && (loss.error - errors[1]).abs() < 1e-5, "{loss:?}");
        assert_eq!((loss.rank_before, loss.rank), (Some(8), 4));
        let shortened = run(
            &[(&x, Weights::default())],
            &golden.table,
            &MergeOptions { rank: RankRule::Fixed(2), ..mode(Mode::Exact) },
        );
        let loss = shortened.report.modules.iter().find(|module| module.path == path).unwrap();
        assert!((loss.norm - errors[2]).abs() < 1e-5 && (loss.error - errors[3]).abs() < 1e-5, "{loss:?}");
    }
}

/// The complete recorded files, where they are.
#[test]
fn complete_files_of_the_original() {
    let Some(folder) = shared("fixtures/lora/merge") else { return };
    let table = table("tiny-sd1");
    let load = |name: &str| {
        load_adapter(&folder.join(format!("{name}.safetensors")), &table, ReadOptions::default())
            .unwrap()
            .adapter
    };
    let [x, y, z] = ["X", "Y", "Z"].map(load);
    let merged = run(&[(&x, Weights::all(0.3)), (&y, Weights::all(1.0 - 0.3))], &table, &mode(Mode::Lpl));
    common::assert_same(&merged.adapter, &load("lpl_alpha0.3"));
    let merged = run(&[(&x, Weights::default()), (&z, Weights::default())], &table, &mode(Mode::Ljl));
    common::assert_same(&merged.adapter, &load("ljl_XZ"));
    let rank4 = MergeOptions { rank: RankRule::Fixed(4), threads: 2, ..mode(Mode::Exact) };
    let merged = run(&[(&x, Weights::all(0.6)), (&y, Weights::all(0.9))], &table, &rank4);
    let recorded = common::json(&folder.join("merge.json"));
    for loss in &merged.report.modules {
        let expected = &recorded["exact"]["per_module"][&loss.path];
        for (found, key) in [(loss.norm, "frobenius"), (loss.error, "best_rank4_error")] {
            let expected = expected[key].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-5, "{} {key}: {found} for {expected}", loss.path);
        }
    }
}

/// A random adapter on some modules of SD1, convolutions included.
fn random_adapter(table: &ModuleTable, seed: u64, every: usize, dtype: DType) -> Adapter {
    let mut adapter = Adapter::default();
    let small = table.modules().iter().filter(|module| module.weights() < 700_000);
    for (index, module) in small.enumerate().filter(|(index, _)| index % every == 0) {
        let rank = 1 + (index * 7 + seed as usize) % 5;
        let (down, up) = scumble_adapter::LowRankFactors::shapes_for(module, rank);
        let mut random = stream(seed, &module.path);
        let mut tensor = |dims: &[usize]| random.randn_tensor(dims).unwrap().to_dtype(dtype).unwrap();
        let (down, up) = (tensor(&down), tensor(&up));
        adapter.insert(&module.path, down, up, 0.5 * rank as f32 + seed as f32).unwrap();
    }
    adapter
}

/// `sum w_i dW_i`, dense, in f64.
fn dense_sum(inputs: &[(&Adapter, Weights)]) -> BTreeMap<String, Vec<f64>> {
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (adapter, weights) in inputs {
        for (path, factors) in adapter.low_rank() {
            let delta = factors.delta().unwrap().to_vec::<f64>().unwrap();
            let sum = sums.entry(path.to_owned()).or_insert_with(|| vec![0.0; delta.len()]);
            sum.iter_mut().zip(&delta).for_each(|(sum, value)| *sum += weights.of(path) * value);
        }
    }
    sums
}

fn assert_is_sum(merged: &Adapter, sums: &BTreeMap<String, Vec<f64>>, bound: f64) {
    assert!(merged.modules.keys().eq(sums.keys()));
    for (path, factors) in merged.low_rank() {
        let found = factors.delta().unwrap().to_vec::<f64>().unwrap();
        let rms = (sums[path].iter().map(|v| v * v).sum::<f64>() / found.len() as f64).sqrt();
        let worst = found.iter().zip(&sums[path]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= bound * rms.max(1e-9), "{path}: off by {:e} of the rms", worst / rms);
    }
}

#[test]
fn concatenation_and_exact_are_the_sum_of_deltas() {
    let table = Architecture::Sd1.table().unwrap();
    let a = random_adapter(&table, 1, 9, DType::F32);
    let b = random_adapter(&table, 2, 6, DType::F32);
    let c = random_adapter(&table, 3, 15, DType::F16);
    let mut blocks = Weights { ..Weights::all(-1.5) };
    blocks.strength.text_encoder = 0.25;
    blocks.blocks = scumble_adapter::merge::weights::parse_blocks("down=0.5,mid=0", &table).unwrap();
    let inputs = [(&a, Weights::all(0.7)), (&b, blocks), (&c, Weights::all(0.3)), (&a, Weights::all(0.1))];
    let sums = dense_sum(&inputs);
    for how in [Mode::Concat, Mode::Exact] {
        let merged = run(&inputs, &table, &MergeOptions { dtype: Some(DType::F32), ..mode(how) });
        assert_is_sum(&merged.adapter, &sums, 2e-5);
        let threaded =
            run(&inputs, &table, &MergeOptions { dtype: Some(DType::F32), threads: 5, ..mode(how) });
        common::assert_same(&merged.adapter, &threaded.adapter);
        assert_eq!(merged.report, threaded.report);
    }
    // The same adapter twice needs no more rank than once.
    let twice = run(&[(&a, Weights::all(0.7)), (&a, Weights::all(0.1))], &table, &mode(Mode::Exact));
    for (path, factors) in twice.adapter.low_rank() {
        assert_eq!(factors.rank(), a.modules[path].low_rank().unwrap().rank(), "{path}");
    }
}

#[test]
fn one_adapter_with_weight_one_is_itself() {
    let table = Architecture::Sd1.table().unwrap();
    let a = random_adapter(&table, 4, 8, DType::F32);
    for how in [Mode::Ljl, Mode::Concat, Mode::Exact] {
        let merged = run(&[(&a, Weights::default())], &table, &mode(how)).adapter;
        assert_is_sum(&merged, &dense_sum(&[(&a, Weights::default())]), 1e-5);
    }
    let undone =
        run(&[(&a, Weights::all(1.0)), (&a, Weights::all(-1.0))], &table, &mode(Mode::Exact)).adapter;
    for (path, factors) in undone.low_rank() {
        let worst = factors.delta().unwrap().to_vec::<f64>().unwrap().into_iter().map(f64::abs);
        assert!(worst.fold(0.0, f64::max) < 1e-10, "{path}");
    }
}

#[test]
fn sparse_modes_at_full_density_are_the_sum_and_repeat_themselves() {
    let table = table("tiny-sd1");
    let golden = Golden::open();
    let (x, y) = (golden.adapter("X"), golden.adapter("Y"));
    let inputs = [(&x, Weights::all(0.6)), (&y, Weights::all(0.9))];
    let exact = run(&inputs, &table, &mode(Mode::Exact)).adapter;
    let options = |how, density| MergeOptions { rank: RankRule::Fixed(8), density, seed: 3, ..mode(how) };
    for how in [Mode::Magnitude, Mode::Dare] {
        let merged = run(&inputs, &table, &options(how, 1.0)).adapter;
        assert!(difference(&merged, &exact) < 1e-5, "{}", how.name());
    }
    for how in [Mode::Ties, Mode::Dare, Mode::DareTies, Mode::Magnitude] {
        let first = run(&inputs, &table, &options(how, 0.4));
        let again = run(&inputs, &table, &MergeOptions { threads: 3, ..options(how, 0.4) });
        common::assert_same(&first.adapter, &again.adapter);
        assert!(first.report.kept() < 1.0 && first.report.kept() > 0.2, "{}", first.report.kept());
        let other = run(&inputs, &table, &MergeOptions { seed: 4, ..options(how, 0.4) }).adapter;
        let is_drawn = matches!(how, Mode::Dare | Mode::DareTies);
        assert_eq!(difference(&first.adapter, &other) > 1e-3, is_drawn, "{}", how.name());
    }
}

#[test]
fn what_cannot_be_merged_is_refused_with_reasons() {
    let golden = Golden::open();
    let (x, z) = (golden.adapter("X"), golden.adapter("Z"));
    let backend = CpuBackend::new(Some(1)).unwrap();
    let refused = |inputs: &[(&Adapter, f32)], table: &ModuleTable, options: &MergeOptions| {
        let inputs: Vec<Input<'_>> = inputs
            .iter()
            .map(|&(adapter, weight)| Input { name: "a.pt".into(), adapter, weights: Weights::all(weight) })
            .collect();
        merge(&inputs, table, options, &backend, &|_| ()).unwrap_err().to_string()
    };
    let tiny = &golden.table;
    let with = |rank| MergeOptions { rank, ..MergeOptions::default() };
    let mut holed = x.clone();
    holed.modules.pop_first();
    let mut broken = x.clone();
    let zeros = |dims: &[usize]| Tensor::zeros(DType::F32, dims).unwrap();
    let nan = Tensor::from_slice(&[f32::NAN; 48], &[48, 1]).unwrap();
    broken
        .insert("text_encoder.text_model.encoder.layers.0.self_attn.k_proj", zeros(&[1, 48]), nan, 1.0)
        .unwrap();
    let sd1 = Architecture::Sd1.table().unwrap();
    let cases = [
        (refused(&[], tiny, &with(RankRule::Lossless)), "nothing to merge"),
        (refused(&[(&x, 1.0)], tiny, &with(RankRule::Fixed(0))), "rank 0"),
        (refused(&[(&x, 1.0)], tiny, &with(RankRule::Fixed(1000))), "48 is the most"),
        (refused(&[(&x, f32::NAN)], tiny, &with(RankRule::Lossless)), "NaN is no weight"),
        (refused(&[(&broken, 1.0)], tiny, &with(RankRule::Lossless)), "not finite"),
        (refused(&[(&x, 1.0)], &sd1, &with(RankRule::Lossless)), "attn1.to_q: down has shape [4, 32]"),
        (refused(&[(&x, 1.0), (&z, 1.0)], tiny, &mode(Mode::Lpl)), "ranks 4 and 2"),
        (refused(&[(&x, 1.0), (&holed, 1.0)], tiny, &mode(Mode::Lpl)), "only one of the adapters"),
        (refused(&[(&x, 1.0)], tiny, &mode(Mode::Lpl)), "two adapters, not 1"),
        (refused(&[(&x, 1.0)], tiny, &mode(Mode::Ties)), "give a rank"),
    ];
    for (message, word) in cases {
        assert!(message.contains(word), "{message}");
    }
    let half = MergeOptions { dtype: Some(DType::F16), ..mode(Mode::Concat) };
    // Two of them: a single one would only get another alpha.
    let inputs = [&x, &x].map(|adapter| Input { name: "x".into(), adapter, weights: Weights::all(1e30) });
    let message = merge(&inputs, tiny, &half, &backend, &|_| ()).unwrap_err().to_string();
    assert!(message.contains("too large for f16"), "{message}");
}

/// One that counts needs no rank, whatever its kind, and none of its factors is rounded.
#[test]
fn a_single_adapter_is_scaled_as_it_is() {
    let table = table("tiny-sd1");
    let path = |name: &str| format!("unet.mid_block.attentions.0.transformer_blocks.0.attn1.{name}");
    let random = |name: &str, dims: &[usize]| {
        stream(11, name).randn_tensor(dims).unwrap().to_dtype(DType::F16).unwrap()
    };
    let whole = |name: &str, size: usize| KroneckerFactor::Whole(random(name, &[size, size]));
    let factors = |name: &str| KroneckerFactor::Pair {
        a: random(&format!("{name}a"), &[16, 2]),
        b: random(&format!("{name}b"), &[2, 16]),
    };
    let side = |name: &str| HadamardSide {
        a: random(name, &[32, 2]),
        b: random(&format!("{name}b"), &[2, 32]),
        core: None,
    };
    let (mut adapter, mut other) = (Adapter::default(), Adapter::default());
    let loha = HadamardFactors::new("loha", [side("w1"), side("w2")], 1.0).unwrap();
    let lokr = KroneckerFactors::new("lokr", whole("l1", 2), factors("l2"), 1.0).unwrap();
    let product = KroneckerFactors::new("whole", whole("l3", 2), whole("l4", 16), 1.0).unwrap();
    for (name, change) in [
        ("to_q", Change::Hadamard(loha)),
        ("to_k", Change::Kronecker(lokr)),
        ("to_v", Change::Kronecker(product)),
        ("to_out.0", Change::Full(random("full", &[32, 32]))),
    ] {
        adapter.modules.insert(path(name), change.into());
    }
    let attn2 = path("to_q").replace("attn1", "attn2");
    adapter.insert(&attn2, random("down", &[3, 32]), random("up", &[32, 3]), 2.0).unwrap();
    for path in adapter.modules.keys() {
        other.insert(path, random("odown", &[1, 32]), random("oup", &[32, 1]), 1.0).unwrap();
    }
    for how in [Mode::Exact, Mode::Concat, Mode::Ljl] {
        let wide = MergeOptions { dtype: Some(DType::F32), ..mode(how) };
        let inputs = [(&other, Weights::all(0.0)), (&adapter, Weights::all(-0.3))];
        let merged = run(&inputs, &table, &wide);
        assert_eq!(merged.report.kept(), 1.0);
        for (path, before) in &adapter.modules {
            let after = &merged.adapter.modules[path];
            assert_eq!(after.kind(), before.kind(), "{path}");
            let delta =
                |factors: &ModuleFactors| factors.delta(path).unwrap().unwrap().to_vec::<f64>().unwrap();
            for (after, before) in delta(after).into_iter().zip(delta(before)) {
                assert!((after + 0.3 * before).abs() <= 1e-6 * before.abs().max(1e-3), "{path}");
            }
        }
        // Where alpha takes the weight, the factors keep their very bytes.
        let halves = run(&inputs, &table, &mode(how)).adapter;
        for path in [path("to_q"), path("to_k"), attn2.clone()] {
            let tensors = |adapter: &Adapter| -> Vec<Vec<u8>> {
                let tensors = adapter.modules[&path].tensors();
                tensors.iter().map(|(_, tensor)| tensor.bytes().unwrap().to_vec()).collect()
            };
            let same_type = halves.modules[&path].tensors()[0].1.dtype() == DType::F16;
            assert!(same_type && tensors(&halves) == tensors(&adapter), "{path}");
        }
    }
}

/// Every kind, on modules that two adapters share or not.
#[test]
fn other_kinds_are_summed_through_their_deltas() {
    let path = |name: &str| format!("unet.down_blocks.0.{name}");
    let layer = Module { path: path("resnets.0.norm1"), kind: ModuleKind::Norm, inputs: 32, outputs: 32 };
    let table = ModuleTable::new(table("tiny-sd1").modules().iter().cloned().chain([layer]));
    let attention = path("attentions.0.transformer_blocks.0.attn1.to_q");
    let (conv, norm) = (path("resnets.0.conv1"), path("resnets.0.norm1"));
    let random = |name: &str, dims: &[usize]| stream(9, name).randn_tensor(dims).unwrap();
    let module = |path: &str, change: Option<Change>, bias: Option<Tensor>| {
        ModuleFactors::new(path, change, bias, None)
    };
    let side = |a: &str, outputs: usize, columns: usize| HadamardSide {
        a: random(a, &[outputs, 2]),
        b: random(&format!("{a}b"), &[2, columns]),
        core: None,
    };
    let loha = HadamardFactors::new(&attention, [side("w1", 32, 32), side("w2", 32, 32)], 1.0).unwrap();
    let mut a = Adapter::default();
    a.modules.insert(attention.clone(), Change::Hadamard(loha).into());
    let full = Change::Full(random("diff", &[32, 32, 3, 3]));
    a.modules.insert(conv.clone(), module(&conv, Some(full), Some(random("bias", &[32]))).unwrap());
    let scale = || Some(Change::Full(random("norm", &[32])));
    a.modules.insert(norm.clone(), module(&norm, scale(), None).unwrap());
    let mut b = Adapter::default();
    b.insert(&attention, random("down", &[3, 32]), random("up", &[32, 3]), 2.0).unwrap();
    b.insert(&conv, random("cdown", &[2, 32, 3, 3]), random("cup", &[32, 2, 1, 1]), 2.0).unwrap();
    b.modules.insert(norm.clone(), module(&norm, scale(), Some(random("shift", &[32]))).unwrap());
    let inputs = [(&a, Weights::all(0.5)), (&b, Weights::all(2.0))];

    let sum = |path: &str| {
        let delta =
            |adapter: &Adapter| adapter.modules[path].delta(path).unwrap().unwrap().to_vec::<f64>().unwrap();
        delta(&a).iter().zip(&delta(&b)).map(|(a, b)| 0.5 * a + 2.0 * b).collect::<Vec<_>>()
    };
    let options = MergeOptions { rank: RankRule::Energy(1.0 - 1e-12), ..mode(Mode::Exact) };
    let merged = run(&inputs, &table, &options).adapter;
    for path in [&attention, &conv, &norm] {
        let found = merged.modules[path].delta(path).unwrap().unwrap().to_vec::<f64>().unwrap();
        let worst = found.iter().zip(sum(path)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-4, "{path}: {worst:e}");
    }
    // LoHa of rank 2 has rank 4, and the pair has rank 3.
    assert_eq!(merged.modules[&attention].low_rank().unwrap().rank(), 7);
    let bias = |path: &str| merged.modules[path].bias().unwrap().to_vec::<f32>().unwrap();
    assert_eq!(bias(&conv)[3], 0.5 * random("bias", &[32]).to_vec::<f32>().unwrap()[3]);
    assert_eq!(bias(&norm)[3], 2.0 * random("shift", &[32]).to_vec::<f32>().unwrap()[3]);

    let backend = CpuBackend::new(Some(1)).unwrap();
    let refused = |options: &MergeOptions, adapters: [&Adapter; 2]| {
        let inputs = adapters.map(|adapter| Input { name: "x".into(), adapter, weights: Weights::all(0.5) });
        merge(&inputs, &table, options, &backend, &|_| ()).unwrap_err().to_string()
    };
    let message = refused(&mode(Mode::Concat), [&a, &b]);
    assert!(message.contains("LoHa cannot be concatenated"), "{message}");
    let message = refused(&mode(Mode::Exact), [&a, &b]);
    assert!(message.contains("give a rank"), "{message}");
    let mut dora = b.clone();
    let pair = b.modules[&attention].change().cloned();
    let magnitude = Magnitude::new(&attention, &random("m", &[32]), Axis::Output).unwrap();
    let decorated = ModuleFactors::new(&attention, pair, None, Some(magnitude)).unwrap();
    dora.modules.insert(attention.clone(), decorated);
    let message = refused(&options, [&b, &dora]);
    assert!(message.contains("DoRA in input 2"), "{message}");
}

/// Merged from files' factors to a pair of full rank, TIES and magnitude pruning are what PEFT computes, see
/// `tools/goldens/merging.py`. DARE draws entries of its own: as many, and as much larger.
#[test]
fn sparse_modes_are_those_of_peft() {
    let file = SafetensorsFile::open(&fixture("merging.safetensors")).unwrap();
    let facts: serde_json::Value = serde_json::from_str(&file.metadata()["facts"]).unwrap();
    let numbers = |key: &str| -> Vec<f64> { serde_json::from_value(facts[key].clone()).unwrap() };
    let path = "unet.time_embedding.linear_1";
    let module = Module { path: path.into(), kind: ModuleKind::Linear, inputs: 10, outputs: 12 };
    let table = ModuleTable::new([module]);
    let adapters: Vec<Adapter> = (0..numbers("weights").len())
        .map(|n| {
            let part = |name: &str| file.read(&format!("{n}.{name}")).unwrap();
            let mut adapter = Adapter::default();
            // Alpha is the rank: the scale is in `up`.
            adapter.insert(path, part("down"), part("up"), 2.0).unwrap();
            adapter
        })
        .collect();
    let inputs: Vec<(&Adapter, Weights)> = adapters
        .iter()
        .zip(numbers("weights"))
        .map(|(adapter, weight)| (adapter, Weights::all(weight as f32)))
        .collect();
    let merged = |how: Mode, density: f64, inputs: &[(&Adapter, Weights)]| -> Vec<f64> {
        let options = MergeOptions { rank: RankRule::Fixed(10), density, ..mode(how) };
        let merged = run(inputs, &table, &options);
        merged.adapter.modules[path].low_rank().unwrap().delta().unwrap().to_vec().unwrap()
    };
    for density in numbers("densities") {
        for how in [Mode::Magnitude, Mode::Ties] {
            let expected: Vec<f64> =
                file.read(&format!("{density}.{}", how.name())).unwrap().to_vec().unwrap();
            for (found, expected) in merged(how, density, &inputs).iter().zip(&expected) {
                assert!(
                    (found - expected).abs() < 2e-5,
                    "{how:?} at {density}: {found}, PEFT has {expected}"
                );
            }
        }
        let (delta, one) = (file.read("0.delta").unwrap().to_vec::<f64>().unwrap(), &inputs[..1]);
        for how in [Mode::Dare, Mode::DareTies] {
            let found = merged(how, density, one);
            let kept = found.iter().zip(&delta).filter(|(found, _)| found.abs() > 1e-4);
            let kept: Vec<f64> = kept.map(|(found, delta)| found / delta * density).collect();
            assert!(kept.iter().all(|factor| (factor - 1.0).abs() < 1e-2), "{how:?} at {density}: {kept:?}");
            // Of 120 entries; four standard deviations on either side.
            let (mean, spread) = (120.0 * density, 4.0 * (120.0 * density * (1.0 - density)).sqrt());
            assert!((kept.len() as f64 - mean).abs() < spread, "{how:?} at {density}: {} kept", kept.len());
        }
    }
}
