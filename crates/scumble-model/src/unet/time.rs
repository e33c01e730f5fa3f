//! When: the timestep's embedding, and for SDXL pooled text and picture sizes on top.
//!
//! ```text
//! time_embedding(x) = linear_2(silu(linear_1(x)))      x = sinusoids of the timestep
//! t = time_embedding(..) + add_embedding([pooled text, sinusoids of six sizes])
//! ```

use std::sync::Arc;

use scumble_tensor::backend::Activation;
use scumble_tensor::ops::timestep::timestep_embedding;
use scumble_tensor::ops::{activation::activation, add::add, concat::concat_channels};
use scumble_tensor::{DType, Error, Result, Tape, Var, shape_error};

use super::config::{TextTimeConfig, UNetConfig};
use crate::nn::{Projection, Scope, Tap};

/// Pooled text and picture sizes.
#[derive(Clone, Copy)]
pub struct TextTime<'a> {
    /// Pooled text `[n, width]`.
    pub text_embeds: &'a Var,
    /// Per picture: original height and width, crop top and left, target height and width.
    pub time_ids: &'a [[f32; 6]],
}

pub(super) struct TimeEmbedding {
    time: Mlp,
    added: Option<(TextTimeConfig, Mlp)>,
    width: usize,
    flip_sin_to_cos: bool,
    freq_shift: f32,
}

impl TimeEmbedding {
    pub(super) fn new(root: &Scope<'_, '_>, config: &UNetConfig) -> crate::Result<Self> {
        let width = config.first_channels();
        let added = |added: TextTimeConfig| -> crate::Result<_> {
            Ok((added, Mlp::new(&root.at("add_embedding"), added.input_width, config.time_width)?))
        };
        Ok(Self {
            time: Mlp::new(&root.at("time_embedding"), width, config.time_width)?,
            added: config.text_time.map(added).transpose()?,
            width,
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
        })
    }

    /// `[n, time width]` in `dtype`.
    pub(super) fn forward(
        &self,
        tape: &Tape<'_>,
        timesteps: &[f32],
        text_time: Option<TextTime<'_>>,
        dtype: DType,
    ) -> Result<Var> {
        let sinusoids = self.sinusoids(tape, timesteps, self.width, dtype)?;
        let time = self.time.forward(tape, &sinusoids)?;
        match (&self.added, text_time) {
            (None, None) => Ok(time),
            (Some((config, mlp)), Some(text_time)) => {
                let input = self.text_time(tape, config, text_time, timesteps.len(), dtype)?;
                add(tape, &time, &mlp.forward(tape, &input)?)
            }
            (Some(_), None) => Err(unfitting("pooled text and sizes", "none")),
            (None, Some(_)) => {
                Err(unfitting("none, as the model has no use for it", "pooled text and sizes"))
            }
        }
    }

    fn text_time(
        &self,
        tape: &Tape<'_>,
        config: &TextTimeConfig,
        text_time: TextTime<'_>,
        n: usize,
        dtype: DType,
    ) -> Result<Var> {
        if text_time.time_ids.len() != n {
            return Err(shape_error("unet", "time ids", n, text_time.time_ids.len()));
        }
        let numbers: Vec<f32> = text_time.time_ids.iter().flatten().copied().collect();
        let sizes = self.sinusoids(tape, &numbers, config.size_width, dtype)?;
        concat_channels(tape, &[text_time.text_embeds, &sizes.reshape(&[n, 6 * config.size_width])?])
    }

    fn sinusoids(&self, tape: &Tape<'_>, numbers: &[f32], width: usize, dtype: DType) -> Result<Var> {
        let host = timestep_embedding(numbers, width, self.flip_sin_to_cos, self.freq_shift)?;
        let backend = tape.backend();
        Ok(Var::constant(backend.cast(&backend.upload(&host)?, dtype)?))
    }
}

fn unfitting(expected: &str, found: &str) -> Error {
    shape_error("unet", "added conditioning", expected, found)
}

/// `linear_2(silu(linear_1(x)))`.
struct Mlp {
    tap: Tap,
    linear_1: Arc<Projection>,
    linear_2: Arc<Projection>,
}

impl Mlp {
    fn new(scope: &Scope<'_, '_>, inputs: usize, width: usize) -> crate::Result<Self> {
        Ok(Self {
            tap: scope.tap(),
            linear_1: scope.at("linear_1").linear(inputs, width, true)?,
            linear_2: scope.at("linear_2").linear(width, width, true)?,
        })
    }

    fn forward(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        let hidden = activation(tape, Activation::Silu, &self.linear_1.forward(tape, x)?)?;
        let y = self.linear_2.forward(tape, &hidden)?;
        self.tap.show(&y);
        Ok(y)
    }
}
