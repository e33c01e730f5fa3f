//! A complete run for somebody who has just arrived: a base that does not know a thing, eight pictures of it, an adapter, and
//! what the base paints with and without.
//!
//! It is trained as pivotal tuning, a new word first and factors on the attention then: what goes to the word changes
//! nothing in prompts without it (docs/quality.md compares).
//!
//! ```text
//! <out>/pictures/         what it learned from
//! <out>/<name>/           the training run: <name>.safetensors, loss.png, config.toml, ...
//! <out>/before-after.png  prompts from top to bottom, strengths 0, 0.5 and 1 from left to right, the same noise in each row
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use scumble_model::base::BaseFiles;
use scumble_paint::Studio;
use scumble_paint::adapters::AdapterUse;
use scumble_paint::request::Request;
use scumble_train::config::{Precision, Targets};
use scumble_train::picture::{Picture, Sheet, SheetRow, png};
use scumble_world::novel::{PICTURES, Set};
use serde::Serialize;

use crate::error::{EvalError, Result};
use crate::gallery::{self, Place, Wear};
use crate::quality::recipe::{self, Lesson, Rates};
use crate::quality::{Method, Services};
use crate::{lesson, prompts};

/// Strengths that are shown beside each other.
const STRENGTHS: [f32; 3] = [0.0, 0.5, 1.0];
/// How it is taught.
const METHOD: Method = Method::Pivotal;
/// Prompts about what was taught, and about something else.
const SHOWN: [usize; 2] = [4, 2];

/// What is shown and how.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The base as the user names it.
    pub base: String,
    /// What is taught.
    pub set: Set,
    /// Updates.
    pub steps: u64,
    /// Pictures of an update.
    pub batch: usize,
    /// Width of the factors.
    pub rank: usize,
    /// Learning rates.
    pub rates: Rates,
    /// Seed, steps, guidance and sampler of the painting.
    pub painting: Request,
    /// Numbers to compute in.
    pub precision: Precision,
    /// Where everything goes: a new folder.
    pub out: PathBuf,
}

/// What it has come to.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// What was taught.
    pub name: &'static str,
    /// Updates.
    pub steps: u64,
    /// Numbers that learned.
    pub trained: usize,
    /// Seconds of all updates.
    pub train_seconds: f64,
    /// Running mean of the loss at the end.
    pub loss: Option<f64>,
    /// The adapter.
    pub adapter: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The sheet.
    pub sheet: PathBuf,
    /// The plot.
    pub plot: PathBuf,
    /// The run's settings, which run it again.
    pub config: PathBuf,
}

/// Who hears how far the painting is.
pub type Watch<'a> = dyn FnMut(Place) + 'a;

/// Paints, trains, paints again; `None` when it was stopped.
pub fn run(
    demo: &Demo,
    files: &BaseFiles,
    services: &Services<'_>,
    watch: &mut Watch<'_>,
) -> Result<Option<Shown>> {
    let name = demo.set.name();
    let studio = Studio::open(files, Arc::clone(&services.backend), demo.precision.dtype())?;
    let side = studio.own_side();
    let learned_from = lesson::pictures(demo.set, side)?;
    let folder = demo.out.join("pictures");
    recipe::write_pictures(METHOD, demo.set, side, &folder)?;
    (services.phase)("painting with the base alone");
    let mut columns = Vec::new();
    let known = texts(demo.set, name);
    let Some(before) = paint(demo, &studio, &known, None, services, watch)? else { return Ok(None) };
    columns.push(before);
    drop(studio);

    let lesson = Lesson {
        base: &demo.base,
        set: demo.set,
        side,
        steps: demo.steps,
        seed: 0,
        batch: demo.batch,
        rank: demo.rank,
        rates: demo.rates,
        precision: demo.precision,
        pictures: &folder,
        vectors: recipe::vectors(files, demo.set)?,
        runs: &demo.out,
        name,
        class: None,
    };
    let mut config = recipe::config(METHOD, &lesson);
    config.lora.unet.targets = Targets::Attention;
    let Some(summary) = services.train(&config, services.reporter)? else { return Ok(None) };
    let missing = || EvalError::path(&summary.folder, "the run left no adapter", "");
    let adapter = summary.adapters.first().cloned().ok_or_else(missing)?;
    let studio = Studio::open(files, Arc::clone(&services.backend), demo.precision.dtype())?;
    let texts = texts(demo.set, &recipe::trigger(METHOD, demo.set));
    for strength in &STRENGTHS[1..] {
        (services.phase)(&format!("painting with the adapter at {strength}"));
        let wearing = AdapterUse::new(adapter.clone(), *strength, *strength);
        let painted = paint(demo, &studio, &texts, Some(wearing), services, watch)?;
        let Some(painted) = painted else { return Ok(None) };
        columns.push(painted);
    }
    let sheet = demo.out.join("before-after.png");
    png::write(&sheet, &self::sheet(demo, &texts, &columns, &learned_from).render(), &[])?;
    let records = scumble_train::metrics::read(&summary.folder.join("metrics.jsonl"))?;
    Ok(Some(Shown {
        name,
        steps: summary.steps,
        trained: summary_numbers(&adapter)?,
        train_seconds: records.iter().map(|record| record.seconds).sum(),
        loss: summary.loss,
        bytes: std::fs::metadata(&adapter).map_or(0, |found| found.len()),
        sheet,
        plot: summary.folder.join("loss.png"),
        config: summary.folder.join("config.toml"),
        adapter,
    }))
}

