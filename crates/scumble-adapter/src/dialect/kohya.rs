//! kohya and LyCORIS (sd-scripts, AUTOMATIC1111, ComfyUI): `<flattened name>.<part>`.
//!
//! ```text
//! LoRA, LoCon   lora_down.weight  lora_up.weight  [lora_mid.weight]  alpha
//! LoHa          hada_w1_a  hada_w1_b  hada_w2_a  hada_w2_b  [hada_t1  hada_t2]  alpha
//! LoKr          lokr_w1 | lokr_w1_a  lokr_w1_b;  lokr_w2 | lokr_w2_a  lokr_w2_b  [lokr_t2];  alpha
//! differences   diff  diff_b;  of norms  w_norm  b_norm
//! any of them   dora_scale
//! ```
//!
//! The scale is `alpha / r` with a 0-D `alpha`; a missing alpha means `r`. Learned tokens may be bundled as
//! `bundle_emb.<token>.string_to_param.*`, for SDXL `.clip_l` and `.clip_g`. Metadata: see [`super::kohya_metadata`].

use std::collections::BTreeMap;

use scumble_model::files::TensorSource;
use scumble_tensor::{DType, Tensor};
use serde_json::Value;

use super::encode::{Encoded, hashes};
use super::kohya_metadata::describe;
use super::part::{Part, Side};
use super::spelling::Spelling;
use super::{AdapterFile, Dialect, Place, Placement, TokenPolicy, WriteOptions, check_known};
use crate::adapter::{Adapter, Axis, Change, Magnitude, ModuleFactors};
use crate::error::{AdapterError, Result};
use crate::names::{self, Naming};
use crate::table::{Module, ModuleTable, Tower};

/// See the module's text.
pub(super) struct Kohya;

const PREFIXES: [&str; 6] = ["lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lycoris_", "bundle_emb."];

/// Suffix of a key -> what it is; the first is the one that is written.
const PARTS: [(&str, Part); 26] = [
    ("lora_down.weight", Part::Down),
    ("lora_up.weight", Part::Up),
    ("lora_mid.weight", Part::Mid),
    ("alpha", Part::Alpha),
    ("scale", Part::Scale),
    ("scalar", Part::Scalar),
    ("hada_w1_a", Part::Hada1(Side::A)),
    ("hada_w1_b", Part::Hada1(Side::B)),
    ("hada_t1", Part::Hada1(Side::Core)),
    ("hada_w2_a", Part::Hada2(Side::A)),
    ("hada_w2_b", Part::Hada2(Side::B)),
    ("hada_t2", Part::Hada2(Side::Core)),
    ("lokr_w1", Part::Lokr1(Side::Whole)),
    ("lokr_w1_a", Part::Lokr1(Side::A)),
    ("lokr_w1_b", Part::Lokr1(Side::B)),
    ("lokr_w2", Part::Lokr2(Side::Whole)),
    ("lokr_w2_a", Part::Lokr2(Side::A)),
    ("lokr_w2_b", Part::Lokr2(Side::B)),
    ("lokr_t2", Part::Lokr2(Side::Core)),
    ("diff", Part::Diff),
    ("diff_b", Part::DiffBias),
    ("w_norm", Part::Diff),
    ("b_norm", Part::DiffBias),
    ("dora_scale", Part::DoraScale),
    ("lora_down", Part::Down),
    ("lora_up", Part::Up),
];

/// Suffixes of families that change a module in a way we do not apply, and what they are.
const UNSUPPORTED: [(&str, &str); 11] = [
    ("lokr_t1", "a core for the small LoKr matrix is not supported; no known program writes one"),
    ("oft_", "OFT is not supported"),
    ("boft_", "BOFT is not supported"),
    ("rescale", "OFT is not supported"),
    ("a1.weight", "GLoRA is not supported"),
    ("a2.weight", "GLoRA is not supported"),
    ("b1.weight", "GLoRA is not supported"),
    ("b2.weight", "GLoRA is not supported"),
    ("bm.weight", "GLoRA is not supported"),
    ("on_input", "IA3 is not supported"),
    ("weight", "IA3 is not supported"),
];

const NOTE_NAMES: &str = "kohya_names";
const NOTE_ALPHA: &str = "kohya_alpha";

fn place_of(key: &str, table: &ModuleTable) -> Option<Place> {
    if let Some(rest) = key.strip_prefix("bundle_emb.") {
        return bundled(key, rest);
    }
    let (name, suffix) = key.split_once('.')?;
    let path = table.by_flattened_name(name)?.path.clone();
    if let Some((_, part)) = PARTS.iter().find(|(known, _)| *known == suffix) {
        return Some(Place::Factor(path, *part));
    }
    let (_, reason) = UNSUPPORTED.iter().find(|(start, _)| suffix.starts_with(start))?;
    Some(Place::Unsupported(path, reason))
}

