//! `probe lora`: a model's outputs with an adapter on it, at the strengths that the given file names.
//!
//! ```text
//! base_text                        text states without the adapter
//! [x_]scale<s>.text                text states with it
//! [x_]scale<s>.unet_base_text      UNet with it, on the states without it
//! [x_]scale<s>.unet_lora_text      UNet and text encoder with it
//! [x_]scale0.unet                  UNet at strength 0
//! fused.scale<s>.<module>          the weight W + s * up @ down
//! ```

use std::sync::Arc;

use scumble_adapter::Adapter;
use scumble_adapter::attach::{Strength, Towers, attach, folded_weights};
use scumble_adapter::dialect::{ReadOptions, load_adapter};
use scumble_model::nn::{to_file_layout, to_memory_layout};
use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::{Conditioning, UNet};
use scumble_tensor::{Backend, Tape, Tensor, Var};

use super::LoraArgs;
use super::tensors::{Inputs, Outputs};
use crate::commands::model;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Computes every output key that the input file has.
pub fn run(context: &Context, args: &LoraArgs) -> Result {
    let backend = context.backend()?;
    let dtype = args.input.base.precision.dtype();
    let inputs = Inputs::open(&args.input.input)?;
    let files = model::open(&args.input.base.base)?;
    let unet = UNet::load(&files.unet.config, files.unet.weights.as_ref(), backend.as_ref(), dtype)?;
    let text_encoder = model::text_encoder(&files, backend.as_ref(), dtype)?;
    let towers = Towers { unet: Some(unet.modules()), text_encoder: Some(text_encoder.modules()) };
    let loaded = load_adapter(&args.adapter, &towers.table(), ReadOptions::default())?;
    let upload = |tensor: Tensor| -> Result<Var> { Ok(Var::constant(backend.upload(&tensor)?)) };
    let bench = Subject {
        backend: &backend,
        unet: &unet,
        text_encoder: &text_encoder,
        adapter: &loaded.adapter,
        sample: upload(to_memory_layout(&inputs.tensor("sample")?.to_dtype(dtype)?)?)?,
        timesteps: inputs.values("timesteps")?,
        ids: backend.upload(&inputs.tensor("input_ids")?)?,
    };
    let mut outputs = Outputs::default();
    for name in inputs.names() {
        if let Some(value) = bench.output(&name)? {
            outputs.push(name, value)?;
        }
    }
    outputs.write(&args.input.base.out)?;
    Ok(Outcome::Done)
}

struct Subject<'a> {
    backend: &'a Arc<dyn Backend>,
    unet: &'a UNet,
    text_encoder: &'a TextEncoder,
    adapter: &'a Adapter,
    sample: Var,
    timesteps: Vec<f32>,
    ids: Tensor,
}

impl Subject<'_> {
    /// The output of that name; `None` for names that are no outputs.
    fn output(&self, name: &str) -> Result<Option<Tensor>> {
        if name == "base_text" {
            return Ok(Some(self.backend.download(self.states()?.value())?));
        }
        if let Some((scale, path)) = name.strip_prefix("fused.scale").and_then(split_scale) {
            return self.fused(scale, path).map(Some);
        }
        let start = name.find("scale");
        let Some((scale, what)) = start.and_then(|start| split_scale(&name[start + "scale".len()..])) else {
            return Ok(None);
        };
        let base_states = self.states()?;
        let strength = Strength { unet: scale, text_encoder: scale };
        let attached = attach(self.adapter, self.towers(), strength, self.backend.as_ref())?;
        let value = match what {
            "text" => Ok(Some(self.backend.download(self.states()?.value())?)),
            "unet" | "unet_base_text" => self.prediction(&base_states).map(Some),
            "unet_lora_text" => self.prediction(&self.states()?).map(Some),
            _ => Ok(None),
        };
        attached.detach();
        value
    }

    fn towers(&self) -> Towers<'_> {
        Towers { unet: Some(self.unet.modules()), text_encoder: Some(self.text_encoder.modules()) }
    }

    fn states(&self) -> Result<Var> {
        let tape = Tape::inference(Arc::clone(self.backend));
        Ok(self.text_encoder.forward(&tape, &self.ids)?.last_hidden_state)
    }

    fn prediction(&self, states: &Var) -> Result<Tensor> {
        let tape = Tape::inference(Arc::clone(self.backend));
        let conditioning = Conditioning { states, text_time: None };
        let out = self.unet.forward(&tape, &self.sample, &self.timesteps, conditioning)?;
        Ok(to_file_layout(&self.backend.download(out.value())?)?)
    }

    fn fused(&self, scale: f32, path: &str) -> Result<Tensor> {
        let strength = Strength { unet: scale, text_encoder: scale };
        let mut weights = folded_weights(self.adapter, self.towers(), strength, self.backend.as_ref())?;
        weights.remove(path).ok_or_else(|| Failure::new(format!("the adapter has no module `{path}`")))
    }
}

/// `1.0.text` -> 1.0 and `text`; the number is the longest one at the start.
fn split_scale(text: &str) -> Option<(f32, &str)> {
    text.match_indices('.').rev().find_map(|(dot, _)| {
        let scale = text[..dot].parse().ok()?;
        Some((scale, &text[dot + 1..]))
    })
}

#[cfg(test)]
mod tests {
    use super::split_scale;

    #[test]
    fn scales() {
        assert_eq!(split_scale("1.0.text"), Some((1.0, "text")));
        assert_eq!(split_scale("0.unet"), Some((0.0, "unet")));
        assert_eq!(split_scale("0.5.unet.down_blocks.0.x"), Some((0.5, "unet.down_blocks.0.x")));
        assert_eq!(split_scale("text"), None);
    }
}
