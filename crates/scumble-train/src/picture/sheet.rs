//! Contact sheets: pictures in rows and columns with labels, for before and after, and for validation pictures.
//!
//! ```text
//! title
//! subtitle
//!            column label   column label
//!            +----------+   +----------+
//!            | picture  |   | picture  |
//!            +----------+   +----------+
//!            row label, wrapped over at most two lines
//! ```
//!
//! All cells have one size, that of the largest picture within [`CELL_SIDES`]; pictures keep their proportions. The letters
//! are sized for screens with two pixels a point. A sheet is at most about [`LARGEST_SHEET`] pixels a side.

use super::canvas::{Align, Canvas, Colour};
use super::font::Size;
use super::{Filter, Picture, resize};

/// Smallest and largest longer side of a cell, in pixels.
const CELL_SIDES: [usize; 2] = [288, 768];
/// No sheet gets much wider or higher; cells shrink.
const LARGEST_SHEET: usize = 8192;

const PAPER: Colour = [250, 249, 246];
const INK: Colour = [32, 33, 36];
const QUIET: Colour = [104, 106, 112];
const EMPTY: Colour = [236, 234, 229];
const RULE: Colour = [221, 219, 213];

const MARGIN: usize = 48;
const GAP: usize = 20;

/// A place for a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SheetRow {
    /// Under the pictures; usually the prompt. May be empty.
    pub label: String,
    /// One for each column; `None` leaves the place empty.
    pub pictures: Vec<Option<Picture>>,
}

/// What is on the sheet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sheet {
    /// Large, on top. May be empty.
    pub title: String,
    /// Small, under the title. May be empty.
    pub subtitle: String,
    /// Over the columns. May be empty.
    pub columns: Vec<String>,
    /// From top to bottom.
    pub rows: Vec<SheetRow>,
}

/// Where everything goes, in pixels.
struct Layout {
    columns: usize,
    cell: [usize; 2],
    width: usize,
    header: usize,
    labels: Vec<Vec<String>>,
}

impl Sheet {
    /// A sheet with one row: how a prompt looked before and looks after.
    pub fn before_after(title: &str, prompt: &str, before: Picture, after: Picture) -> Self {
        Self {
            title: title.into(),
            subtitle: String::new(),
            columns: vec!["before".into(), "after".into()],
            rows: vec![SheetRow { label: prompt.into(), pictures: vec![Some(before), Some(after)] }],
        }
    }

    /// Paints the sheet.
    pub fn render(&self) -> Picture {
        let layout = self.layout();
        let [cell_width, cell_height] = layout.cell;
        let line = Size::Small.line_height();
        let body: usize = layout.labels.iter().map(|lines| row_height(cell_height, lines.len())).sum();
        let rules = self.rows.len().saturating_sub(1) * 2 * GAP;
        let mut canvas = Canvas::new(layout.width, layout.header + body + rules + MARGIN, PAPER);
        self.paint_header(&mut canvas, &layout);
        let mut y = layout.header;
        for (i, (row, label)) in self.rows.iter().zip(&layout.labels).enumerate() {
            if i > 0 {
                canvas.rectangle(MARGIN as i64, (y + GAP - 1) as i64, layout.width - 2 * MARGIN, 2, RULE);
                y += 2 * GAP;
            }
            for column in 0..layout.columns {
                let x = (MARGIN + column * (cell_width + GAP)) as i64;
                match row.pictures.get(column).and_then(Option::as_ref) {
                    Some(picture) => paint_picture(&mut canvas, x, y as i64, layout.cell, picture),
                    None => canvas.rectangle(x, y as i64, cell_width, cell_height, EMPTY),
                }
            }
            for (n, text) in label.iter().enumerate() {
                let top = (y + cell_height + GAP / 2 + n * line) as i64;
                canvas.text(MARGIN as f32, top, text, Size::Small, Align::Left, INK);
            }
            y += row_height(cell_height, label.len());
        }
        canvas.into_picture()
    }

    fn layout(&self) -> Layout {
        let in_rows = self.rows.iter().map(|row| row.pictures.len()).max().unwrap_or(0);
        let columns = in_rows.max(self.columns.len()).max(1);
        let cell = self.cell(columns);
        let width = 2 * MARGIN + columns * cell[0] + (columns - 1) * GAP;
        let inner = (width - 2 * MARGIN) as f32;
        let labels =
            self.rows.iter().map(|row| Size::Small.font().wrap(&row.label, inner, 2)).collect::<Vec<_>>();
        let mut header = MARGIN;
        for (text, size) in [(&self.title, Size::Large), (&self.subtitle, Size::Small)] {
            header += if text.is_empty() { 0 } else { size.line_height() };
        }
        header += if header > MARGIN { GAP } else { 0 };
        header += if self.columns.is_empty() { 0 } else { Size::Small.line_height() + GAP / 2 };
        Layout { columns, cell, width, header, labels }
    }

