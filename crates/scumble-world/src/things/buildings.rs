//! House and castle.

use super::art::{Art, GLASS, GOLD, Ink, WOOD};

pub(super) fn house(art: &mut Art, variant: usize) {
    if variant == 1 {
        art.rect(Ink::Main, [-0.5, -0.38], [0.5, 1.0]);
        art.poly(Ink::Contrast, &[[-0.66, -0.34], [0.0, -1.0], [0.66, -0.34]]);
        for y in [-0.2, 0.22] {
            art.rect(GLASS, [-0.36, y], [-0.08, y + 0.28]);
            art.rect(GLASS, [0.08, y], [0.36, y + 0.28]);
        }
        art.round_rect(WOOD, [-0.15, 0.6], [0.15, 1.0], 0.06);
        return;
    }
    art.rect(Ink::Shade, [0.36, -0.86], [0.6, -0.3]);
    art.rect(Ink::Main, [-0.78, -0.08], [0.78, 1.0]);
    art.poly(Ink::Contrast, &[[-1.0, 0.0], [-0.5, -0.8], [0.5, -0.8], [1.0, 0.0]]);
    art.rect(GLASS, [-0.6, 0.2], [-0.16, 0.6]);
    art.line(Ink::Shade, 0.07, &[[-0.38, 0.2], [-0.38, 0.6]]);
    art.line(Ink::Shade, 0.07, &[[-0.6, 0.4], [-0.16, 0.4]]);
    art.rect(WOOD, [0.14, 0.28], [0.54, 1.0]);
    art.disc(GOLD, [0.44, 0.66], 0.06);
}

pub(super) fn castle(art: &mut Art, variant: usize) {
    if variant == 1 {
        art.poly(Ink::Main, &[[-0.36, -0.3], [0.36, -0.3], [0.46, 1.0], [-0.46, 1.0]]);
        battlements(art, -0.52, 0.52, -0.3, Ink::Main);
        art.rect(GLASS, [-0.1, -0.02], [0.1, 0.28]);
        art.round_rect(WOOD, [-0.17, 0.58], [0.17, 1.0], 0.12);
        flag(art, 0.0, -0.56);
        return;
    }
    art.rect(Ink::Main, [-0.6, 0.08], [0.6, 1.0]);
    battlements(art, -0.5, 0.5, 0.08, Ink::Main);
    for side in [-1.0f32, 1.0] {
        let (a, b) = (0.5 * side, 0.98 * side);
        art.rect(Ink::Shade, [a.min(b), -0.28], [a.max(b), 1.0]);
        art.poly(Ink::Contrast, &[[0.42 * side, -0.26], [0.74 * side, -0.86], [1.04 * side, -0.26]]);
        art.rect(GLASS, [0.74 * side - 0.09, 0.0], [0.74 * side + 0.09, 0.3]);
    }
    art.shape(WOOD, [-0.24, 1.0], |p| {
        p.line_to(-0.24, 0.68);
        p.quad_to(-0.22, 0.42, 0.0, 0.42);
        p.quad_to(0.22, 0.42, 0.24, 0.68);
        p.line_to(0.24, 1.0);
    });
    flag(art, 0.0, -0.1);
}

/// A wall's top from `left` to `right`, standing on `bottom`.
fn battlements(art: &mut Art, left: f32, right: f32, bottom: f32, ink: Ink) {
    let (top, low, step) = (bottom - 0.26, bottom - 0.12, (right - left) / 5.0);
    let mut points = vec![[left, bottom]];
    for n in 0..5 {
        let (x0, x1) = (left + step * n as f32, left + step * (n + 1) as f32);
        let y = if n % 2 == 0 { top } else { low };
        points.extend([[x0, y], [x1, y]]);
    }
    points.push([right, bottom]);
    art.poly(ink, &points);
}

fn flag(art: &mut Art, x: f32, foot: f32) {
    art.line(WOOD, 0.06, &[[x, foot], [x, foot - 0.42]]);
    art.poly(Ink::Contrast, &[[x, foot - 0.42], [x + 0.34, foot - 0.31], [x, foot - 0.2]]);
}
