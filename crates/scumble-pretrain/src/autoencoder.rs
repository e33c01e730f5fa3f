//! Stage 1: pictures through few numbers and back (Kingma and Welling 2013; Rombach et al. 2022, section 3.1, without its
//! discriminator: drawn pictures have no texture that a plain loss would blur away).
//!
//! ```text
//! loss = mean over pixels of 2 (sqrt(d^2 + c^2) - c)  +  kl * KL        c = 0.05
//! ```
//!
//! The latents' factor, which brings them to deviation 1, is measured on other scenes when the model is written.

use std::path::Path;
use std::sync::Arc;

use scumble_model::files::SafetensorsFile;
use scumble_model::vae::Vae;
use scumble_tensor::backend::LossKind;
use scumble_tensor::ops::add::add;
use scumble_tensor::ops::loss::loss;
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Backend, DType, Gradients, Param, Tape, Tensor, Var};
use scumble_train::Result;
use serde_json::{Value, json};

use crate::recipe::{Autoencoder, Train};
use crate::session;
use crate::{folder, variational, world};

/// Differences below this count by their square, larger ones by their size.
const SOFT: f32 = 0.05;
/// Logarithm of the latents' variance before training.
const FIRST_LOG_VARIANCE: f32 = -5.0;
/// Scenes that the latents' factor is measured on, and the first of them: training does not come so far.
const MEASURED: (u64, u64) = (64, 1 << 40);

/// See the module's text.
pub struct Task {
    sizes: Autoencoder,
    train: Train,
    config: Value,
    vae: Vae,
    backend: Arc<dyn Backend>,
}

impl Task {
    /// A network with fresh weights, or with those that the stage `sizes.from` left below `out`.
    pub fn new(sizes: &Autoencoder, train: &Train, out: &Path, backend: &Arc<dyn Backend>) -> Result<Self> {
        let config = config(sizes);
        let vae = match &sizes.from {
            Some(stage) => {
                let weights = session::model_folder(out, stage).join(folder::DIFFUSION_WEIGHTS);
                Vae::load(&config, &SafetensorsFile::open(&weights)?, backend.as_ref(), DType::F32)?
            }
            None => {
                let vae = Vae::fresh(&config, train.seed, backend.as_ref(), DType::F32)?;
                certain(&vae, backend.as_ref())?;
                vae
            }
        };
        Ok(Self { sizes: sizes.clone(), train: train.clone(), config, vae, backend: Arc::clone(backend) })
    }

    /// One over the deviation of the latents of scenes that training has not shown.
    fn scaling_factor(&self) -> Result<f64> {
        let (count, first) = MEASURED;
        let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for start in (0..count).step_by(8) {
            let scenes: Vec<_> = (start..start + 8).map(|i| world::training_scene(first + i)).collect();
            let pictures = world::pictures(&scenes, self.sizes.side)?;
            let tape = Tape::inference(Arc::clone(&self.backend));
            let moments = self.vae.encode(&tape, &Var::constant(self.backend.upload(&pictures)?))?;
            for &value in moments.mean.as_slice::<f32>()? {
                (n, sum, squares) = (n + 1.0, sum + f64::from(value), squares + f64::from(value).powi(2));
            }
        }
        let variance: f64 = squares / n - (sum / n).powi(2);
        Ok(1.0 / variance.sqrt().max(1e-6))
    }
}

impl session::Task for Task {
    fn parts(&self) -> Vec<(&'static str, f64, Vec<Param>)> {
        vec![("vae", 1.0, self.vae.params().to_vec())]
    }

    fn step(&mut self, done: u64) -> Result<(f64, Gradients)> {
        let batch = self.train.batch as u64;
        let scenes: Vec<_> = (0..batch).map(|i| world::training_scene(done * batch + i)).collect();
        let pictures = self.backend.upload(&world::pictures(&scenes, self.sizes.side)?)?;
        let tape = Tape::recording(Arc::clone(&self.backend));
        let moments = self.vae.moments(&tape, &Var::constant(pictures.clone()))?;
        let mut dims = moments.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.sizes.latent_channels;
        }
        let noise = stream_at(self.train.seed, "posterior", done).randn(dims.iter().product());
        let latents = variational::sample(&tape, &moments, &Tensor::from_slice(&noise, &dims)?)?;
        let decoded = self.vae.decode(&tape, &latents)?;
        let kept = loss(&tape, LossKind::PseudoSmoothL1 { c: SOFT }, &decoded, &pictures, None)?;
        let each = add(&tape, &kept, &variational::divergence(&tape, &moments, self.sizes.kl as f32)?)?;
        mean_loss(&tape, &each)
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let mut config = self.config.clone();
        config["scaling_factor"] = self.scaling_factor()?.into();
        folder::network(folder, folder::DIFFUSION_WEIGHTS, &config, self.vae.params(), self.backend.as_ref())
    }
}

/// Lets latents begin with little noise: at the usual deviation of 1 colours take a thousand updates to come through.
fn certain(vae: &Vae, backend: &dyn Backend) -> Result<()> {
    for param in vae.params().iter().filter(|param| param.name() == "quant_conv.bias") {
        let mut values = backend.download(&param.value())?.to_vec::<f32>()?;
        let means = values.len() / 2;
        values[means..].fill(FIRST_LOG_VARIANCE);
        param.set(backend.upload(&Tensor::from_slice(&values, &[2 * means])?)?);
    }
    Ok(())
}

/// The mean of `each [n]` and its gradients.
pub(crate) fn mean_loss(tape: &Tape<'_>, each: &Var) -> Result<(f64, Gradients)> {
    let backend = tape.backend();
    let losses = backend.download(each.value())?.to_vec::<f64>()?;
    let share = 1.0 / losses.len().max(1) as f32;
    let seed = backend.upload(&Tensor::from_slice(&vec![share; losses.len()], each.dims())?)?;
    Ok((losses.iter().sum::<f64>() * f64::from(share), tape.backward(each, seed)?))
}

fn config(sizes: &Autoencoder) -> Value {
    let levels = sizes.channels.len();
    json!({
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.35.0",
        "act_fn": "silu",
        "block_out_channels": sizes.channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "in_channels": 3,
        "latent_channels": sizes.latent_channels,
        "layers_per_block": sizes.layers,
        "norm_num_groups": sizes.groups,
        "out_channels": 3,
        "sample_size": sizes.side,
        "scaling_factor": 1.0,
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
    })
}
