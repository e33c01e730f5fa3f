//! A folder's small files for a checkpoint that is none: from its metadata, from a side-car folder, or derived.
//!
//! A model for upscaling needs numbers that no tensor tells. They are those of Stability-AI/stablediffusion's
//! `configs/stable-diffusion/x4-upscaling.yaml`: `linear_start` 0.0001 and `linear_end` 0.02 of both schedules,
//! `scale_factor` 0.08333, `parameterization` v and `max_noise_level` 350.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Architecture, Checkpoint, FOLDER_KEY, Part, Purpose};
use crate::base::prediction::PredictionSource;
use crate::base::{BaseOptions, Component, Family, derive, prediction, read_object};
use crate::files::{FileError, Result, TensorSource, read_text};
use crate::schedule::PredictionType;
use crate::tokenizer::{CLIP_VOCABULARY, Pad, clip_files};

/// What a tokenizer's folder may hold.
const TOKENIZER_FILES: [&str; 6] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];
/// Makes the small picture noisy before a model for upscaling sees it.
const LOW_RES_SCHEDULER: &str = "low_res_scheduler/scheduler_config.json";
/// CLIP's vocabulary takes a megabyte, `tokenizer.json` three.
const MAX_TOKENIZER: u64 = 16 << 20;

/// All of a folder's configurations together take a few kilobytes.
const MAX_EMBEDDED: usize = 1 << 20;

/// The files that a single file carries in its metadata. Paths outside a folder are refused.
pub(in crate::base) fn embedded(
    path: &Path,
    metadata: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let Some(text) = metadata.get(FOLDER_KEY) else { return Ok(BTreeMap::new()) };
    let malformed = |reason: String| FileError::malformed(path, "`scumble.folder` metadata", reason);
    if text.len() > MAX_EMBEDDED {
        return Err(malformed(format!("it is longer than {MAX_EMBEDDED} bytes")));
    }
    let files: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    for name in files.keys() {
        let is_plain =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0']);
        if name.split('/').count() > 4 || !name.split('/').all(is_plain) || !name.ends_with(".json") {
            return Err(malformed(format!("`{}` is no configuration's path", crate::files::printable(name))));
        }
    }
    Ok(files)
}

/// One of the embedded files as an object.
pub(in crate::base) fn embedded_object(
    path: &Path,
    files: &BTreeMap<String, String>,
    name: &str,
) -> Result<Option<Value>> {
    let Some(text) = files.get(name) else { return Ok(None) };
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => Ok(Some(value)),
        _ => Err(FileError::malformed(
            path,
            "`scumble.folder` metadata",
            format!("`{name}` is no JSON object"),
        )),
    }
}

/// Parts with their configurations.
pub(super) fn components(
    path: &Path,
    architecture: Architecture,
    weights: BTreeMap<Part, Arc<dyn TensorSource>>,
    files: &BTreeMap<String, String>,
    options: &BaseOptions,
) -> Result<BTreeMap<Part, Component>> {
    let upscales =
        weights.get(&Part::Unet).is_some_and(|unet| Purpose::of(unet.as_ref()) == Purpose::Upscaling);
    let mut parts = BTreeMap::new();
    for (part, weights) in weights {
        let name = format!("{}/config.json", part.folder());
        let component = if let Some(folder) = &options.config {
            let config_file = folder.join(&name);
            Component { config: read_object(&config_file)?, config_file, weights }
        } else {
            let config = match embedded_object(path, files, &name)? {
                Some(config) => config,
                None => derived(part, architecture, upscales, weights.as_ref())?,
            };
            Component { config, config_file: path.into(), weights }
        };
        parts.insert(part, component);
    }
    Ok(parts)
}

