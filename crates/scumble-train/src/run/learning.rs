//! What learns in a run: factors on the base, rows of new words, whole weights; each part with its own terms.

use std::collections::BTreeMap;

use scumble_adapter::ModuleTable;
use scumble_adapter::attach::{Attached, Towers};
use scumble_adapter::create::{Init, Kind, KroneckerOptions, TrainableLora, fresh_on};
use scumble_adapter::select::{Preset, Targets as Choice, TowerTargets};
use scumble_adapter::{Adapter, Tower};
use scumble_tensor::{Backend, Param};

use super::base::Base;
use super::rates::{self, Rates};
use crate::config::{AdapterInit, AdapterKind, Part, Targets, TrainConfig};
use crate::error::Result;
use crate::lr_schedule::Schedule;
use crate::optimizer::{self, Learner, PerParameter};
use crate::tokens::LearnedTokens;

/// See the module's text.
pub struct Learning {
    /// Factors, unless words alone or whole weights learn.
    pub lora: Option<TrainableLora>,
    /// New words.
    pub tokens: Option<LearnedTokens>,
    /// The parts that are updated.
    pub learners: Vec<Learner>,
    /// The branches on the base; they stay as long as the base.
    _attached: Vec<Attached>,
}

impl Learning {
    /// Puts fresh factors and new words onto the base, or frees its weights, as the (resolved, checked) configuration says.
    pub fn open(
        config: &TrainConfig,
        base: &mut Base,
        table: &ModuleTable,
        backend: &dyn Backend,
    ) -> Result<Self> {
        let tokens = if config.learns(Part::Tokens) {
            let (seed, tokenizer) = (config.train.seed, &mut base.tokenizer);
            Some(LearnedTokens::add(&config.tokens, seed, tokenizer, &base.text_encoder, backend)?)
        } else {
            None
        };
        let (mut lora, mut attached) = (None, Vec::new());
        if config.has_factors() {
            let kind = kind(config);
            let adapter = fresh_on(&choice(config), base.towers(), kind, config.train.seed, backend)?;
            let mut factors = TrainableLora::new(&adapter, table, backend)?;
            if kind == Kind::LowRank(Init::Principal) {
                factors = factors.counted_from_start()?;
            }
            let dropout = &config.lora;
            let towers = Towers { unet: Some(base.unet.modules()), text_encoder: None };
            attached.push(factors.attach(towers, dropout.unet.dropout as f32, backend)?);
            if config.learns(Part::TextEncoder) {
                let towers = Towers { unet: None, text_encoder: Some(base.text_encoder.modules()) };
                attached.push(factors.attach(towers, dropout.text_encoder.dropout as f32, backend)?);
            }
            lora = Some(factors);
        }
        let rates = Rates::new(config, table)?;
        let (mut learners, mut counts) = (Vec::new(), (0, 0));
        for part in Part::ALL.into_iter().filter(|&part| config.learns(part)) {
            let params = match (part, &lora, &tokens) {
                (Part::Tokens, _, Some(tokens)) => vec![tokens.rows().clone()],
                (Part::Unet, Some(lora), _) => lora.params_of(Tower::UNet),
                (Part::TextEncoder, Some(lora), _) => lora.params_of(Tower::TextEncoder),
                (Part::Unet, None, _) => base.unet.params().to_vec(),
                (Part::TextEncoder, None, _) => base.text_encoder.params().to_vec(),
                (Part::Tokens, _, None) => Vec::new(),
            };
            let (params, factors) = rates.sort(part, params);
            if part != Part::Tokens {
                counts = (counts.0 + params.len(), counts.1 + factors.len());
            }
            learners.push(learner(config, part, params, factors));
        }
        rates::check(config, counts.0, counts.1)?;
        if let (Some(tokens), Some(rate)) = (&tokens, config.tokens.continue_lr) {
            learners.push(continued(config, tokens, rate));
        }
        Ok(Self { lora, tokens, learners, _attached: attached })
    }

    /// All parameters that learn.
    pub fn params(&self) -> Vec<Param> {
        optimizer::learner::all_params(&self.learners)
    }

    /// Layers with factors.
    pub fn modules(&self) -> usize {
        self.lora.as_ref().map_or(0, |lora| lora.modules().count())
    }

