//! The three styles that only fine-tuning shows.

use tiny_skia::PathBuilder;

use super::styles::{extent, strokes};
use super::{Brush, Layer, Patch};
use crate::colour::{Rgb, luma, mix};
use crate::dice::Dice;

/// Glowing tubes in the dark.
pub(super) fn neon(patches: &[Patch], size: usize) -> Brush {
    const NIGHT: Rgb = [16, 10, 34];
    let mut brush = Brush::new(size, NIGHT);
    for patch in patches {
        let glow = vivid(patch.colour);
        if patch.layer == Layer::Back {
            brush.patch(patch, mix(NIGHT, glow, 0.1), 1.0);
            brush.along(&patch.path, glow, 0.35, 0.012);
            continue;
        }
        let width = patch.line.map_or(0.022, |width| width.min(0.03));
        if patch.line.is_none() {
            brush.patch(patch, mix(NIGHT, glow, 0.12), 0.9);
        }
        brush.along(&patch.path, glow, 0.22, width + 0.06);
        brush.along(&patch.path, glow, 0.5, width + 0.022);
        brush.along(&patch.path, mix(glow, [255, 255, 255], 0.55), 1.0, width);
    }
    brush
}

/// The same hue at full strength.
fn vivid(colour: Rgb) -> Rgb {
    let (low, high) = (colour.iter().min().copied().unwrap_or(0), colour.iter().max().copied().unwrap_or(0));
    if high - low < 24 {
        return if luma(colour) > 128.0 { [150, 240, 255] } else { [190, 90, 255] };
    }
    colour.map(|v| ((f32::from(v - low) / f32::from(high - low)).powf(0.8) * 225.0 + 30.0) as u8)
}

/// White lines on blue paper with a grid.
pub(super) fn blueprint(patches: &[Patch], size: usize) -> Brush {
    const BLUE: Rgb = [28, 78, 158];
    let mut brush = Brush::new(size, BLUE);
    let mut grid = PathBuilder::new();
    for n in 1..8 {
        let at = n as f32 / 8.0;
        grid.move_to(at, 0.0);
        grid.line_to(at, 1.0);
        grid.move_to(0.0, at);
        grid.line_to(1.0, at);
    }
    if let Some(grid) = grid.finish() {
        brush.along(&grid, [96, 142, 208], 0.6, 0.012);
    }
    for patch in patches {
        match (patch.layer, patch.line) {
            (Layer::Back, _) => brush.along(&patch.path, [176, 206, 244], 0.8, 0.012),
            (_, Some(width)) => brush.patch(patch, [236, 244, 255], if width > 0.05 { 0.7 } else { 1.0 }),
            _ => {
                brush.patch(patch, mix(BLUE, [120, 168, 232], 0.3 * luma(patch.colour) / 255.0), 1.0);
                brush.along(&patch.path, [240, 246, 255], 1.0, 0.024);
            }
        }
    }
    brush
}

/// Coloured chalk on a dark board, rubbed thin by its roughness.
pub(super) fn chalk(patches: &[Patch], size: usize, dice: &mut Dice) -> Brush {
    const BOARD: Rgb = [40, 58, 54];
    let mut brush = Brush::new(size, BOARD);
    let lines = strokes(0.052, true);
    for patch in patches {
        let stick = mix(patch.colour, [255, 255, 250], if luma(patch.colour) < 90.0 { 0.5 } else { 0.25 });
        match (patch.layer, patch.line) {
            (Layer::Back, _) => brush.along(&patch.path, [206, 216, 208], 0.55, 0.014),
            (_, Some(_)) => brush.patch(patch, stick, 0.9),
            _ => {
                brush.patch(patch, mix(BOARD, stick, 0.22), 1.0);
                if let Some(lines) = &lines {
                    brush.inside(patch, lines, mix(BOARD, stick, 0.7), 0.02);
                }
                brush.along(&patch.path, stick, 1.0, if extent(patch) > 0.09 { 0.026 } else { 0.012 });
            }
        }
    }
    let rough: Vec<f32> = (0..size * size).map(|_| dice.between(0.0, 0.34)).collect();
    brush.map(|brush, x, y| mix(brush.pixel(x, y), BOARD, rough[y * brush.size() + x]));
    brush
}
