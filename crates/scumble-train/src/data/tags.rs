//! What a visit does to a caption: shuffling its tags, dropping some or all.
//!
//! ```text
//! 1. with probability caption_dropout the text is empty: the model also learns to paint without one
//! 2. the text is cut at commas; the first keep_tags stay where they are
//! 3. the others are shuffled
//! 4. each of the others is left out with probability tag_dropout
//! 5. what is left is joined with ", "
//! ```
//!
//! All of it comes from one stream of the visit, drawn in this order.

use scumble_tensor::rng::Generator;

/// See the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TagRules {
    /// Put the tags in another order each time.
    pub shuffle: bool,
    /// Tags at the front that stay.
    pub keep: usize,
    /// Share of the other tags left out each time.
    pub tag_dropout: f64,
    /// Share of visits without any text.
    pub caption_dropout: f64,
}

impl TagRules {
    /// Whether a text has more variants than can be listed.
    pub fn varies(&self) -> bool {
        self.shuffle || self.tag_dropout > 0.0
    }

    /// The text as a visit sees it.
    pub fn apply(&self, text: &str, stream: &mut Generator) -> String {
        if self.caption_dropout > 0.0 && uniform(stream) < self.caption_dropout {
            return String::new();
        }
        if !self.varies() {
            return text.to_owned();
        }
        let tags: Vec<&str> = text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).collect();
        let (kept, others) = tags.split_at(self.keep.min(tags.len()));
        let order = if self.shuffle { stream.randperm(others.len()) } else { (0..others.len()).collect() };
        let others = order.into_iter().filter_map(|index| others.get(index).copied());
        let stays = |_: &&str| self.tag_dropout == 0.0 || uniform(stream) >= self.tag_dropout;
        let mut all = kept.to_vec();
        all.extend(others.filter(stays));
        all.join(", ")
    }
}

fn uniform(stream: &mut Generator) -> f64 {
    stream.rand_f64(1).first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::rng::stream_at;

    const TEXT: &str = "sks dog, grass,  sunny , running,, blue sky";

    fn texts(rules: TagRules) -> Vec<String> {
        (0..400).map(|visit| rules.apply(TEXT, &mut stream_at(3, "tags", visit))).collect()
    }

    #[test]
    fn nothing_is_changed_unless_asked_for() {
        assert!(texts(TagRules::default()).iter().all(|text| text == TEXT));
        assert!(texts(TagRules { keep: 2, ..TagRules::default() }).iter().all(|text| text == TEXT));
    }

    #[test]
    fn shuffled_tags_are_all_there_behind_the_kept_ones() {
        let texts = texts(TagRules { shuffle: true, keep: 1, ..TagRules::default() });
        let mut orders = texts.clone();
        orders.sort();
        orders.dedup();
        assert_eq!(orders.len(), 24, "4 tags have 24 orders");
        for text in &texts {
            assert!(text.starts_with("sks dog, "), "{text}");
            assert_eq!(text.split(", ").count(), 5);
        }
        let mut free = texts_of_first(TagRules { shuffle: true, ..TagRules::default() });
        free.sort();
        free.dedup();
        assert_eq!(free.len(), 5);
    }

    fn texts_of_first(rules: TagRules) -> Vec<String> {
        texts(rules).iter().map(|text| text.split(", ").next().unwrap().to_owned()).collect()
    }

    #[test]
    fn dropouts_have_their_rates_and_spare_what_is_kept() {
        let rules = TagRules { tag_dropout: 0.25, keep: 1, ..TagRules::default() };
        let left: usize = texts(rules).iter().map(|text| text.split(", ").count() - 1).sum();
        assert!((1100..1300).contains(&left), "{left} of 1600");
        assert!(texts(rules).iter().all(|text| text.starts_with("sks dog")));
        let empty = texts(TagRules { caption_dropout: 0.1, ..TagRules::default() });
        let empty = empty.iter().filter(|text| text.is_empty()).count();
        assert!((20..65).contains(&empty), "{empty} of 400");
        let none = TagRules { tag_dropout: 1.0, ..TagRules::default() };
        assert_eq!(none.apply(TEXT, &mut stream_at(3, "tags", 0)), "");
    }
}
