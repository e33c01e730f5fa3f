//! The metadata that other tools look for in kohya files: `ss_*` and `modelspec.*`.

use serde_json::Value;

use super::encode::Encoded;
use super::family::family_of_table;
use crate::adapter::{Adapter, Change};
use crate::architecture::Architecture;
use crate::table::ModuleTable;

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

/// The algorithm in a network's arguments; LyCORIS has two names for that of plain factors.
fn algorithm(arguments: &str) -> Option<String> {
    let arguments: Value = serde_json::from_str(arguments).ok()?;
    let name = arguments.get("algo")?.as_str()?.to_lowercase();
    Some(if name == "lora" { "locon".into() } else { name })
}

/// Writes the entries that other tools rely on. Network, rank and alpha are always those of the adapter as it is. The
/// network's arguments stay only if they speak of that network, and of the rest what is there already stays.
pub(super) fn describe(adapter: &Adapter, table: &ModuleTable, encoded: &mut Encoded) {
    let metadata = &mut encoded.metadata;
    let (module, arguments) = network(adapter);
    let changes = || adapter.modules.values().filter_map(|factors| factors.change());
    let before = metadata.insert("ss_network_module".into(), module.into());
    let speaks_of_it = before.as_deref() == Some(module)
        && metadata.get("ss_network_args").is_some_and(|old| algorithm(old) == algorithm(arguments));
    if !speaks_of_it {
        metadata.insert("ss_network_args".into(), arguments.into());
    }
    metadata
        .insert("ss_network_dim".into(), common(changes().filter_map(Change::rank), |rank| rank.to_string()));
    metadata.insert(
        "ss_network_alpha".into(),
        common(changes().filter_map(Change::alpha), |alpha| format!("{alpha:?}")),
    );
    let mut default = |key: &str, value: &str| {
        metadata.entry(key.into()).or_insert_with(|| value.to_owned());
    };
    if let Some(family) = family_of_table(table) {
        let (second, version, architecture, resolution) = match family {
            Architecture::Sd1 => ("False", "sd_v1", "stable-diffusion-v1", "512x512"),
            Architecture::Sd2 => ("True", "sd_v2", "stable-diffusion-v2-512", "512x512"),
            Architecture::Sdxl => ("False", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "1024x1024"),
        };
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

#[cfg(test)]
mod tests {
    use scumble_tensor::{DType, Tensor};

    use super::*;

    #[test]
    fn arguments_stay_only_where_they_speak_of_the_network() {
        let table = Architecture::Sd1.table().unwrap();
        let path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
        let zeros = |dims: &[usize]| Tensor::zeros(DType::F32, dims).unwrap();
        let mut pair = Adapter::default();
        pair.insert(path, zeros(&[1, 1280]), zeros(&[1280, 1]), 1.0).unwrap();
        let mut full = Adapter::default();
        full.modules.insert(path.into(), Change::Full(zeros(&[1280, 1280])).into());
        let written = |adapter: &Adapter, module: &str, arguments: &str| {
            let mut encoded = Encoded::default();
            encoded.metadata.insert("ss_network_module".into(), module.into());
            encoded.metadata.insert("ss_network_args".into(), arguments.into());
            describe(adapter, &table, &mut encoded);
            encoded.metadata["ss_network_args"].clone()
        };
        let (loha, mine) = ("{\"algo\": \"loha\", \"conv_dim\": 4}", "{\"algo\": \"full\", \"x\": \"1\"}");
        assert_eq!(written(&pair, "lycoris.kohya", loha), "{}");
        assert_eq!(written(&pair, "networks.lora", "{\"conv_dim\": 4}"), "{\"conv_dim\": 4}");
        assert_eq!(written(&full, "lycoris.kohya", loha), "{\"algo\": \"full\"}");
        assert_eq!(written(&full, "lycoris.kohya", mine), mine);
        assert_eq!(written(&full, "networks.lora", mine), "{\"algo\": \"full\"}");
    }
}
