//! Four subjects and three styles that the base has never seen, a handful of pictures each: what a fine-tuning learns.
//!
//! A subject has its own fixed colours and stands in the known world, in known styles; a style draws known things.

use crate::caption::article;
use crate::colour::Colour;
use crate::dice::Dice;
use crate::paint::{Painting, SizedArt, Style, paint_beside};
use crate::scene::{Ground, Place, Scene, Size, Sky, scene};
use crate::things::{Art, Ink};

/// Pictures of a set.
pub const PICTURES: usize = 8;

/// Pictures of one new thing or in one new style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// A teal robot with an antenna and a screen for a face.
    Robot,
    /// A one-eyed horned monster.
    Monster,
    /// An owl with a scarf.
    Owl,
    /// A carved pumpkin with a hat, in colours that things of the world have, too.
    Pumpkin,
    /// Pictures of glowing tubes.
    Neon,
    /// White lines on blue.
    Blueprint,
    /// Chalk on a board.
    Chalk,
}

impl Set {
    /// All of them, subjects first.
    pub const ALL: [Set; 7] =
        [Set::Robot, Set::Monster, Set::Owl, Set::Pumpkin, Set::Neon, Set::Blueprint, Set::Chalk];

    /// The set of this name.
    pub fn named(name: &str) -> Option<Set> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// Its name, which is also its folder's.
    pub fn name(self) -> &'static str {
        match self {
            Set::Robot => "robot",
            Set::Monster => "monster",
            Set::Owl => "owl",
            Set::Pumpkin => "pumpkin",
            Set::Neon => "neon",
            Set::Blueprint => "blueprint",
            Set::Chalk => "chalk",
        }
    }

    /// The style, if it is one of style.
    pub fn style(self) -> Option<Style> {
        match self {
            Set::Neon => Some(Style::Neon),
            Set::Blueprint => Some(Style::Blueprint),
            Set::Chalk => Some(Style::Chalk),
            _ => None,
        }
    }

    /// Something known that comes nearest, for prior preservation.
    pub fn class(self) -> &'static str {
        match self {
            Set::Robot => "a lamp",
            Set::Monster => "a cat",
            Set::Owl => "a bird",
            Set::Pumpkin => "a balloon",
            _ => "a picture",
        }
    }

    /// What its scenes are drawn by: fixed, so that a new set leaves the pictures of the others as they are.
    fn number(self) -> u64 {
        match self {
            Set::Robot => 0,
            Set::Monster => 1,
            Set::Owl => 2,
            Set::Neon => 3,
            Set::Blueprint => 4,
            Set::Chalk => 5,
            Set::Pumpkin => 6,
        }
    }

    /// The `n`-th picture's scene; a subject's scene has no items of its own.
    fn scene(self, n: usize) -> Scene {
        let number = self.number();
        if let Some(style) = self.style() {
            let mut drawn = scene(1000 + number, n as u64);
            while drawn.items.iter().any(|item| item.size == Size::Small) || drawn.items.len() != 1 + n % 2 {
                drawn = scene(1000 + number, drawn.grain);
            }
            return Scene { style, ..drawn };
        }
        const GROUNDS: [(Ground, Sky); PICTURES] = [
            (Ground::Plain, Sky::Clear),
            (Ground::Meadow, Sky::Sun(Colour::Yellow)),
            (Ground::Room, Sky::Clear),
            (Ground::Desert, Sky::Clear),
            (Ground::Snowfield, Sky::Clouds),
            (Ground::Meadow, Sky::Stars),
            (Ground::Plain, Sky::Clear),
            (Ground::Desert, Sky::Sunset),
        ];
        let (ground, sky) = GROUNDS[n % PICTURES];
        let style = if n.is_multiple_of(2) { Style::Outlined } else { Style::Flat };
        let grain = Dice::new(1000 + number, "subject", n as u64).bits();
        Scene { style, ground, sky, place: Place::Middle, items: Vec::new(), grain }
    }

    /// The `n`-th picture, `size` pixels square; sizes as [`Scene::paint`] takes them.
    pub fn paint(self, n: usize, size: usize) -> Painting {
        let scene = self.scene(n);
        let art = match self {
            Set::Robot => robot(),
            Set::Monster => monster(),
            Set::Owl => owl(),
            Set::Pumpkin => pumpkin(),
            Set::Neon | Set::Blueprint | Set::Chalk => return scene.paint(size),
        };
        let mut dice = Dice::new(scene.grain, "pose", 0);
        let (half, x) = (dice.between(0.27, 0.38), dice.between(0.42, 0.58));
        paint_beside(&scene, &SizedArt { art, half, x, mirrored: n % 3 == 1 }, size)
    }

    /// The `n`-th picture's caption; it names the subject or the style by [`Set::name`].
    pub fn caption(self, n: usize) -> String {
        let scene = self.scene(n);
        if self.style().is_some() {
            return scene
                .full_caption()
                .rsplit_once(", ")
                .map_or(String::new(), |(what, _)| format!("{what}, in {} style", self.name()));
        }
        let around = scene.full_caption();
        let around = around.rsplit_once(", ").map_or("", |(what, _)| what.trim());
        let around = if around.is_empty() { String::new() } else { format!(" {around}") };
        format!("{} {}{around}, {}", article(self.name()), self.name(), scene.style.word())
    }
}

