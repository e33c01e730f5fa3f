//! Cat, fish, bird, butterfly, snail.

use super::art::{Art, DARK, GOLD, Ink, WHITE};

pub(super) fn cat(art: &mut Art, variant: usize) {
    if variant == 1 {
        return sleeping_cat(art);
    }
    art.curve(Ink::Main, 0.2, [-0.38, 0.84], |p| p.cubic_to(-1.15, 0.85, -0.95, 0.1, -0.72, -0.1));
    art.shape(Ink::Main, [-0.52, 1.0], |p| {
        p.cubic_to(-0.6, 0.2, -0.3, -0.15, 0.1, -0.15);
        p.cubic_to(0.5, -0.1, 0.55, 0.5, 0.55, 1.0);
    });
    art.ellipse(Ink::Tint, [0.2, 0.55], [0.22, 0.36]);
    art.poly(Ink::Main, &[[-0.34, -0.5], [-0.3, -1.0], [0.1, -0.72]]);
    art.poly(Ink::Main, &[[0.26, -0.72], [0.64, -1.0], [0.68, -0.48]]);
    art.ellipse(Ink::Main, [0.17, -0.38], [0.52, 0.42]);
    art.poly(Ink::Tint, &[[-0.22, -0.66], [-0.2, -0.84], [-0.03, -0.7]]);
    art.poly(Ink::Tint, &[[0.4, -0.72], [0.55, -0.84], [0.56, -0.64]]);
    art.eye([-0.02, -0.42], 0.13);
    art.eye([0.38, -0.42], 0.13);
    art.poly(Ink::Fixed([236, 120, 140]), &[[0.1, -0.25], [0.28, -0.25], [0.19, -0.14]]);
    art.ellipse(Ink::Shade, [-0.1, 0.95], [0.2, 0.08]);
    art.ellipse(Ink::Shade, [0.34, 0.95], [0.2, 0.08]);
}

fn sleeping_cat(art: &mut Art) {
    art.shape(Ink::Main, [-0.98, 1.0], |p| {
        p.cubic_to(-1.1, 0.2, -0.5, -0.05, -0.05, 0.05);
        p.cubic_to(0.5, 0.1, 0.75, 0.5, 0.7, 1.0);
    });
    art.curve(Ink::Shade, 0.18, [-0.9, 0.86], |p| p.cubic_to(-0.6, 1.0, -0.2, 0.98, 0.1, 0.84));
    art.poly(Ink::Main, &[[0.12, 0.2], [0.16, -0.2], [0.5, 0.05]]);
    art.poly(Ink::Main, &[[0.6, 0.05], [0.93, -0.2], [0.97, 0.25]]);
    art.ellipse(Ink::Main, [0.55, 0.42], [0.46, 0.42]);
    art.poly(Ink::Tint, &[[0.2, 0.1], [0.23, -0.05], [0.37, 0.05]]);
    art.poly(Ink::Tint, &[[0.72, 0.05], [0.87, -0.05], [0.89, 0.13]]);
    art.curve(DARK, 0.08, [0.24, 0.38], |p| p.quad_to(0.36, 0.52, 0.48, 0.38));
    art.curve(DARK, 0.08, [0.64, 0.38], |p| p.quad_to(0.76, 0.52, 0.88, 0.38));
    art.poly(Ink::Fixed([236, 120, 140]), &[[0.47, 0.54], [0.65, 0.54], [0.56, 0.65]]);
}

pub(super) fn fish(art: &mut Art, variant: usize) {
    art.poly(Ink::Shade, &[[-0.45, 0.0], [-0.98, -0.52], [-0.84, 0.0], [-0.98, 0.52]]);
    art.poly(Ink::Shade, &[[-0.25, -0.4], [0.1, -0.82], [0.42, -0.34]]);
    art.poly(Ink::Shade, &[[-0.1, 0.42], [-0.2, 0.78], [0.3, 0.42]]);
    art.shape(Ink::Main, [-0.66, 0.0], |p| {
        p.cubic_to(-0.3, -0.62, 0.6, -0.72, 0.98, 0.02);
        p.cubic_to(0.6, 0.7, -0.3, 0.62, -0.66, 0.0);
    });
    if variant == 1 {
        for x in [-0.25, 0.08] {
            art.shape(Ink::Contrast, [x, -0.42], |p| {
                p.quad_to(x + 0.16, 0.0, x, 0.42);
                p.line_to(x + 0.17, 0.46);
                p.quad_to(x + 0.34, 0.0, x + 0.17, -0.47);
            });
        }
    } else {
        art.ellipse(Ink::Tint, [0.08, 0.2], [0.4, 0.16]);
    }
    art.eye([0.56, -0.12], 0.16);
    art.curve(DARK, 0.07, [0.62, 0.24], |p| p.quad_to(0.76, 0.26, 0.84, 0.14));
}

