//! `scumble train`: from a folder of pictures to an adapter file.

mod args;
mod layers;
pub mod report;

pub use args::TrainArgs;

use std::path::PathBuf;

use scumble_train::run::{self, Outcome as RunOutcome, Services, Start, Summary};
use scumble_train::{Result as TrainResult, TrainConfig};

use crate::commands::stop;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

use report::Watcher;

/// Trains, or with `--dry-run` tells what would be done.
pub fn run(context: &Context, args: &TrainArgs) -> Result {
    let threads = context.global.threads.map(std::num::NonZeroUsize::get);
    let resume = resume_path(args)?;
    let config = layers::config(args, threads, resume.as_deref())?;
    config.check()?;
    if let Some(kind) = config.kind {
        let settings = scumble_train::config::preset(kind)?.to_string();
        let lines: Vec<String> = settings.lines().map(|line| format!("  {line}")).collect();
        context
            .terminal
            .status(&format!("usual for kind `{kind}`, unless written otherwise:\n{}", lines.join("\n")));
    }
    let watcher = Watcher::new(context);
    let stop = stop::flag();
    let services = Services {
        backend: context.backend_with(config.train.threads)?,
        reporter: &watcher,
        stop: stop.as_ref(),
    };
    if args.dry_run {
        return dry_run(context, args, &config, &services);
    }
    let start = match &args.resume {
        None => Start::New,
        Some(_) => Start::Resume { from: resume, allow_changes: args.allow_changes },
    };
    stop::listen()?;
    finish(context, args, run::train(&config, &start, &services))
}

/// The path after `--resume`; `None` for `last`.
fn resume_path(args: &TrainArgs) -> Result<Option<PathBuf>> {
    match args.resume.as_deref() {
        None | Some("last") => Ok(None),
        Some(path) if PathBuf::from(path).exists() => Ok(Some(PathBuf::from(path))),
        Some(path) => Err(Failure::new(format!("there is no run or checkpoint at `{path}`"))
            .hint("give a run's folder, a file of its `checkpoints` folder, or `last`")),
    }
}

fn dry_run(context: &Context, args: &TrainArgs, config: &TrainConfig, services: &Services<'_>) -> Result {
    let plan = run::plan(config, services)?;
    let settings = config.resolved().to_toml()?;
    for warning in &plan.warnings {
        context.terminal.warning(warning);
    }
    if args.json {
        let value = serde_json::json!({ "plan": plan, "settings": settings });
        context.terminal.result(&value.to_string());
    } else {
        context.terminal.result(&report::plan_text(&plan));
        context.terminal.result(&format!("\n# settings\n{settings}"));
    }
    Ok(Outcome::Done)
}

fn finish(context: &Context, args: &TrainArgs, result: TrainResult<Summary>) -> Result {
    let summary = match result {
        Ok(summary) => summary,
        Err(scumble_train::TrainError::StoppedEarly) => {
            context.terminal.status("stopped before the first step; nothing was written");
            return Ok(Outcome::Interrupted);
        }
        Err(error) => return Err(error.into()),
    };
    if args.json {
        let text = serde_json::to_string(&summary).map_err(|error| Failure::new(error.to_string()))?;
        context.terminal.result(&text);
    } else {
        for adapter in &summary.adapters {
            context.terminal.result(&adapter.display().to_string());
        }
    }
    match summary.outcome {
        RunOutcome::Finished => Ok(Outcome::Done),
        RunOutcome::Interrupted => {
            let folder = summary.folder.display();
            context.terminal.status(&format!(
                "stopped after step {}; go on with `scumble train --resume {folder}`",
                summary.steps
            ));
            Ok(Outcome::Interrupted)
        }
    }
}
