//! Euler's method on the noise level (Karras et al. 2022, arXiv 2206.00364, without churn):
//!
//! ```text
//! x' = x + d (sigma' - sigma),    d = (x - x0) / sigma
//! ```
//!
//! Latents are picture plus `sigma` times noise; the model sees `x / sqrt(sigma^2 + 1)`. What its output says about
//! `d` needs no division by a vanishing sigma: `d` is the output itself for epsilon, and
//! `x sigma / (sigma^2 + 1) + output / sqrt(sigma^2 + 1)` for v.

use super::{
    Levels, NoiseSource, Result, Sampler, SamplerError, Setup, check_call, check_length, combine, grid, mix,
};
use crate::schedule::{NoiseSchedule, PredictionType};

/// Timesteps, noise levels and prediction: what the samplers of this family share.
pub(super) struct SigmaGrid {
    pub(super) timesteps: Vec<f64>,
    /// One more than timesteps.
    pub(super) sigmas: Vec<f64>,
    pub(super) prediction: PredictionType,
    init_noise_sigma: f64,
}

/// Where the levels end.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum FinalLevel {
    /// At 0, whatever the configuration says.
    Zero,
    /// As `final_sigmas_type` says.
    Configured,
}

impl SigmaGrid {
    /// The grid of a schedule. `ends` may move the highest and lowest level between which Karras' and exponential
    /// levels lie.
    pub(super) fn new(
        setup: &Setup<'_>,
        schedule: &NoiseSchedule,
        final_level: FinalLevel,
        ends: impl FnOnce((f64, f64)) -> Result<(f64, f64)>,
    ) -> Result<Self> {
        let table = schedule.sigmas();
        let spacing = grid::Spacing::of(setup, "linspace")?;
        let offset = grid::steps_offset(setup)?;
        let mut timesteps =
            grid::rounded(grid::timesteps(spacing, schedule.timesteps(), setup.options.steps, offset));
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| grid::sigma_at(&table, t)).collect();
        let n = sigmas.len();
        let (highest, lowest) = ends((sigmas[0], sigmas[n - 1]))?;
        match setup.levels {
            Levels::Usual => {}
            Levels::Karras => sigmas = grid::karras(highest, lowest, n),
            Levels::Exponential => {
                sigmas = grid::exponential(highest, lowest.max(f64::MIN_POSITIVE), n);
            }
        }
        if setup.levels != Levels::Usual {
            let of_sigmas = sigmas.iter().map(|&sigma| grid::timestep_of(&table, sigma)).collect();
            timesteps = grid::rounded(of_sigmas);
        }
        let sigmas = match final_level {
            FinalLevel::Zero => {
                sigmas.push(0.0);
                grid::rounded(sigmas)
            }
            FinalLevel::Configured => grid::finished(setup, sigmas, f64::from(table[0]))?,
        };
        let highest = sigmas.iter().copied().fold(0.0, f64::max);
        let init_noise_sigma = match spacing {
            grid::Spacing::Leading => f64::from(((highest * highest) as f32 + 1.0).sqrt()),
            _ => highest,
        };
        Ok(Self { timesteps, sigmas, prediction: schedule.prediction_type(), init_noise_sigma })
    }

    pub(super) fn scale_model_input(&self, call: usize, latents: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.timesteps.len())?;
        let sigma = self.sigmas[call];
        Ok(combine([(1.0 / (sigma * sigma + 1.0).sqrt(), latents)]))
    }

    pub(super) fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        check_call(call, self.timesteps.len())?;
        mix((1.0, self.sigmas[call]), original, noise)
    }

    pub(super) fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    /// How much of the latents and of the model's output the derivative `d` at `sigma` is made of.
    pub(super) fn derivative(&self, sigma: f64) -> (f64, f64) {
        let squared = sigma * sigma + 1.0;
        match self.prediction {
            PredictionType::Epsilon => (0.0, 1.0),
            PredictionType::VPrediction => (sigma / squared, 1.0 / squared.sqrt()),
            // At sigma 0 the step has no length either.
            PredictionType::Sample if sigma == 0.0 => (0.0, 0.0),
            PredictionType::Sample => (1.0 / sigma, -1.0 / sigma),
        }
    }
}

struct Euler(SigmaGrid);

pub(super) fn build(setup: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let config = &setup.config;
    config.refuse_flag("use_beta_sigmas")?;
    config.choice("interpolation_type", "linear", &[("linear", ())])?;
    let continuous =
        config.choice("timestep_type", "discrete", &[("discrete", false), ("continuous", true)])?;
    let schedule = setup.sigma_schedule()?;
    let grid = SigmaGrid::new(setup, &schedule, FinalLevel::Configured, |(highest, lowest)| {
        let highest = config.number("sigma_max", highest)?;
        let lowest = config.number("sigma_min", lowest)?;
        if !(highest.is_finite() && lowest >= 0.0 && lowest <= highest) {
            return Err(SamplerError::setting("sigma_min", "at least 0 and at most `sigma_max`", lowest));
        }
        Ok((highest, lowest))
    })?;
    if continuous && grid.prediction == PredictionType::VPrediction {
        return Err(SamplerError::setting("timestep_type", "discrete", "continuous"));
    }
    Ok(Box::new(Euler(grid)))
}

impl Sampler for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.0.timesteps
    }

    fn sigmas(&self) -> Option<&[f64]> {
        Some(&self.0.sigmas)
    }

    fn init_noise_sigma(&self) -> f64 {
        self.0.init_noise_sigma()
    }

    fn scale_model_input(&self, call: usize, latents: &[f32]) -> Result<Vec<f32>> {
        self.0.scale_model_input(call, latents)
    }

    fn step(
        &mut self,
        call: usize,
        model_output: &[f32],
        latents: &[f32],
        _noise: &mut NoiseSource<'_>,
    ) -> Result<Vec<f32>> {
        check_call(call, self.0.timesteps.len())?;
        check_length("the model's output", model_output, latents)?;
        let (sigma, after) = (self.0.sigmas[call], self.0.sigmas[call + 1]);
        let (of_latents, of_output) = self.0.derivative(sigma);
        let length = after - sigma;
        Ok(combine([(1.0 + of_latents * length, latents), (of_output * length, model_output)]))
    }

    fn add_noise(&self, call: usize, original: &[f32], noise: &[f32]) -> Result<Vec<f32>> {
        self.0.add_noise(call, original, noise)
    }
}
