//! `scumble grid`: many pictures that differ along up to three settings, on labelled sheets or as an animation.

mod sheets;

use std::path::PathBuf;

use clap::Args;
use scumble_paint::adapters::AdapterUse;
use scumble_paint::grid::{Axis, Grid, Setting};
use scumble_paint::record;
use scumble_paint::request::Request;
use scumble_paint::studio::{self, Resolver, Studio, WearOptions};

use self::sheets::{Out, Painter, is_animation};
use crate::commands::generate::options::{AdapterOptions, PaintingOptions, StartOptions};
use crate::commands::generate::{BaseOptions, Typed, check_fold, common_request, idle, open_base};
use crate::commands::stop;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// How long a frame stands, in milliseconds, where nobody says.
const FRAME_MS: u32 = 250;

/// Options of `grid`.
#[derive(Args)]
#[command(
    after_help = "Settings of an axis: adapter, strength, unet-strength, text-strength, prompt, negative, seed, steps,\n\
    guidance, sampler, clip-skip, adapter-guidance, init-strength. Values stand between commas, prompts\n\
    between `|`; 1..4 are whole numbers, 0..1:5 five numbers evenly spaced. Adapters may be patterns or `none`.\n\
    A strength is that of the axis' adapter, else of all: they are written without one then.\n\n\
    Examples:\n  \
    scumble grid --base sd15.safetensors -p 'a sks dog' --x 'adapter=none,runs/dog/dog*.safetensors' --y seed=1..3\n  \
    scumble grid --base sd15.safetensors -p 'a sks dog' -a dog.safetensors --x strength=0..1:5 --y guidance=3,7.5\n  \
    scumble grid --base sd15.safetensors -p 'a sks dog' -a dog.safetensors --x strength=0..1.5:16 -o sweep.gif\n  \
    scumble grid --base sd15.safetensors --from grid.png --seed 7 -o other.png"
)]
pub struct GridArgs {
    /// What runs from left to right: SETTING=VALUE,VALUE
    #[arg(long, value_name = "AXIS", required_unless_present = "from")]
    x: Option<String>,
    /// What runs from top to bottom
    #[arg(long, value_name = "AXIS", requires = "x")]
    y: Option<String>,
    /// What changes from sheet to sheet
    #[arg(long, value_name = "AXIS", requires = "y")]
    z: Option<String>,
    /// What to paint, where it is no axis
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What not to paint
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    /// Take over what a grid or a picture says of how it was made; options given here count more
    #[arg(long, value_name = "FILE.png")]
    from: Option<PathBuf>,
    /// A .png file (several, numbered, where one would be too large), or a .gif in which the last axis runs over time
    #[arg(short, long, value_name = "FILE", default_value = "grid.png")]
    out: PathBuf,
    /// Keep every picture in this folder too, with its own parameters inside
    #[arg(long, value_name = "FOLDER")]
    pictures: Option<PathBuf>,
    /// How long each picture of a .gif stands, in milliseconds [default: 250]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(20..=60_000))]
    frame_ms: Option<u32>,
    /// Replace files that are there already
    #[arg(long)]
    force: bool,
    /// Print the files as JSON on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    base: BaseOptions,
    #[command(flatten)]
    painting: PaintingOptions,
    #[command(flatten)]
    start: StartOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
}

/// One cell, ready to be painted.
pub struct Cell {
    /// Its request.
    pub request: Request,
    /// All adapters that act.
    pub adapters: Vec<AdapterUse>,
    /// Prompt and negative prompt without tags.
    pub texts: [String; 2],
}

impl Cell {
    /// Whether the same adapters and words are on.
    fn wears_as(&self, other: &Self) -> bool {
        self.adapters == other.adapters && self.request.embeddings == other.request.embeddings
    }
}

/// Paints.
pub fn run(context: &Context, args: &GridArgs) -> Result {
    let (mut common, base, grid) = asked(context, args)?;
    let cells = cells(args, &mut common, &grid)?;
    let out = Out::plan(&grid, &args.out, args.pictures.as_deref(), args.force)?;
    stop::listen()?;
    context.terminal.status(&format!("loading {base}"));
    let files = open_base(context, &base, &args.base)?;
    for cell in &cells {
        studio::check(&files, &cell.request)?;
    }
    let studio = Studio::open(&files, context.backend()?, args.base.precision.dtype())?;
    let painter = Painter {
        context,
        studio: &studio,
        grid: &grid,
        cells: &cells,
        common: &common,
        base: &base,
        wear: WearOptions { fold: args.adapters.fold, partial: args.adapters.allow_partial },
        frame_ms: args.frame_ms.unwrap_or(FRAME_MS),
    };
    let (files, complete) = painter.paint(&out)?;
    if args.json {
        let [columns, rows, sheets] = grid.shape();
        let value = serde_json::json!({ "files": files, "columns": columns, "rows": rows, "sheets": sheets });
        context.terminal.result(&value.to_string());
    } else {
        files.iter().for_each(|file| context.terminal.result(&file.display().to_string()));
    }
    if complete {
        return Ok(Outcome::Done);
    }
    context.terminal.status("stopped: pictures that were not painted are left blank");
    Ok(Outcome::Interrupted)
}

