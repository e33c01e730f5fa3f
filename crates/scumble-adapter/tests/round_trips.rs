//! Random adapters through every pair of dialects: held and brought back byte for byte, or refused with the reason.
//!
//! The adapters have ranks that differ from module to module, only some of the towers, linear and convolution
//! layers, DoRA, differences and learned tokens, in one element type or several. Scales are powers of two, so that a dialect
//! without alpha can multiply them into a factor and take them out again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::table;
use scumble_adapter::adapter::{Axis, HadamardSide};
use scumble_adapter::dialect::{
    AdapterFile, Encoded, MemorySource, ReadOptions, TokenPolicy, WriteOptions, by_name, read_source,
    writable,
};
use scumble_adapter::positional::{Target, target_of};
use scumble_adapter::{
    Adapter, AdapterError, Change, HadamardFactors, LowRankFactors, Magnitude, Module, ModuleFactors,
    ModuleTable, Tower,
};
use scumble_tensor::rng::{Generator, stream};
use scumble_tensor::{DType, Tensor};

struct Random(Generator);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        ((self.0.rand(1)[0] * count as f32) as usize).min(count - 1)
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    /// No number is so small that a quarter of it is below f16's smallest normal one, where halving rounds.
    fn tensor(&mut self, dims: &[usize], types: Types) -> Tensor {
        let dtype = types.0[self.below(types.0.len())];
        let away = |v: f32| v * 0.05 + 1e-3f32.copysign(v);
        let values: Vec<f32> = self.0.randn(dims.iter().product()).into_iter().map(away).collect();
        Tensor::from_slice(&values, dims).unwrap().to_dtype(dtype).unwrap()
    }
}

/// Element types that an adapter's tensors may have, each its own.
#[derive(Clone, Copy)]
struct Types(&'static [DType]);

const TYPES: [Types; 4] = [
    Types(&[DType::F32]),
    Types(&[DType::BF16]),
    Types(&[DType::F16]),
    Types(&[DType::F16, DType::F32, DType::BF16]),
];

/// What a case is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flavour {
    /// Pairs on the layers that the original's numbers reach, resnets included.
    Numbered,
    /// Pairs on any layers.
    Anywhere,
    /// Pairs, all of them with DoRA on the outputs.
    Dora,
    /// Pairs, some with a difference of the bias.
    Biased,
    /// Pairs on attention alone.
    Attention,
    /// Pairs, LoHa, differences and biases.
    Mixed,
    /// Learned tokens, with or without modules.
    Tokens,
    /// One learned token and nothing else.
    Token,
}

const FLAVOURS: [Flavour; 8] = [
    Flavour::Numbered,
    Flavour::Anywhere,
    Flavour::Dora,
    Flavour::Biased,
    Flavour::Attention,
    Flavour::Mixed,
    Flavour::Tokens,
    Flavour::Token,
];

fn pair(random: &mut Random, module: &Module, types: Types) -> Change {
    let rank = 1 + random.below(5);
    let alpha = rank as f32 * [1.0, 2.0, 0.5, 0.25][random.below(4)];
    let (down, up) = LowRankFactors::shapes_for(module, rank);
    let (down, up) = (random.tensor(&down, types), random.tensor(&up, types));
    Change::LowRank(LowRankFactors::new(&module.path, down, up, alpha).unwrap())
}

fn factors(random: &mut Random, flavour: Flavour, module: &Module, types: Types) -> ModuleFactors {
    let change = pair(random, module, types);
    match flavour {
        Flavour::Dora => {
            let lengths = random.tensor(&[module.outputs], types);
            let magnitude = Magnitude::new(&module.path, &lengths, Axis::Output).unwrap();
            ModuleFactors::new(&module.path, Some(change), None, Some(magnitude)).unwrap()
        }
        Flavour::Biased if random.chance(2) => {
            let bias = random.tensor(&[module.outputs], types);
            ModuleFactors::new(&module.path, Some(change), Some(bias), None).unwrap()
        }
        Flavour::Mixed => match random.below(4) {
            0 => Change::Full(random.tensor(&module.weight_dims(), types)).into(),
            1 => {
                let bias = random.tensor(&[module.outputs], types);
                ModuleFactors::new(&module.path, Some(change), Some(bias), None).unwrap()
            }
            2 if !module.is_conv() => {
                let rank = 1 + random.below(3);
                let (o, i) = (module.outputs, module.inputs);
                let mut side = || HadamardSide {
                    a: random.tensor(&[o, rank], types),
                    b: random.tensor(&[rank, i], types),
                    core: None,
                };
                let sides = [side(), side()];
                Change::Hadamard(HadamardFactors::new(&module.path, sides, 1.0).unwrap()).into()
            }
            _ => change.into(),
        },
        _ => change.into(),
    }
}

