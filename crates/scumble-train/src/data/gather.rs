//! The data sets of a run: all concepts as one, all class pictures as one, and what is held out.

use std::collections::BTreeSet;

use super::concept::{self, ClassPictures, Concept};
use super::{
    Augmentation, BucketRules, Buckets, CaptionRules, DataError, Dataset, DatasetOptions, Item, Result,
};
use crate::config::{Crop, Data, Holes, MaskSource, TrainConfig};
use crate::picture::{DecodeOptions, TargetSize};

/// The pictures to learn from, of all concepts.
pub fn pictures(config: &TrainConfig) -> Result<Dataset> {
    let mut parts = Vec::new();
    let concepts = concept::concepts(config)?;
    check_masks(config, &concepts)?;
    for concept in concepts {
        let options = DatasetOptions {
            captions: concept.captions.clone(),
            mask: concept.mask,
            augmentation: concept.augmentation,
            repeats: concept.repeats,
            weight: concept.weight,
            ..options(config)?
        };
        parts.push((concept.name, Dataset::open(&concept.folder, &options)?));
    }
    Ok(match (&config.data.dataset, parts.len()) {
        (None, 1) => parts.remove(0).1,
        (path, _) => {
            let shown = path.as_ref().map(|path| path.display().to_string());
            Dataset::join(&shown.unwrap_or_default(), parts)
        }
    })
}

/// Refuses settings about masks where no concept of a dataset file has any. What one folder lacks is found when it is
/// read, and that a run without a dataset file asks for masks is known from its settings.
fn check_masks(config: &TrainConfig, concepts: &[Concept]) -> Result<()> {
    let (Some(path), true) =
        (&config.data.dataset, concepts.iter().all(|concept| concept.mask == MaskSource::None))
    else {
        return Ok(());
    };
    let of_holes = (config.inpaint.holes == Holes::Mask).then_some("inpaint.holes");
    match of_holes.or_else(|| config.mask.written()) {
        Some(setting) => Err(DataError::MasksUnasked { setting, dataset: path.display().to_string() }),
        None => Ok(()),
    }
}

/// Where class pictures are, and which are wanted. Empty without prior preservation.
pub fn class_pictures(config: &TrainConfig) -> Result<Vec<ClassPictures>> {
    let concepts: Vec<Concept> = concept::concepts(config)?;
    concept::class_pictures(&concepts)
}

/// The pictures of one set of class pictures that are there; none yet is no error.
pub fn class_dataset(config: &TrainConfig, class: &ClassPictures) -> Result<Dataset> {
    let data = &config.data;
    let augmentation = Augmentation { random_crop: data.crop == Crop::Random, flip: data.flip };
    let options = DatasetOptions { augmentation, weight: class.weight, ..options(config)? };
    Dataset::open_class(&class.folder, &class.prompt, &options)
}

/// All class pictures as one data set; `None` without prior preservation.
pub fn classes(config: &TrainConfig) -> Result<Option<Dataset>> {
    let mut parts = Vec::new();
    for class in class_pictures(config)? {
        let name = class.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        parts.push((name, class_dataset(config, &class)?));
    }
    Ok(match parts.len() {
        0 => None,
        1 => Some(parts.remove(0).1),
        _ => Some(Dataset::join("class pictures", parts)),
    })
}

/// The pictures of a folder that a run is tested with: texts as in the run, nothing changed from visit to visit.
pub fn test_pictures(config: &TrainConfig, folder: &std::path::Path) -> Result<Dataset> {
    let concept = concept::concepts(config)?.into_iter().next();
    let captions = concept.map(|concept| concept.captions).unwrap_or_default();
    Dataset::open(folder, &DatasetOptions { captions, ..options(config)? })
}

/// How folders are read, for pictures that nothing special is said about.
fn options(config: &TrainConfig) -> Result<DatasetOptions> {
    let data = &config.data;
    Ok(DatasetOptions {
        captions: CaptionRules::default(),
        unreadable: data.unreadable,
        mask: MaskSource::None,
        decode: DecodeOptions::default(),
        buckets: buckets(data)?,
        augmentation: Augmentation::default(),
        repeats: 1,
        weight: 1.0,
    })
}

/// The sizes that pictures are trained at.
pub fn buckets(data: &Data) -> Result<Buckets> {
    let size = TargetSize::new(data.width, data.height)?;
    if !data.buckets {
        return Ok(Buckets::one(size));
    }
    let usual = BucketRules::usual(size);
    let rules = BucketRules {
        step: data.bucket_step.unwrap_or(usual.step),
        min: data.bucket_min.unwrap_or(usual.min),
        max: data.bucket_max.unwrap_or(usual.max),
    };
    Buckets::new(size, rules)
}

impl Dataset {
    /// Takes a share of the pictures out, to test with. Which ones depends on their content alone: more pictures in the
    /// folder do not move those that are there, and copies stay on one side.
    pub fn hold_out(&mut self, share: f64) -> Result<Self> {
        let mut contents: Vec<String> = self.items.iter().map(|item| item.sha256.clone()).collect();
        contents.sort();
        contents.dedup();
        let wanted = ((contents.len() as f64 * share).round() as usize).max(1);
        let held: BTreeSet<String> = contents.into_iter().take(wanted).collect();
        let pictures = self.items.len();
        let (held, left): (Vec<Item>, Vec<Item>) =
            std::mem::take(&mut self.items).into_iter().partition(|item| held.contains(&item.sha256));
        if left.is_empty() {
            return Err(DataError::HoldOut { pictures, held_out: held.len(), left: 0 });
        }
        let is_masked = |item: &Item| item.mask.is_some();
        if held.iter().any(is_masked) && !left.iter().any(is_masked) {
            return Err(DataError::MasksHeldOut {
                masks: held.iter().filter(|item| is_masked(item)).count(),
            });
        }
        let mut report = self.report.clone();
        report.count(&held);
        self.report.count(&left);
        self.items = left;
        Ok(Self { items: held, report, decode: self.decode })
    }
}
