//! Combinations that training never shows, so that painting them proves that parts were learned and not pictures.

use crate::colour::Colour;
use crate::dice::Dice;
use crate::paint::Style;
use crate::scene::{Scene, draw};
use crate::things::Thing;

/// Things that never have this colour in training.
pub const HELD_OUT_COLOURS: [(Thing, Colour); 18] = [
    (Thing::Cat, Colour::Green),
    (Thing::Fish, Colour::Pink),
    (Thing::Bird, Colour::Purple),
    (Thing::Butterfly, Colour::Red),
    (Thing::Snail, Colour::Blue),
    (Thing::Boat, Colour::Purple),
    (Thing::Car, Colour::Pink),
    (Thing::Rocket, Colour::Green),
    (Thing::Balloon, Colour::Brown),
    (Thing::Tree, Colour::Blue),
    (Thing::Flower, Colour::Black),
    (Thing::Mushroom, Colour::Yellow),
    (Thing::Cactus, Colour::Orange),
    (Thing::House, Colour::Purple),
    (Thing::Castle, Colour::Red),
    (Thing::Chair, Colour::White),
    (Thing::Lamp, Colour::Orange),
    (Thing::Cup, Colour::Black),
];

/// Things that are never drawn in this style in training.
pub const HELD_OUT_STYLES: [(Thing, Style); 10] = [
    (Thing::Cat, Style::Pixelated),
    (Thing::Fish, Style::Hatched),
    (Thing::Butterfly, Style::Outlined),
    (Thing::Car, Style::Watercolour),
    (Thing::Rocket, Style::Hatched),
    (Thing::Tree, Style::Outlined),
    (Thing::Mushroom, Style::Watercolour),
    (Thing::House, Style::Pixelated),
    (Thing::Castle, Style::Flat),
    (Thing::Cup, Style::Flat),
];

/// Whether training must not show this scene.
pub fn is_held_out(scene: &Scene) -> bool {
    scene.items.iter().any(|item| {
        HELD_OUT_COLOURS.contains(&(item.thing, item.colour))
            || HELD_OUT_STYLES.contains(&(item.thing, scene.style))
    })
}

/// The `index`-th scene with a held-out combination; the combinations take turns.
pub fn held_out_scene(seed: u64, index: u64) -> Scene {
    let mut dice = Dice::new(seed, "held out", index);
    let all = HELD_OUT_COLOURS.len() + HELD_OUT_STYLES.len();
    let turn = (index % all as u64) as usize;
    match HELD_OUT_COLOURS.get(turn) {
        Some(&(thing, colour)) => draw(&mut dice, Some((thing, Some(colour))), None),
        None => {
            let (thing, style) = HELD_OUT_STYLES[turn - HELD_OUT_COLOURS.len()];
            draw(&mut dice, Some((thing, None)), Some(style))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::scene;

    #[test]
    fn training_and_evaluation_never_meet() {
        assert!((0..3000).all(|index| !is_held_out(&scene(0, index))));
        assert!((0..280).all(|index| is_held_out(&held_out_scene(0, index))));
    }

    #[test]
    fn each_part_of_a_held_out_combination_is_known() {
        let scenes: Vec<Scene> = (0..4000).map(|index| scene(0, index)).collect();
        for (thing, colour) in HELD_OUT_COLOURS {
            let shown = |test: &dyn Fn(&Scene) -> bool| scenes.iter().filter(|scene| test(scene)).count();
            assert!(shown(&|s| s.items.iter().any(|item| item.thing == thing)) > 60, "{thing:?}");
            assert!(shown(&|s| s.items.iter().any(|item| item.colour == colour)) > 100, "{colour:?}");
        }
    }
}
