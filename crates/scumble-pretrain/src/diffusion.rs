//! Stage 3: the base. A UNet learns to denoise latents for captions, its text encoder with it (Rombach et al. 2022).
//!
//! ```text
//! target = sqrt(a) noise - sqrt(1 - a) latents       velocity (Salimans and Ho 2022), steadier than noise in small networks
//! loss   = mean square;  a share of captions is empty, for guidance (Ho and Salimans 2022)
//! ```
//!
//! Latents of a scene are encoded when it is first shown and kept; each visit has its own words, timestep and noise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scumble_model::files::SafetensorsFile;
use scumble_model::schedule::{NoiseSchedule, PredictionType};
use scumble_model::text_encoder::TextEncoder;
use scumble_model::tokenizer::{Tokenizer, TokenizerFiles};
use scumble_model::unet::UNet;
use scumble_model::vae::{Moments, Vae};
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Backend, DType, Gradients, Param, Tape, Tensor, Var};
use scumble_train::data::Role;
use scumble_train::objective::Objective;
use scumble_train::step::{self, StepInput, StepOptions, Text};
use scumble_train::{Result, TrainError};
use serde_json::{Value, json};

use crate::recipe::{Diffusion, Train};
use crate::session::{self, model_folder};
use crate::{contrastive, folder, world};

/// See the module's text.
pub struct Task {
    sizes: Diffusion,
    train: Train,
    config: Value,
    unet: UNet,
    text_config: Value,
    text: TextEncoder,
    tokenizer: Tokenizer,
    tokenizer_files: TokenizerFiles,
    vae: Vae,
    vae_folder: PathBuf,
    side: usize,
    objective: Objective,
    kept: BTreeMap<u64, Moments>,
    order: (u64, Vec<usize>),
    backend: Arc<dyn Backend>,
}

impl Task {
    /// A fresh UNet, or that of the stage `sizes.from`, on the autoencoder and the text encoder that the earlier stages left below `out`.
    pub fn new(sizes: &Diffusion, train: &Train, out: &Path, backend: &Arc<dyn Backend>) -> Result<Self> {
        let device = backend.as_ref();
        let vae_folder = model_folder(out, &sizes.autoencoder);
        let vae_config = folder::read_json(&vae_folder.join("config.json"))?;
        let weights = SafetensorsFile::open(&vae_folder.join(folder::DIFFUSION_WEIGHTS))?;
        let vae = Vae::load(&vae_config, &weights, device, DType::F32)?;
        let side = vae_config["sample_size"].as_u64().unwrap_or(64) as usize;
        let (text_config, clip, tokenizer_files) =
            contrastive::text_of(&model_folder(out, "contrastive"), device)?;
        let tokenizer = Tokenizer::from_files(&tokenizer_files)?;
        let earlier = sizes.from.as_deref().map(|stage| model_folder(out, stage));
        let text = match &earlier {
            Some(folder) => {
                let weights = SafetensorsFile::open(&folder.join("text_encoder").join(folder::TEXT_WEIGHTS))?;
                TextEncoder::load(&text_config, &weights, device, DType::F32)?
            }
            None => {
                let text = TextEncoder::fresh(&text_config, train.seed, device, DType::F32)?;
                copy(clip.text.params(), text.params())?;
                text
            }
        };
        let config = config(sizes, side / vae.downscale(), vae.config().latent_channels, text.config().width);
        let unet = match &earlier {
            Some(folder) => {
                let weights = SafetensorsFile::open(&folder.join("unet").join(folder::DIFFUSION_WEIGHTS))?;
                UNet::load(&config, &weights, device, DType::F32)?
            }
            None => UNet::fresh(&config, train.seed, device, DType::F32)?,
        };
        let schedule = NoiseSchedule::from_config(&scheduler())?;
        let objective = Objective::plain(schedule, PredictionType::VPrediction);
        Ok(Self {
            sizes: sizes.clone(),
            train: train.clone(),
            config,
            unet,
            text_config,
            text,
            tokenizer,
            tokenizer_files,
            vae,
            vae_folder,
            side,
            objective,
            kept: BTreeMap::new(),
            order: (u64::MAX, Vec::new()),
            backend: Arc::clone(backend),
        })
    }

