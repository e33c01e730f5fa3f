//! `probe unet`: outputs, gradients of `sum(out * g)` for the inputs, and the outputs of inner modules.

use std::sync::Arc;

use scumble_model::nn::{Recorder, to_file_layout, to_memory_layout};
use scumble_model::unet::{Conditioning, TextTime, UNet};
use scumble_tensor::{Backend, Tape, Tensor};

use super::UnetArgs;
use super::tensors::{Inputs, Outputs};
use crate::commands::model;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Runs every case of the input file.
pub fn run(context: &Context, args: &UnetArgs) -> Result {
    let backend = context.backend()?;
    let dtype = args.base.precision.dtype();
    let inputs = Inputs::open(&args.input)?;
    let files = model::open(&args.base.base)?;
    let unet = UNet::load(&files.unet.config, files.unet.weights.as_ref(), backend.as_ref(), dtype)?;
    let mut outputs = Outputs::default();
    for case in inputs.cases("sample")? {
        run_case(&unet, &backend, &inputs, case, args.taps, &mut outputs)?;
    }
    outputs.write(&args.base.out)?;
    Ok(Outcome::Done)
}

fn run_case(
    unet: &UNet,
    backend: &Arc<dyn Backend>,
    inputs: &Inputs,
    case: u64,
    taps: bool,
    outputs: &mut Outputs,
) -> Result<()> {
    let name = |key: &str| format!("{case}.{key}");
    let upload = |tensor: &Tensor| -> Result<Tensor> { Ok(backend.upload(&tensor.to_dtype(unet.dtype())?)?) };
    let picture = |key: &str| -> Result<Tensor> { upload(&to_memory_layout(&inputs.tensor(&name(key))?)?) };
    let tape = Tape::recording(Arc::clone(backend));
    let (sample, sample_id) = tape.watch(picture("sample")?);
    let (states, states_id) = tape.watch(upload(&inputs.tensor(&name("encoder_hidden_states"))?)?);
    let timesteps: Vec<f32> = inputs.values(&name("timesteps"))?;
    let added = added_conditions(inputs, case, &upload)?;
    let recorder = taps.then(|| Arc::new(Recorder::new(tap_paths(inputs, case))));
    unet.modules().set_observer(recorder.clone().map(|recorder| recorder as _));
    let text_time = added.as_ref().map(|(embeds, ids)| TextTime { text_embeds: embeds, time_ids: ids });
    let conditioning = Conditioning { states: &states, text_time };
    let out = unet.forward(&tape, &sample, &timesteps, conditioning)?;
    unet.modules().set_observer(None);
    let mut push = |key: &str, value: &Tensor| -> Result<()> {
        let value = backend.download(value)?;
        let value = if value.dims().len() == 4 { to_file_layout(&value)? } else { value };
        outputs.push(name(key), value)?;
        Ok(())
    };
    push("out", out.value())?;
    for (path, value) in recorder.iter().flat_map(|recorder| recorder.take()) {
        push(&format!("tap.{path}"), &value)?;
    }
    if inputs.has(&name("g")) {
        let gradients = tape.backward(&out, picture("g")?)?;
        for (key, leaf) in [("grad_sample", sample_id), ("grad_encoder_hidden_states", states_id)] {
            let gradient = gradients.get(leaf);
            push(key, gradient.ok_or_else(|| Failure::new(format!("case {case}: nothing leads to {key}")))?)?;
        }
    }
    Ok(())
}

type Added = (scumble_tensor::Var, Vec<[f32; 6]>);

/// Pooled text and picture sizes, where the file brings them.
fn added_conditions(
    inputs: &Inputs,
    case: u64,
    upload: &dyn Fn(&Tensor) -> Result<Tensor>,
) -> Result<Option<Added>> {
    let (embeds, ids) = (format!("{case}.text_embeds"), format!("{case}.time_ids"));
    if !inputs.has(&embeds) {
        return Ok(None);
    }
    let embeds = scumble_tensor::Var::constant(upload(&inputs.tensor(&embeds)?)?);
    let (ids, rest) = {
        let ids: Vec<f32> = inputs.values(&ids)?;
        let (ids, rest) = ids.as_chunks::<6>();
        (ids.to_vec(), rest.len())
    };
    if rest != 0 {
        return Err(Failure::new(format!("`{case}.time_ids` is not of the shape [n, 6]")));
    }
    Ok(Some((embeds, ids)))
}

fn tap_paths(inputs: &Inputs, case: u64) -> Vec<String> {
    let prefix = format!("{case}.tap.");
    inputs.names().iter().filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned)).collect()
}
