//! The configuration of a training run: what can be set, with help, defaults, checks and its TOML form.
//!
//! A [`TrainConfig`] is plain data. [`TrainConfig::from_toml`] reads it (unknown keys are errors with a suggestion),
//! [`TrainConfig::check`] refuses values that can't work, [`TrainConfig::resolved`] fills in what was left open, and
//! [`TrainConfig::to_toml`] writes it so that reading it again gives the same run. Which settings decide the bytes of the
//! result, and so must not change on resume, is told by [`TrainConfig::identity`].
//!
//! Each section of the run file has a file of its own here, with the choices that belong to it.

mod adapter;
mod aims;
mod base;
mod cache;
mod check;
mod choice;
mod data;
mod file;
mod holdout;
mod inpaint;
mod kind;
mod learn;
mod lora;
mod mask;
mod method;
mod save;
mod section;
mod tokens;
mod train;
mod unheard;
mod validate;
mod windows;

pub use crate::lr_schedule::ScheduleKind;
pub use aims::{Aims, HuberCurve, LossShape, TimestepShape};
pub use base::{Base, Prediction};
pub use cache::{Cache, CacheMode};
pub use data::{CaptionSource, Crop, Data, Template, Unreadable};
pub use file::{all_fields, merge_tables, set_from_text};
pub use holdout::Holdout;
pub use inpaint::{Holes, Inpaint};
pub use kind::{Kind, preset};
pub use learn::{Learn, Window};
pub use lora::{AdapterInit, AdapterKind, Lora, Targets, TextLora, UnetLora};
pub use mask::{Mask, MaskLoss, MaskSource};
pub use method::{Full, Method};
pub use save::{Existing, FileFormat, FileType, Save};
use section::section;
pub use section::{Field, Fields};
pub use tokens::Tokens;
pub use train::{OptimizerKind, Precision, Train};
pub use validate::Validate;
pub use windows::Part;

section! {
    /// A whole training run.
    TrainConfig {
        /// What the pictures show: `subject`, `object`, `style` or `face`. Sets what is usual for it; every setting that
        /// is written down wins.
        kind: Option<Kind> = None,
        /// What is trained: `lora`, `textual-inversion`, `pivotal`, `pivotal-single` or `full`.
        method: Method = Method::Lora,
        /// The model that is fine-tuned.
        base: Base = Base::default(),
        /// The pictures and their texts.
        data: Data = Data::default(),
        /// What learns.
        lora: Lora = Lora::default(),
        /// New words.
        tokens: Tokens = Tokens::default(),
        /// Learning whole weights.
        full: Full = Full::default(),
        /// When and how fast each part learns.
        learn: Learn = Learn::default(),
        /// How it learns.
        train: Train = Train::default(),
        /// What is asked of the model in each step.
        objective: Aims = Aims::default(),
        /// Which part of each picture counts.
        mask: Mask = Mask::default(),
        /// Holes, for bases that fill them.
        inpaint: Inpaint = Inpaint::default(),
        /// Pictures that are only tested with.
        holdout: Holdout = Holdout::default(),
        /// Results that are computed once.
        cache: Cache = Cache::default(),
        /// What is written, and where.
        save: Save = Save::default(),
        /// Pictures painted while training.
        validate: Validate = Validate::default(),
    }
}

impl TrainConfig {
    /// What stands for the subject in texts: the trigger, otherwise the new words beside each other. Words in brackets
    /// need no blank between them (`<s1><s2>`); where letters would meet, they would be read as one word.
    pub fn trigger(&self) -> Option<String> {
        let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let join = |mut all: String, word: &String| {
            let meets_letters = letter(all.chars().next_back()) || letter(word.chars().next());
            if !all.is_empty() && meets_letters {
                all.push(' ');
            }
            all + word
        };
        let words =
            || Some(self.tokens.add.iter().fold(String::new(), join)).filter(|words| !words.is_empty());
        self.data.trigger.clone().or_else(words)
    }
}

/// The least that passes all checks: a base and pictures. The tests of this folder begin with it.
#[cfg(test)]
fn minimal() -> TrainConfig {
    let mut config = TrainConfig::default();
    config.base.model = "base".into();
    config.data.folder = "pictures".into();
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_words_are_the_trigger_unless_one_is_written_down() {
        let trigger = |words: &[&str]| {
            let mut config = TrainConfig::default();
            config.tokens.add = words.iter().map(|&word| word.to_owned()).collect();
            config.trigger()
        };
        assert_eq!(trigger(&[]), None);
        assert_eq!(trigger(&["<s1>", "<s2>"]).as_deref(), Some("<s1><s2>"));
        assert_eq!(trigger(&["moody", "doggo"]).as_deref(), Some("moody doggo"));
        assert_eq!(trigger(&["<s1>", "doggo", "<s2>"]).as_deref(), Some("<s1> doggo <s2>"));
        let mut config = TrainConfig::default();
        config.tokens.add = vec!["<s1>".into()];
        config.data.trigger = Some("a <s1> dog".into());
        assert_eq!(config.trigger().as_deref(), Some("a <s1> dog"));
    }
}
