//! The TOML form of a configuration: reading with suggestions, layering, writing, and the identity of a run.
//!
//! Layers are TOML tables: a later one overrides key by key, lists replace ([`merge_tables`]). A value that comes as
//! text (environment, command line) is read as TOML where it is TOML and as a string otherwise ([`set_from_text`]).

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use super::{
    Aims, Base, Cache, Data, Field, Fields, Full, Holdout, Inpaint, Kind, Learn, Lora, Mask, Save, TextLora,
    Tokens, Train, TrainConfig, UnetLora, Validate, Window,
};
use crate::error::{Result, TrainError};

/// Settings that change neither the weights a run ends in nor the order of its steps: a resumed run may change them.
/// What lies at the paths is compared by content.
const FREE_TO_CHANGE: &[&str] = &[
    "base.config",
    "base.model",
    "base.offline",
    "base.variant",
    "cache.",
    "data.class_folder",
    "data.dataset",
    "data.folder",
    "data.unreadable",
    "holdout.folder",
    "save.",
    "train.memory",
    "train.threads",
    "validate.",
];

/// Every setting with its full key (`train.lr`), in the order of the file.
pub fn all_fields() -> Vec<(String, Field)> {
    let sections: [(&str, &[Field]); 19] = [
        ("base", Base::FIELDS),
        ("data", Data::FIELDS),
        ("lora", Lora::FIELDS),
        ("lora.unet", UnetLora::FIELDS),
        ("lora.text_encoder", TextLora::FIELDS),
        ("tokens", Tokens::FIELDS),
        ("full", Full::FIELDS),
        ("learn", Learn::FIELDS),
        ("learn.unet", Window::FIELDS),
        ("learn.text_encoder", Window::FIELDS),
        ("learn.tokens", Window::FIELDS),
        ("train", Train::FIELDS),
        ("objective", Aims::FIELDS),
        ("mask", Mask::FIELDS),
        ("inpaint", Inpaint::FIELDS),
        ("holdout", Holdout::FIELDS),
        ("cache", Cache::FIELDS),
        ("save", Save::FIELDS),
        ("validate", Validate::FIELDS),
    ];
    let top = TrainConfig::FIELDS.iter().filter(|field| ["kind", "method"].contains(&field.key));
    let mut all: Vec<_> = top.map(|&field| (field.key.to_owned(), field)).collect();
    for (section, fields) in sections {
        all.extend(fields.iter().map(|&field| (format!("{section}.{}", field.key), field)));
    }
    // Sections within sections are listed by their own fields.
    all.retain(|(key, _)| !sections.iter().any(|(section, _)| section == key));
    all
}

/// Puts `over` on top of `under`: tables merge, everything else replaces.
pub fn merge_tables(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge_tables(below, above),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Sets one `section.key` in a table from text: TOML where it is TOML, otherwise a string.
pub fn set_from_text(table: &mut Table, key: &str, text: &str) -> Result<()> {
    check_key(key)?;
    let value = toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let mut place = table;
    let (path, last) = key.rsplit_once('.').map_or((None, key), |(path, last)| (Some(path), last));
    for part in path.into_iter().flat_map(|path| path.split('.')) {
        let inner = place.entry(part).or_insert_with(|| Value::Table(Table::new()));
        match inner {
            Value::Table(inner) => place = inner,
            _ => return Err(unknown(key)),
        }
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

fn check_key(key: &str) -> Result<()> {
    if all_fields().iter().any(|(known, _)| known == key) { Ok(()) } else { Err(unknown(key)) }
}

fn unknown(key: &str) -> TrainError {
    let mut known: Vec<String> = all_fields().into_iter().map(|(known, _)| known).collect();
    let sections = ["lora.unet", "lora.text_encoder", "learn.unet", "learn.text_encoder", "learn.tokens"];
    known.extend(sections.map(str::to_owned));
    known.extend(TrainConfig::FIELDS.iter().map(|field| field.key.to_owned()));
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    // The right word in the wrong section is nearer than a similar word in the right one.
    let nearest = known
        .into_iter()
        .map(|known| {
            let whole = strsim::damerau_levenshtein(&known, key);
            let word = strsim::damerau_levenshtein(&last(&known), &last(key));
            (whole.min(word * 2), whole, known)
        })
        .min()
        .filter(|(distance, _, known)| *distance <= 2.max(known.len().min(key.len()) / 3));
    TrainError::UnknownKey { key: key.to_owned(), suggestion: nearest.map(|(_, _, known)| known) }
}

fn check_keys(table: &Table, prefix: &str) -> Result<()> {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) if is_section(&path) => check_keys(inner, &path)?,
            _ => check_key(&path)?,
        }
    }
    Ok(())
}

fn is_section(path: &str) -> bool {
    let inside = format!("{path}.");
    all_fields().iter().any(|(known, _)| known.starts_with(&inside))
}

