//! Files that do not fit or are damaged: refused with the tensor named, and partial only when asked for.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{fixture, load, table};
use scumble_adapter::AdapterError;
use scumble_adapter::dialect::{
    AdapterFile, LoadReport, MemorySource, ReadOptions, load_adapter, read_source,
};
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_tensor::rng::stream;
use scumble_tensor::{DType, Tensor};

/// A fixture file with one thing changed.
fn changed(name: &str, change: impl FnOnce(&mut MemorySource)) -> MemorySource {
    let file = SafetensorsFile::open(&fixture(&format!("lora/{name}"))).unwrap();
    let tensors = file.names().into_iter().map(|key| (key.clone(), file.read(&key).unwrap())).collect();
    let mut source = MemorySource { name: name.into(), tensors, metadata: file.metadata().clone() };
    change(&mut source);
    source
}

fn read(source: &MemorySource, partial: bool) -> Result<LoadReport, AdapterError> {
    let file = AdapterFile { source, path: None };
    read_source(&file, &table("tiny-sd1"), ReadOptions { partial }).map(|(_, report)| report)
}

const FLAT: &str = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k";
const PATH: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k";

#[test]
fn damaged_pairs_are_named() {
    let wide = Tensor::zeros(DType::F32, &[4, 49]).unwrap();
    let other_rank = Tensor::zeros(DType::F32, &[5, 48]).unwrap();
    let (down, up) = (format!("{FLAT}.lora_down.weight"), format!("{FLAT}.lora_up.weight"));
    type Change<'c> = Box<dyn Fn(&mut MemorySource) + 'c>;
    let cases: [(&str, Change<'_>); 6] = [
        ("has no down factor", Box::new(|s| drop(s.tensors.remove(&down)))),
        ("has no up factor", Box::new(|s| drop(s.tensors.remove(&up)))),
        ("ranks disagree", Box::new(|s| drop(s.tensors.insert(down.clone(), other_rank.clone())))),
        ("the base wants [4, 48]", Box::new(|s| drop(s.tensors.insert(down.clone(), wide.clone())))),
        ("expected one number", Box::new(|s| drop(s.tensors.insert(format!("{FLAT}.alpha"), wide.clone())))),
        ("DoRA", Box::new(|s| drop(s.tensors.insert(format!("{FLAT}.dora_scale"), wide.clone())))),
    ];
    for (expected, change) in cases {
        let source = changed("kohya.safetensors", change);
        let message = read(&source, false).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(PATH), "{expected}: {message}");
        let report = read(&source, true).unwrap();
        assert_eq!((report.modules, report.misfits.len()), (155, 1), "{expected}");
    }
}

/// Changes of kinds that we do not apply: the key and the kind are named, and the module is not taken in part.
#[test]
fn kinds_that_are_not_supported_are_named() {
    let tensor = |dims: &[usize]| Tensor::zeros(DType::F32, dims).unwrap();
    for (kind, keys) in [
        ("GLoRA is", &["a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight"][..]),
        ("OFT is", &["oft_blocks", "oft_diag", "rescale"]),
        ("BOFT is", &["boft_blocks"]),
        ("IA3 is", &["weight", "on_input"]),
        ("a core for the small LoKr matrix is", &["lokr_t1"]),
    ] {
        for key in keys {
            let key = format!("{FLAT}.{key}");
            let source = changed("kohya.safetensors", |source| {
                source.tensors.retain(|key, _| !key.starts_with(&format!("{FLAT}.")));
                source.tensors.insert(format!("{FLAT}.alpha"), Tensor::scalar(1.0f32).unwrap());
                source.tensors.insert(key.clone(), tensor(&[4, 4]));
            });
            let message = read(&source, false).unwrap_err().to_string();
            let named = message.contains(&format!("`{key}`")) && message.contains(PATH);
            assert!(named && message.contains(&format!("{kind} not supported")), "{message}");
            let report = read(&source, true).unwrap();
            assert_eq!((report.modules, report.misfits.len(), report.unmatched.len()), (155, 1, 0), "{key}");
        }
    }
}

