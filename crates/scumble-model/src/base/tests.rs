//! Tests of folders and single files: both are the same model under two layouts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_tensor::reference::ReferenceBackend;
use scumble_tensor::{DType, Tensor};
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, OpenOptions as CheckpointOptions};
use super::*;
use crate::files::safetensors_tests::fixtures;
use crate::files::{SafetensorsFile, write_safetensors};
use crate::text_encoder::TextEncoder;
use crate::unet::UNet;
use crate::vae::Vae;

fn open(path: &Path, options: &BaseOptions) -> Result<BaseFiles> {
    BaseFiles::open(path.to_str().unwrap(), options)
}

fn parts(base: &BaseFiles) -> [(&'static str, &Component); 3] {
    [("unet", &base.unet), ("text_encoder", &base.text_encoder), ("vae", &base.vae)]
}

fn assert_same_weights(found: &BaseFiles, wanted: &BaseFiles) {
    for ((part, found), (_, wanted)) in parts(found).into_iter().zip(parts(wanted)) {
        assert_eq!(found.weights.names(), wanted.weights.names(), "{part}");
        for name in wanted.weights.names() {
            let (a, b) = (found.weights.read(&name).unwrap(), wanted.weights.read(&name).unwrap());
            assert_eq!((a.dtype(), a.dims()), (b.dtype(), b.dims()), "{part} {name}");
            assert_eq!(found.weights.info(&name).unwrap().shape, a.dims(), "{part} {name}");
            assert!(a.bytes().unwrap() == b.bytes().unwrap(), "{part} {name} has other values");
        }
    }
}

/// Every derived value that the folder's configuration also has must be the same.
fn assert_same_config(derived: &Component, folder: &Component, except: &[&str]) {
    for (key, value) in derived.config.as_object().unwrap() {
        if let Some(wanted) = folder.config.get(key).filter(|_| !except.contains(&key.as_str())) {
            assert_eq!(value, wanted, "{key}");
        }
    }
}

#[test]
fn folders_open_as_what_they_are() {
    for (name, family, prediction) in [
        ("tiny-sd1", Family::Sd1, PredictionType::Epsilon),
        ("tiny-sd2", Family::Sd2, PredictionType::VPrediction),
    ] {
        let base = open(&fixtures().join(name), &BaseOptions::default()).unwrap();
        assert_eq!((base.family, base.prediction_type), (family, prediction));
        assert_eq!(base.prediction_source, PredictionSource::Config);
        assert_eq!(base.tokenizer, TokenizerSource::Folder(fixtures().join(name).join("tokenizer")));
        assert!(base.unet.weights.info("conv_in.weight").is_some());
        let chosen = BaseOptions { prediction_type: Some(PredictionType::Sample), ..Default::default() };
        let base = open(&fixtures().join(name), &chosen).unwrap();
        assert_eq!(base.scheduler_config["prediction_type"], "sample");
    }
}

#[test]
fn single_files_are_the_folder_they_were_made_from() {
    let folder = open(&fixtures().join("tiny-sd1"), &BaseOptions::default()).unwrap();
    for file in ["tiny-sd1.ckpt", "tiny-sd1-single.safetensors"] {
        let base = open(&fixtures().join("single_file").join(file), &BaseOptions::default()).unwrap();
        assert_same_weights(&base, &folder);
        assert_eq!((base.family, base.prediction_type), (Family::Sd1, PredictionType::Epsilon));
        assert_eq!(base.prediction_source, PredictionSource::Assumed);
        assert_same_config(&base.unet, &folder.unet, &["sample_size"]);
        assert_same_config(&base.vae, &folder.vae, &["sample_size"]);
        assert_same_config(&base.text_encoder, &folder.text_encoder, &[]);
        let clip = TokenizerSource::EmbeddedClip { vocabulary: 2014, pad_token: "<|endoftext|>" };
        assert_eq!(base.tokenizer, clip);
        for text in ["a photo of sks dog", "", "An oil painting, 4k, highly detailed!!", "naïve café № 7"]
        {
            let ids = |base: &BaseFiles| base.tokenizer.open().unwrap().encode(text);
            assert_eq!(ids(&base), ids(&folder), "{text}");
        }
        assert_eq!(base.ignored, Vec::<String>::new());
        for key in
            ["beta_start", "beta_end", "beta_schedule", "steps_offset", "timestep_spacing", "_class_name"]
        {
            assert_eq!(base.scheduler_config[key], folder.scheduler_config[key], "{key}");
        }
    }
}

/// The tensors that a key list describes, taken from a folder.
fn from_keys(keys: &str, folder: &BaseFiles) -> BTreeMap<String, Tensor> {
    let list = std::fs::read_to_string(fixtures().join("single_file").join(keys)).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let mut tensors = BTreeMap::new();
    for (key, entry) in list["keys"].as_object().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
        let mut bytes = Vec::new();
        let mut dtype = DType::F16;
        for source in entry["from"].as_array().unwrap() {
            let Some((part, name)) = source.as_str().unwrap().split_once(": ") else {
                dtype = DType::I64;
                bytes.extend((0..77i64).flat_map(i64::to_le_bytes));
                continue;
            };
            let part = parts(folder).into_iter().find(|(known, _)| *known == part).unwrap().1;
            bytes.extend_from_slice(part.weights.read(name).unwrap().bytes().unwrap());
        }
        tensors.insert(key.clone(), Tensor::from_bytes(dtype, &bytes, &shape).unwrap());
    }
    tensors
}

