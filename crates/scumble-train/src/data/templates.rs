//! Sentences around a trigger word, for training without captions: the lists that textual inversion made usual.
//!
//! A visit draws one sentence, so that the model learns the word and not the sentence. Two style sentences occur twice in the
//! published list and are therefore drawn twice as often.

use crate::config::Template;

/// For a subject.
const OBJECT: &[&str] = &[
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
];

/// For a style.
const STYLE: &[&str] = &[
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a cropped painting in the style of {}",
    "a good painting in the style of {}",
    "a close-up painting in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
];

/// For a person; spelled as published.
const PERSON: &[&str] = &[
    "{}",
    "{}",
    "a picture of {}",
    "a closeup of {}",
    "a closeup photo of {}",
    "a close-up picture of {}",
    "a photo of {}",
    "a photo of {}",
    "the photo of {}",
    "a cropped photo of {}",
    "a funny photo of {}",
    "a selfie of {}",
    "a photo of the handsome {}",
    "a photo of the beautiful {}",
    "a selfie taken by the handsome {}",
    "a selfie taken by {}",
    "{} taking a selfie",
    "{} is having fun, 4k photograph",
    "{} wearing a plaidered shirt standing next to another person",
    "smiling {} in a hoodie and sweater",
    "a photo of the cool {}",
    "a close-up photo of {}",
    "a bright photo of {}",
    "a cropped photo of {}",
    "a brilliant HD photo of {}",
    "a beautiful picture of {}",
    "a photo showing {}",
    "a great photo of {}",
];

/// The sentences of a template, `{}` standing for the trigger; none for [`Template::None`].
pub fn sentences(template: Template) -> &'static [&'static str] {
    match template {
        Template::None => &[],
        Template::Object => OBJECT,
        Template::Style => STYLE,
        Template::Person => PERSON,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_has_one_place_for_the_word() {
        assert_eq!((OBJECT.len(), STYLE.len(), PERSON.len()), (27, 19, 28));
        assert!(
            OBJECT.iter().chain(STYLE).chain(PERSON).all(|s| s.matches("{}").count() == 1 && s.trim() == *s)
        );
        assert!(sentences(Template::None).is_empty());
    }
}
