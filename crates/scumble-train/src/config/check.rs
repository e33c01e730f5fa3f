//! Values that can't work are refused before anything is loaded, each with its key and what to write instead.
//!
//! What only the files can tell (an empty folder, a rank beyond a layer's width) is the preflight's business.

use super::{CaptionSource, Data, Method, OptimizerKind, Part, Template, Tokens, Train, TrainConfig};
use crate::error::{Result, TrainError};
use crate::run::folder::RUN_FILES;

pub(super) fn refuse<T>(
    key: &str,
    value: impl std::fmt::Display,
    problem: &str,
    hint: impl Into<String>,
) -> Result<T> {
    Err(TrainError::Setting {
        key: key.to_owned(),
        value: value.to_string(),
        problem: problem.to_owned(),
        hint: hint.into(),
    })
}

pub(super) fn at_least_one(key: &str, value: u64) -> Result<()> {
    if value == 0 {
        refuse(key, value, "must be at least 1", format!("set `{key}` to 1 or more"))
    } else {
        Ok(())
    }
}

pub(super) fn number(key: &str, value: f64, fits: impl Fn(f64) -> bool, range: &str) -> Result<()> {
    if value.is_finite() && fits(value) {
        return Ok(());
    }
    refuse(key, value, &format!("must be {range}"), format!("set `{key}` to a number that is {range}"))
}

impl TrainConfig {
    /// Errors at the first setting that can't work.
    pub fn check(&self) -> Result<()> {
        if self.base.model.trim().is_empty() {
            let hint = "pass a diffusers folder, a .safetensors or .ckpt file, or a Hub name with `--base`";
            return refuse("base.model", "\"\"", "no base model is given", hint);
        }
        check_data(&self.data, !self.tokens.add.is_empty())?;
        self.check_method()?;
        check_tokens(&self.tokens)?;
        let text = &self.lora.text_encoder;
        let unet = &self.lora.unet;
        check_tower("lora.unet", unet.rank, unet.alpha, unet.dropout)?;
        check_tower("lora.text_encoder", text.rank, text.alpha, text.dropout)?;
        check_train(&self.train)?;
        self.check_adapter()?;
        self.check_objective()?;
        self.holdout.check()?;
        self.inpaint.check(&self.mask, self.data.dataset.is_some())?;
        self.mask.check(self.data.dataset.is_some())?;
        self.check_windows()?;
        self.check_prodigy()?;
        self.check_save()?;
        self.check_validate()?;
        self.check_unheard()
    }

    /// Refuses new words that the method lacks or can't learn, `full.text_encoder` and `lora.text_encoder.train` with
    /// methods that they are not for, and a second rate for words that learn to the end.
    fn check_method(&self) -> Result<()> {
        let (method, words) = (self.method, !self.tokens.add.is_empty());
        let needs_words =
            matches!(method, Method::TextualInversion | Method::Pivotal | Method::PivotalSingle);
        if needs_words && !words {
            return refuse("method", method, "needs new words", "name them with `--token`, such as `<s1>`");
        }
        if method == Method::Full && words {
            let hint = "use method `textual-inversion` or `pivotal` for new words";
            return refuse("tokens.add", "[...]", "whole-weight training has no new words", hint);
        }
        let factors = !matches!(method, Method::Full | Method::TextualInversion);
        if self.full.text_encoder && method != Method::Full {
            let hint = "use `lora.text_encoder.train`, or method `full`";
            return refuse("full.text_encoder", true, "is for method `full`", hint);
        }
        if !factors && (self.lora.text_encoder.train && self.kind.is_none()) {
            let problem = format!("method `{method}` has no factors");
            let hint = "use `full.text_encoder` with method `full`, or method `pivotal`";
            return refuse("lora.text_encoder.train", true, &problem, hint);
        }
        if self.tokens.continue_lr.is_some() && self.span(Part::Tokens).1 >= self.train.steps {
            let problem = "the words learn to the end already";
            return refuse("tokens.continue_lr", "...", problem, "set `learn.tokens.stop` or delete it");
        }
        Ok(())
    }

