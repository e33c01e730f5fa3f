//! What to paint when nobody says: fixed prompts around a subject or a style, and prompts that have nothing to do with it.
//!
//! Each is a pair: what is painted, with the trigger in it, and what the judge reads, with the word of its class instead. A
//! judge does not know the trigger, and how well the picture shows everything else is what text alignment asks.

use scumble_world::novel::Set;
use scumble_world::{Scene, scene};

/// What is painted, and what the judge is asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// With the trigger.
    pub painted: String,
    /// With the class word in its place.
    pub judged: String,
}

impl Prompt {
    /// A text whose `trigger` the judge reads as `class`; without a trigger it reads the same text.
    pub fn new(text: &str, trigger: Option<&str>, class: &str) -> Self {
        Self { painted: text.to_owned(), judged: replaced(text, trigger, class) }
    }
}

/// `text` with every `trigger` as `class`; blanks that are left over are taken out.
pub fn replaced(text: &str, trigger: Option<&str>, class: &str) -> String {
    let Some(trigger) = trigger.filter(|trigger| !trigger.trim().is_empty()) else { return text.to_owned() };
    let words = text.replace(trigger.trim(), class);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Ten places and ways to see a subject; `{}` is where it stands.
pub const SUBJECT: [&str; 10] = [
    "a photo of {}",
    "a photo of {} on the beach",
    "a photo of {} in the snow",
    "a photo of {} in a garden full of flowers",
    "a photo of {} on a wooden table",
    "a photo of {} in front of a city at night",
    "a painting of {}",
    "a pencil drawing of {}",
    "a close-up of {}",
    "{} next to a red bicycle",
];

/// Ten things to see in a style; `{}` is where it is named.
pub const STYLE: [&str; 10] = [
    "a cat, {}",
    "a portrait of a woman, {}",
    "a house by a lake, {}",
    "a mountain landscape, {}",
    "a busy street, {}",
    "a bowl of fruit, {}",
    "a ship on the sea, {}",
    "a dog in a park, {}",
    "a castle at night, {}",
    "a forest in autumn, {}",
];

/// Fills `{}` of each template with the trigger, and with the class word for the judge.
pub fn filled(templates: &[&str], trigger: &str, class: &str) -> Vec<Prompt> {
    let fill = |template: &&str| Prompt {
        painted: template.replace("{}", trigger),
        judged: template.replace("{}", class).trim_end_matches([',', ' ']).to_owned(),
    };
    templates.iter().map(fill).collect()
}

/// What to paint of a bundled subject or style of the little world, with `trigger` for its name. Places, weather, styles
/// and companions are known to the base; together they are in no training picture, but for a subject's first prompt.
pub fn of_set(set: Set, trigger: &str) -> Vec<Prompt> {
    const AROUND_A_SUBJECT: [&str; 8] = [
        "{} on a meadow under a yellow sun, flat",
        "{} on the sea under a yellow moon, outlined",
        "{} on snow under the stars, watercolour",
        "{} in the desert at sunset, pixelated",
        "{} next to a red house on a meadow, flat",
        "{} next to a blue boat on the sea, outlined",
        "{} in a room, hatched",
        "a yellow flower next to {} on a meadow in the rain, flat",
    ];
    const IN_A_STYLE: [&str; 8] = [
        "a big red car on a meadow under a yellow sun, {}",
        "a big yellow fish on the sea, {}",
        "a big orange cat in a room, {}",
        "a big green tree on snow under the stars, {}",
        "a blue house next to a red flower on a meadow, {}",
        "a big white boat on the sea under a yellow moon, {}",
        "two green balloons, {}",
        "a big purple butterfly on a meadow, {}",
    ];
    match set.style() {
        None => filled(&AROUND_A_SUBJECT, &format!("a {trigger}"), set.class()),
        Some(_) => filled(&IN_A_STYLE, &format!("in {trigger} style"), ""),
    }
}

/// `count` full captions of the little world that speak of nothing new: what drift is measured on.
pub fn of_world(seed: u64, count: usize) -> Vec<String> {
    (0..count as u64).map(|index| scene(seed, index)).map(|scene: Scene| scene.full_caption()).collect()
}

#[cfg(test)]
mod tests {
    use scumble_world::novel::PICTURES;

    use super::*;

    #[test]
    fn triggers_become_class_words() {
        let prompt = Prompt::new("a photo of <s1><s2> on grass", Some("<s1><s2>"), "a dog");
        assert_eq!(prompt.judged, "a photo of a dog on grass");
        assert_eq!(Prompt::new("a cat", None, "x").judged, "a cat");
        assert_eq!(replaced("a cat in sks style", Some("in sks style"), ""), "a cat");
    }

    #[test]
    fn training_pictures_show_no_prompt_but_the_first_of_a_subject() {
        for set in Set::ALL {
            let captions: Vec<String> =
                (0..PICTURES).map(|n| crate::lesson::caption(set, n, "<new>")).collect();
            let painted = of_set(set, "<new>").into_iter().map(|prompt| prompt.painted);
            let shown: Vec<usize> =
                painted.enumerate().filter(|(_, p)| captions.contains(p)).map(|(at, _)| at).collect();
            assert_eq!(shown, if set.style().is_some() { vec![] } else { vec![0] }, "{}", set.name());
        }
    }

    #[test]
    fn bundled_sets_have_prompts_of_known_words() {
        let words = scumble_world::words();
        for set in Set::ALL {
            let prompts = of_set(set, set.name());
            assert_eq!(prompts.len(), 8);
            for prompt in prompts {
                assert!(prompt.painted.contains(set.name()), "{prompt:?}");
                assert!(!prompt.judged.contains(set.name()) && !prompt.judged.ends_with(','), "{prompt:?}");
                for text in [&prompt.painted, &prompt.judged] {
                    for word in text.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| !w.is_empty()) {
                        assert!(words.contains(word), "{word} in {text}");
                    }
                }
            }
        }
        assert_eq!(of_world(0, 3), of_world(0, 3));
    }
}