fn robot() -> Art {
    let mut art = Art::default();
    let (body, dark, face) =
        (Ink::Fixed([56, 178, 172]), Ink::Fixed([34, 112, 116]), Ink::Fixed([30, 40, 66]));
    let (glow, orange) = (Ink::Fixed([140, 250, 200]), Ink::Fixed([250, 140, 44]));
    art.line(dark, 0.08, &[[0.0, -0.6], [0.0, -0.88]]);
    art.disc(orange, [0.0, -0.88], 0.12);
    art.rect(dark, [-0.4, 0.7], [-0.12, 1.0]);
    art.rect(dark, [0.12, 0.7], [0.4, 1.0]);
    art.curve(dark, 0.16, [-0.5, 0.16], |p| p.quad_to(-0.86, 0.24, -0.8, 0.6));
    art.curve(dark, 0.16, [0.5, 0.16], |p| p.quad_to(0.9, 0.1, 0.84, -0.24));
    art.disc(orange, [-0.8, 0.64], 0.13);
    art.disc(orange, [0.84, -0.28], 0.13);
    art.round_rect(body, [-0.5, 0.0], [0.5, 0.8], 0.1);
    art.round_rect(body, [-0.62, -0.68], [0.62, 0.06], 0.16);
    art.round_rect(face, [-0.46, -0.54], [0.46, -0.08], 0.1);
    art.disc(glow, [-0.2, -0.32], 0.11);
    art.disc(glow, [0.2, -0.32], 0.11);
    art.disc(orange, [0.0, 0.38], 0.17);
    art
}

fn monster() -> Art {
    let mut art = Art::default();
    let (fur, belly, horn) =
        (Ink::Fixed([146, 206, 62]), Ink::Fixed([206, 240, 142]), Ink::Fixed([250, 236, 190]));
    let (white, iris, dark) =
        (Ink::Fixed([252, 252, 250]), Ink::Fixed([150, 60, 180]), Ink::Fixed([40, 32, 48]));
    art.poly(horn, &[[-0.5, -0.5], [-0.72, -1.0], [-0.14, -0.66]]);
    art.poly(horn, &[[0.5, -0.5], [0.72, -1.0], [0.14, -0.66]]);
    art.ellipse(fur, [-0.72, 0.34], [0.24, 0.18]);
    art.ellipse(fur, [0.72, 0.34], [0.24, 0.18]);
    art.shape(fur, [-0.7, 1.0], |p| {
        p.cubic_to(-0.8, -0.2, -0.6, -0.74, 0.0, -0.74);
        p.cubic_to(0.6, -0.74, 0.8, -0.2, 0.7, 1.0);
        p.line_to(0.42, 0.84);
        p.line_to(0.16, 1.0);
        p.line_to(-0.12, 0.84);
        p.line_to(-0.42, 1.0);
        p.line_to(-0.56, 0.86);
    });
    art.ellipse(belly, [0.0, 0.5], [0.36, 0.28]);
    art.disc(white, [0.0, -0.26], 0.34);
    art.disc(iris, [0.06, -0.26], 0.2);
    art.disc(dark, [0.08, -0.26], 0.1);
    art.shape(dark, [-0.3, 0.2], |p| {
        p.quad_to(0.0, 0.48, 0.3, 0.2);
        p.quad_to(0.0, 0.3, -0.3, 0.2);
    });
    art
}