fn bundled(key: &str, rest: &str) -> Option<Place> {
    if let Some((token, _)) = rest.rsplit_once(".string_to_param.") {
        return Some(Place::Token(token.to_owned(), Tower::TextEncoder));
    }
    let (token, vector) = rest.rsplit_once('.')?;
    match vector {
        "clip_l" => Some(Place::Token(token.to_owned(), Tower::TextEncoder)),
        "clip_g" => Some(Place::Token(token.to_owned(), Tower::TextEncoder2)),
        "clip_l_out" | "clip_g_out" => Some(Place::Unsupported(
            key.to_owned(),
            "a vector that is added behind the text encoder is not supported",
        )),
        _ => None,
    }
}

impl Dialect for Kohya {
    fn name(&self) -> &'static str {
        "kohya"
    }

    fn recognises(&self, source: &dyn TensorSource) -> bool {
        source.names().iter().any(|key| PREFIXES.iter().any(|prefix| key.starts_with(prefix)))
    }

    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement> {
        let places = file.source.names().into_iter().filter_map(|key| {
            let place = place_of(&key, table)?;
            Some((key, place))
        });
        Ok(Placement { places: places.collect(), ..Placement::default() })
    }

    fn note(
        &self,
        file: &AdapterFile<'_>,
        placement: &Placement,
        table: &ModuleTable,
        spelling: &mut Spelling,
    ) {
        let naming = placement.places.iter().find_map(|(key, place)| {
            let Place::Factor(path, _) = place else { return None };
            let (name, _) = key.split_once('.')?;
            let module = table.get(path)?;
            let is = |naming| names::flattened(table, module, naming).as_deref() == Some(name);
            match (is(Naming::Diffusers), is(Naming::CompVis)) {
                (true, false) => Some(Naming::Diffusers),
                (false, true) => Some(Naming::CompVis),
                _ => None,
            }
        });
        match naming.filter(|naming| *naming != Naming::usual(table)) {
            Some(naming) => spelling.set(NOTE_NAMES, naming.name()),
            None => spelling.forget(NOTE_NAMES),
        }
        match alpha_note(file, placement) {
            Some(note) => spelling.set(NOTE_ALPHA, note),
            None => spelling.forget(NOTE_ALPHA),
        }
    }

    fn is_structural(&self, key: &str, _value: &str) -> bool {
        // Recomputed from the tensors by whoever writes.
        key.starts_with("sshs_") || key == "modelspec.hash_sha256" || key == "format"
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, adapter: &Adapter, table: &ModuleTable, options: &WriteOptions) -> Result<Encoded> {
        check_known(self.name(), adapter, table)?;
        let mut spelling = Spelling::of(&adapter.metadata);
        let noted = [Naming::Diffusers, Naming::CompVis]
            .into_iter()
            .find(|naming| spelling.text(NOTE_NAMES) == Some(naming.name()));
        let naming = options.naming.or(noted).unwrap_or_else(|| Naming::usual(table));
        let alpha_notes = spelling.get(NOTE_ALPHA).cloned();
        spelling.forget(NOTE_NAMES);
        spelling.forget(NOTE_ALPHA);
        let mut encoded = Encoded { metadata: adapter.metadata.clone(), ..Encoded::default() };
        spelling.store(&mut encoded.metadata);
        for (path, factors) in &adapter.modules {
            let Some(module) = table.get(path) else { continue };
            let Some(name) = names::flattened(table, module, naming) else { continue };
            for (suffix, tensor) in stored(factors, module)? {
                encoded.factor(format!("{name}.{suffix}"), path, &tensor, options.type_of(&tensor))?;
            }
            let note = alpha_notes.as_ref().and_then(|notes| note_of(notes, path));
            if let Some(tensor) = alpha_tensor(factors, note, options)? {
                encoded.tensors.push((format!("{name}.alpha"), tensor));
            }
        }
        write_tokens(self.name(), adapter, options, &mut encoded)?;
        describe(adapter, table, &mut encoded);
        let hashes = hashes(&mut encoded)?;
        let metadata = &mut encoded.metadata;
        metadata.insert("sshs_model_hash".into(), hashes.model.clone());
        metadata.insert("sshs_legacy_hash".into(), hashes.legacy);
        metadata.insert("modelspec.hash_sha256".into(), format!("0x{}", hashes.model));
        Ok(encoded)
    }
}

