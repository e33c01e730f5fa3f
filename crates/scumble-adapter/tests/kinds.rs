//! Random adapters of every kind: through files and back, and on a model live, folded and taken off.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{fixture, json, table};
use scumble_adapter::adapter::{Axis, HadamardSide, KroneckerFactor};
use scumble_adapter::architecture::Architecture;
use scumble_adapter::attach::{Strength, Towers, attach, fold};
use scumble_adapter::dialect::{
    AdapterFile, MemorySource, ReadOptions, TokenPolicy, WriteOptions, by_name, read_source,
};
use scumble_adapter::names::Naming;
use scumble_adapter::{
    Adapter, Change, HadamardFactors, KroneckerFactors, LowRankFactors, Magnitude, Module, ModuleFactors,
    ModuleTable, Tower, TuckerFactors,
};
use scumble_model::files::SafetensorsFile;
use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::{Conditioning, UNet};
use scumble_tensor::reference::ReferenceBackend;
use scumble_tensor::rng::{Generator, stream};
use scumble_tensor::{Backend, DType, Tape, Tensor, Var};

/// Numbers and choices of one case.
struct Random(Generator);

impl Random {
    fn new(seed: u64) -> Self {
        Self(stream(seed, "kinds"))
    }

    fn below(&mut self, count: usize) -> usize {
        ((self.0.rand(1)[0] * count as f32) as usize).min(count - 1)
    }

