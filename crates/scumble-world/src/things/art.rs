//! A drawing as a list of shapes, and the pen that makes them.

use tiny_skia::{Path, PathBuilder, Rect};

use crate::colour::Rgb;

/// What a shape is painted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// The thing's colour.
    Main,
    /// A darker tone of it.
    Shade,
    /// A lighter tone of it.
    Tint,
    /// A colour that stands out from it.
    Contrast,
    /// Always this.
    Fixed(Rgb),
}

/// Almost white.
pub const WHITE: Ink = Ink::Fixed([250, 250, 246]);
/// Almost black: eyes, tyres.
pub const DARK: Ink = Ink::Fixed([44, 38, 48]);
/// Wood and trunks.
pub const WOOD: Ink = Ink::Fixed([136, 92, 58]);
/// Glass.
pub const GLASS: Ink = Ink::Fixed([176, 222, 242]);
/// Stalks and leaves.
pub const LEAF: Ink = Ink::Fixed([74, 152, 70]);
/// Beaks, lights.
pub const GOLD: Ink = Ink::Fixed([250, 190, 60]);
/// Metal and stone.
pub const GREY: Ink = Ink::Fixed([150, 150, 160]);

/// A filled path, or a line along it.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Where.
    pub path: Path,
    /// With what.
    pub ink: Ink,
    /// The width of the line; none for a filled shape.
    pub line: Option<f32>,
}

/// A drawing.
#[derive(Clone, Debug, Default)]
pub struct Art {
    /// From back to front.
    pub shapes: Vec<Shape>,
}

impl Art {
    fn push(&mut self, path: Option<Path>, ink: Ink, line: Option<f32>) {
        // A path without extent is no shape; none of the drawings has one.
        if let Some(path) = path {
            self.shapes.push(Shape { path, ink, line });
        }
    }

    /// An ellipse around a centre.
    pub fn ellipse(&mut self, ink: Ink, [x, y]: [f32; 2], [rx, ry]: [f32; 2]) {
        let oval = Rect::from_ltrb(x - rx, y - ry, x + rx, y + ry);
        self.push(oval.and_then(PathBuilder::from_oval), ink, None);
    }

    /// A disc.
    pub fn disc(&mut self, ink: Ink, centre: [f32; 2], radius: f32) {
        self.ellipse(ink, centre, [radius, radius]);
    }

    /// A rectangle from corner to corner.
    pub fn rect(&mut self, ink: Ink, [x0, y0]: [f32; 2], [x1, y1]: [f32; 2]) {
        self.poly(ink, &[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]);
    }

    /// A rectangle with round corners.
    pub fn round_rect(&mut self, ink: Ink, [x0, y0]: [f32; 2], [x1, y1]: [f32; 2], r: f32) {
        self.shape(ink, [x0 + r, y0], |p| {
            p.line_to(x1 - r, y0);
            p.quad_to(x1, y0, x1, y0 + r);
            p.line_to(x1, y1 - r);
            p.quad_to(x1, y1, x1 - r, y1);
            p.line_to(x0 + r, y1);
            p.quad_to(x0, y1, x0, y1 - r);
            p.line_to(x0, y0 + r);
            p.quad_to(x0, y0, x0 + r, y0);
        });
    }

    /// A filled polygon.
    pub fn poly(&mut self, ink: Ink, points: &[[f32; 2]]) {
        self.push(polygon(points, true), ink, None);
    }

    /// A line through points.
    pub fn line(&mut self, ink: Ink, width: f32, points: &[[f32; 2]]) {
        self.push(polygon(points, false), ink, Some(width));
    }

    /// A filled path from `start`, closed at the end.
    pub fn shape(&mut self, ink: Ink, start: [f32; 2], draw: impl FnOnce(&mut PathBuilder)) {
        let mut path = PathBuilder::new();
        path.move_to(start[0], start[1]);
        draw(&mut path);
        path.close();
        self.push(path.finish(), ink, None);
    }

    /// A line along a path from `start`.
    pub fn curve(&mut self, ink: Ink, width: f32, start: [f32; 2], draw: impl FnOnce(&mut PathBuilder)) {
        let mut path = PathBuilder::new();
        path.move_to(start[0], start[1]);
        draw(&mut path);
        self.push(path.finish(), ink, Some(width));
    }

    /// An eye: white with a dark pupil that looks to the right.
    pub fn eye(&mut self, [x, y]: [f32; 2], radius: f32) {
        self.disc(WHITE, [x, y], radius);
        self.disc(DARK, [x + 0.25 * radius, y], 0.6 * radius);
    }
}

fn polygon(points: &[[f32; 2]], closed: bool) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (n, &[x, y]) in points.iter().enumerate() {
        if n == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    if closed {
        path.close();
    }
    path.finish()
}
