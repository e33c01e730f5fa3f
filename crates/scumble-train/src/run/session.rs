//! Everything that a run needs in memory: the base, the factors on it, the samples, the optimizer.

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_adapter::dialect::{self, Dialect, TokenPolicy, WriteOptions};
use scumble_adapter::{Adapter, ModuleTable};
use scumble_model::schedule::PredictionType;
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Backend, DType, DropoutKey, Gradients, Param, Recompute, Tensor};

use super::base::Base;
use super::batch::MicroBatch;
use super::event::Reporter;
use super::holdout::HoldOut;
use super::learning::Learning;
use super::samples::Samples;
use crate::checkpoint::{Checkpoint, Origin};
use crate::clip::{clip_factor, global_norm};
use crate::config::{FileFormat, FileType, TrainConfig};
use crate::data::{CacheKey, Dataset};
use crate::ema::Averages;
use crate::error::{Result, TrainError};
use crate::metadata::{self, Facts};
use crate::objective::Objective;
use crate::optimizer::learner;
use crate::step::{self, StepInput, StepOptions, Text};

/// See the module's text.
pub struct Session {
    /// Resolved.
    pub config: TrainConfig,
    /// Where it computes.
    pub backend: Arc<dyn Backend>,
    /// The base.
    pub base: Base,
    /// Names of everything that can be adapted.
    pub table: ModuleTable,
    /// What learns.
    pub learning: Learning,
    /// Running means of it.
    pub averages: Option<Averages>,
    /// What the factors are compared and noised by.
    pub objective: Objective,
    /// What they learn from.
    pub samples: Samples,
    /// Blocks that are computed again in backward.
    pub recompute: Recompute,
    /// What it is tested with.
    pub holdout: Option<HoldOut>,
}

/// The numbers of an update.
pub struct Update {
    /// Weighted loss of all its samples.
    pub loss: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of each part.
    pub rates: BTreeMap<String, f64>,
}

impl Session {
    /// Loads what the (resolved, checked) configuration names and puts fresh factors onto it.
    pub fn open(
        config: TrainConfig,
        backend: Arc<dyn Backend>,
        mut base: Base,
        dataset: Dataset,
        holdout: Option<HoldOut>,
        reporter: &dyn Reporter,
    ) -> Result<Self> {
        if config.objective.zero_terminal_snr && base.prediction == PredictionType::VPrediction {
            base.end_in_noise()?;
        }
        let ends_in_noise = base.schedule.alphas_cumprod().last() == Some(&0.0);
        if ends_in_noise && base.prediction == PredictionType::Epsilon {
            // At the last timestep the input is the noise itself: there is nothing to predict, and 0 / 0 in min-SNR.
            return Err(TrainError::Setting {
                key: "base.prediction".to_owned(),
                value: "epsilon".to_owned(),
                problem: "the base's noise schedule ends in pure noise, which needs velocity".to_owned(),
                hint: "set it to `v_prediction` if the base was trained so; otherwise its scheduler_config.json is wrong"
                    .to_owned(),
            });
        }
        let table = base.towers().table();
        let learning = Learning::open(&config, &mut base, &table, backend.as_ref())?;
        let objective = config.objective_for(base.schedule.clone(), base.prediction)?;
        let samples = Samples::open(&config, dataset, &backend, reporter)?;
        let averages = config.train.ema_decay.map(|decay| Averages::new(decay, learning.params()));
        let recompute = if config.train.checkpointing { Recompute::EVERYTHING } else { Recompute::NOTHING };
        let session =
            Self { backend, base, table, learning, averages, objective, samples, holdout, recompute, config };
        session.check_words()?;
        Ok(session)
    }