    fn tensor(&mut self, dims: &[usize], dtype: DType) -> Tensor {
        let values: Vec<f32> = self.0.randn(dims.iter().product()).into_iter().map(|v| v * 0.05).collect();
        Tensor::from_slice(&values, dims).unwrap().to_dtype(dtype).unwrap()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    LowRank,
    Tucker,
    Hadamard,
    HadamardTucker,
    KroneckerWhole,
    KroneckerPair,
    KroneckerTucker,
    Full,
}

const KINDS: [Kind; 8] = [
    Kind::LowRank,
    Kind::Tucker,
    Kind::Hadamard,
    Kind::HadamardTucker,
    Kind::KroneckerWhole,
    Kind::KroneckerPair,
    Kind::KroneckerTucker,
    Kind::Full,
];

/// A change of `kind` for `module`, or the nearest kind that the module can have.
fn change(random: &mut Random, kind: Kind, module: &Module, rank: usize, dtype: DType, alpha: f32) -> Change {
    let path = &module.path;
    let [kh, kw] = module.kernel();
    let (o, i, columns) = (module.outputs, module.inputs, module.inputs * kh * kw);
    let has_kernel = kh > 1;
    let mut t = |dims: &[usize]| random.tensor(dims, dtype);
    let kernel_dims = |first: usize, second: usize| match module.is_conv() {
        true => vec![first, second, kh, kw],
        false => vec![first, second],
    };
    match kind {
        Kind::Tucker if has_kernel => Change::Tucker(
            TuckerFactors::new(
                path,
                t(&[rank, i, 1, 1]),
                t(&[rank, rank, kh, kw]),
                t(&[o, rank, 1, 1]),
                alpha,
            )
            .unwrap(),
        ),
        Kind::HadamardTucker if has_kernel => {
            let mut side =
                || HadamardSide { a: t(&[rank, o]), b: t(&[rank, i]), core: Some(t(&[rank, rank, kh, kw])) };
            Change::Hadamard(HadamardFactors::new(path, [side(), side()], alpha).unwrap())
        }
        Kind::Hadamard | Kind::HadamardTucker => {
            let mut side = || HadamardSide { a: t(&[o, rank]), b: t(&[rank, columns]), core: None };
            Change::Hadamard(HadamardFactors::new(path, [side(), side()], alpha).unwrap())
        }
        Kind::KroneckerWhole => Change::Kronecker(
            KroneckerFactors::new(
                path,
                KroneckerFactor::Whole(t(&[2, 2])),
                KroneckerFactor::Whole(t(&kernel_dims(o / 2, i / 2))),
                alpha,
            )
            .unwrap(),
        ),
        Kind::KroneckerTucker if has_kernel => {
            let w1 = KroneckerFactor::Whole(t(&[2, 2]));
            let w2 = KroneckerFactor::Tucker {
                a: t(&[rank, o / 2]),
                b: t(&[rank, i / 2]),
                core: t(&[rank, rank, kh, kw]),
            };
            Change::Kronecker(KroneckerFactors::new(path, w1, w2, alpha).unwrap())
        }
        Kind::KroneckerPair | Kind::KroneckerTucker => {
            let w1 = KroneckerFactor::Pair { a: t(&[2, 1]), b: t(&[1, 2]) };
            let w2 = KroneckerFactor::Pair { a: t(&[o / 2, rank]), b: t(&[rank, columns / 2]) };
            Change::Kronecker(KroneckerFactors::new(path, w1, w2, alpha).unwrap())
        }
        Kind::Full => Change::Full(t(&module.weight_dims())),
        Kind::LowRank | Kind::Tucker => {
            let (down, up) = LowRankFactors::shapes_for(module, rank);
            Change::LowRank(LowRankFactors::new(path, t(&down), t(&up), alpha).unwrap())
        }
    }
}

/// Modules with even sizes, chosen at random; with decorations if `decorated`.
fn adapter(seed: u64, table: &ModuleTable, kinds: &[Kind], decorated: bool, count: usize) -> Adapter {
    let mut random = Random::new(seed);
    // Nor may the multiplied factor fall below f16's smallest normal number.
    let types = if matches!(kinds, [Kind::LowRank]) { 2 } else { 3 };
    let dtype = [DType::F32, DType::BF16, DType::F16][random.below(types)];
    let mut adapter = Adapter::default();
    let usable = |m: &&Module| m.inputs.is_multiple_of(2) && m.outputs.is_multiple_of(2);
    let modules: Vec<&Module> = table.modules().iter().filter(usable).collect();
    for _ in 0..count {
        let module = modules[random.below(modules.len())];
        let (kind, rank) = (kinds[random.below(kinds.len())], 1 + random.below(4));
        // Scales that are powers of two can be multiplied into a factor and taken out again without rounding.
        let alpha = match kinds {
            [Kind::LowRank] => rank as f32 * [1.0, 2.0, 0.5, 0.25][random.below(4)],
            _ => [1.0, 2.0, 0.5, rank as f32][random.below(4)],
        };
        let change = change(&mut random, kind, module, rank, dtype, alpha);
        let mut factors = ModuleFactors::from(change.clone());
        if decorated && random.below(3) == 0 {
            let axis = [Axis::Output, Axis::Input][random.below(2)];
            let length = if axis == Axis::Output { module.outputs } else { module.inputs };
            let magnitude = Magnitude::new(&module.path, &random.tensor(&[length], dtype), axis).unwrap();
            factors = ModuleFactors::new(&module.path, Some(change), None, Some(magnitude)).unwrap();
        } else if decorated && module.path.ends_with("to_out.0") {
            let bias = random.tensor(&[module.outputs], dtype);
            factors = ModuleFactors::new(&module.path, Some(change), Some(bias), None).unwrap();
        }
        adapter.modules.insert(module.path.clone(), factors);
    }
    if decorated {
        for norm in table.norms().iter().take(3) {
            let mut row = || random.tensor(&[norm.outputs], dtype);
            let (weight, bias) = (row(), row());
            let factors =
                ModuleFactors::new(&norm.path, Some(Change::Full(weight)), Some(bias), None).unwrap();
            adapter.modules.insert(norm.path.clone(), factors);
        }
    }
    adapter
}

type Bytes = BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>;

fn encode(adapter: &Adapter, table: &ModuleTable, dialect: &str) -> MemorySource {
    let options = WriteOptions { tokens: TokenPolicy::Bundle, ..WriteOptions::default() };
    let encoded = by_name(dialect).unwrap().write(adapter, table, &options).unwrap();
    let mut source = MemorySource { name: dialect.into(), ..MemorySource::default() };
    source.tensors.extend(encoded.tensors);
    source.metadata.extend(encoded.metadata);
    source
}

fn decode(source: &MemorySource, table: &ModuleTable) -> Adapter {
    read_source(&AdapterFile { source, path: None }, table, ReadOptions::default()).unwrap().0
}

fn bytes(source: &MemorySource) -> Bytes {
    let of = |tensor: &Tensor| (tensor.dtype(), tensor.dims().to_vec(), tensor.bytes().unwrap().to_vec());
    source.tensors.iter().map(|(key, tensor)| (key.clone(), of(tensor))).collect()
}

fn tables() -> Vec<ModuleTable> {
    vec![table("tiny-sd1"), table("tiny-sd2")]
}

/// A -> B -> A with the same keys, types, shapes and bytes, for every pair of dialects that can hold the adapter.
#[test]
fn there_and_back_gives_the_same_bytes() {
    let dialects = ["kohya", "peft", "original", "old-diffusers"];
    for (index, table) in tables().iter().enumerate() {
        for seed in 0..12 {
            let mut adapter = adapter(seed, table, &[Kind::LowRank], false, 1 + 3 * seed as usize);
            adapter
                .modules
                .retain(|path, _| [".attn1.", ".attn2.", ".self_attn."].iter().any(|p| path.contains(p)));
            if adapter.modules.is_empty() {
                continue;
            }
            for first in dialects {
                // What the first dialect can hold of it: alpha in its own way.
                let start = decode(&encode(&adapter, table, first), table);
                let written = encode(&start, table, first);
                for second in dialects {
                    let there = decode(&encode(&start, table, second), table);
                    let back = encode(&there, table, first);
                    assert!(
                        bytes(&written) == bytes(&back),
                        "base {index}, seed {seed}: {first} by {second}"
                    );
                }
            }
        }
    }
}

#[test]
fn kohya_holds_every_kind() {
    for seed in 0..40 {
        let table = &tables()[seed as usize % 2];
        let adapter = adapter(seed, table, &KINDS, true, 25);
        let written = encode(&adapter, table, "kohya");
        let read = decode(&written, table);
        assert_eq!(
            read.modules.iter().map(|(p, f)| (p, f.kind())).collect::<Vec<_>>(),
            adapter.modules.iter().map(|(p, f)| (p, f.kind())).collect::<Vec<_>>()
        );
        for (path, factors) in &adapter.modules {
            for ((part, a), (other, b)) in factors.tensors().iter().zip(read.modules[path].tensors()) {
                assert_eq!((*part, a.dims()), (other, b.dims()), "{path}");
                assert_eq!(a.bytes().unwrap(), b.bytes().unwrap(), "{path} {part}");
            }
        }
        assert!(bytes(&written) == bytes(&encode(&read, table, "kohya")), "seed {seed}");
    }
}

#[test]
fn peft_holds_dora_on_outputs_and_refuses_the_other_kinds() {
    let table = table("tiny-sd1");
    let mut random = Random::new(5);
    let mut dora = Adapter::default();
    for module in table.tower(Tower::UNet).filter(|m| m.path.contains("mid_block")).take(6) {
        let change = change(&mut random, Kind::LowRank, module, 2, DType::F32, 3.0);
        let lengths = random.tensor(&[module.outputs], DType::F32);
        let magnitude = Magnitude::new(&module.path, &lengths, Axis::Output).unwrap();
        let factors = ModuleFactors::new(&module.path, Some(change), None, Some(magnitude)).unwrap();
        dora.modules.insert(module.path.clone(), factors);
    }
    let kohya = encode(&dora, &table, "kohya");
    let there = decode(&encode(&decode(&kohya, &table), &table, "peft"), &table);
    assert!(bytes(&kohya) == bytes(&encode(&there, &table, "kohya")));
    let refused = |adapter: &Adapter, dialect: &str| {
        by_name(dialect).unwrap().write(adapter, &table, &WriteOptions::default()).unwrap_err().to_string()
    };
    for kind in KINDS.into_iter().filter(|kind| *kind != Kind::LowRank) {
        let other = adapter(3, &table, &[kind], false, 40);
        for dialect in ["peft", "original", "old-diffusers"] {
            assert!(refused(&other, dialect).contains("cannot hold"), "{dialect}");
        }
    }
    assert!(refused(&dora, "original").contains("DoRA"));
    let plain = dora.modules.keys().next().unwrap().clone();
    let stripped = dora.modules[&plain].change().unwrap().clone();
    dora.modules.insert(plain, stripped.into());
    assert!(refused(&dora, "peft").contains("all modules"));
}

#[test]
fn sdxl_adapters_need_no_base() {
    let table = Architecture::Sdxl.table().unwrap();
    let mut random = Random::new(9);
    let mut adapter = Adapter::default();
    for path in [
        "unet.down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k",
        "unet.up_blocks.0.upsamplers.0.conv",
        "unet.mid_block.resnets.1.conv1",
        "unet.add_embedding.linear_1",
        "text_encoder.text_model.encoder.layers.11.mlp.fc1",
        "text_encoder_2.text_model.encoder.layers.31.self_attn.q_proj",
        "text_encoder_2.text_projection",
    ] {
        let module = table.get(path).unwrap();
        let change = change(&mut random, Kind::LowRank, module, 1, DType::F16, 0.5);
        adapter.modules.insert(path.into(), change.into());
    }
    adapter.tokens.insert("<x>".into(), random.tensor(&[2, 768], DType::F32));
    adapter.tokens_2.insert("<x>".into(), random.tensor(&[2, 1280], DType::F32));
    let native = encode(&adapter, &table, "kohya");
    for key in [
        "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k.lora_down.weight",
        "lora_unet_output_blocks_2_2_conv.lora_down.weight",
        "lora_unet_middle_block_2_in_layers_2.lora_up.weight",
        "lora_unet_label_emb_0_0.alpha",
        "lora_te1_text_model_encoder_layers_11_mlp_fc1.alpha",
        "lora_te2_text_model_encoder_layers_31_self_attn_q_proj.alpha",
        "bundle_emb.<x>.clip_g",
    ] {
        assert!(native.tensors.contains_key(key), "{key}: {:?}", native.tensors.keys());
    }
    assert_eq!(native.metadata["ss_base_model_version"], "sdxl_base_v1-0");
    let read = decode(&native, &table);
    assert!(bytes(&native) == bytes(&encode(&read, &table, "kohya")));
    let options = WriteOptions { tokens: TokenPolicy::Omit, ..WriteOptions::default() };
    let message = by_name("original").unwrap().write(&adapter, &table, &options).unwrap_err().to_string();
    assert!(message.contains("SDXL"), "{message}");
}

/// The UNet's modules have two names in kohya files of SDXL; a file keeps the one it has, whichever way it goes.
#[test]
fn sdxl_kohya_files_keep_their_names_by_every_way() {
    let table = Architecture::Sdxl.table().unwrap();
    let mut random = Random::new(10);
    let mut adapter = Adapter::default();
    let names = [
        ("unet.conv_in", "input_blocks_0_0", "conv_in"),
        ("unet.time_embedding.linear_1", "time_embed_0", "time_embedding_linear_1"),
        ("unet.add_embedding.linear_2", "label_emb_0_2", "add_embedding_linear_2"),
        (
            "unet.down_blocks.0.resnets.1.conv1",
            "input_blocks_2_0_in_layers_2",
            "down_blocks_0_resnets_1_conv1",
        ),
        (
            "unet.down_blocks.1.downsamplers.0.conv",
            "input_blocks_6_0_op",
            "down_blocks_1_downsamplers_0_conv",
        ),
        (
            "unet.down_blocks.1.resnets.0.conv_shortcut",
            "input_blocks_4_0_skip_connection",
            "down_blocks_1_resnets_0_conv_shortcut",
        ),
        ("unet.mid_block.attentions.0.proj_in", "middle_block_1_proj_in", "mid_block_attentions_0_proj_in"),
        (
            "unet.up_blocks.1.attentions.2.transformer_blocks.1.ff.net.0.proj",
            "output_blocks_5_1_transformer_blocks_1_ff_net_0_proj",
            "up_blocks_1_attentions_2_transformer_blocks_1_ff_net_0_proj",
        ),
        ("unet.up_blocks.1.upsamplers.0.conv", "output_blocks_5_2_conv", "up_blocks_1_upsamplers_0_conv"),
        (
            "unet.up_blocks.2.resnets.0.time_emb_proj",
            "output_blocks_6_0_emb_layers_1",
            "up_blocks_2_resnets_0_time_emb_proj",
        ),
    ];
    let text = "text_encoder_2.text_model.encoder.layers.0.mlp.fc2";
    for path in names.iter().map(|(path, _, _)| *path).chain([text]) {
        let module = table.get(path).unwrap();
        let change = change(&mut random, Kind::LowRank, module, 2, DType::F16, 1.0);
        adapter.modules.insert(path.into(), change.into());
    }
    for naming in [Naming::CompVis, Naming::Diffusers] {
        let options = WriteOptions { naming: Some(naming), ..WriteOptions::default() };
        let encoded = by_name("kohya").unwrap().write(&adapter, &table, &options).unwrap();
        let mut written = MemorySource { name: naming.name().into(), ..MemorySource::default() };
        written.tensors.extend(encoded.tensors);
        written.metadata.extend(encoded.metadata);
        for (path, comp_vis, diffusers) in names {
            let (ours, other) = match naming {
                Naming::CompVis => (comp_vis, diffusers),
                Naming::Diffusers => (diffusers, comp_vis),
            };
            let key = |name: &str| format!("lora_unet_{name}.lora_down.weight");
            assert!(written.tensors.contains_key(&key(ours)), "{path}: no {}", key(ours));
            assert!(!written.tensors.contains_key(&key(other)), "{path}: {}", key(other));
        }
        assert!(written.tensors.contains_key("lora_te2_text_model_encoder_layers_0_mlp_fc2.alpha"));
        // As others write it, without notes on its spelling.
        written.metadata.remove("scumble_spelling");
        let read = decode(&written, &table);
        assert!(read.modules.keys().eq(adapter.modules.keys()), "{naming:?}");
        let peft = encode(&read, &table, "peft");
        let key = "unet.up_blocks.1.attentions.2.transformer_blocks.1.ff.net.0.proj.lora_A.weight";
        assert!(
            peft.tensors.contains_key(key) && peft.tensors.contains_key(&format!("{text}.lora_B.weight"))
        );
        for (way, back) in [
            ("kohya", encode(&read, &table, "kohya")),
            ("peft", encode(&decode(&peft, &table), &table, "kohya")),
        ] {
            assert!(bytes(&written) == bytes(&back), "{naming:?} by {way}");
        }
        // And from PEFT by kohya, whose names it does not touch.
        let start = decode(&peft, &table);
        let there = decode(&encode(&start, &table, "kohya"), &table);
        assert!(bytes(&peft) == bytes(&encode(&there, &table, "peft")), "{naming:?}: peft by kohya");
        // On request the names change, and nothing else.
        let other = if naming == Naming::CompVis { Naming::Diffusers } else { Naming::CompVis };
        let options = WriteOptions { naming: Some(other), ..WriteOptions::default() };
        let renamed = by_name("kohya").unwrap().write(&read, &table, &options).unwrap();
        let mut source = MemorySource { name: "renamed".into(), ..MemorySource::default() };
        source.tensors.extend(renamed.tensors);
        source.metadata.extend(renamed.metadata);
        assert_ne!(bytes(&source), bytes(&written));
        let again = decode(&source, &table);
        for (path, factors) in &read.modules {
            for ((part, a), (_, b)) in factors.tensors().iter().zip(again.modules[path].tensors()) {
                assert_eq!(a.bytes().unwrap(), b.bytes().unwrap(), "{path} {part}");
            }
        }
    }
}

/// PEFT multiplies the bias of `lora_B` with the scale, kohya's `diff_b` is the difference itself.
#[test]
fn the_bias_of_peft_is_the_difference_of_kohya() {
    let table = table("tiny-sd1");
    let path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0";
    let module = table.get(path).unwrap();
    let mut random = Random::new(12);
    let (down, up) = LowRankFactors::shapes_for(module, 4);
    let bias = random.tensor(&[module.outputs], DType::F32);
    let mut peft = MemorySource { name: "peft".into(), ..MemorySource::default() };
    peft.tensors.insert(format!("{path}.lora_A.weight"), random.tensor(&down, DType::F32));
    peft.tensors.insert(format!("{path}.lora_B.weight"), random.tensor(&up, DType::F32));
    peft.tensors.insert(format!("{path}.lora_B.bias"), bias.clone());
    let config = serde_json::json!({ "unet.r": 4, "unet.lora_alpha": 2, "unet.lora_bias": true });
    peft.metadata.insert("lora_adapter_metadata".into(), config.to_string());
    let kohya = encode(&decode(&peft, &table), &table, "kohya");
    let found = &kohya.tensors["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.diff_b"];
    let halves: Vec<f32> = bias.to_vec::<f32>().unwrap().into_iter().map(|value| value * 0.5).collect();
    assert_eq!(found.to_vec::<f32>().unwrap(), halves);
    let back = encode(&decode(&kohya, &table), &table, "peft");
    assert!(bytes(&peft) == bytes(&back));
    let config: serde_json::Value = serde_json::from_str(&back.metadata["lora_adapter_metadata"]).unwrap();
    assert_eq!((&config["unet.lora_bias"], &config["unet.lora_alpha"]), (&true.into(), &2.into()));
    // A third of a bias cannot be taken back; the dialect says so.
    let config = serde_json::json!({ "unet.r": 4, "unet.lora_alpha": 4 });
    peft.metadata.insert("lora_adapter_metadata".into(), config.to_string());
    let mut adapter = decode(&peft, &table);
    let bias = adapter.modules[path].bias().unwrap().clone();
    let Some(Change::LowRank(pair)) = adapter.modules[path].change() else { unreachable!() };
    let thrice = LowRankFactors::new(path, pair.down().clone(), pair.up().clone(), 12.0).unwrap();
    let factors = ModuleFactors::new(path, Some(Change::LowRank(thrice)), Some(bias), None).unwrap();
    adapter.modules.insert(path.into(), factors);
    let message = by_name("peft").unwrap().write(&adapter, &table, &WriteOptions::default()).unwrap_err();
    assert!(message.to_string().contains("without rounding"), "{message}");
}

struct Base {
    unet: UNet,
    text: TextEncoder,
    backend: Arc<dyn Backend>,
}

impl Base {
    fn load() -> Self {
        let backend: Arc<dyn Backend> = Arc::new(ReferenceBackend);
        let config = |folder: &str| json(&fixture(&format!("tiny-sd1/{folder}/config.json")));
        let weights = |file: &str| SafetensorsFile::open(&fixture(&format!("tiny-sd1/{file}"))).unwrap();
        let unet = weights("unet/diffusion_pytorch_model.safetensors");
        let text = weights("text_encoder/model.safetensors");
        Self {
            unet: UNet::load(&config("unet"), &unet, backend.as_ref(), DType::F32).unwrap(),
            text: TextEncoder::load(&config("text_encoder"), &text, backend.as_ref(), DType::F32).unwrap(),
            backend,
        }
    }