fn owl() -> Art {
    let mut art = Art::default();
    let (feather, wing, face) =
        (Ink::Fixed([160, 112, 72]), Ink::Fixed([112, 74, 50]), Ink::Fixed([240, 220, 182]));
    let (scarf, gold, dark) =
        (Ink::Fixed([212, 42, 60]), Ink::Fixed([250, 190, 50]), Ink::Fixed([40, 32, 40]));
    art.line(gold, 0.12, &[[-0.24, 0.86], [-0.24, 0.98]]);
    art.line(gold, 0.12, &[[0.24, 0.86], [0.24, 0.98]]);
    art.ellipse(feather, [0.0, 0.3], [0.6, 0.64]);
    art.ellipse(face, [0.0, 0.46], [0.34, 0.4]);
    art.shape(wing, [-0.56, 0.0], |p| p.cubic_to(-1.0, 0.3, -0.8, 0.76, -0.44, 0.82));
    art.shape(wing, [0.56, 0.0], |p| p.cubic_to(1.0, 0.3, 0.8, 0.76, 0.44, 0.82));
    art.poly(wing, &[[-0.6, -0.5], [-0.58, -1.0], [-0.14, -0.72]]);
    art.poly(wing, &[[0.6, -0.5], [0.58, -1.0], [0.14, -0.72]]);
    art.ellipse(feather, [0.0, -0.4], [0.62, 0.46]);
    for x in [-0.26, 0.26] {
        art.disc(face, [x, -0.42], 0.28);
        art.disc(gold, [x, -0.42], 0.19);
        art.disc(dark, [x, -0.42], 0.1);
    }
    art.poly(gold, &[[-0.1, -0.28], [0.1, -0.28], [0.0, -0.04]]);
    art.round_rect(scarf, [-0.52, -0.04], [0.52, 0.16], 0.08);
    art.poly(scarf, &[[0.16, 0.1], [0.4, 0.1], [0.44, 0.56], [0.2, 0.52]]);
    art
}

fn pumpkin() -> Art {
    let mut art = Art::default();
    let of = |colour: Colour| Ink::Fixed(colour.rgb());
    let (skin, rib, dark) = (of(Colour::Orange), Ink::Fixed([218, 104, 24]), of(Colour::Black));
    let (hat, band) = (of(Colour::Purple), of(Colour::Yellow));
    art.ellipse(rib, [-0.5, 0.42], [0.42, 0.5]);
    art.ellipse(rib, [0.5, 0.42], [0.42, 0.5]);
    art.ellipse(skin, [0.0, 0.44], [0.66, 0.56]);
    for side in [-1.0, 1.0] {
        art.poly(dark, &[[side * 0.12, 0.36], [side * 0.46, 0.36], [side * 0.3, 0.06]]);
    }
    art.poly(
        dark,
        &[
            [-0.5, 0.52],
            [-0.22, 0.6],
            [-0.1, 0.5],
            [0.02, 0.62],
            [0.5, 0.52],
            [0.3, 0.82],
            [0.0, 0.9],
            [-0.3, 0.82],
        ],
    );
    art.poly(hat, &[[-0.4, -0.12], [0.06, -1.0], [0.4, -0.12]]);
    art.poly(band, &[[-0.4, -0.1], [-0.3, -0.3], [0.32, -0.3], [0.4, -0.1]]);
    art.ellipse(hat, [0.0, -0.06], [0.72, 0.13]);
    art
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paint::SIZES;

    #[test]
    fn sets_have_pictures_and_captions_that_name_them() {
        for set in Set::ALL {
            assert_eq!(Set::named(set.name()), Some(set));
            for n in 0..PICTURES {
                assert!(set.caption(n).contains(set.name()), "{}", set.caption(n));
                assert_eq!(set.paint(n, 32).rgb.len(), 32 * 32 * 3);
                assert_ne!(set.paint(n, 32), set.paint((n + 1) % PICTURES, 32));
            }
        }
        assert_eq!(Set::named("cat"), None);
    }

    #[test]
    fn sizes_that_cannot_be_painted_are_brought_to_the_nearest_one() {
        for set in [Set::Robot, Set::Neon] {
            assert_eq!(set.paint(0, 0), set.paint(0, *SIZES.start()));
            let large = set.paint(0, usize::MAX);
            assert_eq!((large.size, large.rgb.len()), (1024, 1024 * 1024 * 3));
        }
    }
}
