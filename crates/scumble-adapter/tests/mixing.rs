//! Models into a model: sums in any layouts, block weights, inpainting, and what does not fit.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{fixture, load};
use scumble_adapter::bake::{BakeOptions, bake, table_of};
use scumble_adapter::merge::weights::parse_blocks;
use scumble_adapter::merge::{Input, Weights};
use scumble_adapter::mix::{MixInput, MixOptions, mix};
use scumble_cpu::CpuBackend;
use scumble_model::base::checkpoint::{Checkpoint, Layout, OpenOptions, Part};
use scumble_model::files::{SafetensorsFile, TensorSource as _, write_safetensors};
use scumble_tensor::{Backend, DType, Tensor};

fn backend() -> Arc<dyn Backend> {
    Arc::new(CpuBackend::new(Some(1)).unwrap())
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default()).unwrap()
}

/// The small model with an adapter in it at some strength; another one for every strength.
fn tuned(strength: f32) -> Checkpoint {
    let mut checkpoint = open(&fixture("single_file/tiny-sd1.ckpt"));
    let adapter = load("peft.safetensors").unwrap().adapter;
    let inputs = [Input { name: "a".into(), adapter: &adapter, weights: Weights::all(strength) }];
    bake(&mut checkpoint, &inputs, &BakeOptions::default(), backend()).unwrap();
    checkpoint
}

fn input(checkpoint: Checkpoint, weight: impl Into<Option<f64>>) -> MixInput {
    MixInput { weight: weight.into(), ..MixInput::new("m", checkpoint) }
}

fn mixed(inputs: &[MixInput]) -> Checkpoint {
    mix(inputs, &MixOptions { threads: 2, ..MixOptions::default() }, &backend()).unwrap()
}

fn values(checkpoint: &Checkpoint, part: Part, name: &str) -> Vec<f64> {
    checkpoint.parts[&part].weights.read(name).unwrap().to_vec().unwrap()
}

const Q: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";
const DOWN: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight";
const TEXT: &str = "text_model.encoder.layers.0.self_attn.q_proj.weight";

fn assert_near(found: &[f64], wanted: impl Iterator<Item = f64>) {
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= 1.1e-3 * (1.0 + wanted.abs()), "{found} {wanted}");
    }
}

#[test]
fn weighted_sums_and_added_differences() {
    let (a, b, c) = (tuned(0.0), tuned(1.0), tuned(-2.0));
    let at = |checkpoint: &Checkpoint| values(checkpoint, Part::Unet, Q);
    let (va, vb, vc) = (at(&a), at(&b), at(&c));
    let sum = mixed(&[input(open(&fixture("tiny-sd1")), None), input(b.clone(), 0.3)]);
    assert_near(&at(&sum), va.iter().zip(&vb).map(|(a, b)| 0.7 * a + 0.3 * b));
    // Shares: what the others leave, in equal parts.
    let sum = mixed(&[input(a.clone(), None), input(b.clone(), 0.5), input(c.clone(), None)]);
    let thirds = va.iter().zip(&vb).zip(&vc);
    assert_near(&at(&sum), thirds.clone().map(|((a, b), c)| 0.25 * a + 0.5 * b + 0.25 * c));
    let minus = MixInput { minus: Some(("c".into(), c.clone())), ..input(b.clone(), 0.5) };
    let sum = mixed(&[input(a.clone(), None), minus]);
    assert_near(&at(&sum), thirds.map(|((a, b), c)| a + 0.5 * (b - c)));
    // Equal models are themselves, byte for byte; so is one alone.
    for same in [mixed(&[input(b.clone(), None), input(tuned(1.0), 0.3)]), mixed(&[input(b.clone(), None)])] {
        for (part, component) in &b.parts {
            for name in component.weights.names() {
                let (found, wanted) =
                    (same.parts[part].weights.read(&name).unwrap(), component.weights.read(&name).unwrap());
                assert!(found.bytes().unwrap() == wanted.bytes().unwrap(), "{name}");
            }
        }
    }
}

