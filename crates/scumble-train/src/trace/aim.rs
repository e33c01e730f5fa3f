//! The fields of a trace that say how prediction and target are compared. All may be absent.
//!
//! ```text
//! min_snr_gamma                            number
//! debiased_estimation                      true or false
//! scale_v_pred_loss_like_noise_pred        true or false
//! loss_type                                l2, huber or smooth_l1
//! huber_c, huber_schedule                  0.1; constant (the default here), exponential or snr
//! prior_loss_weight                        the second half of each batch are class pictures with this weight
//! mask_temperature                         for `mask_image` of the file, 1 when absent
//! ```

use serde_json::Value;

use super::mismatch;
use crate::error::Result;
use crate::objective::{HuberSchedule, Objective, Penalty, Weighting};

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    weighting: Weighting,
    penalty: Penalty,
    prior_weight: Option<f64>,
    /// Exponent of masks.
    pub mask_temperature: f64,
}

impl Aim {
    /// Reads the fields of trace `name`.
    pub fn parse(spec: &Value, name: &str) -> Result<Self> {
        let field = |key: &str| format!("`{key}` of trace `{name}`");
        let present = |key: &str| spec.get(key).filter(|value| !value.is_null());
        let number = |key: &str| {
            let value = present(key).map(|value| value.as_f64().ok_or(value));
            value.transpose().map_err(|value| mismatch(field(key), "a number", value))
        };
        let flag = |key: &str| {
            let value = present(key).map(|value| value.as_bool().ok_or(value));
            let value = value.transpose().map_err(|value| mismatch(field(key), "true or false", value))?;
            Ok::<bool, crate::TrainError>(value.unwrap_or(false))
        };
        let rules = [
            number("min_snr_gamma")?.map(Weighting::MinSnr),
            flag("debiased_estimation")?.then_some(Weighting::Debiased),
            flag("scale_v_pred_loss_like_noise_pred")?.then_some(Weighting::VelocityLikeNoise),
        ];
        let mut rules = rules.into_iter().flatten();
        let weighting = rules.next().unwrap_or(Weighting::Even);
        if rules.next().is_some() {
            return Err(mismatch(format!("trace `{name}`"), "one rule of weights", "two"));
        }
        let text = |key: &str, default: &str| {
            present(key).map_or(default.to_owned(), |value| value.as_str().unwrap_or_default().to_owned())
        };
        let schedule = match text("huber_schedule", "constant").as_str() {
            "constant" => HuberSchedule::Constant,
            "exponential" => HuberSchedule::Exponential,
            "snr" => HuberSchedule::Snr,
            other => return Err(mismatch(field("huber_schedule"), "constant, exponential or snr", other)),
        };
        let c = number("huber_c")?.unwrap_or(0.1);
        let penalty = match text("loss_type", "l2").as_str() {
            "l2" | "mse" => Penalty::Squared,
            "huber" | "pseudo_huber" => Penalty::Huber { c, schedule },
            "smooth_l1" | "pseudo_smooth_l1" => Penalty::SmoothL1 { c, schedule },
            other => return Err(mismatch(field("loss_type"), "l2, huber or smooth_l1", other)),
        };
        Ok(Self {
            weighting,
            penalty,
            prior_weight: number("prior_loss_weight")?,
            mask_temperature: number("mask_temperature")?.unwrap_or(1.0),
        })
    }

    /// The objective with these rules.
    pub fn objective(&self, objective: Objective) -> Objective {
        Objective { weighting: self.weighting, penalty: self.penalty, ..objective }
    }

    /// What each sample's loss is multiplied with.
    pub fn share(&self, objective: &Objective, timesteps: &[i64]) -> Result<Vec<f32>> {
        let n = timesteps.len();
        if self.prior_weight.is_some() && !n.is_multiple_of(2) {
            return Err(mismatch("a batch with class pictures", "an even number of samples", n));
        }
        let share = |(index, &timestep): (usize, &i64)| {
            let weight = objective.timestep_weight(timestep)?;
            let part = match self.prior_weight {
                None => 1.0 / n as f64,
                Some(_) if index < n / 2 => 2.0 / n as f64,
                Some(prior) => 2.0 * prior / n as f64,
            };
            Ok((weight * part) as f32)
        };
        timesteps.iter().enumerate().map(share).collect()
    }
}
