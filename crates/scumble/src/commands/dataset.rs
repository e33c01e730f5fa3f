//! `scumble dataset`: a look at training pictures before training, and cut copies of them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use scumble_model::tokenizer::{Pad, Tokenizer};
use scumble_train::TrainConfig;
use scumble_train::config::{CaptionSource, Crop, MaskSource, Template};
use scumble_train::data::look::{self, Seen};
use scumble_train::data::prepare::{self, Background, Cut, Preparation};
use scumble_train::data::{Dataset, contact, gather};
use scumble_train::picture::png;

use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};
use crate::terminal::Progress;

/// Room around a mask where nobody says, as a share of its longer side.
const MARGIN: f64 = 0.15;
/// Pictures listed in the text; the sheet and `--json` have all.
const LISTED: usize = 40;

/// The verbs of `dataset`.
#[derive(Subcommand)]
pub enum DatasetCommand {
    /// What will be used how: a contact sheet with crops, masks and texts, and warnings
    Check(CheckArgs),
    /// Cut and scaled copies in a new folder, with masks and texts
    Prepare(PrepareArgs),
}

/// How pictures are read, as `train` reads them.
#[derive(Args)]
struct Reading {
    /// A folder of pictures, a dataset file, or a run file (TOML)
    #[arg(value_name = "FOLDER|FILE.toml")]
    data: PathBuf,
    /// Size of the training pictures, such as 512 or 512x768
    #[arg(long, value_name = "PIXELS", value_parser = crate::commands::size)]
    size: Option<[usize; 2]>,
    /// A size of its own for each shape
    #[arg(long)]
    buckets: bool,
    /// Text for all pictures that bring none
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Word put in front of every text that lacks it
    #[arg(long, value_name = "WORD")]
    trigger: Option<String>,
    /// Where texts come from: auto, text, file-name or prompt
    #[arg(long, value_name = "SOURCE")]
    captions: Option<CaptionSource>,
    /// Sentences for the trigger: none, object, style or person
    #[arg(long, value_name = "KIND")]
    template: Option<Template>,
    /// Where masks come from: none, auto, file (<name>.mask.png) or alpha
    #[arg(long, value_name = "SOURCE")]
    mask: Option<MaskSource>,
}

/// Options of `dataset check`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble dataset check my-dog --trigger 'sks dog' --size 512\n  \
    scumble dataset check dataset.toml --buckets --sheet look.png\n  \
    scumble dataset check my-dog --json")]
pub struct CheckArgs {
    #[command(flatten)]
    reading: Reading,
    /// The contact sheet, a PNG file; a number is added to the name if it is there already
    #[arg(long, value_name = "FILE", default_value = "contact-sheet.png", conflicts_with = "no_sheet")]
    sheet: PathBuf,
    /// Paint no contact sheet
    #[arg(long)]
    no_sheet: bool,
    /// Print everything as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Options of `dataset prepare`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble dataset prepare my-dog --out my-dog-512 --size 512\n  \
    scumble dataset prepare my-dog --out faces --cut mask --margin 0.3 --caption 'a photo of sks dog, {caption}'")]
pub struct PrepareArgs {
    #[command(flatten)]
    reading: Reading,
    /// The new folder
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Where pictures are cut: center, or mask (around the mask)
    #[arg(long, value_name = "WHERE", default_value = "center")]
    cut: CutAt,
    /// Room around the mask of --cut mask, as a share of its longer side [default: 0.15]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    margin: Option<f64>,
    /// What is done to what the mask leaves out: keep, white, grey or black
    #[arg(long, value_name = "WHAT", default_value = "keep")]
    background: Behind,
    /// Text of every picture: {caption} its own, {name} its file's name in words, {n} its number
    #[arg(long, value_name = "TEXT")]
    caption: Option<String>,
    /// Print what was written as JSON on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum CutAt {
    /// The middle
    #[value(alias = "centre")]
    Center,
    /// Around the mask
    Mask,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Behind {
    /// Nothing
    Keep,
    /// White
    White,
    /// Grey
    Grey,
    /// Black
    Black,
}

/// Checks or prepares.
pub fn run(context: &Context, command: DatasetCommand) -> Result {
    match command {
        DatasetCommand::Check(args) => check(context, &args),
        DatasetCommand::Prepare(args) => prepare(context, &args),
    }
}

impl Reading {
    /// Errors on options that a template, which writes all texts, would leave without effect.
    fn check_texts(&self) -> Result<()> {
        let Some(template) = self.template.filter(|template| *template != Template::None) else {
            return Ok(());
        };
        let given = [("--captions", self.captions.is_some()), ("--prompt", self.prompt.is_some())];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(Failure::usage(format!(
                "{option} has no effect: all texts come from --template {template}"
            ))
            .hint(format!("leave {option} or --template out"))),
            None => Ok(()),
        }
    }

