//! `scumble runs`: what lies in a folder of training runs.

mod compare;
mod table;

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use scumble_train::run::catalog::{self, RunInfo};

use self::table::{Table, megabytes};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};
use crate::terminal::duration;

/// Where runs are, unless said otherwise.
const RUNS: &str = "runs";

/// Options of `runs`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble runs\n  \
    scumble runs list experiments\n  \
    scumble runs show runs/dog\n  \
    scumble runs compare runs/dog runs/dog-2 -o losses.png\n  \
    scumble runs delete runs/dog-2")]
pub struct RunsArgs {
    #[command(subcommand)]
    command: Option<RunsCommand>,
}

#[derive(Subcommand)]
enum RunsCommand {
    /// List the runs in a folder; this is also what `scumble runs` alone does
    List(ListArgs),
    /// Tell everything about one run: how far it came, what it saved, how to go on
    Show(ShowArgs),
    /// Tell what differs between runs, and draw their losses over each other
    Compare(compare::CompareArgs),
    /// Delete runs with everything in their folders
    Delete(DeleteArgs),
}

#[derive(Args)]
struct ListArgs {
    /// The folder that holds the runs
    #[arg(value_name = "FOLDER", default_value = RUNS)]
    folder: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ShowArgs {
    /// The run's folder, or its name in `runs`
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct DeleteArgs {
    /// The runs' folders, or their names in `runs`
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
}

/// Does what was asked.
pub fn run(context: &Context, args: &RunsArgs) -> Result {
    match &args.command {
        None => list(context, &ListArgs { folder: RUNS.into(), json: false }),
        Some(RunsCommand::List(args)) => list(context, args),
        Some(RunsCommand::Show(args)) => show(context, args),
        Some(RunsCommand::Compare(args)) => compare::run(context, args),
        Some(RunsCommand::Delete(args)) => delete(context, args),
    }
}

fn list(context: &Context, args: &ListArgs) -> Result {
    if !args.folder.is_dir() {
        return Err(Failure::new(format!("there is no folder `{}`", args.folder.display()))
            .hint("say where runs are: scumble runs list FOLDER"));
    }
    let runs = catalog::list(&args.folder)?;
    if args.json {
        context.terminal.result(&serde_json::json!(runs).to_string());
        return Ok(Outcome::Done);
    }
    if runs.is_empty() {
        context.terminal.status(&format!("no runs in `{}`", args.folder.display()));
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["run", "state", "steps", "loss", "time", "size", "method", "base"]);
    for run in &runs {
        let config = run.config.as_ref();
        table.row(vec![
            run.name.clone(),
            run.state.to_string(),
            steps(run),
            loss(run),
            duration_of(run),
            megabytes(run.bytes),
            config.map(|config| config.method.to_string()).unwrap_or_default(),
            config.map(|config| short_base(&config.base.model)).unwrap_or_default(),
        ]);
    }
    context.terminal.result(&table.to_string());
    Ok(Outcome::Done)
}

fn show(context: &Context, args: &ShowArgs) -> Result {
    let run = RunInfo::open(&find(&args.run)?)?;
    if args.json {
        context.terminal.result(&serde_json::json!(run).to_string());
        return Ok(Outcome::Done);
    }
    let mut lines = vec![
        format!("{}: {}, {} steps", run.path.display(), run.state, steps(&run)),
        format!("loss {}, {} of training, {}", loss(&run), duration_of(&run), megabytes(run.bytes)),
    ];
    if let Some(problem) = &run.problem {
        lines.push(format!("its config.toml can't be read: {problem}"));
    }
    if let Some(config) = &run.config {
        lines.push(format!("method {}, base {}", config.method, config.base.model));
        lines.push(format!("pictures {}", config.data.folder.display()));
    }
    if !run.saved.is_empty() {
        lines.push("saved:".to_owned());
        lines.extend(run.saved.iter().map(|saved| format!("  {}", saved.path.display())));
    }
    let pictures =
        ["before-after.png", "samples.png", "samples.gif", "loss.png"].map(|name| run.path.join(name));
    let pictures: Vec<_> = pictures.iter().filter(|path| path.exists()).collect();
    if !pictures.is_empty() {
        lines.push("pictures:".to_owned());
        lines.extend(pictures.iter().map(|path| format!("  {}", path.display())));
    }
    if run.can_resume() {
        lines.push(format!("go on: scumble train --resume {}", run.path.display()));
    }
    context.terminal.result(&lines.join("\n"));
    Ok(Outcome::Done)
}

fn delete(context: &Context, args: &DeleteArgs) -> Result {
    // All are looked at before any is deleted.
    let mut runs = Vec::new();
    for run in &args.runs {
        let run = RunInfo::open(&find(run)?)?;
        if run.state == catalog::State::Running {
            return Err(scumble_train::TrainError::RunBusy { path: run.path }.into());
        }
        runs.push(run);
    }
    if !args.yes {
        for run in &runs {
            let text = format!(
                "{}: {}, {} steps, {}",
                run.path.display(),
                run.state,
                steps(run),
                megabytes(run.bytes)
            );
            context.terminal.status(&text);
        }
        if !std::io::stdin().is_terminal() {
            return Err(
                Failure::usage("deleting needs a yes").hint("pass --yes to delete without being asked")
            );
        }
        context.terminal.error_text("delete them with everything inside? [y/N] ");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).ok();
        if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            return Err(Failure::new("nothing was deleted"));
        }
    }
    for run in &runs {
        catalog::delete(&run.path)?;
        context.terminal.status(&format!("deleted {}", run.path.display()));
    }
    Ok(Outcome::Done)
}

/// A run's folder as typed, or its name in `runs`.
fn find(run: &Path) -> Result<PathBuf> {
    let in_runs = Path::new(RUNS).join(run);
    match [run, &in_runs].into_iter().find(|path| path.exists()) {
        Some(path) => Ok(path.to_owned()),
        None => Err(Failure::new(format!("there is no run `{}`", run.display()))
            .hint("scumble runs lists those there are")),
    }
}

fn steps(run: &RunInfo) -> String {
    format!("{}/{}", run.step, run.steps.map_or("?".to_owned(), |steps| steps.to_string()))
}

fn loss(run: &RunInfo) -> String {
    run.loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"))
}

fn duration_of(run: &RunInfo) -> String {
    duration(run.seconds)
}

/// A base's name without its folders.
fn short_base(base: &str) -> String {
    let path = Path::new(base);
    if path.is_absolute() {
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    } else {
        base.to_owned()
    }
}
