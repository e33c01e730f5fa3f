//! `probe pipeline`: text to picture from given noise, with the latents after every model call.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::{Map, Value};

use scumble_model::pipeline::{Denoising, Guidance, TextToImage};
use scumble_model::sampler::{SamplerKind, SamplerOptions};
use scumble_model::unet::UNet;
use scumble_model::vae::Vae;
use scumble_tensor::rng::Generator;
use scumble_tensor::{DType, Tensor};

use super::sampler::timestep_tensor;
use super::tensors::{Inputs, Outputs};
use super::{SpecInputArgs, read_json};
use crate::commands::model;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// What the spec says of all runs.
struct Settings<'a> {
    prompts: Vec<&'a str>,
    negative: &'a str,
    steps: usize,
    guidance: f32,
    runs: &'a Map<String, Value>,
}

impl<'a> Settings<'a> {
    fn read(spec: &'a Value) -> Result<Self> {
        let pipeline = spec.get("pipeline").unwrap_or(spec);
        let missing = |key: &str| Failure::new(format!("the spec's pipeline has no usable `{key}`"));
        let prompts = match pipeline.get("prompt").or_else(|| pipeline.get("prompts")) {
            Some(Value::String(prompt)) => vec![prompt.as_str()],
            Some(Value::Array(prompts)) => prompts.iter().filter_map(Value::as_str).collect(),
            _ => return Err(missing("prompt")),
        };
        let steps =
            pipeline.get("steps").and_then(Value::as_u64).and_then(|steps| usize::try_from(steps).ok());
        Ok(Self {
            prompts,
            negative: pipeline.get("negative_prompt").and_then(Value::as_str).unwrap_or_default(),
            steps: steps.ok_or_else(|| missing("steps"))?,
            guidance: pipeline.get("guidance_scale").and_then(Value::as_f64).unwrap_or(1.0) as f32,
            runs: pipeline.get("runs").and_then(Value::as_object).ok_or_else(|| missing("runs"))?,
        })
    }
}

/// Runs every sampler of the spec.
pub fn run(context: &Context, args: &SpecInputArgs) -> Result {
    let backend = context.backend()?;
    let dtype = args.base.precision.dtype();
    let inputs = Inputs::open(&args.input)?;
    let spec = read_json(&args.spec)?;
    let settings = Settings::read(&spec)?;
    let files = model::open(&args.base.base)?;
    files.require_plain_input()?;
    let tokenizer = model::tokenizer(&files)?;
    let text_encoder = model::text_encoder(&files, backend.as_ref(), dtype)?;
    let unet = UNet::load(&files.unet.config, files.unet.weights.as_ref(), backend.as_ref(), dtype)?;
    let vae = Vae::load(&files.vae.config, files.vae.weights.as_ref(), backend.as_ref(), dtype)?;
    let pipeline = TextToImage::new(Arc::clone(&backend), dtype, &text_encoder, &unet, &vae);
    let states =
        |texts: &[&str]| -> Result<Tensor> { Ok(pipeline.states(&model::ids(&tokenizer, texts)?, 0)?) };
    let positive = states(&settings.prompts)?;
    let negative = states(&vec![settings.negative; settings.prompts.len()])?;
    let noise = inputs.tensor("initial_noise")?.to_dtype(DType::F32)?;
    let mut outputs = Outputs::default();
    for (name, run) in settings.runs {
        let config = run.get("config").unwrap_or(&files.scheduler_config);
        let class = run.get("scheduler").and_then(Value::as_str).unwrap_or_default();
        let options = SamplerOptions::new(settings.steps);
        let built = SamplerKind::of_class(class, config).and_then(|kind| kind.build(config, options));
        let mut sampler = match built {
            Ok(sampler) => sampler,
            Err(error) => {
                context.terminal.warning(&format!("run `{name}` is left out: {error}"));
                continue;
            }
        };
        let timesteps = sampler.timesteps().to_vec();
        let mut per_step: Vec<f32> = Vec::new();
        let denoising = Denoising {
            states: &positive,
            guidance: Some(Guidance { scale: settings.guidance, negative: &negative }),
            latents: pipeline.start_from(&noise, sampler.as_ref())?,
            first_call: 0,
            sampler: sampler.as_mut(),
            generator: &mut Generator::new(0),
        };
        let latents = pipeline.denoise(denoising, |progress| {
            per_step.extend(progress.latents.as_slice::<f32>().unwrap_or_default());
            ControlFlow::Continue(())
        })?;
        let latents = latents.ok_or_else(|| Failure::new("the run was broken off"))?;
        let dims = [&[timesteps.len()], latents.dims()].concat();
        outputs.push(format!("{name}.timesteps"), timestep_tensor(&timesteps)?)?;
        outputs.push_values(format!("{name}.latents_per_step"), &per_step, &dims)?;
        outputs.push(format!("{name}.decoded"), pipeline.decode(&latents)?)?;
        outputs.push(format!("{name}.final_latents"), latents)?;
    }
    outputs.write(&args.base.out)?;
    Ok(Outcome::Done)
}
