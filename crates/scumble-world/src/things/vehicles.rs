//! Boat, car, rocket, balloon.

use super::art::{Art, DARK, GLASS, GOLD, GREY, Ink, WHITE, WOOD};

pub(super) fn boat(art: &mut Art, variant: usize) {
    if variant == 1 {
        art.rect(Ink::Contrast, [-0.3, -0.62], [0.08, 0.0]);
        art.rect(DARK, [-0.3, -0.68], [0.08, -0.48]);
        art.disc(Ink::Fixed([214, 214, 222]), [-0.3, -0.84], 0.15);
        art.disc(Ink::Fixed([226, 226, 232]), [-0.6, -0.9], 0.11);
        art.rect(WHITE, [-0.62, -0.12], [0.5, 0.42]);
        for x in [-0.44, -0.1, 0.24] {
            art.disc(GLASS, [x + 0.05, 0.12], 0.12);
        }
    } else {
        art.line(WOOD, 0.1, &[[0.0, 0.5], [0.0, -0.98]]);
        art.shape(WHITE, [0.09, -0.92], |p| {
            p.quad_to(0.55, -0.4, 0.78, 0.28);
            p.line_to(0.09, 0.28);
        });
        art.shape(Ink::Contrast, [-0.09, -0.66], |p| {
            p.quad_to(-0.35, -0.2, -0.62, 0.28);
            p.line_to(-0.09, 0.28);
        });
    }
    art.shape(Ink::Main, [-1.0, 0.38], |p| {
        p.line_to(1.0, 0.38);
        p.cubic_to(0.9, 0.75, 0.75, 0.95, 0.6, 1.0);
        p.line_to(-0.6, 1.0);
        p.cubic_to(-0.8, 0.9, -0.95, 0.7, -1.0, 0.38);
    });
    art.poly(Ink::Tint, &[[-0.96, 0.42], [0.96, 0.42], [0.91, 0.58], [-0.92, 0.58]]);
}

pub(super) fn car(art: &mut Art, variant: usize) {
    if variant == 1 {
        art.round_rect(Ink::Main, [-1.0, -0.5], [1.0, 0.72], 0.16);
        for x in [-0.86, -0.4, 0.06] {
            art.rect(GLASS, [x, -0.3], [x + 0.36, 0.1]);
        }
        art.rect(GLASS, [0.54, -0.3], [0.92, 0.4]);
        art.rect(Ink::Tint, [-1.0, 0.22], [0.46, 0.36]);
    } else {
        art.shape(Ink::Main, [-0.62, 0.25], |p| {
            p.cubic_to(-0.5, -0.35, -0.4, -0.5, -0.1, -0.5);
            p.cubic_to(0.3, -0.5, 0.42, -0.3, 0.62, 0.25);
        });
        art.poly(GLASS, &[[-0.45, 0.14], [-0.3, -0.32], [-0.04, -0.34], [-0.04, 0.14]]);
        art.poly(GLASS, &[[0.06, 0.14], [0.06, -0.34], [0.24, -0.28], [0.44, 0.14]]);
        art.round_rect(Ink::Main, [-1.0, 0.1], [1.0, 0.74], 0.2);
        art.disc(GOLD, [0.88, 0.34], 0.11);
        art.rect(Ink::Shade, [-1.0, 0.56], [1.0, 0.66]);
    }
    for x in [-0.54, 0.54] {
        art.disc(DARK, [x, 0.72], 0.28);
        art.disc(GREY, [x, 0.72], 0.12);
    }
}

pub(super) fn rocket(art: &mut Art, variant: usize) {
    art.poly(Ink::Fixed([250, 150, 40]), &[[-0.24, 0.56], [0.24, 0.56], [0.0, 1.0]]);
    art.poly(Ink::Fixed([255, 226, 100]), &[[-0.12, 0.56], [0.12, 0.56], [0.0, 0.82]]);
    art.shape(Ink::Shade, [-0.3, 0.05], |p| {
        p.quad_to(-0.72, 0.3, -0.7, 0.78);
        p.line_to(-0.26, 0.56);
    });
    art.shape(Ink::Shade, [0.3, 0.05], |p| {
        p.quad_to(0.72, 0.3, 0.7, 0.78);
        p.line_to(0.26, 0.56);
    });
    art.shape(Ink::Main, [0.0, -1.0], |p| {
        p.cubic_to(0.5, -0.6, 0.46, 0.1, 0.28, 0.6);
        p.line_to(-0.28, 0.6);
        p.cubic_to(-0.46, 0.1, -0.5, -0.6, 0.0, -1.0);
    });
    art.shape(WHITE, [0.0, -1.0], |p| {
        p.cubic_to(0.2, -0.84, 0.28, -0.72, 0.32, -0.56);
        p.line_to(-0.32, -0.56);
        p.cubic_to(-0.28, -0.72, -0.2, -0.84, 0.0, -1.0);
    });
    if variant == 1 {
        art.rect(Ink::Contrast, [-0.37, 0.18], [0.37, 0.34]);
        art.rect(Ink::Contrast, [-0.29, 0.48], [0.29, 0.6]);
    }
    art.disc(Ink::Shade, [0.0, -0.22], 0.23);
    art.disc(GLASS, [0.0, -0.22], 0.16);
}

pub(super) fn balloon(art: &mut Art, variant: usize) {
    art.line(WOOD, 0.05, &[[-0.3, 0.35], [-0.2, 0.72]]);
    art.line(WOOD, 0.05, &[[0.3, 0.35], [0.2, 0.72]]);
    art.shape(Ink::Main, [-0.26, 0.48], |p| {
        p.cubic_to(-1.15, -0.1, -0.75, -1.0, 0.0, -1.0);
        p.cubic_to(0.75, -1.0, 1.15, -0.1, 0.26, 0.48);
    });
    if variant == 1 {
        for side in [-1.0f32, 1.0] {
            art.shape(Ink::Contrast, [0.1 * side, -0.99], |p| {
                p.cubic_to(0.75 * side, -0.8, 0.72 * side, 0.0, 0.2 * side, 0.48);
                p.line_to(0.1 * side, 0.48);
                p.cubic_to(0.5 * side, -0.1, 0.5 * side, -0.7, 0.1 * side, -0.99);
            });
        }
    } else {
        art.ellipse(Ink::Tint, [-0.34, -0.42], [0.2, 0.32]);
    }
    art.round_rect(WOOD, [-0.26, 0.68], [0.26, 1.0], 0.06);
}
