//! The base model of a run, loaded: three networks, a tokenizer, a noise schedule, and what tells it from others.

use std::path::Path;

use scumble_adapter::attach::Towers;
use scumble_model::base::{BaseFiles, BaseOptions, Family, HubOptions, PredictionSource};
use scumble_model::files::TensorSource;
use scumble_model::prompt;
use scumble_model::schedule::{NoiseSchedule, PredictionType};
use scumble_model::text_encoder::TextEncoder;
use scumble_model::tokenizer::Tokenizer;
use scumble_model::unet::UNet;
use scumble_model::vae::Vae;
use scumble_tensor::{Backend, DType, Tensor};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::event::{Event, Reporter};
use crate::config::{Base as BaseConfig, Prediction};
use crate::error::{Result, TrainError};

/// Bytes of each tensor that go into its hash from the front, the middle and the end: another training changes all of
/// them, and a model of gigabytes is hashed in a moment.
const SAMPLED: usize = 4096;

/// See the module's text.
pub struct Base {
    /// As the user named it.
    pub name: String,
    /// Its architecture.
    pub family: Family,
    /// What its UNet predicts.
    pub prediction: PredictionType,
    /// The denoiser.
    pub unet: UNet,
    /// The text encoder.
    pub text_encoder: TextEncoder,
    /// The autoencoder.
    pub vae: Vae,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// diffusers' `scheduler_config.json`.
    pub scheduler_config: Value,
    /// Noise levels.
    pub schedule: NoiseSchedule,
    /// Where it came from: configurations, and weights as the files have them.
    pub files: BaseFiles,
    /// Hash of the text encoder's weights, with the type that it computes in: what cached texts depend on.
    pub text_hash: String,
    /// Hash of the VAE's weights: what cached latents depend on.
    pub vae_hash: String,
    /// Hash of all weights and the noise schedule.
    pub hash: String,
}

impl Base {
    /// Opens and loads the base that a configuration names.
    ///
    /// UNet and text encoder are loaded as `dtype` and compute in it. The VAE computes in f32 whatever the precision:
    /// some overflow in fewer bits, and what it gives is kept for the whole run.
    pub fn load(
        config: &BaseConfig,
        dtype: DType,
        backend: &dyn Backend,
        reporter: &dyn Reporter,
    ) -> Result<Self> {
        reporter.event(Event::Phase("opening the base model".to_owned()));
        let mut hub = HubOptions::from_env();
        hub.offline |= config.offline;
        let options = BaseOptions {
            variant: config.variant.clone(),
            prediction_type: config.prediction.map(|prediction| match prediction {
                Prediction::Epsilon => PredictionType::Epsilon,
                Prediction::Velocity => PredictionType::VPrediction,
            }),
            config: config.config.clone(),
            hub,
        };
        let files = BaseFiles::open(&config.model, &options)?;
        if files.prediction_source == PredictionSource::Assumed && files.family == Family::Sd2 {
            reporter.event(Event::Warning(format!(
                "`{}` does not say whether it predicts noise or velocity; noise is assumed. If pictures come out as noise, \
                 set `base.prediction` to `v_prediction`",
                files.name
            )));
        }
        reporter.event(Event::Phase("loading the base model".to_owned()));
        let unet = UNet::load(&files.unet.config, files.unet.weights.as_ref(), backend, dtype)?;
        let text = &files.text_encoder;
        let text_encoder = TextEncoder::load(&text.config, text.weights.as_ref(), backend, dtype)?;
        let vae = Vae::load(&files.vae.config, files.vae.weights.as_ref(), backend, DType::F32)?;
        let tokenizer = files.tokenizer.open()?;
        if text_encoder.token_embedding().rows() < tokenizer.vocab_size() {
            return Err(TrainError::Mismatch {
                what: format!("the tokenizer of `{}`", files.name),
                expected: format!(
                    "at most {} tokens, as its text encoder has",
                    text_encoder.token_embedding().rows()
                ),
                found: tokenizer.vocab_size().to_string(),
            });
        }
        let text_hash = fingerprint(text.weights.as_ref())?;
        let vae_hash = fingerprint(files.vae.weights.as_ref())?;
        let unet_hash = fingerprint(files.unet.weights.as_ref())?;
        let schedule = NoiseSchedule::from_config(&files.scheduler_config)?;
        let mut hash = Sha256::new();
        for part in [&unet_hash, &text_hash, &vae_hash] {
            hash.update(part);
        }
        hash.update(bytemuck::cast_slice(schedule.alphas_cumprod()));
        hash.update(format!("{:?}", files.prediction_type));
        Ok(Self {
            name: files.name.clone(),
            family: files.family,
            prediction: files.prediction_type,
            unet,
            text_encoder,
            vae,
            tokenizer,
            scheduler_config: files.scheduler_config.clone(),
            schedule,
            files,
            text_hash: computed_in(text_hash, dtype),
            vae_hash,
            hash: hex(&hash.finalize()),
        })
    }

