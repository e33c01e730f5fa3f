//! What is to be seen: things, where they stand, what is behind and above them, and in which style it is drawn.

use crate::colour::{Colour, luma};
use crate::dice::Dice;
use crate::holdout::is_held_out;
use crate::paint::Style;
use crate::things::Thing;

/// How large a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A third of the picture.
    Small,
    /// Half of it; not worth a word.
    Medium,
    /// Three quarters of it.
    Big,
}

/// Where a single thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the left half.
    Left,
    /// In the middle; not worth a word.
    Middle,
    /// In the right half.
    Right,
}

/// How many of a thing there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// One.
    One,
    /// Two.
    Two,
    /// Three.
    Three,
}

impl Count {
    /// As a number.
    pub fn number(self) -> usize {
        match self {
            Count::One => 1,
            Count::Two => 2,
            Count::Three => 3,
        }
    }
}

/// A thing in the picture, or several alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub thing: Thing,
    /// Which of its two forms.
    pub variant: usize,
    /// Its colour.
    pub colour: Colour,
    /// How large; groups and pairs have their own size.
    pub size: Size,
    /// How many.
    pub count: Count,
    /// Whether it looks to the left.
    pub mirrored: bool,
}

/// What things stand on and before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// One pale colour.
    Plain,
    /// Green hills.
    Meadow,
    /// Sand.
    Desert,
    /// White hills.
    Snowfield,
    /// Water up to the horizon.
    Sea,
    /// A floor and a wall.
    Room,
}

impl Ground {
    /// All of them.
    pub const ALL: [Ground; 6] =
        [Ground::Plain, Ground::Meadow, Ground::Desert, Ground::Snowfield, Ground::Sea, Ground::Room];

    /// Whether there is a sky above it.
    pub fn is_outside(self) -> bool {
        !matches!(self, Ground::Plain | Ground::Room)
    }
}

/// The sky and what comes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sky {
    /// Blue and empty; also that of grounds without a sky.
    Clear,
    /// A sun of this colour.
    Sun(Colour),
    /// Two white clouds.
    Clouds,
    /// Grey, with rain.
    Rain,
    /// Grey, with snow falling.
    Snow,
    /// Dark, with a crescent of this colour.
    Moon(Colour),
    /// Dark, with stars.
    Stars,
    /// Orange.
    Sunset,
}

impl Sky {
    /// Whether it is dark.
    pub fn is_night(self) -> bool {
        matches!(self, Sky::Moon(_) | Sky::Stars)
    }
}

/// Everything that decides a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// How it is drawn.
    pub style: Style,
    /// What it stands on.
    pub ground: Ground,
    /// What is above.
    pub sky: Sky,
    /// Where the only thing stands; pairs and groups fill the width.
    pub place: Place,
    /// One or two kinds of things; of two the first is on the left.
    pub items: Vec<Item>,
    /// Seeds what no caption speaks of: the pale colour behind, small shifts, the grain of the paint.
    pub grain: u64,
}

/// The `index`-th scene of a seed: never one of the held-out combinations.
pub fn scene(seed: u64, index: u64) -> Scene {
    let mut dice = Dice::new(seed, "scene", index);
    loop {
        let drawn = draw(&mut dice, None, None);
        if !is_held_out(&drawn) {
            return drawn;
        }
    }
}

