//! How a model, a component or a file of unknown tensors is told.

use scumble_adapter::inspect::{Inspection, ModelContent, TensorContent, TensorSummary};

use super::page::{Page, bytes, clean, count, plural};

const SHOWN: usize = 5;

/// A model.
pub fn describe(page: &mut Page, found: &Inspection, content: &ModelContent) {
    let layout = match content.layout {
        "folder" => "a folder in diffusers' layout",
        "safetensors" => "a single safetensors file",
        _ => "a single torch file",
    };
    page.text("is", &format!("model, {layout}, {}", bytes(found.bytes)));
    page.text("family", &format!("{}, {}", content.family, content.purpose));
    if let (Some(prediction), Some(source)) = (&content.prediction, &content.prediction_source) {
        page.text("predicts", &format!("{prediction} ({source})"));
    }
    for part in &content.parts {
        page.text(part.part, &figures(&part.tensors));
    }
    if content.averaged > 0 {
        page.text(
            "averaged",
            &format!("{} of averaged weights (EMA) beside the others", plural(content.averaged, "tensor")),
        );
    }
    if !content.extras.is_empty() {
        let extras: Vec<String> =
            content.extras.iter().map(|(group, count)| format!("{} ({count})", clean(group))).collect();
        page.text("others", &extras.join(", "));
    }
    if !content.learned_tokens.is_empty() {
        page.text("tokens", &clean(&content.learned_tokens.join(", ")));
    }
    let left: Vec<String> = content.left_out.iter().map(|left| clean(left)).collect();
    page.list("left out", &left, SHOWN);
    if let Some(reason) = &content.not_runnable {
        page.text("not to run", &clean(reason));
    }
    let parts: Vec<(&str, &TensorSummary)> =
        content.parts.iter().map(|part| (part.part, &part.tensors)).collect();
    health(page, &parts);
}

/// A component, or something unknown.
pub fn tensors(page: &mut Page, found: &Inspection, content: &TensorContent) {
    let what = match content.component {
        Some(component) => format!("one component of a model, by its names a {component}"),
        None => "tensors of no known purpose".to_owned(),
    };
    page.text("is", &format!("{what}, {}", bytes(found.bytes)));
    if let Some(problem) = &content.problem {
        let lines: Vec<String> = problem.lines().map(clean).collect();
        page.list("because", &lines, lines.len());
    }
    page.text("tensors", &figures(&content.tensors));
    let groups: Vec<String> =
        content.groups.iter().map(|(group, count)| format!("{} ({count})", clean(group))).collect();
    if !groups.is_empty() {
        page.text("names", &groups.join(", "));
    }
    health(page, &[("", &content.tensors)]);
}

fn figures(tensors: &TensorSummary) -> String {
    let types: Vec<String> = match tensors.dtypes.len() {
        1 => tensors.dtypes.keys().cloned().collect(),
        _ => tensors.dtypes.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect(),
    };
    format!(
        "{}, {} numbers, {}, {}",
        plural(tensors.tensors, "tensor"),
        count(tensors.numbers),
        types.join(", "),
        bytes(tensors.bytes)
    )
}

fn health(page: &mut Page, parts: &[(&str, &TensorSummary)]) {
    if parts.iter().any(|(_, tensors)| !tensors.scanned) {
        return;
    }
    let named = |part: &str, tensor: &str| match part {
        "" => clean(tensor),
        _ => format!("{part}.{}", clean(tensor)),
    };
    let (mut bad, mut zero, mut lines) = (0, 0, Vec::new());
    let (mut bad_names, mut zero_names) = (Vec::new(), Vec::new());
    for (part, tensors) in parts {
        bad += tensors.findings.0;
        zero += tensors.findings.1;
        bad_names
            .extend(tensors.not_finite.iter().map(|(name, count)| format!("{}: {count}", named(part, name))));
        zero_names.extend(tensors.zero.iter().map(|name| named(part, name)));
    }
    if bad == 0 {
        lines.push("all numbers are finite".to_owned());
    } else {
        lines.push(format!("{} with NaN or infinity: {}", plural(bad, "tensor"), few(&bad_names, bad)));
    }
    if zero > 0 {
        lines.push(format!("{} zero throughout: {}", plural(zero, "tensor"), few(&zero_names, zero)));
    }
    page.list("health", &lines, lines.len());
}

fn few(names: &[String], all: usize) -> String {
    let shown = &names[..names.len().min(SHOWN)];
    let more = if all > shown.len() { format!(", and {} more", all - shown.len()) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
