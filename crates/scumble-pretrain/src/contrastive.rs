//! Stage 2: a small CLIP (Radford et al. 2021) on the little world. Its dual encoder judges what a base has learned, its
//! text encoder is where the base's begins.

use std::path::Path;
use std::sync::Arc;

use scumble_model::clip::Clip;
use scumble_model::tokenizer::{Tokenizer, TokenizerFiles};
use scumble_tensor::{Backend, DType, Gradients, Param, Tape, Tensor};
use scumble_train::{Result, TrainError};
use serde_json::{Value, json};

use crate::autoencoder::mean_loss;
use crate::contrastive_loss::contrastive;
use crate::recipe::{Contrastive, Encoder, Train};
use crate::{folder, session, world};

/// See the module's text.
pub struct Task {
    sizes: Contrastive,
    train: Train,
    config: Value,
    clip: Clip,
    tokenizer: Tokenizer,
    tokenizer_files: TokenizerFiles,
    backend: Arc<dyn Backend>,
}

impl Task {
    /// A network with fresh weights.
    pub fn new(sizes: &Contrastive, train: &Train, backend: &Arc<dyn Backend>) -> Result<Self> {
        let tokenizer_files = world::tokenizer_files(sizes.merges)?;
        let tokenizer = Tokenizer::from_files(&tokenizer_files)?;
        let config = config(sizes, &tokenizer);
        let clip = Clip::fresh(&config, train.seed, backend.as_ref(), DType::F32)?;
        let (sizes, train, backend) = (sizes.clone(), train.clone(), Arc::clone(backend));
        Ok(Self { sizes, train, config, clip, tokenizer, tokenizer_files, backend })
    }

    fn params(&self) -> Vec<Param> {
        let text = self.clip.text.params().iter();
        text.chain(self.clip.vision.modules().params()).chain([self.clip.logit_scale()]).cloned().collect()
    }
}

impl session::Task for Task {
    fn parts(&self) -> Vec<(&'static str, f64, Vec<Param>)> {
        vec![("clip", 1.0, self.params())]
    }

    fn step(&mut self, done: u64) -> Result<(f64, Gradients)> {
        let batch = self.train.batch;
        let scenes: Vec<_> =
            (0..batch as u64).map(|i| world::training_scene(done * batch as u64 + i)).collect();
        let captions: Vec<String> = scenes.iter().map(|scene| scene.caption(done)).collect();
        let ids: Vec<i64> = captions.iter().flat_map(|text| self.tokenizer.encode(text)).collect();
        let ids = Tensor::from_slice(&ids, &[batch, self.tokenizer.max_length()])?;
        let tape = Tape::recording(Arc::clone(&self.backend));
        let pictures = self.clip.embed_pictures(&tape, &world::pictures(&scenes, self.sizes.side)?)?;
        let texts = self.clip.embed_texts(&tape, &ids)?;
        let scale = tape.param(self.clip.logit_scale());
        mean_loss(&tape, &contrastive(&tape, &pictures, &texts, &scale)?)
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let backend = self.backend.as_ref();
        folder::network(folder, folder::TEXT_WEIGHTS, &self.config, &self.params(), backend)?;
        folder::tokenizer(folder, &self.tokenizer_files)?;
        folder::json(&folder.join("preprocessor_config.json"), &preprocessor(self.sizes.side))
    }
}

fn tower(encoder: &Encoder, projection: usize) -> Value {
    json!({
        "hidden_size": encoder.width,
        "intermediate_size": 4 * encoder.width,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.heads,
        "projection_dim": projection,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    })
}

/// The `config.json` of a `CLIPModel`.
fn config(sizes: &Contrastive, tokenizer: &Tokenizer) -> Value {
    let mut text = text_config(&sizes.text, tokenizer);
    text["projection_dim"] = sizes.projection.into();
    let mut vision = tower(&sizes.vision, sizes.projection);
    vision["model_type"] = "clip_vision_model".into();
    vision["image_size"] = sizes.side.into();
    vision["patch_size"] = sizes.patch.into();
    vision["num_channels"] = 3.into();
    json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": sizes.projection,
        "logit_scale_init_value": 2.6592,
        "text_config": text,
        "vision_config": vision,
    })
}

/// The `config.json` of its text encoder alone.
fn text_config(encoder: &Encoder, tokenizer: &Tokenizer) -> Value {
    let mut config = tower(encoder, encoder.width);
    config["model_type"] = "clip_text_model".into();
    config["vocab_size"] = tokenizer.vocab_size().into();
    config["max_position_embeddings"] = tokenizer.max_length().into();
    config["bos_token_id"] = tokenizer.start_id().into();
    config["eos_token_id"] = tokenizer.end_id().into();
    config["pad_token_id"] = tokenizer.pad_id().into();
    config
}

/// What `CLIPImageProcessor` does before the network: pictures in -1..1.
fn preprocessor(side: usize) -> Value {
    json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": true, "size": { "shortest_edge": side }, "resample": 3,
        "do_center_crop": true, "crop_size": { "height": side, "width": side },
        "do_rescale": true, "rescale_factor": 1.0 / 255.0,
        "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": true,
    })
}

/// The text encoder of a finished stage: its configuration, its weights by name, its tokenizer's files.
pub(crate) fn text_of(folder: &Path, backend: &dyn Backend) -> Result<(Value, Clip, TokenizerFiles)> {
    let whole = folder::read_json(&folder.join("config.json"))?;
    let weights = scumble_model::files::SafetensorsFile::open(&folder.join(folder::TEXT_WEIGHTS))?;
    let clip = Clip::load(&whole, &weights, backend, DType::F32)?;
    let names = ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"];
    let read = |name: &'static str| {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).map_err(TrainError::io("reading", &path))?;
        Ok::<_, TrainError>((name, text))
    };
    let [a, b, c, d] = names;
    let files = [read(a)?, read(b)?, read(c)?, read(d)?];
    let mut text = whole["text_config"].clone();
    text["architectures"] = json!(["CLIPTextModel"]);
    text["projection_dim"] = text["hidden_size"].clone();
    Ok((text, clip, files))
}