/// How a file's alphas differ from what is written by default, which is one in the type of the first factor for each
/// module: one word if all of them differ alike, else a word by path for those that do.
fn alpha_note(file: &AdapterFile<'_>, placement: &Placement) -> Option<Value> {
    let mut modules: BTreeMap<&str, BTreeMap<Part, DType>> = BTreeMap::new();
    for (key, place) in &placement.places {
        if let (Place::Factor(path, part), Some(info)) = (place, file.source.info(key)) {
            modules.entry(path).or_default().insert(*part, info.dtype);
        }
    }
    // As `Change::tensors` lists them.
    let first = [Part::Down, Part::Hada1(Side::A), Part::Lokr1(Side::Whole), Part::Lokr1(Side::A)];
    let words: Vec<(&str, Option<String>)> = modules
        .into_iter()
        .filter_map(|(path, types)| {
            let usual = first.iter().find_map(|part| types.get(part))?;
            Some(match types.get(&Part::Alpha) {
                None => (path, Some("none".to_owned())),
                Some(alpha) => (path, (alpha != usual).then(|| alpha.to_string())),
            })
        })
        .collect();
    let (_, common) = words.first()?;
    if words.iter().all(|(_, word)| word == common) {
        return common.clone().map(Value::from);
    }
    let differing = words.into_iter().filter_map(|(path, word)| Some((path.to_owned(), word?.into())));
    Some(Value::Object(differing.collect()))
}

/// The word for one module.
fn note_of<'n>(notes: &'n Value, path: &str) -> Option<&'n str> {
    match notes {
        Value::Object(by_path) => by_path.get(path)?.as_str(),
        for_all => for_all.as_str(),
    }
}

/// Alpha in the type of the change's first factor where that type holds it, as kohya's own writer does, or as the note
/// says. Neither magnitude nor bias has a say: they are often kept in another type.
fn alpha_tensor(
    factors: &ModuleFactors,
    note: Option<&str>,
    options: &WriteOptions,
) -> Result<Option<Tensor>> {
    let Some(change) = factors.change() else { return Ok(None) };
    let (Some(alpha), Some((_, first))) = (change.alpha(), change.tensors().first().copied()) else {
        return Ok(None);
    };
    if note == Some("none") && factors.rank().is_none_or(|rank| alpha == rank as f32) {
        return Ok(None);
    }
    let named = [DType::F16, DType::BF16, DType::F32, DType::F64];
    let noted = named.into_iter().find(|dtype| note == Some(dtype.to_string().as_str()));
    let exact = Tensor::scalar(alpha)?;
    let stored = exact.to_dtype(noted.unwrap_or_else(|| options.type_of(first)))?;
    Ok(Some(if stored.item::<f32>()? == alpha { stored } else { exact }))
}

/// Suffixes and tensors of one module, alpha apart.
fn stored(factors: &ModuleFactors, module: &Module) -> Result<Vec<(String, Tensor)>> {
    let named = |change: &Change, part: &str| match change {
        Change::LowRank(_) | Change::Tucker(_) => format!("lora_{part}.weight"),
        Change::Hadamard(_) => format!("hada_{part}"),
        Change::Kronecker(_) => format!("lokr_{part}"),
        Change::Full(_) => if module.is_norm() { "w_norm" } else { "diff" }.to_owned(),
    };
    let mut stored = Vec::new();
    if let Some(change) = factors.change() {
        let tensors = change.tensors().into_iter();
        stored.extend(tensors.map(|(part, tensor)| (named(change, part), tensor.clone())));
    }
    if let Some(magnitude) = factors.magnitude() {
        stored.push(("dora_scale".into(), magnitude.values().reshape(&dora_dims(magnitude, module))?));
    }
    if let Some(bias) = factors.bias() {
        stored.push((if module.is_norm() { "b_norm" } else { "diff_b" }.into(), bias.clone()));
    }
    Ok(stored)
}

/// `[out, 1]` or `[1, in]`, on convolutions with two more sizes of 1.
fn dora_dims(magnitude: &Magnitude, module: &Module) -> Vec<usize> {
    let count = magnitude.values().numel();
    let mut dims = match magnitude.axis() {
        Axis::Output => vec![count, 1],
        Axis::Input => vec![1, count],
    };
    if module.is_conv() {
        dims.extend([1, 1]);
    }
    dims
}

fn write_tokens(
    dialect: &'static str,
    adapter: &Adapter,
    options: &WriteOptions,
    encoded: &mut Encoded,
) -> Result<()> {
    match options.tokens {
        TokenPolicy::Refuse if adapter.tokens.is_empty() && adapter.tokens_2.is_empty() => Ok(()),
        TokenPolicy::Omit => Ok(()),
        TokenPolicy::Refuse => Err(AdapterError::CannotHold {
            dialect,
            reason: "it has no usual place for learned tokens; bundle them, which only some readers understand, or write them to a file of their own".into(),
        }),
        TokenPolicy::Bundle => {
            for (token, rows) in &adapter.tokens {
                let vector =
                    if adapter.tokens_2.contains_key(token) { "clip_l" } else { "string_to_param.*" };
                encoded.tensors.push((format!("bundle_emb.{token}.{vector}"), rows.clone()));
            }
            for (token, rows) in &adapter.tokens_2 {
                encoded.tensors.push((format!("bundle_emb.{token}.clip_g"), rows.clone()));
            }
            Ok(())
        }
    }
}
