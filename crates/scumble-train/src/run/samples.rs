//! From visits to micro-batches: latents, noise, timesteps, texts and weights of the samples of one forward pass.
//!
//! ```text
//! latents = scaling factor * (mean + exp(logvar / 2) * N(0, 1))      mean, logvar: the VAE's, kept; the noise drawn anew
//! ```
//!
//! With prior preservation a pass has as many class samples behind its instance samples. The weight of a sample is
//! `timestep weight * (its own or the prior's weight) / (batch * accumulation)`. Pictures of different sizes can't stand in
//! one tensor: the samples of a pass come in a micro-batch for each size, whose gradients add up.

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_model::vae::Moments;
use scumble_tensor::rng::stream_at;
use scumble_tensor::{Backend, Tape, Tensor, Var};

use super::base::Base;
use super::batch::{MicroBatch, Sample, by_size, lacking};
use super::cache::{Entry, Kept};
use super::channels;
use super::event::{Event, Reporter};
use crate::config::{CacheMode, Holes, Inpaint, Mask, MaskLoss, TrainConfig};
use crate::data::{CacheKey, Dataset, Draw, Item, LatentCaching, Order, Role, gather, holes};
use crate::error::{Result, TrainError};
use crate::masks;
use crate::objective::Objective;
use crate::step::text_states;

/// Pictures in the order of their visits.
struct Pictures {
    dataset: Dataset,
    order: Order,
    role: Role,
}

/// All samples of a run.
pub struct Samples {
    instance: Pictures,
    class: Option<Pictures>,
    seed: u64,
    passes_an_update: usize,
    batch: usize,
    text_learns: bool,
    /// Several folders with terms of their own, which no setting of the run tells.
    several: bool,
    /// The rule for masks; `None` when no picture has one.
    mask: Option<Mask>,
    inpaint: Inpaint,
    encoder: Encoder,
}

/// What turns pictures and texts into numbers, and what is kept of it.
struct Encoder {
    backend: Arc<dyn Backend>,
    chunks: usize,
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
        let train = &config.train;
        let pictures = |dataset: Dataset, role| {
            let order = Order::of(train.seed, role, &dataset.items, train.batch);
            Pictures { dataset, order, role }
        };
        let instance = pictures(dataset, Role::Instance);
        let class = gather::classes(config)?.map(|dataset| pictures(dataset, Role::Class));
        let text_learns = config.text_learns();
        let items = || {
            let class = class.as_ref().map(|class| &class.dataset.items);
            instance.dataset.items.iter().chain(class.into_iter().flatten())
        };
        let wanted = |mode: CacheMode, possible: bool, reason: &str| {
            if mode != CacheMode::None && !possible {
                reporter.event(Event::Note(reason.to_owned()));
            }
            if possible { mode } else { CacheMode::None }
        };
        let impossible = |item: &Item| item.augmentation.latent_caching() == LatentCaching::Impossible;
        let reason = LatentCaching::Impossible.explanation();
        let latents_mode = wanted(config.cache.latents, !items().all(impossible), reason);
        if latents_mode != CacheMode::None {
            if items().any(impossible) {
                reporter
                    .event(Event::Note("latents of pictures with random crops are not cached".to_owned()));
            }
            if let Some(flipped) = items().find(|item| item.augmentation.flip && !impossible(item)) {
                let caching = flipped.augmentation.latent_caching();
                reporter.event(Event::Note(caching.explanation().to_owned()));
            }
        }
        let reason = if text_learns {
            "texts are not cached: the text encoder learns, so they change with each update"
        } else {
            "texts are not cached: their tags are shuffled or dropped anew at each visit"
        };
        let varies = instance.dataset.items.iter().any(|item| item.caption.tags.varies());
        let texts_mode = wanted(config.cache.texts, !text_learns && !varies, reason);
        let mask = items().any(|item| item.mask.is_some()).then(|| config.mask.clone());
        let folder = config.cache.folder.clone().unwrap_or_else(|| config.save.folder.join("cache"));
        Ok(Self {
            instance,
            class,
            seed: train.seed,
            passes_an_update: train.accumulate,
            batch: train.batch,
            text_learns,
            several: config.data.dataset.is_some(),
            mask,
            inpaint: config.inpaint.clone(),
            encoder: Encoder {
                backend: Arc::clone(backend),
                chunks: config.data.chunks(),
                latents: Kept::new(latents_mode, &folder)?,
                texts: Kept::new(texts_mode, &folder)?,
            },
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
                parts.push(item.sha256.clone());
                parts.extend(item.mask.as_ref().map(|mask| mask.identity().to_owned()));
                parts.extend(item.caption.texts().iter().cloned());
                parts.extend(self.several.then(|| item.terms()));
            }
            parts.push("end of the folder".to_owned());
        }
        CacheKey::new("data", &parts.iter().map(String::as_str).collect::<Vec<_>>()).to_string()
    }

    /// Computes everything that is kept before training begins. `stop` breaks it off.
    pub fn fill(&mut self, base: &Base, reporter: &dyn Reporter, stop: &dyn Fn() -> bool) -> Result<()> {
        let Self { instance, class, encoder, .. } = self;
        let (mut visits, mut texts) = (Vec::new(), Vec::new());
        for pictures in [Some(&*instance), class.as_ref()].into_iter().flatten() {
            for (index, item) in pictures.dataset.items.iter().enumerate() {
                let LatentCaching::Variants(variants) = item.augmentation.latent_caching() else { continue };
                visits.extend(variants.iter().map(|&flip| (&pictures.dataset, index, flip)));
            }
            let items = pictures.dataset.items.iter();
            texts.extend(items.flat_map(|item| item.caption.variants().unwrap_or_default()));
        }
        texts.sort();
        texts.dedup();
        if encoder.latents.keeps() {
            reporter.event(Event::Phase("encoding the pictures".to_owned()));
            for (done, &(dataset, item, flip)) in visits.iter().enumerate() {
                if stop() {
                    return Ok(());
                }
                let draw = Draw { visit: 0, item, anchor: [0.5; 2], flip, caption: 0.0 };
                encoder.moments(base, dataset, &draw, reporter)?;
                reporter.event(Event::Progress { done: done + 1, total: visits.len() });
            }
        }
        if encoder.texts.keeps() {
            reporter.event(Event::Phase("encoding the texts".to_owned()));
            for (done, text) in texts.iter().enumerate() {
                encoder.states(base, text, reporter)?;
                reporter.event(Event::Progress { done: done + 1, total: texts.len() });
            }
        }
        Ok(())
    }

    /// The samples of forward pass `pass`, counted from 0 over the whole run, a micro-batch for each size.
    pub fn micro_batches(
        &mut self,
        base: &Base,
        objective: &Objective,
        pass: u64,
        reporter: &dyn Reporter,
    ) -> Result<Vec<MicroBatch>> {
        let mut samples = Vec::new();
        let update = (self.batch * self.passes_an_update) as f64;
        for pictures in [Some(&self.instance), self.class.as_ref()].into_iter().flatten() {
            for draw in pictures.order.batch_at(pass) {
                let (mask, inpaint) = (self.mask.as_ref(), &self.inpaint);
                let visit = Visit { seed: self.seed, pictures, mask, inpaint, draw };
                let mut sample = visit.sample(base, objective, &mut self.encoder, reporter)?;
                sample.share = (f64::from(sample.share) / update) as f32;
                if !self.text_learns {
                    let text = visit.text()?;
                    sample.states = Some(self.encoder.states(base, &text, reporter)?);
                }
                samples.push(sample);
            }
        }
        by_size(samples, self.mask.as_ref().unwrap_or(&Mask::default()))
    }
}

