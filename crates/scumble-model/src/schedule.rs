//! Noise schedules: how much of the picture is left at each timestep, and what follows from it for training.
//!
//! ```text
//! alphas_cumprod[t] = a = prod over s <= t of (1 - beta[s])
//! noisy    = sqrt(a) x0 + sqrt(1 - a) noise          velocity = sqrt(a) noise - sqrt(1 - a) x0
//! snr      = a / (1 - a)                             sigma    = sqrt((1 - a) / a)
//! min-SNR weight: min(snr, g) / snr for epsilon, min(snr, g) / (snr + 1) for v
//! ```
//!
//! The tables are made with the operations and roundings of PyTorch (f32, the cumulative product rounded from f64),
//! so they are equal to diffusers' bit for bit (after a rescaling to zero SNR to the last bits): a sampler divides
//! small differences of them by each other.

use serde_json::Value;

use crate::scheduler_config::{ConfigError, SchedulerConfig};

/// The most training timesteps a configuration may ask for; the field knows 1000.
const MAX_TIMESTEPS: i64 = 100_000;

/// Why a schedule could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A timestep outside the schedule.
    #[error("timestep {timestep} is outside the schedule of {count} timesteps")]
    Timestep {
        /// The timestep asked for.
        timestep: i64,
        /// Timesteps there are.
        count: usize,
    },
    /// Operands whose lengths do not fit together.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// Which operand.
        what: &'static str,
        /// The length that would fit.
        expected: usize,
        /// The length given.
        found: usize,
    },
}

/// What the model's output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise in its input.
    Epsilon,
    /// The velocity: noise and picture rotated by the timestep's angle.
    VPrediction,
    /// The clean picture.
    Sample,
}

impl PredictionType {
    /// The names that configurations use.
    pub const NAMES: &[(&str, PredictionType)] = &[
        ("epsilon", PredictionType::Epsilon),
        ("v_prediction", PredictionType::VPrediction),
        ("sample", PredictionType::Sample),
    ];

    /// The configuration's `prediction_type`; epsilon when it has none.
    pub fn from_config(config: &SchedulerConfig<'_>) -> Result<Self, ConfigError> {
        config.choice("prediction_type", "epsilon", Self::NAMES)
    }
}

/// Betas and their cumulative product, one per training timestep.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    betas: Vec<f32>,
    alphas_cumprod: Vec<f32>,
    prediction_type: PredictionType,
}

impl NoiseSchedule {
    /// The schedule of a `scheduler_config.json`, rescaled to zero terminal SNR where the file says so.
    pub fn from_config(config: &Value) -> Result<Self, ScheduleError> {
        let config = SchedulerConfig::new(config)?;
        Self::with_rescaling(&config, config.flag("rescale_betas_zero_snr", false)?)
    }

    /// As [`NoiseSchedule::from_config`], with the rescaling decided by the caller: not every sampler has it.
    pub fn with_rescaling(
        config: &SchedulerConfig<'_>,
        zero_terminal_snr: bool,
    ) -> Result<Self, ScheduleError> {
        let mut betas = betas(config)?;
        if zero_terminal_snr {
            betas = rescaled_to_zero_terminal_snr(&betas);
        }
        let alphas_cumprod = cumulative_product(&betas);
        Ok(Self { betas, alphas_cumprod, prediction_type: PredictionType::from_config(config)? })
    }

    /// The variance added at each timestep.
    pub fn betas(&self) -> &[f32] {
        &self.betas
    }

    /// The share of the picture's variance that is left at each timestep.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// What a model of this configuration predicts.
    pub fn prediction_type(&self) -> PredictionType {
        self.prediction_type
    }

    /// Number of training timesteps.
    pub fn timesteps(&self) -> usize {
        self.betas.len()
    }

    fn alpha_cumprod(&self, timestep: i64) -> Result<f32, ScheduleError> {
        let index = usize::try_from(timestep).ok();
        let found = index.and_then(|index| self.alphas_cumprod.get(index)).copied();
        found.ok_or(ScheduleError::Timestep { timestep, count: self.timesteps() })
    }

    /// `sqrt(a) x0 + sqrt(1 - a) noise`; the values are one equal part per timestep, one after the other.
    pub fn add_noise(&self, x0: &[f32], noise: &[f32], timesteps: &[i64]) -> Result<Vec<f32>, ScheduleError> {
        self.per_sample(x0, noise, timesteps, |a, x0, noise| a.sqrt() * x0 + (1.0 - a).sqrt() * noise)
    }

