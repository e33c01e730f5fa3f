//! A whole model after training, as a diffusers folder.
//!
//! ```text
//! model_index.json
//! unet/           config.json, diffusion_pytorch_model.safetensors       the trained weights
//! text_encoder/   config.json, model.safetensors                         trained, or the base's bytes
//! vae/            config.json, diffusion_pytorch_model.safetensors       the base's
//! tokenizer/, scheduler/                                                 the base's
//! ```
//!
//! The folder is made beside its place and renamed when it is complete.

use std::collections::BTreeMap;
use std::path::Path;

use scumble_model::base::{Component, TokenizerSource};
use scumble_model::files::{AtomicFolder, TensorInfo, atomic_write, write_safetensors_with};
use scumble_model::nn::Modules;
use scumble_model::schedule::PredictionType;
use scumble_model::tokenizer::{Pad, clip_files};
use scumble_tensor::{Backend, DType, Param};
use serde_json::{Value, json};

use crate::error::{Result, TrainError};
use crate::run::base::Base;

/// Writes the model to `folder`, replacing an older one of the same run. `text` tells whether the text encoder was
/// trained.
pub fn write(base: &Base, backend: &dyn Backend, dtype: DType, text: bool, folder: &Path) -> Result<()> {
    let whole = AtomicFolder::create(folder)?;
    let beside = whole.path();
    for part in ["", "unet", "text_encoder", "vae", "tokenizer", "scheduler"] {
        let part = beside.join(part);
        std::fs::create_dir_all(&part).map_err(TrainError::io("creating", part))?;
    }
    let files = &base.files;
    let diffusion = "diffusion_pytorch_model.safetensors";
    let unet = Weights::Trained(backend, base.unet.params());
    component(&beside.join("unet"), diffusion, &files.unet, unet, dtype)?;
    let words = if text { Weights::Trained(backend, base.text_encoder.params()) } else { Weights::OfBase };
    component(&beside.join("text_encoder"), "model.safetensors", &files.text_encoder, words, dtype)?;
    component(&beside.join("vae"), diffusion, &files.vae, Weights::OfBase, dtype)?;
    tokenizer(&beside.join("tokenizer"), &files.tokenizer)?;
    let mut scheduler = base.scheduler_config.clone();
    scheduler["prediction_type"] = match base.prediction {
        PredictionType::Epsilon => "epsilon",
        PredictionType::VPrediction => "v_prediction",
        PredictionType::Sample => "sample",
    }
    .into();
    write_json(&beside.join("scheduler/scheduler_config.json"), &scheduler)?;
    write_json(&beside.join("model_index.json"), &index(&scheduler))?;
    Ok(whole.commit()?)
}

/// Bytes that [`write`] will write, but for the small files.
pub fn planned_bytes(base: &Base, dtype: DType, text: bool) -> u64 {
    let trained = |params: &[Param]| params.iter().map(|p| p.value().numel() * dtype.size()).sum::<usize>();
    let kept = |component: &Component| {
        let infos = component.weights.names().into_iter().filter_map(|name| component.weights.info(&name));
        infos.map(|info| info.numel() * stored(info.dtype, dtype).size()).sum::<usize>()
    };
    let words = if text { trained(base.text_encoder.params()) } else { kept(&base.files.text_encoder) };
    (trained(base.unet.params()) + words + kept(&base.files.vae)) as u64
}

enum Weights<'a> {
    OfBase,
    Trained(&'a dyn Backend, &'a [Param]),
}

/// The element type of a kept tensor: whole numbers stay what they are.
fn stored(found: DType, wanted: DType) -> DType {
    if found.is_float() { wanted } else { found }
}

fn component(
    folder: &Path,
    file: &str,
    component: &Component,
    weights: Weights<'_>,
    dtype: DType,
) -> Result<()> {
    write_json(&folder.join("config.json"), &component.config)?;
    let path = folder.join(file);
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let source = &component.weights;
    let engine = |source| scumble_model::files::FileError::engine(&path, "a weight", source);
    match weights {
        Weights::OfBase => {
            let info = |name: &String| {
                let info = source.info(name)?;
                Some((name.clone(), TensorInfo { dtype: stored(info.dtype, dtype), shape: info.shape }))
            };
            let layout = source.names().iter().filter_map(info).collect();
            write_safetensors_with(&path, layout, &metadata, |name| {
                let tensor = source.read(name)?;
                let dtype = stored(tensor.dtype(), dtype);
                tensor.to_dtype(dtype).map_err(engine)
            })?;
        }
        Weights::Trained(backend, params) => {
            // Sizes in the order of files are those of the base's file, or of the parameter as it is exported.
            let mut by_name = BTreeMap::new();
            let mut layout = Vec::with_capacity(params.len());
            for param in params {
                let shape = Modules::export(backend, param)?.dims().to_vec();
                layout.push((param.name().to_owned(), TensorInfo { dtype, shape }));
                by_name.insert(param.name(), param);
            }
            write_safetensors_with(&path, layout, &metadata, |name| {
                let param = by_name
                    .get(name)
                    .ok_or_else(|| scumble_model::files::FileError::missing_tensor(&path, name))?;
                let tensor = Modules::export(backend, param).map_err(engine)?;
                tensor.to_dtype(dtype).map_err(engine)
            })?;
        }
    }
    Ok(())
}

fn tokenizer(folder: &Path, source: &TokenizerSource) -> Result<()> {
    match source {
        TokenizerSource::Folder(from) => {
            let names = [
                "vocab.json",
                "merges.txt",
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "added_tokens.json",
            ];
            for name in names {
                let (from, to) = (from.join(name), folder.join(name));
                if from.is_file() {
                    std::fs::copy(&from, &to).map_err(TrainError::io("copying to", to))?;
                }
            }
        }
        TokenizerSource::EmbeddedClip { vocabulary, pad_token } => {
            let pad = if *pad_token == "!" { Pad::ExclamationMark } else { Pad::End };
            for (name, content) in clip_files(*vocabulary, pad)? {
                let path = folder.join(name);
                std::fs::write(&path, content).map_err(TrainError::io("writing", path))?;
            }
        }
    }
    Ok(())
}

fn index(scheduler: &Value) -> Value {
    let class = scheduler.get("_class_name").and_then(Value::as_str).unwrap_or("DDIMScheduler");
    json!({
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.21.0",
        "feature_extractor": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", class],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    Ok(atomic_write(path, |file| std::io::Write::write_all(file, text.as_bytes()))?)
}
