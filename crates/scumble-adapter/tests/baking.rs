//! Adapters into models: against recorded weights, in every layout, with every kind, and out again.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{fixture, load};
use scumble_adapter::adapter::{Axis, HadamardSide, KroneckerFactor};
use scumble_adapter::attach::Strength;
use scumble_adapter::bake::{BakeOptions, BakeReport, bake, table_of};
use scumble_adapter::merge::{Input, Weights};
use scumble_adapter::{
    Adapter, Change, HadamardFactors, KroneckerFactors, LowRankFactors, Magnitude, ModuleFactors, Tower,
    TuckerFactors,
};
use scumble_cpu::CpuBackend;
use scumble_model::base::checkpoint::{Checkpoint, Layout, OpenOptions, Part};
use scumble_model::base::{BaseFiles, BaseOptions};
use scumble_model::files::{SafetensorsFile, TensorSource as _, open_any, write_safetensors};
use scumble_tensor::rng::stream;
use scumble_tensor::{DType, Tensor};

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default()).unwrap()
}

fn input<'a>(adapter: &'a Adapter, weights: Weights) -> Input<'a> {
    Input { name: "a".into(), adapter, weights }
}

fn add(checkpoint: &mut Checkpoint, inputs: &[Input<'_>], options: BakeOptions) -> BakeReport {
    bake(checkpoint, inputs, &options, Arc::new(CpuBackend::new(Some(1)).unwrap())).unwrap()
}

fn refused(checkpoint: &mut Checkpoint, inputs: &[Input<'_>], options: BakeOptions) -> String {
    bake(checkpoint, inputs, &options, Arc::new(CpuBackend::new(Some(1)).unwrap())).unwrap_err().to_string()
}

/// A tensor of a checkpoint by module path.
fn weight(checkpoint: &Checkpoint, path: &str) -> Tensor {
    let (part, local) = path.split_once('.').unwrap();
    let part = [Part::Unet, Part::TextEncoder].into_iter().find(|p| p.folder() == part).unwrap();
    checkpoint.parts[&part].weights.read(&format!("{local}.weight")).unwrap()
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_vec::<f64>().unwrap(), b.to_vec::<f64>().unwrap());
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// `W + s up @ down`, as it was recorded from the original formulas.
#[test]
fn weights_equal_the_recorded_sums() {
    let expected = SafetensorsFile::open(&fixture("lora/lora_expected.safetensors")).unwrap();
    for (strength, file) in [("1.0", "kohya.safetensors"), ("0.5", "cloneofsimo.safetensors")] {
        let adapter = load(file).unwrap().adapter;
        let prefix = format!("fused.scale{strength}.");
        let names: Vec<String> =
            expected.names().into_iter().filter(|name| name.starts_with(&prefix)).collect();
        assert!(!names.is_empty());
        for (dtype, bound) in [(DType::F32, 2e-6), (DType::F16, 1e-3)] {
            let mut checkpoint = open(&fixture("tiny-sd1"));
            checkpoint.cast(dtype);
            let report = add(
                &mut checkpoint,
                &[input(&adapter, Weights::all(strength.parse().unwrap()))],
                BakeOptions { threads: 2, ..BakeOptions::default() },
            );
            assert_eq!(report.modules, adapter.modules.len());
            for name in &names {
                let found = weight(&checkpoint, name.strip_prefix(&prefix).unwrap());
                let error = worst(&found, &expected.read(name).unwrap());
                assert!(error < bound, "{name} as {dtype}: {error:e}");
            }
        }
    }
}

/// One model in its three layouts, saved in each of them: always the same weights.
#[test]
fn layouts_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = load("peft.safetensors").unwrap().adapter;
    let inputs = [fixture("tiny-sd1"), fixture("single_file/tiny-sd1.ckpt")];
    let mut wanted: Option<Vec<(String, Vec<u8>)>> = None;
    for from in inputs {
        for (name, layout) in
            [("out", Layout::Folder), ("out.safetensors", Layout::Safetensors), ("out.ckpt", Layout::Ckpt)]
        {
            let out = folder.path().join(name);
            let mut checkpoint = open(&from);
            add(&mut checkpoint, &[input(&adapter, Weights::all(0.7))], BakeOptions::default());
            checkpoint.save(&out, layout, &mut |_| ()).unwrap();
            let saved = open(&out);
            let mut found = Vec::new();
            for (part, component) in &saved.parts {
                for name in component.weights.names() {
                    let bytes = component.weights.read(&name).unwrap().bytes().unwrap().to_vec();
                    found.push((format!("{}.{name}", part.folder()), bytes));
                }
            }
            assert!(*wanted.get_or_insert(found.clone()) == found, "{} to {name}", from.display());
        }
    }
}

/// Every kind on the layers it can have, two adapters at once, against the differences of each alone.
#[test]
fn kinds_norms_and_biases_are_summed() {
    let base = open(&fixture("tiny-sd1"));
    let table = table_of(&base).unwrap();
    let mut random = stream(7, "baking");
    let mut tensor = |dims: &[usize]| {
        let values: Vec<f32> = random.randn(dims.iter().product()).iter().map(|v| v * 0.1).collect();
        Tensor::from_slice(&values, dims).unwrap()
    };
    let attention = "unet.mid_block.attentions.0.transformer_blocks.0.attn1";
    let convolution = "unet.mid_block.resnets.0.conv1";
    let mut one = Adapter::default();
    let put = |adapter: &mut Adapter, path: &str, change: Change, bias, magnitude| {
        let factors = ModuleFactors::new(path, Some(change), bias, magnitude).unwrap();
        adapter.modules.insert(path.to_owned(), factors);
    };
    let sizes = |path: &str| table.get(path).map(|module| (module.outputs, module.inputs)).unwrap();
    let (o, i) = sizes(convolution);
    let tucker = TuckerFactors::new(
        convolution,
        tensor(&[2, i, 1, 1]),
        tensor(&[2, 2, 3, 3]),
        tensor(&[o, 2, 1, 1]),
        1.0,
    );
    put(&mut one, convolution, Change::Tucker(tucker.unwrap()), Some(tensor(&[o])), None);
    let (o, i) = sizes(&format!("{attention}.to_q"));
    let path = format!("{attention}.to_q");
    let mut side = || HadamardSide { a: tensor(&[o, 2]), b: tensor(&[2, i]), core: None };
    let hadamard = HadamardFactors::new(&path, [side(), side()], 3.0).unwrap();
    put(&mut one, &path, Change::Hadamard(hadamard), None, None);
    let path = format!("{attention}.to_k");
    let (w1, w2) = (KroneckerFactor::Whole(tensor(&[2, 2])), KroneckerFactor::Whole(tensor(&[o / 2, i / 2])));
    put(&mut one, &path, Change::Kronecker(KroneckerFactors::new(&path, w1, w2, 1.0).unwrap()), None, None);
    for (name, axis) in [("to_v", Axis::Output), ("to_out.0", Axis::Input)] {
        let path = format!("{attention}.{name}");
        let pair = LowRankFactors::new(&path, tensor(&[3, i]), tensor(&[o, 3]), 2.0).unwrap();
        let length = if axis == Axis::Output { o } else { i };
        let magnitude = Magnitude::new(&path, &tensor(&[length]), axis).unwrap();
        put(&mut one, &path, Change::LowRank(pair), None, Some(magnitude));
    }
    let norm = table.norms()[0].path.clone();
    let width = table.norms()[0].outputs;
    put(&mut one, &norm, Change::Full(tensor(&[width])), Some(tensor(&[width])), None);
    let mut two = Adapter::default();
    for path in [convolution.to_owned(), format!("{attention}.to_q"), format!("{attention}.to_v")] {
        let module = table.get(&path).unwrap();
        let (down, up) = LowRankFactors::shapes_for(module, 5);
        let pair = LowRankFactors::new(&path, tensor(&down), tensor(&up), 5.0).unwrap();
        put(&mut two, &path, Change::LowRank(pair), None, None);
    }

    let mut baked = open(&fixture("tiny-sd1"));
    let mut first = Weights::all(0.5);
    first.blocks.insert(format!("{attention}.to_k"), 0.25);
    let inputs = [input(&one, first.clone()), input(&two, Weights::all(-1.5))];
    let report = add(&mut baked, &inputs, BakeOptions { threads: 2, ..BakeOptions::default() });
    assert_eq!(report.modules, one.modules.len());
    for path in one.modules.keys() {
        let before = weight(&base, path);
        let mut sum = before.to_vec::<f64>().unwrap();
        for (adapter, weight) in [(&one, first.of(path)), (&two, -1.5)] {
            let Some(factors) = adapter.modules.get(path) else { continue };
            let delta = factors.delta_on(path, &before).unwrap().unwrap().to_vec::<f64>().unwrap();
            sum.iter_mut().zip(delta).for_each(|(sum, delta)| *sum += weight * delta);
        }
        let found = weight(&baked, path).to_vec::<f64>().unwrap();
        let off = found.iter().zip(&sum).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max);
        assert!(off < 6e-4, "{path}: {off:e}");
    }
    for (path, factors) in one.modules.iter().filter(|(_, factors)| factors.bias().is_some()) {
        let name = format!("{}.bias", path.strip_prefix("unet.").unwrap());
        let read = |checkpoint: &Checkpoint| {
            checkpoint.parts[&Part::Unet].weights.read(&name).unwrap().to_vec::<f64>().unwrap()
        };
        let added = factors.bias().unwrap().to_vec::<f64>().unwrap();
        for ((before, after), added) in read(&base).iter().zip(read(&baked)).zip(added) {
            assert!((before + 0.5 * added - after).abs() < 1e-3, "{path}");
        }
    }
    let subtract = BakeOptions { subtract: true, ..BakeOptions::default() };
    let message = refused(&mut baked, &[input(&one, first)], subtract);
    assert!(message.contains("DoRA") && message.contains("to_v"), "{message}");
}

