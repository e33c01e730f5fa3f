//! Several folders as one data set: the concepts of a dataset file.
//!
//! ```toml
//! [defaults]                    # for all concepts; what is not here is as in the run's [data]
//! captions = "auto"
//!
//! [[concept]]
//! name = "dog"                  # left out, the folder's name
//! folder = "photos/dog"         # relative to this file
//! repeats = 3                   # each picture counts three times in a round
//! weight = 1.0                  # what its loss counts
//! trigger = "sks dog"
//! class_prompt = "a photo of a dog"
//! class_folder = "photos/dogs"
//! ```
//!
//! All keys but `name` and `folder` may stand in `[defaults]` too. A run without such a file has one concept, its `[data]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Augmentation, CaptionRules, DataError, Result, TagRules};
use crate::config::{CaptionSource, Crop, MaskSource, Template, TrainConfig};
use crate::picture::read_bounded;

/// Largest dataset file in bytes.
const LARGEST_FILE: u64 = 1 << 20;
/// Most concepts of a file.
const MOST_CONCEPTS: usize = 1000;

/// A folder with everything that is special to its pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Concept {
    /// For people.
    pub name: String,
    /// Where its pictures are.
    pub folder: PathBuf,
    /// How often each picture counts in a round.
    pub repeats: usize,
    /// What its loss counts.
    pub weight: f64,
    /// Where texts come from.
    pub captions: CaptionRules,
    /// What is changed from visit to visit.
    pub augmentation: Augmentation,
    /// Where masks come from.
    pub mask: MaskSource,
    /// Pictures of the same kind of thing in general.
    pub class: Option<ClassPictures>,
}

/// Pictures for prior preservation.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassPictures {
    /// Where they are, and where missing ones are painted.
    pub folder: PathBuf,
    /// Their text.
    pub prompt: String,
    /// How many are wanted.
    pub count: usize,
    /// What their loss counts.
    pub weight: f64,
}