/// Numbers in an adapter's factors.
fn summary_numbers(adapter: &std::path::Path) -> Result<usize> {
    let file = scumble_model::files::open_any(adapter)?;
    let numbers = |name: &String| file.info(name).map_or(0, |info| info.numel());
    let is_factor = |name: &&String| !name.ends_with(".alpha");
    Ok(file.names().iter().filter(is_factor).map(numbers).sum())
}

/// What is painted: about what was taught, which is called `word`, then about something else.
fn texts(set: Set, word: &str) -> Vec<String> {
    let of_set = prompts::of_set(set, word).into_iter().map(|prompt| prompt.painted).take(SHOWN[0]);
    of_set.chain(OTHERS.map(str::to_owned).into_iter().take(SHOWN[1])).collect()
}

/// Plain sights of the little world that no set has anything to do with.
const OTHERS: [&str; 2] = [
    "a big red car on a meadow under a yellow sun, flat",
    "a yellow boat on the sea under a yellow moon, outlined",
];

fn paint(
    demo: &Demo,
    studio: &Studio,
    texts: &[String],
    adapter: Option<AdapterUse>,
    services: &Services<'_>,
    watch: &mut Watch<'_>,
) -> Result<Option<Vec<Picture>>> {
    let common = Request { adapters: adapter.into_iter().collect(), ..demo.painting.clone() };
    let requests = gallery::requests(texts, &[demo.painting.seed], &common);
    let mut told = |place: Place| {
        watch(place);
        services.flow()
    };
    gallery::paint(studio, &requests, &Wear::default(), &mut |_| {}, &mut told)
}

fn sheet(demo: &Demo, texts: &[String], columns: &[Vec<Picture>], learned_from: &[Picture]) -> Sheet {
    let of_text = |(index, text): (usize, &String)| SheetRow {
        label: if index < SHOWN[0] { text.clone() } else { format!("{text} (not about it)") },
        pictures: columns.iter().map(|column| column.get(index).cloned()).collect(),
    };
    let mut rows: Vec<SheetRow> = texts.iter().enumerate().map(of_text).collect();
    rows.push(SheetRow {
        label: format!("{} of the {PICTURES} pictures it learned from", columns.len()),
        pictures: learned_from.iter().take(columns.len()).cloned().map(Some).collect(),
    });
    let kind = if demo.set.style().is_some() { "style" } else { "subject" };
    Sheet {
        title: format!("a new {kind}: {}", demo.set.name()),
        subtitle: format!(
            "{} updates; each row has one noise; the base is asked for `{}`",
            demo.steps,
            demo.set.name()
        ),
        columns: STRENGTHS
            .iter()
            .map(|&strength| if strength == 0.0 { "base".into() } else { format!("adapter at {strength}") })
            .collect(),
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sheet_has_a_place_for_everything() {
        for set in Set::ALL {
            let trigger = recipe::trigger(METHOD, set);
            let texts = texts(set, &trigger);
            assert_eq!(texts.len(), SHOWN[0] + SHOWN[1]);
            assert!(texts[..SHOWN[0]].iter().all(|text| text.contains(&trigger)));
            assert!(texts[SHOWN[0]..].iter().all(|text| !text.contains(set.name())));
        }
    }
}