/// What comes back is the model but for the rounding of two sums.
#[test]
fn what_was_added_can_be_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = load("cloneofsimo.safetensors").unwrap().adapter;
    for (dtype, ulp) in [(DType::F16, 2f64.powi(-10)), (DType::F32, 2f64.powi(-23))] {
        let (baked, plain) = (folder.path().join("baked"), folder.path().join("plain"));
        let mut checkpoint = open(&fixture("tiny-sd1"));
        checkpoint.cast(dtype);
        let original = checkpoint.clone();
        add(&mut checkpoint, &[input(&adapter, Weights::all(0.8))], BakeOptions::default());
        checkpoint.save(&baked, Layout::Folder, &mut |_| ()).unwrap();
        let mut checkpoint = open(&baked);
        let options = BakeOptions { subtract: true, ..BakeOptions::default() };
        let report = add(&mut checkpoint, &[input(&adapter, Weights::all(0.8))], options);
        assert_eq!(report.staying, ["<s1>", "<s2>"]);
        checkpoint.save(&plain, Layout::Folder, &mut |_| ()).unwrap();
        let found = open(&plain);
        for path in adapter.modules.keys() {
            let (a, b) = (weight(&original, path), weight(&found, path));
            let largest = weight(&open(&baked), path).to_vec::<f64>().unwrap();
            let largest = largest.into_iter().map(f64::abs).fold(0.0, f64::max);
            // Half a unit in the last place on each way, of the largest value.
            assert!(worst(&a, &b) <= ulp * largest.max(1.0), "{path} {dtype}: {}", worst(&a, &b));
        }
    }
}

