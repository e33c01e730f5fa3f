//! `scumble bench quality`: ways of training compared by what they learn, what they break and what they cost.

use std::path::PathBuf;

use clap::Args;
use scumble_eval::quality::{self, Comparison, Method, Rates, Services, report};
use scumble_model::base::embedded;
use scumble_model::files::atomic_write;
use scumble_paint::request::Request;
use scumble_train::config::Precision;
use scumble_train::picture::png;
use scumble_train::run::event::{Event, Reporter};
use scumble_world::novel::Set;
use serde_json::json;

use crate::commands::eval::{judge_folder, open_judge};
use crate::commands::generate::{BaseOptions, open_base};
use crate::commands::stop;
use crate::commands::train::report::Watcher;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Options of `bench quality`.
#[derive(Args)]
pub struct QualityArgs {
    /// The base that learns
    #[arg(long, value_name = "MODEL", default_value = embedded::NAME)]
    base: String,
    /// The CLIP model that judges: a folder in transformers' layout [default for the embedded base: embedded]
    #[arg(long, value_name = "FOLDER")]
    clip: Option<PathBuf>,
    /// New folder for tables, sheets and adapters
    #[arg(short, long, value_name = "FOLDER", default_value = "quality")]
    out: PathBuf,
    /// Subjects and styles to learn: robot, monster, owl, neon, blueprint, chalk
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "robot,neon", value_parser = set)]
    sets: Vec<Set>,
    /// Ways to learn: textual-inversion, lora, lora-text, pivotal, pivotal-single, full, full-prior (the default), lora-conv, dora, loha, lokr
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    methods: Vec<Method>,
    /// Updates of each training
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    steps: u64,
    /// Trainings of each method, with seeds from 0 on; their pictures are judged together
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=1000))]
    trainings: u64,
    /// Compare at equal numbers of updates only, not at equal time
    #[arg(long)]
    no_equal_time: bool,
    /// Pictures in each update
    #[arg(long, value_name = "N", default_value = "4")]
    batch: std::num::NonZeroUsize,
    /// Width of the adapters' factors
    #[arg(long, value_name = "N", default_value = "32")]
    rank: std::num::NonZeroUsize,
    /// Learning rate of factors on the UNet
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().lora)]
    lr_lora: f64,
    /// Learning rate of factors on the text encoder
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().text)]
    lr_text: f64,
    /// Learning rate of new words
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().tokens)]
    lr_tokens: f64,
    /// Learning rate of whole weights
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().full)]
    lr_full: f64,
    /// Strengths beside 1 at which the adapter on the UNet is worn and judged
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "0.9,0.7", value_parser = strength)]
    strengths: Vec<f64>,
    /// Class pictures for prior preservation
    #[arg(long, value_name = "N", default_value = "32")]
    class_count: std::num::NonZeroUsize,
    /// Pictures for each prompt
    #[arg(long, value_name = "N", default_value = "4")]
    seeds: std::num::NonZeroUsize,
    /// Prompts without the trigger, on which drift is measured
    #[arg(long, value_name = "N", default_value = "16")]
    drift_prompts: std::num::NonZeroUsize,
    /// Steps of each painting
    #[arg(long, value_name = "N", default_value_t = 20)]
    paint_steps: usize,
    /// How closely paintings follow their text
    #[arg(long, value_name = "NUMBER", default_value_t = 4.0)]
    guidance: f64,
    /// Sampler of the paintings [default: the base's own]
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// Numbers to compute in
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: Precision,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

fn set(name: &str) -> std::result::Result<Set, String> {
    let names: Vec<&str> = Set::ALL.iter().map(|set| set.name()).collect();
    Set::named(name).ok_or_else(|| format!("there are {}", names.join(", ")))
}

fn strength(text: &str) -> std::result::Result<f64, String> {
    let number = text.trim().parse().ok().filter(|number| (0.0..1.0).contains(number));
    number.ok_or_else(|| "expected numbers from 0 to less than 1, such as 0.9,0.7".to_owned())
}

