//! From visits to micro-batches: latents, noise, timesteps, texts and weights of the samples of one forward pass.
//!
//! ```text
//! latents = scaling factor * (mean + exp(logvar / 2) * N(0, 1))      mean, logvar: the VAE's, kept; the noise drawn anew
//! ```
//!
//! With prior preservation a pass has as many class samples behind its instance samples. The weight of a sample is
//! `timestep weight * (1 or prior weight) / (batch * accumulation)`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use scumble_model::vae::Moments;
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Backend, Tape, Tensor, Var};

use super::base::Base;
use super::cache::{Entry, Kept};
use super::event::{Event, Reporter};
use crate::config::{CacheMode, Crop, TrainConfig};
use crate::data::{
    Augmentation, CacheKey, CaptionRules, Dataset, DatasetOptions, Draw, LatentCaching, Order, Role,
};
use crate::error::{Result, TrainError};
use crate::objective::Objective;
use crate::picture::{DecodeOptions, TargetSize};

/// Where the class pictures are.
pub fn class_folder(config: &TrainConfig) -> Option<PathBuf> {
    let prompt = config.data.class_prompt.as_ref()?;
    let word = |c: char| if c.is_alphanumeric() { c } else { '-' };
    let name: String = prompt.chars().take(80).map(word).collect();
    Some(
        config
            .data
            .class_folder
            .clone()
            .unwrap_or_else(|| config.save.folder.join("class-pictures").join(name)),
    )
}

/// How folders are read.
pub fn dataset_options(config: &TrainConfig) -> Result<DatasetOptions> {
    let data = &config.data;
    Ok(DatasetOptions {
        captions: CaptionRules {
            source: data.captions,
            prompt: data.prompt.clone(),
            trigger: config.trigger(),
            template: data.template,
        },
        unreadable: data.unreadable,
        decode: DecodeOptions::default(),
        size: TargetSize::new(data.width, data.height)?,
    })
}

/// Pictures in the order of their visits.
struct Pictures {
    dataset: Dataset,
    order: Order,
    role: Role,
    prior_weight: f64,
}

/// What one forward pass is made of; host tensors, channels-last.
pub struct MicroBatch {
    /// Scaled latents `[n, h, w, c]`.
    pub latents: Tensor,
    /// As `latents`.
    pub noise: Tensor,
    /// One each.
    pub timesteps: Vec<i64>,
    /// Token ids `[n, 77]`.
    pub ids: Tensor,
    /// Text states `[n, 77, width]`, when the text encoder does not learn.
    pub states: Option<Tensor>,
    /// Weight of each sample's loss.
    pub share: Vec<f32>,
    /// File names, for messages.
    pub pictures: Vec<String>,
}

/// All samples of a run.
pub struct Samples {
    backend: Arc<dyn Backend>,
    instance: Pictures,
    class: Option<Pictures>,
    seed: u64,
    passes_an_update: usize,
    batch: usize,
    text_learns: bool,
    caching: LatentCaching,
    latents: Kept,
    texts: Kept,
}

impl Samples {
    /// Puts the pictures to learn from and the class pictures in order. Class pictures that are missing must have been
    /// painted before, or are left out here.
    pub fn open(
        config: &TrainConfig,
        dataset: Dataset,
        backend: &Arc<dyn Backend>,
        reporter: &dyn Reporter,
    ) -> Result<Self> {
        let options = dataset_options(config)?;
        let (data, train) = (&config.data, &config.train);
        let augmentation = Augmentation { random_crop: data.crop == Crop::Random, flip: data.flip };
        let pictures = |dataset: Dataset, role, repeats, prior_weight| {
            let order = Order::new(train.seed, role, dataset.items.len(), repeats, train.batch, augmentation);
            Pictures { dataset, order, role, prior_weight }
        };
        let instance = pictures(dataset, Role::Instance, data.repeats, 1.0);
        let class = match (class_folder(config), &data.class_prompt) {
            (Some(folder), Some(prompt)) => {
                let dataset = Dataset::open_class(&folder, prompt, &options)?;
                Some(pictures(dataset, Role::Class, 1, data.prior_weight))
            }
            _ => None,
        };
        let text_learns = config.text_learns();
        let caching = augmentation.latent_caching();
        let wanted = |mode: CacheMode, possible: bool, reason: &str| {
            if mode != CacheMode::None && !possible {
                reporter.event(Event::Note(reason.to_owned()));
            }
            if possible { mode } else { CacheMode::None }
        };
        let latents_mode =
            wanted(config.cache.latents, caching != LatentCaching::Impossible, caching.explanation());
        if latents_mode != CacheMode::None && data.flip {
            reporter.event(Event::Note(caching.explanation().to_owned()));
        }
        let reason = "texts are not cached: the text encoder learns, so they change with each update";
        let texts_mode = wanted(config.cache.texts, !text_learns, reason);
        let folder = config.cache.folder.clone().unwrap_or_else(|| config.save.folder.join("cache"));
        Ok(Self {
            backend: Arc::clone(backend),
            instance,
            class,
            seed: train.seed,
            passes_an_update: train.accumulate,
            batch: train.batch,
            text_learns,
            caching,
            latents: Kept::new(latents_mode, &folder)?,
            texts: Kept::new(texts_mode, &folder)?,
        })
    }