/// One visit to a picture.
struct Visit<'a> {
    seed: u64,
    pictures: &'a Pictures,
    mask: Option<&'a Mask>,
    inpaint: &'a Inpaint,
    draw: Draw,
}

impl Visit<'_> {
    fn item(&self) -> Result<&Item> {
        self.pictures.dataset.items.get(self.draw.item).ok_or_else(|| lacking("a picture", "none"))
    }

    fn text(&self) -> Result<String> {
        let mut stream = self.pictures.order.text_stream(self.draw.visit);
        Ok(self.item()?.caption.at_visit(self.draw.caption, &mut stream))
    }

    /// What a base for inpainting sees of the visit, with a hole of its own.
    fn channels(&self, base: &Base, encoder: &Encoder) -> Result<Vec<f32>> {
        let Self { pictures: Pictures { dataset, role, .. }, draw, .. } = self;
        let (item, seed, visit) = (self.item()?, self.seed, draw.visit);
        let name = |name: &str| if *role == Role::Class { format!("class.{name}") } else { name.to_owned() };
        let picture = dataset.fitted(item, draw.anchor, draw.flip)?;
        let own = match self.inpaint.holes {
            Holes::Random => None,
            Holes::Mask => dataset.fitted_mask(item, draw.anchor, draw.flip)?,
        };
        let hole = own.unwrap_or_else(|| {
            let mut stream = stream_at(seed, &name("inpaint.hole"), visit);
            holes::random(&mut stream, picture.width, picture.height, self.inpaint.whole)
        });
        let posterior = |n| stream_at(seed, &name("inpaint.posterior"), visit).randn(n);
        channels::of(base, &encoder.backend, &picture, &hole, posterior)
    }

    /// Everything but the text states; `share` is the weight.
    fn sample(
        &self,
        base: &Base,
        objective: &Objective,
        encoder: &mut Encoder,
        reporter: &dyn Reporter,
    ) -> Result<Sample> {
        let Self { pictures: Pictures { dataset, role, .. }, draw, .. } = self;
        let moments = encoder.moments(base, dataset, draw, reporter)?;
        let (mean, logvar) = (field(&moments, "mean")?, field(&moments, "logvar")?);
        let &[1, h, w, c] = mean.dims() else {
            return Err(lacking("latents of one picture", mean.shape()));
        };
        let name = if *role == Role::Class { "class.posterior" } else { "posterior" };
        let fresh = stream_at(self.seed, name, draw.visit).randn(h * w * c);
        let moments = Moments { mean: mean.clone(), logvar: logvar.clone() };
        let latents = moments.sample(&Tensor::from_slice(&fresh, mean.dims())?)?;
        let factor = base.vae.scaling_factor();
        let noise = objective.draw(self.seed, *role, draw.visit, [h, w, c])?;
        let item = self.item()?;
        let mask = match self.mask {
            None => Vec::new(),
            Some(rule) => encoder.mask(dataset, draw, [h, w], rule.loss, reporter)?,
        };
        let weight = objective.timestep_weight(noise.timestep)? * item.weight;
        Ok(Sample {
            dims: [h, w, c],
            latents: latents.as_slice::<f32>()?.iter().map(|value| value * factor).collect(),
            channels: if base.is_inpainting() { self.channels(base, encoder)? } else { Vec::new() },
            mask,
            ids: base.chunked_ids(&self.text()?, encoder.chunks)?.to_vec()?,
            states: None,
            share: weight as f32,
            picture: item.file.clone(),
            noise,
        })
    }
}

