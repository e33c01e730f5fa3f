//! How an adapter or embedding is told.

use std::collections::BTreeMap;

use scumble_adapter::dialect::Leftover;
use scumble_adapter::inspect::{AdapterContent, Fit, Inspection, TokenSummary, TowerSummary};

use super::page::{Page, bar, bytes, clean, count, plural};

/// Leftovers that are written out.
const SHOWN: usize = 5;

/// The page's main part.
pub fn describe(page: &mut Page, found: &Inspection, content: &AdapterContent) {
    let is_words_alone = content.modules.is_empty() && content.misfits.is_empty();
    let what = if is_words_alone { "embedding" } else { "adapter" };
    let size = bytes(found.bytes);
    page.text("is", &format!("{what} in the {} dialect, {size}", content.dialect));
    family(page, content);
    for tower in &content.towers {
        page.text(tower.tower, &tower_line(tower));
    }
    tokens(page, &content.tokens);
    blocks(page, content);
    health(page, content);
    let leftovers = |page: &mut Page, label: &str, left: &[Leftover]| {
        let lines: Vec<String> =
            left.iter().map(|left| format!("{}: {}", clean(&left.name), clean(&left.reason))).collect();
        page.list(label, &lines, SHOWN);
    };
    if !content.misfits.is_empty() {
        page.text("not fitting", &plural(content.misfits.len(), "module"));
        leftovers(page, "", &content.misfits);
    }
    if !content.unmatched.is_empty() {
        page.text("left over", &plural(content.unmatched.len(), "tensor"));
        leftovers(page, "", &content.unmatched);
    }
    let notes: Vec<String> = content.quirks.iter().map(|quirk| clean(quirk)).collect();
    page.list("notes", &notes, notes.len());
}

fn family(page: &mut Page, content: &AdapterContent) {
    match &content.family {
        Some(family) => {
            let mut text = family.title.clone();
            if !family.reasons.is_empty() {
                text.push_str(&format!(": {}", clean(&family.reasons.join("; "))));
            }
            page.text("made for", &text);
        }
        None => page.text(
            "made for",
            "a base of another size than the published ones; the names are Stable Diffusion's, the sizes its own",
        ),
    }
}

fn tower_line(tower: &TowerSummary) -> String {
    let targets: Vec<String> =
        tower.targets.iter().map(|(target, count)| format!("{count} {target}")).collect();
    let kinds: Vec<String> = match tower.kinds.len() {
        1 => tower.kinds.keys().cloned().collect(),
        _ => tower.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect(),
    };
    let mut text =
        format!("{} ({}); {}", plural(tower.modules, "module"), targets.join(", "), kinds.join(", "));
    if !tower.ranks.is_empty() {
        text.push_str(&format!("; rank {}", spread(tower.ranks.iter().map(|(rank, count)| (rank, *count)))));
    }
    if !tower.alphas.is_empty() {
        text.push_str(&format!(
            "; alpha {}",
            spread(tower.alphas.iter().map(|(alpha, count)| (alpha, *count)))
        ));
        text.push_str(&format!(
            "; scale {}",
            spread(tower.scales.iter().map(|(scale, count)| (scale, *count)))
        ));
    }
    let dtypes: Vec<&str> = tower.dtypes.keys().map(String::as_str).collect();
    text.push_str(&format!("; {}; {} numbers", dtypes.join(" and "), count(tower.numbers as u64)));
    text
}

/// One value as it is, a few with their counts, many as a range.
fn spread<T: std::fmt::Display>(values: impl Iterator<Item = (T, usize)>) -> String {
    let values: Vec<(T, usize)> = values.collect();
    match &values[..] {
        [(only, _)] => only.to_string(),
        few if few.len() <= 4 => {
            let each: Vec<String> = few.iter().map(|(value, count)| format!("{value} ({count}x)")).collect();
            each.join(", ")
        }
        [(first, _), .., (last, _)] => format!("{first} to {last}"),
        [] => String::new(),
    }
}

fn tokens(page: &mut Page, tokens: &[TokenSummary]) {
    let lines: Vec<String> = tokens
        .iter()
        .map(|token| {
            let width = match (token.width, token.width_2) {
                (Some(first), Some(second)) => format!("{first} and {second}"),
                (first, second) => first.or(second).unwrap_or(0).to_string(),
            };
            let norms: Vec<String> = token.norms.iter().take(8).map(|norm| format!("{norm:.4}")).collect();
            let more = if token.norms.len() > 8 { ", ..." } else { "" };
            format!(
                "{}: {}, {width} wide, norm {}{more}",
                clean(&token.token),
                plural(token.rows, "vector"),
                norms.join(", ")
            )
        })
        .collect();
    page.list("tokens", &lines, 20);
}