/// Hears of trainings: their progress only, of plans and phases there would be too many.
struct Quiet<'a>(Watcher<'a>);

impl Reporter for Quiet<'_> {
    fn event(&self, event: Event) {
        if matches!(event, Event::Step { .. } | Event::Warning(_) | Event::Progress { .. }) {
            self.0.event(event);
        }
    }
}

/// Compares and prints.
pub fn run(context: &Context, args: &QualityArgs) -> Result {
    let comparison = comparison(args);
    comparison.painting.check()?;
    if args.out.exists() {
        return Err(Failure::new(format!("`{}` is there already", args.out.display()))
            .hint("name a new folder with --out"));
    }
    stop::listen()?;
    let backend = context.backend()?;
    let clip = judge_folder(args.clip.as_deref(), Some(&args.base))?;
    let judge = open_judge(context, &clip, &backend)?;
    context.terminal.status(&format!("loading {}", args.base));
    let options = BaseOptions {
        base: Some(args.base.clone()),
        variant: None,
        prediction: None,
        offline: false,
        precision: args.precision,
    };
    let files = open_base(context, &args.base, &options)?;
    scumble_paint::studio::check(&files, &comparison.painting)?;
    let (watcher, stop) = (Quiet(Watcher::new(context)), stop::flag());
    let phase = |text: &str| context.terminal.status(text);
    let services = Services { backend, reporter: &watcher, stop: stop.as_ref(), phase: &phase };
    let Some(outcome) = quality::compare(&comparison, &files, &judge, &services)? else {
        context.terminal.status(&format!("stopped; what was made is in {}", args.out.display()));
        return Ok(Outcome::Interrupted);
    };
    for (name, sheet) in &outcome.sheets {
        png::write(&args.out.join(format!("{name}.png")), &sheet.render(), &[])?;
    }
    let settings = json!({
        "base": args.base, "clip": judge.name(), "steps": args.steps, "trainings": args.trainings, "batch": args.batch, "rank": args.rank,
        "rates": comparison.rates, "strengths": comparison.strengths, "class_count": args.class_count, "seeds": args.seeds,
        "drift_prompts": args.drift_prompts, "paint_steps": args.paint_steps, "guidance": args.guidance,
        "precision": args.precision.name(), "version": env!("CARGO_PKG_VERSION"),
    });
    let json = json!({ "settings": settings, "trials": outcome.trials }).to_string();
    let keep = |name: &str, text: &str| {
        atomic_write(&args.out.join(name), |file| std::io::Write::write_all(file, text.as_bytes()))
    };
    keep("trials.json", &json)?;
    keep("tables.md", &report::markdown(&outcome.trials))?;
    if args.json {
        context.terminal.result(&json);
    } else {
        context.terminal.result(&report::text(&outcome.trials));
        context.terminal.status(&format!("tables, sheets and adapters are in {}", args.out.display()));
    }
    Ok(Outcome::Done)
}

fn comparison(args: &QualityArgs) -> Comparison {
    let methods = if args.methods.is_empty() { Method::USUAL.to_vec() } else { args.methods.clone() };
    Comparison {
        base: args.base.clone(),
        sets: args.sets.clone(),
        methods,
        steps: args.steps,
        trainings: args.trainings,
        equal_time: !args.no_equal_time,
        batch: args.batch.get(),
        rank: args.rank.get(),
        rates: Rates { lora: args.lr_lora, text: args.lr_text, tokens: args.lr_tokens, full: args.lr_full },
        strengths: args.strengths.clone(),
        class_count: args.class_count.get(),
        seeds: (0..args.seeds.get() as u64).collect(),
        drift_prompts: args.drift_prompts.get(),
        painting: Request {
            steps: args.paint_steps,
            guidance: args.guidance,
            sampler: args.sampler.clone(),
            ..Request::default()
        },
        precision: args.precision,
        out: args.out.clone(),
    }
}