fn adapter(seed: u64, flavour: Flavour, table: &ModuleTable) -> Adapter {
    let mut random = Random(stream(seed, "round trips"));
    let types = TYPES[random.below(TYPES.len())];
    // Either tower may be missing.
    let towers: &[Tower] = match random.below(3) {
        0 => &[Tower::UNet],
        1 => &[Tower::TextEncoder],
        _ => &[Tower::UNet, Tower::TextEncoder],
    };
    let reached = |module: &&Module| {
        Tower::of(&module.path).is_some_and(|tower| towers.contains(&tower))
            && match flavour {
                Flavour::Numbered => target_of(module).is_some(),
                Flavour::Attention => {
                    matches!(target_of(module), Some(Target::Attention | Target::TextAttention))
                }
                _ => true,
            }
    };
    let modules: Vec<&Module> = table.modules().iter().filter(reached).collect();
    let mut adapter = Adapter::default();
    let has_tokens = matches!(flavour, Flavour::Tokens | Flavour::Token);
    if !has_tokens || (flavour == Flavour::Tokens && random.chance(2)) {
        for _ in 0..1 + random.below(20) {
            let module = modules[random.below(modules.len())];
            let factors = factors(&mut random, flavour, module, types);
            adapter.modules.insert(module.path.clone(), factors);
        }
    }
    if has_tokens {
        let width = table.text_width().unwrap();
        let tokens = if flavour == Flavour::Token { 1 } else { 1 + random.below(3) };
        for index in 0..tokens {
            let rows = if random.chance(3) { 1 + random.below(4) } else { 1 };
            adapter.tokens.insert(format!("<t{index}>"), random.tensor(&[rows, width], types));
        }
    }
    adapter
}

/// The adapter in a dialect, or nothing when the dialect says that it cannot hold it.
fn encode(adapter: &Adapter, table: &ModuleTable, dialect: &str) -> Option<MemorySource> {
    let options = WriteOptions { tokens: TokenPolicy::Bundle, ..WriteOptions::default() };
    let encoded: Encoded = match by_name(dialect).unwrap().write(adapter, table, &options) {
        Ok(encoded) => encoded,
        Err(AdapterError::CannotHold { reason, .. }) => {
            assert!(!reason.is_empty());
            return None;
        }
        Err(other) => panic!("{dialect}: {other}"),
    };
    let mut source = MemorySource { name: dialect.into(), ..MemorySource::default() };
    source.tensors.extend(encoded.tensors);
    source.metadata.extend(encoded.metadata);
    Some(source)
}

fn decode(source: &MemorySource, table: &ModuleTable) -> Adapter {
    let (adapter, report) =
        read_source(&AdapterFile { source, path: None }, table, ReadOptions::default()).unwrap();
    assert!(report.is_complete(), "{report}");
    adapter
}

type Bytes = BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>;

fn bytes(source: &MemorySource) -> Bytes {
    let of = |tensor: &Tensor| (tensor.dtype(), tensor.dims().to_vec(), tensor.bytes().unwrap().to_vec());
    source.tensors.iter().map(|(key, tensor)| (key.clone(), of(tensor))).collect()
}

/// For every pair of dialects A, B that both hold an adapter: what A writes, read, written by B, read and written by A
/// again are the same tensors.
#[test]
fn there_and_back_through_every_pair() {
    let tables = [table("tiny-sd1"), table("tiny-sd2")];
    let dialects: Vec<&str> = writable().into_iter().map(|dialect| dialect.name()).collect();
    let mut met: BTreeSet<(String, &str, &str)> = BTreeSet::new();
    for seed in 0..96u64 {
        let (flavour, table) = (FLAVOURS[seed as usize % 8], &tables[seed as usize / 8 % 2]);
        let adapter = adapter(seed, flavour, table);
        for &first in &dialects {
            let Some(start) = encode(&adapter, table, first).map(|source| decode(&source, table)) else {
                continue;
            };
            let Some(written) = encode(&start, table, first) else {
                panic!("seed {seed} {flavour:?}: {first} does not hold what it wrote");
            };
            for &second in &dialects {
                let Some(there) = encode(&start, table, second) else { continue };
                let there = decode(&there, table);
                let back = encode(&there, table, first)
                    .unwrap_or_else(|| panic!("seed {seed} {flavour:?}: {first} by {second} and not back"));
                assert!(
                    bytes(&written) == bytes(&back),
                    "seed {seed} {flavour:?}: {first} by {second} is not the same"
                );
                met.insert((format!("{flavour:?}"), first, second));
            }
        }
    }
    // That nothing was refused by mistake: what each kind of adapter must find a way through.
    for (flavour, first, second) in [
        ("Numbered", "original", "kohya"),
        ("Numbered", "kohya", "original"),
        ("Numbered", "peft", "original"),
        ("Anywhere", "kohya", "peft"),
        ("Anywhere", "peft", "kohya"),
        ("Dora", "kohya", "peft"),
        ("Dora", "peft", "kohya"),
        ("Biased", "kohya", "peft"),
        ("Biased", "peft", "kohya"),
        ("Attention", "old-diffusers", "kohya"),
        ("Attention", "old-diffusers", "peft"),
        ("Attention", "old-diffusers", "original"),
        ("Attention", "kohya", "old-diffusers"),
        ("Attention", "peft", "old-diffusers"),
        ("Attention", "original", "old-diffusers"),
        ("Mixed", "kohya", "kohya"),
        ("Tokens", "kohya", "original"),
        ("Tokens", "original", "kohya"),
        ("Token", "a1111-embedding", "diffusers-embedding"),
        ("Token", "diffusers-embedding", "a1111-embedding"),
        ("Token", "a1111-embedding", "original"),
        ("Token", "original", "a1111-embedding"),
        ("Token", "kohya", "a1111-embedding"),
        ("Token", "diffusers-embedding", "kohya"),
    ] {
        assert!(
            met.contains(&(flavour.to_owned(), first, second)),
            "no {flavour} adapter: {first}, {second}"
        );
    }
}