/// OneTrainer's vectors that are added behind the text encoder: without them the token would be another.
#[test]
fn vectors_behind_the_text_encoder_are_named() {
    for key in ["bundle_emb.<s1>.clip_l_out", "bundle_emb.<s1>.clip_g_out"] {
        let source = changed("kohya.safetensors", |source| {
            source.tensors.insert(key.into(), Tensor::zeros(DType::F32, &[1, 48]).unwrap());
        });
        let message = read(&source, false).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains("behind the text encoder"), "{message}");
        let report = read(&source, true).unwrap();
        assert_eq!((report.modules, report.tokens, report.misfits.len()), (156, 0, 1), "{key}");
    }
}

/// Parts that have no meaning beside the others are named, never dropped.
#[test]
fn parts_that_would_be_lost_are_named() {
    let tensor = |dims: &[usize]| Tensor::zeros(DType::F32, dims).unwrap();
    let one = || Tensor::scalar(0.5f32).unwrap();
    let cases: [(&str, Vec<(&str, Tensor)>); 5] = [
        (
            "lokr_w2",
            vec![
                ("lora_down.weight", tensor(&[4, 48])),
                ("lora_up.weight", tensor(&[32, 4])),
                ("lokr_w2", tensor(&[16, 24])),
            ],
        ),
        ("scale", vec![("diff", tensor(&[32, 48])), ("scale", one())]),
        ("scalar", vec![("diff", tensor(&[32, 48])), ("scalar", one())]),
        ("scale", vec![("lokr_w1", tensor(&[2, 2])), ("lokr_w2", tensor(&[16, 24])), ("scale", one())]),
        ("scalar", vec![("diff_b", tensor(&[32])), ("scalar", one())]),
    ];
    for (lost, parts) in cases {
        let source = changed("kohya.safetensors", |source| {
            source.tensors.retain(|key, _| !key.starts_with(&format!("{FLAT}.")));
            source.tensors.extend(parts.into_iter().map(|(part, t)| (format!("{FLAT}.{part}"), t)));
        });
        let message = read(&source, false).unwrap_err().to_string();
        let expected = format!("`{FLAT}.{lost}` has no meaning");
        assert!(message.contains(&expected) && message.contains(PATH), "{expected}: {message}");
    }
}

/// A scalar becomes part of alpha, so the factors keep their bytes; two whole matrices have no alpha that counts.
#[test]
fn a_scalar_loses_nothing() {
    let random = |name: &str, dims: &[usize]| {
        stream(2, name).randn_tensor(dims).unwrap().to_dtype(DType::F16).unwrap()
    };
    let scalar = || ("scalar", Tensor::scalar(0.3f32).unwrap());
    let delta = |parts: Vec<(&str, Tensor)>| {
        let tensors = parts.into_iter().map(|(part, t)| (format!("{FLAT}.{part}"), t)).collect();
        let source = MemorySource { name: "scalar".into(), tensors, ..MemorySource::default() };
        let file = AdapterFile { source: &source, path: None };
        let adapter = read_source(&file, &table("tiny-sd1"), ReadOptions::default()).unwrap().0;
        let delta = adapter.modules[PATH].delta(PATH).unwrap().unwrap().to_vec::<f64>().unwrap();
        (delta, adapter.modules[PATH].change().and_then(|change| change.alpha()))
    };
    let kinds = [
        vec![("lora_down.weight", random("d", &[4, 48])), ("lora_up.weight", random("u", &[32, 4]))],
        vec![
            ("lokr_w1_a", random("a", &[2, 1])),
            ("lokr_w1_b", random("b", &[1, 2])),
            ("lokr_w2", random("w", &[16, 24])),
        ],
        vec![("lokr_w1", random("w1", &[2, 2])), ("lokr_w2", random("w", &[16, 24]))],
        vec![
            ("hada_w1_a", random("1a", &[32, 2])),
            ("hada_w1_b", random("1b", &[2, 48])),
            ("hada_w2_a", random("2a", &[32, 2])),
            ("hada_w2_b", random("2b", &[2, 48])),
        ],
    ];
    for (index, parts) in kinds.into_iter().enumerate() {
        let (plain, alpha) = delta(parts.clone());
        let (scaled, scaled_alpha) = delta(parts.into_iter().chain([scalar()]).collect());
        for (a, b) in scaled.iter().zip(&plain) {
            assert!((a - 0.3 * b).abs() <= 1e-6 * b.abs().max(1e-3), "kind {index}: {a} for 0.3 * {b}");
        }
        assert_eq!(scaled_alpha == alpha, index == 2, "kind {index}: alpha takes it where it counts");
    }
}

