//! One training step: noise, text, prediction, loss, backward.
//!
//! ```text
//! states = text encoder(ids), when it learns; otherwise given
//! pred   = UNet(noisy, t, states)
//! loss   = sum over samples of share_i * loss_i         gradients of it for everything trainable
//! ```
//!
//! The share of a sample is its weight divided by the number of samples of the whole update, so that gradients of
//! micro-batches just add up. The training loop, `probe trace` and `bench step` all go through [`run`].

use std::sync::Arc;
use std::time::Instant;

use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::{Conditioning, UNet};
use scumble_tensor::backend::LossKind;
use scumble_tensor::ops::cast::cast;
use scumble_tensor::ops::loss::loss;

use scumble_tensor::{Backend, DType, DropoutKey, Gradients, Recompute, Tape, Tensor, Var};

use crate::error::Result;
use crate::losses::weighted_sum;
use crate::objective::Objective;

/// Text that conditions a step.
#[derive(Clone, Copy)]
pub enum Text<'a> {
    /// States `[n, tokens, width]` of a frozen text encoder.
    States(&'a Tensor),
    /// Ids `[n, tokens]` for a text encoder that may learn.
    Ids(&'a TextEncoder, &'a Tensor),
}

/// A micro-batch, on the host.
#[derive(Clone, Copy)]
pub struct StepInput<'a> {
    /// Scaled latents `[n, h, w, c]`, f32.
    pub latents: &'a Tensor,
    /// As `latents`.
    pub noise: &'a Tensor,
    /// One for each sample.
    pub timesteps: &'a [i64],
    /// Text of each sample.
    pub text: Text<'a>,
    /// What each sample's loss is multiplied with.
    pub share: &'a [f32],
}

/// How a step computes; neither changes what it computes without dropout.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepOptions {
    /// Turns dropout on, keyed for this step.
    pub dropout: Option<DropoutKey>,
    /// Blocks that are computed again in backward.
    pub recompute: Recompute,
    /// Type of the activations where it is not that of the weights: bf16 over f32 weights that learn.
    pub activations: Option<DType>,
}

/// What came out.
pub struct StepOutput {
    /// The weighted sum.
    pub loss: f64,
    /// Loss of each sample, unweighted.
    pub each: Vec<f64>,
    /// Of everything trainable.
    pub gradients: Gradients,
    /// UNet input, host.
    pub noisy: Tensor,
    /// What the prediction was compared with, host.
    pub target: Tensor,
    /// Text states, on the device.
    pub states: Tensor,
    /// The prediction, on the device.
    pub pred: Tensor,
    /// Seconds until the loss was known.
    pub forward_seconds: f64,
}

/// Runs one micro-batch forward and backward.
pub fn run(
    backend: &Arc<dyn Backend>,
    unet: &UNet,
    objective: &Objective,
    input: &StepInput<'_>,
    options: StepOptions,
) -> Result<StepOutput> {
    let start = Instant::now();
    let noisy = objective.noisy(input.latents, input.noise, input.timesteps)?;
    let target = objective.target(input.latents, input.noise, input.timesteps)?;
    let mut tape = Tape::recording(Arc::clone(backend)).with_recompute(options.recompute);
    if let Some(key) = options.dropout {
        tape = tape.with_dropout(key);
    }
    let states = match input.text {
        Text::States(states) => Var::constant(backend.upload(states)?),
        Text::Ids(encoder, ids) => encoder.states(&tape, ids, 0)?,
    };
    let dtype = options.activations.unwrap_or_else(|| unet.dtype());
    let states = cast(&tape, &states, dtype)?;
    let latents = Var::constant(backend.cast(&backend.upload(&noisy)?, dtype)?);
    let timesteps: Vec<f32> = input.timesteps.iter().map(|&t| t as f32).collect();
    let conditioning = Conditioning { states: &states, text_time: None };
    let pred = unet.forward(&tape, &latents, &timesteps, conditioning)?;
    // The loss and all that follows from it is f32, whatever the network computes in.
    let pred = cast(&tape, &pred, DType::F32)?;
    let each = loss(&tape, LossKind::Mse, &pred, &backend.upload(&target)?, None)?;
    let losses = backend.download(each.value())?;
    let total = weighted_sum(&losses, input.share)?;
    let forward_seconds = start.elapsed().as_secs_f64();
    let seed = Tensor::from_slice(input.share, &[input.share.len()])?;
    let gradients = tape.backward(&each, backend.upload(&seed)?)?;
    Ok(StepOutput {
        loss: total,
        each: losses.to_vec::<f64>()?,
        gradients,
        noisy,
        target,
        states: states.into_value(),
        pred: pred.into_value(),
        forward_seconds,
    })
}