fn derived(
    part: Part,
    architecture: Architecture,
    upscales: bool,
    weights: &dyn TensorSource,
) -> Result<Value> {
    let family = if architecture == Architecture::Sd1 { Family::Sd1 } else { Family::Sd2 };
    match part {
        Part::Unet => derive::unet(weights, family),
        Part::Vae => {
            let mut config = derive::vae(weights)?;
            if matches!(architecture, Architecture::Sdxl | Architecture::SdxlRefiner) {
                config["scaling_factor"] = json!(0.13025);
                config["force_upcast"] = json!(true);
            }
            if upscales {
                // Its latents are a quarter of the picture's size, and of another scale.
                config["scaling_factor"] = json!(0.08333);
            }
            Ok(config)
        }
        // SDXL's first encoder is that of 1.x.
        Part::TextEncoder if architecture != Architecture::Sd2 => derive::text_encoder(weights, Family::Sd1),
        Part::TextEncoder | Part::TextEncoder2 => derive::text_encoder(weights, Family::Sd2),
    }
}

impl Checkpoint {
    /// Adds the files that a folder needs and that are not there yet.
    pub(super) fn complete_files(
        &mut self,
        path: &Path,
        source: &dyn TensorSource,
        plain: &[&str],
        options: &BaseOptions,
    ) -> Result<()> {
        for (part, component) in &self.parts {
            // Those of a side-car are meant instead of what the file carries.
            self.files.insert(format!("{}/config.json", part.folder()), pretty(&component.config));
        }
        let scheduler = "scheduler/scheduler_config.json";
        let side_car =
            options.config.as_ref().map(|folder| folder.join(scheduler)).filter(|file| file.exists());
        let scheduler_config = match (side_car, embedded_object(path, &self.files, scheduler)?) {
            (Some(file), _) => read_object(&file)?,
            (None, Some(config)) => config,
            (None, None) => {
                let (mut kind, known) = prediction::from_single_file(source, path, options);
                if self.purpose == Purpose::Upscaling && known == PredictionSource::Assumed {
                    kind = PredictionType::VPrediction;
                }
                let mut config = prediction::default_scheduler(kind, plain.contains(&"ztsnr"));
                if self.purpose == Purpose::Upscaling {
                    (config["beta_start"], config["beta_end"]) = (json!(0.0001), json!(0.02));
                    self.files.entry(LOW_RES_SCHEDULER.into()).or_insert(pretty(&low_res_scheduler()));
                }
                if matches!(self.architecture, Architecture::Sdxl | Architecture::SdxlRefiner) {
                    config["_class_name"] = json!("EulerDiscreteScheduler");
                    config["interpolation_type"] = json!("linear");
                    config["use_karras_sigmas"] = json!(false);
                }
                config
            }
        };
        self.files.insert(scheduler.into(), pretty(&scheduler_config));
        self.complete_tokenizers(path, options)?;
        let index = match embedded_object(path, &self.files, "model_index.json")? {
            Some(index) => present_only(index, self),
            None => model_index(self.architecture, self.purpose, &scheduler_config),
        };
        self.files.insert("model_index.json".into(), pretty(&index));
        Ok(())
    }

    fn complete_tokenizers(&mut self, path: &Path, options: &BaseOptions) -> Result<()> {
        for (part, folder, pad) in self.tokenizers() {
            for name in TOKENIZER_FILES {
                let side_car = options.config.as_ref().map(|config| config.join(folder).join(name));
                if let Some(file) = side_car.filter(|file| file.is_file()) {
                    self.files.insert(format!("{folder}/{name}"), read_text(&file, MAX_TOKENIZER)?);
                }
            }
            let rows = self.parts.get(&part).and_then(|part| part.weights.info(super::tokens::TABLE));
            let rows = rows.and_then(|info| info.shape.first().copied()).unwrap_or(CLIP_VOCABULARY);
            let size = rows.min(CLIP_VOCABULARY);
            let made = clip_files(size, pad).map_err(|error| {
                FileError::malformed(path, "checkpoint", format!("no tokenizer of {size} tokens: {error}"))
            })?;
            for (name, text) in made {
                self.files.entry(format!("{folder}/{name}")).or_insert(text);
            }
            self.vocabulary.insert(part, size);
        }
        Ok(())
    }

