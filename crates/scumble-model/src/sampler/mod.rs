//! Samplers: the step from one noise level to the next, given what the model predicts.
//!
//! A sampler is built for a number of steps from the fields of a `scheduler_config.json` and then driven by the
//! pipeline: for every entry of [`Sampler::timesteps`] scale the latents, call the model, step. It works on plain
//! `f32` latents in any layout, computes its coefficients in f64 and agrees with diffusers' scheduler of the same
//! configuration to rounding, including the order in which noise is drawn.
//!
//! To add one: a file with its update rule, and a line in [`SAMPLERS`] (`kinds.rs`).

use crate::schedule::{NoiseSchedule, PredictionType, ScheduleError};
use crate::scheduler_config::{ConfigError, SchedulerConfig};

mod brownian;
mod ddim;
mod ddpm;
mod dpmpp_2m;
mod dpmpp_sde;
mod euler;
mod euler_ancestral;
mod grid;
mod heun;
mod kinds;
mod lcm;
mod lms;
mod pndm;
#[cfg(test)]
mod tests;
mod unipc;

pub use kinds::{SAMPLERS, SamplerKind};

/// A sampler's result.
pub type Result<T> = std::result::Result<T, SamplerError>;

/// Why a sampler could not be built or could not step.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// No sampler of that name.
    #[error("no sampler is called `{name}`; there are {known}{hint}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
        /// A guess at what was meant.
        hint: String,
    },
    /// The configuration is wrong, or asks for something this sampler does not do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The noise schedule could not be made.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A number of steps the sampler cannot take.
    #[error("{sampler}: {steps} steps; it takes {least} to {most}")]
    Steps {
        /// The sampler's label.
        sampler: &'static str,
        /// Steps asked for.
        steps: usize,
        /// Fewest possible.
        least: usize,
        /// Most possible: the timesteps the model was trained with.
        most: usize,
    },
    /// A step was asked for beyond the last.
    #[error("the sampler makes {calls} model calls; there is no call {call}")]
    Call {
        /// Index of the call asked for.
        call: usize,
        /// Calls there are.
        calls: usize,
    },
    /// Operands of different lengths.
    #[error("sampler: {what} has {found} values, the latents {expected}")]
    Length {
        /// Which operand.
        what: &'static str,
        /// The latents' length.
        expected: usize,
        /// The operand's length.
        found: usize,
    },
}

impl SamplerError {
    fn setting(field: &'static str, expected: &str, found: impl std::fmt::Display) -> Self {
        ConfigError::Field { field, expected: expected.to_owned(), found: found.to_string() }.into()
    }
}

/// Where a sampler gets standard normal noise: called with the number of values wanted.
pub type NoiseSource<'a> = dyn FnMut(usize) -> Vec<f32> + 'a;

/// One run from noise to picture. It remembers earlier predictions: build a new one for each run.
pub trait Sampler: Send {
    /// The timestep of every model call, in order.
    fn timesteps(&self) -> &[f64];

    /// The noise levels before the first call and after each, for the samplers that work on them.
    fn sigmas(&self) -> Option<&[f64]> {
        None
    }

    /// What standard normal noise is multiplied by to make the first latents.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// Model calls per step asked for: where to start in the list when a run begins part way.
    fn calls_per_step(&self) -> usize {
        1
    }

    /// The model's input for the latents before call `call`.
    fn scale_model_input(&self, call: usize, latents: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.timesteps().len())?;
        Ok(latents.to_vec())
    }

    /// The latents after call `call`, from the model's output and the (unscaled) latents before it.
    fn step(
        &mut self,
        call: usize,
        model_output: &[f32],
        latents: &[f32],
        noise: &mut NoiseSource<'_>,
    ) -> Result<Vec<f32>>;

    /// A clean latent brought to the noise level before call `call`.
    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>>;
}

/// What a run asks of its sampler, beside the configuration.
#[derive(Clone, Copy, Debug)]
pub struct SamplerOptions {
    /// Number of steps.
    pub steps: usize,
    /// DDIM's share of fresh noise: 0 is deterministic, 1 is the full stochastic process. Others ignore it.
    pub eta: f64,
}

impl SamplerOptions {
    /// `steps` deterministic steps.
    pub fn new(steps: usize) -> Self {
        Self { steps, eta: 0.0 }
    }
}

/// Which noise levels a sampler on sigmas visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Levels {
    /// Those of evenly spaced timesteps.
    Usual,
    /// Karras et al. 2022: denser where little noise is left.
    Karras,
    /// Evenly spaced in their logarithm.
    Exponential,
}