    /// `sqrt(a) noise - sqrt(1 - a) x0`, laid out as for [`NoiseSchedule::add_noise`].
    pub fn velocity(&self, x0: &[f32], noise: &[f32], timesteps: &[i64]) -> Result<Vec<f32>, ScheduleError> {
        self.per_sample(x0, noise, timesteps, |a, x0, noise| a.sqrt() * noise - (1.0 - a).sqrt() * x0)
    }

    fn per_sample(
        &self,
        x0: &[f32],
        noise: &[f32],
        timesteps: &[i64],
        combine: impl Fn(f32, f32, f32) -> f32,
    ) -> Result<Vec<f32>, ScheduleError> {
        if noise.len() != x0.len() {
            return Err(ScheduleError::Length { what: "noise", expected: x0.len(), found: noise.len() });
        }
        let part = x0.len() / timesteps.len().max(1);
        if part * timesteps.len() != x0.len() {
            let expected = part * timesteps.len();
            return Err(ScheduleError::Length { what: "values of all timesteps", expected, found: x0.len() });
        }
        let mut out = Vec::with_capacity(x0.len());
        for (index, &timestep) in timesteps.iter().enumerate() {
            let a = self.alpha_cumprod(timestep)?;
            let part = index * part..(index + 1) * part;
            out.extend(x0[part.clone()].iter().zip(&noise[part]).map(|(&x0, &noise)| combine(a, x0, noise)));
        }
        Ok(out)
    }

    /// The signal-to-noise ratio `a / (1 - a)` at a timestep.
    pub fn snr(&self, timestep: i64) -> Result<f32, ScheduleError> {
        let a = self.alpha_cumprod(timestep)?;
        Ok(a / (1.0 - a))
    }

    /// The loss weight of Hang et al. 2023 (arXiv 2303.09556) for what this schedule's model predicts.
    ///
    /// Without any signal (`snr` 0) the epsilon weight is its limit, 1. For a model that predicts the picture the
    /// weight is `min(snr, gamma)`.
    pub fn min_snr_weight(&self, timestep: i64, gamma: f32) -> Result<f32, ScheduleError> {
        let snr = self.snr(timestep)?;
        Ok(match self.prediction_type {
            PredictionType::Epsilon if snr == 0.0 => 1.0,
            PredictionType::Epsilon => snr.min(gamma) / snr,
            PredictionType::VPrediction => snr.min(gamma) / (snr + 1.0),
            PredictionType::Sample => snr.min(gamma),
        })
    }

    /// `sqrt((1 - a) / a)` for each timestep: the noise's scale in the samplers that leave the picture unscaled.
    /// Infinite where nothing of the picture is left.
    pub fn sigmas(&self) -> Vec<f32> {
        self.alphas_cumprod.iter().map(|&a| ((1.0 - a) / a).sqrt()).collect()
    }

    /// Replaces an empty last timestep by one that keeps the smallest trace of the picture (2^-24), so that its
    /// sigma is finite (4096). Samplers that work on sigmas need it after a rescaling.
    pub fn keep_last_sigma_finite(&mut self) {
        if let Some(last) = self.alphas_cumprod.last_mut() {
            *last = f32::from_bits(0x3380_0000);
        }
    }
}

/// Which curve the betas follow.
#[derive(Clone, Copy)]
enum Curve {
    Linear,
    ScaledLinear,
    SquaredCosine,
}

const CURVES: &[(&str, Curve)] = &[
    ("linear", Curve::Linear),
    ("scaled_linear", Curve::ScaledLinear),
    ("squaredcos_cap_v2", Curve::SquaredCosine),
];