    /// Everything that a checkpoint must hold: what learns, and the frozen starts that changes count from.
    pub fn kept(&self) -> Vec<Param> {
        let starts = self.lora.as_ref().map(TrainableLora::starts).unwrap_or_default();
        self.params().into_iter().chain(starts).collect()
    }

    /// Factors and words as they are now; nothing when whole weights learn.
    pub fn adapter(&self, backend: &dyn Backend) -> Result<Adapter> {
        let mut adapter = match &self.lora {
            Some(lora) => lora.to_adapter(backend)?,
            None => Adapter::default(),
        };
        if let Some(tokens) = &self.tokens {
            adapter.tokens = tokens.by_word(backend)?;
        }
        Ok(adapter)
    }

    /// What follows each update `done`: the norm prior of new words that have just been changed.
    pub fn after_update(&self, backend: &dyn Backend, done: u64) -> Result<()> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let of_tokens = |learner: &&Learner| learner.params.iter().any(|p| p.id() == tokens.rows().id());
        let active = self.learners.iter().filter(of_tokens).find(|learner| learner.is_active(done));
        match active {
            Some(learner) => tokens.after_update(backend, learner.effective_rate(done)),
            None => Ok(()),
        }
    }
}

fn learner(config: &TrainConfig, part: Part, params: Vec<Param>, factors: BTreeMap<String, f64>) -> Learner {
    let (start, stop) = config.span(part);
    let optimizer = optimizer::build(&config.train, config.decay(part));
    Learner {
        name: part.name().to_owned(),
        lr: config.rate(part),
        schedule: config.schedule(part, stop - start),
        start,
        stop,
        params,
        optimizer: match factors.is_empty() {
            true => optimizer,
            false => Box::new(PerParameter::new(optimizer, factors)),
        },
    }
}

/// The new words after their window, at a rate of their own.
fn continued(config: &TrainConfig, tokens: &LearnedTokens, rate: f64) -> Learner {
    let (start, stop) = (config.span(Part::Tokens).1, config.train.steps);
    Learner {
        name: "tokens_continued".to_owned(),
        lr: rate,
        schedule: Schedule { warmup: 0, ..config.schedule(Part::Tokens, stop - start) },
        start,
        stop,
        params: vec![tokens.rows().clone()],
        optimizer: optimizer::build(&config.train, config.decay(Part::Tokens)),
    }
}

/// What each of them gets.
fn kind(config: &TrainConfig) -> Kind {
    let lora = &config.lora;
    let init = match lora.init {
        AdapterInit::Normal => Init::Normal,
        AdapterInit::Kaiming => Init::Kaiming,
        AdapterInit::Orthogonal => Init::Orthogonal,
        AdapterInit::Pissa => Init::Principal,
    };
    match lora.kind {
        AdapterKind::Lora => Kind::LowRank(init),
        AdapterKind::Dora => Kind::Decomposed(init),
        AdapterKind::Loha => Kind::Hadamard,
        AdapterKind::Lokr => Kind::Kronecker(KroneckerOptions {
            factor: lora.lokr_factor,
            whole: lora.lokr_whole,
            both: lora.lokr_both,
        }),
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
    // In memory and in files the scale is alpha / rank: alpha / sqrt(rank) is that of alpha * sqrt(rank).
    let alpha = |rank: usize, alpha: Option<f64>| {
        let alpha = alpha.unwrap_or(rank as f64);
        (if lora.rank_stabilized { alpha * (rank as f64).sqrt() } else { alpha }) as f32
    };
    let tower = |tower, targets, rank: usize, written: Option<f64>| {
        TowerTargets::new(tower, preset(targets), rank, alpha(rank, written))
    };
    let mut unet = tower(Tower::UNet, lora.unet.targets, lora.unet.rank, lora.unet.alpha);
    unet.conv = lora.unet.conv_rank.map(|rank| (rank, alpha(rank, lora.unet.conv_alpha)));
    let mut towers = vec![unet];
    let text = &lora.text_encoder;
    if text.train {
        towers.push(tower(Tower::TextEncoder, text.targets, text.rank, text.alpha));
    }
    Choice { towers, include: lora.include.clone(), exclude: lora.exclude.clone() }
}
