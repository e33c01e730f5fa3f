//! `scumble pretrain`: a base from nothing on the drawn little world, one recipe a stage. For maintainers and the curious.

use std::cell::Cell;
use std::path::PathBuf;

use clap::Args;

use scumble_pretrain::{Recipe, Report};

use crate::commands::stop;
use crate::context::Context;
use crate::failure::{Outcome, Result};

/// Options of `pretrain`.
#[derive(Args)]
pub struct PretrainArgs {
    /// Recipes, one TOML file a stage, in the order of the stages
    #[arg(required = true, value_name = "RECIPE")]
    recipes: Vec<PathBuf>,
    /// The folder of all stages
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Go on from the last checkpoint where there is one; finished stages are left alone
    #[arg(long)]
    resume: bool,
    /// Tell about every so many updates
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
}

/// Trains.
pub fn run(context: &Context, args: &PretrainArgs) -> Result {
    let recipes =
        args.recipes.iter().map(|path| Recipe::read(path)).collect::<std::result::Result<Vec<_>, _>>()?;
    let backend = context.backend()?;
    stop::listen()?;
    let stopped = stop::flag();
    for recipe in &recipes {
        let name = recipe.name();
        let sums = Cell::new((0.0, 0.0));
        let tell = |report: &Report| {
            let (loss, seconds) = sums.get();
            sums.set((loss + report.loss, seconds + report.seconds));
            if report.done.is_multiple_of(args.every) {
                let (loss, seconds) = sums.replace((0.0, 0.0));
                let pace = seconds / args.every as f64;
                context.terminal.status(&format!(
                    "{name}: {} of {}, loss {:.4}, {pace:.3} s an update, {:.0} min left",
                    report.done,
                    report.steps,
                    loss / args.every as f64,
                    pace * (report.steps - report.done) as f64 / 60.0,
                ));
            }
        };
        let done = scumble_pretrain::run(recipe, &args.out, args.resume, &backend, &tell, &stopped)?;
        if done < recipe.train.steps {
            context.terminal.status(&format!(
                "{name}: stopped after update {done}; go on with the same command and --resume"
            ));
            return Ok(Outcome::Interrupted);
        }
        let folder = scumble_pretrain::session::model_folder(&args.out, name);
        context.terminal.status(&format!("{name}: done, the model is in {}", folder.display()));
    }
    Ok(Outcome::Done)
}