fn betas(config: &SchedulerConfig<'_>) -> Result<Vec<f32>, ConfigError> {
    let count = config.integer("num_train_timesteps", 1000, 1..=MAX_TIMESTEPS)? as usize;
    if let Some(trained) = config.numbers("trained_betas")? {
        let betas: Vec<f32> = trained.iter().map(|&beta| beta as f32).collect();
        if betas.len() != count || betas.iter().any(|beta| !(0.0..=1.0).contains(beta)) {
            return Err(ConfigError::Field {
                field: "trained_betas",
                expected: format!("{count} numbers (`num_train_timesteps`) from 0 to 1"),
                found: format!("{} numbers", betas.len()),
            });
        }
        return Ok(betas);
    }
    let start = beta_in_range(config, "beta_start", 0.0001)?;
    let end = beta_in_range(config, "beta_end", 0.02)?;
    Ok(match config.choice("beta_schedule", "linear", CURVES)? {
        Curve::Linear => linspace(start as f32, end as f32, count),
        Curve::ScaledLinear => linspace(start.sqrt() as f32, end.sqrt() as f32, count)
            .into_iter()
            .map(|root| root * root)
            .collect(),
        Curve::SquaredCosine => squared_cosine(count),
    })
}

fn beta_in_range(
    config: &SchedulerConfig<'_>,
    field: &'static str,
    default: f64,
) -> Result<f64, ConfigError> {
    let beta = config.number(field, default)?;
    match (0.0..1.0).contains(&beta) {
        true => Ok(beta),
        false => Err(ConfigError::Field {
            field,
            expected: "a number from 0 up to, not including, 1".to_owned(),
            found: beta.to_string(),
        }),
    }
}

/// `torch.linspace` in f32: from both ends towards the middle, each product and sum rounded once.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|i| match i < count / 2 {
            true => step.mul_add(i as f32, start),
            false => (-step).mul_add((count - 1 - i) as f32, end),
        })
        .collect()
}

/// Nichol and Dhariwal's cosine schedule, each beta at most 0.999.
fn squared_cosine(count: usize) -> Vec<f32> {
    let left = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
    let beta = |i: usize| 1.0 - left((i + 1) as f64 / count as f64) / left(i as f64 / count as f64);
    (0..count).map(|i| beta(i).min(0.999) as f32).collect()
}

fn cumulative_product(betas: &[f32]) -> Vec<f32> {
    let product = |product: &mut f64, beta: &f32| {
        *product *= f64::from(1.0 - beta);
        Some(*product as f32)
    };
    betas.iter().scan(1.0f64, product).collect()
}

