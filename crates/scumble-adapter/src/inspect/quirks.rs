//! What is odd about a file but no fault: traces of old tools, which explain what people see in it.

use std::path::Path;

use scumble_model::files::TensorSource;

use super::measure::ModuleSummary;
use crate::positional::Generation;
use crate::table::Tower;

/// What the file as a whole tells.
pub(super) struct Clues<'a> {
    pub path: &'a Path,
    pub source: &'a dyn TensorSource,
    pub dialect: &'static str,
    pub order: Option<Generation>,
    pub modules: &'a [ModuleSummary],
}

/// A sentence for each.
pub(super) fn quirks(clues: &Clues<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if clues.dialect == "original" {
        found.extend(numbered(clues));
    }
    found.extend(untrained_outputs(clues));
    found.extend(limited(clues));
    found.extend(unaligned(clues.path));
    found
}

fn numbered(clues: &Clues<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let is_list = clues.source.metadata().values().all(|value| value == "<embed>")
        && clues.path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("pt"));
    if is_list && !clues.modules.is_empty() {
        found.push(
            "a bare list of factors: no names, ranks or alphas are stored, the order is all there is".into(),
        );
    }
    let of_unet = || clues.modules.iter().filter(|module| Tower::of(&module.path) == Some(Tower::UNet));
    if of_unet().next().is_some() {
        let feed_forward = of_unet().any(|module| module.path.ends_with(".ff.net.0.proj"));
        found.push(match (feed_forward, clues.order) {
            (false, _) => "attention alone, without the feed-forward: the order before 21 December 2022".into(),
            (true, Some(Generation::From015)) => {
                "numbered in the order of diffusers 0.15 and later (attn1, attn2, ff); most readers of these files \
                 expect the older order"
                    .into()
            }
            (true, _) => "numbered in the order of diffusers up to 0.14 (attn1, ff, attn2), as published files are".into(),
        });
    }
    let mut wrong = 0;
    for (key, value) in clues.source.metadata() {
        let Some(slot) = key.strip_suffix(":rank") else { continue };
        let rank = clues.source.info(&format!("{slot}:down")).and_then(|info| info.shape.first().copied());
        wrong += usize::from(rank.is_some() && value.parse().ok() != rank);
    }
    if wrong > 0 {
        found.push(format!(
            "the ranks in its metadata are wrong for {wrong} modules, as the old converter wrote 4 for all; shapes count"
        ));
    }
    found
}

/// Until 24 December 2022 the original wrapped output projections so that they never learned.
fn untrained_outputs(clues: &Clues<'_>) -> Option<String> {
    let of_unet = clues.modules.iter().filter(|module| Tower::of(&module.path) == Some(Tower::UNet));
    let (outputs, others): (Vec<_>, Vec<_>) = of_unet.partition(|module| module.path.ends_with(".to_out.0"));
    let untrained = |module: &&ModuleSummary| module.zero.contains(&"up");
    let is_bug = !outputs.is_empty() && outputs.iter().all(untrained) && !others.iter().any(untrained);
    is_bug.then(|| {
        format!(
            "every output projection of the UNet ({} modules) is exactly zero: a bug of the original tool until \
             24 December 2022 kept them from learning; loading is harmless",
            outputs.len()
        )
    })
}

/// Extraction by the original tool limits both factors of a module at one quantile of all their numbers. Where the
/// factors are of unlike size, as `U S` and `V` mostly are, only the larger one shows it.
fn limited(clues: &Clues<'_>) -> Option<String> {
    let pairs = clues.modules.iter().filter(|module| module.kind == "LoRA").count();
    let limited = clues.modules.iter().filter(|module| module.limited).count();
    (limited >= 8 && 2 * limited > pairs).then(|| {
        format!(
            "in {limited} of {pairs} modules many numbers have one and the same largest magnitude: made from a tuned model \
             by SVD with a limit at a quantile (lora_distill)"
        )
    })
}

/// Old writers did not pad the header, so that numbers begin at odd places; some readers crash on that.
fn unaligned(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut start = [0u8; 9];
    std::fs::File::open(path).ok()?.read_exact(&mut start).ok()?;
    let length = u64::from_le_bytes(*start.first_chunk::<8>()?);
    (start[8] == b'{' && !length.is_multiple_of(8)).then(|| {
        format!("its header is {length} bytes long, no multiple of 8: written by safetensors before padding, still valid")
    })
}