/// A scene by chance; what is given is kept.
pub(crate) fn draw(dice: &mut Dice, first: Option<(Thing, Option<Colour>)>, style: Option<Style>) -> Scene {
    let style = style.unwrap_or_else(|| dice.pick(&Style::BASE));
    let ground = dice.pick(&[
        Ground::Plain,
        Ground::Plain,
        Ground::Meadow,
        Ground::Meadow,
        Ground::Desert,
        Ground::Snowfield,
        Ground::Sea,
        Ground::Room,
    ]);
    let sky = if ground.is_outside() { sky(dice, ground) } else { Sky::Clear };
    let arrangement = dice.unit();
    let kinds = if arrangement < 0.28 { 2 } else { 1 };
    let count = match arrangement {
        x if x > 0.9 => Count::Three,
        x if x > 0.78 => Count::Two,
        _ => Count::One,
    };
    let mut items: Vec<Item> = Vec::new();
    for n in 0..kinds {
        let (thing, colour) = match first.filter(|_| n == 0) {
            Some((thing, colour)) => (thing, colour),
            None => (another_thing(dice, &items), None),
        };
        let size = dice.pick(&[Size::Small, Size::Medium, Size::Medium, Size::Big, Size::Big]);
        items.push(Item {
            thing,
            variant: dice.below(2),
            colour: colour.unwrap_or_else(|| visible_colour(dice, style, ground, sky)),
            size: if kinds == 1 && count == Count::One { size } else { Size::Medium },
            count,
            mirrored: dice.chance(0.5),
        });
    }
    if items.len() == 2 && dice.chance(0.5) {
        items.swap(0, 1);
    }
    let single = items.len() == 1 && count == Count::One;
    let aside = single && items.iter().all(|item| item.size != Size::Big) && dice.chance(0.45);
    let place = if aside { dice.pick(&[Place::Left, Place::Right]) } else { Place::Middle };
    Scene { style, ground, sky, place, items, grain: dice.bits() }
}

fn another_thing(dice: &mut Dice, there: &[Item]) -> Thing {
    loop {
        let thing = dice.pick(&Thing::ALL);
        if there.iter().all(|item| item.thing != thing) {
            return thing;
        }
    }
}

fn sky(dice: &mut Dice, ground: Ground) -> Sky {
    let weather = dice.below(if ground == Ground::Desert { 7 } else { 9 });
    match weather {
        0 => Sky::Clear,
        1 => Sky::Sun(dice.pick(&[Colour::Yellow, Colour::Yellow, Colour::Orange, Colour::Red])),
        2 => Sky::Moon(dice.pick(&[Colour::Yellow, Colour::Yellow, Colour::White, Colour::Pink])),
        3 => Sky::Stars,
        4 => Sky::Sunset,
        5 => Sky::Clouds,
        6 => Sky::Sun(Colour::Yellow),
        7 => Sky::Rain,
        _ => Sky::Snow,
    }
}

/// A colour that stands out from what is behind it.
fn visible_colour(dice: &mut Dice, style: Style, ground: Ground, sky: Sky) -> Colour {
    loop {
        let colour = dice.pick(&Colour::ALL);
        let is_pale = luma(colour.rgb()) > 235.0;
        let on_paper = matches!(style, Style::Hatched | Style::Watercolour);
        let lost = match colour {
            Colour::Black => sky.is_night(),
            Colour::Blue => ground == Ground::Sea || sky.is_night(),
            Colour::Purple | Colour::Brown => sky.is_night(),
            Colour::Green => ground == Ground::Meadow,
            Colour::Orange | Colour::Pink => sky == Sky::Sunset,
            Colour::Yellow => ground == Ground::Desert,
            _ => is_pale && (on_paper || matches!(ground, Ground::Plain | Ground::Snowfield)),
        };
        if !lost {
            return colour;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_are_functions_of_seed_and_index() {
        assert_eq!(scene(3, 77), scene(3, 77));
        assert_ne!(scene(3, 77), scene(4, 77));
    }

    #[test]
    fn everything_occurs() {
        let scenes: Vec<Scene> = (0..4000).map(|index| scene(0, index)).collect();
        for thing in Thing::ALL {
            for variant in 0..2 {
                let is_it = |item: &Item| item.thing == thing && item.variant == variant;
                assert!(scenes.iter().any(|scene| scene.items.iter().any(is_it)), "{thing:?} {variant}");
            }
        }
        for colour in Colour::ALL {
            let n = scenes.iter().flat_map(|scene| &scene.items).filter(|item| item.colour == colour).count();
            assert!(n > 150, "{colour:?} occurs {n} times");
        }
        for style in Style::BASE {
            assert!(scenes.iter().filter(|scene| scene.style == style).count() > 500);
        }
        for ground in Ground::ALL {
            assert!(scenes.iter().filter(|scene| scene.ground == ground).count() > 300);
        }
        let pairs = scenes.iter().filter(|scene| scene.items.len() == 2).count();
        assert!((800..1400).contains(&pairs), "{pairs}");
    }
}