/// What a sampler's constructor sees.
struct Setup<'a> {
    kind: &'static SamplerKind,
    /// Which noise levels, by the kind or, where it leaves them open, by the configuration.
    levels: Levels,
    config: SchedulerConfig<'a>,
    options: SamplerOptions,
}

impl Setup<'_> {
    /// The noise schedule, for a sampler with (`zero_snr`) or without diffusers' `rescale_betas_zero_snr`; refuses
    /// step counts that no sampler can take on it.
    fn schedule(&self, zero_snr: bool) -> Result<NoiseSchedule> {
        let rescale = zero_snr && self.config.flag("rescale_betas_zero_snr", false)?;
        let schedule = NoiseSchedule::with_rescaling(&self.config, rescale)?;
        self.check_steps(1, schedule.timesteps())?;
        Ok(schedule)
    }

    /// The schedule of a sampler on sigmas, which must all be finite.
    fn sigma_schedule(&self) -> Result<NoiseSchedule> {
        let mut schedule = self.schedule(true)?;
        if self.config.flag("rescale_betas_zero_snr", false)? {
            schedule.keep_last_sigma_finite();
        }
        check_finite(&schedule)?;
        Ok(schedule)
    }

    /// As [`Setup::sigma_schedule`], for the samplers that know no rescaling to zero SNR.
    fn unscaled_sigma_schedule(&self) -> Result<NoiseSchedule> {
        let schedule = self.schedule(false)?;
        check_finite(&schedule)?;
        Ok(schedule)
    }

    /// Refuses a model that predicts noise where some timestep has nothing but noise: its prediction tells nothing
    /// about the picture there.
    fn check_signal(&self, schedule: &NoiseSchedule, mut alphas: impl Iterator<Item = f64>) -> Result<()> {
        if schedule.prediction_type() == PredictionType::Epsilon && alphas.any(|a| a == 0.0) {
            let expected = "v_prediction or sample: at a timestep without any signal noise tells nothing";
            return Err(SamplerError::setting("prediction_type", expected, "epsilon"));
        }
        Ok(())
    }

    fn check_steps(&self, least: usize, most: usize) -> Result<()> {
        let steps = self.options.steps;
        match (least..=most).contains(&steps) {
            true => Ok(()),
            false => Err(SamplerError::Steps { sampler: self.kind.label, steps, least, most }),
        }
    }
}

/// Refuses a schedule with a timestep at which nothing is left of the picture.
fn check_finite(schedule: &NoiseSchedule) -> Result<()> {
    match schedule.sigmas().iter().all(|sigma| sigma.is_finite()) {
        true => Ok(()),
        false => {
            Err(SamplerError::setting("trained_betas", "all below 1", "a schedule that ends in pure noise"))
        }
    }
}

fn check_call(call: usize, calls: usize) -> Result<()> {
    if call < calls { Ok(()) } else { Err(SamplerError::Call { call, calls }) }
}

fn check_length(what: &'static str, values: &[f32], latents: &[f32]) -> Result<()> {
    match values.len() == latents.len() {
        true => Ok(()),
        false => Err(SamplerError::Length { what, expected: latents.len(), found: values.len() }),
    }
}

/// The picture that a model's output stands for, at cumulative alpha `a`.
fn predicted_picture(prediction: PredictionType, a: f64, x: f64, output: f64) -> f64 {
    let (signal, spread) = (a.sqrt(), (1.0 - a).sqrt());
    match prediction {
        PredictionType::Epsilon => (x - spread * output) / signal,
        PredictionType::VPrediction => signal * x - spread * output,
        PredictionType::Sample => output,
    }
}

/// Draws noise for `latents`; a source that gives another number of values is an error.
fn draw(noise: &mut NoiseSource<'_>, latents: &[f32]) -> Result<Vec<f32>> {
    let values = noise(latents.len());
    check_length("the drawn noise", &values, latents)?;
    Ok(values)
}

/// The sum of scaled operands, each element computed in f64 and rounded once. All have the first one's length.
fn combine<const N: usize>(terms: [(f64, &[f32]); N]) -> Vec<f32> {
    let sum = |i: usize| terms.iter().map(|(factor, values)| factor * f64::from(values[i])).sum::<f64>();
    (0..terms[0].1.len()).map(|i| sum(i) as f32).collect()
}

/// `factor_original * original + factor_noise * noise`.
fn mix(factors: (f64, f64), original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
    check_length("the noise", noise, original)?;
    Ok(combine([(factors.0, original), (factors.1, noise)]))
}
