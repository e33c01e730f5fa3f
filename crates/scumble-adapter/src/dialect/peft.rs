//! PEFT as diffusers writes it: `unet.<path>.lora_A.weight` (down) and `.lora_B.weight` (up).
//!
//! Also raw PEFT (`base_model.model.<path>...`, with `adapter_config.json` beside it). Alpha is in the metadata
//! entry `lora_adapter_metadata`, JSON with keys by component: `unet.r`, `unet.lora_alpha`, `unet.rank_pattern`,
//! `unet.alpha_pattern`, `unet.use_rslora`. Without it alpha is the rank. With rsLoRA the scale is
//! `alpha / sqrt(r)`, which is held here as `alpha * sqrt(r)` over `r`.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use scumble_model::files::TensorSource;
use scumble_tensor::Tensor;
use serde_json::{Map, Value, json};

use super::assemble::multiplied;
use super::encode::Encoded;
use super::part::Part;
use super::report::Leftover;
use super::spelling::Spelling;
use super::{AdapterFile, Dialect, Place, Placement, TokenPolicy, WriteOptions, check_known, refuse_tokens};
use crate::adapter::{Adapter, Axis, Change, LowRankFactors, Magnitude, ModuleFactors};
use crate::error::{AdapterError, Result};
use crate::table::{Module, ModuleTable, Tower};

/// See the module's text.
pub(super) struct Peft;

const METADATA_KEY: &str = "lora_adapter_metadata";
/// Alpha that PEFT's own configuration has where nothing is said.
const DEFAULT_ALPHA: f64 = 8.0;
/// A larger configuration than this is none.
const MAX_CONFIG_BYTES: u64 = 1 << 24;

/// Text encoders' modules with the `text_model` level left out, as the newest libraries name them.
const NOTE_TEXT: &str = "peft_text";

/// What one component's configuration says about alpha.
struct Scaling {
    alpha: f64,
    patterns: Vec<(Pattern, f64)>,
    rank_stabilized: bool,
    dora: bool,
}

/// A key of `alpha_pattern`.
enum Pattern {
    /// A module path or the end of one, whole parts only.
    Name(String),
    /// A regular expression for the same.
    Expression(Regex),
}

impl Pattern {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        if !text.contains(['*', '+', '?', '[', '(', '{', '|', '^', '$', '\\']) {
            return Ok(Self::Name(text.to_owned()));
        }
        RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{text})$"))
            .size_limit(1 << 20)
            .build()
            .map(Self::Expression)
            .map_err(|_| format!("`{text}` is no pattern that can be read"))
    }

    fn matches(&self, local_path: &str) -> bool {
        match self {
            Self::Name(name) => local_path
                .strip_suffix(name.as_str())
                .is_some_and(|before| before.is_empty() || before.ends_with('.')),
            Self::Expression(expression) => expression.is_match(local_path),
        }
    }
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
        let mut patterns = Vec::new();
        if let Some(entries) = get("alpha_pattern") {
            let entries = entries.as_object().ok_or_else(|| format!("{prefix}alpha_pattern is no object"))?;
            for (text, value) in entries {
                let pattern = Pattern::parse(text).map_err(|what| format!("{prefix}alpha_pattern {what}"))?;
                patterns.push((pattern, number("alpha_pattern", value)?));
            }
        }
        let is = |key: &str| get(key).and_then(Value::as_bool).unwrap_or(false);
        let alpha = get("lora_alpha").map_or(Ok(DEFAULT_ALPHA), |value| number("lora_alpha", value))?;
        Ok(Some(Self { alpha, patterns, rank_stabilized: is("use_rslora"), dora: is("use_dora") }))
    }

    fn alpha(&self, local_path: &str, rank: usize) -> f32 {
        let alpha = self
            .patterns
            .iter()
            .find(|(pattern, _)| pattern.matches(local_path))
            .map_or(self.alpha, |(_, alpha)| *alpha);
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
    let name = key.strip_prefix("base_model.model.").unwrap_or(key);
    let named = |stem: &str| table.by_dotted_name(stem).map(|module| module.path.clone());
    if let Some(stem) = name.strip_suffix(".alpha") {
        return Some(Place::Factor(named(stem)?, Part::Alpha));
    }
    for (marker, part) in [(".lora_A.", Part::Down), (".lora_B.", Part::Up)] {
        let Some((stem, rest)) = name.split_once(marker) else { continue };
        return Some(match (rest, part) {
            ("weight" | "default.weight", _) => Place::Factor(named(stem)?, part),
            ("bias" | "default.bias", Part::Up) => Place::Factor(named(stem)?, Part::UpBias),
            _ => Place::Unsupported(named(stem)?, "a bias on the input side is not supported"),
        });
    }
    let (stem, rest) = name.split_once(".lora_magnitude_vector")?;
    let known = ["", ".weight", ".default", ".default.weight"].contains(&rest);
    known.then(|| Some(Place::Factor(named(stem)?, Part::Magnitude)))?
}