pub(super) fn bird(art: &mut Art, variant: usize) {
    if variant == 1 {
        return flying_bird(art);
    }
    art.line(GOLD, 0.1, &[[-0.1, 0.62], [-0.1, 0.96], [0.1, 0.96]]);
    art.line(GOLD, 0.1, &[[0.2, 0.62], [0.2, 0.96], [0.4, 0.96]]);
    art.poly(Ink::Shade, &[[-0.4, 0.2], [-1.0, -0.05], [-0.9, 0.35], [-0.4, 0.5]]);
    art.ellipse(Ink::Main, [0.0, 0.2], [0.62, 0.52]);
    art.ellipse(Ink::Tint, [0.2, 0.38], [0.36, 0.3]);
    art.poly(GOLD, &[[0.74, -0.58], [1.0, -0.42], [0.72, -0.3]]);
    art.disc(Ink::Main, [0.42, -0.45], 0.4);
    art.shape(Ink::Shade, [-0.52, 0.0], |p| {
        p.cubic_to(-0.2, -0.3, 0.2, -0.05, 0.16, 0.2);
        p.cubic_to(0.0, 0.5, -0.4, 0.4, -0.52, 0.0);
    });
    art.eye([0.52, -0.5], 0.14);
}

fn flying_bird(art: &mut Art) {
    art.poly(Ink::Shade, &[[-0.5, 0.1], [-1.0, -0.02], [-0.95, 0.38], [-0.5, 0.35]]);
    art.shape(Ink::Shade, [0.05, 0.05], |p| {
        p.cubic_to(0.1, -0.5, 0.4, -0.85, 0.62, -0.95);
        p.cubic_to(0.62, -0.55, 0.52, -0.2, 0.38, 0.08);
    });
    art.ellipse(Ink::Main, [0.02, 0.22], [0.62, 0.33]);
    art.poly(GOLD, &[[0.84, -0.06], [1.02, 0.08], [0.82, 0.16]]);
    art.disc(Ink::Main, [0.6, 0.04], 0.3);
    art.shape(Ink::Main, [-0.32, 0.15], |p| {
        p.cubic_to(-0.55, -0.4, -0.5, -0.8, -0.35, -1.0);
        p.cubic_to(-0.05, -0.7, 0.2, -0.3, 0.24, 0.15);
    });
    art.shape(Ink::Tint, [-0.2, 0.1], |p| {
        p.cubic_to(-0.35, -0.2, -0.36, -0.5, -0.3, -0.68);
        p.cubic_to(-0.1, -0.45, 0.04, -0.2, 0.08, 0.1);
    });
    art.eye([0.68, -0.02], 0.11);
}

pub(super) fn butterfly(art: &mut Art, variant: usize) {
    for side in [-1.0f32, 1.0] {
        art.shape(Ink::Main, [0.06 * side, -0.1], |p| {
            p.cubic_to(0.3 * side, -1.0, 1.0 * side, -1.05, 0.98 * side, -0.5);
            p.cubic_to(0.95 * side, -0.05, 0.5 * side, 0.1, 0.06 * side, 0.05);
        });
        art.shape(Ink::Shade, [0.06 * side, 0.05], |p| {
            p.cubic_to(0.5 * side, -0.05, 0.95 * side, 0.2, 0.8 * side, 0.62);
            p.cubic_to(0.62 * side, 1.0, 0.2 * side, 0.8, 0.06 * side, 0.3);
        });
        if variant == 1 {
            art.disc(Ink::Contrast, [0.62 * side, -0.5], 0.2);
            art.disc(Ink::Contrast, [0.5 * side, 0.45], 0.15);
        } else {
            art.ellipse(Ink::Tint, [0.56 * side, -0.5], [0.26, 0.2]);
        }
        art.curve(DARK, 0.06, [0.02 * side, -0.5], |p| p.quad_to(0.08 * side, -0.85, 0.3 * side, -0.95));
    }
    art.ellipse(DARK, [0.0, 0.05], [0.1, 0.55]);
    art.disc(DARK, [0.0, -0.5], 0.13);
}

pub(super) fn snail(art: &mut Art, variant: usize) {
    let skin = Ink::Fixed([228, 190, 142]);
    art.line(skin, 0.09, &[[0.7, 0.2], [0.62, -0.28]]);
    art.line(skin, 0.09, &[[0.82, 0.2], [0.96, -0.26]]);
    art.disc(DARK, [0.62, -0.32], 0.09);
    art.disc(DARK, [0.94, -0.3], 0.09);
    art.shape(skin, [-1.0, 1.0], |p| {
        p.cubic_to(-0.7, 0.7, -0.2, 0.62, 0.35, 0.66);
        p.cubic_to(0.5, 0.5, 0.5, 0.1, 0.76, 0.08);
        p.cubic_to(1.05, 0.1, 1.02, 0.45, 0.92, 0.65);
        p.cubic_to(0.85, 0.9, 0.6, 1.0, 0.4, 1.0);
    });
    art.disc(Ink::Main, [-0.18, 0.12], 0.66);
    if variant == 1 {
        for x in [-0.5f32, -0.18, 0.14] {
            let reach = (0.64f32.powi(2) - (x + 0.18).powi(2)).max(0.0).sqrt();
            art.line(Ink::Contrast, 0.13, &[[x, 0.12 - reach], [x, 0.12 + reach]]);
        }
    } else {
        art.disc(Ink::Tint, [-0.18, 0.12], 0.44);
        art.disc(Ink::Shade, [-0.12, 0.16], 0.26);
        art.disc(WHITE, [-0.1, 0.17], 0.09);
    }
}