    /// The scene of a visit: every round shows each once, in an order of its own.
    fn scene_of(&mut self, visit: u64) -> u64 {
        let (round, place) = (visit / self.sizes.scenes, visit % self.sizes.scenes);
        if self.order.0 != round {
            let mut random = stream_at(self.train.seed, "order", round);
            self.order = (round, random.randperm(self.sizes.scenes as usize));
        }
        self.order.1[place as usize] as u64
    }

    /// Encodes what is not yet there.
    fn encode(&mut self, scenes: &[u64]) -> Result<()> {
        let mut missing: Vec<u64> =
            scenes.iter().copied().filter(|scene| !self.kept.contains_key(scene)).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let drawn: Vec<_> = missing.iter().map(|&index| world::training_scene(index)).collect();
        let pictures = self.backend.upload(&world::pictures(&drawn, self.side)?)?;
        let tape = Tape::inference(Arc::clone(&self.backend));
        let moments = self.vae.encode(&tape, &Var::constant(pictures))?;
        let [_, dims @ ..] = moments.mean.dims() else { return Ok(()) };
        let size: usize = dims.iter().product();
        let one = |values: &Tensor, i: usize| -> Result<Tensor> {
            Ok(Tensor::from_slice(&values.as_slice::<f32>()?[i * size..(i + 1) * size], dims)?)
        };
        for (i, scene) in missing.into_iter().enumerate() {
            let moments = Moments { mean: one(&moments.mean, i)?, logvar: one(&moments.logvar, i)? };
            self.kept.insert(scene, moments);
        }
        Ok(())
    }

    /// Scaled latents of a visit.
    fn latents(&self, scene: u64, visit: u64) -> Result<Tensor> {
        let moments = self.kept.get(&scene).ok_or_else(|| TrainError::Mismatch {
            what: format!("scene {scene}"),
            expected: "latents".to_owned(),
            found: "none".to_owned(),
        })?;
        let noise = stream_at(self.train.seed, "posterior", visit).randn(moments.mean.numel());
        let sample = moments.sample(&Tensor::from_slice(&noise, moments.mean.dims())?)?;
        let factor = self.vae.scaling_factor();
        let scaled: Vec<f32> = sample.as_slice::<f32>()?.iter().map(|value| value * factor).collect();
        Ok(Tensor::from_slice(&scaled, sample.dims())?)
    }

    fn caption(&self, scene: u64, visit: u64) -> String {
        let left_out = stream_at(self.train.seed, "caption dropout", visit).rand_f64(1)[0];
        if left_out < self.sizes.caption_dropout {
            return String::new();
        }
        world::training_scene(scene).caption(visit / self.sizes.scenes)
    }
}

impl session::Task for Task {
    fn parts(&self) -> Vec<(&'static str, f64, Vec<Param>)> {
        vec![
            ("unet", 1.0, self.unet.params().to_vec()),
            ("text_encoder", self.sizes.text_rate, self.text.params().to_vec()),
        ]
    }