macro_rules! settings {
    ($( $field:ident : $type:ty ),* $(,)?) => {
        /// What may be written down about a concept.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Settings { $( $field: Option<$type>, )* }

        impl Settings {
            /// What is not written here is taken from `other`.
            fn or(self, other: &Self) -> Self {
                Self { $( $field: self.$field.or_else(|| other.$field.clone()), )* }
            }
        }
    };
}
settings! {
    name: String,
    folder: PathBuf,
    repeats: usize,
    weight: f64,
    captions: CaptionSource,
    prompt: String,
    trigger: String,
    template: Template,
    prefix: String,
    suffix: String,
    shuffle_tags: bool,
    keep_tags: usize,
    tag_dropout: f64,
    caption_dropout: f64,
    crop: Crop,
    flip: bool,
    mask: MaskSource,
    class_folder: PathBuf,
    class_prompt: String,
    class_count: usize,
    prior_weight: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DatasetFile {
    #[serde(default)]
    defaults: Settings,
    #[serde(default)]
    concept: Vec<Settings>,
}

/// The concepts of a run: those of its dataset file, otherwise its `[data]`.
pub fn concepts(config: &TrainConfig) -> Result<Vec<Concept>> {
    let Some(path) = &config.data.dataset else {
        let folder = config.data.folder.clone();
        return Ok(vec![Reader { config, place: "the run's `[data]`" }.concept(own(config), folder)?]);
    };
    let shown = path.display().to_string();
    let unfit = |problem: String| DataError::DatasetFile { file: shown.clone(), problem };
    let bytes = read_bounded(path, LARGEST_FILE)?;
    let text = String::from_utf8(bytes).map_err(|_| unfit("it is no UTF-8 text".to_owned()))?;
    let file: DatasetFile =
        toml::from_str(&text).map_err(|error| unfit(error.to_string().trim().to_owned()))?;
    if file.concept.is_empty() || file.concept.len() > MOST_CONCEPTS {
        return Err(unfit(format!(
            "it has {} `[[concept]]`; 1 to {MOST_CONCEPTS} are possible",
            file.concept.len()
        )));
    }
    if file.defaults.name.is_some() || file.defaults.folder.is_some() {
        return Err(unfit(
            "`name` and `folder` belong into a `[[concept]]`, not into `[defaults]`".to_owned(),
        ));
    }
    let base = path.parent().unwrap_or(Path::new(""));
    let mut all: Vec<Concept> = Vec::new();
    for (index, concept) in file.concept.into_iter().enumerate() {
        let number = index + 1;
        let Some(folder) = concept.folder.clone().filter(|folder| !folder.as_os_str().is_empty()) else {
            return Err(unfit(format!("concept {number} has no `folder`")));
        };
        if let Some(unheard) = concept.beside_template() {
            return Err(unfit(format!(
                "concept {number} has a `template`, from which all its texts come, and `{unheard}`; delete one of them"
            )));
        }
        // Folders of the file are relative to it; one from the run's settings is as it is.
        let class_folder = concept.class_folder.clone().or_else(|| file.defaults.class_folder.clone());
        let mut settings = concept.or(&file.defaults).or(&own(config));
        settings.class_folder =
            class_folder.map(|folder| base.join(folder)).or_else(|| config.data.class_folder.clone());
        let place = format!("concept {number} of `{shown}`");
        let concept = Reader { config, place: &place }.concept(settings, base.join(folder))?;
        if all.iter().any(|other| other.name == concept.name) {
            return Err(unfit(format!("two concepts have the name `{}`; give one a `name`", concept.name)));
        }
        all.push(concept);
    }
    Ok(all)
}

/// What the run itself says.
fn own(config: &TrainConfig) -> Settings {
    let data = &config.data;
    Settings {
        name: None,
        folder: None,
        repeats: Some(data.repeats),
        weight: None,
        captions: Some(data.captions),
        prompt: data.prompt.clone(),
        trigger: config.trigger(),
        template: Some(data.template),
        prefix: data.prefix.clone(),
        suffix: data.suffix.clone(),
        shuffle_tags: Some(data.shuffle_tags),
        keep_tags: Some(data.keep_tags),
        tag_dropout: Some(data.tag_dropout),
        caption_dropout: Some(data.caption_dropout),
        crop: Some(data.crop),
        flip: Some(data.flip),
        mask: Some(config.mask.source),
        class_folder: data.class_folder.clone(),
        class_prompt: data.class_prompt.clone(),
        class_count: Some(data.class_count),
        prior_weight: Some(data.prior_weight),
    }
}

impl Settings {
    /// A text of one's own beside a template, which writes all texts. One from the defaults may be for other concepts.
    fn beside_template(&self) -> Option<&'static str> {
        let has_template = self.template.is_some_and(|template| template != Template::None);
        let unheard = [("captions", self.captions.is_some()), ("prompt", self.prompt.is_some())];
        unheard.into_iter().find_map(|(key, is_written)| (has_template && is_written).then_some(key))
    }
}

struct Reader<'a> {
    config: &'a TrainConfig,
    place: &'a str,
}

