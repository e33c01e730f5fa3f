//! The run of each method: what differs is what learns, and how fast.
//!
//! Each kind of part has a rate of its own, because one that suits one method would make a straw man of another. They
//! were chosen by hand for small models and a few hundred updates; `bench quality` takes others. What other rates of
//! factors and of whole weights give, the sweep in docs/quality.md shows.

use std::path::Path;

use scumble_model::base::BaseFiles;
use scumble_train::TrainConfig;
use scumble_train::config::{self, AdapterKind, Base, CaptionSource, Part, ScheduleKind, Targets};
use scumble_world::novel::Set;

use super::Method;
use crate::lesson;

/// Learning rates of the parts.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Rates {
    /// Factors on the UNet.
    pub lora: f64,
    /// Factors on the text encoder.
    pub text: f64,
    /// New words.
    pub tokens: f64,
    /// Whole weights.
    pub full: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Self { lora: 2e-4, text: 1e-4, tokens: 5e-3, full: 5e-5 }
    }
}

/// What a run needs to know beside its method.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// The base as the user names it.
    pub base: &'a str,
    /// What is taught.
    pub set: Set,
    /// Pixels of a side.
    pub side: usize,
    /// Updates.
    pub steps: u64,
    /// Everything random follows from it.
    pub seed: u64,
    /// Pictures of an update.
    pub batch: usize,
    /// Width of the factors.
    pub rank: usize,
    /// Learning rates.
    pub rates: Rates,
    /// Numbers to compute in.
    pub precision: config::Precision,
    /// The pictures.
    pub pictures: &'a Path,
    /// Rows of a new word ([`vectors`]).
    pub vectors: usize,
    /// Where runs go.
    pub runs: &'a Path,
    /// The run's name.
    pub name: &'a str,
    /// Class pictures, and how many.
    pub class: Option<(&'a Path, usize)>,
}

/// The word that stands for what is taught: the set's name, or a new word in brackets.
pub fn trigger(method: Method, set: Set) -> String {
    if method.has_word() { format!("<{}>", set.name()) } else { set.name().to_owned() }
}

/// Rows of a set's new word: as many as its name, as which the word begins, has tokens.
pub fn vectors(files: &BaseFiles, set: Set) -> crate::error::Result<usize> {
    Ok(files.tokenizer.open()?.tokenize_all(set.name()).len())
}

/// A training run.
pub fn config(method: Method, lesson: &Lesson<'_>) -> TrainConfig {
    let mut run = TrainConfig {
        method: match method {
            Method::TextualInversion => config::Method::TextualInversion,
            Method::Pivotal => config::Method::Pivotal,
            Method::PivotalSingle => config::Method::PivotalSingle,
            Method::Full | Method::FullPrior => config::Method::Full,
            _ => config::Method::Lora,
        },
        base: Base { model: lesson.base.to_owned(), ..Base::default() },
        ..TrainConfig::default()
    };
    run.data.folder = lesson.pictures.to_owned();
    (run.data.width, run.data.height) = (lesson.side, lesson.side);
    run.data.captions = CaptionSource::Text;
    if let Some((folder, count)) = lesson.class.filter(|_| method == Method::FullPrior) {
        run.data.class_folder = Some(folder.to_owned());
        run.data.class_prompt = Some(lesson.set.class().to_owned());
        run.data.class_count = count;
        run.data.class_steps = 20;
    }
    run.lora.kind = match method {
        Method::Dora => AdapterKind::Dora,
        Method::Loha => AdapterKind::Loha,
        Method::Lokr => AdapterKind::Lokr,
        _ => AdapterKind::Lora,
    };
    if run.has_factors() {
        run.lora.unet.targets = if method == Method::LoraConv { Targets::All } else { Targets::AllLinear };
        run.lora.unet.rank = lesson.rank;
    }
    if matches!(method, Method::LoraText | Method::Pivotal | Method::PivotalSingle) {
        run.lora.text_encoder.train = true;
        run.lora.text_encoder.rank = lesson.rank;
        run.train.lr_text_encoder = lesson.rates.text;
    }
    if method.has_word() {
        run.tokens.add = vec![trigger(method, lesson.set)];
        run.tokens.init = vec![lesson.set.name().to_owned()];
        run.tokens.vectors = lesson.vectors;
        run.train.lr_tokens = lesson.rates.tokens;
    }
    run.train.steps = lesson.steps;
    run.train.seed = lesson.seed;
    run.train.batch = lesson.batch;
    if run.learns(Part::Unet) {
        run.train.lr = if method.is_full() { lesson.rates.full } else { lesson.rates.lora };
    }
    run.train.schedule = ScheduleKind::Cosine;
    run.train.warmup = lesson.steps / 20;
    run.train.precision = lesson.precision;
    run.save.folder = lesson.runs.to_owned();
    run.save.name = lesson.name.to_owned();
    run.save.every = 0;
    run.save.keep_last = 1;
    run
}

/// Writes the pictures with the captions that suit a method.
pub fn write_pictures(method: Method, set: Set, side: usize, folder: &Path) -> crate::error::Result<()> {
    lesson::write(set, side, &trigger(method, set), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_a_run_that_can_be() {
        let lesson = Lesson {
            base: "base",
            set: Set::Robot,
            side: 64,
            steps: 100,
            seed: 3,
            batch: 2,
            rank: 4,
            rates: Rates::default(),
            precision: config::Precision::F32,
            pictures: Path::new("pictures"),
            vectors: 2,
            runs: Path::new("runs"),
            name: "robot",
            class: Some((Path::new("class"), 10)),
        };
        for method in Method::ALL {
            let run = config(method, &lesson);
            run.check().unwrap_or_else(|error| panic!("{method:?}: {error}"));
            assert_eq!(run.train.seed, 3);
            let rates = lesson.rates;
            let of_unet = if method.is_full() { rates.full } else { rates.lora };
            assert!(!run.learns(Part::Unet) || run.train.lr == of_unet, "{method:?}");
            assert!(!run.lora.text_encoder.train || run.train.lr_text_encoder == rates.text, "{method:?}");
            assert!(!method.has_word() || run.train.lr_tokens == rates.tokens, "{method:?}");
            assert_eq!(run.data.class_prompt.is_some(), method == Method::FullPrior);
            assert_eq!(run.tokens.add.len(), usize::from(method.has_word()));
            assert_eq!(run.tokens.vectors, if method.has_word() { 2 } else { 1 });
        }
        assert_eq!(trigger(Method::Pivotal, Set::Neon), "<neon>");
    }
}