    /// New words that occur in no text would learn nothing.
    fn check_words(&self) -> Result<()> {
        for word in &self.config.tokens.add {
            let id = self.base.tokenizer.id_of(word);
            let said =
                |text: &String| id.is_some_and(|id| self.base.tokenizer.tokenize_all(text).contains(&id));
            if !self.samples.captions().keys().any(said) {
                return Err(TrainError::Setting {
                    key: "tokens.add".to_owned(),
                    value: format!("\"{word}\""),
                    problem: "occurs in no text of the pictures".to_owned(),
                    hint: "leave `data.trigger` out, so that the new words are put in front of every text, or name them there"
                        .to_owned(),
                });
            }
        }
        Ok(())
    }

    /// All parameters that learn.
    pub fn params(&self) -> Vec<Param> {
        self.learning.params()
    }

    /// All that a checkpoint holds of what learns.
    pub fn kept(&self) -> Vec<Param> {
        self.learning.kept()
    }

    /// What decides the course of this run.
    pub fn origin(&self) -> Result<Origin> {
        Ok(Origin {
            settings: self.config.deciding()?,
            data: self.data_fingerprint(),
            base: self.base.hash.clone(),
        })
    }

    /// Hash of all pictures and texts, those to test with included.
    fn data_fingerprint(&self) -> String {
        let learned = self.samples.fingerprint();
        let Some(holdout) = &self.holdout else { return learned };
        let tested = holdout.items().iter().flat_map(|item| [item.sha256.as_str(), item.caption.choose(0.0)]);
        let parts: Vec<&str> = [learned.as_str()].into_iter().chain(tested).collect();
        CacheKey::new("data", &parts).to_string()
    }

    /// The validation loss of the values that are saved; `None` when nothing is held out.
    pub fn test(&mut self) -> Result<Option<f64>> {
        let Some(mut holdout) = self.holdout.take() else { return Ok(None) };
        let measure = || holdout.measure(&self.base, &self.objective, &self.backend);
        let measured = self.with_result(measure);
        self.holdout = Some(holdout);
        measured.map(Some)
    }

