//! `scumble runs compare`: settings that differ, results, and the losses over each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use scumble_train::picture::png;
use scumble_train::plot::overlay::{self, MOST_SERIES, Series};
use scumble_train::run::catalog::RunInfo;

use super::table::{Table, megabytes};
use super::{duration_of, find, loss, steps};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Options of `runs compare`.
#[derive(Args)]
pub struct CompareArgs {
    /// Two or more runs: their folders, or their names in `runs`
    #[arg(value_name = "RUN", num_args = 2.., required = true)]
    runs: Vec<PathBuf>,
    /// Draw their losses over each other into this .png
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the picture if it is there already
    #[arg(long, requires = "out")]
    force: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Compares.
pub fn run(context: &Context, args: &CompareArgs) -> Result {
    if let Some(out) = &args.out {
        check_out(out, args)?;
    }
    let mut runs = Vec::new();
    for run in &args.runs {
        runs.push(RunInfo::open(&find(run)?)?);
    }
    let settings = differing(&runs)?;
    if args.json {
        let value = serde_json::json!({ "runs": runs, "differing": settings });
        context.terminal.result(&value.to_string());
    } else {
        context.terminal.result(&table(&runs, &settings).to_string());
    }
    if let Some(out) = &args.out {
        let series = runs.iter().map(|run| Ok(Series { name: run.name.clone(), points: run.losses()? }));
        let series: Vec<Series> = series.collect::<scumble_train::Result<_>>()?;
        png::write(out, &overlay::render("loss", "step", &series), &[])?;
        context.terminal.status(&format!("drew {}", out.display()));
    }
    Ok(Outcome::Done)
}

fn check_out(out: &std::path::Path, args: &CompareArgs) -> Result<()> {
    if !out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png")) {
        return Err(Failure::usage(format!("`{}` does not end in .png", out.display()))
            .hint("the plot is written as PNG"));
    }
    if out.exists() && !args.force {
        return Err(Failure::new(format!("`{}` is there already", out.display()))
            .hint("choose another --out, or pass --force to replace it"));
    }
    if args.runs.len() > MOST_SERIES {
        return Err(Failure::usage(format!("a plot holds at most {MOST_SERIES} runs"))
            .hint("leave --out away, or name fewer runs"));
    }
    Ok(())
}

/// Settings that are not the same in all runs: for each the value in every run, "" where it is unset.
fn differing(runs: &[RunInfo]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut all: Vec<BTreeMap<String, String>> = Vec::new();
    for run in runs {
        let mut settings = BTreeMap::new();
        if let Some(config) = &run.config {
            settings = config.resolved().deciding()?;
            settings.insert("base.model".to_owned(), config.base.model.clone());
            settings.insert("data.folder".to_owned(), config.data.folder.display().to_string());
        }
        all.push(settings);
    }
    let mut keys: Vec<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    let values = |key: &String| -> Vec<String> {
        all.iter().map(|settings| settings.get(key).cloned().unwrap_or_default()).collect()
    };
    let differs = |values: &Vec<String>| values.windows(2).any(|pair| pair[0] != pair[1]);
    Ok(keys.into_iter().map(|key| (key.clone(), values(key))).filter(|(_, values)| differs(values)).collect())
}

fn table(runs: &[RunInfo], settings: &BTreeMap<String, Vec<String>>) -> Table {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let mut table = Table::new(&[&[""], names.as_slice()].concat());
    let mut row = |name: &str, cell: &dyn Fn(&RunInfo) -> String| {
        table.row(std::iter::once(name.to_owned()).chain(runs.iter().map(cell)).collect());
    };
    row("state", &|run| run.state.to_string());
    row("steps", &steps);
    row("loss", &loss);
    row("time", &duration_of);
    row("size", &|run| megabytes(run.bytes));
    for (key, values) in settings {
        let shown = values.iter().map(|value| match value.as_str() {
            "" => "-".to_owned(),
            value => value.chars().take(40).collect(),
        });
        table.row(std::iter::once(key.clone()).chain(shown).collect());
    }
    table
}