    /// The pictures to learn from.
    pub fn dataset(&self) -> &Dataset {
        &self.instance.dataset
    }

    /// The class pictures, with prior preservation.
    pub fn class_dataset(&self) -> Option<&Dataset> {
        self.class.as_ref().map(|class| &class.dataset)
    }

    /// Visits in a round through the pictures.
    pub fn round_length(&self) -> u64 {
        self.instance.order.round_length()
    }

    /// How often each text occurs in a round through the pictures (each of a template's sentences once).
    pub fn captions(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for item in &self.instance.dataset.items {
            for text in item.caption.texts() {
                *all.entry(text.clone()).or_default() += 1;
            }
        }
        all
    }

    /// Hash of all pictures and texts, in order.
    pub fn fingerprint(&self) -> String {
        let mut parts = Vec::new();
        for pictures in [Some(&self.instance), self.class.as_ref()].into_iter().flatten() {
            for item in &pictures.dataset.items {
                parts.push(item.sha256.as_str());
                parts.extend(item.caption.texts().iter().map(String::as_str));
            }
            parts.push("end of the folder");
        }
        CacheKey::new("data", &parts).to_string()
    }

    /// Computes everything that is kept before training begins. `stop` breaks it off.
    pub fn fill(&mut self, base: &Base, reporter: &dyn Reporter, stop: &dyn Fn() -> bool) -> Result<()> {
        let all = [Some(&self.instance), self.class.as_ref()];
        let mut visits = Vec::new();
        let mut texts: Vec<String> = Vec::new();
        for pictures in all.into_iter().flatten() {
            let variants = match self.caching {
                LatentCaching::Variants(variants) => variants,
                LatentCaching::Impossible => &[],
            };
            for (item, picture) in pictures.dataset.items.iter().enumerate() {
                visits.extend(variants.iter().map(|&flip| (pictures.role, item, flip)));
                texts.extend(picture.caption.texts().iter().cloned());
            }
        }
        texts.sort();
        texts.dedup();
        if self.latents.keeps() {
            reporter.event(Event::Phase("encoding the pictures".to_owned()));
            for (done, &(role, item, flip)) in visits.iter().enumerate() {
                if stop() {
                    return Ok(());
                }
                let draw = Draw { visit: 0, item, anchor: [0.5; 2], flip, caption: 0.0 };
                self.moments(base, role, &draw, reporter)?;
                reporter.event(Event::Progress { done: done + 1, total: visits.len() });
            }
        }
        if self.texts.keeps() {
            reporter.event(Event::Phase("encoding the texts".to_owned()));
            for (done, text) in texts.iter().enumerate() {
                self.states(base, text, reporter)?;
                reporter.event(Event::Progress { done: done + 1, total: texts.len() });
            }
        }
        Ok(())
    }

    /// The samples of forward pass `pass`, counted from 0 over the whole run.
    pub fn micro_batch(
        &mut self,
        base: &Base,
        objective: &Objective,
        pass: u64,
        reporter: &dyn Reporter,
    ) -> Result<MicroBatch> {
        let mut batch = Parts::default();
        let update = (self.batch * self.passes_an_update) as f64;
        let roles = [Role::Instance].into_iter().chain(self.class.as_ref().map(|_| Role::Class));
        for role in roles.collect::<Vec<_>>() {
            let pictures = self.pictures(role);
            let (draws, prior_weight) = (pictures.order.batch_at(pass), pictures.prior_weight);
            for draw in draws {
                let moments = self.moments(base, role, &draw, reporter)?;
                let (mean, logvar) = (field(&moments, "mean")?, field(&moments, "logvar")?);
                let &[1, h, w, c] = mean.dims() else {
                    return Err(lacking("latents of one picture", mean.shape()));
                };
                let name = if role == Role::Class { "class.posterior" } else { "posterior" };
                let fresh = stream_at(self.seed, name, draw.visit).randn(h * w * c);
                let moments = Moments { mean: mean.clone(), logvar: logvar.clone() };
                let latents = moments.sample(&Tensor::from_slice(&fresh, mean.dims())?)?;
                let factor = base.vae.scaling_factor();
                batch.latents.extend(latents.as_slice::<f32>()?.iter().map(|value| value * factor));
                let (timestep, noise) = objective.draw(self.seed, role, draw.visit, [h, w, c])?;
                batch.noise.extend(noise);
                batch.timesteps.push(timestep);
                let weight = objective.timestep_weight(timestep)? * prior_weight;
                batch.share.push((weight / update) as f32);
                batch.dims = [h, w, c];
                let item = self.item(role, &draw)?;
                batch.pictures.push(item.file.clone());
                let caption = item.caption.choose(draw.caption).to_owned();
                let ids = base.ids(&caption)?;
                batch.tokens = ids.numel();
                batch.ids.extend(ids.as_slice::<i64>()?);
                if !self.text_learns {
                    batch.states.push(self.states(base, &caption, reporter)?);
                }
            }
        }
        batch.assemble()
    }