    fn step(&mut self, done: u64) -> Result<(f64, Gradients)> {
        let batch = self.train.batch;
        let visits: Vec<u64> = (0..batch as u64).map(|i| done * batch as u64 + i).collect();
        let scenes: Vec<u64> = visits.iter().map(|&visit| self.scene_of(visit)).collect();
        self.encode(&scenes)?;
        let (mut latents, mut noise, mut timesteps, mut ids) = (vec![], vec![], vec![], vec![]);
        let mut dims = vec![batch];
        for (&visit, &scene) in visits.iter().zip(&scenes) {
            let one = self.latents(scene, visit)?;
            let &[h, w, c] = one.dims() else { continue };
            let drawn = self.objective.draw(self.train.seed, Role::Instance, visit, [h, w, c])?;
            latents.extend_from_slice(one.as_slice::<f32>()?);
            noise.extend(drawn.noise);
            timesteps.push(drawn.timestep);
            ids.extend(self.tokenizer.encode(&self.caption(scene, visit)));
            dims = vec![batch, h, w, c];
        }
        let (latents, noise) = (Tensor::from_slice(&latents, &dims)?, Tensor::from_slice(&noise, &dims)?);
        let ids = Tensor::from_slice(&ids, &[batch, self.tokenizer.max_length()])?;
        let share = vec![1.0 / batch as f32; batch];
        let text = Text::Ids(&self.text, &ids);
        let input = StepInput::new(&latents, &noise, &timesteps, text, &share);
        let output = step::run(&self.backend, &self.unet, &self.objective, &input, StepOptions::default())?;
        Ok((output.loss, output.gradients))
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let backend = self.backend.as_ref();
        let (unet, text) = (self.unet.params(), self.text.params());
        folder::network(&folder.join("unet"), folder::DIFFUSION_WEIGHTS, &self.config, unet, backend)?;
        let text_folder = folder.join("text_encoder");
        folder::network(&text_folder, folder::TEXT_WEIGHTS, &self.text_config, text, backend)?;
        folder::tokenizer(&folder.join("tokenizer"), &self.tokenizer_files)?;
        let vae = folder.join("vae");
        std::fs::create_dir_all(&vae).map_err(TrainError::io("creating", &vae))?;
        for name in ["config.json", folder::DIFFUSION_WEIGHTS] {
            let from = self.vae_folder.join(name);
            std::fs::copy(&from, vae.join(name)).map_err(TrainError::io("copying", &from))?;
        }
        let scheduler_folder = folder.join("scheduler");
        std::fs::create_dir_all(&scheduler_folder).map_err(TrainError::io("creating", &scheduler_folder))?;
        folder::json(&scheduler_folder.join("scheduler_config.json"), &scheduler())?;
        folder::json(&folder.join("model_index.json"), &index())
    }
}

/// Copies values by name.
fn copy(from: &[Param], to: &[Param]) -> Result<()> {
    for param in to {
        let source = from.iter().find(|other| other.name() == param.name());
        let source = source.ok_or_else(|| TrainError::Mismatch {
            what: "the text encoder of the contrastive stage".to_owned(),
            expected: format!("`{}`", param.name()),
            found: "nothing of that name".to_owned(),
        })?;
        param.set(source.value());
    }
    Ok(())
}

fn config(sizes: &Diffusion, latent_side: usize, latent_channels: usize, text_width: usize) -> Value {
    let levels = sizes.channels.len();
    let kind = |level: usize, with: &'static str, without: &'static str| {
        if level < sizes.attention_levels { with } else { without }
    };
    let down: Vec<_> = (0..levels).map(|level| kind(level, "CrossAttnDownBlock2D", "DownBlock2D")).collect();
    let up: Vec<_> = (0..levels).rev().map(|level| kind(level, "CrossAttnUpBlock2D", "UpBlock2D")).collect();
    let heads: Vec<usize> = sizes.channels.iter().map(|channels| channels / sizes.head_width).collect();
    json!({
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.35.0",
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": sizes.channels,
        "center_input_sample": false,
        "cross_attention_dim": text_width,
        "down_block_types": down,
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": latent_channels,
        "layers_per_block": sizes.layers,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": sizes.groups,
        "out_channels": latent_channels,
        "sample_size": latent_side,
        "up_block_types": up,
    })
}

fn scheduler() -> Value {
    json!({
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.35.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    })
}

fn index() -> Value {
    json!({
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.35.0",
        "feature_extractor": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}