impl Reader<'_> {
    fn refuse<T>(&self, problem: &str) -> Result<T> {
        Err(DataError::DatasetFile { file: self.place.to_owned(), problem: problem.to_owned() })
    }

    fn concept(&self, settings: Settings, folder: PathBuf) -> Result<Concept> {
        let Settings { shuffle_tags, keep_tags, tag_dropout, caption_dropout, .. } = settings;
        let tags = TagRules {
            shuffle: shuffle_tags.unwrap_or_default(),
            keep: keep_tags.unwrap_or_default(),
            tag_dropout: tag_dropout.unwrap_or_default(),
            caption_dropout: caption_dropout.unwrap_or_default(),
        };
        let share = |value: f64| (0.0..=1.0).contains(&value);
        if !share(tags.tag_dropout) || !share(tags.caption_dropout) {
            return self.refuse("`tag_dropout` and `caption_dropout` must be between 0 and 1");
        }
        if tags.keep > 0 && !tags.varies() {
            return self.refuse("`keep_tags` is not used without `shuffle_tags` or `tag_dropout`");
        }
        let template = settings.template.unwrap_or_default();
        if template != Template::None && tags.varies() {
            return self.refuse("a `template` has no tags to shuffle or drop");
        }
        let (repeats, weight) = (settings.repeats.unwrap_or(1), settings.weight.unwrap_or(1.0));
        if !(1..=1_000_000).contains(&repeats) {
            return self.refuse("`repeats` must be between 1 and 1000000");
        }
        if !weight.is_finite() || weight < 0.0 {
            return self.refuse("`weight` must be 0 or more");
        }
        let name = settings.name.clone().or_else(|| {
            let last = folder.file_name().map(|name| name.to_string_lossy().into_owned());
            last.filter(|name| !name.is_empty())
        });
        Ok(Concept {
            name: name.unwrap_or_else(|| folder.display().to_string()),
            repeats,
            weight,
            augmentation: Augmentation {
                random_crop: settings.crop == Some(Crop::Random),
                flip: settings.flip.unwrap_or_default(),
            },
            mask: settings.mask.unwrap_or_default(),
            class: self.class(&settings)?,
            captions: CaptionRules {
                source: settings.captions.unwrap_or_default(),
                prompt: settings.prompt,
                trigger: settings.trigger,
                template,
                prefix: settings.prefix,
                suffix: settings.suffix,
                tags,
            },
            folder,
        })
    }

    fn class(&self, settings: &Settings) -> Result<Option<ClassPictures>> {
        let Some(prompt) = settings.class_prompt.clone().filter(|prompt| !prompt.trim().is_empty()) else {
            return match settings.class_folder {
                Some(_) => self.refuse("`class_folder` needs `class_prompt`, such as `a photo of a dog`"),
                None => Ok(None),
            };
        };
        let (count, weight) = (settings.class_count.unwrap_or(1), settings.prior_weight.unwrap_or(1.0));
        if count == 0 || !weight.is_finite() || weight < 0.0 {
            return self.refuse("`class_count` must be at least 1 and `prior_weight` 0 or more");
        }
        let word = |c: char| if c.is_alphanumeric() { c } else { '-' };
        let beside = || {
            let name: String = prompt.chars().take(80).map(word).collect();
            self.config.save.folder.join("class-pictures").join(name)
        };
        let folder = settings.class_folder.clone().unwrap_or_else(beside);
        Ok(Some(ClassPictures { folder, prompt, count, weight }))
    }
}

