//! `probe sampler`: runs samplers on the closed-form model `0.1 x + (0.3 + 0.2 t / 1000) fixed`, with stored noises.

use serde_json::{Map, Value};

use scumble_model::sampler::{Sampler, SamplerKind, SamplerOptions};
use scumble_tensor::Tensor;

use super::tensors::{Inputs, Outputs};
use super::{SamplerArgs, read_json};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Runs every run of the spec whose sampler there is, or the one asked for.
pub fn run(context: &Context, args: &SamplerArgs) -> Result {
    let spec = read_json(&args.spec)?;
    let inputs = Inputs::open(&args.input)?;
    let mut outputs = Outputs::default();
    for (name, run) in chosen_runs(&spec, args.run.as_deref())? {
        match build(name, run) {
            Ok(sampler) => trajectory(name, sampler, &inputs, &mut outputs)?,
            // A run that was asked for by name must be there; of all runs, those that can be.
            Err(failure) if args.run.is_some() => return Err(failure),
            Err(failure) => context.terminal.warning(&format!("`{name}` is left out: {failure}")),
        }
    }
    outputs.write(&args.out)?;
    Ok(Outcome::Done)
}

fn chosen_runs<'a>(spec: &'a Value, only: Option<&'a str>) -> Result<Vec<(&'a str, &'a Value)>> {
    let runs = spec.get("runs").and_then(Value::as_object);
    let Some(runs) = runs else { return Err(Failure::new("the spec has no `runs`")) };
    match only {
        None => Ok(runs.iter().map(|(name, run)| (name.as_str(), run)).collect()),
        Some(name) => match runs.get(name) {
            Some(run) => Ok(vec![(name, run)]),
            None => Err(Failure::new(format!("the spec has no run `{name}`"))),
        },
    }
}

fn build(name: &str, run: &Value) -> Result<Box<dyn Sampler>> {
    let class = run.get("class").and_then(Value::as_str).unwrap_or_default();
    let steps =
        run.get("num_inference_steps").and_then(Value::as_u64).and_then(|steps| usize::try_from(steps).ok());
    let steps = steps.ok_or_else(|| Failure::new(format!("run `{name}` has no `num_inference_steps`")))?;
    let eta = run.pointer("/step_args/eta").and_then(Value::as_f64).unwrap_or(0.0);
    let empty = Value::Object(Map::new());
    let config = run.get("config").unwrap_or(&empty);
    Ok(SamplerKind::of_class(class, config)?
        .build(config, SamplerOptions { eta, ..SamplerOptions::new(steps) })?)
}

fn trajectory(
    name: &str,
    mut sampler: Box<dyn Sampler>,
    inputs: &Inputs,
    outputs: &mut Outputs,
) -> Result<()> {
    let fixed: Vec<f32> = inputs.values("fixed")?;
    let sample = inputs.tensor("sample")?;
    let start: Vec<f32> = sample.to_vec()?;
    let mut noises = Noises::read(inputs, name, start.len())?;
    let mut latents: Vec<f32> = start.iter().map(|value| value * sampler.init_noise_sigma() as f32).collect();
    let mut trajectory = latents.clone();
    let timesteps = sampler.timesteps().to_vec();
    for (call, &timestep) in timesteps.iter().enumerate() {
        let x = sampler.scale_model_input(call, &latents)?;
        let gain = (0.3 + 0.2 * timestep / 1000.0) as f32;
        let output: Vec<f32> = x.iter().zip(&fixed).map(|(x, fixed)| 0.1 * x + gain * fixed).collect();
        latents = sampler.step(call, &output, &latents, &mut |_| noises.next())?;
        trajectory.extend_from_slice(&latents);
    }
    if noises.missing {
        return Err(Failure::new(format!("run `{name}` drew more noises than `{name}.noises` holds")));
    }
    let mut dims = vec![timesteps.len() + 1];
    dims.extend_from_slice(sample.dims());
    outputs.push(format!("{name}.trajectory"), Tensor::from_slice(&trajectory, &dims)?)?;
    outputs.push(format!("{name}.timesteps"), timestep_tensor(&timesteps)?)?;
    if inputs.has(&format!("{name}.sigmas"))
        && let Some(sigmas) = sampler.sigmas()
    {
        let sigmas: Vec<f32> = sigmas.iter().map(|&sigma| sigma as f32).collect();
        outputs.push_values(format!("{name}.sigmas"), &sigmas, &[sigmas.len()])?;
    }
    Ok(())
}

/// Whole timesteps are ids, fractional ones numbers.
pub fn timestep_tensor(timesteps: &[f64]) -> Result<Tensor> {
    let dims = [timesteps.len()];
    Ok(if timesteps.iter().all(|timestep| timestep.fract() == 0.0) {
        Tensor::from_slice(&timesteps.iter().map(|&timestep| timestep as i64).collect::<Vec<_>>(), &dims)?
    } else {
        Tensor::from_slice(&timesteps.iter().map(|&timestep| timestep as f32).collect::<Vec<_>>(), &dims)?
    })
}

/// The stored noises of a run, in the order drawn.
struct Noises {
    values: Vec<f32>,
    used: usize,
    len: usize,
    missing: bool,
}

impl Noises {
    fn read(inputs: &Inputs, run: &str, len: usize) -> Result<Self> {
        let name = format!("{run}.noises");
        let values = if inputs.has(&name) { inputs.values(&name)? } else { Vec::new() };
        Ok(Self { values, used: 0, len, missing: false })
    }

    fn next(&mut self) -> Vec<f32> {
        let range = self.used..self.used + self.len;
        self.used = range.end;
        match self.values.get(range) {
            Some(noise) => noise.to_vec(),
            None => {
                self.missing = true;
                vec![0.0; self.len]
            }
        }
    }
}
