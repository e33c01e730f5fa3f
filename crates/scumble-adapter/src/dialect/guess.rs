//! What a file that does not fit seems to be made for.
//!
//! The cross-attention keys take the text encoder's width, which gives the family: 768 SD1, 1024 SD2, 2048 SDXL.

use scumble_model::files::TensorSource;

use super::part::Part;
use super::report::LoadReport;
use super::{Place, Placement};
use crate::table::ModuleTable;

/// `an SD1`, `an SD2` or `an SDXL`, by the width of the text states.
pub fn family_of_width(width: usize) -> Option<&'static str> {
    match width {
        768 => Some("an SD1"),
        1024 => Some("an SD2"),
        2048 => Some("an SDXL"),
        _ => None,
    }
}

/// A sentence, or nothing when the file gives no clue.
pub(super) fn guess(
    source: &dyn TensorSource,
    placement: &Placement,
    table: &ModuleTable,
    report: &LoadReport,
) -> Option<String> {
    if report.is_complete() {
        return None;
    }
    let second_encoder = ["lora_te2_", "text_encoder_2.", "base_model.model.text_encoder_2."];
    if report.unmatched.iter().any(|l| second_encoder.iter().any(|prefix| l.name.starts_with(prefix))) {
        return Some("this looks like an SDXL adapter: it has factors for a second text encoder".into());
    }
    cross_attention(source, placement, table).or_else(|| text_width(source, placement, table))
}

fn down_width(source: &dyn TensorSource, placement: &Placement, ending: &str) -> Option<(String, usize)> {
    placement.places.iter().find_map(|(key, place)| match place {
        Place::Factor(path, Part::Down) if path.ends_with(ending) => {
            Some((path.clone(), *source.info(key)?.shape.get(1)?))
        }
        _ => None,
    })
}

fn cross_attention(source: &dyn TensorSource, placement: &Placement, table: &ModuleTable) -> Option<String> {
    let (path, found) = down_width(source, placement, ".attn2.to_k")?;
    let wanted = table.get(&path)?.inputs;
    (found != wanted).then(|| {
        let family = family_of_width(found).unwrap_or("another base's");
        format!("this looks like {family} adapter: attn2.to_k takes {found}, the base wants {wanted}")
    })
}

fn text_width(source: &dyn TensorSource, placement: &Placement, table: &ModuleTable) -> Option<String> {
    let (path, found) = down_width(source, placement, ".self_attn.q_proj")?;
    let wanted = table.get(&path)?.inputs;
    (found != wanted).then(|| {
        format!("its text encoder is {found} wide, the base's {wanted}: it was made for another base")
    })
}
