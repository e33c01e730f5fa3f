//! `scumble bench step`: seconds of one training step and of its forward pass, and the memory they take.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use scumble_adapter::Tower;
use scumble_adapter::attach::Towers;
use scumble_adapter::create::{Init, Kind, KroneckerOptions, TrainableLora, fresh_on};
use scumble_adapter::select::{Preset, Targets, TowerTargets};
use scumble_model::schedule::{NoiseSchedule, PredictionType};
use scumble_model::unet::{Conditioning, UNet};
use scumble_tensor::rng::stream;
use scumble_tensor::{Backend, DType, Param, Recompute, Tensor, Var, memory};
use scumble_train::config::AdapterKind;
use scumble_train::lr_schedule::{Schedule, ScheduleKind};
use scumble_train::objective::Objective;
use scumble_train::optimizer::{AdamW, Learner, learner};
use scumble_train::recompute::{self, Choice};
use scumble_train::step::{self, StepInput, StepOptions, Text};

use super::architecture::{context_width, unet_config};
use super::profile::Profiled;
use super::{StepArgs, median, peak_rss_gb, rounded};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

const SEED: u64 = 0;

/// Measures and prints.
pub fn run(context: &Context, args: &StepArgs) -> Result {
    if args.batch == 0 || args.latent == 0 || args.steps == 0 {
        return Err(Failure::usage("--batch, --latent and --steps are at least 1"));
    }
    let backend = context.backend()?;
    let (backend, profiled) = Profiled::around(backend, args.profile);
    context.terminal.status("making up the weights");
    let config = unet_config(args.arch);
    // Weights that learn are kept in f32, and computed with in the precision asked for.
    let weights = if args.full { DType::F32 } else { args.precision.dtype() };
    let unet = UNet::fresh(&config, SEED, backend.as_ref(), weights)?;
    scumble_tensor::memory::trim();
    let params = if args.full { everything(&unet) } else { lora(&unet, args, backend.as_ref())? };
    let trained: usize = params.iter().map(|param| param.value().numel()).sum();
    let batch = Batch::new(args, context_width(args.arch))?;
    let options = StepOptions { activations: Some(args.precision.dtype()), ..StepOptions::default() };
    let mut measured = Measured::default();
    let mut learners = [learning(params, args.steps as u64 + 1)];
    let choice = match args.memory {
        Some(gib) => within(&backend, &unet, &batch, args.precision.dtype(), gib)?,
        None => Choice { recompute: Recompute::NOTHING, blocks: 0, peak: 0 },
    };
    let recompute = if args.checkpointing { Recompute::EVERYTHING } else { choice.recompute };
    for index in 0..=args.steps {
        context.terminal.status(&format!("step {index} of {}", args.steps));
        // The first step is not timed.
        if let (1, Some(profiled)) = (index, &profiled) {
            profiled.forget();
        }
        let start = Instant::now();
        let output = step::run(
            &backend,
            &unet,
            &batch.objective,
            &batch.input(),
            StepOptions { recompute, ..options },
        )?;
        if !output.loss.is_finite() {
            return Err(Failure::new("the loss is not finite"));
        }
        learner::apply(&mut learners, backend.as_ref(), output.gradients, index as u64, 1.0)?;
        if index > 0 {
            measured.step.push(start.elapsed().as_secs_f64());
        }
    }
    let profile = profiled.map(|profiled| (profiled.json(args.steps), profiled.table(args.steps)));
    for param in learner::all_params(&learners) {
        param.set_trainable(false);
    }
    for index in 0..=args.steps {
        let seconds = step::run(&backend, &unet, &batch.objective, &batch.input(), options)?.forward_seconds;
        if index > 0 {
            measured.forward.push(seconds);
        }
    }
    print(context, args, backend.name(), trained, choice.blocks, measured, profile);
    Ok(Outcome::Done)
}

#[derive(Default)]
struct Measured {
    step: Vec<f64>,
    forward: Vec<f64>,
}

/// The blocks to recompute so that tensors stay within `gib`; errors when no choice suffices. What is held now are the
/// weights; gradients and moments of what learns come on top, and what is in flight beside the blocks, a quarter of them.
fn within(backend: &Arc<dyn Backend>, unet: &UNet, batch: &Batch, dtype: DType, gib: f64) -> Result<Choice> {
    const IN_FLIGHT: f64 = 1.25;
    let held = memory::stats().live_bytes as f64;
    let learning = unet.params().iter().filter(|param| param.is_trainable());
    let fixed = held + learning.map(|param| param.value().numel() as f64 * 12.0).sum::<f64>();
    let device = |host: &Tensor| backend.cast(&backend.upload(host)?, dtype).map(Var::constant);
    let (latents, states) = (device(&batch.latents)?, device(&batch.states)?);
    let timesteps: Vec<f32> = batch.timesteps.iter().map(|&t| t as f32).collect();
    let measured = recompute::measure(backend, |tape| {
        unet.forward(tape, &latents, &timesteps, Conditioning { states: &states, text_time: None })
    })?;
    memory::trim();
    let gibibyte = f64::from(1 << 30);
    let budget = (gib * gibibyte - fixed) / IN_FLIGHT - measured.between as f64;
    let choice = recompute::choose(&measured.blocks, Recompute::NOTHING, budget.max(0.0) as usize);
    if choice.peak as f64 > budget {
        let needed = fixed + (choice.peak + measured.between) as f64 * IN_FLIGHT;
        return Err(Failure::new(format!(
            "--memory {gib} does not suffice: the step needs about {:.2} GiB",
            needed / gibibyte
        ))
        .hint("--precision bf16, a smaller --batch or --latent need less"));
    }
    Ok(choice)
}

