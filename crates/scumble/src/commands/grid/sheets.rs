//! Painting a grid's cells and putting them where they go: pages of PNG, or frames of a GIF.
//!
//! Cells with one request are painted once. On a page, cells that wear the same adapters are painted together, because
//! putting adapters on costs more than leaving them on.

use std::ops::Range;
use std::path::{Path, PathBuf};

use scumble_paint::grid::{Axis, Grid, PAGE, Page, Setting};
use scumble_paint::record;
use scumble_paint::request::Request;
use scumble_paint::studio::{Studio, WearOptions, Worn};
use scumble_train::picture::table::{Labels, Table};
use scumble_train::picture::{Animation, Picture, png};

use super::{Cell, PROGRAM, texts_of};
use crate::commands::generate::{first_size, output, paint};
use crate::context::Context;
use crate::failure::{Failure, Result};

/// The last picture of an animation stands this much longer than the others.
const LAST_STANDS: u32 = 4;

/// Where everything goes.
pub struct Out {
    /// One file for each page, or the animation.
    files: Vec<PathBuf>,
    pages: Vec<Page>,
    is_animation: bool,
    /// A file for every cell, where they are wanted.
    pictures: Option<Vec<PathBuf>>,
}

impl Out {
    /// Names all files, and refuses those that are there already.
    pub fn plan(grid: &Grid, out: &Path, pictures: Option<&Path>, force: bool) -> Result<Self> {
        let count = grid.shape().iter().product();
        let pictures = match pictures {
            None => None,
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(|error| {
                    Failure::new(format!("cannot make the folder `{}`: {error}", folder.display()))
                })?;
                let names = (0..count).map(|index| folder.join(format!("cell-{index:03}.png"))).collect();
                Some(names)
            }
        };
        let is_animation = is_animation(out);
        let (files, pages) = if is_animation {
            (vec![out.to_owned()], frames(grid)?)
        } else {
            let pages = grid.pages();
            (output::targets(out, pages.len(), force)?, pages)
        };
        let out = Self { files, pages, is_animation, pictures };
        let mut all = out.files.iter().chain(out.pictures.iter().flatten());
        match all.find(|file| file.exists()) {
            Some(taken) if !force => Err(Failure::new(format!("`{}` is there already", taken.display()))
                .hint("choose another --out, or pass --force to replace it")),
            _ => Ok(out),
        }
    }
}

/// Whether a file is to move.
pub fn is_animation(out: &Path) -> bool {
    out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gif"))
}

/// One page for each value of the last axis, with the other axes on it.
fn frames(grid: &Grid) -> Result<Vec<Page>> {
    let [columns, rows, sheets] = grid.shape();
    let page = |columns, rows, sheet| Page { columns, rows, sheet };
    let frames: Vec<Page> = match grid.axes().len() {
        1 => (0..columns).map(|column| page(column..column + 1, 0..1, 0)).collect(),
        2 => (0..rows).map(|row| page(0..columns, row..row + 1, 0)).collect(),
        _ => (0..sheets).map(|sheet| page(0..columns, 0..rows, sheet)).collect(),
    };
    let too_large = frames.iter().any(|frame| frame.columns.len() > PAGE || frame.rows.len() > PAGE);
    if too_large {
        return Err(Failure::usage(format!(
            "a frame of an animation holds at most {PAGE} x {PAGE} pictures"
        ))
        .hint("give the axis with the most values last: the last axis runs over time"));
    }
    Ok(frames)
}

/// Everything that painting needs.
pub struct Painter<'a> {
    /// Where to report.
    pub context: &'a Context,
    /// The base.
    pub studio: &'a Studio,
    /// The axes.
    pub grid: &'a Grid,
    /// All cells, row by row and sheet by sheet.
    pub cells: &'a [Cell],
    /// What they have in common.
    pub common: &'a Request,
    /// The base's name.
    pub base: &'a str,
    /// How adapters are put on.
    pub wear: WearOptions,
    /// How long a frame stands.
    pub frame_ms: u32,
}