    /// Prodigy multiplies its own estimate with the rate: one that is meant for AdamW would stop it.
    fn check_prodigy(&self) -> Result<()> {
        if self.train.optimizer != OptimizerKind::Prodigy {
            return Ok(());
        }
        let parts = Part::ALL.into_iter().filter(|&part| self.learns(part)).map(|part| {
            let key = match part {
                Part::Unet => "train.lr",
                Part::TextEncoder => "train.lr_text_encoder",
                Part::Tokens => "train.lr_tokens",
            };
            (key, self.rate(part))
        });
        for (key, rate) in parts.chain(self.tokens.continue_lr.map(|rate| ("tokens.continue_lr", rate))) {
            if rate < 0.1 {
                let problem = "prodigy finds the rate itself; this number is a factor of it";
                return refuse(key, rate, problem, format!("set `{key}` to 1"));
            }
        }
        Ok(())
    }

    fn check_save(&self) -> Result<()> {
        let name = self.save.name.as_str();
        let plain = !name.is_empty()
            && name.len() <= 100
            && !name.starts_with(['.', ' '])
            && !name.ends_with(['.', ' '])
            && !name.chars().any(|c| c.is_control() || r#"/\:*?"<>|"#.contains(c));
        if !plain {
            let hint = "use letters, digits, `-`, `_` and single dots";
            return refuse("save.name", format!("{name:?}"), "can't be a file name everywhere", hint);
        }
        let own = RUN_FILES.iter().find(|own| own.eq_ignore_ascii_case(name));
        if let (Method::Full, Some(own)) = (self.method, own) {
            let problem = format!("the model's folder would take the place of the run's own `{own}`");
            return refuse("save.name", format!("{name:?}"), &problem, "choose another name");
        }
        if self.save.formats.is_empty() {
            return refuse(
                "save.formats",
                "[]",
                "no file would be written",
                "choose kohya, peft or original",
            );
        }
        if self.save.formats.iter().enumerate().any(|(i, f)| self.save.formats[..i].contains(f)) {
            return refuse("save.formats", "[...]", "names a format twice", "name each format once");
        }
        Ok(())
    }

    fn check_validate(&self) -> Result<()> {
        let validate = &self.validate;
        at_least_one("validate.steps", validate.steps as u64)?;
        if validate.steps > 1000 {
            return refuse(
                "validate.steps",
                validate.steps,
                "must be at most 1000",
                "20 to 50 steps are usual",
            );
        }
        number("validate.guidance", validate.guidance, |g| (0.0..=100.0).contains(&g), "between 0 and 100")
    }
}

fn check_tokens(tokens: &Tokens) -> Result<()> {
    if tokens.add.is_empty() {
        if *tokens != Tokens::default() {
            let hint = "name the new words with `--token`, such as `<s1>`";
            return refuse("tokens.add", "[]", "other settings of `[tokens]` are there but no word is", hint);
        }
        return Ok(());
    }
    if let Some(word) = tokens.add.iter().find(|word| word.trim().is_empty() || word.trim() != *word) {
        return refuse("tokens.add", format!("{word:?}"), "is no word", "write a word such as `<s1>`");
    }
    if tokens.init.len() > 1 && tokens.init.len() != tokens.add.len() {
        let problem = format!("there are {} starts for {} words", tokens.init.len(), tokens.add.len());
        return refuse("tokens.init", "[...]", &problem, "give one for all or one for each word");
    }
    at_least_one("tokens.vectors", tokens.vectors as u64)?;
    if tokens.add.len() * tokens.vectors > 64 {
        let problem = "takes more than 64 of the 75 places of a prompt";
        return refuse("tokens.vectors", tokens.vectors, problem, "1 to 8 are usual");
    }
    if let Some(norm) = tokens.norm {
        number("tokens.norm", norm, |norm| norm > 0.0, "above 0; 0.4 is usual")?;
        if !tokens.norm_prior {
            return refuse("tokens.norm", norm, "is not used without `tokens.norm_prior`", "delete it");
        }
    }
    if let Some(rate) = tokens.continue_lr {
        number("tokens.continue_lr", rate, |rate| (0.0..=1e3).contains(&rate), "0 or more and not absurd")?;
    }
    tokens.check_starts()
}

fn check_data(data: &Data, new_words: bool) -> Result<()> {
    match (&data.dataset, data.folder.as_os_str().is_empty()) {
        (None, true) => {
            let hint = "pass it with `--images`, or a dataset file with `--dataset`";
            return refuse("data.folder", "\"\"", "no folder of pictures is given", hint);
        }
        (Some(_), false) => {
            let hint = "give one of `data.folder` and `data.dataset`; a dataset file can name the folder too";
            return refuse("data.dataset", "...", "and `data.folder` are both given", hint);
        }
        _ => {}
    }
    check_tags(data)?;
    check_buckets(data)?;
    for (key, size) in [("data.width", data.width), ("data.height", data.height)] {
        if size == 0 || size % 8 != 0 {
            let nearest = ((size + 4) / 8 * 8).max(8);
            return refuse(key, size, "must be a multiple of 8", format!("the nearest is {nearest}"));
        }
        if size > 8192 {
            return refuse(key, size, "is larger than any Stable Diffusion can use", "512 to 1024 is usual");
        }
    }
    at_least_one("data.repeats", data.repeats as u64)?;
    if data.repeats > 1_000_000 {
        return refuse("data.repeats", data.repeats, "must be at most 1000000", "1 to 100 is usual");
    }
    let blank = |text: &Option<String>| text.as_ref().is_none_or(|text| text.trim().is_empty());
    if data.captions == CaptionSource::Prompt && blank(&data.prompt) && data.template == Template::None {
        return refuse(
            "data.captions",
            "\"prompt\"",
            "needs `data.prompt`",
            "write the text with `--prompt`",
        );
    }
    if data.template != Template::None && blank(&data.trigger) && !new_words {
        let hint = "name the word that the templates are filled with, with `--trigger`";
        return refuse("data.template", data.template, "needs `data.trigger`", hint);
    }
    if data.class_folder.is_some() && blank(&data.class_prompt) {
        let hint = "name the kind of thing with `--class-prompt`, such as `a photo of a dog`";
        return refuse("data.class_folder", "...", "needs `data.class_prompt`", hint);
    }
    if data.class_prompt.is_some() {
        if blank(&data.class_prompt) {
            let hint = "name the kind of thing, such as `a photo of a dog`, or delete it";
            return refuse("data.class_prompt", "\" \"", "is blank", hint);
        }
        if data.prior_weight == 0.0 {
            let hint = "1 is usual; without class pictures delete `data.class_prompt`";
            return refuse("data.prior_weight", 0, "lets the class pictures count nothing", hint);
        }
        at_least_one("data.class_count", data.class_count as u64)?;
        at_least_one("data.class_steps", data.class_steps as u64)?;
    }
    number("data.prior_weight", data.prior_weight, |w| w >= 0.0, "0 or more")
}

fn check_tags(data: &Data) -> Result<()> {
    for (key, share) in
        [("data.tag_dropout", data.tag_dropout), ("data.caption_dropout", data.caption_dropout)]
    {
        number(key, share, |share| (0.0..=1.0).contains(&share), "between 0 and 1")?;
    }
    let changes = data.shuffle_tags || data.tag_dropout > 0.0;
    if data.keep_tags > 0 && !changes && data.dataset.is_none() {
        let hint = "turn `data.shuffle_tags` on or set `data.tag_dropout`, or delete it";
        return refuse(
            "data.keep_tags",
            data.keep_tags,
            "is not used when no tags are shuffled or left out",
            hint,
        );
    }
    if changes && data.template != Template::None {
        let hint = "use captions with tags, or delete `data.shuffle_tags` and `data.tag_dropout`";
        return refuse("data.template", data.template, "has no tags to shuffle or leave out", hint);
    }
    if ![75, 150, 225].contains(&data.max_tokens) {
        let hint = "longer texts are read in chunks of 75";
        return refuse("data.max_tokens", data.max_tokens, "must be 75, 150 or 225", hint);
    }
    Ok(())
}

fn check_buckets(data: &Data) -> Result<()> {
    let rules = [
        ("data.bucket_step", data.bucket_step),
        ("data.bucket_min", data.bucket_min),
        ("data.bucket_max", data.bucket_max),
    ];
    for (key, value) in rules.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        if !data.buckets {
            return refuse(
                key,
                value,
                "is not used without `data.buckets`",
                "turn `data.buckets` on, or delete it",
            );
        }
        if value == 0 || value % 8 != 0 || value > 8192 {
            return refuse(
                key,
                value,
                "must be a multiple of 8 up to 8192",
                "64 is usual for steps, 256 to 1024 for sides",
            );
        }
    }
    Ok(())
}

