//! The contact sheet of a data set: every picture with the part that is used, its text, and what is wrong with it.
//!
//! ```text
//! +-----------+   name               size -> training size
//! |  picture  |   what is cut away lies under a veil; what does not count, by a mask, is tinted
//! +-----------+   text, in at most three lines; remarks in red
//! ```

use super::look::Seen;
use super::{Dataset, Result};
use crate::picture::canvas::{Align, Canvas, Colour};
use crate::picture::font::Size;
use crate::picture::{Filter, Picture, resize};

/// Pictures on one sheet.
pub const PER_SHEET: usize = 60;

const COLUMNS: usize = 5;
const CELL: usize = 340;
const GAP: usize = 28;
const MARGIN: usize = 48;
const LINES: usize = 3;

const PAPER: Colour = [250, 249, 246];
const INK: Colour = [32, 33, 36];
const QUIET: Colour = [104, 106, 112];
const ALARM: Colour = [190, 44, 36];
const FRAME: Colour = [255, 214, 10];
const TINT: Colour = [40, 70, 200];

/// The sheet with these pictures of a data set, `seen` from place `first` on.
pub fn sheet(dataset: &Dataset, seen: &[Seen], first: usize, title: &str, subtitle: &str) -> Result<Picture> {
    let shown: Vec<(usize, &Seen)> = seen.iter().enumerate().skip(first).take(PER_SHEET).collect();
    let line = Size::Small.line_height();
    let columns = COLUMNS.min(shown.len()).max(2);
    let width = 2 * MARGIN + columns * CELL + (columns - 1) * GAP;
    let header = MARGIN + Size::Large.line_height() + line + GAP;
    let heights: Vec<usize> = shown
        .chunks(columns)
        .map(|row| {
            row.iter().map(|(_, seen)| text_lines(seen).len()).max().unwrap_or(0) * line + CELL + 2 * GAP
        })
        .collect();
    let mut canvas = Canvas::new(width, header + heights.iter().sum::<usize>() + MARGIN / 2, PAPER);
    let room = (width - 2 * MARGIN) as f32;
    for (text, size, y, colour) in [
        (title, Size::Large, MARGIN * 3 / 4, INK),
        (subtitle, Size::Small, MARGIN * 3 / 4 + Size::Large.line_height(), QUIET),
    ] {
        canvas.text(MARGIN as f32, y as i64, &size.font().shorten(text, room), size, Align::Left, colour);
    }
    let mut y = header;
    for (row, height) in shown.chunks(columns).zip(&heights) {
        for (column, (index, seen)) in row.iter().enumerate() {
            let x = MARGIN + column * (CELL + GAP);
            paint_picture(&mut canvas, [x, y], &thumbnail(dataset, *index, seen)?);
            for (number, (text, colour)) in text_lines(seen).into_iter().enumerate() {
                let top = (y + CELL + GAP / 2 + number * line) as i64;
                canvas.text(x as f32, top, &text, Size::Small, Align::Left, colour);
            }
        }
        y += height;
    }
    Ok(canvas.into_picture())
}

/// Name and sizes, text, remarks.
fn text_lines(seen: &Seen) -> Vec<(String, Colour)> {
    let font = Size::Small.font();
    let room = CELL as f32;
    let name = seen.file.rsplit('/').next().unwrap_or(&seen.file);
    let sizes = format!(
        "{} x {} -> {} x {}{}",
        seen.width,
        seen.height,
        seen.trained_width,
        seen.trained_height,
        if seen.repeats > 1 { format!(", {} times", seen.repeats) } else { String::new() }
    );
    let mut lines = vec![(font.shorten(name, room), INK), (font.shorten(&sizes, room), QUIET)];
    lines.extend(font.wrap(&seen.caption, room, LINES).into_iter().map(|text| (text, INK)));
    for remark in &seen.remarks {
        lines.extend(font.wrap(remark, room, 2).into_iter().map(|text| (text, ALARM)));
    }
    lines
}