impl Dialect for Peft {
    fn name(&self) -> &'static str {
        "peft"
    }

    fn recognises(&self, source: &dyn TensorSource) -> bool {
        source.names().iter().any(|key| key.contains(".lora_A.") || key.contains(".lora_B."))
    }

    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement> {
        let places = file.source.names().into_iter().filter_map(|key| {
            let place = place_of(&key, table)?;
            Some((key, place))
        });
        let places: BTreeMap<String, Place> = places.collect();
        let towers = scalings(file)?;
        let has_magnitude = |tower: Tower| {
            places.values().any(|place| {
                matches!(place, Place::Factor(path, Part::Magnitude) if Tower::of(path) == Some(tower))
            })
        };
        let mentions = |tower: Tower| {
            places
                .values()
                .any(|place| matches!(place, Place::Factor(path, _) if Tower::of(path) == Some(tower)))
        };
        let faults = towers
            .iter()
            .filter(|(tower, scaling)| scaling.dora && mentions(**tower) && !has_magnitude(**tower))
            .map(|(tower, _)| Leftover {
                name: tower.prefix().into(),
                reason: "the configuration says DoRA, but the file has no magnitudes".into(),
            })
            .collect();
        let alpha = move |path: &str, rank: usize| {
            let scaling = Tower::of(path).and_then(|tower| towers.get(&tower));
            let (_, local) = path.split_once('.').unwrap_or(("", path));
            scaling.map_or(rank as f32, |scaling| scaling.alpha(local, rank))
        };
        Ok(Placement { places, alpha: Some(Box::new(alpha)), faults, order: None })
    }

    fn note(&self, file: &AdapterFile<'_>, _: &Placement, _: &ModuleTable, spelling: &mut Spelling) {
        let names = file.source.names();
        let mut text = names.iter().filter(|name| name.starts_with("text_encoder"));
        if text.clone().next().is_some() && !text.any(|name| name.contains(".text_model.")) {
            spelling.set(NOTE_TEXT, "without text_model");
        } else {
            spelling.forget(NOTE_TEXT);
        }
    }

    fn is_structural(&self, key: &str, _value: &str) -> bool {
        key == METADATA_KEY || key == "format"
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, adapter: &Adapter, table: &ModuleTable, options: &WriteOptions) -> Result<Encoded> {
        check_known(self.name(), adapter, table)?;
        if options.tokens != TokenPolicy::Omit {
            refuse_tokens(self.name(), adapter)?;
        }
        let mut spelling = Spelling::of(&adapter.metadata);
        let without_text_model = spelling.text(NOTE_TEXT).is_some();
        spelling.forget(NOTE_TEXT);
        let mut encoded = Encoded { metadata: adapter.metadata.clone(), ..Encoded::default() };
        spelling.store(&mut encoded.metadata);
        for (path, factors) in &adapter.modules {
            let Some(module) = table.get(path) else { continue };
            let pair = self.pair(path, factors)?;
            let name = match without_text_model {
                true => path.replacen(".text_model.", ".", 1),
                false => path.clone(),
            };
            encoded.factor(
                format!("{name}.lora_A.weight"),
                path,
                pair.down(),
                options.type_of(pair.down()),
            )?;
            encoded.factor(format!("{name}.lora_B.weight"), path, pair.up(), options.type_of(pair.up()))?;
            if let Some(bias) = factors.bias() {
                let bias = self.up_bias(path, bias, pair.scale())?;
                encoded.factor(format!("{name}.lora_B.bias"), path, &bias, options.type_of(&bias))?;
            }
            if let Some(magnitude) = factors.magnitude() {
                let values = self.magnitude(path, magnitude, module)?;
                encoded.factor(
                    format!("{name}.lora_magnitude_vector"),
                    path,
                    &values,
                    options.type_of(&values),
                )?;
            }
        }
        for tower in Tower::ALL {
            self.check_uniform(adapter, tower)?;
        }
        encoded.metadata.insert("format".into(), "pt".into());
        // Readers from before the metadata existed take alpha for the rank, so it is only written when it says more.
        let says_more = |factors: &ModuleFactors| {
            factors.low_rank().is_none() || factors.change().is_some_and(|change| change.scale() != 1.0)
        };
        if adapter.modules.values().any(says_more) {
            encoded.metadata.insert(METADATA_KEY.into(), Value::Object(configuration(adapter)).to_string());
        } else {
            encoded.metadata.remove(METADATA_KEY);
        }
        Ok(encoded)
    }
}