    /// Rescales the noise levels so that the last timestep is pure noise, for training and for painting.
    pub fn end_in_noise(&mut self) -> Result<()> {
        if let Some(config) = self.scheduler_config.as_object_mut() {
            config.insert("rescale_betas_zero_snr".to_owned(), true.into());
            // Painting must begin at that timestep.
            config.insert("timestep_spacing".to_owned(), "trailing".into());
        }
        self.schedule = NoiseSchedule::from_config(&self.scheduler_config)?;
        Ok(())
    }

    /// Whether it fills holes: mask and masked picture beside the latents.
    pub fn is_inpainting(&self) -> bool {
        self.files.is_inpainting()
    }

    /// The networks that adapters go onto.
    pub fn towers(&self) -> Towers<'_> {
        Towers { unet: Some(self.unet.modules()), text_encoder: Some(self.text_encoder.modules()) }
    }

    /// Token ids of a text, `[1, 77]`.
    pub fn ids(&self, text: &str) -> Result<Tensor> {
        let ids = self.tokenizer.encode(text);
        Ok(Tensor::from_slice(&ids, &[1, ids.len()])?)
    }

    /// Token ids of a text in at most so many chunks, `[1, 77 * chunks]`. A text that is longer than a chunk goes on in the
    /// next, at a comma where one is near, as it does when painting; what is longer than all of them is cut.
    pub fn chunked_ids(&self, text: &str, chunks: usize) -> Result<Tensor> {
        let room = self.tokenizer.max_length().saturating_sub(2);
        if chunks <= 1 || self.tokenizer.count(text) <= room {
            return self.ids(text);
        }
        let tokenize =
            |text: &str| self.tokenizer.tokenize_all(text).into_iter().map(|id| vec![id]).collect();
        let rows = prompt::chunks(&self.tokenizer, &[prompt::Part::Text(text.to_owned(), 1.0)], tokenize);
        let ids: Vec<i64> = rows.into_iter().take(chunks).flat_map(|chunk| chunk.ids).collect();
        Ok(Tensor::from_slice(&ids, &[1, ids.len()])?)
    }

    /// The name without any path, for metadata.
    pub fn short_name(&self) -> String {
        let path = Path::new(&self.name);
        let last = || path.file_name().map(|name| name.to_string_lossy().into_owned());
        // A Hub id `owner/name` is no path on this machine and is kept whole.
        if path.exists() { last().unwrap_or_default() } else { self.name.clone() }
    }
}

/// The key of results of weights with this hash: exact ones keep the plain hash.
fn computed_in(hash: String, dtype: DType) -> String {
    if dtype == DType::F32 { hash } else { format!("{hash}-{dtype}") }
}

/// A hash of names, types, shapes and samples of the content of all tensors.
fn fingerprint(weights: &dyn TensorSource) -> Result<String> {
    let mut hash = Sha256::new();
    for name in weights.names() {
        let tensor = weights.read(&name)?;
        let bytes = tensor.bytes()?;
        hash.update(format!("{name} {} {}\n", tensor.dtype(), tensor.shape()));
        for start in [0, bytes.len() / 2, bytes.len().saturating_sub(SAMPLED)] {
            hash.update(&bytes[start..bytes.len().min(start + SAMPLED)]);
        }
    }
    Ok(hex(&hash.finalize()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