fn blocks(page: &mut Page, content: &AdapterContent) {
    if content.blocks.is_empty() {
        return;
    }
    let norm = content.norm.map_or("not finite".into(), |norm| format!("{norm:.4}"));
    page.text("change", &format!("|dW| = {norm} at strength 1; by block:"));
    let most = content.blocks.iter().filter_map(|block| block.norm).fold(0.0, f64::max);
    for block in &content.blocks {
        let (norm, bar) = match block.norm {
            Some(norm) => (format!("{norm:.4}"), bar(norm, most)),
            None => ("not finite".into(), String::new()),
        };
        let line = format!("{:24} {:>3} modules {norm:>10}  {bar}", block.block, block.modules);
        page.line(line.trim_end());
    }
}

fn health(page: &mut Page, content: &AdapterContent) {
    let mut lines = Vec::new();
    if content.not_finite.is_empty() {
        lines.push("all numbers are finite".to_owned());
    } else {
        lines.push(format!(
            "{} with NaN or infinity: it will not load, and pictures made elsewhere turn out black",
            plural(content.not_finite.len(), "tensor")
        ));
        let shown = content.not_finite.iter().take(SHOWN);
        lines.extend(shown.map(|(module, part, count)| format!("{}, {part}: {count}", clean(module))));
    }
    if !content.without_effect.is_empty() {
        let mut by_class: BTreeMap<&str, usize> = BTreeMap::new();
        for path in &content.without_effect {
            *by_class
                .entry(path.rsplit('.').find(|part| part.parse::<usize>().is_err()).unwrap_or(path))
                .or_default() += 1;
        }
        let classes: Vec<String> = by_class.iter().map(|(class, count)| format!("{count} {class}")).collect();
        lines.push(format!(
            "{} of {} change nothing ({})",
            plural(content.without_effect.len(), "module"),
            content.modules.len(),
            classes.join(", ")
        ));
    }
    page.list("health", &lines, lines.len());
}

/// What happens on a base.
pub fn fit(page: &mut Page, fit: &Fit) {
    let verdict = match fit.fits_whole {
        true => "it fits, every tensor has its place",
        false if fit.towers.values().any(|(changed, _)| *changed > 0) || !fit.new_tokens.is_empty() => {
            "it fits in part; it is refused without --allow-partial, which takes what fits"
        }
        false => "nothing of it fits",
    };
    page.text("on base", &format!("{}: {verdict}", clean(&fit.base)));
    let towers = fit.towers.iter().filter(|(_, (changed, _))| *changed > 0);
    let towers: Vec<String> = towers
        .map(|(tower, (changed, all))| format!("{tower}: {changed} of {all} modules changed"))
        .collect();
    if !towers.is_empty() {
        page.text("", &towers.join("; "));
    }
    if let Some(guess) = &fit.guess {
        page.text("", &clean(guess));
    }
    for (what, left) in [("do not fit", &fit.misfits), ("have no place", &fit.unmatched)] {
        if !left.is_empty() {
            page.text("", &format!("{} {what}:", left.len()));
            let lines: Vec<String> =
                left.iter().map(|left| format!("{}: {}", clean(&left.name), clean(&left.reason))).collect();
            page.list("", &lines, SHOWN);
        }
    }
    if !fit.new_tokens.is_empty() {
        page.text("", &format!("new tokens: {}", clean(&fit.new_tokens.join(", "))));
    }
    if !fit.known_tokens.is_empty() {
        page.text(
            "",
            &format!(
                "tokens that the base has already, and whose rows would be others: {}",
                clean(&fit.known_tokens.join(", "))
            ),
        );
    }
}

/// A line for every module.
pub fn modules(page: &mut Page, content: &AdapterContent) {
    page.text("modules", &format!("{}: norm, kind, rank, alpha, path", content.modules.len()));
    for module in &content.modules {
        let norm = module.norm.map_or("not finite".into(), |norm| format!("{norm:.4e}"));
        let rank = module.rank.map_or("-".into(), |rank| rank.to_string());
        let alpha = module.alpha.map_or("-".into(), |alpha| alpha.to_string());
        page.line(&format!("{norm:>10} {:8} {rank:>4} {alpha:>6}  {}", module.kind, module.path));
    }
}
