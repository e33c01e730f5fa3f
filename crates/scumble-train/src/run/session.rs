//! Everything that a run needs in memory: the base, the factors on it, the samples, the optimizer.

use std::sync::Arc;

use scumble_adapter::attach::{Attached, Towers};
use scumble_adapter::create::{Init, TrainableLora, fresh};
use scumble_adapter::dialect::{self, Dialect, WriteOptions};
use scumble_adapter::select::{Preset, Targets as Choice, TowerTargets};
use scumble_adapter::{Adapter, ModuleTable, Tower};
use scumble_model::schedule::PredictionType;
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Backend, DType, DropoutKey, Gradients, Param};

use super::base::Base;
use super::event::Reporter;
use super::samples::Samples;
use crate::checkpoint::Origin;
use crate::clip::{clip_factor, global_norm};
use crate::config::{FileFormat, FileType, Targets, TrainConfig};
use crate::data::Dataset;
use crate::error::{Result, TrainError};
use crate::lr_schedule::Schedule;
use crate::metadata::{self, Facts};
use crate::objective::Objective;
use crate::optimizer::{self, Group, Optimizer};
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
    /// The factors.
    pub lora: TrainableLora,
    /// What the factors are compared and noised by.
    pub objective: Objective,
    /// What they learn from.
    pub samples: Samples,
    /// Changes them.
    pub optimizer: Box<dyn Optimizer>,
    groups: Vec<Group>,
    schedule: Schedule,
    /// The branches on the base; they stay as long as the base.
    _attached: Vec<Attached>,
}

/// The numbers of an update.
pub struct Update {
    /// Weighted loss of all its samples.
    pub loss: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// The schedule's factor.
    pub factor: f64,
}

impl Session {
    /// Loads what the (resolved, checked) configuration names and puts fresh factors onto it.
    pub fn open(
        config: TrainConfig,
        backend: Arc<dyn Backend>,
        base: Base,
        dataset: Dataset,
        reporter: &dyn Reporter,
    ) -> Result<Self> {
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
        let adapter = fresh(&choice(&config), &table, Init::default(), config.train.seed)?;
        let lora = TrainableLora::new(&adapter, &table, backend.as_ref())?;
        let (unet, text) = (&config.lora.unet, &config.lora.text_encoder);
        let mut attached =
            vec![lora.attach(
                Towers { unet: Some(base.unet.modules()), text_encoder: None },
                unet.dropout as f32,
            )?];
        let group =
            |name: &str, lr, tower| Group { name: name.to_owned(), lr, params: lora.params_of(tower) };
        let mut groups = vec![group("unet", config.train.lr, Tower::UNet)];
        if text.train {
            let tower = Towers { unet: None, text_encoder: Some(base.text_encoder.modules()) };
            attached.push(lora.attach(tower, text.dropout as f32)?);
            groups.push(group("text_encoder", config.train.lr_text_encoder, Tower::TextEncoder));
        }
        let train = &config.train;
        let objective = Objective {
            schedule: base.schedule.clone(),
            prediction: base.prediction,
            min_snr_gamma: train.min_snr_gamma,
            noise_offset: train.noise_offset,
        };
        let schedule = Schedule {
            kind: train.schedule,
            warmup: train.warmup,
            steps: train.steps,
            cycles: train.cycles.unwrap_or(1.0),
            power: train.power,
            lr_end: 1e-7,
        };
        let samples = Samples::open(&config, dataset, &backend, reporter)?;
        let optimizer = optimizer::build(train);
        Ok(Self {
            backend,
            base,
            table,
            lora,
            objective,
            samples,
            optimizer,
            groups,
            schedule,
            _attached: attached,
            config,
        })
    }

    /// All parameters that learn.
    pub fn params(&self) -> Vec<Param> {
        self.groups.iter().flat_map(|group| group.params.iter().cloned()).collect()
    }

    /// What decides the course of this run.
    pub fn origin(&self) -> Result<Origin> {
        Ok(Origin {
            settings: self.config.deciding()?,
            data: self.samples.fingerprint(),
            base: self.base.hash.clone(),
        })
    }

    /// Learning rate of each group for a factor of the schedule.
    pub fn rates(&self, factor: f64) -> std::collections::BTreeMap<String, f64> {
        self.groups.iter().map(|group| (group.name.clone(), group.lr * factor)).collect()
    }

