//! `probe trace`: training steps on given latents, noise, timesteps and factors.

use scumble_model::files::SafetensorsFile;
use scumble_model::schedule::NoiseSchedule;
use scumble_model::unet::UNet;
use scumble_train::objective::Objective;
use scumble_train::trace::{self, Networks, TraceSpec};

use super::tensors::Outputs;
use super::{TraceArgs, read_json};
use crate::commands::model;
use crate::context::Context;
use crate::failure::{Outcome, Result};

/// Runs one trace of the spec.
pub fn run(context: &Context, args: &TraceArgs) -> Result {
    let backend = context.backend()?;
    let dtype = args.input.base.precision.dtype();
    let spec = TraceSpec::parse(&read_json(&args.input.spec)?, &args.name)?;
    let file = SafetensorsFile::open(&args.input.input)?;
    let files = model::open(&args.input.base.base)?;
    let unet = UNet::load(&files.unet.config, files.unet.weights.as_ref(), backend.as_ref(), dtype)?;
    let text_encoder = model::text_encoder(&files, backend.as_ref(), dtype)?;
    let objective =
        Objective::plain(NoiseSchedule::from_config(&files.scheduler_config)?, files.prediction_type);
    let networks = Networks { unet: &unet, text_encoder: &text_encoder };
    let mut outputs = Outputs::default();
    for (name, tensor) in trace::run(&backend, networks, &objective, &spec, &file)? {
        outputs.push(name, tensor)?;
    }
    outputs.write(&args.input.base.out)?;
    Ok(Outcome::Done)
}
