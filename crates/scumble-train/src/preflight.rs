//! Before hours of training: what will be done, what it needs, and whether it can work.
//!
//! Time and memory are estimates. One forward pass of one sample is run, and what its blocks would keep for backward is
//! counted; [`recompute`] chooses which of them are computed again to stay within the memory there is. Backward takes about twice the time of forward (no weight gradients of the frozen base).

use std::sync::Arc;
use std::time::Instant;

use scumble_model::unet::Conditioning;
use scumble_tensor::memory;
use scumble_tensor::ops::cast::cast;
use scumble_tensor::{Recompute, Tape, Tensor, Var};
use serde::Serialize;

use crate::config::{Inpaint, Method, Part, Train};
use crate::data::{DatasetReport, gather};
use crate::error::{Result, TrainError};
use crate::full;
use crate::recompute::{self, Measured};
use crate::run::session::{Session, dialect_of, output_type, write_options};

const GIB: f64 = (1u64 << 30) as f64;
/// Backward against forward, in time.
const BACKWARD: f64 = 2.0;
/// Gradients in flight and temporaries against what forward keeps, in memory.
const IN_FLIGHT: f64 = 1.25;

/// The plan of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The base as the user named it.
    pub base: String,
    /// Its family.
    pub family: String,
    /// What the folder holds.
    pub data: DatasetReport,
    /// Pictures that are tested with.
    pub held_out: usize,
    /// Class pictures there are.
    pub class_pictures: usize,
    /// Class pictures that will be painted first.
    pub class_pictures_to_paint: usize,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Updates.
    pub steps: u64,
    /// Samples in each update.
    pub samples_per_step: usize,
    /// Rounds through the pictures.
    pub epochs: f64,
    /// Layers with factors.
    pub modules: usize,
    /// Numbers that learn.
    pub trainable_parameters: usize,
    /// Files that will be written at the end, with their sizes.
    pub files: Vec<PlannedFile>,
    /// Most memory, estimated.
    pub memory_bytes: u64,
    /// Blocks that are computed again in backward, so that this suffices.
    pub recomputed_blocks: usize,
    /// Which they are.
    #[serde(skip)]
    pub recompute: Recompute,
    /// Duration of an update, estimated.
    pub seconds_per_step: f64,
    /// Duration of all updates, estimated.
    pub seconds: f64,
    /// What should be seen before starting.
    pub warnings: Vec<String>,
}

/// An adapter file to come.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedFile {
    /// Its spelling.
    pub format: String,
    /// Its size.
    pub bytes: u64,
}

/// Makes the plan; errors when the run can't work.
pub fn plan(session: &Session) -> Result<Plan> {
    let config = &session.config;
    let (train, data) = (&config.train, &config.data);
    let dataset = session.samples.dataset();
    let class_pictures = session.samples.class_dataset().map_or(0, |class| class.items.len());
    let wanted: usize = gather::class_pictures(config)?.iter().map(|class| class.count).sum();
    let params = session.params();
    let trainable_parameters = params.iter().map(|param| param.value().numel()).sum();
    let samples_per_step = train.batch * train.accumulate;
    let together = if wanted > 0 { 2 * train.batch } else { train.batch };
    // The first pass brings weights into their form for the kernels; it is not what a step takes.
    measure(session)?;
    let (seconds, measured) = measure(session)?;
    let held = memory::stats().live_bytes as f64;
    let learning = trainable_parameters as f64 * learning_bytes(train) as f64;
    let fixed = held + learning;
    let each = IN_FLIGHT * together as f64;
    let allowed = train.memory.map(|gib| gib * GIB).or_else(memory_of_machine);
    let between = measured.between as f64;
    let budget = allowed.map_or(f64::INFINITY, |allowed| (allowed - fixed) / each - between);
    let always = if train.checkpointing { Recompute::EVERYTHING } else { Recompute::NOTHING };
    let choice = recompute::choose(&measured.blocks, always, budget.max(0.0) as usize);
    let memory_bytes = fixed + (between + choice.peak as f64) * each;
    if let Some(allowed) = allowed.filter(|&allowed| memory_bytes > allowed) {
        let (needed_gib, allowed_gib) = (memory_bytes / GIB, allowed / GIB);
        return Err(match train.memory {
            Some(_) => TrainError::Budget { needed_gib, allowed_gib },
            None => TrainError::TooLarge { needed_gib, available_gib: allowed_gib },
        });
    }
    let again = choice.blocks as f64 / measured.blocks.len().max(1) as f64;
    let seconds_per_step = seconds * (1.0 + BACKWARD + again) * (together * train.accumulate) as f64;
    let visits = (train.steps as f64) * samples_per_step as f64;
    Ok(Plan {
        base: session.base.name.clone(),
        family: session.base.family.to_string(),
        data: dataset.report.clone(),
        held_out: session.holdout.as_ref().map_or(0, |holdout| holdout.items().len()),
        class_pictures,
        class_pictures_to_paint: wanted.saturating_sub(class_pictures),
        width: data.width,
        height: data.height,
        steps: train.steps,
        samples_per_step,
        epochs: visits / session.samples.round_length().max(1) as f64,
        modules: session.learning.modules(),
        trainable_parameters,
        files: files(session)?,
        memory_bytes: memory_bytes as u64,
        recomputed_blocks: choice.blocks,
        recompute: choice.recompute,
        seconds_per_step,
        seconds: seconds_per_step * train.steps as f64,
        warnings: warnings(session)?,
    })
}

