//! `scumble eval`: how well pictures show what their texts say, how much they look like the subject, and what tuning did
//! to everything else, in numbers of a CLIP model.

mod options;
mod output;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use scumble_eval::evaluate::{self, Alignment, Drift, Judged};
use scumble_eval::gallery::{self, Place, Wear};
use scumble_eval::prompts::Prompt;
use scumble_eval::retrieval::{HeldOut, Retrieval};
use scumble_eval::{Embedding, Judge, pictures};
use scumble_model::base::embedded;
use scumble_model::clip::ClipFiles;
use scumble_paint::request::Request;
use scumble_paint::studio::{self, Studio};
use scumble_tensor::Backend;
use scumble_train::picture::Picture;
use serde::Serialize;

pub use self::options::EvalArgs;
use super::generate::{BaseOptions, open_base};
use crate::commands::{progress, stop};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};
use crate::terminal::Progress;

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    clip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    #[serde(flatten)]
    alignment: Option<Alignment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<Drift>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<HeldOutReport>,
}

/// How often the judge finds captions of the little world.
#[derive(Serialize)]
struct HeldOutReport {
    /// From true pictures: how good the judge is.
    drawn: Retrieval,
    /// From painted ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    painted: Option<Retrieval>,
}

/// Ended by Ctrl-C on the way.
struct Stopped;

/// A result, unless somebody stopped it.
type Unless<T> = Result<std::result::Result<T, Stopped>>;

/// Carries a value on, or ends the command as interrupted.
macro_rules! unless_stopped {
    ($result:expr) => {
        match $result? {
            Ok(value) => value,
            Err(Stopped) => return Ok(Outcome::Interrupted),
        }
    };
}

/// Judges and prints.
pub fn run(context: &Context, args: &EvalArgs) -> Result {
    let plan = args.plan()?;
    output::check(args)?;
    stop::listen()?;
    let backend = context.backend()?;
    let world = args.held_out.map(|_| embedded::NAME);
    let clip = judge_folder(args.clip.as_deref(), args.base.base.as_deref().or(world))?;
    let judge = open_judge(context, &clip, &backend)?;
    let held_out = args.held_out.map(|count| HeldOut::new(0, count)).transpose()?;
    let mut report = Report {
        clip: judge.name().to_owned(),
        base: args.base.base.clone(),
        alignment: None,
        drift: None,
        held_out: None,
    };
    let references = match &args.references {
        Some(folder) => references(context, &judge, folder)?,
        None => Vec::new(),
    };
    if let Some(folder) = &args.pictures {
        let judged = from_folder(context, args, &judge, folder)?;
        report.alignment = Some(evaluate::alignment(&judge, &judged, &references)?);
    }
    let mut painted_held_out = None;
    if let Some(base) = &args.base.base {
        let options = args.base.options();
        context.terminal.status(&format!("loading {base}"));
        let files = open_base(context, base, &options)?;
        let wear = Wear { folders: args.adapters.folders(), partial: args.adapters.allow_partial };
        let requests = gallery::requests(&painted(&plan.prompts), &args.seeds(), &plan.common);
        let drifting = gallery::requests(&plan.drift, &args.seeds(), &plan.common);
        for request in requests.iter().chain(&drifting) {
            studio::check(&files, request)?;
        }
        let studio = Studio::open(&files, Arc::clone(&backend), options.precision.dtype())?;
        if !requests.is_empty() {
            let pictures = unless_stopped!(paint(context, &studio, &requests, &wear, "painting"));
            let judged = from_requests(&judge, &plan.prompts, args.seeds().len(), &requests, &pictures)?;
            let alignment = evaluate::alignment(&judge, &judged, &references)?;
            output::keep(context, args, base, &studio, &requests, &pictures, &alignment)?;
            report.alignment = Some(alignment);
        }
        if let Some(held_out) = &held_out {
            let requests = gallery::requests(held_out.captions(), &[plan.common.seed], &plan.common);
            painted_held_out = Some(unless_stopped!(paint(
                context,
                &studio,
                &requests,
                &wear,
                "painting held-out captions"
            )));
        }
        if !drifting.is_empty() {
            let tuned =
                unless_stopped!(paint(context, &studio, &drifting, &wear, "painting without the trigger"));
            let bare = drifting.iter().map(gallery::bare).collect::<scumble_eval::Result<Vec<_>>>()?;
            let original = match &args.original {
                Some(original) => {
                    drop(studio);
                    context.terminal.status(&format!("loading {original}"));
                    // A tuned folder may come of a single file, which has no variants.
                    let is_file = std::path::Path::new(original).is_file();
                    let variant = options.variant.clone().filter(|_| !is_file);
                    let options = BaseOptions { variant, ..args.base.options() };
                    Studio::open(
                        &open_base(context, original, &options)?,
                        Arc::clone(&backend),
                        options.precision.dtype(),
                    )?
                }
                None => studio,
            };
            let base =
                unless_stopped!(paint(context, &original, &bare, &wear, "painting with the base alone"));
            let texts: Vec<String> = bare.iter().map(|request| request.prompt.clone()).collect();
            report.drift = evaluate::drift(&judge, &texts, &base, &tuned)?;
        }
    }
    if let Some(held_out) = &held_out {
        report.held_out = judge_held_out(context, &judge, held_out, painted_held_out)?;
    }
    output::print(context, args, &report)?;
    Ok(Outcome::Done)
}

