//! Written settings that nothing listens to: whoever writes one expects that it does something.
//!
//! One that another setting rules out is refused. One that belongs to a part which rests in this run only gets a warning,
//! so that the same run file serves several methods.
//!
//! A setting counts as written when it differs from what it would be without anybody writing it, by the kind's presets and
//! the defaults.

use toml::{Table, Value};

use super::check::refuse;
use super::{CacheMode, CaptionSource, Part, ScheduleKind, Template, TrainConfig};
use crate::error::{Result, TrainError};

/// Settings that have no effect when `applies`.
struct Rule {
    applies: bool,
    keys: &'static [&'static str],
    problem: String,
    hint: &'static str,
}

/// A written setting without an effect.
struct Unheard {
    key: &'static str,
    value: String,
    problem: String,
    hint: &'static str,
}

impl TrainConfig {
    /// Errors at the first written setting that another one rules out.
    pub(super) fn check_unheard(&self) -> Result<()> {
        match self.unheard(self.ruled_out())?.into_iter().next() {
            Some(Unheard { key, value, problem, hint }) => refuse(key, value, &problem, hint),
            None => Ok(()),
        }
    }

    /// A sentence for each written setting of a part that rests in this run.
    pub fn resting_settings(&self) -> Result<Vec<String>> {
        let sentence = |Unheard { key, value, problem, hint }| {
            format!("`{key}` = {value} has no effect: {problem} ({hint})")
        };
        Ok(self.unheard(self.resting())?.into_iter().map(sentence).collect())
    }

    fn unheard(&self, rules: Vec<Rule>) -> Result<Vec<Unheard>> {
        let (written, usual) = (table(&self.resolved())?, table(&self.usual()?)?);
        let mut found: Vec<Unheard> = Vec::new();
        for rule in rules.into_iter().filter(|rule| rule.applies) {
            for key in rule.keys {
                let value = at(&written, key);
                if value != at(&usual, key) && found.iter().all(|earlier| earlier.key != *key) {
                    let value = value.map_or_else(|| "nothing".to_owned(), ToString::to_string);
                    found.push(Unheard { key, value, problem: rule.problem.clone(), hint: rule.hint });
                }
            }
        }
        Ok(found)
    }

    /// What the settings would be if nobody had written one but the kind and those that others are derived from.
    fn usual(&self) -> Result<Self> {
        let mut kind = Table::new();
        if let Some(name) = self.kind {
            kind.insert("kind".to_owned(), Value::String(name.to_string()));
        }
        let mut usual = Self::from_table(kind)?;
        usual.save.folder = self.save.folder.clone();
        usual.train.schedule = self.train.schedule;
        Ok(usual.resolved())
    }

    fn ruled_out(&self) -> Vec<Rule> {
        self.ruled_out_in_learning().into_iter().chain(self.ruled_out_in_data()).collect()
    }

    fn ruled_out_in_learning(&self) -> Vec<Rule> {
        let has_schedule = |kinds: &[ScheduleKind]| {
            let of = |part| self.window(part).schedule.unwrap_or(self.train.schedule);
            Part::ALL.into_iter().any(|part| self.learns(part) && kinds.contains(&of(part)))
        };
        vec![
            Rule {
                applies: !has_schedule(&[ScheduleKind::Cosine, ScheduleKind::CosineWithRestarts]),
                keys: &["train.cycles"],
                problem: "no schedule has waves".to_owned(),
                hint: "set `train.schedule` to `cosine` or `cosine_with_restarts`, or delete it",
            },
            Rule {
                applies: !has_schedule(&[ScheduleKind::Polynomial]),
                keys: &["train.power"],
                problem: "no schedule has an exponent".to_owned(),
                hint: "set `train.schedule` to `polynomial`, or delete it",
            },
        ]
    }

    /// A data set's file gives each concept settings of its own, so nothing can be said of it here.
    fn ruled_out_in_data(&self) -> Vec<Rule> {
        let (data, alone) = (&self.data, self.data.dataset.is_none());
        let other_texts = matches!(data.captions, CaptionSource::Text | CaptionSource::FileName);
        vec![
            Rule {
                applies: alone && data.class_prompt.is_none(),
                keys: &["data.class_count", "data.class_steps", "data.prior_weight"],
                problem: "there are no class pictures without `data.class_prompt`".to_owned(),
                hint: "name the kind of thing with `--class-prompt`, or delete this",
            },
            Rule {
                applies: alone && data.template != Template::None,
                keys: &["data.prompt", "data.captions"],
                problem: format!("all texts come from the template `{}`", data.template),
                hint: "delete this or `data.template`",
            },
            Rule {
                applies: alone && other_texts,
                keys: &["data.prompt"],
                problem: format!("all texts come from `data.captions` = `{}`", data.captions),
                hint: "set `data.captions` to `auto` or `prompt`, or delete this",
            },
            Rule {
                applies: self.validate.guidance <= 1.0,
                keys: &["validate.negative"],
                problem: "painting without guidance has no negative prompt".to_owned(),
                hint: "set `validate.guidance` above 1, or delete this",
            },
        ]
    }