    fn towers(&self) -> Towers<'_> {
        Towers { unet: Some(self.unet.modules()), text_encoder: Some(self.text.modules()) }
    }

    fn output(&self) -> Vec<f32> {
        let tape = Tape::inference(self.backend.clone());
        let ids = Tensor::from_slice(&[3i64; 77], &[1, 77]).unwrap();
        let states = self.text.states(&tape, &ids, 0).unwrap();
        let sample = Var::constant(stream(1, "x").randn_tensor(&[1, 8, 8, 4]).unwrap());
        let conditioning = Conditioning { states: &states, text_time: None };
        self.unet.forward(&tape, &sample, &[500.0], conditioning).unwrap().value().to_vec().unwrap()
    }
}

fn off(a: &[f32], b: &[f32]) -> f32 {
    let rms = (a.iter().map(|v| v * v).sum::<f32>() / a.len() as f32).sqrt();
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max) / rms
}

#[test]
fn every_kind_is_tuned_taken_off_and_folded() {
    let base = Base::load();
    let (table, backend) = (base.towers().table(), base.backend.as_ref());
    let untouched = base.output();
    let worn = adapter(11, &table, &KINDS, true, 40);
    let kinds: std::collections::BTreeSet<String> = worn.modules.values().map(ModuleFactors::kind).collect();
    assert!(kinds.len() > 8, "{kinds:?}");
    let at = |value: f32| Strength { unet: value, text_encoder: value };
    let attached = attach(&worn, base.towers(), at(1.0), backend).unwrap();
    let full = base.output();
    assert!(off(&untouched, &full) > 1e-2);
    attached.set_strength(at(0.5));
    let half = base.output();
    assert!(off(&full, &half) > 1e-3);
    attached.set_strength(at(0.0));
    assert_eq!(base.output(), untouched, "strength 0 is the base, bit for bit");
    attached.set_strength(at(1.0));
    assert_eq!(base.output(), full);
    attached.detach();
    assert_eq!(base.output(), untouched, "taken off is the base, bit for bit");
    fold(&worn, base.towers(), at(0.5), backend).unwrap();
    let folded = base.output();
    assert!(off(&half, &folded) < 1e-3, "{}", off(&half, &folded));
}

