//! True captions in varied words.
//!
//! A caption names the things with their colours always, and what else there is to say most of the time: how large, which
//! form, where, on what, under which sky, in which style. What it leaves out is open, what it says is so.

use std::collections::BTreeSet;

use crate::dice::Dice;
use crate::paint::Style;
use crate::scene::{Count, Ground, Item, Place, Scene, Size, Sky, scene};

impl Scene {
    /// One of many wordings: the same number gives the same one.
    pub fn caption(&self, wording: u64) -> String {
        let mut dice = Dice::new(self.grain, "caption", wording);
        let say = |dice: &mut Dice, share| dice.chance(share);
        let mut parts = vec![self.subject(&mut dice)];
        let (with_ground, with_sky) = (say(&mut dice, 0.85), say(&mut dice, 0.85));
        if with_ground {
            parts.extend(ground(self.ground, &mut dice).map(str::to_owned));
        }
        if with_sky && self.ground.is_outside() {
            parts.extend(sky(self.sky, &mut dice));
        }
        styled(parts, self.style, say(&mut dice, 0.88), &mut dice)
    }

    /// The wording that says everything, in the plainest order: for evaluation.
    pub fn full_caption(&self) -> String {
        let mut text = match self.items.as_slice() {
            [one] => format!("{}{}", phrase(one, true, true), place(self, 0)),
            [first, second] => {
                format!("{} next to {}", phrase(first, true, true), phrase(second, true, true))
            }
            _ => String::new(),
        };
        for part in [plain_ground(self.ground), &plain_sky(self.sky)] {
            if !part.is_empty() {
                text = format!("{text} {part}");
            }
        }
        format!("{text}, {}", self.style.word())
    }

    fn subject(&self, dice: &mut Dice) -> String {
        let name = |item: &Item, dice: &mut Dice| phrase(item, dice.chance(0.7), dice.chance(0.6));
        match self.items.as_slice() {
            [one] => {
                let place = if dice.chance(0.8) { place(self, dice.below(2)) } else { "" };
                format!("{}{place}", name(one, dice))
            }
            [left, right] => {
                let (a, b) = (name(left, dice), name(right, dice));
                match dice.below(6) {
                    0 | 1 => format!("{a} next to {b}"),
                    2 => format!("{b} beside {a}"),
                    3 => format!("{a} to the left of {b}"),
                    4 => format!("{b} to the right of {a}"),
                    _ => format!("{a} and {b}"),
                }
            }
            _ => String::new(),
        }
    }
}

/// "a big red spotted mushroom", "two blue fish".
fn phrase(item: &Item, with_size: bool, with_form: bool) -> String {
    let (one, many, form) = item.thing.names(item.variant);
    let mut words: Vec<&str> = Vec::new();
    match item.size {
        Size::Small if with_size => words.push("small"),
        Size::Big if with_size => words.push("big"),
        _ => {}
    }
    words.push(item.colour.word());
    words.extend(form.filter(|_| with_form));
    words.push(if item.count == Count::One { one } else { many });
    let first = match item.count {
        Count::Two => "two",
        Count::Three => "three",
        Count::One => article(words[0]),
    };
    format!("{first} {}", words.join(" "))
}

fn place(scene: &Scene, wording: usize) -> &'static str {
    match (scene.place, wording) {
        (Place::Left, 0) => " on the left",
        (Place::Left, _) => " on the left side",
        (Place::Right, 0) => " on the right",
        (Place::Right, _) => " on the right side",
        (Place::Middle, _) => "",
    }
}

fn plain_ground(ground: Ground) -> &'static str {
    match ground {
        Ground::Plain => "",
        Ground::Meadow => "on a meadow",
        Ground::Desert => "in the desert",
        Ground::Snowfield => "on snow",
        Ground::Sea => "on the sea",
        Ground::Room => "in a room",
    }
}

fn ground(ground: Ground, dice: &mut Dice) -> Option<&'static str> {
    let wordings: &[&str] = match ground {
        Ground::Plain => &["on a plain background", ""],
        Ground::Meadow => &["on a meadow", "on green grass", "in the grass", "on a green hill"],
        Ground::Desert => &["in the desert", "on sand", "in the sand"],
        Ground::Snowfield => &["on snow", "in the snow", "on a snowy field"],
        Ground::Sea => &["on the sea", "in the water", "at sea"],
        Ground::Room => &["in a room", "inside a room", "indoors"],
    };
    Some(dice.pick(wordings)).filter(|text| !text.is_empty())
}