fn painted(prompts: &[Prompt]) -> Vec<String> {
    prompts.iter().map(|prompt| prompt.painted.clone()).collect()
}

/// The CLIP model that was named, or that of the little world for pictures of its base.
pub fn judge_folder(named: Option<&Path>, base: Option<&str>) -> Result<PathBuf> {
    match named {
        Some(folder) => Ok(folder.to_owned()),
        None if base == Some(embedded::NAME) => Ok(embedded::NAME.into()),
        None => Err(usage(
            "a CLIP model has to judge",
            "name its folder with --clip, such as a download of openai/clip-vit-large-patch14; the embedded one knows nothing \
             but the drawn little world",
        )),
    }
}

/// Loads a CLIP model.
pub fn open_judge(context: &Context, folder: &Path, backend: &Arc<dyn Backend>) -> Result<Judge> {
    context.terminal.status(&format!("loading {}", folder.display()));
    Ok(Judge::open(ClipFiles::open(folder)?, Arc::clone(backend))?)
}

/// Paints with a progress line.
fn paint(
    context: &Context,
    studio: &Studio,
    requests: &[Request],
    wear: &Wear,
    unit: &str,
) -> Unless<Vec<Picture>> {
    let start = Instant::now();
    let mut watch = |place: Place| {
        progress::pictures(context, unit, &place, &start);
        if stop::is_wanted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut note = |text: String| context.terminal.warning(&text);
    Ok(gallery::paint(studio, requests, wear, &mut note, &mut watch)?.ok_or(Stopped))
}

/// The directions of the reference pictures.
pub fn references(context: &Context, judge: &Judge, folder: &Path) -> Result<Vec<Embedding>> {
    let files = pictures::list(folder)?;
    let mut note = |text: String| context.terminal.warning(&text);
    Ok(pictures::embed(judge, &files, &mut note, &mut |_| {})?.into_iter().flatten().collect())
}

fn from_folder(context: &Context, args: &EvalArgs, judge: &Judge, folder: &Path) -> Result<Vec<Judged>> {
    let files = pictures::list(folder)?;
    let start = Instant::now();
    let mut watch = |done: usize| {
        context.terminal.progress(&Progress {
            unit: "looking at pictures",
            done: done as u64,
            total: files.len() as u64,
            done_here: done as u64,
            elapsed: start.elapsed(),
            extra: "",
        });
    };
    let mut note = |text: String| context.terminal.warning(&text);
    let embeddings = pictures::embed(judge, &files, &mut note, &mut watch)?;
    let mut judged = Vec::new();
    for (file, embedding) in files.into_iter().zip(embeddings) {
        let Some(embedding) = embedding else { continue };
        let text = file.text.or_else(|| args.prompt.first().cloned()).map(|text| args.judged(&text));
        warn_of_length(context, judge, text.as_deref());
        judged.push(Judged { name: file.name, text, embedding });
    }
    Ok(judged)
}

fn warn_of_length(context: &Context, judge: &Judge, text: Option<&str>) {
    let unseen = text.map_or(0, |text| judge.unseen_tokens(text));
    if unseen > 0 {
        let start: String = text.unwrap_or_default().chars().take(40).collect();
        context
            .terminal
            .warning(&format!("the CLIP model does not read the last {unseen} tokens of `{start}...`"));
    }
}

fn from_requests(
    judge: &Judge,
    prompts: &[Prompt],
    seeds: usize,
    requests: &[Request],
    pictures: &[Picture],
) -> Result<Vec<Judged>> {
    let names = requests.iter().map(|request| format!("{} (seed {})", request.prompt, request.seed));
    let texts =
        prompts.iter().flat_map(|prompt| std::iter::repeat_n(Some(prompt.judged.clone()), seeds.max(1)));
    Ok(evaluate::judged(judge, names, texts, pictures)?)
}

fn judge_held_out(
    context: &Context,
    judge: &Judge,
    held_out: &HeldOut,
    painted: Option<Vec<Picture>>,
) -> Result<Option<HeldOutReport>> {
    context.terminal.status("looking for held-out captions");
    let side = painted.as_ref().and_then(|pictures| pictures.first()).map_or(64, |picture| picture.width);
    let drawn = held_out.drawn(side);
    let Some(drawn) = held_out.judge(judge, &drawn.iter().collect::<Vec<_>>())? else { return Ok(None) };
    let painted = match painted {
        Some(pictures) => held_out.judge(judge, &pictures.iter().collect::<Vec<_>>())?,
        None => None,
    };
    Ok(Some(HeldOutReport { drawn, painted }))
}

/// A mistake in what was asked.
fn usage(message: &str, hint: &str) -> Failure {
    Failure::usage(message).hint(hint)
}
