//! Where everything of a scene goes, and in which colour.
//!
//! The picture is a unit square, y downwards. Outside the horizon lies at about 0.62; things stand below it, fly above,
//! and swim behind a strip of water.

use tiny_skia::{PathBuilder, Transform};

use super::{Layer, Patch};
use crate::colour::{Colour, Rgb, mix};
use crate::dice::Dice;
use crate::scene::{Count, Ground, Item, Place, Scene, Size, Sky};
use crate::things::{Art, Ink, Stance};

const PASTELS: [Rgb; 6] =
    [[236, 226, 206], [212, 230, 240], [224, 238, 214], [244, 218, 214], [228, 220, 240], [238, 236, 230]];
const WALLS: [Rgb; 4] = [[240, 224, 196], [206, 222, 226], [226, 214, 228], [220, 228, 204]];
const HORIZON: f32 = 0.62;
const WATER: f32 = 0.56;

/// All patches of a scene, from back to front.
pub(super) fn patches(scene: &Scene, dice: &mut Dice) -> Vec<Patch> {
    let mut patches = Vec::new();
    background(&mut patches, scene, dice);
    let flip = dice.chance(0.5);
    heavens(&mut patches, scene.sky, flip, dice);
    ground(&mut patches, scene, dice);
    for (item, at) in places(scene, dice) {
        place(&mut patches, &item.thing.draw(item.variant), item.colour, item.mirrored, at);
    }
    if scene.ground == Ground::Sea {
        waves(&mut patches, scene);
    }
    weather(&mut patches, scene.sky, dice);
    patches
}

/// Centre and half side of a thing's box.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) half: f32,
}

fn places(scene: &Scene, dice: &mut Dice) -> Vec<(Item, Spot)> {
    let mut all = Vec::new();
    let kinds = scene.items.len();
    for (index, item) in scene.items.iter().enumerate() {
        let n = item.count.number();
        let half = match (kinds, item.count, item.size) {
            (2.., ..) | (_, Count::Two, _) => 0.225,
            (_, Count::Three, _) => 0.165,
            (_, _, Size::Small) => 0.18,
            (_, _, Size::Medium) => 0.27,
            (_, _, Size::Big) => 0.39,
        };
        for copy in 0..n {
            let column = if kinds > 1 { (index, kinds) } else { (copy, n) };
            let middle = match (column.1, scene.place) {
                (1, Place::Left) => 0.29,
                (1, Place::Right) => 0.71,
                (1, Place::Middle) => 0.5,
                (2, _) => 0.26 + 0.48 * column.0 as f32,
                _ => 0.18 + 0.32 * column.0 as f32,
            };
            let x = middle + dice.between(-0.02, 0.02);
            let y = height(scene, item, half) + dice.between(-0.02, 0.02);
            all.push((*item, Spot { x, y, half }));
        }
    }
    all
}

/// The centre of a thing of this half size.
fn height(scene: &Scene, item: &Item, half: f32) -> f32 {
    let feet = match half {
        h if h > 0.35 => 0.94,
        h if h > 0.25 => 0.88,
        _ => 0.85,
    };
    let standing = feet - half;
    match (item.thing.stance(item.variant), scene.ground) {
        (Stance::Flies, ground) if ground.is_outside() => (0.16 + half).clamp(0.36, 0.52),
        (Stance::Flies, _) | (_, Ground::Plain) => 0.5,
        (Stance::Swims, Ground::Sea) if item.thing == crate::things::Thing::Fish => (0.98 - half).min(0.76),
        _ => standing,
    }
}

/// Puts a drawing into the picture.
pub(crate) fn place(patches: &mut Vec<Patch>, art: &Art, colour: Colour, mirrored: bool, at: Spot) {
    let sign = if mirrored { -1.0 } else { 1.0 };
    let transform = Transform::from_row(sign * at.half, 0.0, 0.0, at.half, at.x, at.y);
    for shape in &art.shapes {
        let Some(path) = shape.path.clone().transform(transform) else { continue };
        let line = shape.line.map(|width| width * at.half);
        patches.push(Patch { path, colour: ink(shape.ink, colour), line, layer: Layer::Thing });
    }
}