/// Shifts and stretches `sqrt(a)` so that the last is 0 and the first stays (Lin et al. 2023, algorithm 1).
fn rescaled_to_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative_product(betas).into_iter().map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return Vec::new() };
    let stretch = first / (first - last);
    let kept: Vec<f32> = roots.into_iter().map(|root| (root - last) * stretch).map(|r| r * r).collect();
    let ratio = |i: usize| if i == 0 { kept[0] } else { kept[i] / kept[i - 1] };
    (0..kept.len()).map(|i| 1.0 - ratio(i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{SafetensorsFile, TensorSource as _};
    use scumble_tensor::DType;
    use serde_json::json;

    /// The tensors of the fixture file as f32, integers too.
    fn fixture() -> impl Fn(&str) -> Vec<f32> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/training_targets.safetensors");
        let file = SafetensorsFile::open(path.as_ref()).unwrap();
        move |name| {
            let tensor = file.read(name).unwrap();
            match tensor.dtype() {
                DType::I64 => tensor.as_slice::<i64>().unwrap().iter().map(|&v| v as f32).collect(),
                _ => tensor.as_slice::<f32>().unwrap().to_vec(),
            }
        }
    }

    fn stable_diffusion(more: Value) -> NoiseSchedule {
        let mut config = json!({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012});
        for (field, value) in more.as_object().unwrap() {
            config[field] = value.clone();
        }
        NoiseSchedule::from_config(&config).unwrap()
    }

    #[test]
    fn tables_are_equal_bit_for_bit() {
        let expected = fixture();
        let equal = |ours: &[f32], name: &str| {
            let theirs = expected(name);
            assert_eq!(ours.len(), theirs.len());
            let different = ours.iter().zip(&theirs).position(|(a, b)| a != b);
            assert!(different.is_none(), "{name} from {different:?} on");
        };
        let schedule = stable_diffusion(json!({}));
        equal(schedule.betas(), "betas");
        equal(schedule.alphas_cumprod(), "alphas_cumprod");
        equal(&(0..1000).map(|t| schedule.snr(t).unwrap()).collect::<Vec<_>>(), "snr_all");
        // PyTorch's vector roots are not always the nearest f32, so tables with a root differ in the last bits.
        let close = |ours: &[f32], name: &str| {
            for (ours, theirs) in ours.iter().zip(expected(name)) {
                assert!((ours - theirs).abs() <= 2.0 * f32::EPSILON * theirs, "{name}: {ours} {theirs}");
            }
        };
        close(&schedule.sigmas(), "euler_training_sigmas");
        let linear = NoiseSchedule::from_config(&json!({})).unwrap();
        equal(linear.alphas_cumprod(), "linear_1e-4_0.02_alphas_cumprod");
        let cosine = NoiseSchedule::from_config(&json!({"beta_schedule": "squaredcos_cap_v2"})).unwrap();
        equal(cosine.alphas_cumprod(), "squaredcos_cap_v2_alphas_cumprod");
        let zero = stable_diffusion(json!({"rescale_betas_zero_snr": true}));
        close(zero.alphas_cumprod(), "zero_terminal_snr_alphas_cumprod");
        assert_eq!(zero.alphas_cumprod()[999], 0.0);
    }

    #[test]
    fn targets_and_weights_are_those_of_the_fixture() {
        let expected = fixture();
        let timesteps: Vec<i64> = expected("timesteps").into_iter().map(|t| t as i64).collect();
        let (x0, noise) = (expected("x0"), expected("noise"));
        let epsilon = stable_diffusion(json!({}));
        let velocity = stable_diffusion(json!({"prediction_type": "v_prediction"}));
        let close = |ours: Vec<f32>, name: &str| {
            let theirs = expected(name);
            assert_eq!(ours.len(), theirs.len());
            for (a, b) in ours.iter().zip(&theirs) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(0.1), "{name}: {a} {b}");
            }
        };
        close(epsilon.add_noise(&x0, &noise, &timesteps).unwrap(), "add_noise");
        close(epsilon.velocity(&x0, &noise, &timesteps).unwrap(), "velocity");
        let per_timestep = |f: &dyn Fn(i64) -> f32| timesteps.iter().map(|&t| f(t)).collect::<Vec<f32>>();
        close(per_timestep(&|t| epsilon.snr(t).unwrap()), "snr");
        close(per_timestep(&|t| epsilon.min_snr_weight(t, 5.0).unwrap()), "min_snr_5_weight_epsilon");
        close(per_timestep(&|t| velocity.min_snr_weight(t, 5.0).unwrap()), "min_snr_5_weight_v_prediction");
    }

    #[test]
    fn wrong_settings_and_operands_are_named() {
        let fails = |config: Value| NoiseSchedule::from_config(&config).unwrap_err().to_string();
        assert!(fails(json!({"beta_schedule": "sigmoid"})).contains("scaled_linear"));
        assert!(fails(json!({"num_train_timesteps": 10_000_000_000u64})).contains("num_train_timesteps"));
        assert!(fails(json!({"num_train_timesteps": 0})).contains("num_train_timesteps"));
        assert!(fails(json!({"beta_end": 1.5})).contains("beta_end"));
        assert!(
            fails(json!({"num_train_timesteps": 3, "trained_betas": [0.1, 0.2]})).contains("trained_betas")
        );
        assert!(fails(json!({"prediction_type": "flow"})).contains("prediction_type"));
        let schedule = stable_diffusion(json!({}));
        assert!(schedule.add_noise(&[0.0; 4], &[0.0; 4], &[1000]).is_err());
        assert!(schedule.add_noise(&[0.0; 4], &[0.0; 4], &[-1]).is_err());
        assert!(schedule.add_noise(&[0.0; 4], &[0.0; 3], &[1]).is_err());
        assert!(schedule.add_noise(&[0.0; 4], &[0.0; 4], &[1, 2, 3]).is_err());
        assert!(schedule.add_noise(&[0.0; 4], &[0.0; 4], &[]).is_err());
    }

    #[test]
    fn given_betas_are_taken_as_they_are() {
        let config = json!({"num_train_timesteps": 3, "trained_betas": [0.1, 0.2, 0.5]});
        let schedule = NoiseSchedule::from_config(&config).unwrap();
        assert_eq!(schedule.betas(), [0.1, 0.2, 0.5]);
        assert!((schedule.alphas_cumprod()[2] - 0.36).abs() < 1e-7);
        let zero = stable_diffusion(json!({"rescale_betas_zero_snr": true}));
        assert_eq!(zero.min_snr_weight(999, 5.0).unwrap(), 1.0);
    }
}
