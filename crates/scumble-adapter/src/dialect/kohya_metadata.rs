//! The metadata that other tools look for in kohya files: `ss_*` and `modelspec.*`.

use super::encode::Encoded;
use crate::adapter::{Adapter, Change};
use crate::table::{ModuleKind, ModuleTable};

/// One value for all, else the word that kohya's own resizing tool writes.
fn common<T: PartialEq>(mut values: impl Iterator<Item = T>, show: impl Fn(T) -> String) -> String {
    let Some(first) = values.next() else { return "None".into() };
    if values.all(|value| value == first) { show(first) } else { "Dynamic".into() }
}

/// `networks.lora` for plain factors, LyCORIS for the rest, with the name of its algorithm.
fn network(adapter: &Adapter) -> (&'static str, &'static str) {
    let changes = || adapter.modules.values().filter_map(|factors| factors.change());
    let algorithm = if changes().any(|change| matches!(change, Change::Hadamard(_))) {
        "{\"algo\": \"loha\"}"
    } else if changes().any(|change| matches!(change, Change::Kronecker(_))) {
        "{\"algo\": \"lokr\"}"
    } else if changes().any(|change| matches!(change, Change::Full(_))) {
        "{\"algo\": \"full\"}"
    } else if adapter.modules.values().all(|factors| factors.low_rank().is_some()) {
        return ("networks.lora", "{}");
    } else {
        "{\"algo\": \"locon\"}"
    };
    ("lycoris.kohya", algorithm)
}

/// Fills in the entries that other tools rely on, where the adapter's own metadata does not say them.
pub(super) fn describe(adapter: &Adapter, table: &ModuleTable, encoded: &mut Encoded) {
    // SD2 made the layers around its transformers linear.
    let is_proj_in = |module: &&crate::table::Module| module.path.ends_with(".proj_in");
    let linear = table.modules().iter().find(is_proj_in).map(|m| m.kind == ModuleKind::Linear);
    let metadata = &mut encoded.metadata;
    let (module, arguments) = network(adapter);
    let changes = || adapter.modules.values().filter_map(|factors| factors.change());
    metadata.insert("ss_network_module".into(), module.into());
    metadata
        .insert("ss_network_dim".into(), common(changes().filter_map(Change::rank), |rank| rank.to_string()));
    metadata.insert(
        "ss_network_alpha".into(),
        common(changes().filter_map(Change::alpha), |alpha| format!("{alpha:?}")),
    );
    let mut default = |key: &str, value: &str| {
        metadata.entry(key.into()).or_insert_with(|| value.to_owned());
    };
    default("ss_network_args", arguments);
    let family = match (table.is_sdxl(), linear) {
        (true, _) => Some(("False", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "1024x1024")),
        (false, Some(true)) => Some(("True", "sd_v2", "stable-diffusion-v2-512", "512x512")),
        (false, Some(false)) => Some(("False", "sd_v1", "stable-diffusion-v1", "512x512")),
        (false, None) => None,
    };
    if let Some((second, version, architecture, resolution)) = family {
        default("ss_v2", second);
        default("ss_base_model_version", version);
        default("modelspec.architecture", &format!("{architecture}/lora"));
        default("modelspec.resolution", resolution);
    }
    default("modelspec.sai_model_spec", "1.0.1");
    default("modelspec.implementation", "diffusers");
    default("modelspec.resolution", "512x512");
    let title = metadata.get("ss_output_name").cloned().unwrap_or_else(|| "LoRA".into());
    metadata.entry("modelspec.title".into()).or_insert(title);
}