struct SingleFile {
    folder: tempfile::TempDir,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

impl SingleFile {
    fn of(keys: &str, model: &str) -> (Self, BaseFiles) {
        let base = open(&fixtures().join(model), &BaseOptions::default()).unwrap();
        let tensors = from_keys(keys, &base);
        (Self { folder: tempfile::tempdir().unwrap(), tensors, metadata: BTreeMap::new() }, base)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    fn write(&self) -> PathBuf {
        let tensors: Vec<_> =
            self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        write_safetensors(&self.path(), &tensors, &self.metadata).unwrap();
        self.path()
    }

    fn set(&mut self, name: &str, shape: &[usize]) {
        self.tensors.insert(name.into(), Tensor::zeros(DType::F16, shape).unwrap());
    }
}

#[test]
fn open_clip_files_are_unpacked() {
    let (mut file, folder) = SingleFile::of("tiny-sd2-keys.json", "tiny-sd2");
    file.set("cond_stage_model.model.text_projection", &[64, 64]);
    file.set("cond_stage_model.model.logit_scale", &[]);
    file.set("model_ema.diffusion_modelinput_blocks00weight", &[1]);
    file.set("alphas_cumprod", &[1000]);
    let base = open(&file.write(), &BaseOptions::default()).unwrap();
    assert_same_weights(&base, &folder);
    assert_eq!(base.family, Family::Sd2);
    assert_same_config(&base.unet, &folder.unet, &["sample_size", "attention_head_dim"]);
    assert_same_config(&base.text_encoder, &folder.text_encoder, &[]);
    assert_eq!(base.tokenizer, TokenizerSource::EmbeddedClip { vocabulary: 2014, pad_token: "!" });
    assert_eq!(base.ignored, Vec::<String>::new());

    // A side-car folder settles what shapes cannot say, and which layers are used.
    file.set("cond_stage_model.model.transformer.resblocks.3.ln_1.weight", &[64]);
    let options = BaseOptions { config: Some(fixtures().join("tiny-sd2")), ..Default::default() };
    let base = open(&file.write(), &options).unwrap();
    assert_same_weights(&base, &folder);
    assert_eq!(base.unet.config, folder.unet.config);
    assert_eq!(base.prediction_type, PredictionType::VPrediction);
    assert_eq!(base.tokenizer, folder.tokenizer);
}

#[test]
fn the_unused_last_layer_of_vit_h_is_dropped() {
    let (mut file, _) = SingleFile::of("tiny-sd2-keys.json", "tiny-sd2");
    for layer in 3..24 {
        let of_first = "cond_stage_model.model.transformer.resblocks.0.";
        let copies: Vec<_> = file
            .tensors
            .iter()
            .filter_map(|(name, tensor)| {
                let tail = name.strip_prefix(of_first)?;
                Some((format!("cond_stage_model.model.transformer.resblocks.{layer}.{tail}"), tensor.clone()))
            })
            .collect();
        file.tensors.extend(copies);
    }
    let base = open(&file.write(), &BaseOptions::default()).unwrap();
    assert_eq!(base.text_encoder.config["num_hidden_layers"], 23);
    assert!(base.text_encoder.weights.info("text_model.encoder.layers.23.layer_norm1.weight").is_none());
}

#[test]
fn the_prediction_type_is_found_where_it_is_written() {
    let (mut file, _) = SingleFile::of("tiny-sd2-keys.json", "tiny-sd2");
    let settle = |file: &SingleFile, options: &BaseOptions| {
        let base = open(&file.write(), options).unwrap();
        assert_eq!(
            base.scheduler_config["prediction_type"] == "v_prediction",
            base.prediction_type == PredictionType::VPrediction
        );
        (base.prediction_type, base.prediction_source)
    };
    let plain = BaseOptions::default();
    assert_eq!(settle(&file, &plain), (PredictionType::Epsilon, PredictionSource::Assumed));
    std::fs::write(file.path().with_extension("yaml"), "model:\n  params:\n    parameterization: \"v\"\n")
        .unwrap();
    assert_eq!(settle(&file, &plain), (PredictionType::VPrediction, PredictionSource::File));
    file.metadata.insert("modelspec.prediction_type".into(), "epsilon".into());
    assert_eq!(settle(&file, &plain), (PredictionType::Epsilon, PredictionSource::File));
    file.set("v_pred", &[0]);
    assert_eq!(settle(&file, &plain), (PredictionType::VPrediction, PredictionSource::File));
    let chosen = BaseOptions { prediction_type: Some(PredictionType::Epsilon), ..Default::default() };
    assert_eq!(settle(&file, &chosen), (PredictionType::Epsilon, PredictionSource::Chosen));
}

#[test]
fn old_spellings_are_read() {
    let (mut file, folder) = SingleFile::of("tiny-sd1-keys.json", "tiny-sd1");
    let is_projection = |name: &str| {
        ["q", "k", "v", "proj_out"].iter().any(|part| name.ends_with(&format!("mid.attn_1.{part}.weight")))
    };
    file.tensors = std::mem::take(&mut file.tensors)
        .into_iter()
        .map(|(name, tensor)| {
            let shape = if is_projection(&name) { &tensor.dims()[..3] } else { tensor.dims() };
            (name.replace("transformer.text_model.", "transformer."), tensor.reshape(shape).unwrap())
        })
        .collect();
    assert_eq!(file.tensors["first_stage_model.encoder.mid.attn_1.q.weight"].dims(), [24, 24, 1]);
    assert!(file.tensors.contains_key("cond_stage_model.transformer.embeddings.token_embedding.weight"));
    assert_same_weights(&open(&file.write(), &BaseOptions::default()).unwrap(), &folder);
}

/// A copy of tiny-sd1 that a test may spoil.
fn copy_of_tiny_sd1() -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    let source = fixtures().join("tiny-sd1");
    std::fs::copy(source.join("model_index.json"), target.path().join("model_index.json")).unwrap();
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        std::fs::create_dir(target.path().join(part)).unwrap();
        for entry in std::fs::read_dir(source.join(part)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), target.path().join(part).join(entry.file_name())).unwrap();
        }
    }
    target
}

