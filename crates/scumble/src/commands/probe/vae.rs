//! `probe vae`: mean and log-variance of a picture's latents, and the picture of given latents (not scaled).

use std::sync::Arc;

use scumble_model::nn::{to_file_layout, to_memory_layout};
use scumble_model::vae::Vae;
use scumble_tensor::{Tape, Var};

use super::BaseInputArgs;
use super::tensors::{Inputs, Outputs};
use crate::commands::model;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Encodes `image`, decodes `latent`; whichever the file has.
pub fn run(context: &Context, args: &BaseInputArgs) -> Result {
    let backend = context.backend()?;
    let dtype = args.base.precision.dtype();
    let inputs = Inputs::open(&args.input)?;
    let files = model::open(&args.base.base)?;
    let vae = Vae::load(&files.vae.config, files.vae.weights.as_ref(), backend.as_ref(), dtype)?;
    let tape = Tape::inference(Arc::clone(&backend));
    let upload = |name: &str| -> Result<Var> {
        let picture = to_memory_layout(&inputs.tensor(name)?.to_dtype(dtype)?)?;
        Ok(Var::constant(backend.upload(&picture)?))
    };
    let mut outputs = Outputs::default();
    if inputs.has("image") {
        let moments = vae.encode(&tape, &upload("image")?)?;
        outputs.push("mean", to_file_layout(&moments.mean)?)?;
        outputs.push("logvar", to_file_layout(&moments.logvar)?)?;
    }
    if inputs.has("latent") {
        let decoded = vae.decode(&tape, &upload("latent")?)?;
        outputs.push("decoded", to_file_layout(&backend.download(decoded.value())?)?)?;
    }
    if !inputs.has("image") && !inputs.has("latent") {
        return Err(Failure::new("the file has neither `image` nor `latent`, which this probe reads"));
    }
    outputs.write(&args.base.out)?;
    Ok(Outcome::Done)
}