    fn pictures(&self, role: Role) -> &Pictures {
        match (&self.class, role) {
            (Some(class), Role::Class) => class,
            _ => &self.instance,
        }
    }

    fn item(&self, role: Role, draw: &Draw) -> Result<&crate::data::Item> {
        let items = &self.pictures(role).dataset.items;
        items.get(draw.item).ok_or_else(|| lacking("a picture", "none"))
    }

    /// `mean` and `logvar` `[1, h, w, c]` of a visit's picture.
    fn moments(
        &mut self,
        base: &Base,
        role: Role,
        draw: &Draw,
        reporter: &dyn Reporter,
    ) -> Result<Arc<Entry>> {
        let Self { backend, instance, class, latents, .. } = self;
        let dataset = match (class, role) {
            (Some(class), Role::Class) => &class.dataset,
            _ => &instance.dataset,
        };
        let item = dataset.items.get(draw.item).ok_or_else(|| lacking("a picture", "none"))?;
        let key = dataset.latents_key(item, draw.flip, &base.vae_hash);
        latents.get(&key, reporter, || {
            let picture = dataset.fitted(item, draw.anchor, draw.flip)?;
            let pixels =
                Tensor::from_slice(&picture.to_signed_unit(), &[1, picture.height, picture.width, 3])?;
            let tape = Tape::inference(Arc::clone(backend));
            let Moments { mean, logvar } =
                base.vae.encode(&tape, &Var::constant(backend.upload(&pixels)?))?;
            let finite = |tensor: &Tensor| {
                Ok::<_, TrainError>(tensor.as_slice::<f32>()?.iter().all(|v| v.is_finite()))
            };
            if !finite(&mean)? || !finite(&logvar)? {
                return Err(TrainError::Latents { picture: item.path.clone() });
            }
            Ok(BTreeMap::from([("mean".to_owned(), mean), ("logvar".to_owned(), logvar)]))
        })
    }

    /// States of a text `[1, 77, width]`, host.
    fn states(&mut self, base: &Base, text: &str, reporter: &dyn Reporter) -> Result<Tensor> {
        let Self { backend, texts, .. } = self;
        let ids = base.ids(text)?;
        let spelled: String = ids.as_slice::<i64>()?.iter().map(|id| format!("{id} ")).collect();
        let key = CacheKey::new("text", &[&spelled, &base.text_hash]);
        let entry = texts.get(&key, reporter, || {
            let tape = Tape::inference(Arc::clone(backend));
            let states = base.text_encoder.states(&tape, &ids, 0)?;
            Ok(BTreeMap::from([("states".to_owned(), backend.download(states.value())?)]))
        })?;
        field(&entry, "states").cloned()
    }
}

fn lacking(expected: &str, found: impl std::fmt::Display) -> TrainError {
    TrainError::Mismatch {
        what: "a training sample".to_owned(),
        expected: expected.to_owned(),
        found: found.to_string(),
    }
}

fn field<'e>(entry: &'e Entry, name: &str) -> Result<&'e Tensor> {
    entry.get(name).ok_or_else(|| lacking(&format!("`{name}`"), "nothing"))
}

/// A micro-batch under construction.
#[derive(Default)]
struct Parts {
    latents: Vec<f32>,
    noise: Vec<f32>,
    timesteps: Vec<i64>,
    ids: Vec<i64>,
    states: Vec<Tensor>,
    share: Vec<f32>,
    pictures: Vec<String>,
    dims: [usize; 3],
    tokens: usize,
}

impl Parts {
    fn assemble(self) -> Result<MicroBatch> {
        let n = self.timesteps.len();
        let [h, w, c] = self.dims;
        let states = match self.states.first() {
            None => None,
            Some(first) => {
                let mut bytes = Vec::with_capacity(n * first.bytes()?.len());
                for states in &self.states {
                    bytes.extend_from_slice(states.bytes()?);
                }
                let dims = [&[n], &first.dims()[1..]].concat();
                Some(Tensor::from_bytes(first.dtype(), &bytes, &dims)?)
            }
        };
        Ok(MicroBatch {
            latents: Tensor::from_slice(&self.latents, &[n, h, w, c])?,
            noise: Tensor::from_slice(&self.noise, &[n, h, w, c])?,
            timesteps: self.timesteps,
            ids: Tensor::from_slice(&self.ids, &[n, self.tokens])?,
            states,
            share: self.share,
            pictures: self.pictures,
        })
    }
}
