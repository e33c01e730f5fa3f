//! The five styles that the base knows.

use tiny_skia::{PathBuilder, Transform};

use super::{Brush, Layer, Patch};
use crate::colour::{Rgb, luma, mix};
use crate::dice::Dice;

const INK: Rgb = [40, 32, 44];
const PAPER: Rgb = [250, 246, 236];
/// A pixelated picture has this many squares a side.
const SQUARES: usize = 32;

/// Areas of one colour.
pub(super) fn flat(patches: &[Patch], size: usize, antialias: bool) -> Brush {
    let mut brush = Brush::new(size, PAPER);
    brush.antialias = antialias;
    for patch in patches {
        brush.patch(patch, patch.colour, 1.0);
    }
    brush
}

/// The same, with a dark line around everything but the ground.
pub(super) fn outlined(patches: &[Patch], size: usize) -> Brush {
    let mut brush = Brush::new(size, PAPER);
    for patch in patches {
        if let (Layer::Thing, Some(width)) = (patch.layer, patch.line) {
            brush.along(&patch.path, INK, 1.0, width + 0.032);
        }
        brush.patch(patch, patch.colour, 1.0);
        let extent = extent(patch);
        if patch.layer == Layer::Thing && patch.line.is_none() && extent > 0.09 {
            brush.along(&patch.path, INK, 1.0, if extent > 0.2 { 0.027 } else { 0.018 });
        }
    }
    brush
}

/// The larger side of a patch's box: what is small (an eye) has no room for a line.
pub(super) fn extent(patch: &Patch) -> f32 {
    let bounds = patch.path.bounds();
    bounds.width().max(bounds.height())
}

/// Coarse squares, every square the colour of its middle, in few shades.
pub(super) fn pixelated(patches: &[Patch], size: usize) -> Brush {
    let squares = SQUARES.min(size);
    let fine = flat(patches, squares * 4, false);
    let mut brush = Brush::new(size, PAPER);
    let step = 1.0 / squares as f32;
    for y in 0..squares {
        for x in 0..squares {
            let colour = majority(&fine, 4 * x, 4 * y);
            brush.square(x as f32 * step, y as f32 * step, step, colour.map(|v| (v / 24) * 24 + 10));
        }
    }
    brush
}

/// The colour that most of a 4x4 block's pixels have.
fn majority(fine: &Brush, x: usize, y: usize) -> Rgb {
    let block: Vec<Rgb> = (0..16).map(|n| fine.pixel(x + n % 4, y + n / 4)).collect();
    let votes = |colour: &Rgb| block.iter().filter(|other| *other == colour).count();
    block.iter().copied().rev().max_by_key(votes).unwrap_or(PAPER)
}

/// Strokes of a coloured pencil: a pale ground, diagonal lines, a thin line around.
pub(super) fn hatched(patches: &[Patch], size: usize) -> Brush {
    let mut brush = Brush::new(size, PAPER);
    let (wide, fine) = (strokes(0.085, false), strokes(0.07, true));
    for patch in patches {
        let dark = mix(patch.colour, [30, 24, 50], 0.22);
        if patch.layer == Layer::Weather {
            brush.patch(patch, mix(patch.colour, [60, 80, 130], 0.3), 1.0);
            continue;
        }
        if patch.line.is_some() {
            brush.patch(patch, dark, 1.0);
            continue;
        }
        brush.patch(patch, mix(patch.colour, PAPER, 0.7), 1.0);
        let lines = if patch.layer == Layer::Back { &wide } else { &fine };
        let tone = if patch.layer == Layer::Back { mix(patch.colour, PAPER, 0.3) } else { patch.colour };
        if let (Some(lines), true) = (lines, luma(patch.colour) < 240.0) {
            brush.inside(patch, lines, tone, if patch.layer == Layer::Back { 0.026 } else { 0.036 });
        }
        if patch.layer == Layer::Thing {
            brush.along(&patch.path, dark, 1.0, if extent(patch) > 0.09 { 0.018 } else { 0.008 });
        }
    }
    brush
}

