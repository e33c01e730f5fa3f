//! A recorded training run, step for step, for comparing implementations: what `probe trace` computes.
//!
//! The file brings latents, noise, timesteps, token ids and starting factors; the JSON brings the hyper-parameters. The
//! run gives the loss and the gradient's length of every step, and whichever of these the file holds too:
//!
//! ```text
//! grad1.<name>     gradients of step 1, before clipping
//! after<K>.<name>  values after update K
//! step1.*          noisy latents, text states, prediction and target of step 1
//! ```
//!
//! rows, rows_before_norm_prior, row_grad   of every step of a textual inversion
//!
//! Kinds: `textual_inversion...` trains rows `init.rows` behind the text encoder's table, with the norm prior; `lora...` trains factors `init.<tower>.<module>.{down,up}` with AdamW; `full...` trains all weights of the UNet
//! with plain gradient descent. Files are NCHW.
//!
//! What is compared how is told by further fields of the JSON ([`Aim`]) and by tensors of the file ([`Inputs`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_adapter::attach::Towers;
use scumble_adapter::create::TrainableLora;
use scumble_adapter::{Adapter, Tower};
use scumble_model::files::TensorSource;
use scumble_model::nn::{Modules, to_file_layout};
use scumble_model::schedule::PredictionType;
use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::UNet;
use scumble_tensor::{Backend, DType, Gradients, Param, Tensor};
use serde_json::Value;

use crate::clip::{clip_factor, global_norm};
use crate::error::{Result, TrainError};
use crate::lr_schedule::{Schedule, ScheduleKind};
use crate::objective::Objective;
use crate::optimizer::{AdamW, Learner, Optimizer, Sgd, learner};
use crate::step::{self, StepInput, StepOptions, StepOutput, Text};
use crate::tokens::pull;

mod aim;
mod inputs;

use aim::Aim;
use inputs::Inputs;

/// What a trace trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lora,
    Full,
    Tokens,
}

/// The hyper-parameters of a trace.
#[derive(Clone, Debug)]
pub struct TraceSpec {
    kind: Kind,
    scale: f64,
    lr_unet: f64,
    lr_text: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    max_grad_norm: f64,
    /// Strength and target of the norm prior.
    norm_prior: Option<[f64; 2]>,
    placeholders: Option<Vec<i64>>,
    schedule: Value,
    prediction: Option<PredictionType>,
    aim: Aim,
}

fn mismatch(what: impl Into<String>, expected: &str, found: impl std::fmt::Display) -> TrainError {
    TrainError::Mismatch { what: what.into(), expected: expected.into(), found: found.to_string() }
}

impl TraceSpec {
    /// The trace `name` of a `traces.json`.
    pub fn parse(json: &Value, name: &str) -> Result<Self> {
        let traces = json.get("traces").and_then(Value::as_object);
        let traces = traces.ok_or_else(|| mismatch("the specification", "an object `traces`", "none"))?;
        let spec = traces.get(name).ok_or_else(|| {
            let names: Vec<&str> = traces.keys().map(String::as_str).collect();
            mismatch("the name of the trace", &format!("one of {}", names.join(", ")), name)
        })?;
        let field = |key: &str| format!("`{key}` of trace `{name}`");
        let number = |key: &str, default: Option<f64>| match spec.get(key) {
            None => default.ok_or_else(|| mismatch(field(key), "a number", "nothing")),
            Some(value) => value.as_f64().ok_or_else(|| mismatch(field(key), "a number", value)),
        };
        let text = spec.get("kind").and_then(Value::as_str).unwrap_or_default();
        let kind = match text {
            _ if text.starts_with("lora") => Kind::Lora,
            _ if text.starts_with("full") => Kind::Full,
            _ if text.starts_with("textual_inversion") => Kind::Tokens,
            _ => return Err(mismatch(field("kind"), "`lora...`, `full...` or `textual_inversion`", text)),
        };
        let prediction = match spec.get("prediction_type").and_then(Value::as_str) {
            None => None,
            Some(name) => Some(
                PredictionType::NAMES
                    .iter()
                    .find_map(|&(known, prediction)| (known == name).then_some(prediction))
                    .ok_or_else(|| mismatch(field("prediction_type"), "epsilon or v_prediction", name))?,
            ),
        };
        let betas = match spec.get("betas").map(|betas| (betas[0].as_f64(), betas[1].as_f64())) {
            None => [0.9, 0.999],
            Some((Some(first), Some(second))) => [first, second],
            Some(_) => return Err(mismatch(field("betas"), "two numbers", &spec["betas"])),
        };
        let lr_unet = number(if kind == Kind::Lora { "lr_unet" } else { "lr" }, None)?;
        let strength =
            spec.get("norm_prior_lambda").map(|_| number("norm_prior_lambda", None)).transpose()?;
        let norm_prior = match strength {
            Some(strength) => Some([strength, number("norm_prior_target", Some(0.4))?]),
            None => None,
        };
        let placeholders = match spec.get("placeholder_ids") {
            None => None,
            Some(ids) => Some(
                serde_json::from_value(ids.clone())
                    .map_err(|_| mismatch(field("placeholder_ids"), "whole numbers", ids))?,
            ),
        };
        Ok(Self {
            kind,
            scale: number("scale", Some(1.0))?,
            lr_unet,
            lr_text: number("lr_text", Some(lr_unet))?,
            betas,
            eps: number("eps", Some(1e-8))?,
            weight_decay: number("weight_decay", Some(0.0))?,
            max_grad_norm: number("max_grad_norm", Some(0.0))?,
            norm_prior,
            placeholders,
            schedule: spec.clone(),
            prediction,
            aim: Aim::parse(spec, name)?,
        })
    }

