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
use scumble_tensor::ops::cast::cast;
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

/// A micro-batch, on the host. Pictures are f32, channels-last.
#[derive(Clone, Copy)]
pub struct StepInput<'a> {
    /// Scaled latents `[n, h, w, c]`.
    pub latents: &'a Tensor,
    /// As `latents`.
    pub noise: &'a Tensor,
    /// The noise that the network sees, where it is not `noise`.
    pub input_noise: Option<&'a Tensor>,
    /// What the network sees beside the noised latents, `[n, h, w, k]`.
    pub channels: Option<&'a Tensor>,
    /// What each pixel of the latents counts, `[n, h, w]`; all alike when absent.
    pub weight: Option<&'a Tensor>,
    /// One for each sample.
    pub timesteps: &'a [i64],
    /// Text of each sample.
    pub text: Text<'a>,
    /// What each sample's loss is multiplied with.
    pub share: &'a [f32],
}

impl<'a> StepInput<'a> {
    /// Nothing but what every step has.
    pub fn new(
        latents: &'a Tensor,
        noise: &'a Tensor,
        timesteps: &'a [i64],
        text: Text<'a>,
        share: &'a [f32],
    ) -> Self {
        Self { latents, noise, input_noise: None, channels: None, weight: None, timesteps, text, share }
    }
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
    let mut tape = Tape::recording(Arc::clone(backend)).with_recompute(options.recompute);
    if let Some(key) = options.dropout {
        tape = tape.with_dropout(key);
    }
    let noisy = objective.noisy(input.latents, input.input_noise.unwrap_or(input.noise), input.timesteps)?;
    let target = objective.target(input.latents, input.noise, input.timesteps)?;
    let (pred, states) = predict(&tape, unet, &noisy, input, options.activations)?;
    let weight = input.weight.map(|weight| backend.upload(weight)).transpose()?;
    let each = objective.penalty.each(
        &tape,
        &objective.schedule,
        (&pred, &backend.upload(&target)?),
        input.timesteps,
        weight.as_ref(),
    )?;
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

/// The mean squared error of each sample, forward only and without dropout: `share`, `weight` and the objective's
/// weights, penalty and perturbation do not count, so that runs with different objectives can be compared.
pub fn plain_loss(
    backend: &Arc<dyn Backend>,
    unet: &UNet,
    objective: &Objective,
    input: &StepInput<'_>,
    activations: Option<DType>,
) -> Result<Vec<f64>> {
    let tape = Tape::inference(Arc::clone(backend));
    let noisy = objective.noisy(input.latents, input.noise, input.timesteps)?;
    let target = objective.target(input.latents, input.noise, input.timesteps)?;
    let (pred, _) = predict(&tape, unet, &noisy, input, activations)?;
    let pred = backend.download(pred.value())?;
    let (pred, target) = (pred.as_slice::<f32>()?, target.as_slice::<f32>()?);
    let length = (pred.len() / input.timesteps.len().max(1)).max(1);
    let mean = |(pred, target): (&[f32], &[f32])| {
        let squares = pred.iter().zip(target).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        squares.sum::<f64>() / pred.len() as f64
    };
    Ok(pred.chunks_exact(length).zip(target.chunks_exact(length)).map(mean).collect())
}

/// The prediction in f32 and the text states it was made with.
fn predict<'m>(
    tape: &Tape<'m>,
    unet: &'m UNet,
    noisy: &Tensor,
    input: &StepInput<'m>,
    activations: Option<DType>,
) -> Result<(Var, Var)> {
    let backend = tape.backend();
    let states = match input.text {
        Text::States(states) => Var::constant(backend.upload(states)?),
        Text::Ids(encoder, ids) => text_states(tape, encoder, ids)?,
    };
    let dtype = activations.unwrap_or_else(|| unet.dtype());
    let states = cast(tape, &states, dtype)?;
    let mut latents = backend.upload(noisy)?;
    if let Some(channels) = input.channels {
        latents = backend.concat_channels(&[&latents, &backend.upload(channels)?])?;
    }
    let latents = Var::constant(backend.cast(&latents, dtype)?);
    let timesteps: Vec<f32> = input.timesteps.iter().map(|&t| t as f32).collect();
    let conditioning = Conditioning { states: &states, text_time: None };
    let pred = unet.forward(tape, &latents, &timesteps, conditioning)?;
    // The loss and all that follows from it is f32, whatever the network computes in.
    Ok((cast(tape, &pred, DType::F32)?, states))
}

/// States `[n, tokens, width]` of ids `[n, tokens]`. A text of several chunks is read chunk by chunk, and their states
/// stand one after the other.
pub fn text_states<'m>(tape: &Tape<'m>, encoder: &'m TextEncoder, ids: &Tensor) -> Result<Var> {
    let (n, tokens) = (ids.shape().first(), ids.shape().last());
    let chunk = encoder.config().positions;
    if tokens <= chunk || !tokens.is_multiple_of(chunk) {
        return Ok(encoder.states(tape, ids, 0)?);
    }
    let states = encoder.states(tape, &ids.reshape(&[n * tokens / chunk, chunk])?, 0)?;
    Ok(states.reshape(&[n, tokens, states.value().shape().last()])?)
}