#[test]
fn old_vae_names_in_a_folder_are_read() {
    let wanted = open(&fixtures().join("tiny-sd1"), &BaseOptions::default()).unwrap();
    let copy = copy_of_tiny_sd1();
    let old = fixtures().join("single_file/tiny-sd1-vae-old-attention-names.safetensors");
    assert!(
        SafetensorsFile::open(&old).unwrap().info("encoder.mid_block.attentions.0.query.weight").is_some()
    );
    std::fs::copy(old, copy.path().join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    assert_same_weights(&open(copy.path(), &BaseOptions::default()).unwrap(), &wanted);
}

#[test]
fn variants_and_shards_are_found() {
    let wanted = open(&fixtures().join("tiny-sd1"), &BaseOptions::default()).unwrap();
    let copy = copy_of_tiny_sd1();
    let unet = copy.path().join("unet");
    let plain = unet.join("diffusion_pytorch_model.safetensors");
    std::fs::rename(&plain, unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    let fp16 = BaseOptions { variant: Some("fp16".into()), ..Default::default() };
    assert_same_weights(&open(copy.path(), &fp16).unwrap(), &wanted);
    assert_same_weights(&open(copy.path(), &BaseOptions::default()).unwrap(), &wanted);
    let absent = BaseOptions { variant: Some("bf16".into()), ..Default::default() };
    assert!(open(copy.path(), &absent).err().unwrap().to_string().contains("it has fp16"));

    std::fs::remove_file(unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    let shards = ["a.safetensors", "b.safetensors"];
    for (index, shard) in shards.into_iter().enumerate() {
        let half: Vec<_> =
            wanted.unet.weights.names().into_iter().enumerate().filter(|(at, _)| at % 2 == index).collect();
        let tensors: Vec<_> = half
            .into_iter()
            .map(|(_, name)| (name.clone(), wanted.unet.weights.read(&name).unwrap()))
            .collect();
        map.extend(tensors.iter().map(|(name, _)| (name.clone(), json!(shard))));
        write_safetensors(&unet.join(shard), &tensors, &BTreeMap::new()).unwrap();
    }
    let index = json!({ "weight_map": map }).to_string();
    std::fs::write(unet.join("diffusion_pytorch_model.safetensors.index.json"), index).unwrap();
    assert_same_weights(&open(copy.path(), &BaseOptions::default()).unwrap(), &wanted);
}

#[test]
fn what_another_kind_of_base_has_use_for_is_refused() {
    let refused = |spec: &Path, options: BaseOptions, setting: &str| {
        let checkpoint = CheckpointOptions { base: options.clone(), ..Default::default() };
        let spec = spec.to_str().unwrap();
        let of_checkpoint = Checkpoint::open(spec, &checkpoint).err();
        for error in
            [BaseFiles::open(spec, &options).err(), of_checkpoint, TowerFiles::open(spec, &options).err()]
        {
            let error = error.unwrap_or_else(|| panic!("{spec} does not mind `{setting}`"));
            assert!(error.to_string().contains(&format!("the setting `{setting}`")), "{error}");
            assert!(error.hints()[0].contains(&format!("leave `{setting}` out")), "{:?}", error.hints());
        }
    };
    let folder = fixtures().join("tiny-sd1");
    let variant = BaseOptions { variant: Some("fp16".into()), ..Default::default() };
    for file in ["single_file/tiny-sd1-single.safetensors", "single_file/tiny-sd1.ckpt"] {
        refused(&fixtures().join(file), variant.clone(), "variant");
    }
    let config = BaseOptions { config: Some(folder.clone()), ..Default::default() };
    refused(&folder, config.clone(), "config");
    // A model on the Hub is a folder, and is refused before anything is fetched.
    refused(Path::new("painter/tiny"), config, "config");
}

#[test]
fn what_is_missing_is_named() {
    for file in [
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
    ] {
        let copy = copy_of_tiny_sd1();
        std::fs::remove_file(copy.path().join(file)).unwrap();
        let error = open(copy.path(), &BaseOptions::default()).err().unwrap();
        assert!(error.to_string().contains(file), "{error}");
        assert!(!error.hints().is_empty());
    }
    let empty = tempfile::tempdir().unwrap();
    let error = open(empty.path(), &BaseOptions::default()).err().unwrap();
    assert!(matches!(error, FileError::Missing { .. }), "{error}");
    let error = BaseFiles::open("no/such/base.safetensors", &BaseOptions::default()).err().unwrap();
    assert!(error.to_string().contains("no/such/base.safetensors"), "{error}");
}

#[test]
fn hostile_configurations_are_named() {
    let cases = [
        ("unet/config.json", r#"{"in_channels": -4}"#, "in_channels"),
        ("unet/config.json", r#"{"in_channels": 1e30}"#, "in_channels"),
        ("unet/config.json", r#"{}"#, "in_channels"),
        ("unet/config.json", "[1]", "not an object"),
        ("unet/config.json", "{", "JSON"),
        ("vae/config.json", r#"{"latent_channels": "four"}"#, "latent_channels"),
        ("scheduler/scheduler_config.json", r#"{"prediction_type": "magic"}"#, "magic"),
        ("unet/config.json", r#"{"in_channels": 5}"#, "depth"),
        ("unet/config.json", r#"{"in_channels": 7}"#, "upscaling"),
        (
            "model_index.json",
            r#"{"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["a", "b"]}"#,
            "XL",
        ),
        ("model_index.json", r#"{"_class_name": "FluxPipeline", "transformer": ["a", "b"]}"#, "FluxPipeline"),
    ];
    for (file, content, words) in cases {
        let copy = copy_of_tiny_sd1();
        std::fs::write(copy.path().join(file), content).unwrap();
        let error = open(copy.path(), &BaseOptions::default()).err().unwrap().to_string();
        assert!(error.contains(words), "{file} {content}: {error}");
    }
    let copy = copy_of_tiny_sd1();
    std::fs::write(copy.path().join("unet/config.json"), "[".repeat(900_000)).unwrap();
    assert!(open(copy.path(), &BaseOptions::default()).is_err());
    std::fs::write(copy.path().join("unet/config.json"), " ".repeat(2 << 20)).unwrap();
    assert!(open(copy.path(), &BaseOptions::default()).err().unwrap().to_string().contains("longer than"));
}

#[test]
fn models_for_inpainting_are_known_as_such() {
    let copy = copy_of_tiny_sd1();
    assert!(open(copy.path(), &BaseOptions::default()).unwrap().require_plain_input().is_ok());
    std::fs::write(copy.path().join("unet/config.json"), r#"{"in_channels": 9}"#).unwrap();
    let files = open(copy.path(), &BaseOptions::default()).unwrap();
    let error = files.require_plain_input().unwrap_err().to_string();
    assert!(files.is_inpainting() && error.contains("inpainting"), "{error}");
}

#[test]
fn other_architectures_are_recognised() {
    let cases: [(&str, &[usize], &str); 4] = [
        ("conditioner.embedders.0.transformer.x", &[1], "XL"),
        ("control_model.input_blocks.0.0.weight", &[1], "ControlNet"),
        ("model.diffusion_model.label_emb.weight", &[1], "upscaling"),
        ("lora_unet_x.alpha", &[], "adapter"),
    ];
    let (mut file, _) = SingleFile::of("tiny-sd1-keys.json", "tiny-sd1");
    for (tensor, shape, words) in cases {
        file.set(tensor, shape);
        let error = open(&file.write(), &BaseOptions::default()).err().unwrap().to_string();
        assert!(error.contains(words), "{tensor}: {error}");
        file.tensors.remove(tensor);
    }
    let conv_in = "model.diffusion_model.input_blocks.0.0.weight";
    file.set(conv_in, &[32, 9, 3, 3]);
    assert!(open(&file.write(), &BaseOptions::default()).unwrap().is_inpainting());
    file.set(conv_in, &[32, 5, 3, 3]);
    assert!(open(&file.write(), &BaseOptions::default()).err().unwrap().to_string().contains("depth"));
    file.set(conv_in, &[32, 4]);
    assert!(
        open(&file.write(), &BaseOptions::default()).err().unwrap().to_string().contains("conv_in.weight")
    );
    file.tensors.retain(|name, _| !name.starts_with("first_stage_model."));
    assert!(open(&file.write(), &BaseOptions::default()).err().unwrap().to_string().contains("the VAE"));
}

#[test]
fn a_strange_tensor_stays_in_sight() {
    let (mut file, _) = SingleFile::of("tiny-sd1-keys.json", "tiny-sd1");
    file.set("model.diffusion_model.surprise.weight", &[1]);
    file.set("something.else", &[1]);
    let base = open(&file.write(), &BaseOptions::default()).unwrap();
    assert!(base.unet.weights.info("surprise.weight").is_some());
    assert_eq!(base.ignored, ["something.else"]);
}

/// Builds the three networks, which account for every tensor.
fn build(base: &BaseFiles) -> crate::Result<()> {
    let backend = ReferenceBackend;
    UNet::load(&base.unet.config, base.unet.weights.as_ref(), &backend, DType::F32)?;
    Vae::load(&base.vae.config, base.vae.weights.as_ref(), &backend, DType::F32)?;
    TextEncoder::load(&base.text_encoder.config, base.text_encoder.weights.as_ref(), &backend, DType::F32)?;
    Ok(())
}

#[test]
fn derived_configurations_build_the_networks() {
    let ckpt = fixtures().join("single_file/tiny-sd1.ckpt");
    build(&open(&ckpt, &BaseOptions::default()).unwrap()).unwrap();
    let (file, _) = SingleFile::of("tiny-sd2-keys.json", "tiny-sd2");
    build(&open(&file.write(), &BaseOptions::default()).unwrap()).unwrap();
}

#[test]
fn absurd_sizes_end_in_an_error_that_names_the_key() {
    for (file, key, value) in [
        ("unet/config.json", "block_out_channels", json!([0, 1, 2, 3])),
        ("unet/config.json", "block_out_channels", json!([1e18, 1, 2, 3])),
        ("unet/config.json", "layers_per_block", json!(4_000_000_000u64)),
        ("unet/config.json", "cross_attention_dim", json!(-1)),
        ("unet/config.json", "norm_num_groups", json!(0)),
        ("vae/config.json", "block_out_channels", json!("many")),
        ("text_encoder/config.json", "num_hidden_layers", json!(1e9)),
        ("text_encoder/config.json", "hidden_size", json!("wide")),
    ] {
        let copy = copy_of_tiny_sd1();
        let path = copy.path().join(file);
        let mut config = read_object(&path).unwrap();
        config[key] = value.clone();
        std::fs::write(&path, config.to_string()).unwrap();
        let error =
            open(copy.path(), &BaseOptions::default()).map_err(Into::into).and_then(|base| build(&base));
        let error = error.err().unwrap_or_else(|| panic!("{key} = {value} was accepted")).to_string();
        assert!(error.contains(key), "{key} = {value}: {error}");
    }
}
