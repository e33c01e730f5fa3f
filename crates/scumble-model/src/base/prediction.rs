//! What a base predicts, and who said so: the user, a configuration, the file itself, or nobody.

use std::path::Path;

use serde_json::{Value, json};

use super::BaseOptions;
use crate::files::{FileError, Result, TensorSource, printable, read_text};
use crate::schedule::PredictionType;

/// How the prediction type is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredictionSource {
    /// The user's choice.
    Chosen,
    /// A scheduler configuration.
    Config,
    /// A mark in the single file: a `v_pred` tensor, ModelSpec metadata, or the `.yaml` beside it.
    File,
    /// Nothing said anything: epsilon, which is wrong for Stable Diffusion 2.x 768-v. Worth a warning for that family.
    Assumed,
}

impl std::fmt::Display for PredictionSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chosen => "chosen",
            Self::Config => "its scheduler's configuration says so",
            Self::File => "the file says so",
            Self::Assumed => "assumed, as nothing says it",
        })
    }
}

/// The name that configurations use.
fn name_of(prediction: PredictionType) -> &'static str {
    let known = PredictionType::NAMES.iter().find(|(_, listed)| *listed == prediction);
    known.map_or("epsilon", |(name, _)| name)
}

/// Settles the type for a base with a scheduler configuration and writes it back there.
pub(super) fn from_config(
    config: &mut Value,
    file: &Path,
    options: &BaseOptions,
) -> Result<(PredictionType, PredictionSource)> {
    let settled = match (options.prediction_type, config.get("prediction_type")) {
        (Some(chosen), _) => (chosen, PredictionSource::Chosen),
        (None, None | Some(Value::Null)) => (PredictionType::Epsilon, PredictionSource::Assumed),
        (None, Some(value)) => {
            let known = PredictionType::NAMES.iter().find(|(name, _)| value.as_str() == Some(name));
            let known = known.ok_or_else(|| FileError::Config {
                file: file.into(),
                key: "prediction_type".into(),
                expected: PredictionType::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
                found: printable(&value.to_string()),
            })?;
            (known.1, PredictionSource::Config)
        }
    };
    config["prediction_type"] = json!(name_of(settled.0));
    Ok(settled)
}

/// Settles the type for a single file without scheduler configuration.
pub(super) fn from_single_file(
    source: &dyn TensorSource,
    path: &Path,
    options: &BaseOptions,
) -> (PredictionType, PredictionSource) {
    use PredictionType::{Epsilon, VPrediction};
    if let Some(chosen) = options.prediction_type {
        return (chosen, PredictionSource::Chosen);
    }
    if source.info("v_pred").is_some() || source.info("state_dict.v_pred").is_some() {
        return (VPrediction, PredictionSource::File);
    }
    let metadata = |key: &str| source.metadata().get(key).map(|value| value.to_ascii_lowercase());
    match metadata("modelspec.prediction_type").as_deref() {
        Some("v" | "v_prediction" | "v-prediction") => return (VPrediction, PredictionSource::File),
        Some("epsilon" | "eps") => return (Epsilon, PredictionSource::File),
        _ => {}
    }
    if metadata("modelspec.architecture").is_some_and(|name| name.starts_with("stable-diffusion-v2-768-v")) {
        return (VPrediction, PredictionSource::File);
    }
    // The configuration that the original tools want beside a 2.x checkpoint.
    if let Ok(yaml) = read_text(&path.with_extension("yaml"), super::MAX_CONFIG) {
        let says_v = yaml.lines().any(|line| {
            line.trim()
                .strip_prefix("parameterization:")
                .is_some_and(|value| value.trim().trim_matches(['"', '\'']) == "v")
        });
        return (if says_v { VPrediction } else { Epsilon }, PredictionSource::File);
    }
    (Epsilon, PredictionSource::Assumed)
}

/// The scheduler of a single file: the betas and steps all Stable Diffusion 1.x and 2.x models were trained with.
pub(super) fn default_scheduler(prediction: PredictionType, zero_terminal_snr: bool) -> Value {
    let class = if prediction == PredictionType::Epsilon { "PNDMScheduler" } else { "DDIMScheduler" };
    let mut config = json!({
        "_class_name": class,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": name_of(prediction),
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": null,
    });
    if zero_terminal_snr {
        config["rescale_betas_zero_snr"] = json!(true);
        config["timestep_spacing"] = json!("trailing");
    }
    config
}
