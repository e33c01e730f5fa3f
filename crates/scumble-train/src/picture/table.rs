//! Pictures in a table: a label over each column, one beside each row, lines of text on top.
//!
//! ```text
//! title
//! subtitle, wrapped
//!             column      column
//! row label   +-------+   +-------+
//!             |       |   |       |
//!             +-------+   +-------+
//! ```
//!
//! All cells have one size, that of the first picture brought within [`CELL_SIDES`]: small pictures grow by a whole
//! factor, large ones shrink. Pictures are painted as they come, so that a large table never holds them all.

use super::canvas::{Align, Canvas, Colour};
use super::font::Size;
use super::{Filter, Picture, resize};

/// Smallest and largest longer side of a cell, in pixels.
const CELL_SIDES: [usize; 2] = [192, 512];
/// No table gets much wider or higher than this; its cells shrink.
const LARGEST: usize = 8192;
/// Widest label beside a row.
const WIDEST_LABEL: f32 = 260.0;
/// Most lines of a label over a column and of the subtitle.
const MOST_LINES: usize = 3;

const PAPER: Colour = [250, 249, 246];
const INK: Colour = [32, 33, 36];
const QUIET: Colour = [104, 106, 112];
const EMPTY: Colour = [236, 234, 229];

const MARGIN: usize = 24;
const GAP: usize = 12;

/// What is written on a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Large, on top. May be empty.
    pub title: String,
    /// Small, below it. May be empty.
    pub subtitle: String,
    /// One for each column; may be empty texts.
    pub columns: Vec<String>,
    /// One for each row; may be empty texts.
    pub rows: Vec<String>,
}

/// A table being painted.
pub struct Table {
    canvas: Canvas,
    cell: [usize; 2],
    left: usize,
    top: usize,
    columns: usize,
    rows: usize,
}

impl Table {
    /// An empty table for pictures of `width` x `height` pixels.
    pub fn new(labels: &Labels, [width, height]: [usize; 2]) -> Self {
        let (columns, rows) = (labels.columns.len().max(1), labels.rows.len().max(1));
        let cell = cell_size([width, height], columns.max(rows));
        let font = Size::Small.font();
        let line = Size::Small.line_height();
        let label_lines = (cell[1] / line).max(1);
        let widest = labels.rows.iter().map(|label| font.measure(label)).fold(0.0, f32::max);
        let beside = widest.min(WIDEST_LABEL).ceil() as usize;
        let left = MARGIN + if beside > 0 { beside + GAP } else { 0 };
        let full = left + columns * cell[0] + (columns - 1) * GAP + MARGIN;
        let inner = (full - 2 * MARGIN) as f32;
        let over: Vec<Vec<String>> =
            labels.columns.iter().map(|label| font.wrap(label, cell[0] as f32, MOST_LINES)).collect();
        let subtitle = font.wrap(&labels.subtitle, inner, MOST_LINES);
        let title = if labels.title.is_empty() { 0 } else { Size::Large.line_height() };
        let over_lines = over.iter().map(Vec::len).max().unwrap_or(0);
        let mut top = MARGIN + title + subtitle.len() * line;
        if top > MARGIN {
            top += GAP;
        }
        let over_top = top;
        if over_lines > 0 {
            top += over_lines * line + GAP / 2;
        }
        let height = top + rows * cell[1] + (rows - 1) * GAP + MARGIN;
        let mut canvas = Canvas::new(full, height, PAPER);
        if title > 0 {
            let shown = Size::Large.font().shorten(&labels.title, inner);
            canvas.text(MARGIN as f32, MARGIN as i64 - 4, &shown, Size::Large, Align::Left, INK);
        }
        for (number, text) in subtitle.iter().enumerate() {
            let y = (MARGIN + title + number * line) as i64;
            canvas.text(MARGIN as f32, y, text, Size::Small, Align::Left, QUIET);
        }
        let mut table = Self { canvas, cell, left, top, columns, rows };
        for (column, lines) in over.iter().enumerate() {
            let middle = (table.place(0, column).0 + cell[0] as i64 / 2) as f32;
            // At the bottom of the header, next to its pictures.
            let first = over_top + (over_lines - lines.len()) * line;
            for (number, text) in lines.iter().enumerate() {
                let y = (first + number * line) as i64;
                table.canvas.text(middle, y, text, Size::Small, Align::Centre, INK);
            }
        }
        for (row, label) in labels.rows.iter().enumerate() {
            let lines = font.wrap(label, WIDEST_LABEL, label_lines);
            let first = table.place(row, 0).1 + (cell[1].saturating_sub(lines.len() * line) / 2) as i64;
            for (number, text) in lines.iter().enumerate() {
                let y = first + (number * line) as i64;
                table.canvas.text(MARGIN as f32, y, text, Size::Small, Align::Left, INK);
            }
        }
        for row in 0..rows {
            for column in 0..columns {
                let (x, y) = table.place(row, column);
                table.canvas.rectangle(x, y, cell[0], cell[1], EMPTY);
            }
        }
        table
    }