/// 2.x in single files: query, key and value lie on top of each other, and each third gets its own change.
#[test]
fn packed_rows_of_a_single_file_get_their_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut base = open(&fixture("tiny-sd2"));
    base.cast(DType::F32);
    for (name, layout) in [("base.safetensors", Layout::Safetensors), ("base.ckpt", Layout::Ckpt)] {
        base.save(&path(name), layout, &mut |_| ()).unwrap();
    }
    let (rank, alpha, strength) = (2, 6.0f32, 0.5f32);
    let mut random = stream(11, "packed");
    let mut tensor = |dims: &[usize]| Tensor::from_slice(&random.randn(dims.iter().product()), dims).unwrap();
    let layer = "text_encoder.text_model.encoder.layers.1.";
    let resblock = "cond_stage_model.model.transformer.resblocks.1.";
    // Module, the tensor of the single file, its first row there, outputs and inputs. The key stays as it is.
    let changed = [
        ("self_attn.q_proj", "attn.in_proj_weight", 0, 64, 64),
        ("self_attn.v_proj", "attn.in_proj_weight", 128, 64, 64),
        ("self_attn.out_proj", "attn.out_proj.weight", 0, 64, 64),
        ("mlp.fc1", "mlp.c_fc.weight", 0, 256, 64),
    ];
    let single = SafetensorsFile::open(&path("base.safetensors")).unwrap();
    let mut wanted: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut adapter = Adapter::default();
    for (module, key, row, outputs, inputs) in changed {
        let (down, up) = (tensor(&[rank, inputs]), tensor(&[outputs, rank]));
        let (a, b) = (up.to_vec::<f64>().unwrap(), down.to_vec::<f64>().unwrap());
        adapter.insert(&format!("{layer}{module}"), down, up, alpha).unwrap();
        let key = format!("{resblock}{key}");
        let sum = wanted.entry(key.clone()).or_insert_with(|| single.read(&key).unwrap().to_vec().unwrap());
        let scale = f64::from(strength * alpha) / rank as f64;
        for (o, i) in (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))) {
            let product: f64 = (0..rank).map(|r| a[o * rank + r] * b[r * inputs + i]).sum();
            sum[(row + o) * inputs + i] += scale * product;
        }
    }
    let weights = Weights { strength: Strength { unet: 3.0, text_encoder: strength }, ..Weights::default() };
    for from in [fixture("tiny-sd2"), path("base.safetensors"), path("base.ckpt")] {
        for (to, layout, wrapper) in
            [("baked.safetensors", Layout::Safetensors, ""), ("baked.ckpt", Layout::Ckpt, "state_dict.")]
        {
            let mut checkpoint = open(&from);
            checkpoint.cast(DType::F32);
            let report = add(&mut checkpoint, &[input(&adapter, weights.clone())], BakeOptions::default());
            assert_eq!(report.modules, changed.len());
            checkpoint.save(&path(to), layout, &mut |_| ()).unwrap();
            let baked = open_any(&path(to)).unwrap();
            for name in single.names() {
                let (before, after) =
                    (single.read(&name).unwrap(), baked.read(&format!("{wrapper}{name}")).unwrap());
                let Some(sum) = wanted.get(&name) else {
                    assert!(before.bytes().unwrap() == after.bytes().unwrap(), "{name} is not to change");
                    continue;
                };
                assert_eq!(before.dims(), after.dims());
                let found = after.to_vec::<f64>().unwrap();
                let off = found.iter().zip(sum).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(off < 1e-5, "{} to {to}: {name}: {off:e}", from.display());
                // The third between them is exactly what it was.
                if name.ends_with("in_proj_weight") {
                    let key = 64 * 64..128 * 64;
                    assert_eq!(found[key.clone()], before.to_vec::<f64>().unwrap()[key]);
                }
            }
        }
    }
}