    /// Text encoders with their tokenizers' folders and padding.
    pub(super) fn tokenizers(&self) -> Vec<(Part, &'static str, Pad)> {
        match self.architecture {
            Architecture::Sd1 => vec![(Part::TextEncoder, "tokenizer", Pad::End)],
            Architecture::Sd2 => vec![(Part::TextEncoder, "tokenizer", Pad::ExclamationMark)],
            Architecture::Sdxl => vec![
                (Part::TextEncoder, "tokenizer", Pad::End),
                (Part::TextEncoder2, "tokenizer_2", Pad::ExclamationMark),
            ],
            Architecture::SdxlRefiner => vec![(Part::TextEncoder2, "tokenizer_2", Pad::ExclamationMark)],
        }
    }
}

pub(super) fn pretty(value: &Value) -> String {
    // Values that were parsed or made here can always be written.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// For the noise on the small picture. Its betas are those of the model's own schedule; the rest are the class's usual
/// values, which do not count where noise is only added.
fn low_res_scheduler() -> Value {
    json!({
        "_class_name": "DDPMScheduler",
        "beta_end": 0.02,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0001,
        "clip_sample": true,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "trained_betas": null,
        "variance_type": "fixed_small",
    })
}

fn model_index(architecture: Architecture, purpose: Purpose, scheduler: &Value) -> Value {
    let mut index = Map::new();
    index.insert("_class_name".into(), json!(purpose.pipeline(architecture)));
    let scheduler = scheduler.get("_class_name").and_then(Value::as_str).unwrap_or("PNDMScheduler");
    let transformers = |class: &str| json!(["transformers", class]);
    if matches!(architecture, Architecture::Sdxl | Architecture::SdxlRefiner) {
        let refines = architecture == Architecture::SdxlRefiner;
        index.insert("force_zeros_for_empty_prompt".into(), json!(!refines));
        let first = |class: &str| if refines { json!([null, null]) } else { transformers(class) };
        index.insert("text_encoder".into(), first("CLIPTextModel"));
        index.insert("tokenizer".into(), first("CLIPTokenizer"));
        index.insert("text_encoder_2".into(), transformers("CLIPTextModelWithProjection"));
        index.insert("tokenizer_2".into(), transformers("CLIPTokenizer"));
    } else {
        index.insert("feature_extractor".into(), json!([null, null]));
        match purpose {
            // The file's own network for depth has another layout; diffusers is given one when it loads.
            Purpose::Depth => {
                index.insert("depth_estimator".into(), json!([null, null]));
            }
            Purpose::Upscaling => {
                index.insert("low_res_scheduler".into(), json!(["diffusers", "DDPMScheduler"]));
                index.insert("max_noise_level".into(), json!(350));
            }
            _ => {
                index.insert("requires_safety_checker".into(), json!(false));
                index.insert("safety_checker".into(), json!([null, null]));
            }
        }
        index.insert("text_encoder".into(), transformers("CLIPTextModel"));
        index.insert("tokenizer".into(), transformers("CLIPTokenizer"));
    }
    index.insert("scheduler".into(), json!(["diffusers", scheduler]));
    index.insert("unet".into(), json!(["diffusers", "UNet2DConditionModel"]));
    index.insert("vae".into(), json!(["diffusers", "AutoencoderKL"]));
    Value::Object(index)
}

/// The index without the components that a single file could not bring along.
fn present_only(mut index: Value, checkpoint: &Checkpoint) -> Value {
    let there = |name: &str| {
        let of = |file: &String| Some(file.strip_prefix(name)?.strip_prefix('/')?.to_owned());
        let files: Vec<String> = checkpoint.files.keys().filter_map(of).collect();
        // Whatever has weights calls its configuration `config.json`; of those only the parts came along. Schedulers,
        // tokenizers and feature extractors are nothing but small files, of other names.
        let is_complete = !files.is_empty() && !files.iter().any(|file| file == "config.json");
        is_complete || checkpoint.parts.keys().any(|part| part.folder() == name)
    };
    for (name, class) in index.as_object_mut().into_iter().flatten() {
        if class.as_array().is_some_and(|class| class.len() == 2) && !there(name) {
            *class = json!([null, null]);
        }
    }
    index
}
