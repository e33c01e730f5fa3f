//! What a file's metadata say about its making: `ss_*` (kohya), `modelspec.*`, and our own.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Longer texts are cut; thumbnails and configurations are not read by people here.
const MAX_TEXT: usize = 200;
/// Tags that are told.
const MAX_TAGS: usize = 12;

/// Facts for people.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Training {
    /// What is said, with a word for each.
    pub facts: Vec<(&'static str, String)>,
    /// Words that call the concept up, from the metadata.
    pub trigger_words: Vec<String>,
    /// The most frequent captions or tags, with their counts.
    pub tags: Vec<(String, u64)>,
}

/// Metadata key and what it is called. Of several keys for one word the first that says something counts.
const FACTS: [(&str, &str); 38] = [
    ("title", "modelspec.title"),
    ("title", "ss_output_name"),
    ("author", "modelspec.author"),
    ("license", "modelspec.license"),
    ("description", "modelspec.description"),
    ("date", "modelspec.date"),
    ("base model", "ss_sd_model_name"),
    ("base version", "ss_base_model_version"),
    ("architecture", "modelspec.architecture"),
    ("prediction", "modelspec.prediction_type"),
    ("network", "ss_network_module"),
    ("network arguments", "ss_network_args"),
    ("pictures", "ss_num_train_images"),
    ("class pictures", "ss_num_reg_images"),
    ("resolution", "ss_resolution"),
    ("resolution", "modelspec.resolution"),
    ("steps", "ss_steps"),
    ("steps", "ss_max_train_steps"),
    ("epochs", "ss_epoch"),
    ("batch", "ss_total_batch_size"),
    ("batch", "ss_batch_size_per_device"),
    ("learning rate", "ss_learning_rate"),
    ("UNet's rate", "ss_unet_lr"),
    ("text encoder's rate", "ss_text_encoder_lr"),
    ("optimizer", "ss_optimizer"),
    ("schedule", "ss_lr_scheduler"),
    ("mixed precision", "ss_mixed_precision"),
    ("min-SNR gamma", "ss_min_snr_gamma"),
    ("noise offset", "ss_noise_offset"),
    ("clip skip", "ss_clip_skip"),
    ("seed", "ss_seed"),
    ("comment", "ss_training_comment"),
    ("merged from", "modelspec.merged_from"),
    ("usage", "modelspec.usage_hint"),
    ("extracted", "scumble_extracted"),
    ("merge recipe", "scumble_recipe"),
    ("folder", "ss_dataset_dirs"),
    ("format", "format"),
];

/// Reads the metadata.
pub fn training(metadata: &BTreeMap<String, String>) -> Training {
    let mut training = Training::default();
    for (word, key) in FACTS {
        let Some(value) = metadata.get(key).filter(|value| says_something(key, value)) else { continue };
        if !training.facts.iter().any(|(known, _)| *known == word) {
            training.facts.push((word, cut(value)));
        }
    }
    let trigger = metadata.get("modelspec.trigger_phrase").filter(|text| says_something("", text));
    let words = trigger.into_iter().flat_map(|text| text.split(',')).map(str::trim);
    training.trigger_words = words.filter(|word| !word.is_empty()).map(cut).collect();
    training.trigger_words.dedup();
    training.tags = metadata.get("ss_tag_frequency").map(|text| tags(text)).unwrap_or_default();
    training
}

fn says_something(key: &str, value: &str) -> bool {
    let value = value.trim();
    let empty = matches!(value, "" | "None" | "{}" | "[]" | "null");
    let usual = matches!((key, value), ("ss_num_reg_images", "0") | ("format", "pt"));
    !empty && !usual
}

/// One line of at most [`MAX_TEXT`] characters without control characters.
pub(super) fn cut(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect();
    if text.chars().nth(MAX_TEXT).is_some() {
        line.push('…');
    }
    line
}

/// `{folder: {tag: count}}`, the most frequent first.
fn tags(text: &str) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let Ok(Value::Object(folders)) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    for tags in folders.values().filter_map(Value::as_object) {
        for (tag, count) in tags {
            let sum = counts.entry(cut(tag.trim())).or_default();
            *sum = sum.saturating_add(count.as_u64().unwrap_or(0));
        }
    }
    let mut tags: Vec<(String, u64)> = counts.into_iter().collect();
    tags.sort_by(|(a_tag, a), (b_tag, b)| b.cmp(a).then_with(|| a_tag.cmp(b_tag)));
    tags.truncate(MAX_TAGS);
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_left_out() {
        let metadata = [
            ("ss_steps", "400"),
            ("ss_max_train_steps", "500"),
            ("ss_min_snr_gamma", "None"),
            ("ss_output_name", "cat\u{1b}[31m"),
            ("modelspec.trigger_phrase", "sks cat, <s1>"),
            ("ss_tag_frequency", r#"{"10_cat": {"cat": 10, "sofa": 3}, "5_cat": {"sofa": 9}}"#),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let training = training(&metadata);
        assert_eq!(training.facts, [("title", "cat [31m".to_owned()), ("steps", "400".to_owned())]);
        assert_eq!(training.trigger_words, ["sks cat", "<s1>"]);
        assert_eq!(training.tags, [("sofa".to_owned(), 12), ("cat".to_owned(), 10)]);
    }

    #[test]
    fn rubbish_is_no_trouble() {
        for text in ["", "[", "[1]", r#"{"a": 3}"#, r#"{"a": {"b": "c"}}"#] {
            let metadata = BTreeMap::from([("ss_tag_frequency".to_owned(), text.to_owned())]);
            assert!(training(&metadata).facts.is_empty());
        }
    }
}
