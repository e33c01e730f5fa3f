//! What merging, extracting and resizing tell about themselves: progress, a summary, a table, JSON.

use std::time::{Duration, Instant};

use scumble_adapter::rank::{LossReport, ModuleLoss};
use serde_json::{Value, json};

use crate::context::Context;
use crate::terminal::Progress;

/// What takes less than this needs no progress line.
const QUIET_START: Duration = Duration::from_secs(1);

/// Progress by modules.
pub struct Meter<'c> {
    context: &'c Context,
    total: usize,
    start: Instant,
}

impl<'c> Meter<'c> {
    /// Of so many modules.
    pub fn new(context: &'c Context, total: usize) -> Self {
        Self { context, total, start: Instant::now() }
    }

    /// Shows that `done` are done.
    pub fn show(&self, done: usize) {
        if self.start.elapsed() < QUIET_START {
            return;
        }
        self.context.terminal.progress(&Progress {
            unit: "module",
            done: done as u64,
            total: self.total as u64,
            done_here: done as u64,
            elapsed: self.start.elapsed(),
            extra: "",
        });
    }
}

/// The summary, and with `--verbose` a line a module.
pub fn tell(context: &Context, report: &LossReport) {
    for module in &report.modules {
        context.terminal.detail(&line(module));
    }
    let Some((low, high)) = report.ranks() else {
        return context.terminal.status("no modules");
    };
    let ranks = if low == high { format!("rank {low}") } else { format!("ranks {low} to {high}") };
    let mut text =
        format!("{} modules, {ranks}, {} of the change kept", report.modules.len(), percent(report.kept()));
    if let Some(worst) = report.worst().filter(|worst| worst.kept() < 1.0 - 1e-9) {
        text.push_str(&format!("; least in {} ({})", worst.path, percent(worst.kept())));
    }
    context.terminal.status(&text);
    if report.rounding > 0.0 {
        context.terminal.status(&format!(
            "storing rounds besides: the factors of a module move by up to {:.1e} of their norm",
            report.rounding
        ));
    }
}

fn line(module: &ModuleLoss) -> String {
    let before = module.rank_before.map_or("dense".to_owned(), |rank| rank.to_string());
    format!(
        "{before:>5} -> {:<4} norm {:<10.4e} error {:<10.4e} kept {:>7}  {}",
        module.rank,
        module.norm,
        module.error,
        percent(module.kept()),
        module.path
    )
}

/// Never `100 %` for what is not whole.
fn percent(fraction: f64) -> String {
    if fraction >= 1.0 - 1e-9 {
        return "100 %".into();
    }
    let percent = (fraction * 1e4).floor() / 1e2;
    format!("{percent:.2} %")
}

/// The whole report.
pub fn to_json(report: &LossReport) -> Value {
    let module = |module: &ModuleLoss| {
        json!({
            "module": module.path, "rank_before": module.rank_before, "rank": module.rank,
            "norm": module.norm, "error": module.error, "kept": module.kept(),
        })
    };
    json!({
        "kept": report.kept(),
        "modules": report.modules.iter().map(module).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_not_a_hundred() {
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.999_999), "99.99 %");
        assert_eq!(percent(0.5), "50.00 %");
    }
}
