//! `scumble world`: looks at the drawn little world. For maintainers: contact sheets, samples with captions, and the
//! pictures of the new subjects and styles.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use scumble_train::picture::{Picture, Sheet, SheetRow, png};
use scumble_world::novel::{PICTURES, Set};
use scumble_world::{Painting, Scene, Style, held_out_scene, scene};

use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// The verbs of `world`.
#[derive(Subcommand)]
pub enum WorldCommand {
    /// A contact sheet of scenes with their captions
    Sheet(SheetArgs),
    /// Pictures with captions in a folder, ready to train with
    Sample(SampleArgs),
    /// The pictures and captions of a new subject or style
    Set(SetArgs),
}

#[derive(Args)]
struct Drawing {
    /// Seed of the scenes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The first scene
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// Pixels of a side
    #[arg(long, value_name = "PIXELS", default_value_t = 64)]
    size: usize,
    /// Scenes with combinations that training never shows
    #[arg(long)]
    held_out: bool,
}

impl Drawing {
    fn scene(&self, n: u64) -> Scene {
        let index = self.first.wrapping_add(n);
        if self.held_out { held_out_scene(self.seed, index) } else { scene(self.seed, index) }
    }

    fn check(&self) -> Result<()> {
        check_size(self.size)
    }
}

fn check_size(size: usize) -> Result<()> {
    if scumble_world::paint::SIZES.contains(&size) {
        return Ok(());
    }
    Err(Failure::usage(format!("a picture of {size} pixels can't be drawn: 16 to 1024")))
}

/// Options of `world sheet`.
#[derive(Args)]
pub struct SheetArgs {
    /// The sheet, a PNG file
    #[arg(short, long, value_name = "FILE", default_value = "world.png")]
    out: PathBuf,
    /// Scenes
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u64).range(1..=400))]
    count: u64,
    /// Every scene in every style, the new ones included
    #[arg(long)]
    styles: bool,
    #[command(flatten)]
    drawing: Drawing,
}

/// Options of `world sample`.
#[derive(Args)]
pub struct SampleArgs {
    /// The folder
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Scenes
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    count: u64,
    #[command(flatten)]
    drawing: Drawing,
}

/// Options of `world set`.
#[derive(Args)]
pub struct SetArgs {
    /// robot, monster, owl, neon, blueprint or chalk
    #[arg(value_name = "NAME", value_parser = set)]
    set: Set,
    /// The folder
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Pixels of a side
    #[arg(long, value_name = "PIXELS", default_value_t = 64)]
    size: usize,
}

fn set(name: &str) -> std::result::Result<Set, String> {
    let names: Vec<&str> = Set::ALL.iter().map(|set| set.name()).collect();
    Set::named(name).ok_or_else(|| format!("there are {}", names.join(", ")))
}

/// Draws.
pub fn run(context: &Context, command: WorldCommand) -> Result {
    match command {
        WorldCommand::Sheet(args) => sheet(context, &args),
        WorldCommand::Sample(args) => sample(context, &args),
        WorldCommand::Set(args) => {
            check_size(args.size)?;
            let pictures = (0..PICTURES).map(|n| (args.set.paint(n, args.size), args.set.caption(n)));
            write_all(context, &args.out, pictures)
        }
    }
}

fn picture(painting: Painting) -> Result<Picture> {
    let Painting { size, rgb } = painting;
    Picture::from_rgb(size, size, rgb).ok_or_else(|| Failure::new("the picture was not drawn whole"))
}

/// Every pixel as a square of pixels: small pictures are judged sharp, not smoothed.
fn enlarged_by(painting: Painting, times: usize) -> Painting {
    let size = painting.size * times;
    let source = |at: usize| (at / size / times * painting.size + at % size / times) * 3;
    let rgb =
        (0..size * size).flat_map(|at| painting.rgb[source(at)..source(at) + 3].iter().copied()).collect();
    Painting { size, rgb }
}

fn sheet(context: &Context, args: &SheetArgs) -> Result {
    args.drawing.check()?;
    if args.out.exists() {
        return Err(
            Failure::new(format!("`{}` is there already", args.out.display())).hint("choose another --out")
        );
    }
    let styles: Vec<Style> = Style::BASE.into_iter().chain(Style::NOVEL).collect();
    let enlarged = |scene: &Scene| -> Result<Option<Picture>> {
        Ok(Some(picture(enlarged_by(scene.paint(args.drawing.size), (320 / args.drawing.size).max(1)))?))
    };
    let mut sheet = Sheet::default();
    let scenes: Vec<Scene> = (0..args.count).map(|n| args.drawing.scene(n)).collect();
    if args.styles {
        sheet.columns = styles.iter().map(|style| style.word().to_owned()).collect();
        for scene in scenes {
            let in_style = |style: &Style| enlarged(&Scene { style: *style, ..scene.clone() });
            let pictures = styles.iter().map(in_style).collect::<Result<_>>()?;
            sheet.rows.push(SheetRow { label: scene.full_caption(), pictures });
        }
    } else {
        for row in scenes.chunks(8) {
            let label = row.iter().map(|scene| scene.caption(0)).collect::<Vec<_>>().join(" | ");
            sheet.rows.push(SheetRow { label, pictures: row.iter().map(enlarged).collect::<Result<_>>()? });
        }
    }
    png::write(&args.out, &sheet.render(), &[])?;
    context.terminal.status(&format!("drew {} scenes in {}", args.count, args.out.display()));
    Ok(Outcome::Done)
}

fn sample(context: &Context, args: &SampleArgs) -> Result {
    args.drawing.check()?;
    let scenes = (0..args.count).map(|n| args.drawing.scene(n));
    let wording = |scene: &Scene| if args.drawing.held_out { scene.full_caption() } else { scene.caption(0) };
    write_all(context, &args.out, scenes.map(|scene| (scene.paint(args.drawing.size), wording(&scene))))
}

/// Writes `001.png`, `001.txt` and so on; a folder with anything in it is not touched.
fn write_all(context: &Context, folder: &Path, pictures: impl Iterator<Item = (Painting, String)>) -> Result {
    let failed = |path: &Path, error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    if std::fs::read_dir(folder).map_err(|error| failed(folder, error))?.next().is_some() {
        return Err(Failure::new(format!("{} is not empty", folder.display())).hint("name a new folder"));
    }
    let mut count = 0;
    for (painting, caption) in pictures {
        count += 1;
        let path = folder.join(format!("{count:03}.png"));
        png::write(&path, &picture(painting)?, &[])?;
        let path = path.with_extension("txt");
        scumble_model::files::atomic_write(&path, |file| writeln!(file, "{caption}"))?;
    }
    context.terminal.status(&format!("drew {count} pictures in {}", folder.display()));
    Ok(Outcome::Done)
}
