//! kohya (sd-scripts, AUTOMATIC1111, ComfyUI): `<flattened name>.lora_down.weight`, `.lora_up.weight`, `.alpha`.
//!
//! The scale is `alpha / r` with a 0-D `alpha`; a missing alpha means `r`. Learned tokens may be bundled as
//! `bundle_emb.<token>.string_to_param.*`. Metadata: `ss_*`, `modelspec.*` and two hashes, see [`super::encode`].

use scumble_tensor::Tensor;

use super::encode::{Encoded, hashes};
use super::{AdapterFile, Dialect, Part, Place, Placement, TokenPolicy, WriteOptions, check_known};
use crate::adapter::Adapter;
use crate::error::{AdapterError, Result};
use crate::names;
use crate::table::{Module, ModuleKind, ModuleTable};

/// See the module's text.
pub(super) struct Kohya;

const PREFIXES: [&str; 5] = ["lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lycoris_"];

/// Suffixes of families that change a module in a way we do not apply, and what they are.
const UNSUPPORTED: [(&str, &str); 10] = [
    ("dora_scale", "DoRA is not supported; applying the rest without it would be another adapter"),
    ("lora_mid.weight", "Tucker convolutions (lora_mid) are not supported"),
    ("hada_", "LoHa is not supported"),
    ("lokr_", "LoKr is not supported"),
    ("oft_", "OFT is not supported"),
    ("diff", "full differences are not supported"),
    ("a1.weight", "GLoRA is not supported"),
    ("w_norm", "norm changes are not supported"),
    ("on_input", "IA3 is not supported"),
    ("scale", "a separate scale tensor is not supported"),
];

fn place_of(key: &str, table: &ModuleTable) -> Option<Place> {
    if let Some(rest) = key.strip_prefix("bundle_emb.") {
        let (token, _) = rest.rsplit_once(".string_to_param.")?;
        return Some(Place::Token(token.to_owned()));
    }
    let (name, suffix) = key.split_once('.')?;
    let path = table.by_flattened_name(name)?.path.clone();
    match suffix {
        "lora_down.weight" => Some(Place::Factor(path, Part::Down)),
        "lora_up.weight" => Some(Place::Factor(path, Part::Up)),
        "alpha" => Some(Place::Factor(path, Part::Alpha)),
        _ => {
            let (_, reason) = UNSUPPORTED.iter().find(|(start, _)| suffix.starts_with(start))?;
            Some(Place::Unsupported(path, reason))
        }
    }
}

impl Dialect for Kohya {
    fn name(&self) -> &'static str {
        "kohya"
    }

    fn recognises(&self, keys: &[String]) -> bool {
        keys.iter().any(|key| PREFIXES.iter().any(|prefix| key.starts_with(prefix)))
    }

    fn place(&self, file: &AdapterFile<'_>, table: &ModuleTable) -> Result<Placement> {
        let places = file.source.names().into_iter().filter_map(|key| {
            let place = place_of(&key, table)?;
            Some((key, place))
        });
        Ok(Placement { places: places.collect(), ..Placement::default() })
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
        let mut encoded = Encoded { metadata: adapter.metadata.clone(), ..Encoded::default() };
        for (path, factors) in adapter.low_rank() {
            let Some(name) = table.get(path).and_then(names::flattened) else { continue };
            encoded.factor(format!("{name}.lora_down.weight"), path, factors.down(), options)?;
            encoded.factor(format!("{name}.lora_up.weight"), path, factors.up(), options)?;
            encoded.tensors.push((format!("{name}.alpha"), Tensor::scalar(factors.alpha())?));
        }
        match options.tokens {
            TokenPolicy::Omit => {}
            TokenPolicy::Refuse if adapter.tokens.is_empty() => {}
            TokenPolicy::Refuse => {
                return Err(AdapterError::CannotHold {
                    dialect: self.name(),
                    reason: "it has no usual place for learned tokens; bundle them, which only some readers understand, or write them to a file of their own".into(),
                });
            }
            TokenPolicy::Bundle => {
                for (token, rows) in &adapter.tokens {
                    encoded.tensors.push((format!("bundle_emb.{token}.string_to_param.*"), rows.clone()));
                }
            }
        }
        describe(adapter, table, &mut encoded);
        let hashes = hashes(&mut encoded)?;
        let metadata = &mut encoded.metadata;
        metadata.insert("sshs_model_hash".into(), hashes.model.clone());
        metadata.insert("sshs_legacy_hash".into(), hashes.legacy);
        metadata.insert("modelspec.hash_sha256".into(), format!("0x{}", hashes.model));
        Ok(encoded)
    }
}

/// One value for all, else the word that kohya's own resizing tool writes.
fn common<T: PartialEq>(mut values: impl Iterator<Item = T>, show: impl Fn(T) -> String) -> String {
    let Some(first) = values.next() else { return "None".into() };
    if values.all(|value| value == first) { show(first) } else { "Dynamic".into() }
}

/// Fills in the entries that other tools rely on, where the adapter's own metadata does not say them.
fn describe(adapter: &Adapter, table: &ModuleTable, encoded: &mut Encoded) {
    // SD2 made the layers around its transformers linear.
    let is_proj_in = |module: &&Module| module.path.ends_with(".proj_in");
    let second = table.modules().iter().find(is_proj_in).map(|m| m.kind == ModuleKind::Linear);
    let metadata = &mut encoded.metadata;
    metadata.insert("ss_network_module".into(), "networks.lora".into());
    metadata.insert(
        "ss_network_dim".into(),
        common(adapter.low_rank().map(|(_, f)| f.rank()), |r| r.to_string()),
    );
    metadata.insert(
        "ss_network_alpha".into(),
        common(adapter.low_rank().map(|(_, f)| f.alpha()), |a| format!("{a:?}")),
    );
    let mut default = |key: &str, value: String| {
        metadata.entry(key.into()).or_insert(value);
    };
    default("ss_network_args", "{}".into());
    if let Some(second) = second {
        default("ss_v2", if second { "True".into() } else { "False".into() });
        default("ss_base_model_version", if second { "sd_v2".into() } else { "sd_v1".into() });
        let family = if second { "stable-diffusion-v2-512" } else { "stable-diffusion-v1" };
        default("modelspec.architecture", format!("{family}/lora"));
    }
    let title = metadata.get("ss_output_name").cloned().unwrap_or_else(|| "LoRA".into());
    let mut default = |key: &str, value: &str| {
        metadata.entry(key.into()).or_insert_with(|| value.to_owned());
    };
    default("modelspec.sai_model_spec", "1.0.1");
    default("modelspec.implementation", "diffusers");
    default("modelspec.title", &title);
    default("modelspec.resolution", "512x512");
}