    /// The settings of a run that would read these pictures.
    fn config(&self) -> Result<TrainConfig> {
        self.check_texts()?;
        let mut config = match self.data.is_file() {
            true => from_file(&self.data)?,
            false => {
                let mut config = TrainConfig::default();
                config.data.folder.clone_from(&self.data);
                config
            }
        };
        let data = &mut config.data;
        if let Some([width, height]) = self.size {
            (data.width, data.height) = (width, height);
        }
        data.buckets |= self.buckets;
        data.captions = self.captions.unwrap_or(data.captions);
        data.template = self.template.unwrap_or(data.template);
        data.prompt = self.prompt.clone().or(data.prompt.take());
        data.trigger = self.trigger.clone().or(data.trigger.take());
        config.mask.source = self.mask.unwrap_or(config.mask.source);
        if config.base.model.trim().is_empty() {
            // Not opened here; the checks ask for one.
            config.base.model = "none".to_owned();
        }
        config.check()?;
        Ok(config)
    }
}

/// A run file's settings, or those of a run with this dataset file.
fn from_file(path: &Path) -> Result<TrainConfig> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read `{}`: {error}", path.display())))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        Failure::new(format!("`{}` is no TOML: {}", path.display(), error.to_string().trim()))
            .hint("give a folder of pictures, a dataset file or a run file")
    })?;
    if table.contains_key("concept") || table.contains_key("defaults") {
        let mut config = TrainConfig::default();
        config.data.dataset = Some(path.to_owned());
        return Ok(config);
    }
    Ok(TrainConfig::from_table(table)?)
}

fn check(context: &Context, args: &CheckArgs) -> Result {
    let config = args.reading.config()?;
    context.terminal.status("reading the pictures");
    let dataset = gather::pictures(&config)?;
    context.terminal.status("looking at the pictures");
    let mut seen = look::look(&dataset)?;
    count_tokens(&config, &dataset, &mut seen)?;
    let sheets = match args.no_sheet {
        true => Vec::new(),
        false => paint_sheets(&args.sheet, &args.reading.data, &dataset, &seen)?,
    };
    let warnings = dataset.report.warnings();
    if args.json {
        let shown: Vec<String> = sheets.iter().map(|path| path.display().to_string()).collect();
        let value =
            json!({ "report": dataset.report, "pictures": seen, "warnings": warnings, "sheets": shown });
        context.terminal.result(&value.to_string());
        return Ok(Outcome::Done);
    }
    context.terminal.result(&summary(&config, &dataset, &seen));
    for warning in warnings {
        context.terminal.warning(&warning);
    }
    for sheet in sheets {
        context.terminal.status(&format!("contact sheet: {}", sheet.display()));
    }
    Ok(Outcome::Done)
}

/// Remarks on texts that are longer than what is read of them.
fn count_tokens(config: &TrainConfig, dataset: &Dataset, seen: &mut [Seen]) -> Result<()> {
    let tokenizer = Tokenizer::clip(Pad::End)?;
    let room = tokenizer.max_length().saturating_sub(2) * config.data.chunks();
    for (item, seen) in dataset.items.iter().zip(seen) {
        let longest = item.caption.texts().iter().map(|text| tokenizer.count(text)).max().unwrap_or(0);
        if longest > room {
            seen.remarks.push(format!("its text has {longest} tokens, {room} are read"));
        }
    }
    Ok(())
}

fn summary(config: &TrainConfig, dataset: &Dataset, seen: &[Seen]) -> String {
    let report = &dataset.report;
    let sizes: Vec<String> = report
        .buckets
        .iter()
        .map(|size| format!("{} at {}x{}", size.count, size.width, size.height))
        .collect();
    let texts: Vec<String> = report
        .captions
        .iter()
        .map(|(origin, count)| {
            let origin = json!(origin);
            format!("{count} from {}", origin.as_str().unwrap_or_default().replace('-', " "))
        })
        .collect();
    let visits: usize = dataset.items.iter().map(|item| item.repeats).sum();
    let mut lines = vec![
        format!("  {:<12} {}", "pictures", report.pictures),
        format!("  {:<12} {}", "trained", sizes.join(", ")),
        format!("  {:<12} {}", "texts", texts.join(", ")),
        format!("  {:<12} {visits} visits; {} steps are {:.1} rounds", "a round", config.train.steps, {
            let samples = config.train.steps as f64 * (config.train.batch * config.train.accumulate) as f64;
            samples / visits.max(1) as f64
        }),
    ];
    for concept in &report.concepts {
        let text =
            format!("{} pictures, {} times, weight {}", concept.pictures, concept.repeats, concept.weight);
        lines.push(format!("  {:<12} {text}", concept.name));
    }
    if report.masks > 0 {
        lines.push(format!("  {:<12} {} of {}", "masks", report.masks, report.pictures));
    }
    lines.push(String::new());
    for seen in seen.iter().take(LISTED) {
        lines.push(format!(
            "{}  {}x{} -> {}x{}  \"{}\"",
            seen.file, seen.width, seen.height, seen.trained_width, seen.trained_height, seen.caption
        ));
        lines.extend(seen.remarks.iter().map(|remark| format!("    ! {remark}")));
    }
    if seen.len() > LISTED {
        lines.push(format!("... and {} more; the contact sheet and `--json` have all", seen.len() - LISTED));
    }
    lines.join("\n")
}