/// Bytes beside each number that learns: its gradient, the optimizer's memory, the running mean.
fn learning_bytes(train: &Train) -> usize {
    4 + train.optimizer.state_bytes() + if train.ema_decay.is_some() { 4 } else { 0 }
}

fn files(session: &Session) -> Result<Vec<PlannedFile>> {
    if session.config.method == Method::Full {
        let dtype = output_type(&session.config);
        let bytes = full::planned_bytes(&session.base, dtype, session.config.full.text_encoder);
        return Ok(vec![PlannedFile { format: "diffusers folder".to_owned(), bytes }]);
    }
    let adapter = session.adapter(0)?;
    let mut files = Vec::new();
    for &format in session.config.save.formats.iter().filter(|_| session.learning.lora.is_some()) {
        let encoded =
            dialect_of(format)?.write(&adapter, &session.table, &write_options(&session.config, format))?;
        let elements: usize = encoded.tensors.iter().map(|(_, t)| t.numel() * t.dtype().size()).sum();
        // Name, type, shape and offsets of each tensor are some 65 characters of header beside the name.
        let header: usize = encoded.tensors.iter().map(|(name, _)| name.len() + 65).sum();
        let metadata: usize = encoded.metadata.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
        files.push(PlannedFile { format: format.to_string(), bytes: (elements + header + metadata) as u64 });
    }
    Ok(files)
}

fn warnings(session: &Session) -> Result<Vec<String>> {
    let mut warnings = session.config.resting_settings()?;
    warnings.extend(session.samples.dataset().report.warnings());
    if let Some(class) = session.samples.class_dataset() {
        warnings.extend(class.report.warnings());
    }
    let chunks = session.config.data.chunks();
    let room = session.base.tokenizer.max_length().saturating_sub(2) * chunks;
    for item in &session.samples.dataset().items {
        let longest = item.caption.texts().iter().map(|text| session.base.tokenizer.count(text)).max();
        if let Some(count) = longest.filter(|&count| count > room) {
            warnings.push(format!(
                "the text of `{}` has {count} tokens, the first {room} are read; `data.max_tokens` can be up to 225",
                item.file
            ));
        }
    }
    let config = &session.config;
    if config.inpaint != Inpaint::default() && !session.base.is_inpainting() {
        warnings.push("`[inpaint]` has no effect: the base is none that fills holes".to_owned());
    }
    if config.method == Method::Full && config.rate(Part::Unet) > 5e-5 {
        warnings.push(format!(
            "a learning rate of {} is for factors; whole weights usually take 0.00001 or less",
            config.rate(Part::Unet)
        ));
    }
    Ok(warnings)
}

/// Seconds of a forward pass of one sample, and what a recorded one keeps. Text states are part of it only when the text
/// encoder learns, as in a step: blocks are numbered as there.
fn measure(session: &Session) -> Result<(f64, Measured)> {
    let config = &session.config;
    let (backend, base) = (&session.backend, &session.base);
    let cells = base.vae.downscale().max(1);
    let channels = base.unet.config().in_channels;
    let (h, w) = (config.data.height / cells, config.data.width / cells);
    let dtype = config.train.precision.dtype();
    let latents = backend.upload(&Tensor::zeros(dtype, &[1, h, w, channels])?)?;
    let ids = base.ids("")?;
    let frozen = Tape::inference(Arc::clone(backend));
    let start = Instant::now();
    let measured = recompute::measure(backend, |tape| {
        let text_tape = if config.text_learns() { tape } else { &frozen };
        let states = cast(tape, &base.text_encoder.states(text_tape, &ids, 0)?, dtype)?;
        let conditioning = Conditioning { states: &states, text_time: None };
        let prediction = base.unet.forward(tape, &Var::constant(latents.clone()), &[1.0], conditioning)?;
        backend.download(prediction.value())?;
        Ok(prediction)
    })?;
    Ok((start.elapsed().as_secs_f64(), measured))
}

/// Memory of the machine in bytes, where it can be found out.
fn memory_of_machine() -> Option<f64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OptimizerKind;
    use crate::optimizer;
    use scumble_tensor::Param;
    use scumble_tensor::reference::ReferenceBackend;

    #[test]
    fn the_memory_of_each_optimizer_is_what_it_keeps() {
        for &name in OptimizerKind::NAMES {
            let train = Train { optimizer: name.parse().unwrap(), ..Train::default() };
            let values = Tensor::zeros(scumble_tensor::DType::F32, &[64, 64]).unwrap();
            let param = Param::trainable("w", values);
            let gradient = Tensor::from_slice(&[1f32; 64 * 64], &[64, 64]).unwrap();
            let mut optimizer = optimizer::build(&train, 0.0);
            optimizer.begin();
            optimizer.update(&ReferenceBackend, &param, &gradient, 1e-3, 1.0).unwrap();
            optimizer.end(&ReferenceBackend).unwrap();
            let state = optimizer.state(&ReferenceBackend).unwrap();
            let bytes: usize = state.values().map(|tensor| tensor.bytes().unwrap().len()).sum();
            let each = bytes as f64 / (64.0 * 64.0);
            let told = train.optimizer.state_bytes() as f64;
            assert!((each - told).abs() <= 1.0, "{name}: {each} bytes, {told} told");
            assert_eq!(learning_bytes(&train), 4 + train.optimizer.state_bytes());
            assert_eq!(
                learning_bytes(&Train { ema_decay: Some(0.9), ..train.clone() }),
                8 + train.optimizer.state_bytes()
            );
        }
    }
}
