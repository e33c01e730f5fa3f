//! Chair, lamp, cup.

use super::art::{Art, DARK, GOLD, GREY, Ink, WHITE, WOOD};

pub(super) fn chair(art: &mut Art, variant: usize) {
    if variant == 1 {
        art.rect(WOOD, [-0.7, 0.8], [-0.5, 1.0]);
        art.rect(WOOD, [0.5, 0.8], [0.7, 1.0]);
        art.round_rect(Ink::Main, [-0.64, -0.86], [0.64, 0.5], 0.3);
        art.round_rect(Ink::Tint, [-0.5, 0.16], [0.5, 0.62], 0.14);
        art.rect(Ink::Shade, [-0.6, 0.5], [0.6, 0.86]);
        art.round_rect(Ink::Main, [-0.96, -0.08], [-0.5, 0.88], 0.2);
        art.round_rect(Ink::Main, [0.5, -0.08], [0.96, 0.88], 0.2);
        return;
    }
    art.rect(Ink::Shade, [-0.34, 0.2], [-0.2, 0.92]);
    art.rect(Ink::Shade, [0.34, 0.2], [0.48, 0.92]);
    art.rect(Ink::Main, [-0.6, -1.0], [-0.42, 1.0]);
    art.rect(Ink::Main, [-0.6, -0.94], [-0.06, -0.72]);
    art.rect(Ink::Main, [-0.6, -0.5], [-0.06, -0.28]);
    art.rect(Ink::Shade, [-0.18, -1.0], [-0.02, 0.16]);
    art.poly(Ink::Tint, &[[-0.62, 0.04], [0.5, 0.04], [0.72, 0.26], [-0.6, 0.26]]);
    art.rect(Ink::Main, [-0.6, 0.2], [0.72, 0.34]);
    art.rect(Ink::Main, [0.56, 0.3], [0.72, 1.0]);
}

pub(super) fn lamp(art: &mut Art, variant: usize) {
    if variant == 1 {
        art.curve(DARK, 0.09, [-0.26, -0.62], |p| p.cubic_to(-0.3, -1.05, 0.3, -1.05, 0.26, -0.62));
        art.rect(Ink::Main, [-0.44, -0.66], [0.44, -0.44]);
        art.rect(Ink::Fixed([255, 236, 150]), [-0.38, -0.44], [0.38, 0.66]);
        art.shape(Ink::Fixed([250, 160, 50]), [0.0, -0.2], |p| {
            p.cubic_to(0.3, 0.2, 0.22, 0.5, 0.0, 0.52);
            p.cubic_to(-0.22, 0.5, -0.3, 0.2, 0.0, -0.2);
        });
        for x in [-0.38, 0.38] {
            art.line(Ink::Main, 0.13, &[[x, -0.5], [x, 0.7]]);
        }
        art.rect(Ink::Main, [-0.52, 0.64], [0.52, 1.0]);
        return;
    }
    art.rect(GREY, [-0.07, -0.2], [0.07, 0.9]);
    art.ellipse(GREY, [0.0, 0.9], [0.42, 0.11]);
    art.ellipse(GOLD, [0.0, -0.02], [0.2, 0.16]);
    art.poly(Ink::Main, &[[-0.34, -0.96], [0.34, -0.96], [0.74, 0.0], [-0.74, 0.0]]);
    art.poly(Ink::Tint, &[[-0.24, -0.88], [-0.04, -0.88], [-0.2, -0.08], [-0.54, -0.08]]);
}

pub(super) fn cup(art: &mut Art, variant: usize) {
    if variant == 1 {
        art.curve(Ink::Shade, 0.15, [-0.52, 0.0], |p| p.cubic_to(-1.1, -0.2, -1.1, 0.75, -0.5, 0.62));
        art.shape(Ink::Main, [0.4, 0.7], |p| {
            p.cubic_to(0.7, 0.5, 0.7, 0.0, 0.98, -0.2);
            p.line_to(0.8, -0.34);
            p.cubic_to(0.55, -0.2, 0.5, 0.1, 0.4, 0.2);
        });
        art.ellipse(Ink::Main, [0.0, 0.34], [0.62, 0.6]);
        art.rect(Ink::Shade, [-0.36, 0.84], [0.36, 0.98]);
        art.ellipse(Ink::Tint, [-0.22, 0.2], [0.16, 0.24]);
        art.ellipse(Ink::Contrast, [0.0, -0.24], [0.36, 0.12]);
        art.disc(Ink::Contrast, [0.0, -0.44], 0.13);
        return;
    }
    for x in [-0.3, 0.1] {
        art.curve(Ink::Fixed([206, 212, 222]), 0.1, [x, -0.32], |p| {
            p.cubic_to(x - 0.24, -0.56, x + 0.24, -0.7, x, -0.96);
        });
    }
    art.curve(Ink::Shade, 0.16, [0.42, 0.02], |p| p.cubic_to(1.12, -0.1, 1.06, 0.66, 0.36, 0.56));
    art.shape(Ink::Main, [-0.66, -0.2], |p| {
        p.line_to(0.54, -0.2);
        p.cubic_to(0.52, 0.5, 0.4, 0.74, 0.2, 0.82);
        p.line_to(-0.32, 0.82);
        p.cubic_to(-0.52, 0.74, -0.64, 0.5, -0.66, -0.2);
    });
    art.ellipse(Ink::Fixed([92, 58, 40]), [-0.06, -0.18], [0.54, 0.1]);
    art.ellipse(Ink::Tint, [-0.36, 0.22], [0.11, 0.26]);
    art.ellipse(WHITE, [-0.06, 0.9], [0.78, 0.1]);
}
