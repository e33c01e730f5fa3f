//! The table, and what is kept of the pictures.

use scumble_eval::evaluate::Alignment;
use scumble_eval::measure::Mean;
use scumble_eval::retrieval::Retrieval;
use scumble_paint::record;
use scumble_paint::request::Request;
use scumble_paint::studio::{Resolver, Studio};
use scumble_train::picture::{Picture, Sheet, SheetRow, png};

use super::{EvalArgs, Report};
use crate::context::Context;
use crate::failure::{Failure, Result};

/// Pictures of a sheet; more would not be looked at.
const ROWS: usize = 24;

/// Errors where the folder for the results has something in it: nothing is replaced unasked.
pub fn check(args: &EvalArgs) -> Result<()> {
    let Some(folder) = &args.out else { return Ok(()) };
    let is_empty = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(Failure::new(format!("`{}`: {error}", folder.display()))),
    };
    if is_empty {
        return Ok(());
    }
    Err(Failure::new(format!("`{}` is not empty", folder.display())).hint("name a new folder with --out"))
}

/// Writes the pictures with their requests inside, and the sheet.
pub fn keep(
    context: &Context,
    args: &EvalArgs,
    base: &str,
    studio: &Studio,
    requests: &[Request],
    pictures: &[Picture],
    alignment: &Alignment,
) -> Result<()> {
    let Some(folder) = &args.out else { return Ok(()) };
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::new(format!("cannot make `{}`: {error}", folder.display())))?;
    let mut resolver = Resolver::new(args.adapters.folders());
    let program = concat!("scumble ", env!("CARGO_PKG_VERSION"));
    for (index, (request, picture)) in requests.iter().zip(pictures).enumerate() {
        let mut request = request.clone();
        resolver.add_words(&mut request)?;
        let (adapters, _) = resolver.resolve(&request)?;
        let size = [picture.width, picture.height];
        let texts = record::texts(&request, base, studio.sampler_kind(&request)?, &adapters, size, program);
        let texts = texts.each_ref().map(|(key, text)| (*key, text.as_str()));
        png::write(&folder.join(format!("{index:04}.png")), picture, &texts)?;
    }
    let seeds = args.seeds();
    let row = |((requests, pictures), reports): ((&[Request], &[Picture]), &[_])| SheetRow {
        label: format!(
            "{} | {}",
            requests.first().map_or("", |request| &request.prompt),
            reports.iter().map(numbers).collect::<Vec<_>>().join(", ")
        ),
        pictures: pictures.iter().cloned().map(Some).collect(),
    };
    let each = seeds.len().max(1);
    let rows = requests.chunks(each).zip(pictures.chunks(each)).zip(alignment.pictures.chunks(each));
    let sheet = Sheet {
        title: "text and image alignment".into(),
        subtitle: base.to_owned(),
        columns: seeds.iter().map(|seed| format!("seed {seed}")).collect(),
        rows: rows.take(ROWS).map(row).collect(),
    };
    png::write(&folder.join("sheet.png"), &sheet.render(), &[])?;
    context.terminal.status(&format!("kept {} pictures in {}", pictures.len(), folder.display()));
    Ok(())
}

fn numbers(report: &scumble_eval::evaluate::PictureReport) -> String {
    let values = [report.text_alignment, report.image_alignment];
    values.iter().flatten().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(" / ")
}

/// Prints the report, and keeps it.
pub fn print(context: &Context, args: &EvalArgs, report: &Report) -> Result<()> {
    let json = || serde_json::to_string(report).map_err(|error| Failure::new(error.to_string()));
    if let Some(folder) = args.out.as_ref().filter(|folder| folder.is_dir()) {
        let text = json()?;
        scumble_model::files::atomic_write(&folder.join("report.json"), |file| {
            std::io::Write::write_all(file, text.as_bytes())
        })?;
    }
    if args.json {
        context.terminal.result(&json()?);
    } else {
        context.terminal.result(&table(report));
    }
    Ok(())
}

/// The report for people.
fn table(report: &Report) -> String {
    let mut rows: Vec<(String, String)> = vec![("judge".into(), report.clip.clone())];
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    if let Some(alignment) = &report.alignment {
        row("pictures", alignment.pictures.len().to_string());
        if let Some(mean) = alignment.text_alignment {
            row("text alignment", with_error(mean));
        }
        if let Some(mean) = alignment.image_alignment {
            row("image alignment", format!("{}  to {} references", with_error(mean), alignment.references));
        }
        if let Some(found) = &alignment.retrieval {
            row("own text first", first(found));
        }
    }
    if let Some(drift) = &report.drift {
        row("drift", format!("{}  without the trigger", with_error(drift.drift)));
        row("  pixels", format!("{:.1} %", 100.0 * drift.pixels.mean));
        let (before, after) = (drift.text_alignment_before.mean, drift.text_alignment_after.mean);
        row("  text alignment", format!("{before:.4} by the base, {after:.4} now"));
    }
    if let Some(held_out) = &report.held_out {
        if let Some(painted) = &held_out.painted {
            row("held-out, painted", first(painted));
        }
        row("held-out, drawn", first(&held_out.drawn));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect::<Vec<_>>().join("\n")
}

fn with_error(mean: Mean) -> String {
    if mean.count > 1 {
        format!("{:.4} ± {:.4}", mean.mean, mean.error)
    } else {
        format!("{:.4}", mean.mean)
    }
}

fn first(found: &Retrieval) -> String {
    let (share, texts) = (100.0 * found.first, found.distractors + 1);
    format!("{share:.1} % of {}, among {texts} texts (mean rank {:.2})", found.pictures, found.mean_rank)
}