fn plain_sky(sky: Sky) -> String {
    match sky {
        Sky::Clear => String::new(),
        Sky::Sun(colour) => format!("under {} {} sun", article(colour.word()), colour.word()),
        Sky::Moon(colour) => format!("under {} {} moon", article(colour.word()), colour.word()),
        Sky::Clouds => "under white clouds".into(),
        Sky::Rain => "in the rain".into(),
        Sky::Snow => "in falling snow".into(),
        Sky::Stars => "under the stars".into(),
        Sky::Sunset => "at sunset".into(),
    }
}

fn sky(sky: Sky, dice: &mut Dice) -> Option<String> {
    let other = dice.below(3);
    Some(match (sky, other) {
        (Sky::Clear, 0) => "under a clear sky".into(),
        (Sky::Clear, _) => return None,
        (Sky::Clouds, 1) => "with clouds in the sky".into(),
        (Sky::Rain, 1) => "on a rainy day".into(),
        (Sky::Snow, 1) => "while it is snowing".into(),
        (Sky::Stars, 1) => "at night with stars".into(),
        (Sky::Sunset, 1) => "under an orange evening sky".into(),
        (Sky::Moon(colour), 1) => format!("at night with {} {} moon", article(colour.word()), colour.word()),
        (Sky::Sun(colour), 1) => format!("with {} {} sun", article(colour.word()), colour.word()),
        _ => plain_sky(sky),
    })
}

/// "a" or "an".
pub(crate) fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Joins the parts and says the style, before or behind.
fn styled(parts: Vec<String>, style: Style, said: bool, dice: &mut Dice) -> String {
    let text = parts.join(" ");
    if !said {
        return text;
    }
    let (before, behind): (&[&str], &[&str]) = match style {
        Style::Flat => (&["a flat picture of", "a flat drawing of"], &["flat", "in flat colours"]),
        Style::Outlined => (&["an outlined drawing of", "a cartoon of"], &["outlined", "with dark outlines"]),
        Style::Pixelated => (&["pixel art of", "a pixelated picture of"], &["pixelated", "pixel art"]),
        Style::Hatched => {
            (&["a pencil drawing of", "a hatched drawing of"], &["hatched", "in coloured pencil"])
        }
        Style::Watercolour => (&["a watercolour of", "a painting of"], &["watercolour", "in watercolour"]),
        Style::Neon => (&["a neon picture of"], &["in neon style"]),
        Style::Blueprint => (&["a blueprint of"], &["in blueprint style"]),
        Style::Chalk => (&["a chalk drawing of"], &["in chalk style"]),
    };
    if dice.chance(0.45) {
        format!("{} {text}", dice.pick(before))
    } else {
        format!("{text}, {}", dice.pick(behind))
    }
}

/// Every word of the world's captions, those of the new subjects and styles included, in order.
pub fn words() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut take = |text: &str| {
        words.extend(
            text.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| !w.is_empty()).map(str::to_owned),
        );
    };
    for index in 0..6000 {
        let scene = scene(0, index);
        (0..3).for_each(|wording| take(&scene.caption(wording)));
        take(&scene.full_caption());
    }
    for set in crate::novel::Set::ALL {
        (0..crate::novel::PICTURES).for_each(|n| take(&set.caption(n)));
        take(set.class());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colour::Colour;
    use crate::things::Thing;

    fn boat() -> Scene {
        let item = Item {
            thing: Thing::Boat,
            variant: 0,
            colour: Colour::Purple,
            size: Size::Big,
            count: Count::One,
            mirrored: false,
        };
        let (ground, sky) = (Ground::Sea, Sky::Moon(Colour::Yellow));
        Scene { style: Style::Outlined, ground, sky, place: Place::Middle, items: vec![item], grain: 5 }
    }

    #[test]
    fn the_full_caption_says_everything() {
        let text = "a big purple sailing boat on the sea under a yellow moon, outlined";
        assert_eq!(boat().full_caption(), text);
        let mut pair = boat();
        pair.items.push(Item {
            thing: Thing::Cat,
            variant: 1,
            colour: Colour::Orange,
            size: Size::Medium,
            ..pair.items[0]
        });
        assert!(pair.full_caption().contains("boat next to an orange sleeping cat on the sea"));
    }

    #[test]
    fn wordings_vary_and_colour_and_thing_are_always_there() {
        let texts: BTreeSet<String> = (0..40).map(|wording| boat().caption(wording)).collect();
        assert!(texts.len() > 25, "{texts:?}");
        assert!(texts.iter().all(|text| text.contains("purple") && text.contains("boat")), "{texts:?}");
        assert_eq!(boat().caption(3), boat().caption(3));
    }

    #[test]
    fn words_are_plain_and_few() {
        let words = words();
        assert!((100..240).contains(&words.len()), "{}", words.len());
        assert!(words.iter().all(|word| word.chars().all(|c| c.is_ascii_lowercase())));
    }
}