    /// A part that learns through all steps at the rate `lr`.
    fn learner(
        &self,
        (name, lr): (&str, f64),
        steps: u64,
        params: Vec<Param>,
        optimizer: Box<dyn Optimizer>,
    ) -> Result<Learner> {
        let mut schedule = self.schedule(steps)?;
        // All parts follow the curve of the first: a polynomial ends at the same share of each rate.
        if self.lr_unet > 0.0 {
            schedule.lr_end *= lr / self.lr_unet;
        }
        Ok(Learner { name: name.to_owned(), lr, schedule, start: 0, stop: steps, params, optimizer })
    }

    fn adamw(&self) -> Box<dyn Optimizer> {
        Box::new(AdamW::new(self.betas, self.eps, self.weight_decay))
    }

    fn schedule(&self, steps: u64) -> Result<Schedule> {
        let name = self.schedule.get("lr_schedule").cloned().unwrap_or_else(|| "constant".into());
        let kind: ScheduleKind = serde_json::from_value(name.clone())
            .map_err(|_| mismatch("`lr_schedule`", "constant, linear, cosine, ...", name))?;
        let number =
            |key: &str, default: f64| self.schedule.get(key).and_then(Value::as_f64).unwrap_or(default);
        Ok(Schedule {
            kind,
            warmup: number("lr_warmup_steps", 0.0) as u64,
            steps,
            cycles: number("lr_num_cycles", kind.usual_cycles()),
            power: number("lr_power", 1.0),
            lr_end: 1e-7,
        })
    }
}

/// The models that a trace runs on.
#[derive(Clone, Copy)]
pub struct Networks<'m> {
    /// The denoiser, f32.
    pub unet: &'m UNet,
    /// The text encoder, f32.
    pub text_encoder: &'m TextEncoder,
}

/// What is trained: parameters by the names that the file uses.
struct Trained {
    learners: Vec<Learner>,
    names: Vec<(String, Param)>,
}

