//! From a scene to pixels: the scene is laid out as a list of [`Patch`]es, and a style paints them its own way.

mod brush;
mod layout;
mod styles;
mod styles_novel;

use tiny_skia::Path;

use crate::colour::{Colour, Rgb};
use crate::dice::Dice;
use crate::scene::{Ground, Scene};
use crate::things::Art;
use brush::Brush;

/// A way of drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Style {
    /// Areas of one colour.
    Flat,
    /// The same with dark outlines.
    Outlined,
    /// Coarse squares.
    Pixelated,
    /// Strokes of a coloured pencil.
    Hatched,
    /// Transparent washes with soft edges on paper.
    Watercolour,
    /// Glowing tubes in the dark. Never in the base's world.
    Neon,
    /// White lines on blue paper. Never in the base's world.
    Blueprint,
    /// Chalk on a dark board. Never in the base's world.
    Chalk,
}

impl Style {
    /// Those that scenes are drawn in.
    pub const BASE: [Style; 5] =
        [Style::Flat, Style::Outlined, Style::Pixelated, Style::Hatched, Style::Watercolour];
    /// Those that only fine-tuning shows.
    pub const NOVEL: [Style; 3] = [Style::Neon, Style::Blueprint, Style::Chalk];

    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Style::Flat => "flat",
            Style::Outlined => "outlined",
            Style::Pixelated => "pixelated",
            Style::Hatched => "hatched",
            Style::Watercolour => "watercolour",
            Style::Neon => "neon",
            Style::Blueprint => "blueprint",
            Style::Chalk => "chalk",
        }
    }
}

/// What a patch is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Sky, wall, ground.
    Back,
    /// Sun, moon, clouds, stars, things.
    Thing,
    /// Rain and snow.
    Weather,
}

/// A coloured shape in a picture from 0 to 1.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    pub(crate) path: Path,
    pub(crate) colour: Rgb,
    /// The width of a line; none for a filled shape.
    pub(crate) line: Option<f32>,
    pub(crate) layer: Layer,
}

/// A finished picture: square, 8-bit RGB, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Painting {
    /// Pixels of a side.
    pub size: usize,
    /// `size * size * 3` bytes.
    pub rgb: Vec<u8>,
}

/// Sizes that can be painted.
pub const SIZES: std::ops::RangeInclusive<usize> = 16..=1024;

impl Scene {
    /// The picture, `size` pixels square (16 to 1024; others are brought to the nearer end).
    pub fn paint(&self, size: usize) -> Painting {
        let mut dice = Dice::new(self.grain, "grain", 0);
        let patches = layout::patches(self, &mut dice);
        paint(self.style, &patches, size, &mut dice)
    }
}

/// A drawing with a place of its own in the picture.
pub(crate) struct SizedArt {
    pub(crate) art: Art,
    pub(crate) half: f32,
    pub(crate) x: f32,
    pub(crate) mirrored: bool,
}

/// A scene with one more drawing in front, standing.
pub(crate) fn paint_beside(scene: &Scene, extra: &SizedArt, size: usize) -> Painting {
    let mut dice = Dice::new(scene.grain, "grain", 0);
    let mut patches = layout::patches(scene, &mut dice);
    let y = if scene.ground == Ground::Plain { 0.5 } else { 0.9 - extra.half };
    let spot = layout::Spot { x: extra.x, y, half: extra.half };
    layout::place(&mut patches, &extra.art, Colour::White, extra.mirrored, spot);
    paint(scene.style, &patches, size, &mut dice)
}

/// Paints patches in a style, at the nearest size that can be painted.
pub(crate) fn paint(style: Style, patches: &[Patch], size: usize, dice: &mut Dice) -> Painting {
    let size = size.clamp(*SIZES.start(), *SIZES.end());
    let brush = match style {
        Style::Flat => styles::flat(patches, size, true),
        Style::Outlined => styles::outlined(patches, size),
        Style::Pixelated => styles::pixelated(patches, size),
        Style::Hatched => styles::hatched(patches, size),
        Style::Watercolour => styles::watercolour(patches, size, dice),
        Style::Neon => styles_novel::neon(patches, size),
        Style::Blueprint => styles_novel::blueprint(patches, size),
        Style::Chalk => styles_novel::chalk(patches, size, dice),
    };
    Painting { size, rgb: brush.into_rgb() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::scene;

    #[test]
    fn pictures_are_functions_of_the_scene() {
        for style in Style::BASE.into_iter().chain(Style::NOVEL) {
            let scene = Scene { style, ..scene(1, 9) };
            let painting = scene.paint(64);
            assert_eq!(painting.rgb.len(), 64 * 64 * 3);
            assert_eq!(painting, scene.paint(64), "{style:?}");
            let first = &painting.rgb[..3];
            assert!(painting.rgb.chunks_exact(3).any(|pixel| pixel != first), "{style:?} shows nothing");
        }
    }

    #[test]
    fn styles_differ() {
        let of = |style| Scene { style, ..scene(1, 9) }.paint(64);
        for (n, style) in Style::BASE.iter().enumerate() {
            for other in &Style::BASE[n + 1..] {
                assert_ne!(of(*style), of(*other));
            }
        }
    }

    #[test]
    fn impossible_sizes_are_brought_into_range() {
        assert_eq!(scene(0, 0).paint(0).size, 16);
    }
}