fn print(
    context: &Context,
    args: &StepArgs,
    backend: String,
    trained: usize,
    recomputed: usize,
    measured: Measured,
    profile: Option<(Value, String)>,
) {
    let (step_s, forward_s) = (median(measured.step), median(measured.forward));
    let (arch, threads, peak_rss_gb) = (args.arch.name(), context.threads(), peak_rss_gb());
    if args.json {
        let mut line = json!({
            "program": "scumble", "version": env!("CARGO_PKG_VERSION"), "backend": backend, "arch": arch,
            "precision": args.precision.name(), "full": args.full, "kind": args.adapter_kind.name(),
            "targets": args.targets, "rank": args.rank, "batch": args.batch, "latent": args.latent,
            "threads": threads, "step_s": rounded(step_s, 4), "forward_s": rounded(forward_s, 4),
            "peak_rss_gb": peak_rss_gb, "trained": trained, "recomputed_blocks": recomputed,
        });
        if let Some((rows, _)) = profile {
            line["profile"] = rows;
        }
        context.terminal.result(&line.to_string());
    } else {
        context.terminal.result(&format!(
            "{arch} {} on {backend}: {step_s:.2} s a step, {forward_s:.2} s forward, {peak_rss_gb:.2} GB, {trained} trained",
            args.precision
        ));
        if let Some((_, table)) = profile {
            context.terminal.result(&table);
        }
    }
}

/// Made-up latents, noise and text.
struct Batch {
    latents: Tensor,
    noise: Tensor,
    states: Tensor,
    timesteps: Vec<i64>,
    share: Vec<f32>,
    objective: Objective,
}

impl Batch {
    fn new(args: &StepArgs, width: usize) -> Result<Self> {
        let random = |name: &str, dims: &[usize]| stream(SEED, name).randn_tensor(dims);
        let dims = [args.batch, args.latent, args.latent, 4];
        let schedule = json!({
            "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        });
        Ok(Self {
            latents: random("bench latents", &dims)?,
            noise: random("bench noise", &dims)?,
            states: random("bench text", &[args.batch, 77, width])?,
            timesteps: vec![500; args.batch],
            share: vec![1.0 / args.batch as f32; args.batch],
            objective: Objective::plain(NoiseSchedule::from_config(&schedule)?, PredictionType::Epsilon),
        })
    }

    fn input(&self) -> StepInput<'_> {
        StepInput::new(&self.latents, &self.noise, &self.timesteps, Text::States(&self.states), &self.share)
    }
}

/// AdamW at a constant rate through all steps.
fn learning(params: Vec<Param>, steps: u64) -> Learner {
    Learner {
        name: "bench".to_owned(),
        lr: 1e-4,
        schedule: Schedule {
            kind: ScheduleKind::Constant,
            warmup: 0,
            steps,
            cycles: 1.0,
            power: 1.0,
            lr_end: 0.0,
        },
        start: 0,
        stop: steps,
        params,
        optimizer: Box::new(AdamW::new([0.9, 0.999], 1e-8, 0.01)),
    }
}

fn everything(unet: &UNet) -> Vec<Param> {
    for param in unet.params() {
        param.set_trainable(true);
    }
    unet.params().to_vec()
}

fn lora(unet: &UNet, args: &StepArgs, backend: &dyn Backend) -> Result<Vec<Param>> {
    let (rank, preset) = (args.rank, args.targets.parse::<Preset>()?);
    let kind = match args.adapter_kind {
        AdapterKind::Lora => Kind::LowRank(Init::Normal),
        AdapterKind::Dora => Kind::Decomposed(Init::Normal),
        AdapterKind::Loha => Kind::Hadamard,
        AdapterKind::Lokr => Kind::Kronecker(KroneckerOptions::default()),
    };
    let towers = Towers { unet: Some(unet.modules()), text_encoder: None };
    attached(towers, TowerTargets::new(Tower::UNet, preset, rank, rank as f32), kind, backend)
}

/// Makes an adapter on one tower and attaches it; its parameters.
pub(super) fn attached(
    towers: Towers<'_>,
    tower: TowerTargets,
    kind: Kind,
    backend: &dyn Backend,
) -> Result<Vec<Param>> {
    let targets = Targets { towers: vec![tower], ..Targets::default() };
    let fresh = fresh_on(&targets, towers, kind, SEED, backend)?;
    let adapter = TrainableLora::new(&fresh, &towers.table(), backend)?;
    drop(adapter.attach(towers, 0.0, backend)?);
    Ok(adapter.params())
}