fn token_rows(folder: &Path) -> Vec<f32> {
    let text = SafetensorsFile::open(&folder.join("text_encoder/model.safetensors")).unwrap();
    let table = text.read("text_model.embeddings.token_embedding.weight").unwrap();
    table.to_vec::<f32>().unwrap()
}

#[test]
fn tokens_come_along() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = load("cloneofsimo.safetensors").unwrap().adapter;
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let mut checkpoint = open(&fixture("tiny-sd1"));
    let report = add(&mut checkpoint, &[input(&adapter, Weights::default())], BakeOptions::default());
    assert_eq!(report.tokens, ["<s1>", "<s2>"]);
    checkpoint.save(&path("a"), Layout::Folder, &mut |_| ()).unwrap();
    let base = BaseFiles::open(path("a").to_str().unwrap(), &BaseOptions::default()).unwrap();
    let tokenizer = base.tokenizer.open().unwrap();
    assert_eq!([tokenizer.id_of("<s1>"), tokenizer.id_of("<s2>")], [Some(2014), Some(2015)]);
    assert_eq!(base.text_encoder.config["vocab_size"], 2016);
    let expected: Vec<f32> = ["<s1>", "<s2>"]
        .iter()
        .flat_map(|t| adapter.tokens[*t].to_dtype(DType::F16).unwrap().to_vec::<f32>().unwrap())
        .collect();
    assert_eq!(token_rows(&path("a"))[2014 * 48..], expected);

    // The same again adds none; other rows under a name get another.
    let mut again = open(&path("a"));
    let report = add(&mut again, &[input(&adapter, Weights::default())], BakeOptions::default());
    assert!(report.tokens.is_empty() && report.renamed.is_empty());
    let mut other = Adapter::default();
    let rows: Vec<f32> = (0..96).map(|i| i as f32).collect();
    other.tokens.insert("<s1>".into(), Tensor::from_slice(&rows, &[2, 48]).unwrap());
    let report = add(&mut again, &[input(&other, Weights::default())], BakeOptions::default());
    assert_eq!(report.tokens, ["<s1-2>"]);
    assert_eq!((report.renamed[0].from.as_str(), report.renamed[0].to.as_str()), ("<s1>", "<s1-2>"));
    again.save(&path("b"), Layout::Folder, &mut |_| ()).unwrap();
    assert_eq!(token_rows(&path("b"))[2016 * 48..], rows);
    let opened = open(&path("b"));
    assert_eq!(opened.learned_tokens(), ["<s1>", "<s2>", "<s1-2>"]);

    // To a single file they go beside it, two rows in one file.
    let saved = opened.save(&path("c.safetensors"), Layout::Safetensors, &mut |_| ()).unwrap();
    let names = ["c.s1.pt", "c.s2.pt", "c.s1-2.pt"].map(&path);
    assert_eq!(saved.embeddings, names);
    let source = open_any(&names[2]).unwrap();
    let key = source.names().into_iter().find(|name| name.starts_with("string_to_param")).unwrap();
    assert_eq!(source.read(&key).unwrap().dims(), [2, 48]);
    let table = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
    assert_eq!(open_any(&path("c.safetensors")).unwrap().info(table).unwrap().shape, [2014, 48]);
    // Straight into a .ckpt, and out of a single file into a folder.
    let mut ckpt = open(&path("c.safetensors"));
    add(&mut ckpt, &[input(&adapter, Weights::default())], BakeOptions::default());
    let saved = ckpt.save(&path("d.ckpt"), Layout::Ckpt, &mut |_| ()).unwrap();
    assert_eq!(saved.embeddings, [path("d.s1.pt"), path("d.s2.pt")]);
    ckpt.save(&path("e"), Layout::Folder, &mut |_| ()).unwrap();
    assert_eq!(token_rows(&path("e"))[2014 * 48..], expected);
    BaseFiles::open(path("e").to_str().unwrap(), &BaseOptions::default()).unwrap();
}