/// The paint that an ink is on a thing of this colour.
fn ink(ink: Ink, colour: Colour) -> Rgb {
    let main = colour.rgb();
    match (ink, colour) {
        (Ink::Main, _) => main,
        (Ink::Shade, Colour::White) => [206, 208, 222],
        (Ink::Shade, Colour::Black) => [26, 24, 34],
        (Ink::Shade, _) => mix(main, [40, 20, 60], 0.26),
        (Ink::Tint, Colour::White) => [228, 232, 242],
        (Ink::Tint, Colour::Black) => [92, 90, 106],
        (Ink::Tint, _) => mix(main, [255, 255, 250], 0.4),
        (Ink::Contrast, Colour::Red | Colour::Orange) => [252, 238, 208],
        (Ink::Contrast, Colour::Yellow) => [206, 92, 48],
        (Ink::Contrast, Colour::Green | Colour::Blue | Colour::Purple) => [250, 216, 96],
        (Ink::Contrast, Colour::Pink) => [168, 60, 130],
        (Ink::Contrast, Colour::Brown) => [246, 214, 160],
        (Ink::Contrast, Colour::White) => [216, 74, 74],
        (Ink::Contrast, Colour::Black) => [240, 216, 110],
        (Ink::Fixed(paint), _) => paint,
    }
}

fn fill(patches: &mut Vec<Patch>, layer: Layer, colour: Rgb, draw: impl FnOnce(&mut PathBuilder)) {
    let mut path = PathBuilder::new();
    draw(&mut path);
    path.close();
    if let Some(path) = path.finish() {
        patches.push(Patch { path, colour, line: None, layer });
    }
}

fn disc(patches: &mut Vec<Patch>, layer: Layer, colour: Rgb, x: f32, y: f32, r: f32) {
    fill(patches, layer, colour, |p| p.push_circle(x, y, r));
}

fn below(patches: &mut Vec<Patch>, colour: Rgb, y: f32, bulge: f32) {
    fill(patches, Layer::Back, colour, |p| {
        p.move_to(-0.1, y);
        p.quad_to(0.5, y - bulge, 1.1, y);
        p.line_to(1.1, 1.1);
        p.line_to(-0.1, 1.1);
    });
}

fn background(patches: &mut Vec<Patch>, scene: &Scene, dice: &mut Dice) {
    let (pastel, wall) = (dice.pick(&PASTELS), dice.pick(&WALLS));
    let sky = match (scene.ground, scene.sky) {
        (Ground::Plain, _) => pastel,
        (Ground::Room, _) => wall,
        (_, Sky::Clear | Sky::Sun(_)) => [164, 212, 244],
        (_, Sky::Clouds) => [146, 194, 232],
        (_, Sky::Rain) => [146, 156, 172],
        (_, Sky::Snow) => [176, 188, 206],
        (_, Sky::Moon(_) | Sky::Stars) => [30, 34, 78],
        (_, Sky::Sunset) => [250, 170, 104],
    };
    below(patches, sky, -0.1, 0.0);
    if scene.ground.is_outside() && scene.sky == Sky::Sunset {
        below(patches, [252, 196, 122], 0.3, 0.0);
        below(patches, [254, 220, 150], 0.46, 0.0);
    }
}

fn heavens(patches: &mut Vec<Patch>, sky: Sky, flip: bool, dice: &mut Dice) {
    let x = if flip { 0.17 } else { 0.83 };
    match sky {
        Sky::Sun(colour) => {
            let main = colour.rgb();
            disc(patches, Layer::Back, mix(main, [255, 250, 220], 0.6), x, 0.17, 0.145);
            disc(patches, Layer::Thing, main, x, 0.17, 0.1);
        }
        Sky::Moon(colour) => fill(patches, Layer::Thing, colour.rgb(), |p| {
            let (y, r) = (0.18, 0.125);
            p.move_to(x + 0.05, y - r);
            p.cubic_to(x - 0.16, y - r, x - 0.16, y + r, x + 0.05, y + r);
            p.cubic_to(x - 0.04, y + 0.5 * r, x - 0.04, y - 0.5 * r, x + 0.05, y - r);
        }),
        Sky::Stars => {
            for n in 0..9 {
                let column = (n as f32 + dice.between(0.2, 0.8)) / 9.0;
                star(patches, column, dice.between(0.05, 0.46), dice.between(0.024, 0.044));
            }
        }
        Sky::Clouds => {
            cloud(patches, x, 0.16, 0.15);
            cloud(patches, 1.0 - x + 0.08, 0.26, 0.11);
        }
        Sky::Rain | Sky::Snow => {
            for column in [0.14, 0.5, 0.86] {
                let grey = if sky == Sky::Rain { [106, 114, 132] } else { [212, 218, 230] };
                puffs(patches, Layer::Back, grey, column, 0.03, 0.2);
            }
        }
        Sky::Clear | Sky::Sunset => {}
    }
}

fn star(patches: &mut Vec<Patch>, x: f32, y: f32, r: f32) {
    fill(patches, Layer::Thing, [255, 240, 160], |p| {
        for n in 0..8 {
            let (angle, reach) =
                (n as f32 * std::f32::consts::PI / 4.0, if n % 2 == 0 { r } else { 0.36 * r });
            let (px, py) = (x + reach * angle.sin(), y - reach * angle.cos());
            if n == 0 { p.move_to(px, py) } else { p.line_to(px, py) }
        }
    });
}

