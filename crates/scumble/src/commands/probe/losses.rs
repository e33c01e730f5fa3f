//! `probe losses`: the loss formulas and their gradients for given predictions and targets.

use serde_json::Value;

use scumble_model::files::SafetensorsFile;

use super::tensors::Outputs;
use super::{InputArgs, read_json};
use crate::context::Context;
use crate::failure::{Outcome, Result};

/// What the class half counts where no spec says otherwise.
const PRIOR_WEIGHT: f64 = 0.7;

/// Reads predictions, targets, masks and weights; writes losses and gradients.
pub fn run(context: &Context, args: &InputArgs) -> Result {
    let prior_weight = match &args.spec {
        Some(path) => {
            let spec = read_json(path)?;
            spec.pointer("/losses/prior/prior_loss_weight").and_then(Value::as_f64).unwrap_or(PRIOR_WEIGHT)
        }
        None => PRIOR_WEIGHT,
    };
    let file = SafetensorsFile::open(&args.input)?;
    let mut outputs = Outputs::default();
    for (name, tensor) in scumble_train::losses::compute(&context.backend()?, &file, prior_weight)? {
        outputs.push(name, tensor)?;
    }
    outputs.write(&args.out)?;
    Ok(Outcome::Done)
}