    fn place(&self, row: usize, column: usize) -> (i64, i64) {
        let x = self.left + column * (self.cell[0] + GAP);
        let y = self.top + row * (self.cell[1] + GAP);
        (x as i64, y as i64)
    }

    /// Paints a picture into its cell, centred, in its own proportions. Cells that the table has not are left out.
    pub fn put(&mut self, row: usize, column: usize, picture: &Picture) {
        if row >= self.rows || column >= self.columns {
            return;
        }
        let [width, height] = self.cell;
        let scale = (width as f64 / picture.width as f64).min(height as f64 / picture.height as f64);
        let side = |length: usize| ((length as f64 * scale).round() as usize).max(1);
        let (w, h) = (side(picture.width), side(picture.height));
        let (x, y) = self.place(row, column);
        let (x, y) = (x + (width.saturating_sub(w) / 2) as i64, y + (height.saturating_sub(h) / 2) as i64);
        if (w, h) == (picture.width, picture.height) {
            self.canvas.picture(x, y, picture);
            return;
        }
        let filter = if scale > 1.0 { Filter::Bicubic } else { Filter::Lanczos };
        self.canvas.picture(x, y, &resize(picture, w, h, filter));
    }

    /// The painted table.
    pub fn finish(self) -> Picture {
        self.canvas.into_picture()
    }
}

/// Width and height of a cell in a table that has at most `most` cells in a line.
fn cell_size([width, height]: [usize; 2], most: usize) -> [usize; 2] {
    let longer = width.max(height).max(1) as f64;
    let largest = (LARGEST / most.max(1)).clamp(16, CELL_SIDES[1]) as f64;
    let smallest = (CELL_SIDES[0] as f64).min(largest);
    let scale = if longer < smallest {
        (smallest / longer).ceil().min(largest / longer)
    } else {
        (largest / longer).min(1.0)
    };
    [width, height].map(|side| ((side as f64 * scale).round() as usize).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(columns: &[&str], rows: &[&str]) -> Labels {
        let all = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Labels { title: "T".into(), subtitle: "s".into(), columns: all(columns), rows: all(rows) }
    }

    #[test]
    fn every_picture_is_in_its_cell_once() {
        let mut table = Table::new(&labels(&["a", "b"], &["one", "two"]), [64, 64]);
        table.put(0, 0, &Picture::filled(64, 64, [255, 0, 0]));
        table.put(1, 1, &Picture::filled(64, 32, [0, 255, 0]));
        table.put(2, 0, &Picture::filled(64, 64, [1, 2, 3]));
        let picture = table.finish();
        let count = |colour| picture.rgb.chunks_exact(3).filter(|pixel| *pixel == colour).count();
        // 64 grows three times.
        assert_eq!((count([255, 0, 0]), count([0, 255, 0])), (192 * 192, 192 * 96));
        assert_eq!((count(EMPTY), count([1, 2, 3])), (2 * 192 * 192 + 192 * 96, 0));
        let at = |colour: [u8; 3]| {
            let first = picture.rgb.chunks_exact(3).position(|pixel| pixel == colour).unwrap();
            (first % picture.width, first / picture.width)
        };
        let (red, green) = (at([255, 0, 0]), at([0, 255, 0]));
        assert!(green.0 > red.0 + 192 && green.1 > red.1 + 192, "{red:?} {green:?}");
    }

    #[test]
    fn cells_keep_within_bounds() {
        assert_eq!(cell_size([512, 512], 3), [512, 512]);
        assert_eq!(cell_size([1024, 512], 3), [512, 256]);
        assert_eq!(cell_size([64, 64], 100), [81, 81]);
        assert_eq!(cell_size([512, 8], 1000), [16, 1]);
        assert_eq!(cell_size([0, 0], 0), [1, 1]);
    }

    #[test]
    fn labels_leave_ink_and_odd_ones_do_no_harm() {
        let ink = |labels: &Labels| {
            let picture = Table::new(labels, [100, 100]).finish();
            picture.rgb.chunks_exact(3).filter(|pixel| pixel[0] < 100).count()
        };
        assert_eq!(ink(&Labels::default()), 0);
        assert!(ink(&labels(&["a", "b"], &["row"])) > ink(&labels(&["a", "b"], &[""])));
        assert!(ink(&labels(&["a", "b"], &[])) > ink(&labels(&["", ""], &[])));
        let long = "日本 \u{0}\n word ".repeat(200);
        assert!(ink(&labels(&[long.as_str(); 3], &[long.as_str(); 3])) > 0);
    }
}