fn check_tower(tower: &str, rank: usize, alpha: Option<f64>, dropout: f64) -> Result<()> {
    at_least_one(&format!("{tower}.rank"), rank as u64)?;
    if let Some(alpha) = alpha {
        number(&format!("{tower}.alpha"), alpha, |alpha| alpha > 0.0, "above 0")?;
    }
    number(&format!("{tower}.dropout"), dropout, |p| (0.0..1.0).contains(&p), "0 or more and below 1")
}

fn check_train(train: &Train) -> Result<()> {
    at_least_one("train.steps", train.steps)?;
    at_least_one("train.batch", train.batch as u64)?;
    at_least_one("train.accumulate", train.accumulate as u64)?;
    if let Some(decay) = train.ema_decay {
        number("train.ema_decay", decay, |decay| (0.0..1.0).contains(&decay), "0 or more and below 1")?;
    }
    let rates = [
        ("train.lr", train.lr),
        ("train.lr_text_encoder", train.lr_text_encoder),
        ("train.lr_tokens", train.lr_tokens),
    ];
    for (key, rate) in rates {
        number(key, rate, |rate| (0.0..=1e3).contains(&rate), "0 or more and not absurd; 0.0001 is usual")?;
    }
    if train.warmup > train.steps {
        let problem = format!("is longer than the run of {} steps", train.steps);
        return refuse("train.warmup", train.warmup, &problem, "a twentieth of the steps is usual");
    }
    if let Some(cycles) = train.cycles {
        number("train.cycles", cycles, |cycles| cycles > 0.0, "above 0")?;
    }
    number("train.power", train.power, |power| power > 0.0, "above 0")?;
    number("train.d_coef", train.d_coef, |d| d > 0.0, "above 0; 1 is usual")?;
    if train.d_coef != 1.0 && train.optimizer != OptimizerKind::Prodigy {
        let problem = format!("is for prodigy; the optimizer is {}", train.optimizer);
        return refuse("train.d_coef", train.d_coef, &problem, "delete it, or set `train.optimizer`");
    }
    let beta2 = train.beta2.unwrap_or(train.optimizer.usual_beta2());
    for (key, beta) in [("train.beta1", train.beta1), ("train.beta2", beta2)] {
        number(key, beta, |beta| (0.0..1.0).contains(&beta), "0 or more and below 1")?;
    }
    number("train.eps", train.eps, |eps| eps >= 0.0, "0 or more")?;
    check_optimizer(train)?;
    number("train.weight_decay", train.weight_decay, |decay| decay >= 0.0, "0 or more")?;
    if matches!(train.optimizer, OptimizerKind::AdamW | OptimizerKind::AdamW8 | OptimizerKind::Prodigy)
        && train.eps == 0.0
    {
        return refuse("train.eps", 0.0, "would divide by zero", "1e-8 is usual");
    }
    number("train.max_grad_norm", train.max_grad_norm, |norm| norm >= 0.0, "0 or more")?;
    if let Some(gamma) = train.min_snr_gamma {
        number("train.min_snr_gamma", gamma, |gamma| gamma > 0.0, "above 0; 5 is usual")?;
    }
    number("train.noise_offset", train.noise_offset, |o| (0.0..=1.0).contains(&o), "between 0 and 1")?;
    if let Some(memory) = train.memory {
        number("train.memory", memory, |gib| gib > 0.0, "above 0: GiB")?;
    }
    match train.threads {
        Some(threads) => at_least_one("train.threads", threads as u64),
        None => Ok(()),
    }
}

