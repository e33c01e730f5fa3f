//! Tree, flower, mushroom, cactus.

use super::art::{Art, GOLD, Ink, LEAF, WHITE, WOOD};

pub(super) fn tree(art: &mut Art, variant: usize) {
    if variant == 1 {
        art.rect(WOOD, [-0.13, 0.6], [0.13, 1.0]);
        art.poly(Ink::Shade, &[[0.0, -0.25], [0.78, 0.7], [-0.78, 0.7]]);
        art.poly(Ink::Main, &[[0.0, -0.62], [0.64, 0.24], [-0.64, 0.24]]);
        art.poly(Ink::Tint, &[[0.0, -1.0], [0.48, -0.22], [-0.48, -0.22]]);
        return;
    }
    art.poly(WOOD, &[[-0.14, 0.1], [0.14, 0.1], [0.2, 1.0], [-0.2, 1.0]]);
    art.disc(Ink::Shade, [-0.42, 0.02], 0.42);
    art.disc(Ink::Shade, [0.42, 0.02], 0.42);
    art.disc(Ink::Main, [0.0, -0.38], 0.6);
    art.disc(Ink::Tint, [-0.2, -0.54], 0.24);
}

pub(super) fn flower(art: &mut Art, variant: usize) {
    art.curve(LEAF, 0.12, [0.0, 0.98], |p| p.quad_to(-0.08, 0.5, 0.0, -0.2));
    art.shape(LEAF, [-0.02, 0.78], |p| {
        p.cubic_to(-0.3, 0.3, -0.6, 0.3, -0.76, 0.34);
        p.cubic_to(-0.66, 0.66, -0.36, 0.85, -0.02, 0.78);
    });
    art.shape(LEAF, [0.02, 0.86], |p| {
        p.cubic_to(0.3, 0.45, 0.56, 0.45, 0.72, 0.48);
        p.cubic_to(0.6, 0.78, 0.36, 0.92, 0.02, 0.86);
    });
    if variant == 1 {
        art.shape(Ink::Shade, [-0.42, -0.98], |p| {
            p.line_to(0.0, -0.5);
            p.line_to(0.42, -0.98);
            p.cubic_to(0.62, -0.3, 0.4, 0.06, 0.0, 0.1);
            p.cubic_to(-0.4, 0.06, -0.62, -0.3, -0.42, -0.98);
        });
        art.shape(Ink::Main, [0.0, -1.0], |p| {
            p.cubic_to(0.36, -0.6, 0.36, 0.0, 0.0, 0.1);
            p.cubic_to(-0.36, 0.0, -0.36, -0.6, 0.0, -1.0);
        });
        return;
    }
    for turn in 0..6 {
        let angle = (turn as f32 + 0.5) * std::f32::consts::PI / 3.0;
        art.disc(Ink::Main, [0.4 * angle.cos(), -0.4 + 0.4 * angle.sin()], 0.25);
    }
    art.disc(GOLD, [0.0, -0.4], 0.24);
}

pub(super) fn mushroom(art: &mut Art, variant: usize) {
    art.shape(Ink::Fixed([244, 230, 204]), [-0.26, 0.0], |p| {
        p.cubic_to(-0.2, 0.5, -0.3, 0.8, -0.36, 1.0);
        p.line_to(0.36, 1.0);
        p.cubic_to(0.3, 0.8, 0.2, 0.5, 0.26, 0.0);
    });
    art.shape(Ink::Main, [-0.98, 0.16], |p| {
        p.cubic_to(-0.95, -0.6, -0.5, -0.9, 0.0, -0.9);
        p.cubic_to(0.5, -0.9, 0.95, -0.6, 0.98, 0.16);
        p.quad_to(0.0, 0.42, -0.98, 0.16);
    });
    if variant == 1 {
        art.disc(WHITE, [-0.1, -0.54], 0.18);
        art.disc(WHITE, [-0.56, -0.14], 0.15);
        art.disc(WHITE, [0.44, -0.28], 0.17);
        art.disc(WHITE, [0.0, 0.04], 0.11);
    } else {
        art.shape(Ink::Tint, [-0.7, -0.14], |p| {
            p.cubic_to(-0.6, -0.56, -0.3, -0.72, 0.0, -0.72);
            p.cubic_to(-0.3, -0.6, -0.46, -0.4, -0.5, -0.1);
        });
    }
}

pub(super) fn cactus(art: &mut Art, variant: usize) {
    let pot = Ink::Fixed([190, 104, 66]);
    if variant == 1 {
        art.disc(Ink::Main, [0.0, 0.0], 0.66);
        for x in [-0.36, 0.0, 0.36] {
            art.curve(Ink::Shade, 0.08, [0.4 * x, -0.6], |p| p.quad_to(1.4 * x, 0.0, 0.6 * x, 0.58));
        }
        art.disc(Ink::Contrast, [-0.12, -0.74], 0.14);
        art.disc(Ink::Contrast, [0.12, -0.74], 0.14);
        art.disc(GOLD, [0.0, -0.76], 0.1);
    } else {
        art.curve(Ink::Main, 0.26, [0.0, 0.3], |p| {
            p.line_to(-0.46, 0.3);
            p.quad_to(-0.66, 0.28, -0.66, 0.0);
            p.line_to(-0.66, -0.25);
        });
        art.curve(Ink::Main, 0.26, [0.0, 0.08], |p| {
            p.line_to(0.46, 0.08);
            p.quad_to(0.66, 0.06, 0.66, -0.2);
            p.line_to(0.66, -0.48);
        });
        art.round_rect(Ink::Main, [-0.27, -0.98], [0.27, 0.7], 0.26);
        art.line(Ink::Shade, 0.07, &[[-0.09, -0.72], [-0.09, 0.5]]);
        art.line(Ink::Shade, 0.07, &[[0.1, -0.72], [0.1, 0.5]]);
    }
    art.poly(pot, &[[-0.48, 0.58], [0.48, 0.58], [0.36, 1.0], [-0.36, 1.0]]);
    art.rect(Ink::Fixed([164, 84, 52]), [-0.56, 0.5], [0.56, 0.68]);
}