/// Keyword and content of the two texts of a picture.
type Texts = [(&'static str, String); 2];

/// What is kept while painting.
#[derive(Default)]
struct State<'a> {
    /// The adapters that are on.
    worn: Option<(usize, Worn<'a>)>,
    painted: usize,
    /// Pictures to paint; cells of one request are one picture.
    total: usize,
    stopped: bool,
}

impl<'a> Painter<'a> {
    /// Paints everything; the files, and whether nothing is missing.
    pub fn paint(&self, out: &Out) -> Result<(Vec<PathBuf>, bool)> {
        let total = out.pages.iter().map(|page| self.groups(page).len()).sum();
        let mut state = State { total, ..State::default() };
        let mut files = Vec::new();
        let mut animation: Option<Animation> = None;
        for (index, page) in out.pages.iter().enumerate() {
            let painted = self.page(page, out, &mut state)?;
            // A page of which nothing is there yet is no use to anybody.
            let Some((picture, texts)) = painted else { break };
            let texts = texts.each_ref().map(|(key, text)| (*key, text.as_str()));
            if out.is_animation {
                if animation.is_none() {
                    let comments = texts.map(|(key, text)| format!("{key}: {text}"));
                    let size = [picture.width, picture.height];
                    animation = Some(Animation::create(
                        &out.files[0],
                        size,
                        &comments.each_ref().map(String::as_str),
                    )?);
                }
                if let Some(animation) = &mut animation {
                    let is_last = index + 1 == out.pages.len() || state.stopped;
                    animation.push(&picture, self.frame_ms * if is_last { LAST_STANDS } else { 1 })?;
                }
            } else {
                png::write(&out.files[index], &picture, &texts)?;
                files.push(out.files[index].clone());
            }
            if state.stopped {
                break;
            }
        }
        if let Some(animation) = animation {
            animation.finish()?;
            files.extend(out.files.iter().cloned());
        }
        if let Some(pictures) = &out.pictures {
            files.extend(pictures.iter().filter(|_| !state.stopped).cloned());
        }
        Ok((files, !state.stopped))
    }

    /// One page and its texts; `None` when it was stopped before its first picture.
    fn page(&self, page: &Page, out: &Out, state: &mut State<'a>) -> Result<Option<(Picture, Texts)>> {
        let mut table: Option<(Table, Texts)> = None;
        for group in self.groups(page) {
            let first = &self.cells[group[0]];
            let Some(picture) = self.one(group[0], state)? else { break };
            let size = first.request.size.unwrap_or_else(|| first_size(&first.request, &picture));
            if table.is_none() {
                let sampler = self.studio.sampler_kind(self.common)?;
                let texts = record::grid_texts(self.common, self.grid, self.base, sampler, size, PROGRAM);
                table = Some((
                    Table::new(&self.labels(page, out.is_animation), [picture.width, picture.height]),
                    texts,
                ));
            }
            for index in group {
                let (column, row) = self.place(index);
                if let Some((table, _)) = &mut table {
                    table.put(row - page.rows.start, column - page.columns.start, &picture);
                }
                if let Some(files) = &out.pictures {
                    let texts = texts_of(&self.cells[index], self.studio, self.base, size)?;
                    png::write(
                        &files[index],
                        &picture,
                        &texts.each_ref().map(|(k, text)| (*k, text.as_str())),
                    )?;
                }
            }
        }
        Ok(table.map(|(table, texts)| (table.finish(), texts)))
    }

    /// Column and row of a cell.
    fn place(&self, index: usize) -> (usize, usize) {
        let [columns, rows, _] = self.grid.shape();
        (index % columns, index / columns % rows)
    }

    /// The cells of a page, those of one request together, ordered by the adapters they wear.
    fn groups(&self, page: &Page) -> Vec<Vec<usize>> {
        let [columns, rows, _] = self.grid.shape();
        let on_page = page.rows.clone().flat_map(|row| {
            page.columns.clone().map(move |column| (page.sheet * rows + row) * columns + column)
        });
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for index in on_page {
            let same = |group: &&mut Vec<usize>| self.cells[group[0]].request == self.cells[index].request;
            match groups.iter_mut().find(same) {
                Some(group) => group.push(index),
                None => groups.push(vec![index]),
            }
        }
        let first_alike =
            |group: &Vec<usize>| self.cells.iter().position(|cell| cell.wears_as(&self.cells[group[0]]));
        groups.sort_by_key(first_alike);
        groups
    }

    /// Paints one cell; `None` when it was stopped.
    fn one(&self, index: usize, state: &mut State<'a>) -> Result<Option<Picture>> {
        let cell = &self.cells[index];
        let same = state.worn.as_ref().is_some_and(|(on, _)| self.cells[*on].wears_as(cell));
        if !same {
            // Off with the old ones first: both would act otherwise.
            drop(state.worn.take());
            let mut note = |text: String| self.context.terminal.warning(&text);
            let embeddings = &cell.request.embeddings;
            state.worn = Some((index, self.studio.wear(&cell.adapters, embeddings, self.wear, &mut note)?));
        }
        let Some((_, worn)) = &state.worn else { return Ok(None) };
        state.painted += 1;
        let extra = format!("picture {}/{}", state.painted, state.total);
        let picture = paint(self.context, worn, &cell.request, &cell.texts, &extra)?;
        state.stopped = picture.is_none();
        Ok(picture)
    }

    /// What is written on a page. In an animation the value of the last axis is the title: labels beside pictures would
    /// change the size of the frames.
    fn labels(&self, page: &Page, is_animation: bool) -> Labels {
        let axes = self.grid.axes();
        let labels = |number: usize| axes.get(number).map(Axis::labels).unwrap_or_default();
        let part = |number: usize, range: &Range<usize>| -> Vec<String> {
            labels(number).get(range.clone()).map(<[String]>::to_vec).unwrap_or_default()
        };
        let mut fixed = Vec::new();
        let of_all = [
            (Setting::Seed, format!("seed {}", self.common.seed)),
            (Setting::Steps, format!("steps {}", self.common.steps)),
            (Setting::Guidance, format!("guidance {}", self.common.guidance)),
        ];
        for (setting, text) in of_all {
            if !self.grid.has(setting) {
                fixed.push(text);
            }
        }
        let prompt = if self.grid.has(Setting::Prompt) { "" } else { self.common.prompt.as_str() };
        let mut labels = Labels {
            title: prompt.to_owned(),
            subtitle: String::new(),
            columns: part(0, &page.columns),
            rows: part(1, &page.rows),
        };
        let sheet = part(2, &(page.sheet..page.sheet + 1));
        if is_animation {
            let moving = match axes.len() {
                1 => std::mem::take(&mut labels.columns),
                2 => std::mem::take(&mut labels.rows),
                _ => sheet,
            };
            fixed.insert(0, prompt.to_owned());
            labels.title = moving.concat();
        } else {
            fixed.splice(0..0, sheet);
        }
        fixed.retain(|text| !text.is_empty());
        labels.subtitle = fixed.join(", ");
        labels
    }
}