#[test]
fn what_has_no_place_is_named() {
    let adapter = load("cloneofsimo.safetensors").unwrap().adapter;
    let options = BakeOptions::default();
    let mut sd2 = open(&fixture("tiny-sd2"));
    let message = refused(&mut sd2, &[input(&adapter, Weights::default())], options);
    assert!(message.contains("self_attn.k_proj") && message.contains("more"), "{message}");
    let mut sd1 = open(&fixture("tiny-sd1"));
    let message = refused(&mut sd1, &[input(&adapter, Weights::all(f32::NAN))], options);
    assert!(message.contains("no weight"), "{message}");
    let mut tokens = Adapter::default();
    tokens.tokens.insert("<x>".into(), Tensor::zeros(DType::F32, &[1, 64]).unwrap());
    let message = refused(&mut sd1, &[input(&tokens, Weights::default())], options);
    assert!(message.contains("`<x>`") && message.contains("48"), "{message}");
    // Too much for f16: named when it is written, and nothing is left.
    let folder = tempfile::tempdir().unwrap();
    let mut loud = Adapter::default();
    let pair =
        |value: f32, dims: [usize; 2]| Tensor::from_slice(&vec![value; dims[0] * dims[1]], &dims).unwrap();
    let path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let table = table_of(&sd1).unwrap();
    let (o, i) = table.get(path).map(|m| (m.outputs, m.inputs)).unwrap();
    loud.insert(path, pair(300.0, [1, i]), pair(300.0, [o, 1]), 1.0).unwrap();
    add(&mut sd1, &[input(&loud, Weights::default())], options);
    let error = sd1.save(&folder.path().join("x.safetensors"), Layout::Safetensors, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("too large for f16"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// SDXL: modules of three towers, and tokens with rows for both text encoders. The model is made of the key list.
#[test]
fn sdxl_takes_modules_and_tokens_of_both_encoders() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let keys = common::json(&fixture("single_file/tiny-sdxl-keys.json"));
    let zeros = |entry: &serde_json::Value| {
        let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
        Tensor::zeros(DType::F16, &shape).unwrap()
    };
    let tensors: Vec<_> =
        keys["keys"].as_object().unwrap().iter().map(|(key, entry)| (key.clone(), zeros(entry))).collect();
    write_safetensors(&path("xl.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let mut checkpoint = open(&path("xl.safetensors"));
    let table = table_of(&checkpoint).unwrap();
    let mut adapter = Adapter::default();
    let changed = [
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoder_2.text_model.encoder.layers.1.self_attn.v_proj",
        "unet.add_embedding.linear_1",
    ];
    let filled =
        |dims: &[usize], value: f32| Tensor::from_slice(&vec![value; dims.iter().product()], dims).unwrap();
    for path in changed {
        let module = table.get(path).unwrap();
        let (down, up) = (filled(&[1, module.inputs], 0.5), filled(&[module.outputs, 1], 2.0));
        adapter.insert(path, down, up, 1.0).unwrap();
    }
    let widths = [Tower::TextEncoder, Tower::TextEncoder2].map(|tower| table.width_of(tower).unwrap());
    adapter.tokens.insert("<x>".into(), filled(&[2, widths[0]], 3.0));
    adapter.tokens_2.insert("<x>".into(), filled(&[2, widths[1]], 4.0));
    let inputs = [input(
        &adapter,
        Weights { strength: Strength { unet: 1.0, text_encoder: -2.0 }, ..Weights::default() },
    )];
    let report = add(&mut checkpoint, &inputs, BakeOptions::default());
    assert_eq!((report.modules, report.tokens.as_slice()), (4, &["<x>".to_owned()][..]));

    checkpoint.save(&path("xl"), Layout::Folder, &mut |_| ()).unwrap();
    let saved = open(&path("xl"));
    assert_eq!(saved.learned_tokens(), ["<x>"]);
    let token = saved.learned_token("<x>").unwrap().unwrap();
    for (part, (width, value)) in
        [Part::TextEncoder, Part::TextEncoder2].into_iter().zip(widths.into_iter().zip([3.0, 4.0]))
    {
        assert_eq!(token.rows[&part].to_vec::<f32>().unwrap(), vec![value; 2 * width]);
    }
    for (path, value) in changed.iter().zip([1.0, -2.0, -2.0, 1.0]) {
        let (part, local) = path.split_once('.').unwrap();
        let part = saved.parts.keys().find(|p| p.folder() == part).unwrap();
        let found = saved.parts[part].weights.read(&format!("{local}.weight")).unwrap();
        assert!(found.to_vec::<f32>().unwrap().iter().all(|&v| v == value), "{path}");
    }
    // A single file has both encoders' rows in one file beside it, and its tables are the vocabulary's.
    let written = saved.save(&path("one.safetensors"), Layout::Safetensors, &mut |_| ()).unwrap();
    assert_eq!(written.embeddings, [path("one.x.safetensors")]);
    let beside = SafetensorsFile::open(&path("one.x.safetensors")).unwrap();
    assert_eq!(beside.names(), ["clip_g", "clip_l"]);
    let one = SafetensorsFile::open(&path("one.safetensors")).unwrap();
    for (key, tensor) in &tensors {
        assert_eq!(one.info(key).unwrap().shape, tensor.dims(), "{key}");
    }
}