/// Settings that the optimizer has no use for.
fn check_optimizer(train: &Train) -> Result<()> {
    use OptimizerKind::{AdamW, AdamW8, Lion, Prodigy};
    let (kind, usual) = (train.optimizer, Train::default());
    let has_betas = matches!(kind, AdamW | AdamW8 | Lion | Prodigy);
    let has_eps = matches!(kind, AdamW | AdamW8 | Prodigy);
    let beta2 = train.beta2.filter(|&beta2| beta2 != kind.usual_beta2());
    let unheard = [
        ("train.beta1", (!has_betas && train.beta1 != usual.beta1).then_some(train.beta1)),
        ("train.beta2", beta2.filter(|_| !has_betas)),
        ("train.eps", (!has_eps && train.eps != usual.eps).then_some(train.eps)),
    ];
    match unheard.into_iter().find_map(|(key, value)| Some((key, value?))) {
        Some((key, value)) => {
            let problem = format!("{kind} has no such number");
            refuse(key, value, &problem, "delete it, or set `train.optimizer` to `adamw`")
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Holes, HuberCurve, MaskLoss, MaskSource, Prediction, minimal};

    #[test]
    fn defaults_with_a_base_and_pictures_work() {
        minimal().check().unwrap();
    }

    #[test]
    fn each_impossible_value_is_named() {
        type Change = fn(&mut TrainConfig);
        let cases: &[(&str, Change)] = &[
            ("base.model", |c| c.base.model = " ".into()),
            ("data.folder", |c| c.data.folder = "".into()),
            ("data.width", |c| c.data.width = 0),
            ("data.width", |c| c.data.width = 100_000),
            ("data.height", |c| c.data.height = 500),
            ("data.repeats", |c| c.data.repeats = 0),
            ("data.captions", |c| c.data.captions = CaptionSource::Prompt),
            ("data.template", |c| c.data.template = Template::Style),
            ("data.class_folder", |c| c.data.class_folder = Some("x".into())),
            ("data.class_prompt", |c| c.data.class_prompt = Some(" ".into())),
            ("data.prior_weight", |c| {
                (c.data.class_prompt, c.data.prior_weight) = (Some("a dog".into()), -1.0)
            }),
            ("data.prior_weight", |c| {
                (c.data.class_prompt, c.data.prior_weight) = (Some("a dog".into()), 0.0)
            }),
            ("data.class_steps", |c| (c.data.class_prompt, c.data.class_steps) = (Some("a dog".into()), 0)),
            ("data.dataset", |c| c.data.dataset = Some("set.toml".into())),
            ("data.tag_dropout", |c| c.data.tag_dropout = 1.5),
            ("data.caption_dropout", |c| c.data.caption_dropout = f64::NAN),
            ("data.keep_tags", |c| c.data.keep_tags = 1),
            ("data.template", |c| {
                (c.data.template, c.data.trigger) = (Template::Object, Some("sks".into()));
                c.data.shuffle_tags = true;
            }),
            ("data.max_tokens", |c| c.data.max_tokens = 100),
            ("data.bucket_step", |c| c.data.bucket_step = Some(64)),
            ("data.bucket_min", |c| (c.data.buckets, c.data.bucket_min) = (true, Some(100))),
            ("lora.unet.rank", |c| c.lora.unet.rank = 0),
            ("lora.unet.alpha", |c| c.lora.unet.alpha = Some(0.0)),
            ("lora.unet.alpha", |c| c.lora.unet.alpha = Some(f64::INFINITY)),
            ("lora.unet.dropout", |c| c.lora.unet.dropout = 1.0),
            ("lora.text_encoder.rank", |c| c.lora.text_encoder.rank = 0),
            ("train.steps", |c| c.train.steps = 0),
            ("train.batch", |c| c.train.batch = 0),
            ("train.accumulate", |c| c.train.accumulate = 0),
            ("train.lr", |c| c.train.lr = f64::NAN),
            ("train.lr", |c| c.train.lr = -1e-4),
            ("train.lr_text_encoder", |c| c.train.lr_text_encoder = f64::INFINITY),
            ("train.warmup", |c| c.train.warmup = 1001),
            ("train.cycles", |c| c.train.cycles = Some(0.0)),
            ("train.power", |c| c.train.power = -1.0),
            ("train.beta1", |c| c.train.beta1 = 1.0),
            ("train.beta2", |c| c.train.beta2 = Some(-0.1)),
            ("train.d_coef", |c| c.train.d_coef = 2.0),
            ("train.lr", |c| c.train.optimizer = OptimizerKind::Prodigy),
            ("train.eps", |c| c.train.eps = 0.0),
            ("train.beta1", |c| (c.train.optimizer, c.train.beta1) = (OptimizerKind::Sgd, 0.5)),
            ("train.beta2", |c| (c.train.optimizer, c.train.beta2) = (OptimizerKind::Adafactor, Some(0.5))),
            ("train.eps", |c| (c.train.optimizer, c.train.eps) = (OptimizerKind::Lion, 1e-3)),
            ("train.weight_decay", |c| c.train.weight_decay = -0.1),
            ("train.max_grad_norm", |c| c.train.max_grad_norm = f64::NAN),
            ("train.min_snr_gamma", |c| c.train.min_snr_gamma = Some(0.0)),
            ("train.noise_offset", |c| c.train.noise_offset = 2.0),
            ("train.threads", |c| c.train.threads = Some(0)),
            ("train.memory", |c| c.train.memory = Some(0.0)),
            ("objective.huber_c", |c| c.objective.huber_c = 0.0),
            ("objective.huber_c", |c| c.objective.huber_c = 0.2),
            ("objective.huber_schedule", |c| c.objective.huber_schedule = HuberCurve::Constant),
            ("objective.debiased", |c| (c.train.min_snr_gamma, c.objective.debiased) = (Some(5.0), true)),
            ("objective.scale_v", |c| (c.objective.scale_v, c.objective.debiased) = (true, true)),
            ("objective.scale_v", |c| {
                (c.objective.scale_v, c.base.prediction) = (true, Some(Prediction::Epsilon));
            }),
            ("objective.multires_levels", |c| c.objective.multires_levels = 17),
            ("objective.multires_discount", |c| c.objective.multires_discount = 0.5),
            ("objective.multires_discount", |c| {
                (c.objective.multires_levels, c.objective.multires_discount) = (6, 1.0);
            }),
            ("train.noise_offset", |c| (c.objective.multires_levels, c.train.noise_offset) = (6, 0.1)),
            ("train.noise_offset", |c| {
                (c.objective.zero_terminal_snr, c.train.noise_offset) = (true, 0.1);
            }),
            ("objective.noise_offset_random", |c| c.objective.noise_offset_random = true),
            ("objective.input_perturbation", |c| c.objective.input_perturbation = -0.1),
            ("objective.zero_terminal_snr", |c| {
                (c.objective.zero_terminal_snr, c.base.prediction) = (true, Some(Prediction::Epsilon));
            }),
            ("objective.timestep_max", |c| c.objective.timestep_max = Some(0)),
            ("objective.timestep_mean", |c| c.objective.timestep_mean = 1.0),
            ("objective.timestep_deviation", |c| c.objective.timestep_deviation = f64::NAN),
            ("objective.timestep_deviation", |c| c.objective.timestep_deviation = 2.0),
            ("inpaint.whole", |c| c.inpaint.whole = 1.5),
            ("inpaint.holes", |c| c.inpaint.holes = Holes::Mask),
            ("holdout.share", |c| c.holdout.share = 1.0),
            ("holdout.share", |c| (c.holdout.share, c.holdout.folder) = (0.1, Some("x".into()))),
            ("holdout.share", |c| c.holdout.patience = 3),
            ("holdout.every", |c| (c.holdout.share, c.holdout.every) = (0.1, 0)),
            ("holdout.draws", |c| (c.holdout.share, c.holdout.draws) = (0.1, 0)),
            ("mask.source", |c| c.mask.floor = 0.5),
            ("mask.floor", |c| (c.mask.source, c.mask.floor) = (MaskSource::Auto, 2.0)),
            ("mask.temperature", |c| (c.mask.source, c.mask.temperature) = (MaskSource::Auto, 0.0)),
            ("mask.normalize", |c| {
                (c.mask.source, c.mask.loss, c.mask.normalize) = (MaskSource::File, MaskLoss::Original, true);
            }),
            ("train.lr_tokens", |c| c.train.lr_tokens = -1.0),
            ("train.ema_decay", |c| c.train.ema_decay = Some(1.0)),
            ("method", |c| c.method = Method::Pivotal),
            ("tokens.add", |c| c.tokens.vectors = 2),
            ("tokens.add", |c| c.tokens.add = vec![" ".into()]),
            ("tokens.add", |c| {
                c.method = Method::Full;
                c.tokens.add = vec!["<s>".into()];
            }),
            ("tokens.init", |c| {
                c.tokens.add = vec!["<s>".into()];
                c.tokens.init = vec!["<two>".into()];
            }),
            ("tokens.init", |c| {
                c.tokens.add = vec!["<s>".into()];
                c.tokens.init = vec!["a".into(), "b".into()];
            }),
            ("tokens.vectors", |c| {
                c.tokens.add = vec!["<s>".into()];
                c.tokens.vectors = 0;
            }),
            ("tokens.norm", |c| {
                c.tokens.add = vec!["<s>".into()];
                (c.tokens.norm, c.tokens.norm_prior) = (Some(0.4), false);
            }),
            ("tokens.continue_lr", |c| {
                c.tokens.add = vec!["<s>".into()];
                c.tokens.continue_lr = Some(1e-4);
            }),
            ("full.text_encoder", |c| c.full.text_encoder = true),
            ("lora.text_encoder.train", |c| {
                c.method = Method::Full;
                c.lora.text_encoder.train = true;
            }),
            ("learn.tokens", |c| c.learn.tokens.stop = Some(5)),
            ("learn.unet", |c| c.learn.unet.stop = Some(1001)),
            ("learn.unet", |c| (c.learn.unet.start, c.learn.unet.stop) = (Some(5), Some(5))),
            ("learn", |c| c.learn.unet.start = Some(5)),
            ("learn.unet.warmup", |c| c.learn.unet.warmup = Some(1001)),
            ("save.name", |c| c.save.name = "../up".into()),
            ("save.name", |c| c.save.name = "".into()),
            ("save.name", |c| (c.method, c.save.name) = (Method::Full, "checkpoints".into())),
            ("save.name", |c| (c.method, c.save.name) = (Method::Full, "Samples".into())),
            ("save.name", |c| (c.method, c.save.name) = (Method::Full, "embeddings".into())),
            ("save.name", |c| (c.method, c.save.name) = (Method::Full, "config.toml".into())),
            ("tokens.continue_lr", |c| {
                c.train.optimizer = OptimizerKind::Prodigy;
                (c.train.lr, c.train.lr_tokens) = (1.0, 1.0);
                c.tokens.add = vec!["<s>".into()];
                (c.learn.tokens.stop, c.tokens.continue_lr) = (Some(5), Some(1e-4));
            }),
            ("save.formats", |c| c.save.formats.clear()),
            ("validate.steps", |c| c.validate.steps = 0),
            ("validate.guidance", |c| c.validate.guidance = f64::NAN),
        ];
        for (expected, change) in cases {
            let mut config = minimal();
            change(&mut config);
            match config.check() {
                Err(error @ TrainError::Setting { .. }) => {
                    assert!(error.to_string().starts_with(&format!("`{expected}`")), "{expected}: {error}");
                    assert_eq!(error.hints().len(), 1, "{expected} needs a hint");
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_odd_size_names_the_nearest_possible_one() {
        for (size, nearest) in [(500, "504"), (499, "496"), (3, "8"), (1, "8")] {
            let mut config = minimal();
            config.data.height = size;
            let hints = config.check().unwrap_err().hints();
            assert!(hints[0].contains(nearest), "{size}: {hints:?}");
        }
    }
}