/// The class pictures of all concepts, each folder once: of those that share one the highest count counts.
pub fn class_pictures(concepts: &[Concept]) -> Result<Vec<ClassPictures>> {
    let mut all: Vec<ClassPictures> = Vec::new();
    for class in concepts.iter().filter_map(|concept| concept.class.as_ref()) {
        match all.iter_mut().find(|other| other.folder == class.folder) {
            None => all.push(class.clone()),
            Some(other) if (&other.prompt, other.weight) == (&class.prompt, class.weight) => {
                other.count = other.count.max(class.count);
            }
            Some(other) => {
                let problem = format!(
                    "two concepts use it as class pictures with different texts or weights: `{}` and `{}`",
                    other.prompt, class.prompt
                );
                return Err(DataError::DatasetFile { file: class.folder.display().to_string(), problem });
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Concept>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dataset.toml");
        std::fs::write(&file, text).unwrap();
        let mut config = TrainConfig::default();
        config.data.dataset = Some(file);
        config.data.flip = true;
        config.data.prompt = Some("of the run".into());
        let mut all = concepts(&config)?;
        for concept in &mut all {
            concept.folder = concept.folder.strip_prefix(folder.path()).unwrap().to_owned();
        }
        Ok(all)
    }

    #[test]
    fn a_concept_has_a_template_or_texts_of_its_own() {
        for own in ["captions = \"text\"", "prompt = \"a dog\""] {
            let concept = format!("[[concept]]\nfolder = \"dog\"\n{own}\n");
            let error = read(&format!("{concept}template = \"object\"")).unwrap_err().to_string();
            let key = own.split(' ').next().unwrap();
            assert!(error.contains("concept 1") && error.contains(&format!("`{key}`")), "{error}");
            // What is for other concepts stands beside one, and no template is none.
            assert!(read(&format!("{concept}template = \"none\"")).is_ok());
            let of_others =
                format!("[defaults]\n{own}\n[[concept]]\nfolder = \"dog\"\ntemplate = \"object\"");
            assert!(read(&of_others).is_ok(), "{own}");
        }
    }

    #[test]
    fn concepts_take_from_defaults_and_the_run() {
        let text = r#"
            [defaults]
            repeats = 2
            suffix = "film grain"
            [[concept]]
            folder = "a/dog"
            trigger = "sks"
            flip = false
            shuffle_tags = true
            keep_tags = 1
            [[concept]]
            name = "cats"
            folder = "cat"
            repeats = 5
            weight = 0.5
            prompt = "a cat"
            mask = "alpha"
            class_prompt = "a photo of a cat"
        "#;
        let [dog, cat] = &read(text).unwrap()[..] else { panic!("two concepts") };
        assert_eq!((dog.name.as_str(), dog.folder.as_path()), ("dog", Path::new("a/dog")));
        assert_eq!((dog.repeats, dog.weight, cat.repeats, cat.weight), (2, 1.0, 5, 0.5));
        assert_eq!((dog.augmentation.flip, cat.augmentation.flip), (false, true));
        assert_eq!(
            (dog.captions.prompt.as_deref(), cat.captions.prompt.as_deref()),
            (Some("of the run"), Some("a cat"))
        );
        assert_eq!(dog.captions.suffix.as_deref(), Some("film grain"));
        assert_eq!(dog.captions.tags, TagRules { shuffle: true, keep: 1, ..TagRules::default() });
        assert_eq!((dog.mask, cat.mask), (MaskSource::None, MaskSource::Alpha));
        let class = cat.class.as_ref().unwrap();
        assert!(dog.class.is_none() && class.folder.ends_with("class-pictures/a-photo-of-a-cat"));
        assert_eq!((cat.name.as_str(), class.count), ("cats", 100));
    }

    #[test]
    fn what_cannot_work_is_named() {
        for (text, part) in [
            ("", "0 `[[concept]]`"),
            ("[[concept]]\nname = \"x\"", "no `folder`"),
            ("[[concept]]\nfolder = \"\"", "no `folder`"),
            ("[[concept]]\nfolder = \"a\"\nrepaets = 3", "repaets"),
            ("[[concept]]\nfolder = \"a\"\nrepeats = 0", "repeats"),
            ("[[concept]]\nfolder = \"a\"\nweight = -1.0", "weight"),
            ("[[concept]]\nfolder = \"a\"\nweight = nan", "weight"),
            ("[[concept]]\nfolder = \"a\"\ntag_dropout = 1.5", "tag_dropout"),
            ("[[concept]]\nfolder = \"a\"\nkeep_tags = 1", "keep_tags"),
            ("[[concept]]\nfolder = \"a\"\ntemplate = \"object\"\nshuffle_tags = true", "template"),
            ("[[concept]]\nfolder = \"a\"\nclass_folder = \"b\"", "class_prompt"),
            ("[[concept]]\nfolder = \"a\"\n[[concept]]\nfolder = \"b/a\"", "two concepts have the name `a`"),
            ("[defaults]\nfolder = \"a\"\n[[concept]]\nfolder = \"b\"", "[defaults]"),
            ("[[concept]\nfolder", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(!error.hints().is_empty(), "{error}");
        }
    }

    #[test]
    fn shared_class_folders_must_agree() {
        let concept = |prompt: &str, count| {
            let text = "[[concept]]\nfolder = \"a\"";
            let class = ClassPictures { folder: "dogs".into(), prompt: prompt.into(), count, weight: 1.0 };
            Concept { class: Some(class), ..read(text).unwrap().remove(0) }
        };
        let shared = class_pictures(&[concept("a dog", 5), concept("a dog", 9)]).unwrap();
        assert_eq!((shared.len(), shared[0].count), (1, 9));
        assert!(class_pictures(&[concept("a dog", 5), concept("a cat", 5)]).is_err());
    }
}
