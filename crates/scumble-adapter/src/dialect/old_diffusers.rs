//! diffusers up to 0.21: factors named by attention processors, `....attn1.processor.to_q_lora.down.weight`.
//!
//! ```text
//! UNet   [unet.]<...>.attn1.processor.to_q_lora | to_k_lora | to_v_lora | to_out_lora (= to_out.0)
//!        [unet.]<any module>.lora
//! text   text_encoder.<...>.self_attn.to_q_lora | ... | to_out_lora
//!        text_encoder.<any module>.lora_linear_layer
//! each with .down.weight and .up.weight
//! ```
//!
//! There is no alpha: the scale is 1, and another is multiplied into `up` when written.

use std::collections::BTreeMap;

use scumble_model::files::TensorSource;

use super::encode::Encoded;
use super::fold::{self, Folded};
use super::part::Part;
use super::spelling::Spelling;
use super::{
    AdapterFile, Dialect, Place, Placement, TokenPolicy, WriteOptions, check_known, check_plain,
    refuse_tokens,
};
use crate::adapter::Adapter;
use crate::error::Result;
use crate::names;
use crate::table::{Module, ModuleTable, Tower};

/// See the module's text.
pub(super) struct OldDiffusers;

/// Last part of a module's path -> what the processor calls it.
const PROCESSOR_NAMES: [(&str, &str); 8] = [
    (".to_q", ".processor.to_q_lora"),
    (".to_k", ".processor.to_k_lora"),
    (".to_v", ".processor.to_v_lora"),
    (".to_out.0", ".processor.to_out_lora"),
    (".q_proj", ".to_q_lora"),
    (".k_proj", ".to_k_lora"),
    (".v_proj", ".to_v_lora"),
    (".out_proj", ".to_out_lora"),
];

const NOTE_UNET: &str = "old_unet";
const NOTE_TEXT: &str = "old_text";
const NOTE_PREFIX: &str = "old_prefix";

/// What the processor (or the module alone) is called in this dialect.
fn processor_name(name: &str) -> Option<String> {
    PROCESSOR_NAMES.iter().find_map(|(ending, other)| Some(format!("{}{other}", name.strip_suffix(ending)?)))
}

/// Every stem that stands before `.down.weight` for a module.
fn stems(module: &Module) -> Vec<String> {
    names::dotted_spellings(module)
        .into_iter()
        .flat_map(|name| {
            [Some(format!("{name}.lora")), Some(format!("{name}.lora_linear_layer")), processor_name(&name)]
        })
        .flatten()
        .collect()
}

fn split(key: &str) -> Option<(&str, Part)> {
    [(".down.weight", Part::Down), (".up.weight", Part::Up), (".alpha", Part::Alpha)]
        .into_iter()
        .find_map(|(ending, part)| Some((key.strip_suffix(ending)?, part)))
}

/// The stem that is written for a module.
fn written_stem(module: &Module, spelling: &Spelling) -> String {
    let is_unet = Tower::of(&module.path) == Some(Tower::UNet);
    let name = if is_unet && spelling.text(NOTE_PREFIX) == Some("none") {
        module.local_path()
    } else {
        module.path.as_str()
    };
    let (note, plain) = if is_unet { (NOTE_UNET, "lora") } else { (NOTE_TEXT, "lora_linear_layer") };
    match processor_name(name) {
        Some(processor) if spelling.text(note) != Some(plain) => processor,
        _ => format!("{name}.{plain}"),
    }
}

impl Dialect for OldDiffusers {
    fn name(&self) -> &'static str {
        "old-diffusers"
    }

    fn recognises(&self, source: &dyn TensorSource) -> bool {
        source.names().iter().any(|key| {
            split(key).is_some_and(|(stem, part)| {
                part != Part::Alpha
                    && ["_lora", ".lora", ".lora_linear_layer"].iter().any(|end| stem.ends_with(end))
            })
        })
    }

    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement> {
        let by_stem: BTreeMap<String, &Module> = table
            .modules()
            .iter()
            .flat_map(|module| stems(module).into_iter().map(move |stem| (stem, module)))
            .collect();
        let places = file.source.names().into_iter().filter_map(|key| {
            let (stem, part) = split(&key)?;
            let place = Place::Factor(by_stem.get(stem)?.path.clone(), part);
            Some((key, place))
        });
        Ok(Placement { places: places.collect(), ..Placement::default() })
    }

    fn note(&self, file: &AdapterFile<'_>, placement: &Placement, _: &ModuleTable, spelling: &mut Spelling) {
        [NOTE_UNET, NOTE_TEXT, NOTE_PREFIX].into_iter().for_each(|note| spelling.forget(note));
        let of_attention = |key: &&String, unet: bool| {
            placement.places.get(*key).is_some_and(|place| match place {
                Place::Factor(path, _) => {
                    (Tower::of(path) == Some(Tower::UNet)) == unet && processor_name(path).is_some()
                }
                _ => false,
            })
        };
        let names = file.source.names();
        if names.iter().find(|key| of_attention(key, true)).is_some_and(|key| !key.contains("_lora.")) {
            spelling.set(NOTE_UNET, "lora");
        }
        if names.iter().find(|key| of_attention(key, false)).is_some_and(|key| !key.contains("_lora.")) {
            spelling.set(NOTE_TEXT, "lora_linear_layer");
        }
        if names.iter().find(|key| of_attention(key, true)).is_some_and(|key| !key.starts_with("unet.")) {
            spelling.set(NOTE_PREFIX, "none");
        }
    }

    fn finish(&self, adapter: &mut Adapter, spelling: &mut Spelling) -> Result<()> {
        fold::restore(adapter, spelling)
    }

    fn is_structural(&self, key: &str, _value: &str) -> bool {
        key == "format"
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, adapter: &Adapter, table: &ModuleTable, options: &WriteOptions) -> Result<Encoded> {
        check_known(self.name(), adapter, table)?;
        check_plain(self.name(), adapter)?;
        if options.tokens != TokenPolicy::Omit {
            refuse_tokens(self.name(), adapter)?;
        }
        let mut spelling = Spelling::of(&adapter.metadata);
        let mut encoded = Encoded { metadata: adapter.metadata.clone(), ..Encoded::default() };
        let mut folded = Folded::default();
        for (path, factors) in adapter.low_rank() {
            let Some(module) = table.get(path) else { continue };
            let stem = written_stem(module, &spelling);
            let [down, up] = [factors.down(), factors.up()].map(|tensor| options.type_of(tensor));
            let factors = folded.fold(path, factors, options)?;
            encoded.factor(format!("{stem}.down.weight"), path, factors.down(), down)?;
            encoded.factor(format!("{stem}.up.weight"), path, factors.up(), up)?;
        }
        [NOTE_UNET, NOTE_TEXT, NOTE_PREFIX].into_iter().for_each(|note| spelling.forget(note));
        spelling.store(&mut encoded.metadata);
        folded.store(&mut encoded);
        encoded.metadata.insert("format".into(), "pt".into());
        Ok(encoded)
    }
}