    fn resting(&self) -> Vec<Rule> {
        let rests = |part| !self.learns(part);
        let of_method = |what: &str| format!("with method `{}` {what}", self.method);
        vec![
            Rule {
                applies: !self.has_factors(),
                keys: FACTORS,
                problem: of_method("there are no factors"),
                hint: "they belong to the methods `lora` and `pivotal`",
            },
            Rule {
                applies: rests(Part::TextEncoder),
                keys: TEXT_FACTORS,
                problem: "the text encoder does not learn".to_owned(),
                hint: "turn it on with `lora.text_encoder.train` or `--text-encoder`",
            },
            Rule {
                applies: rests(Part::Unet),
                keys: &["train.lr"],
                problem: of_method("the UNet does not learn"),
                hint: "the rate of new words is `train.lr_tokens` or `--lr-tokens`",
            },
            Rule {
                applies: rests(Part::Tokens),
                keys: &["train.lr_tokens"],
                problem: "there are no new words".to_owned(),
                hint: "name them with `--token`, such as `<s1>`",
            },
            Rule {
                applies: ![self.cache.latents, self.cache.texts].contains(&CacheMode::Disk),
                keys: &["cache.folder"],
                problem: "nothing is cached on the disk".to_owned(),
                hint: "set `cache.latents` to `disk`",
            },
            Rule {
                applies: self.validate.prompts.is_empty(),
                keys: PAINTING,
                problem: "nothing is painted without `validate.prompts`".to_owned(),
                hint: "name a text with `--validate`",
            },
        ]
    }
}

const FACTORS: &[&str] = &[
    "lora.include",
    "lora.exclude",
    "lora.rank_stabilized",
    "lora.lokr_factor",
    "lora.lokr_whole",
    "lora.lokr_both",
    "lora.unet.targets",
    "lora.unet.rank",
    "lora.unet.alpha",
    "lora.unet.conv_rank",
    "lora.unet.conv_alpha",
    "lora.unet.dropout",
    "lora.text_encoder.targets",
    "lora.text_encoder.rank",
    "lora.text_encoder.alpha",
    "lora.text_encoder.dropout",
    "save.formats",
];
const TEXT_FACTORS: &[&str] = &[
    "lora.text_encoder.targets",
    "lora.text_encoder.rank",
    "lora.text_encoder.alpha",
    "lora.text_encoder.dropout",
    "train.lr_text_encoder",
];
const PAINTING: &[&str] = &[
    "validate.every",
    "validate.steps",
    "validate.seed",
    "validate.guidance",
    "validate.negative",
    "validate.sampler",
];

fn table(config: &TrainConfig) -> Result<Table> {
    toml::from_str(&config.to_toml()?).map_err(|error| TrainError::Toml { message: error.to_string() })
}