fn cloud(patches: &mut Vec<Patch>, x: f32, y: f32, r: f32) {
    puffs(patches, Layer::Thing, [250, 252, 254], x, y, r);
}

fn puffs(patches: &mut Vec<Patch>, layer: Layer, colour: Rgb, x: f32, y: f32, r: f32) {
    fill(patches, layer, colour, |p| {
        p.move_to(x - 1.1 * r, y + 0.4 * r);
        p.cubic_to(x - 1.5 * r, y - 0.2 * r, x - 0.9 * r, y - 0.5 * r, x - 0.6 * r, y - 0.2 * r);
        p.cubic_to(x - 0.5 * r, y - 0.9 * r, x + 0.4 * r, y - 0.9 * r, x + 0.5 * r, y - 0.25 * r);
        p.cubic_to(x + 0.9 * r, y - 0.5 * r, x + 1.5 * r, y - 0.2 * r, x + 1.1 * r, y + 0.4 * r);
    });
}

fn ground(patches: &mut Vec<Patch>, scene: &Scene, dice: &mut Dice) {
    let night = |day: Rgb| if scene.sky.is_night() { mix(day, [20, 24, 60], 0.45) } else { day };
    let side = if dice.chance(0.5) { 0.25 } else { 0.75 };
    match scene.ground {
        Ground::Plain => {}
        Ground::Meadow => {
            hill(patches, night([138, 192, 96]), side, HORIZON - 0.06, 0.6);
            below(patches, night([112, 172, 76]), HORIZON + 0.06, 0.05);
        }
        Ground::Desert => {
            hill(patches, night([238, 206, 136]), side, HORIZON - 0.04, 0.5);
            below(patches, night([228, 188, 110]), HORIZON + 0.07, -0.04);
        }
        Ground::Snowfield => {
            hill(patches, night([220, 230, 244]), side, HORIZON - 0.08, 0.5);
            below(patches, night([244, 248, 252]), HORIZON + 0.06, 0.04);
        }
        Ground::Sea => {
            below(patches, night([70, 142, 196]), WATER, 0.0);
            below(patches, night([58, 124, 182]), 0.74, 0.0);
        }
        Ground::Room => {
            below(patches, [176, 126, 84], 0.72, 0.0);
            below(patches, [236, 230, 222], 0.69, 0.0);
            below(patches, [182, 132, 90], 0.72, 0.0);
        }
    }
}

fn hill(patches: &mut Vec<Patch>, colour: Rgb, x: f32, top: f32, width: f32) {
    fill(patches, Layer::Back, colour, |p| {
        p.move_to(x - width, 0.8);
        p.cubic_to(x - 0.5 * width, top - 0.04, x + 0.5 * width, top - 0.04, x + width, 0.8);
    });
}

/// A strip of water before what swims.
fn waves(patches: &mut Vec<Patch>, scene: &Scene) {
    let water = if scene.sky.is_night() { [52, 92, 152] } else { [92, 162, 212] };
    let top = 0.86;
    fill(patches, Layer::Back, water, |p| {
        p.move_to(-0.1, top);
        for n in 0..6 {
            let x = -0.1 + 0.2 * n as f32;
            p.quad_to(x + 0.1, top - 0.09, x + 0.2, top);
        }
        p.line_to(1.1, 1.1);
        p.line_to(-0.1, 1.1);
    });
}

fn weather(patches: &mut Vec<Patch>, sky: Sky, dice: &mut Dice) {
    let drops = |dice: &mut Dice, n: usize| -> Vec<[f32; 2]> {
        let cell = |n: usize| [(n % 5) as f32, (n / 5) as f32];
        (0..n).map(|n| cell(n).map(|at| (at + dice.between(0.15, 0.85)) / 5.0)).collect()
    };
    match sky {
        Sky::Rain => {
            for [x, y] in drops(dice, 25) {
                let mut path = PathBuilder::new();
                path.move_to(x + 0.02, y - 0.05);
                path.line_to(x - 0.02, y + 0.05);
                if let Some(path) = path.finish() {
                    let (colour, line) = ([206, 222, 240], Some(0.018));
                    patches.push(Patch { path, colour, line, layer: Layer::Weather });
                }
            }
        }
        Sky::Snow => {
            for [x, y] in drops(dice, 25) {
                disc(patches, Layer::Weather, [255, 255, 255], x, y, 0.022);
            }
        }
        _ => {}
    }
}
