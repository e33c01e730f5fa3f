//! A canvas over tiny-skia that takes patches, colours and opacity.

use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Mask, Paint, Path, Pixmap, PremultipliedColorU8, Rect, Stroke,
    Transform,
};

use super::Patch;
use crate::colour::Rgb;

/// See the module's text. Pictures are opaque: what is under everything is the paper.
pub(super) struct Brush {
    pixels: Option<Pixmap>,
    size: usize,
    pub(super) antialias: bool,
}

fn paint(colour: Rgb, opacity: f32, antialias: bool) -> Paint<'static> {
    let mut paint = Paint::default();
    let alpha = (opacity.clamp(0.0, 1.0) * 255.0).round() as u8;
    paint.set_color_rgba8(colour[0], colour[1], colour[2], alpha);
    paint.anti_alias = antialias;
    paint
}

impl Brush {
    /// Paper of one colour.
    pub(super) fn new(size: usize, paper: Rgb) -> Self {
        let mut pixels = Pixmap::new(size as u32, size as u32);
        if let Some(pixels) = &mut pixels {
            pixels.fill(Color::from_rgba8(paper[0], paper[1], paper[2], 255));
        }
        Self { pixels, size, antialias: true }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn scale(&self) -> Transform {
        Transform::from_scale(self.size as f32, self.size as f32)
    }

    /// Fills a patch, or draws its line.
    pub(super) fn patch(&mut self, patch: &Patch, colour: Rgb, opacity: f32) {
        self.moved(patch, colour, opacity, Transform::identity());
    }

    /// As [`Brush::patch`], moved first.
    pub(super) fn moved(&mut self, patch: &Patch, colour: Rgb, opacity: f32, by: Transform) {
        let (paint, at) = (paint(colour, opacity, self.antialias), self.scale().pre_concat(by));
        let Some(pixels) = &mut self.pixels else { return };
        match patch.line {
            Some(width) => pixels.stroke_path(&patch.path, &paint, &stroke(width), at, None),
            None => pixels.fill_path(&patch.path, &paint, FillRule::Winding, at, None),
        }
    }

    /// Draws a line along a path.
    pub(super) fn along(&mut self, path: &Path, colour: Rgb, opacity: f32, width: f32) {
        let (paint, at) = (paint(colour, opacity, self.antialias), self.scale());
        if let Some(pixels) = &mut self.pixels {
            pixels.stroke_path(path, &paint, &stroke(width), at, None);
        }
    }

    /// Draws lines inside a patch only.
    pub(super) fn inside(&mut self, patch: &Patch, lines: &Path, colour: Rgb, width: f32) {
        let (paint, at, side) = (paint(colour, 1.0, self.antialias), self.scale(), self.size as u32);
        let (Some(pixels), Some(mut mask)) = (&mut self.pixels, Mask::new(side, side)) else { return };
        mask.fill_path(&patch.path, FillRule::Winding, true, at);
        pixels.stroke_path(lines, &paint, &stroke(width), at, Some(&mask));
    }

    /// Fills a square of the picture from 0 to 1.
    pub(super) fn square(&mut self, x: f32, y: f32, side: f32, colour: Rgb) {
        let (paint, at) = (paint(colour, 1.0, false), self.scale());
        if let (Some(pixels), Some(square)) = (&mut self.pixels, Rect::from_xywh(x, y, side, side)) {
            pixels.fill_rect(square, &paint, at, None);
        }
    }

    /// The colour of a pixel; black outside.
    pub(super) fn pixel(&self, x: usize, y: usize) -> Rgb {
        let found = self.pixels.as_ref().and_then(|pixels| pixels.pixel(x as u32, y as u32));
        found.map_or([0; 3], |p| [p.red(), p.green(), p.blue()])
    }

    /// Replaces every pixel.
    pub(super) fn map(&mut self, change: impl Fn(&Self, usize, usize) -> Rgb) {
        let size = self.size;
        let new: Vec<Rgb> = (0..size * size).map(|at| change(self, at % size, at / size)).collect();
        let Some(pixels) = &mut self.pixels else { return };
        for (pixel, [r, g, b]) in pixels.pixels_mut().iter_mut().zip(new) {
            if let Some(opaque) = PremultipliedColorU8::from_rgba(r, g, b, 255) {
                *pixel = opaque;
            }
        }
    }

    /// The bytes.
    pub(super) fn into_rgb(self) -> Vec<u8> {
        let size = self.size;
        (0..size * size).flat_map(|at| self.pixel(at % size, at / size)).collect()
    }
}

fn stroke(width: f32) -> Stroke {
    Stroke { width, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() }
}