/// Norm weights and biases have no branch; what is set by module holds for them too.
#[test]
fn strengths_by_module_reach_norms_and_biases() {
    let base = Base::load();
    let (table, backend) = (base.towers().table(), base.backend.as_ref());
    let numbers = || -> Vec<f32> {
        base.unet.modules().params().iter().flat_map(|param| param.value().to_vec::<f32>().unwrap()).collect()
    };
    let untouched = numbers();
    let mut random = Random::new(23);
    let mut worn = Adapter::default();
    for module in table.norms().iter().filter(|m| Tower::of(&m.path) == Some(Tower::UNet)).take(2) {
        let mut row = || random.tensor(&[module.outputs], DType::F32);
        let (weight, bias) = (row(), row());
        let factors = ModuleFactors::new(&module.path, Some(Change::Full(weight)), Some(bias), None).unwrap();
        worn.modules.insert(module.path.clone(), factors);
    }
    let biased = table.modules().iter().find(|m| m.path.starts_with("unet.") && m.path.ends_with("to_out.0"));
    let biased = biased.unwrap();
    let pair = change(&mut random, Kind::LowRank, biased, 2, DType::F32, 2.0);
    let bias = random.tensor(&[biased.outputs], DType::F32);
    let factors = ModuleFactors::new(&biased.path, Some(pair), Some(bias), None).unwrap();
    worn.modules.insert(biased.path.clone(), factors);
    let only_bias = table.modules().iter().find(|m| m.path == "unet.conv_in").unwrap();
    let bias = random.tensor(&[only_bias.outputs], DType::F32);
    let factors = ModuleFactors::new(&only_bias.path, None, Some(bias), None).unwrap();
    worn.modules.insert(only_bias.path.clone(), factors);

    let at = |value: f32| Strength { unet: value, text_encoder: value };
    let attached = attach(&worn, base.towers(), at(1.0), backend).unwrap();
    assert_eq!(attached.paths(), worn.modules.keys().cloned().collect::<Vec<_>>(), "each path once");
    let full = numbers();
    attached.set_strength(at(0.5));
    let half = numbers();
    attached.set_strengths(|_| 1.0);
    assert_eq!(numbers(), full);
    attached.set_strengths(|_| 0.5);
    assert_eq!(numbers(), half);
    attached.set_strengths(|_| 0.0);
    assert_eq!(numbers(), untouched, "at 0 the base, bit for bit");
    for path in worn.modules.keys() {
        attached.set_strengths(|other| if other == path { 1.0 } else { 0.0 });
        assert_ne!(numbers(), untouched, "{path} is set by itself");
    }
    attached.detach();
    assert_eq!(numbers(), untouched);
}