/// Diagonals over the whole picture.
pub(super) fn strokes(spacing: f32, falling: bool) -> Option<tiny_skia::Path> {
    let mut path = PathBuilder::new();
    let count = (2.4 / spacing) as usize;
    for n in 0..count {
        let x = -1.2 + spacing * n as f32;
        let (top, bottom) = if falling { (x, x + 1.2) } else { (x + 1.2, x) };
        path.move_to(top, -0.1);
        path.line_to(bottom, 1.1);
    }
    path.finish()
}

/// Washes: every patch several times, a little beside itself; then the paper's grain and a breath of blur.
pub(super) fn watercolour(patches: &[Patch], size: usize, dice: &mut Dice) -> Brush {
    const PAPER: Rgb = [252, 250, 244];
    let mut brush = Brush::new(size, PAPER);
    for patch in patches {
        let wash = mix(patch.colour, PAPER, if patch.layer == Layer::Back { 0.36 } else { 0.02 });
        for _ in 0..3 {
            let bounds = patch.path.bounds();
            let (x, y) = ((bounds.left() + bounds.right()) / 2.0, (bounds.top() + bounds.bottom()) / 2.0);
            let by = Transform::from_translate(dice.between(-0.012, 0.012), dice.between(-0.012, 0.012))
                .pre_translate(x, y)
                .pre_scale(dice.between(0.94, 1.05), dice.between(0.94, 1.05))
                .pre_translate(-x, -y);
            brush.moved(patch, wash, 0.5, by);
        }
        // Pigment gathers at the rim of a wash.
        if patch.layer == Layer::Thing && patch.line.is_none() {
            brush.along(&patch.path, mix(patch.colour, [30, 24, 60], 0.35), 0.55, 0.014);
        }
    }
    grain(&mut brush, dice);
    blur(&mut brush);
    brush
}

/// Lightens and darkens by smooth noise: pools of pigment.
fn grain(brush: &mut Brush, dice: &mut Dice) {
    const CELLS: usize = 7;
    let noise: Vec<f32> = (0..(CELLS + 2) * (CELLS + 2)).map(|_| dice.between(-1.0, 1.0)).collect();
    let scale = CELLS as f32 / brush.size() as f32;
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    brush.map(|brush, x, y| {
        let (fx, fy) = (x as f32 * scale, y as f32 * scale);
        let (cx, cy) = (fx as usize, fy as usize);
        let (tx, ty) = (smooth(fx.fract()), smooth(fy.fract()));
        let at = |dx: usize, dy: usize| noise[(cy + dy) * (CELLS + 2) + cx + dx];
        let top = at(0, 0) + (at(1, 0) - at(0, 0)) * tx;
        let bottom = at(0, 1) + (at(1, 1) - at(0, 1)) * tx;
        let pool = top + (bottom - top) * ty;
        let target = if pool > 0.0 { [255, 254, 248] } else { [60, 50, 90] };
        mix(brush.pixel(x, y), target, 0.2 * pool.abs() * if pool > 0.0 { 1.3 } else { 0.6 })
    });
}

/// A breath of blur: weights 1 6 1 in both directions, repeated for larger pictures.
fn blur(brush: &mut Brush) {
    let last = brush.size() - 1;
    for _ in 0..(brush.size() / 64).max(1) {
        brush.map(|brush, x, y| {
            let mut sums = [0u32; 3];
            for (dy, wy) in [(0, 1), (1, 6), (2, 1)] {
                for (dx, wx) in [(0, 1), (1, 6), (2, 1)] {
                    let at = |v: usize, d: usize| (v + d).saturating_sub(1).min(last);
                    let pixel = brush.pixel(at(x, dx), at(y, dy));
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += wx * wy * u32::from(value);
                    }
                }
            }
            sums.map(|sum| (sum / 64) as u8)
        });
    }
}