/// Paints as many sheets as the pictures need.
fn paint_sheets(path: &Path, data: &Path, dataset: &Dataset, seen: &[Seen]) -> Result<Vec<PathBuf>> {
    let mut sheets = Vec::new();
    let count = seen.len().div_ceil(contact::PER_SHEET);
    let remarks = seen.iter().filter(|seen| !seen.remarks.is_empty()).count();
    let title = data.file_name().unwrap_or(data.as_os_str()).to_string_lossy();
    for number in 0..count {
        let page = if count > 1 { format!(", sheet {} of {count}", number + 1) } else { String::new() };
        let subtitle = format!("{} pictures, {remarks} with remarks{page}", seen.len());
        let sheet = contact::sheet(dataset, seen, number * contact::PER_SHEET, &title, &subtitle)?;
        let path = free(path);
        png::write(&path, &sheet, &[])?;
        sheets.push(path);
    }
    Ok(sheets)
}

/// The path, or the first of `name-2`, `name-3`, ... that is not there yet.
fn free(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let ending = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    let numbered = |number: usize| path.with_file_name(format!("{stem}-{number}{ending}"));
    let mut free = path.to_owned();
    let mut number = 1;
    while free.exists() {
        number += 1;
        free = numbered(number);
    }
    free
}

impl PrepareArgs {
    /// The option that can't do without masks.
    fn needs_mask(&self) -> Option<&'static str> {
        match (self.cut, self.background) {
            (CutAt::Mask, _) => Some("--cut mask"),
            (CutAt::Center, Behind::Keep) => None,
            (CutAt::Center, _) => Some("--background"),
        }
    }
}

/// Errors on options about masks that are out of range or contradict each other.
fn check_masking(args: &PrepareArgs) -> Result<()> {
    if let Some(margin) = args.margin {
        if !(0.0..=10.0).contains(&margin) {
            return Err(Failure::usage(format!("`--margin {margin}` is not between 0 and 10"))
                .hint("it is a share of the mask's longer side, such as 0.3"));
        }
        if args.cut != CutAt::Mask {
            return Err(Failure::usage("--margin has no effect without --cut mask")
                .hint("add --cut mask, or leave --margin out"));
        }
    }
    match args.needs_mask() {
        Some(option) if args.reading.mask == Some(MaskSource::None) => {
            Err(Failure::usage(format!("{option} needs the masks that --mask none leaves out"))
                .hint("leave --mask out, or say where masks come from: auto, file or alpha"))
        }
        _ => Ok(()),
    }
}

fn prepare(context: &Context, args: &PrepareArgs) -> Result {
    check_masking(args)?;
    let mut config = args.reading.config()?;
    if args.needs_mask().is_some() && config.mask.source == MaskSource::None {
        config.mask.source = MaskSource::Auto;
    }
    config.data.crop = Crop::Center;
    context.terminal.status("reading the pictures");
    let dataset = gather::pictures(&config)?;
    let how = Preparation {
        folder: args.out.clone(),
        cut: match args.cut {
            CutAt::Center => Cut::Centre,
            CutAt::Mask => Cut::Mask { margin: args.margin.unwrap_or(MARGIN) },
        },
        background: match args.background {
            Behind::Keep => Background::Keep,
            Behind::White => Background::Fill([255; 3]),
            Behind::Grey => Background::Fill([127; 3]),
            Behind::Black => Background::Fill([0; 3]),
        },
        template: args.caption.clone(),
    };
    let began = std::time::Instant::now();
    let written = prepare::prepare(&dataset, &how, &mut |done, total| {
        context.terminal.progress(&Progress {
            unit: "picture",
            done: done as u64,
            total: total as u64,
            done_here: done as u64,
            elapsed: began.elapsed(),
            extra: "",
        });
    })?;
    for skipped in &dataset.report.skipped {
        context.terminal.warning(&format!("skipped: {}", skipped.reason));
    }
    let small = written.iter().filter(|picture| picture.enlargement > 1.0);
    for picture in small {
        let text = format!("`{}` was blown up {:.1} times", picture.source, picture.enlargement);
        context.terminal.warning(&text);
    }
    if args.json {
        let written = serde_json::to_string(&written).map_err(|error| Failure::new(error.to_string()))?;
        context.terminal.result(&written);
    } else {
        for picture in &written {
            context.terminal.result(&picture.file.display().to_string());
        }
    }
    Ok(Outcome::Done)
}
