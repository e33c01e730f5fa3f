//! PEFT as diffusers writes it: `unet.<path>.lora_A.weight` (down) and `.lora_B.weight` (up).
//!
//! Also raw PEFT (`base_model.model.<path>...`, with `adapter_config.json` beside it). Alpha is in the metadata
//! entry `lora_adapter_metadata`, JSON with keys by component: `unet.r`, `unet.lora_alpha`, `unet.rank_pattern`,
//! `unet.alpha_pattern`, `unet.use_rslora`. Without it alpha is the rank. With rsLoRA the scale is
//! `alpha / sqrt(r)`, which is held here as `alpha * sqrt(r)` over `r`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::encode::Encoded;
use super::{AdapterFile, Dialect, Part, Place, Placement, TokenPolicy, WriteOptions, check_known};
use crate::adapter::{Adapter, LowRankFactors};
use crate::error::{AdapterError, Result};
use crate::table::{ModuleTable, Tower};

/// See the module's text.
pub(super) struct Peft;

const METADATA_KEY: &str = "lora_adapter_metadata";
/// Alpha that PEFT's own configuration has where nothing is said.
const DEFAULT_ALPHA: f64 = 8.0;
/// A larger configuration than this is none.
const MAX_CONFIG_BYTES: u64 = 1 << 24;

/// What one component's configuration says about alpha.
#[derive(Default)]
struct Scaling {
    alpha: f64,
    patterns: Vec<(String, f64)>,
    rank_stabilized: bool,
}

impl Scaling {
    /// `prefix` is `unet.` in the metadata of diffusers, empty in a file of PEFT's own.
    fn parse(config: &Map<String, Value>, prefix: &str) -> std::result::Result<Option<Self>, String> {
        let get = |key: &str| config.get(&format!("{prefix}{key}")).filter(|value| !value.is_null());
        if get("r").is_none() && get("lora_alpha").is_none() {
            return Ok(None);
        }
        let number = |key: &str, value: &Value| {
            value
                .as_f64()
                .filter(|v| v.is_finite())
                .ok_or_else(|| format!("{prefix}{key} is {value}, expected a number"))
        };
        if get("use_dora").and_then(Value::as_bool) == Some(true) {
            return Err("DoRA is not supported; applying the rest without it would be another adapter".into());
        }
        let mut patterns = Vec::new();
        if let Some(entries) = get("alpha_pattern") {
            let entries = entries.as_object().ok_or_else(|| format!("{prefix}alpha_pattern is no object"))?;
            for (pattern, value) in entries {
                if pattern.contains(['*', '+', '?', '[', '(', '{', '|', '^', '$', '\\']) {
                    return Err(format!(
                        "{prefix}alpha_pattern `{pattern}` is no module name; only names are read"
                    ));
                }
                patterns.push((pattern.clone(), number("alpha_pattern", value)?));
            }
        }
        let alpha = get("lora_alpha").map_or(Ok(DEFAULT_ALPHA), |value| number("lora_alpha", value))?;
        let rank_stabilized = get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Ok(Some(Self { alpha, patterns, rank_stabilized }))
    }

    /// A pattern is a module path or the end of one, whole parts only.
    fn alpha(&self, local_path: &str, rank: usize) -> f32 {
        let matches = |pattern: &str| {
            local_path.strip_suffix(pattern).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let alpha =
            self.patterns.iter().find(|(pattern, _)| matches(pattern)).map_or(self.alpha, |(_, a)| *a);
        (if self.rank_stabilized { alpha * (rank as f64).sqrt() } else { alpha }) as f32
    }
}

fn scalings(file: &AdapterFile<'_>) -> Result<BTreeMap<Tower, Scaling>> {
    let object = |text: &str, what: &str| -> Result<Map<String, Value>> {
        serde_json::from_str(text)
            .map_err(|error| file.malformed(format!("{what} is no JSON object: {error}")))
    };
    let mut towers = BTreeMap::new();
    if let Some(text) = file.source.metadata().get(METADATA_KEY) {
        let config = object(text, METADATA_KEY)?;
        for tower in Tower::ALL {
            let scaling = Scaling::parse(&config, &format!("{}.", tower.prefix()))
                .map_err(|what| file.malformed(format!("{METADATA_KEY}: {what}")))?;
            towers.extend(scaling.map(|scaling| (tower, scaling)));
        }
    } else if let Some(text) = side_config(file) {
        let config = object(&text, "adapter_config.json")?;
        for tower in Tower::ALL {
            let scaling = Scaling::parse(&config, "")
                .map_err(|what| file.malformed(format!("adapter_config.json: {what}")))?;
            towers.extend(scaling.map(|scaling| (tower, scaling)));
        }
    }
    Ok(towers)
}

/// The configuration that PEFT puts beside its weights. Only read for keys of PEFT's own kind: diffusers keeps
/// nothing there.
fn side_config(file: &AdapterFile<'_>) -> Option<String> {
    file.source.names().iter().find(|key| key.starts_with("base_model.model."))?;
    let path = file.path?.parent()?.join("adapter_config.json");
    let length = std::fs::metadata(&path).ok()?.len();
    (length <= MAX_CONFIG_BYTES).then(|| std::fs::read_to_string(&path).ok())?
}

fn place_of(key: &str, table: &ModuleTable) -> Option<Place> {
    const DORA: &str = "DoRA is not supported; applying the rest without it would be another adapter";
    let name = key.strip_prefix("base_model.model.").unwrap_or(key);
    let named = |stem: &str| table.by_dotted_name(stem).map(|module| module.path.clone());
    if let Some(stem) = name.strip_suffix(".alpha") {
        return Some(Place::Factor(named(stem)?, Part::Alpha));
    }
    for (marker, part) in [(".lora_A.", Part::Down), (".lora_B.", Part::Up)] {
        let Some((stem, rest)) = name.split_once(marker) else { continue };
        return Some(match rest {
            "weight" | "default.weight" => Place::Factor(named(stem)?, part),
            _ => Place::Unsupported(named(stem)?, "a bias on a factor is not supported"),
        });
    }
    let (stem, _) = name.split_once(".lora_magnitude_vector")?;
    Some(Place::Unsupported(named(stem)?, DORA))
}

impl Dialect for Peft {
    fn name(&self) -> &'static str {
        "peft"
    }