    /// Moments, counters and running means, as host tensors.
    pub fn optimizer_state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = learner::state(&self.learning.learners, self.backend.as_ref())?;
        if let Some(averages) = &self.averages {
            state.extend(averages.state(self.backend.as_ref())?);
        }
        Ok(state)
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let backend = self.backend.as_ref();
        checkpoint.restore(backend, &self.learning.kept())?;
        learner::restore(&mut self.learning.learners, backend, &checkpoint.optimizer)?;
        match &mut self.averages {
            Some(averages) => averages.restore(backend, &checkpoint.optimizer),
            None => Ok(()),
        }
    }

    /// Does `work` with the values that are saved: the running means, where there are any.
    pub fn with_result<R>(&self, work: impl FnOnce() -> R) -> R {
        match &self.averages {
            Some(averages) => averages.in_place(work),
            None => work(),
        }
    }

    /// Makes update number `done` (counted from 0). Loss or gradient that is no number is an error, and nothing
    /// has changed then.
    pub fn update(&mut self, done: u64, reporter: &dyn Reporter) -> Result<Update> {
        let accumulate = self.config.train.accumulate as u64;
        learner::focus(&self.learning.learners, done);
        let (mut gradients, mut loss, mut pictures) = (Gradients::default(), 0.0, Vec::new());
        for pass in done * accumulate..(done + 1) * accumulate {
            let batches = self.samples.micro_batches(&self.base, &self.objective, pass, reporter)?;
            for (group, batch) in batches.into_iter().enumerate() {
                let options = self.step_options(pass, group);
                let output =
                    step::run(&self.backend, &self.base.unet, &self.objective, &self.input(&batch), options)?;
                loss += output.loss;
                gradients.merge(self.backend.as_ref(), output.gradients)?;
                pictures.extend(batch.pictures);
            }
        }
        let not_finite =
            |what, value: f64, pictures| Err(TrainError::NotFinite { step: done + 1, what, value, pictures });
        if !loss.is_finite() {
            return not_finite("loss", loss, pictures);
        }
        let active = learner::active_params(&self.learning.learners, done);
        let backend = self.backend.as_ref();
        let grad_norm = global_norm(backend, &active, &gradients)?;
        if !grad_norm.is_finite() {
            return not_finite("gradient", grad_norm, pictures);
        }
        let scale = clip_factor(grad_norm, self.config.train.max_grad_norm);
        let learners = &mut self.learning.learners;
        let rates = learners.iter().map(|part| (part.name.clone(), part.rate(done))).collect();
        learner::apply(learners, backend, gradients, done, scale)?;
        self.learning.after_update(backend, done)?;
        if let Some(averages) = &mut self.averages {
            averages.add(backend)?;
        }
        Ok(Update { loss, grad_norm, rates })
    }

    /// What a step sees of a micro-batch.
    fn input<'a>(&'a self, batch: &'a MicroBatch) -> StepInput<'a> {
        let text = match &batch.states {
            Some(states) => Text::States(states),
            None => Text::Ids(&self.base.text_encoder, &batch.ids),
        };
        StepInput {
            input_noise: batch.input_noise.as_ref(),
            channels: batch.channels.as_ref(),
            weight: batch.weight.as_ref(),
            ..StepInput::new(&batch.latents, &batch.noise, &batch.timesteps, text, &batch.share)
        }
    }

    /// How a forward pass computes; `group` counts its micro-batches.
    pub fn step_options(&self, pass: u64, group: usize) -> StepOptions {
        let lora = &self.config.lora;
        let drops = lora.unet.dropout > 0.0 || lora.text_encoder.dropout > 0.0;
        let name = if group == 0 { "dropout".to_owned() } else { format!("dropout {group}") };
        let key = || DropoutKey(stream_at(self.config.train.seed, &name, pass).random64());
        StepOptions {
            dropout: drops.then(key),
            recompute: self.recompute,
            activations: Some(self.config.train.precision.dtype()),
        }
    }

    /// The adapter as it is now, with what there is to say about it.
    pub fn adapter(&self, step: u64) -> Result<Adapter> {
        let mut adapter = self.with_result(|| self.learning.adapter(self.backend.as_ref()))?;
        adapter.check_finite()?;
        adapter.metadata = metadata::describe(
            &self.config,
            &Facts {
                family: self.base.family,
                prediction: self.base.prediction,
                base_name: self.base.short_name(),
                step,
                pictures: self.samples.dataset().items.len(),
                round: self.samples.round_length() as usize,
                folders: self
                    .samples
                    .dataset()
                    .report
                    .concepts
                    .iter()
                    .map(|concept| (concept.name.clone(), concept.repeats, concept.pictures))
                    .collect(),
                class_pictures: self.samples.class_dataset().map_or(0, |dataset| dataset.items.len()),
                captions: self.samples.captions(),
            },
        )?;
        Ok(adapter)
    }
}

/// The dialect of a file format.
pub fn dialect_of(format: FileFormat) -> Result<&'static dyn Dialect> {
    dialect::by_name(format.name()).ok_or_else(|| TrainError::Mismatch {
        what: "`save.formats`".to_owned(),
        expected: "a dialect that can be written".to_owned(),
        found: format.to_string(),
    })
}

/// The number type of what is saved.
pub fn output_type(config: &TrainConfig) -> DType {
    match config.save.dtype {
        FileType::F16 => DType::F16,
        FileType::Bf16 => DType::BF16,
        FileType::F32 => DType::F32,
    }
}

/// How the adapter is written.
pub fn write_options(config: &TrainConfig, format: FileFormat) -> WriteOptions {
    let dtype = output_type(config);
    // Words are written as embeddings beside the adapter too, so a spelling without a place for them loses nothing.
    let tokens = match format {
        FileFormat::Peft => TokenPolicy::Omit,
        FileFormat::Kohya | FileFormat::Original => TokenPolicy::Bundle,
    };
    WriteOptions { dtype: Some(dtype), tokens, ..WriteOptions::default() }
}