/// Runs the trace; the models are left with what was trained.
pub fn run(
    backend: &Arc<dyn Backend>,
    networks: Networks<'_>,
    objective: &Objective,
    spec: &TraceSpec,
    file: &dyn TensorSource,
) -> Result<Vec<(String, Tensor)>> {
    let prediction = spec.prediction.unwrap_or(objective.prediction);
    let objective = &spec.aim.objective(Objective { prediction, ..objective.clone() });
    let inputs = Inputs::read(file, &spec.aim)?;
    let steps = inputs.steps as u64;
    let mut trained = match spec.kind {
        Kind::Lora => lora(backend, networks, spec, file, steps)?,
        Kind::Full => full(networks, spec, steps)?,
        Kind::Tokens => tokens(backend, networks, spec, file, steps)?,
    };
    let all = learner::all_params(&trained.learners);
    let (mut losses, mut norms, mut results) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows = Rows::default();
    for step in 0..inputs.steps {
        let micro = inputs.step(step)?;
        let share = spec.aim.share(objective, &micro.timesteps)?;
        let text = Text::Ids(networks.text_encoder, &micro.ids);
        let input = StepInput {
            input_noise: micro.input_noise.as_ref(),
            weight: micro.weight.as_ref(),
            ..StepInput::new(&micro.latents, &micro.noise, &micro.timesteps, text, &share)
        };
        let output = step::run(backend, networks.unet, objective, &input, StepOptions::default())?;
        let norm = global_norm(backend.as_ref(), &all, &output.gradients)?;
        losses.push(output.loss as f32);
        norms.push(norm as f32);
        if step == 0 {
            results.extend(first_step(backend.as_ref(), &output, file)?);
            results.extend(gradients(backend.as_ref(), &trained, &output.gradients, file)?);
        }
        if spec.kind == Kind::Tokens {
            rows.gradient(backend.as_ref(), &all, &output.gradients)?;
        }
        let scale = clip_factor(norm, spec.max_grad_norm);
        learner::apply(&mut trained.learners, backend.as_ref(), output.gradients, step as u64, scale)?;
        if spec.kind == Kind::Tokens {
            rows.update(backend.as_ref(), &all, spec.norm_prior)?;
        }
        results.extend(values(backend.as_ref(), &trained, &format!("after{}.", step + 1), file)?);
    }
    results.extend(rows.results(inputs.steps, file)?);
    results.push(("loss".to_owned(), Tensor::from_slice(&losses, &[inputs.steps])?));
    // A textual inversion is not clipped, and its file has no norms.
    if spec.kind != Kind::Tokens || file.info("grad_norm").is_some() {
        results.push(("grad_norm".to_owned(), Tensor::from_slice(&norms, &[inputs.steps])?));
    }
    Ok(results)
}

fn lora(
    backend: &Arc<dyn Backend>,
    networks: Networks<'_>,
    spec: &TraceSpec,
    file: &dyn TensorSource,
    steps: u64,
) -> Result<Trained> {
    let mut adapter = Adapter::default();
    for name in file.names() {
        let Some(path) = name.strip_prefix("init.").and_then(|name| name.strip_suffix(".down")) else {
            continue;
        };
        let down = file.read(&name)?;
        let up = file.read(&format!("init.{path}.up"))?;
        let alpha = spec.scale * down.shape().first() as f64;
        adapter.insert(path, down, up, alpha as f32)?;
    }
    if adapter.is_empty() {
        return Err(mismatch(file.describe(), "factors `init.<tower>.<module>.down`", "none"));
    }
    let towers =
        Towers { unet: Some(networks.unet.modules()), text_encoder: Some(networks.text_encoder.modules()) };
    let factors = TrainableLora::new(&adapter, &towers.table(), backend.as_ref())?;
    // The branches stay: whoever asked for the trace has the trained model.
    let _attached = factors.attach(towers, 0.0, backend.as_ref())?;
    let learner = |name, lr, tower| spec.learner((name, lr), steps, factors.params_of(tower), spec.adamw());
    let learners = vec![
        learner("unet", spec.lr_unet, Tower::UNet)?,
        learner("text_encoder", spec.lr_text, Tower::TextEncoder)?,
    ];
    let names = factors.params().into_iter().map(|param| (param.name().to_owned(), param)).collect();
    Ok(Trained { learners, names })
}

fn full(networks: Networks<'_>, spec: &TraceSpec, steps: u64) -> Result<Trained> {
    let params = networks.unet.params().to_vec();
    params.iter().for_each(|param| param.set_trainable(true));
    let names = params.iter().map(|param| (param.name().to_owned(), param.clone())).collect();
    let optimizer = Box::new(Sgd::new(spec.weight_decay));
    let learners = vec![spec.learner(("unet", spec.lr_unet), steps, params, optimizer)?];
    Ok(Trained { learners, names })
}