    /// Width and height of a cell: as large as the largest picture, within bounds.
    fn cell(&self, columns: usize) -> [usize; 2] {
        let pictures = || self.rows.iter().flat_map(|row| &row.pictures).flatten();
        let width = pictures().map(|p| p.width).max().unwrap_or(1) as f64;
        let height = pictures().map(|p| p.height).max().unwrap_or(1) as f64;
        let room = (LARGEST_SHEET / columns.max(self.rows.len()).max(1)).clamp(16, CELL_SIDES[1]);
        let longer = width.max(height);
        let side = longer.clamp(CELL_SIDES[0].min(room) as f64, room as f64);
        // Whole multiples for small pictures: every source pixel gets the same number of pixels.
        let scale =
            if side > longer { (side / longer).ceil().min(room as f64 / longer) } else { side / longer };
        // A strip gets a cell no more than twice as long as wide, with room beside it.
        let [width, height] = [width, height].map(|length| ((length * scale).round() as usize).max(1));
        [width.max(height / 2), height.max(width / 2)]
    }

    fn paint_header(&self, canvas: &mut Canvas, layout: &Layout) {
        let inner = (layout.width - 2 * MARGIN) as f32;
        let mut y = MARGIN / 2 + MARGIN / 4;
        for (text, size, colour) in [(&self.title, Size::Large, INK), (&self.subtitle, Size::Small, QUIET)] {
            if !text.is_empty() {
                let shown = size.font().shorten(text, inner);
                canvas.text(MARGIN as f32, y as i64, &shown, size, Align::Left, colour);
                y += size.line_height();
            }
        }
        let top = layout.header.saturating_sub(Size::Small.line_height() + GAP / 2);
        for (column, text) in self.columns.iter().enumerate() {
            let middle = MARGIN + column * (layout.cell[0] + GAP) + layout.cell[0] / 2;
            let shown = Size::Small.font().shorten(text, layout.cell[0] as f32);
            canvas.text(middle as f32, top as i64, &shown, Size::Small, Align::Centre, QUIET);
        }
    }
}

/// A row of pictures with `lines` of label under it.
fn row_height(cell_height: usize, lines: usize) -> usize {
    let label = if lines == 0 { 0 } else { GAP / 2 + lines * Size::Small.line_height() };
    cell_height + label
}

/// Scales a picture to fit into the cell, centred.
fn paint_picture(canvas: &mut Canvas, x: i64, y: i64, cell: [usize; 2], picture: &Picture) {
    let scale = (cell[0] as f64 / picture.width as f64).min(cell[1] as f64 / picture.height as f64);
    let side = |length: usize| ((length as f64 * scale).round() as usize).max(1);
    let (width, height) = (side(picture.width), side(picture.height));
    let filter = if scale > 1.0 { Filter::Bicubic } else { Filter::Lanczos };
    let shown = resize(picture, width, height, filter);
    let (left, top) =
        (x + (cell[0] - width.min(cell[0])) as i64 / 2, y + (cell[1] - height.min(cell[1])) as i64 / 2);
    canvas.picture(left, top, &shown);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solid(width: usize, height: usize, colour: Colour) -> Option<Picture> {
        Some(Picture::filled(width, height, colour))
    }

    #[test]
    fn every_picture_is_on_the_sheet_once() {
        let sheet = Sheet {
            title: "Title".into(),
            subtitle: "sub".into(),
            columns: vec!["a".into(), "b".into()],
            rows: vec![
                SheetRow {
                    label: "a prompt".into(),
                    pictures: vec![solid(64, 64, [255, 0, 0]), solid(64, 64, [0, 255, 0])],
                },
                SheetRow { label: String::new(), pictures: vec![solid(64, 32, [0, 0, 255]), None] },
            ],
        };
        let out = sheet.render();
        let count = |colour| out.rgb.chunks_exact(3).filter(|p| *p == colour).count();
        // 64 grows to the smallest whole multiple not under 288: 5 x 64 = 320.
        let red = count([255, 0, 0]);
        assert_eq!((red, count([0, 255, 0])), (320 * 320, 320 * 320));
        assert_eq!((count([0, 0, 255]), count(EMPTY)), (320 * 160, 320 * 320));
        assert_eq!(out.width, 2 * MARGIN + 2 * 320 + GAP);
        assert_eq!(sheet.render(), out);
    }

    #[test]
    fn odd_sheets_do_not_fail() {
        assert!(Sheet::default().render().width > 0);
        let strip = Sheet {
            rows: vec![SheetRow { label: "tall".into(), pictures: vec![solid(8, 640, [1, 2, 3])] }],
            ..Sheet::default()
        }
        .render();
        assert!(strip.width >= 320 && strip.rgb.chunks_exact(3).any(|p| p == [1, 2, 3]), "{strip:?}");
        let no_pictures =
            Sheet { title: "日本 \u{0}\n".repeat(50), columns: vec![String::new(); 3], ..Sheet::default() };
        assert!(no_pictures.render().height > 0);
        let many = Sheet {
            rows: vec![SheetRow { label: "x ".repeat(500), pictures: vec![solid(512, 8, [1; 3]); 100] }; 3],
            ..Sheet::default()
        };
        let out = many.render();
        assert!(out.width < 2 * LARGEST_SHEET, "{out:?}");
    }
}
