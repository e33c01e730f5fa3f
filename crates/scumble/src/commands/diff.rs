//! `scumble diff`: how two adapters differ.

use std::path::PathBuf;

use clap::Args;
use scumble_adapter::dialect::{FileKind, LoadReport};
use scumble_adapter::diff::{Difference, ModuleDifference, difference, load_pair};
use scumble_model::files::open_any;
use serde_json::json;

use super::inspect::page::{Page, bar, clean, plural};
use crate::commands::adapter_files::table_for;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Modules that are written out without `--modules`.
const SHOWN: usize = 8;

/// Options of `diff`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble diff cat-400.safetensors cat-500.safetensors\n  \
    scumble diff mine.safetensors theirs.safetensors --modules\n  \
    scumble diff a.safetensors b.pt --json")]
pub struct DiffArgs {
    /// One adapter
    #[arg(value_name = "A")]
    first: PathBuf,
    /// The other
    #[arg(value_name = "B")]
    second: PathBuf,
    /// The base they were made for: sd1, sd2, sdxl, or a model [default: told by names and sizes]
    #[arg(long = "for", value_name = "BASE")]
    base: Option<String>,
    /// A line for every module
    #[arg(long, conflicts_with = "json")]
    modules: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Compares.
pub fn run(context: &Context, args: &DiffArgs) -> Result {
    let table = args.base.as_deref().map(table_for).transpose()?;
    for file in [&args.first, &args.second] {
        refuse_models(file)?;
    }
    let [(first, report_first), (second, report_second)] =
        load_pair(&args.first, &args.second, table.as_ref())?;
    for (file, report) in [(&args.first, &report_first), (&args.second, &report_second)] {
        if !report.is_complete() {
            context.terminal.warning(&format!("{}: {report}; the rest is compared", file.display()));
        }
    }
    let found = difference(&first, &second, context.threads())?;
    if args.json {
        let mut value = serde_json::to_value(&found).unwrap_or_default();
        value["first"] = json!(args.first);
        value["second"] = json!(args.second);
        value["dialects"] = json!([report_first.dialect, report_second.dialect]);
        context.terminal.result(&value.to_string());
    } else {
        context.terminal.result(&page(args, &found, [&report_first, &report_second]));
    }
    Ok(Outcome::Done)
}

/// Whole models have another command.
fn refuse_models(file: &std::path::Path) -> Result<()> {
    let hint = "`scumble extract --base A --tuned B` tells what changed between two models";
    if file.is_dir() {
        return Err(Failure::new(format!("`{}` is a folder, not an adapter", file.display())).hint(hint));
    }
    match FileKind::of(&*open_any(file)?) {
        FileKind::Checkpoint | FileKind::Component(_) => {
            Err(Failure::new(format!("`{}` is a model, not an adapter", file.display())).hint(hint))
        }
        _ => Ok(()),
    }
}

fn page(args: &DiffArgs, found: &Difference, reports: [&LoadReport; 2]) -> String {
    let mut page = Page::new();
    page.head(&format!("{} and {}", args.first.display(), args.second.display()));
    if reports[0].dialect != reports[1].dialect {
        page.text("dialects", &format!("{} and {}", reports[0].dialect, reports[1].dialect));
    }
    if found.same {
        page.text("result", "the same: every module, alpha, token and number");
    }
    let common = found.modules.len();
    let changed: Vec<&ModuleDifference> = found.modules.iter().filter(|module| !module.same).collect();
    page.text(
        "modules",
        &format!("{common} in both, of which {} are the same byte for byte", common - changed.len()),
    );
    page.list("only in A", &found.only_first, SHOWN);
    page.list("only in B", &found.only_second, SHOWN);
    let norms = found.norms.map(|norm| norm.map_or("not finite".into(), |norm| format!("{norm:.4}")));
    page.text(
        "change",
        &format!(
            "|dA| = {}, |dB| = {}; cosine {}, |dA - dB| / |dA| = {}",
            norms[0],
            norms[1],
            figure(found.cosine),
            figure(found.distance)
        ),
    );
    let unlike: Vec<String> = changed
        .iter()
        .filter(|module| !module.unlike.is_empty())
        .map(|module| format!("{}: {}", module.path, module.unlike.join(", ")))
        .collect();
    if !unlike.is_empty() {
        page.text("unlike", &format!("{} in kind, rank, alpha or type", plural(unlike.len(), "module")));
        page.list("", &unlike, if args.modules { unlike.len() } else { SHOWN });
    }
    modules(&mut page, args, changed);
    let tokens: Vec<String> = found
        .tokens
        .iter()
        .map(|token| match token.of {
            "both" => format!(
                "{}: cosine {}, distance {}",
                clean(&token.token),
                figure(token.cosine),
                figure(token.distance)
            ),
            "first" => format!("{}: only in A", clean(&token.token)),
            _ => format!("{}: only in B", clean(&token.token)),
        })
        .collect();
    page.list("tokens", &tokens, 20);
    if !found.metadata.is_empty() {
        page.text("metadata", &format!("unlike in {}", clean(&found.metadata.join(", "))));
    }
    page.finish()
}

/// The modules that are farthest apart, or all in their order.
fn modules(page: &mut Page, args: &DiffArgs, mut changed: Vec<&ModuleDifference>) {
    if changed.is_empty() {
        return;
    }
    let all = changed.len();
    if !args.modules {
        changed.sort_by(|a, b| {
            let far = |module: &ModuleDifference| module.distance.unwrap_or(f64::INFINITY);
            far(b).total_cmp(&far(a)).then_with(|| a.path.cmp(&b.path))
        });
        changed.truncate(SHOWN);
    }
    let title = match all == changed.len() {
        true => "cosine, distance, path".to_owned(),
        false => format!("cosine, distance, path of the {SHOWN} that are farthest apart, of {all}"),
    };
    page.text("by module", &title);
    let most = changed.iter().filter_map(|module| module.distance).fold(0.0, f64::max);
    for module in changed {
        let drawn = module.distance.map(|distance| bar(distance, most)).unwrap_or_default();
        let line =
            format!("{:>8} {:>8}  {}  {drawn}", figure(module.cosine), figure(module.distance), module.path);
        page.line(line.trim_end());
    }
}

fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(0.0) => "0".into(),
        Some(value) if value.abs() < 1e-4 => format!("{value:.1e}"),
        Some(value) => format!("{value:.4}"),
    }
}