/// The picture within a cell: what is cut away under a veil, what does not count tinted, a frame around the crop.
fn thumbnail(dataset: &Dataset, index: usize, seen: &Seen) -> Result<Picture> {
    let item = &dataset.items[index];
    let scale = CELL as f64 / seen.width.max(seen.height) as f64;
    let side = |length: usize| ((length as f64 * scale).round() as usize).clamp(1, CELL);
    let (width, height) = (side(seen.width), side(seen.height));
    let filter = if scale > 1.0 { Filter::Bicubic } else { Filter::Lanczos };
    let mut picture = resize(&dataset.with_mask(item)?, width, height, filter);
    let [left, top, crop_width, crop_height] = seen.crop.map(|value| value * scale);
    let (right, bottom) = (left + crop_width, top + crop_height);
    let mask = picture.alpha.take().filter(|_| item.mask.is_some());
    for y in 0..height {
        for x in 0..width {
            let (at_x, at_y) = (x as f64 + 0.5, y as f64 + 0.5);
            let pixel = &mut picture.rgb[(y * width + x) * 3..][..3];
            let inside = at_x >= left && at_x <= right && at_y >= top && at_y <= bottom;
            let near = |value: f64, edge: f64| (value - edge).abs() < 1.6;
            let on_edge = inside
                && (near(at_x, left.max(1.0))
                    || near(at_x, right)
                    || near(at_y, top.max(1.0))
                    || near(at_y, bottom));
            if let Some(mask) = &mask {
                mix(pixel, TINT, 0.6 * (1.0 - f32::from(mask[y * width + x]) / 255.0));
            }
            if !inside {
                mix(pixel, PAPER, 0.72);
            } else if on_edge {
                mix(pixel, FRAME, 0.9);
            }
        }
    }
    Ok(picture)
}

fn mix(pixel: &mut [u8], colour: Colour, amount: f32) {
    for (old, new) in pixel.iter_mut().zip(colour) {
        *old = (f32::from(*old) + (f32::from(new) - f32::from(*old)) * amount).round() as u8;
    }
}

fn paint_picture(canvas: &mut Canvas, [x, y]: [usize; 2], picture: &Picture) {
    let (left, top) = (x + (CELL - picture.width) / 2, y + (CELL - picture.height) / 2);
    canvas.picture(left as i64, top as i64, picture);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MaskSource, TrainConfig};
    use crate::data::gather;
    use crate::data::look::look;
    use crate::picture::png;

    #[test]
    fn the_sheet_shows_crop_mask_text_and_remarks() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, picture: &Picture| png::write(&dir.path().join(name), picture, &[]).unwrap();
        put("wide.png", &Picture::filled(340, 170, [0, 200, 0]));
        put("masked.png", &Picture::filled(340, 340, [200, 0, 0]));
        put("masked.mask.png", &Picture::filled(340, 340, [0; 3]));
        let mut config = TrainConfig::default();
        (config.data.folder, config.data.width, config.data.height) = (dir.path().into(), 64, 64);
        config.mask.source = MaskSource::File;
        let dataset = gather::pictures(&config).unwrap();
        let seen = look(&dataset).unwrap();
        let sheet = super::sheet(&dataset, &seen, 0, "title", "subtitle").unwrap();
        assert_eq!(sheet.width, 2 * MARGIN + 2 * CELL + GAP);
        let has = |colour: Colour| sheet.rgb.chunks_exact(3).filter(|p| *p == colour).count();
        assert!(has([0, 200, 0]) > 20_000, "what is used is as it is");
        let mut veiled = [0u8, 200, 0];
        mix(&mut veiled, PAPER, 0.72);
        assert!(has(veiled) > 20_000, "what is cut away is under a veil");
        let mut tinted = [200u8, 0, 0];
        mix(&mut tinted, TINT, 0.6);
        assert!(has(tinted) > 50_000 && has([200, 0, 0]) == 0, "what does not count is tinted");
        assert!(has(ALARM) > 20, "its mask is black");
        assert_eq!(super::sheet(&dataset, &seen, 0, "title", "subtitle").unwrap(), sheet);
        assert!(super::sheet(&dataset, &seen, 2, "", "").unwrap().width > 0);
    }
}