fn at<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => at(table.get(section)?.as_table()?, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FileFormat, Kind, Method, Targets, minimal};

    type Change = fn(&mut TrainConfig);

    #[test]
    fn every_key_of_the_rules_is_a_setting() {
        let (known, config) = (crate::config::all_fields(), minimal());
        for key in config.ruled_out().into_iter().chain(config.resting()).flat_map(|rule| rule.keys) {
            assert!(known.iter().any(|(name, _)| name == key), "{key}");
        }
    }

    #[test]
    fn what_another_setting_rules_out_is_refused() {
        let cases: &[(&str, Change)] = &[
            ("train.cycles", |c| c.train.cycles = Some(2.0)),
            ("train.power", |c| c.train.power = 2.0),
            ("data.class_count", |c| c.data.class_count = 5),
            ("data.class_steps", |c| c.data.class_steps = 5),
            ("data.prior_weight", |c| c.data.prior_weight = 0.5),
            ("data.prompt", |c| {
                (c.data.template, c.data.trigger) = (Template::Object, Some("sks".into()));
                c.data.prompt = Some("a dog".into());
            }),
            ("data.captions", |c| {
                (c.data.template, c.data.trigger) = (Template::Object, Some("sks".into()));
                c.data.captions = CaptionSource::FileName;
            }),
            ("data.prompt", |c| {
                (c.data.captions, c.data.prompt) = (CaptionSource::FileName, Some("a dog".into()));
            }),
            ("validate.negative", |c| {
                c.validate.prompts = vec!["a dog".into()];
                (c.validate.guidance, c.validate.negative) = (1.0, "blur".into());
            }),
        ];
        for (expected, change) in cases {
            let mut config = minimal();
            change(&mut config);
            let error = config.check().expect_err(expected);
            assert!(error.to_string().starts_with(&format!("`{expected}`")), "{expected}: {error}");
            assert_eq!(error.hints().len(), 1, "{expected}");
            assert!(config.resolved().check().is_err(), "{expected} in the run's own file");
        }
    }

    #[test]
    fn what_rests_is_told() {
        let cases: &[(&str, Change)] = &[
            ("lora.unet.rank", |c| (c.method, c.lora.unet.rank) = (Method::Full, 8)),
            ("lora.unet.targets", |c| (c.method, c.lora.unet.targets) = (Method::Full, Targets::All)),
            ("lora.exclude", |c| (c.method, c.lora.exclude) = (Method::Full, vec!["mid".into()])),
            ("save.formats", |c| (c.method, c.save.formats) = (Method::Full, vec![FileFormat::Peft])),
            ("lora.text_encoder.rank", |c| c.lora.text_encoder.rank = 8),
            ("lora.text_encoder.dropout", |c| c.lora.text_encoder.dropout = 0.1),
            ("train.lr_text_encoder", |c| c.train.lr_text_encoder = 1e-3),
            ("train.lr", |c| {
                (c.method, c.train.lr) = (Method::TextualInversion, 1e-3);
                c.tokens.add = vec!["<s>".into()];
            }),
            ("train.lr_tokens", |c| c.train.lr_tokens = 1e-3),
            ("cache.folder", |c| c.cache.folder = Some("elsewhere".into())),
            ("validate.every", |c| c.validate.every = 10),
            ("validate.sampler", |c| c.validate.sampler = Some("euler".into())),
        ];
        for (expected, change) in cases {
            let mut config = minimal();
            change(&mut config);
            config.check().unwrap_or_else(|error| panic!("{expected}: {error}"));
            let told = config.resting_settings().unwrap();
            assert!(
                told.iter().any(|text| text.starts_with(&format!("`{expected}` = "))),
                "{expected}: {told:?}"
            );
            // A rank gives alpha its value, which is told as well.
            assert!(told.len() <= 2, "{told:?}");
        }
    }

    #[test]
    fn what_is_heard_or_comes_from_a_kind_passes() {
        let cases: &[Change] = &[
            |_| (),
            |c| (c.lora.text_encoder.train, c.lora.text_encoder.rank) = (true, 8),
            |c| (c.train.schedule, c.train.cycles) = (ScheduleKind::Cosine, Some(2.0)),
            |c| (c.learn.unet.schedule, c.train.power) = (Some(ScheduleKind::Polynomial), 2.0),
            |c| {
                (c.method, c.full.text_encoder) = (Method::Full, true);
                c.train.lr_text_encoder = 1e-3;
            },
            |c| (c.cache.latents, c.cache.folder) = (CacheMode::Disk, Some("elsewhere".into())),
            |c| (c.validate.prompts, c.validate.every) = (vec!["a dog".into()], 10),
            |c| (c.data.class_prompt, c.data.class_count) = (Some("a dog".into()), 10),
        ];
        let passes = |config: &TrainConfig, name: &str| {
            config.check().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(config.resting_settings().unwrap(), [""; 0], "{name}");
        };
        for (index, change) in cases.iter().enumerate() {
            let mut config = minimal();
            change(&mut config);
            passes(&config, &format!("case {index}"));
            passes(&config.resolved(), &format!("case {index}, as the run writes it"));
        }
        for kind in [Kind::Subject, Kind::Object, Kind::Style, Kind::Face] {
            let text = format!("kind = \"{kind}\"\n[base]\nmodel = \"b\"\n[data]\nfolder = \"f\"");
            let mut config = TrainConfig::from_toml(&text).unwrap();
            for method in [Method::Lora, Method::Full] {
                config.method = method;
                passes(&config, &format!("{kind}, {method}"));
            }
        }
    }
}