impl TrainConfig {
    /// Reads a configuration; settings that are not mentioned keep their defaults.
    pub fn from_toml(text: &str) -> Result<Self> {
        let table: Table =
            toml::from_str(text).map_err(|error| TrainError::Toml { message: error.to_string() })?;
        Self::from_table(table)
    }

    /// Reads a configuration from merged layers. What a `kind` sets lies under all of them.
    pub fn from_table(mut table: Table) -> Result<Self> {
        check_keys(&table, "")?;
        let kind = table.get("kind").and_then(Value::as_str).and_then(|name| name.parse::<Kind>().ok());
        if let Some(kind) = kind {
            let above = std::mem::replace(&mut table, super::preset(kind)?);
            // Weights of timesteps that are written down take the place of the usual ones.
            let written = above.get("objective").and_then(Value::as_table);
            if written.is_some_and(|aims| ["debiased", "scale_v"].iter().any(|&key| aims.contains_key(key)))
                && let Some(train) = table.get_mut("train").and_then(Value::as_table_mut)
            {
                train.remove("min_snr_gamma");
            }
            merge_tables(&mut table, above);
        }
        Value::Table(table).try_into().map_err(|error: toml::de::Error| TrainError::Toml {
            message: error.to_string().trim().to_owned(),
        })
    }