/// Rows behind the text encoder's table, beginning as the file says.
fn tokens(
    backend: &Arc<dyn Backend>,
    networks: Networks<'_>,
    spec: &TraceSpec,
    file: &dyn TensorSource,
    steps: u64,
) -> Result<Trained> {
    if file.info("init.rows").is_none() {
        return Err(mismatch(file.describe(), "a tensor `init.rows`", "none"));
    }
    let rows = file.read("init.rows")?.to_dtype(DType::F32)?;
    let table = networks.text_encoder.token_embedding();
    let first = table.base_rows() as i64;
    let expected: Vec<i64> = (first..).take(rows.shape().first()).collect();
    if let Some(ids) = spec.placeholders.as_ref().filter(|ids| **ids != expected) {
        let found = format!("{ids:?}");
        return Err(mismatch("`placeholder_ids`", &format!("{expected:?}, which follow the table"), found));
    }
    let param = Param::trainable("rows", backend.upload(&rows)?);
    table.set_added(Some(param.clone()))?;
    let learners = vec![spec.learner(("tokens", spec.lr_unet), steps, vec![param], spec.adamw())?];
    Ok(Trained { learners, names: Vec::new() })
}

/// What a textual inversion leaves at every step, `[steps, n, d]` each.
#[derive(Default)]
struct Rows {
    gradients: Vec<f32>,
    before_prior: Vec<f32>,
    rows: Vec<f32>,
    dims: Vec<usize>,
}

impl Rows {
    fn gradient(&mut self, backend: &dyn Backend, params: &[Param], gradients: &Gradients) -> Result<()> {
        for param in params {
            self.dims = param.value().dims().to_vec();
            match gradients.get(param.id()) {
                Some(gradient) => self.gradients.extend(backend.download(gradient)?.as_slice::<f32>()?),
                // No text of this step has a new word.
                None => self.gradients.resize(self.gradients.len() + param.value().numel(), 0.0),
            }
        }
        Ok(())
    }

    fn update(&mut self, backend: &dyn Backend, params: &[Param], prior: Option<[f64; 2]>) -> Result<()> {
        for param in params {
            self.before_prior.extend(backend.download(&param.value())?.as_slice::<f32>()?);
            if let Some([strength, target]) = prior {
                pull(backend, param, strength, target)?;
            }
            self.rows.extend(backend.download(&param.value())?.as_slice::<f32>()?);
        }
        Ok(())
    }

    fn results(self, steps: usize, file: &dyn TensorSource) -> Result<Vec<(String, Tensor)>> {
        let dims = [&[steps], self.dims.as_slice()].concat();
        let all = [
            ("row_grad", self.gradients),
            ("rows_before_norm_prior", self.before_prior),
            ("rows", self.rows),
        ];
        let wanted = all.into_iter().filter(|(name, _)| file.info(name).is_some());
        wanted.map(|(name, values)| Ok((name.to_owned(), Tensor::from_slice(&values, &dims)?))).collect()
    }
}

fn first_step(
    backend: &dyn Backend,
    output: &StepOutput,
    file: &dyn TensorSource,
) -> Result<Vec<(String, Tensor)>> {
    let pictures = [("noisy", &output.noisy), ("target", &output.target), ("pred", &output.pred)];
    let mut all =
        BTreeMap::from([("step1.encoder_hidden_states".to_owned(), backend.download(&output.states)?)]);
    for (name, tensor) in pictures {
        all.insert(format!("step1.{name}"), to_file_layout(&backend.download(tensor)?)?);
    }
    Ok(all.into_iter().filter(|(name, _)| file.info(name).is_some()).collect())
}

fn gradients(
    backend: &dyn Backend,
    trained: &Trained,
    gradients: &Gradients,
    file: &dyn TensorSource,
) -> Result<Vec<(String, Tensor)>> {
    let mut results = Vec::new();
    for (name, param) in &trained.names {
        let key = format!("grad1.{name}");
        let (Some(info), Some(gradient)) = (file.info(&key), gradients.get(param.id())) else { continue };
        let gradient = to_file_layout(&backend.download(gradient)?)?;
        results.push((key, gradient.reshape(&info.shape)?));
    }
    Ok(results)
}

fn values(
    backend: &dyn Backend,
    trained: &Trained,
    prefix: &str,
    file: &dyn TensorSource,
) -> Result<Vec<(String, Tensor)>> {
    let mut results = Vec::new();
    for (name, param) in &trained.names {
        let key = format!("{prefix}{name}");
        if let Some(info) = file.info(&key) {
            results.push((key, Modules::export(backend, param)?.reshape(&info.shape)?));
        }
    }
    Ok(results)
}
