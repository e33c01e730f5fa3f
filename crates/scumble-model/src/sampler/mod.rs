//! Samplers: the step from one noise level to the next, given what the model predicts.
//!
//! A sampler is built for a number of steps from the fields of a `scheduler_config.json` and then driven by the
//! pipeline: for every entry of [`Sampler::timesteps`] scale the latents, call the model, step. It works on plain
//! `f32` latents in any layout, computes its coefficients in f64 and agrees with diffusers' scheduler of the same
//! configuration to rounding, including the order in which noise is drawn.
//!
//! To add one: a file with its update rule, and a line in [`SAMPLERS`].

use serde_json::Value;

use crate::schedule::{NoiseSchedule, ScheduleError};
use crate::scheduler_config::{ConfigError, SchedulerConfig};

mod ddim;
mod dpmpp_2m;
mod euler;
mod euler_ancestral;
mod grid;
mod pndm;
#[cfg(test)]
mod tests;

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

/// What a sampler's constructor sees.
struct Setup<'a> {
    kind: &'static SamplerKind,
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

    fn check_steps(&self, least: usize, most: usize) -> Result<()> {
        let steps = self.options.steps;
        match (least..=most).contains(&steps) {
            true => Ok(()),
            false => Err(SamplerError::Steps { sampler: self.kind.label, steps, least, most }),
        }
    }
}

/// One line of the list of samplers.
pub struct SamplerKind {
    /// The name a user types; case and punctuation do not matter.
    pub name: &'static str,
    /// Other names it is known by.
    pub aliases: &'static [&'static str],
    /// AUTOMATIC1111's name for it, as pictures carry it.
    pub label: &'static str,
    /// AUTOMATIC1111's schedule type, where it is not the sampler's usual one.
    pub schedule_label: Option<&'static str>,
    /// The diffusers class whose configuration it takes.
    pub class: &'static str,
    karras: bool,
    build: fn(&Setup<'_>) -> Result<Box<dyn Sampler>>,
}

/// Every sampler there is.
pub static SAMPLERS: &[SamplerKind] = &[
    SamplerKind {
        name: "ddim",
        aliases: &[],
        label: "DDIM",
        schedule_label: None,
        class: "DDIMScheduler",
        karras: false,
        build: ddim::build,
    },
    SamplerKind {
        name: "pndm",
        aliases: &["plms"],
        label: "PLMS",
        schedule_label: None,
        class: "PNDMScheduler",
        karras: false,
        build: pndm::build,
    },
    SamplerKind {
        name: "euler",
        aliases: &["k_euler"],
        label: "Euler",
        schedule_label: None,
        class: "EulerDiscreteScheduler",
        karras: false,
        build: euler::build,
    },
    SamplerKind {
        name: "euler_karras",
        aliases: &[],
        label: "Euler",
        schedule_label: Some("Karras"),
        class: "EulerDiscreteScheduler",
        karras: true,
        build: euler::build,
    },
    SamplerKind {
        name: "euler_a",
        aliases: &["euler_ancestral", "k_euler_a"],
        label: "Euler a",
        schedule_label: None,
        class: "EulerAncestralDiscreteScheduler",
        karras: false,
        build: euler_ancestral::build,
    },
    SamplerKind {
        name: "dpmpp_2m",
        aliases: &["dpm_solver_multistep"],
        label: "DPM++ 2M",
        schedule_label: None,
        class: "DPMSolverMultistepScheduler",
        karras: false,
        build: dpmpp_2m::build,
    },
    SamplerKind {
        name: "dpmpp_2m_karras",
        aliases: &[],
        label: "DPM++ 2M",
        schedule_label: Some("Karras"),
        class: "DPMSolverMultistepScheduler",
        karras: true,
        build: dpmpp_2m::build,
    },
];

impl SamplerKind {
    /// The sampler a user means: its name, an alias, or AUTOMATIC1111's label, however punctuated.
    pub fn find(name: &str) -> Result<&'static Self> {
        let wanted = plain(name);
        let names = |kind: &Self| {
            let labels = [kind.name.to_owned(), [kind.label, kind.schedule_label.unwrap_or("")].concat()];
            labels.into_iter().chain(kind.aliases.iter().map(|alias| (*alias).to_owned()))
        };
        let matches = |kind: &&'static Self| names(kind).any(|known| plain(&known) == wanted);
        SAMPLERS.iter().find(matches).ok_or_else(|| unknown(name))
    }

    /// The sampler that a `scheduler_config.json` names.
    pub fn of_config(config: &Value) -> Result<&'static Self> {
        let class = SchedulerConfig::new(config)?.word("_class_name", "")?;
        Self::of_class(class, config)
    }

    /// The sampler of a diffusers class, with Karras noise levels where the configuration says so.
    pub fn of_class(class: &str, config: &Value) -> Result<&'static Self> {
        let karras = SchedulerConfig::new(config)?.flag("use_karras_sigmas", false)?;
        let of_class = || SAMPLERS.iter().filter(|kind| kind.class == class);
        let found = of_class().find(|kind| kind.karras == karras).or_else(|| of_class().next());
        found.ok_or_else(|| unknown(class))
    }

    /// Builds it from a configuration, of whatever class: fields it does not know are ignored, those that are
    /// missing take its own defaults.
    pub fn build(&'static self, config: &Value, options: SamplerOptions) -> Result<Box<dyn Sampler>> {
        (self.build)(&Setup { kind: self, config: SchedulerConfig::new(config)?, options })
    }
}

fn unknown(name: &str) -> SamplerError {
    let name: String = name.chars().take(60).collect();
    let names: Vec<&str> = SAMPLERS.iter().map(|kind| kind.name).collect();
    let near = |known: &&&str| strsim::jaro_winkler(&plain(known), &plain(&name));
    let nearest = names.iter().max_by(|a, b| near(a).total_cmp(&near(b))).filter(|known| near(known) > 0.8);
    let hint = nearest.map_or(String::new(), |known| format!("; did you mean `{known}`?"));
    SamplerError::Unknown { name, known: names.join(", "), hint }
}

/// Letters and digits only, lower case, `+` read as `p`: "DPM++ 2M" and "dpmpp_2m" are the same.
fn plain(name: &str) -> String {
    let name = name.replace('+', "p").to_lowercase();
    name.chars().filter(|c| c.is_alphanumeric()).collect()
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