    /// The configuration as a file a person can read and run again.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| TrainError::Toml { message: error.to_string() })
    }

    /// The same run with everything spelled out: alpha, cycles, windows and the cache folder.
    pub fn resolved(&self) -> Self {
        let mut config = self.clone();
        config.lora.unet.alpha.get_or_insert(self.lora.unet.rank as f64);
        config.lora.text_encoder.alpha.get_or_insert(self.lora.text_encoder.rank as f64);
        if let Some(rank) = self.lora.unet.conv_rank {
            config.lora.unet.conv_alpha.get_or_insert(rank as f64);
        }
        let schedule = self.train.schedule;
        if matches!(schedule, super::ScheduleKind::Cosine | super::ScheduleKind::CosineWithRestarts) {
            config.train.cycles.get_or_insert(schedule.usual_cycles());
        }
        config.train.beta2.get_or_insert(self.train.optimizer.usual_beta2());
        config.resolve_windows();
        config.cache.folder.get_or_insert_with(|| self.save.folder.join("cache"));
        config
    }

    /// Settings that decide the result, by key, as they are written in TOML.
    pub fn deciding(&self) -> Result<BTreeMap<String, String>> {
        let table = Table::try_from(self.resolved())
            .map_err(|error| TrainError::Toml { message: error.to_string() })?;
        let mut all = BTreeMap::new();
        flatten(&table, "", &mut all);
        all.retain(|key, _| {
            !FREE_TO_CHANGE.iter().any(|free| key == free || free.ends_with('.') && key.starts_with(free))
        });
        Ok(all)
    }

    /// Hash of [`TrainConfig::deciding`]: two runs with the same identity, data and base end in the same bytes.
    pub fn identity(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for (key, value) in self.deciding()? {
            hash.update(format!("{key}={value}\n"));
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn flatten(table: &Table, prefix: &str, into: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(inner, &path, into),
            value => _ = into.insert(path, value.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::*;

    fn everything_set() -> TrainConfig {
        let mut config = TrainConfig { kind: Some(Kind::Style), ..TrainConfig::default() };
        let window = Window {
            start: Some(0),
            stop: Some(900),
            lr: Some(1e-3),
            schedule: Some(ScheduleKind::Cosine),
            warmup: Some(3),
            weight_decay: Some(0.1),
        };
        config.learn = Learn {
            lora_plus: Some(4.0),
            blocks: Some("mid=0.5".into()),
            unet: window.clone(),
            text_encoder: window.clone(),
            tokens: window,
        };
        config.lora.lokr_factor = Some(8);
        (config.lora.unet.conv_rank, config.lora.unet.conv_alpha) = (Some(2), Some(1.0));
        config.tokens.norm = Some(0.4);
        config.tokens.continue_lr = Some(1e-4);
        config.train.ema_decay = Some(0.99);
        config.train.beta2 = Some(0.99);
        config.base.variant = Some("fp16".into());
        config.base.config = Some("configurations".into());
        config.base.prediction = Some(Prediction::Velocity);
        config.data.prompt = Some("a \"quoted\" dog".into());
        config.data.trigger = Some("sks".into());
        config.data.dataset = Some("set.toml".into());
        (config.data.prefix, config.data.suffix) = (Some("a".into()), Some("b".into()));
        (config.data.bucket_step, config.data.bucket_min) = (Some(64), Some(256));
        config.data.bucket_max = Some(1024);
        config.data.class_folder = Some("class pictures".into());
        config.data.class_prompt = Some("a dog".into());
        config.lora.unet.alpha = Some(2.5);
        config.lora.text_encoder.alpha = Some(1.0);
        config.train.cycles = Some(2.0);
        config.train.min_snr_gamma = Some(5.0);
        config.train.threads = Some(3);
        config.train.memory = Some(6.5);
        config.objective.timestep_max = Some(900);
        config.holdout.folder = Some("tests".into());
        config.cache.folder = Some("kept".into());
        config.validate.sampler = Some("euler".into());
        config.validate.prompts = vec!["one".into(), "two".into()];
        config
    }

    #[test]
    fn the_list_of_fields_is_the_list_of_keys() {
        let table = Table::try_from(everything_set()).unwrap();
        let mut keys = BTreeMap::new();
        flatten(&table, "", &mut keys);
        let mut listed: Vec<String> = all_fields().into_iter().map(|(key, _)| key).collect();
        listed.sort();
        assert_eq!(keys.into_keys().collect::<Vec<_>>(), listed);
        assert!(all_fields().iter().all(|(_, field)| field.help.trim().len() > 10), "help is missing");
    }

    #[test]
    fn written_and_read_again_it_is_the_same_run() {
        for config in [TrainConfig::default(), everything_set(), everything_set().resolved()] {
            let again = TrainConfig::from_toml(&config.to_toml().unwrap()).unwrap();
            assert_eq!(again, config);
            assert_eq!(again.identity().unwrap(), config.identity().unwrap());
        }
        let resolved = TrainConfig::default().resolved();
        assert_eq!(resolved.resolved(), resolved);
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest_known_one() {
        for (text, key, suggestion) in [
            ("[train]\nstesp = 5", "train.stesp", Some("train.steps")),
            ("[tran]\nsteps = 5", "tran", Some("train")),
            ("[train]\nrank = 8", "train.rank", Some("lora.unet.rank")),
            ("[lora.unet]\nrnak = 8", "lora.unet.rnak", Some("lora.unet.rank")),
            ("[lora]\nunets = 8", "lora.unets", Some("lora.unet")),
            ("zzzzzzzzzz = 1", "zzzzzzzzzz", None),
        ] {
            match TrainConfig::from_toml(text) {
                Err(TrainError::UnknownKey { key: found, suggestion: nearest }) => {
                    assert_eq!((found.as_str(), nearest.as_deref()), (key, suggestion), "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn wrong_types_and_choices_say_where() {
        for (text, part) in [
            ("[train]\nsteps = \"many\"", "steps"),
            ("[train]\nschedule = \"cosin\"", "cosin"),
            ("[save]\nformats = [\"koya\"]", "koya"),
            ("[train\nsteps = 5", "line 1"),
            ("train = 3", "train"),
            ("[train.steps]\nx = 1", "steps"),
        ] {
            let message = TrainConfig::from_toml(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn layers_and_single_values() {
        let mut table: Table = toml::from_str("[train]\nlr = 1e-3\nsteps = 7").unwrap();
        merge_tables(&mut table, toml::from_str("[train]\nsteps = 9\n[save]\nname = \"x\"").unwrap());
        set_from_text(&mut table, "train.batch", "3").unwrap();
        set_from_text(&mut table, "data.prompt", "a photo of sks dog").unwrap();
        set_from_text(&mut table, "lora.include", "[\"*.conv1\"]").unwrap();
        assert!(set_from_text(&mut table, "train.bach", "3").is_err());
        let config = TrainConfig::from_table(table).unwrap();
        assert_eq!((config.train.lr, config.train.steps, config.train.batch), (1e-3, 9, 3));
        assert_eq!(config.data.prompt.as_deref(), Some("a photo of sks dog"));
        assert_eq!(config.lora.include, ["*.conv1"]);
        assert_eq!(config.save.name, "x");
    }

    #[test]
    fn written_weights_take_the_place_of_those_of_the_kind() {
        let read = |text: &str| TrainConfig::from_toml(text).unwrap().train.min_snr_gamma;
        assert_eq!(read("kind = \"subject\""), Some(5.0));
        assert_eq!(read("kind = \"subject\"\n[objective]\ndebiased = true"), None);
        assert_eq!(read("kind = \"subject\"\n[objective]\nloss = \"huber\""), Some(5.0));
    }

    #[test]
    fn identity_follows_what_decides_the_result_and_nothing_else() {
        let base = TrainConfig::default();
        let identity = base.identity().unwrap();
        let mut same = base.clone();
        same.lora.unet.alpha = Some(4.0);
        same.data.folder = "moved".into();
        same.save.every = 3;
        same.train.threads = Some(1);
        same.validate.prompts = vec!["a dog".into()];
        same.cache.latents = CacheMode::None;
        assert_eq!(same.identity().unwrap(), identity);
        for change in [
            |c: &mut TrainConfig| c.train.lr = 2e-4,
            |c: &mut TrainConfig| c.train.seed = 1,
            |c: &mut TrainConfig| c.lora.unet.rank = 8,
            |c: &mut TrainConfig| c.data.flip = true,
            |c: &mut TrainConfig| c.train.min_snr_gamma = Some(5.0),
        ] {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(other.identity().unwrap(), identity);
        }
    }
}