impl Peft {
    fn refuse<T>(&self, reason: String) -> Result<T> {
        Err(AdapterError::CannotHold { dialect: self.name(), reason })
    }

    /// The low-rank pair of a module, decorated or not.
    fn pair<'f>(&self, path: &str, factors: &'f ModuleFactors) -> Result<&'f LowRankFactors> {
        match factors.change() {
            Some(Change::LowRank(pair)) => Ok(pair),
            _ => self.refuse(format!("it knows low-rank pairs only, and {path} has {}", factors.kind())),
        }
    }

    /// PEFT multiplies the bias with the scale; it can only be written where dividing by it loses nothing.
    fn up_bias(&self, path: &str, bias: &Tensor, scale: f32) -> Result<Tensor> {
        let divided = multiplied(bias, 1.0 / scale)?;
        if scale == 0.0 || multiplied(&divided, scale)?.bytes()? != bias.bytes()? {
            return self.refuse(format!(
                "it multiplies biases with alpha / r, and {path}'s cannot be divided by {scale} without rounding"
            ));
        }
        Ok(divided)
    }

    fn magnitude(&self, path: &str, magnitude: &Magnitude, module: &Module) -> Result<Tensor> {
        if magnitude.axis() == Axis::Input {
            return self.refuse(format!("its DoRA scales outputs, and {path}'s scales inputs"));
        }
        let count = magnitude.values().numel();
        let dims = if module.is_conv() { vec![1, count, 1, 1] } else { vec![count] };
        Ok(magnitude.values().reshape(&dims)?)
    }

    /// DoRA is one switch for a component: PEFT would give every module of it a magnitude.
    fn check_uniform(&self, adapter: &Adapter, tower: Tower) -> Result<()> {
        let of_tower = || adapter.modules.iter().filter(|(path, _)| Tower::of(path) == Some(tower));
        let without = of_tower().find(|(_, factors)| factors.magnitude().is_none());
        match (of_tower().any(|(_, factors)| factors.magnitude().is_some()), without) {
            (true, Some((path, _))) => self.refuse(format!(
                "it has DoRA for all modules of a component or for none, and {path} has none"
            )),
            _ => Ok(()),
        }
    }
}

/// The metadata that diffusers makes a complete PEFT configuration of.
fn configuration(adapter: &Adapter) -> Map<String, Value> {
    let mut config = Map::new();
    for tower in Tower::ALL {
        let modules: Vec<(&str, &LowRankFactors)> = adapter
            .modules
            .iter()
            .filter(|(path, _)| Tower::of(path) == Some(tower))
            .filter_map(|(path, factors)| match factors.change() {
                Some(Change::LowRank(pair)) => Some((name_in_peft(path.split_once('.')?.1), pair)),
                _ => None,
            })
            .collect();
        let of_tower = || adapter.modules.iter().filter(|(path, _)| Tower::of(path) == Some(tower));
        let dora = of_tower().any(|(_, factors)| factors.magnitude().is_some());
        let bias = of_tower().any(|(_, factors)| factors.bias().is_some());
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
        set("use_dora", json!(dora));
        set("lora_bias", json!(bias));
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
