//! A small painter for plots and sheets: rectangles, antialiased lines, text, pictures, over one [`Picture`].
//!
//! Coordinates are pixels from the top left, pixel centres at .5. Painting outside is clipped. A polyline is painted in one go
//! from a coverage mask (the largest over its segments), so translucent lines do not darken at their joints:
//!
//! ```text
//! coverage = clamp(thickness / 2 + 0.5 - distance to the segment, 0, 1)
//! ```

use super::Picture;
use super::font::Size;

/// An RGB colour.
pub type Colour = [u8; 3];

/// A picture being painted.
pub struct Canvas {
    picture: Picture,
}

/// Which point of a text stands at the given position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// The left end.
    Left,
    /// The middle.
    Centre,
    /// The right end.
    Right,
}

impl Canvas {
    /// A canvas of one colour.
    pub fn new(width: usize, height: usize, colour: Colour) -> Self {
        Self { picture: Picture::filled(width.max(1), height.max(1), colour) }
    }

    /// The painted picture.
    pub fn into_picture(self) -> Picture {
        self.picture
    }

    /// Mixes `colour` into a pixel; `amount` 0 to 1.
    fn blend(&mut self, x: i64, y: i64, colour: Colour, amount: f32) {
        let (w, h) = (self.picture.width as i64, self.picture.height as i64);
        if amount <= 0.0 || !(0..w).contains(&x) || !(0..h).contains(&y) {
            return;
        }
        let at = (y * w + x) as usize * 3;
        for (old, new) in self.picture.rgb[at..at + 3].iter_mut().zip(colour) {
            *old = (f32::from(*old) + (f32::from(new) - f32::from(*old)) * amount.min(1.0)).round() as u8;
        }
    }

    /// Fills a rectangle.
    pub fn rectangle(&mut self, x: i64, y: i64, width: usize, height: usize, colour: Colour) {
        let columns = x.max(0)..(x + width as i64).min(self.picture.width as i64);
        for row in y.max(0)..(y + height as i64).min(self.picture.height as i64) {
            for column in columns.clone() {
                self.blend(column, row, colour, 1.0);
            }
        }
    }

    /// Fills a rectangle with rounded corners.
    pub fn rounded(&mut self, x: i64, y: i64, width: usize, height: usize, radius: f32, colour: Colour) {
        let (half_w, half_h) = (width as f32 / 2.0, height as f32 / 2.0);
        for row in 0..height {
            for column in 0..width {
                // Distance to the rectangle that is smaller by the radius on every side.
                let dx = ((column as f32 + 0.5 - half_w).abs() - (half_w - radius)).max(0.0);
                let dy = ((row as f32 + 0.5 - half_h).abs() - (half_h - radius)).max(0.0);
                let cover = (radius + 0.5 - dx.hypot(dy)).clamp(0.0, 1.0);
                self.blend(x + column as i64, y + row as i64, colour, cover);
            }
        }
    }

    /// Copies a picture onto the canvas.
    pub fn picture(&mut self, x: i64, y: i64, picture: &Picture) {
        for row in 0..picture.height {
            for column in 0..picture.width {
                self.blend(x + column as i64, y + row as i64, picture.pixel(column, row), 1.0);
            }
        }
    }

    /// A line through `points`; parts outside `clip` (left, top, right, bottom) are left out. Points must be finite.
    pub fn polyline(
        &mut self,
        points: &[[f32; 2]],
        thickness: f32,
        colour: Colour,
        opacity: f32,
        clip: [f32; 4],
    ) {
        let [left, top, right, bottom] = clip;
        let x0 = left.floor().max(0.0) as usize;
        let y0 = top.floor().max(0.0) as usize;
        let x1 = (right.ceil().max(0.0) as usize).min(self.picture.width).max(x0);
        let y1 = (bottom.ceil().max(0.0) as usize).min(self.picture.height).max(y0);
        let width = x1 - x0;
        let mut mask = vec![0f32; width * (y1 - y0)];
        let reach = thickness / 2.0 + 1.0;
        // One point alone is a dot.
        let dot = points.first().filter(|_| points.len() == 1).map(|p| (*p, *p));
        for (a, b) in points.windows(2).map(|p| (p[0], p[1])).chain(dot) {
            let span = |axis: usize, low: usize, high: usize| {
                let from = (a[axis].min(b[axis]) - reach).floor().max(low as f32) as usize;
                let to = (a[axis].max(b[axis]) + reach).ceil().clamp(low as f32, high as f32) as usize;
                from.min(high)..to
            };
            for y in span(1, y0, y1) {
                for x in span(0, x0, x1) {
                    let far = distance([x as f32 + 0.5, y as f32 + 0.5], a, b);
                    let cover = (thickness / 2.0 + 0.5 - far).clamp(0.0, 1.0);
                    let cell = &mut mask[(y - y0) * width + x - x0];
                    *cell = cell.max(cover);
                }
            }
        }
        for (i, cover) in mask.iter().enumerate().filter(|(_, cover)| **cover > 0.0) {
            self.blend((x0 + i % width) as i64, (y0 + i / width) as i64, colour, cover * opacity);
        }
    }