#[test]
fn blocks_and_whole_parts() {
    let (a, b) = (tuned(0.0), tuned(1.0));
    let table = table_of(&a).unwrap();
    let blocks = |text: &str| parse_blocks(text, &table).unwrap();
    // A list for the second model, as block-weighted merging has it: BASE, then the blocks.
    let mut list = vec!["0.25"; 26];
    (list[0], list[13]) = ("1", "0");
    let second = MixInput { blocks: blocks(&list.join(",")), ..input(b.clone(), 1.0) };
    let sum = mixed(&[input(a.clone(), None), second]);
    let both =
        |name, part| values(&a, part, name).into_iter().zip(values(&b, part, name)).collect::<Vec<_>>();
    assert_eq!(values(&sum, Part::Unet, Q), values(&a, Part::Unet, Q));
    assert_eq!(values(&sum, Part::TextEncoder, TEXT), values(&b, Part::TextEncoder, TEXT));
    let quarter = both(DOWN, Part::Unet).into_iter().map(|(a, b)| 0.75 * a + 0.25 * b);
    assert_near(&values(&sum, Part::Unet, DOWN), quarter);

    let options = MixOptions { whole: BTreeMap::from([(Part::TextEncoder, 1)]), threads: 1 };
    let sum = mix(&[input(a.clone(), None), input(b.clone(), 0.5)], &options, &backend()).unwrap();
    assert_eq!(values(&sum, Part::TextEncoder, TEXT), values(&b, Part::TextEncoder, TEXT));
    assert_ne!(values(&sum, Part::Unet, Q), values(&b, Part::Unet, Q));
}

/// A model that takes mask and masked picture too: the recipe that makes inpainting models of others.
#[test]
fn further_inputs_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let a = folder.path().join("a");
    open(&fixture("tiny-sd1")).save(&a, Layout::Folder, &mut |_| ()).unwrap();
    let path = a.join("unet/diffusion_pytorch_model.safetensors");
    let file = SafetensorsFile::open(&path).unwrap();
    let mut tensors: Vec<(String, Tensor)> =
        file.names().into_iter().map(|name| (name.clone(), file.read(&name).unwrap())).collect();
    let conv =
        tensors.iter_mut().find(|(name, _)| name == "conv_in.weight").map(|(_, tensor)| tensor).unwrap();
    let narrow = conv.to_vec::<f32>().unwrap();
    let wide: Vec<f32> =
        narrow.chunks(36).flat_map(|filter| filter.iter().copied().chain([0.5; 45])).collect();
    *conv = Tensor::from_slice(&wide, &[conv.dims()[0], 9, 3, 3]).unwrap().to_dtype(DType::F16).unwrap();
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let config = a.join("unet/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["in_channels"] = 9.into();
    std::fs::write(&config, json.to_string()).unwrap();

    let plain = || open(&fixture("tiny-sd1"));
    let halved = input(plain(), 0.5);
    let sum = mixed(&[input(open(&a), 0.0), halved]);
    let found = values(&sum, Part::Unet, "conv_in.weight");
    for (filter, narrow) in found.chunks(81).zip(narrow.chunks(36)) {
        assert_near(&filter[..36], narrow.iter().map(|&value| 0.5 * f64::from(value)));
        assert!(filter[36..].iter().all(|&value| value == 0.5));
    }
    let message = mix(&[input(plain(), None), input(open(&a), 0.5)], &MixOptions::default(), &backend());
    let message = message.err().unwrap().to_string();
    assert!(message.contains("conv_in.weight") && message.contains("name it first"), "{message}");
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |inputs: &[MixInput], options: MixOptions| {
        mix(inputs, &options, &backend()).err().unwrap().to_string()
    };
    let sd1 = || open(&fixture("tiny-sd1"));
    let options = MixOptions::default;
    assert!(refused(&[], options()).contains("nothing to merge"));
    let message = refused(&[input(sd1(), None), input(open(&fixture("tiny-sd2")), 0.5)], options());
    assert!(message.contains("1.x") && message.contains("2.x"), "{message}");
    assert!(refused(&[input(sd1(), f64::NAN)], options()).contains("NaN is no weight"));
    let minus = MixInput { minus: Some(("c".into(), sd1())), ..input(sd1(), None) };
    assert!(refused(&[minus], options()).contains("cannot be a difference"));
    let whole = MixOptions { whole: BTreeMap::from([(Part::Vae, 3)]), threads: 1 };
    assert!(refused(&[input(sd1(), None)], whole).contains("no model number 4"));
    let mut without = sd1();
    without.parts.remove(&Part::Vae);
    let message = refused(&[input(sd1(), None), input(without.clone(), 0.5)], options());
    assert!(message.contains("has no vae"), "{message}");
    let whole = MixOptions { whole: BTreeMap::from([(Part::Vae, 0)]), threads: 1 };
    assert!(mix(&[input(sd1(), None), input(without, 0.5)], &whole, &backend()).is_ok());
}