    /// Makes update number `done` (counted from 0). Loss or gradient that is no number is an error, and nothing
    /// has changed then.
    pub fn update(&mut self, done: u64, reporter: &dyn Reporter) -> Result<Update> {
        let accumulate = self.config.train.accumulate as u64;
        let (mut gradients, mut loss, mut pictures) = (Gradients::default(), 0.0, Vec::new());
        for pass in done * accumulate..(done + 1) * accumulate {
            let batch = self.samples.micro_batch(&self.base, &self.objective, pass, reporter)?;
            let text = match &batch.states {
                Some(states) => Text::States(states),
                None => Text::Ids(&self.base.text_encoder, &batch.ids),
            };
            let input = StepInput {
                latents: &batch.latents,
                noise: &batch.noise,
                timesteps: &batch.timesteps,
                text,
                share: &batch.share,
            };
            let output =
                step::run(&self.backend, &self.base.unet, &self.objective, &input, self.step_options(pass))?;
            loss += output.loss;
            gradients.merge(self.backend.as_ref(), output.gradients)?;
            pictures.extend(batch.pictures);
        }
        let not_finite =
            |what, value: f64, pictures| Err(TrainError::NotFinite { step: done + 1, what, value, pictures });
        if !loss.is_finite() {
            return not_finite("loss", loss, pictures);
        }
        let grad_norm = global_norm(self.backend.as_ref(), &self.params(), &gradients)?;
        if !grad_norm.is_finite() {
            return not_finite("gradient", grad_norm, pictures);
        }
        let factor = self.schedule.factor(done, self.config.train.lr);
        let scale = clip_factor(grad_norm, self.config.train.max_grad_norm);
        let (optimizer, backend) = (self.optimizer.as_mut(), self.backend.as_ref());
        optimizer::apply(optimizer, backend, &self.groups, gradients, factor, scale)?;
        Ok(Update { loss, grad_norm, factor })
    }

    /// How a forward pass computes.
    pub fn step_options(&self, pass: u64) -> StepOptions {
        let lora = &self.config.lora;
        let drops = lora.unet.dropout > 0.0 || lora.text_encoder.dropout > 0.0;
        let key = || DropoutKey(stream_at(self.config.train.seed, "dropout", pass).random64());
        StepOptions { dropout: drops.then(key), checkpointing: self.config.train.checkpointing }
    }

    /// The adapter as it is now, with what there is to say about it.
    pub fn adapter(&self, step: u64) -> Result<Adapter> {
        let mut adapter = self.lora.to_adapter(self.backend.as_ref())?;
        adapter.check_finite()?;
        adapter.metadata = metadata::describe(
            &self.config,
            &Facts {
                family: self.base.family,
                prediction: self.base.prediction,
                base_name: self.base.short_name(),
                step,
                pictures: self.samples.dataset().items.len(),
                class_pictures: self.samples.class_dataset().map_or(0, |dataset| dataset.items.len()),
                captions: self.samples.captions(),
            },
        )?;
        Ok(adapter)
    }
}

/// Which modules get factors.
pub fn choice(config: &TrainConfig) -> Choice {
    let preset = |targets| match targets {
        Targets::Attention => Preset::Attention,
        Targets::AttentionFf => Preset::AttentionFf,
        Targets::AllLinear => Preset::AllLinear,
        Targets::All => Preset::All,
    };
    let lora = &config.lora;
    let tower = |tower, targets, rank: usize, alpha: Option<f64>| TowerTargets {
        tower,
        preset: preset(targets),
        rank,
        alpha: alpha.unwrap_or(rank as f64) as f32,
    };
    let mut towers = vec![tower(Tower::UNet, lora.unet.targets, lora.unet.rank, lora.unet.alpha)];
    let text = &lora.text_encoder;
    if text.train {
        towers.push(tower(Tower::TextEncoder, text.targets, text.rank, text.alpha));
    }
    Choice { towers, include: lora.include.clone(), exclude: lora.exclude.clone() }
}

/// The dialect of a file format.
pub fn dialect_of(format: FileFormat) -> Result<&'static dyn Dialect> {
    dialect::by_name(format.name()).ok_or_else(|| TrainError::Mismatch {
        what: "`save.formats`".to_owned(),
        expected: "a dialect that can be written".to_owned(),
        found: format.to_string(),
    })
}

/// How the adapter is written.
pub fn write_options(config: &TrainConfig) -> WriteOptions {
    let dtype = match config.save.dtype {
        FileType::F16 => DType::F16,
        FileType::Bf16 => DType::BF16,
        FileType::F32 => DType::F32,
    };
    WriteOptions { dtype: Some(dtype), ..WriteOptions::default() }
}