impl Encoder {
    /// `mean` and `logvar` `[1, h, w, c]` of a visit's picture.
    fn moments(
        &mut self,
        base: &Base,
        dataset: &Dataset,
        draw: &Draw,
        reporter: &dyn Reporter,
    ) -> Result<Arc<Entry>> {
        let item = dataset.items.get(draw.item).ok_or_else(|| lacking("a picture", "none"))?;
        let backend = Arc::clone(&self.backend);
        let make = || {
            let picture = dataset.fitted(item, draw.anchor, draw.flip)?;
            let pixels =
                Tensor::from_slice(&picture.to_signed_unit(), &[1, picture.height, picture.width, 3])?;
            let tape = Tape::inference(Arc::clone(&backend));
            let Moments { mean, logvar } =
                base.vae.encode(&tape, &Var::constant(backend.upload(&pixels)?))?;
            let finite = |tensor: &Tensor| {
                Ok::<_, TrainError>(tensor.as_slice::<f32>()?.iter().all(|v| v.is_finite()))
            };
            if !finite(&mean)? || !finite(&logvar)? {
                return Err(TrainError::Latents { picture: item.path.clone() });
            }
            Ok(BTreeMap::from([("mean".to_owned(), mean), ("logvar".to_owned(), logvar)]))
        };
        match item.augmentation.random_crop {
            true => Ok(Arc::new(make()?)),
            false => self.latents.get(&dataset.latents_key(item, draw.flip, &base.vae_hash), reporter, make),
        }
    }

    /// What counts of a visit's picture, a number for each of the latents' `h * w` pixels.
    fn mask(
        &mut self,
        dataset: &Dataset,
        draw: &Draw,
        cells: [usize; 2],
        loss: MaskLoss,
        reporter: &dyn Reporter,
    ) -> Result<Vec<f32>> {
        let item = dataset.items.get(draw.item).ok_or_else(|| lacking("a picture", "none"))?;
        let Some(key) = dataset.mask_key(item, draw.flip) else {
            return Ok(vec![1.0; cells[0] * cells[1]]);
        };
        let size = [item.size.height(), item.size.width()];
        let make = || {
            let pixels = dataset.fitted_mask(item, draw.anchor, draw.flip)?.unwrap_or_default();
            Ok(BTreeMap::from([("mask".to_owned(), Tensor::from_slice(&pixels, &size)?)]))
        };
        let entry = match item.augmentation.random_crop {
            true => Arc::new(make()?),
            false => self.latents.get(&key, reporter, make)?,
        };
        let pixels = field(&entry, "mask")?.as_slice::<f32>()?;
        Ok(match loss {
            MaskLoss::Linear => masks::area(pixels, size, cells),
            MaskLoss::Original => masks::nearest(pixels, size, cells),
        })
    }

    /// States of a text `[1, 77, width]`, host; of long texts several times 77.
    fn states(&mut self, base: &Base, text: &str, reporter: &dyn Reporter) -> Result<Tensor> {
        let Self { backend, texts, chunks, .. } = self;
        let ids = base.chunked_ids(text, *chunks)?;
        let spelled: String = ids.as_slice::<i64>()?.iter().map(|id| format!("{id} ")).collect();
        let key = CacheKey::new("text", &[&spelled, &base.text_hash]);
        let entry = texts.get(&key, reporter, || {
            let tape = Tape::inference(Arc::clone(backend));
            let states = text_states(&tape, &base.text_encoder, &ids)?;
            Ok(BTreeMap::from([("states".to_owned(), backend.download(states.value())?)]))
        })?;
        field(&entry, "states").cloned()
    }
}

fn field<'e>(entry: &'e Entry, name: &str) -> Result<&'e Tensor> {
    entry.get(name).ok_or_else(|| lacking(&format!("`{name}`"), "nothing"))
}