#[test]
fn tensors_without_a_place_are_an_error_by_default() {
    let stray = Tensor::zeros(DType::F32, &[4, 4]).unwrap();
    for (name, key) in [
        ("kohya.safetensors", "lora_unet_up_blocks_9_attn1_to_q.lora_down.weight"),
        ("peft.safetensors", "unet.up_blocks.9.attn1.to_q.lora_A.weight"),
        ("diffusers_old.safetensors", "unet.up_blocks.9.attn1.processor.to_q_lora.down.weight"),
        ("cloneofsimo.safetensors", "unet:144:up"),
        ("cloneofsimo.safetensors", "something"),
    ] {
        let source = changed(name, |source| drop(source.tensors.insert(key.into(), stray.clone())));
        let message = read(&source, false).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
        assert_eq!(read(&source, true).unwrap().unmatched.len(), 1, "{key}");
    }
}

#[test]
fn values_that_are_not_finite_are_refused_in_every_mode() {
    let key = format!("{FLAT}.lora_up.weight");
    let poison = Tensor::from_slice(&[f32::NAN; 4 * 32], &[32, 4]).unwrap();
    let source = changed("kohya.safetensors", |source| drop(source.tensors.insert(key, poison)));
    for partial in [false, true] {
        let error = read(&source, partial).unwrap_err();
        assert!(
            matches!(&error, AdapterError::NotFinite { module, count: 128, .. } if module == PATH),
            "{error}"
        );
    }
}

#[test]
fn numbered_files_without_metadata_are_told_apart_by_shapes() {
    for name in ["cloneofsimo.safetensors", "cloneofsimo_ge015.safetensors"] {
        let source = changed(name, |source| {
            source.metadata.clear();
            source.tensors.retain(|key, _| !key.starts_with('<'));
        });
        assert_eq!(read(&source, false).unwrap().modules, 156, "{name}");
    }
    let source = changed("cloneofsimo.safetensors", |source| {
        source.metadata.insert("unet".into(), "[\"CrossAttention\", 3".into());
    });
    assert!(read(&source, false).unwrap_err().to_string().contains("`unet`"));
}

#[test]
fn numbered_files_with_holes_are_refused() {
    let source = changed("cloneofsimo.safetensors", |source| {
        source.tensors.retain(|key, _| !key.starts_with("unet:143:") && !key.starts_with("unet:7:"));
    });
    let message = read(&source, false).unwrap_err().to_string();
    assert!(message.contains("142 numbered pairs; on this base there are 16 or"), "{message}");
}

#[test]
fn tokens_of_another_width_are_refused() {
    let source = changed("cloneofsimo.safetensors", |source| {
        source.tensors.insert("<s1>".into(), Tensor::zeros(DType::F32, &[64]).unwrap());
    });
    let message = read(&source, false).unwrap_err().to_string();
    assert!(message.contains("<s1>: the token is 64 wide, the base's text encoder 48"), "{message}");
    assert_eq!(read(&source, true).unwrap().tokens, 1);
}

#[test]
fn another_bases_adapter_is_named() {
    // The tiny SD2 base is 64 wide where tiny SD1 is 48, and its blocks have other widths.
    for name in
        ["kohya.safetensors", "peft.safetensors", "cloneofsimo.safetensors", "diffusers_old.safetensors"]
    {
        let path = fixture(&format!("lora/{name}"));
        let message =
            load_adapter(&path, &table("tiny-sd2"), ReadOptions::default()).unwrap_err().to_string();
        assert!(message.contains("attn2.to_k takes 48, the base wants 64"), "{name}: {message}");
    }
    let source = changed("kohya.safetensors", |source| {
        let key = "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight";
        source.tensors.insert(key.into(), Tensor::zeros(DType::F32, &[4, 4]).unwrap());
    });
    assert!(read(&source, false).unwrap_err().to_string().contains("SDXL"));
}

#[test]
fn files_that_are_no_adapters() {
    let table = table("tiny-sd1");
    let model = fixture("tiny-sd1/unet/diffusion_pytorch_model.safetensors");
    let message = load_adapter(&model, &table, ReadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("not an adapter"), "{message}");
    assert!(matches!(
        load_adapter(&fixture("lora/absent.safetensors"), &table, ReadOptions::default()),
        Err(AdapterError::File(_))
    ));
    assert!(load("lora.json").is_err());
}
