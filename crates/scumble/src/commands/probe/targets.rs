//! `probe targets`: the tables of the noise schedules, and noised latents, velocities and weights at given timesteps.

use serde_json::{Value, json};

use scumble_model::schedule::NoiseSchedule;

use super::InputArgs;
use super::tensors::{Inputs, Outputs};
use crate::context::Context;
use crate::failure::{Outcome, Result};

/// The gamma of the min-SNR weights in the file.
const GAMMA: f32 = 5.0;

/// Reads `x0`, `noise` and `timesteps`, writes everything else.
pub fn run(_: &Context, args: &InputArgs) -> Result {
    let inputs = Inputs::open(&args.input)?;
    let x0 = inputs.tensor("x0")?;
    let x0_values: Vec<f32> = x0.to_vec()?;
    let noise: Vec<f32> = inputs.values("noise")?;
    let timesteps: Vec<i64> = inputs.values("timesteps")?;
    let schedule = schedule(json!({}))?;
    let v_schedule = self::schedule(json!({"prediction_type": "v_prediction"}))?;
    let tables = [
        ("betas", schedule.betas().to_vec()),
        ("alphas_cumprod", schedule.alphas_cumprod().to_vec()),
        ("euler_training_sigmas", schedule.sigmas()),
        (
            "linear_1e-4_0.02_alphas_cumprod",
            alphas(json!({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}))?,
        ),
        ("squaredcos_cap_v2_alphas_cumprod", alphas(json!({"beta_schedule": "squaredcos_cap_v2"}))?),
        ("zero_terminal_snr_alphas_cumprod", alphas(json!({"rescale_betas_zero_snr": true}))?),
        (
            "snr_all",
            (0..schedule.timesteps() as i64)
                .map(|t| schedule.snr(t))
                .collect::<std::result::Result<_, _>>()?,
        ),
    ];
    let mut outputs = Outputs::default();
    for (name, table) in tables {
        outputs.push_values(name, &table, &[table.len()])?;
    }
    outputs.push_values("add_noise", &schedule.add_noise(&x0_values, &noise, &timesteps)?, x0.dims())?;
    outputs.push_values("velocity", &schedule.velocity(&x0_values, &noise, &timesteps)?, x0.dims())?;
    let mut per_timestep = |name: &str, value: &dyn Fn(i64) -> Result<f32>| {
        let values: Vec<f32> = timesteps.iter().map(|&t| value(t)).collect::<Result<_>>()?;
        outputs.push_values(name, &values, &[values.len()])
    };
    per_timestep("snr", &|t| Ok(schedule.snr(t)?))?;
    per_timestep("min_snr_5_weight_epsilon", &|t| Ok(schedule.min_snr_weight(t, GAMMA)?))?;
    per_timestep("min_snr_5_weight_v_prediction", &|t| Ok(v_schedule.min_snr_weight(t, GAMMA)?))?;
    outputs.write(&args.out)?;
    Ok(Outcome::Done)
}

/// Stable Diffusion's schedule with some fields changed.
fn schedule(changes: Value) -> Result<NoiseSchedule> {
    let mut config = json!({
        "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    });
    if let (Some(config), Value::Object(changes)) = (config.as_object_mut(), changes) {
        config.extend(changes);
    }
    Ok(NoiseSchedule::from_config(&config)?)
}

fn alphas(changes: Value) -> Result<Vec<f32>> {
    Ok(schedule(changes)?.alphas_cumprod().to_vec())
}