    fn recognises(&self, keys: &[String]) -> bool {
        keys.iter().any(|key| key.contains(".lora_A.") || key.contains(".lora_B."))
    }

    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement> {
        let places = file.source.names().into_iter().filter_map(|key| {
            let place = place_of(&key, table)?;
            Some((key, place))
        });
        let places = places.collect();
        let towers = scalings(file)?;
        let alpha = move |path: &str, rank: usize| {
            let scaling = Tower::of(path).and_then(|tower| towers.get(&tower));
            let (_, local) = path.split_once('.').unwrap_or(("", path));
            scaling.map_or(rank as f32, |scaling| scaling.alpha(local, rank))
        };
        Ok(Placement { places, alpha: Some(Box::new(alpha)), ..Placement::default() })
    }

    fn is_structural(&self, key: &str, _value: &str) -> bool {
        key == METADATA_KEY || key == "format"
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, adapter: &Adapter, table: &ModuleTable, options: &WriteOptions) -> Result<Encoded> {
        check_known(self.name(), adapter, table)?;
        if !adapter.tokens.is_empty() && options.tokens != TokenPolicy::Omit {
            return Err(AdapterError::CannotHold {
                dialect: self.name(),
                reason: "it has no place for learned tokens; write them to a file of their own".into(),
            });
        }
        let mut encoded = Encoded { metadata: adapter.metadata.clone(), ..Encoded::default() };
        for (path, factors) in adapter.low_rank() {
            encoded.factor(format!("{path}.lora_A.weight"), path, factors.down(), options)?;
            encoded.factor(format!("{path}.lora_B.weight"), path, factors.up(), options)?;
        }
        encoded.metadata.insert("format".into(), "pt".into());
        // Readers from before the metadata existed take alpha for the rank, so it is only written when it says more.
        if adapter.low_rank().any(|(_, factors)| factors.scale() != 1.0) {
            encoded.metadata.insert(METADATA_KEY.into(), Value::Object(configuration(adapter)).to_string());
        } else {
            encoded.metadata.remove(METADATA_KEY);
        }
        Ok(encoded)
    }
}

/// The metadata that diffusers makes a complete PEFT configuration of.
fn configuration(adapter: &Adapter) -> Map<String, Value> {
    let mut config = Map::new();
    for tower in Tower::ALL {
        let modules: Vec<(&str, &LowRankFactors)> = adapter
            .low_rank()
            .filter(|(path, _)| Tower::of(path) == Some(tower))
            .filter_map(|(path, factors)| Some((name_in_peft(path.split_once('.')?.1), factors)))
            .collect();
        let Some((_, first)) = modules.first() else { continue };
        let (rank, alpha) = (first.rank(), first.alpha());
        let ranks: Map<String, Value> = modules
            .iter()
            .filter(|(_, f)| f.rank() != rank)
            .map(|(path, f)| ((*path).to_owned(), json!(f.rank())))
            .collect();
        let alphas: Map<String, Value> = modules
            .iter()
            .filter(|(_, f)| f.alpha() != alpha)
            .map(|(path, f)| ((*path).to_owned(), number(f.alpha())))
            .collect();
        let mut set = |key: &str, value: Value| config.insert(format!("{}.{key}", tower.prefix()), value);
        set("peft_type", json!("LORA"));
        set("r", json!(rank));
        set("lora_alpha", number(alpha));
        set("rank_pattern", Value::Object(ranks));
        set("alpha_pattern", Value::Object(alphas));
        set("target_modules", json!(modules.iter().map(|(path, _)| *path).collect::<Vec<_>>()));
        set("use_rslora", json!(false));
        set("use_dora", json!(false));
        set("lora_bias", json!(false));
        set("lora_dropout", json!(0.0));
        set("bias", json!("none"));
        set("init_lora_weights", json!(true));
    }
    config
}

/// Module names in a configuration match as endings. Newer text encoders have no `text_model` level, so it is left
/// out: the rest is an ending in both.
fn name_in_peft(local_path: &str) -> &str {
    local_path.strip_prefix("text_model.").unwrap_or(local_path)
}

/// PEFT declares alpha as an integer, so whole values are written as one.
fn number(alpha: f32) -> Value {
    if alpha.fract() == 0.0 && alpha.abs() < 1e9 { json!(alpha as i64) } else { json!(f64::from(alpha)) }
}