    /// Writes a line of text; `y` is the top of the line. Control characters are left out.
    pub fn text(&mut self, x: f32, y: i64, text: &str, size: Size, align: Align, colour: Colour) {
        let font = size.font();
        let mut pen = match align {
            Align::Left => x,
            Align::Centre => x - font.measure(text) / 2.0,
            Align::Right => x - font.measure(text),
        };
        for glyph in text.chars().filter(|c| !c.is_control()).filter_map(|c| font.glyph(c)) {
            let (gx, gy) = (pen.round() as i64 + i64::from(glyph.left), y + i64::from(glyph.top));
            for row in 0..glyph.height {
                for column in 0..glyph.width {
                    let cover = font.coverage[(glyph.y + row) * font.width + glyph.x + column];
                    self.blend(gx + column as i64, gy + row as i64, colour, f32::from(cover) / 255.0);
                }
            }
            pen += glyph.advance;
        }
    }
}

/// From point `p` to the segment `a`-`b`.
fn distance(p: [f32; 2], a: [f32; 2], b: [f32; 2]) -> f32 {
    let along = [b[0] - a[0], b[1] - a[1]];
    let to = [p[0] - a[0], p[1] - a[1]];
    let length = along[0] * along[0] + along[1] * along[1];
    let t = if length > 0.0 { ((to[0] * along[0] + to[1] * along[1]) / length).clamp(0.0, 1.0) } else { 0.0 };
    (to[0] - t * along[0]).hypot(to[1] - t * along[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYWHERE: [f32; 4] = [-1e6, -1e6, 1e6, 1e6];

    #[test]
    fn a_level_line_covers_its_rows() {
        let mut canvas = Canvas::new(10, 10, [0; 3]);
        canvas.polyline(&[[-5.0, 5.0], [50.0, 5.0]], 2.0, [200; 3], 1.0, EVERYWHERE);
        let p = canvas.into_picture();
        assert_eq!([3, 4, 5, 6].map(|y| p.pixel(5, y)[0]), [0, 200, 200, 0]);
    }

    #[test]
    fn joints_of_translucent_lines_are_not_darker() {
        let mut canvas = Canvas::new(20, 9, [0; 3]);
        canvas.polyline(&[[2.0, 4.5], [10.0, 4.5], [18.0, 4.5]], 3.0, [200; 3], 0.5, EVERYWHERE);
        let p = canvas.into_picture();
        assert_eq!(p.pixel(10, 4), p.pixel(6, 4));
        assert_eq!(p.pixel(6, 4), [100; 3]);
    }

    #[test]
    fn painting_outside_is_clipped() {
        let mut canvas = Canvas::new(8, 8, [9; 3]);
        canvas.rectangle(-5, -5, 7, 7, [1; 3]);
        canvas.rectangle(100, 100, 7, 7, [1; 3]);
        canvas.text(-3.0, -40, "text", Size::Large, Align::Left, [1; 3]);
        canvas.picture(6, 6, &Picture::filled(4, 4, [2; 3]));
        canvas.polyline(&[[-50.0, 60.0]], 3.0, [1; 3], 1.0, EVERYWHERE);
        canvas.polyline(&[[0.0, 7.0], [8.0, 7.0]], 2.0, [5; 3], 1.0, [0.0, 0.0, 8.0, 4.0]);
        let p = canvas.into_picture();
        assert_eq!((p.pixel(1, 1), p.pixel(2, 2), p.pixel(7, 7)), ([1; 3], [9; 3], [2; 3]));
        assert_eq!(p.rgb.iter().filter(|&&v| v == 5).count(), 0);
    }

    #[test]
    fn text_leaves_ink_where_it_should() {
        let ink = |align| {
            let mut canvas = Canvas::new(200, 40, [255; 3]);
            canvas.text(100.0, 5, "Hh", Size::Large, align, [0; 3]);
            let p = canvas.into_picture();
            let dark = |x: usize| (0..40).any(|y| p.pixel(x, y)[0] < 100);
            ((0..100).any(dark), (100..200).any(dark))
        };
        assert_eq!(
            (ink(Align::Left), ink(Align::Right), ink(Align::Centre)),
            ((false, true), (true, false), (true, true))
        );
    }
}
