//! `scumble demo`: a base learns something new before your eyes.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use scumble_eval::demo::{self, Demo, Shown};
use scumble_eval::gallery::Place;
use scumble_eval::quality::{Rates, Services};
use scumble_model::base::embedded;
use scumble_paint::request::Request;
use scumble_train::config::Precision;
use scumble_world::novel::Set;

use super::generate::{BaseOptions, open_base};
use super::train::report::Watcher;
use crate::commands::{progress, stop};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};
use crate::terminal::{Paint, duration};

/// Options of `demo`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  scumble demo\n  scumble demo --subject owl\n  scumble demo --style neon --out neon-demo"
)]
pub struct DemoArgs {
    /// What it learns: pumpkin, robot, monster or owl [default: pumpkin]
    #[arg(long, value_name = "NAME", value_parser = subject, conflicts_with = "style")]
    subject: Option<Set>,
    /// Learn a way of drawing instead: neon, blueprint or chalk
    #[arg(long, value_name = "NAME", value_parser = style)]
    style: Option<Set>,
    /// The base that learns: a diffusers folder or a file
    #[arg(long, value_name = "MODEL", default_value = embedded::NAME)]
    base: String,
    /// Folder for pictures, adapter and plot; a number is added where it is taken
    #[arg(short, long, value_name = "FOLDER", default_value = "scumble-demo")]
    out: PathBuf,
    /// Updates
    #[arg(long, value_name = "N", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    steps: u64,
    /// Pictures in each update
    #[arg(long, value_name = "N", default_value = "4")]
    batch: std::num::NonZeroUsize,
    /// Width of the adapter's factors
    #[arg(long, value_name = "N", default_value = "8")]
    rank: std::num::NonZeroUsize,
    /// Learning rate of the adapter on the UNet
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    lr: f64,
    /// Where the noise of the paintings starts
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Steps of each painting
    #[arg(long, value_name = "N", default_value_t = 20)]
    paint_steps: usize,
    /// How closely paintings follow their text
    #[arg(long, value_name = "NUMBER", default_value_t = 4.0)]
    guidance: f64,
    /// Numbers to compute in
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: Precision,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

fn subject(name: &str) -> std::result::Result<Set, String> {
    named(name, false)
}

fn style(name: &str) -> std::result::Result<Set, String> {
    named(name, true)
}

fn named(name: &str, is_style: bool) -> std::result::Result<Set, String> {
    let of_kind = || Set::ALL.into_iter().filter(|set| set.style().is_some() == is_style);
    let names: Vec<&str> = of_kind().map(Set::name).collect();
    of_kind().find(|set| set.name() == name).ok_or_else(|| format!("there are {}", names.join(", ")))
}

/// Shows it.
pub fn run(context: &Context, args: &DemoArgs) -> Result {
    let began = Instant::now();
    let base = args.base.clone();
    let demo = Demo {
        base: base.clone(),
        set: args.style.or(args.subject).unwrap_or(Set::Pumpkin),
        steps: args.steps,
        batch: args.batch.get(),
        rank: args.rank.get(),
        rates: Rates { lora: args.lr, ..Rates::default() },
        painting: Request {
            seed: args.seed,
            steps: args.paint_steps,
            guidance: args.guidance,
            ..Request::default()
        },
        precision: args.precision,
        out: free(&args.out),
    };
    stop::listen()?;
    let options = BaseOptions {
        base: Some(base.clone()),
        variant: None,
        prediction: None,
        offline: false,
        precision: args.precision,
    };
    let terminal = &context.terminal;
    terminal.status(&format!("loading {base}"));
    let files = open_base(context, &base, &options)?;
    scumble_paint::studio::check(&files, &demo.painting)?;
    let watcher = Watcher::new(context);
    let stop = stop::flag();
    let phase = |text: &str| terminal.status(text);
    let services =
        Services { backend: context.backend()?, reporter: &watcher, stop: stop.as_ref(), phase: &phase };
    let mut start = Instant::now();
    let mut watch = |place: Place| {
        if place.done == 0 && place.step.done <= 1 {
            start = Instant::now();
        }
        progress::pictures(context, "painting", &place, &start);
    };
    let Some(shown) = demo::run(&demo, &files, &services, &mut watch)? else {
        terminal.status(&format!("stopped; what was made is in {}", demo.out.display()));
        return Ok(Outcome::Interrupted);
    };
    if args.json {
        let text = serde_json::to_string(&shown).map_err(|error| Failure::new(error.to_string()))?;
        terminal.result(&text);
    } else {
        tell(context, &demo, &shown, began.elapsed().as_secs_f64());
    }
    Ok(Outcome::Done)
}

/// `out`, or with a number behind it where that is taken.
fn free(out: &std::path::Path) -> PathBuf {
    let numbered = |number: u32| match number {
        1 => out.to_owned(),
        _ => {
            let name = out.file_name().unwrap_or_default().to_string_lossy();
            out.with_file_name(format!("{name}-{number}"))
        }
    };
    (1..).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| out.to_owned())
}

fn tell(context: &Context, demo: &Demo, shown: &Shown, seconds: f64) {
    let (terminal, name) = (&context.terminal, shown.name);
    let (what, sentence) = match demo.set.style() {
        Some(_) => ("style", format!("a big yellow fish on the sea, in <{name}> style")),
        None => ("subject", format!("a <{name}> on a hill under white clouds, pixelated")),
    };
    let (base, adapter) = (&demo.base, shown.adapter.display());
    terminal.status(&format!(
        "\n{} pictures taught the base a new {what}, `<{name}>`: {} updates of {} numbers in {}, {} in all.\n",
        scumble_world::novel::PICTURES,
        shown.steps,
        shown.trained,
        duration(shown.train_seconds),
        duration(seconds),
    ));
    for (path, about) in [
        (&shown.sheet, "look at this: without, with half and with all of the adapter"),
        (&shown.adapter, "the adapter"),
        (&shown.plot, "the loss"),
        (&demo.out.join("pictures"), "what it learned from"),
    ] {
        terminal.status(&format!("  {:<44} {about}", path.display().to_string()));
    }
    let next = terminal.paint(Paint::Hint, "try next:");
    let other = if demo.set.style().is_some() { "--subject owl" } else { "--style neon" };
    let with_base = if base == embedded::NAME { String::new() } else { format!(" --base {base}") };
    terminal.status(&format!(
        "\n{next}\n  scumble generate --base {base} -p \"{sentence}\" --adapter {adapter}:0.8 --count 4 -o more\n  \
         scumble train --config {} --set train.steps={}\n  scumble demo {other}{with_base}\n",
        shown.config.display(),
        demo.steps * 3,
    ));
    terminal.result(&shown.sheet.display().to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_folder_gets_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("demo");
        assert_eq!(free(&out), out);
        std::fs::create_dir(&out).unwrap();
        assert_eq!(free(&out), folder.path().join("demo-2"));
    }

    #[test]
    fn subjects_are_no_styles() {
        assert_eq!(subject("owl"), Ok(Set::Owl));
        assert!(subject("neon").unwrap_err().contains("robot, monster, owl, pumpkin"));
        assert!(style("owl").unwrap_err().contains("neon, blueprint, chalk"));
    }
}