/// What the cells have in common, the base, and the axes.
fn asked(context: &Context, args: &GridArgs) -> Result<(Request, String, Grid)> {
    let typed = Typed {
        from: args.from.as_deref(),
        prompt: args.prompt.as_deref(),
        negative: args.negative.as_deref(),
        base: &args.base,
        painting: &args.painting,
        start: &args.start,
        adapters: &args.adapters,
    };
    let (common, base, recorded) = common_request(context, &typed)?;
    let given: Vec<&String> = [&args.x, &args.y, &args.z].into_iter().flatten().collect();
    let texts = if given.is_empty() { recorded.iter().collect() } else { given };
    if texts.is_empty() {
        return Err(Failure::usage("the picture is no grid, so it has no axes")
            .hint("give them with --x and --y, such as --x strength=0,0.5,1"));
    }
    let axes = texts.iter().map(|text| Axis::parse(text, &args.adapters.adapter_dir));
    let grid = Grid::new(axes.collect::<scumble_paint::Result<_>>()?)?;
    if args.from.is_none() && args.prompt.is_none() && !grid.has(Setting::Prompt) {
        return Err(Failure::usage("there is nothing to paint")
            .hint("say it with --prompt TEXT, or with an axis prompt=TEXT|TEXT"));
    }
    check_axes(args, &grid)?;
    // The strengths that a picture brings are only what they were; those that are typed are meant.
    if !args.adapters.adapter.is_empty() {
        grid.check_strengths(&common.adapters)?;
    }
    if args.frame_ms.is_some() && !is_animation(&args.out) {
        return Err(Failure::usage("--frame-ms has no effect on a sheet, which stands still")
            .hint("name a .gif file with --out, or leave --frame-ms out"));
    }
    Ok((common, base, grid))
}

/// Errors on options whose value every picture would take from an axis instead.
fn check_axes(args: &GridArgs, grid: &Grid) -> Result<()> {
    let painting = &args.painting;
    let given = [
        ("--prompt", Setting::Prompt, args.prompt.is_some()),
        ("--negative", Setting::Negative, args.negative.is_some()),
        ("--seed", Setting::Seed, painting.seed.is_some()),
        ("--steps", Setting::Steps, painting.steps.is_some()),
        ("--guidance", Setting::Guidance, painting.guidance.is_some()),
        ("--sampler", Setting::Sampler, painting.sampler.is_some()),
        ("--clip-skip", Setting::ClipSkip, painting.clip_skip.is_some()),
        ("--adapter-guidance", Setting::AdapterGuidance, args.adapters.adapter_guidance.is_some()),
        ("--strength", Setting::InitStrength, args.start.strength.is_some()),
    ];
    for axis in grid.axes() {
        let lost = given.iter().find(|(_, setting, given)| *given && axis.setting() == *setting);
        if let Some((option, ..)) = lost {
            return Err(Failure::usage(format!("{option} has no effect beside the axis `{}`", axis.name()))
                .hint(format!("leave {option} out, or give other axes with --x and --y")));
        }
    }
    Ok(())
}

/// All cells, row by row and sheet by sheet. The adapters that they have in common get their hashes.
fn cells(args: &GridArgs, common: &mut Request, grid: &Grid) -> Result<Vec<Cell>> {
    let [columns, rows, sheets] = grid.shape();
    let mut resolver = Resolver::new(args.adapters.folders());
    resolver.add_words(common)?;
    let (hashed, _) = resolver.resolve(common)?;
    common.adapters.iter_mut().zip(hashed).for_each(|(own, acted)| own.hash = acted.hash);
    let mut cells = Vec::with_capacity(columns * rows * sheets);
    for sheet in 0..sheets {
        for row in 0..rows {
            for column in 0..columns {
                let mut request = grid.request(common, [column, row, sheet])?;
                resolver.add_words(&mut request)?;
                let (adapters, texts) = resolver.resolve(&request)?;
                cells.push(Cell { request, adapters, texts });
            }
        }
    }
    let resolved: Vec<_> = cells.iter().map(|cell| (cell.adapters.clone(), cell.texts.clone())).collect();
    let requests: Vec<_> = cells.iter().map(|cell| cell.request.clone()).collect();
    check_fold(&args.adapters, &requests, &resolved)?;
    idle::check_adapters(&args.adapters, &resolved)?;
    if grid.has(Setting::AdapterGuidance) {
        idle::check_worn("the axis `adapter-guidance`", &resolved)?;
    }
    if args.negative.is_some() {
        idle::check_negative("--negative", &requests)?;
    }
    if grid.has(Setting::Negative) {
        idle::check_negative("the axis `negative`", &requests)?;
    }
    Ok(cells)
}

/// The program's name in pictures.
pub const PROGRAM: &str = concat!("scumble ", env!("CARGO_PKG_VERSION"));

/// The two texts of one picture of the grid.
fn texts_of(
    cell: &Cell,
    studio: &Studio,
    base: &str,
    size: [usize; 2],
) -> Result<[(&'static str, String); 2]> {
    let sampler = studio.sampler_kind(&cell.request)?;
    Ok(record::texts(&cell.request, base, sampler, &cell.adapters, size, PROGRAM))
}
