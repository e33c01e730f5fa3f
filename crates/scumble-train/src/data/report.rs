//! What was found in a folder, for the preflight and for `--dry-run --json`.
//!
//! Everything that a person would want to know before hours of training: which files were left out and why, which pictures are
//! blown up or lose most of their area, which are there twice, where the texts came from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::caption::Origin;
use super::{DataError, Item, shown_name};
use crate::config::MaskSource;
use crate::picture::Fit;

/// Pictures that are enlarged by more than this look soft.
const NOTABLE_ENLARGEMENT: f64 = 1.0;
/// Pictures of which less than this share is seen are worth a look.
const NOTABLE_SHARE: f64 = 0.5;
/// How many texts are shown.
const EXAMPLES: usize = 5;

/// The result of reading a folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DatasetReport {
    /// The folder as given.
    pub folder: String,
    /// Usable pictures.
    pub pictures: usize,
    /// Sizes with their number of pictures, smallest width first.
    pub sizes: Vec<SizeCount>,
    /// Sizes that they are trained at.
    pub buckets: Vec<SizeCount>,
    /// The folders, where there are several.
    pub concepts: Vec<ConceptCount>,
    /// How many texts came from where.
    pub captions: BTreeMap<Origin, usize>,
    /// Pictures trained without a text.
    pub empty_captions: usize,
    /// The first few texts.
    pub examples: Vec<Example>,
    /// Pictures that cannot be used.
    pub skipped: Vec<Skipped>,
    /// Files and folders that are no pictures.
    pub left_out: Vec<LeftOut>,
    /// Pictures smaller than the training size.
    pub enlarged: Vec<Enlarged>,
    /// Pictures of which less than half of the area is seen at a time.
    pub cropped: Vec<Cropped>,
    /// Groups of files with the same content.
    pub duplicates: Vec<Vec<String>>,
    /// Pictures with a mask.
    pub masks: usize,
    /// Pictures without a mask where others have one.
    pub unmasked: Vec<String>,
    /// Remarks on caption files.
    pub notices: Vec<String>,
}

/// A size and how often it occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SizeCount {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Pictures.
    pub count: usize,
}

/// One of several folders.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConceptCount {
    /// What it is called.
    pub name: String,
    /// The folder as given.
    pub folder: String,
    /// Usable pictures.
    pub pictures: usize,
    /// How often each counts in a round.
    pub repeats: usize,
    /// What its loss counts.
    pub weight: f64,
}

/// A picture's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The picture.
    pub file: String,
    /// Its text, the first of several.
    pub caption: String,
}

/// A picture that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The file.
    pub file: String,
    /// Why.
    pub reason: String,
    /// What to do.
    pub hints: Vec<String>,
}

/// A file or folder that is no picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its name.
    pub file: String,
    /// What it is.
    pub reason: String,
}

/// A picture that is blown up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Enlarged {
    /// The file.
    pub file: String,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Output pixels for one of its own, along a side.
    pub factor: f64,
}

/// A picture of which little is seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cropped {
    /// The file.
    pub file: String,
    /// Share of its area within the crop.
    pub seen: f64,
}

/// How often each size occurs.
fn counted(sizes: impl Iterator<Item = [usize; 2]>) -> Vec<SizeCount> {
    let mut counts: BTreeMap<[usize; 2], usize> = BTreeMap::new();
    for size in sizes {
        *counts.entry(size).or_default() += 1;
    }
    counts.into_iter().map(|([width, height], count)| SizeCount { width, height, count }).collect()
}

impl DatasetReport {
    pub(super) fn new(folder: &Path, left_out: Vec<LeftOut>) -> Self {
        Self { folder: folder.display().to_string(), left_out, ..Self::default() }
    }

    /// Counts a usable picture.
    pub(super) fn add(&mut self, item: &Item, notices: Vec<String>) {
        let (file, width, height) = (item.file.clone(), item.width, item.height);
        self.pictures += 1;
        *self.captions.entry(item.caption.origin).or_default() += 1;
        let caption = item.caption.choose(0.0).to_owned();
        self.empty_captions += usize::from(caption.is_empty());
        if self.examples.len() < EXAMPLES {
            self.examples.push(Example { file: file.clone(), caption });
        }
        self.notices.extend(notices);
        let fit = Fit::centre(item.size);
        let factor = fit.enlargement(width, height);
        if factor > NOTABLE_ENLARGEMENT {
            self.enlarged.push(Enlarged { file: file.clone(), width, height, factor });
        }
        let [_, _, seen_width, seen_height] = fit.source_box(width, height);
        let seen = seen_width * seen_height / (width as f64 * height as f64);
        if seen < NOTABLE_SHARE {
            self.cropped.push(Cropped { file, seen });
        }
    }

    /// Notes a picture that cannot be used.
    pub(super) fn skip(&mut self, path: &Path, error: &DataError) {
        let (file, reason) = (shown_name(path), error.to_string());
        self.skipped.push(Skipped { file, reason, hints: error.hints() });
    }

    /// One report of several folders, files called `name/file`.
    pub(super) fn join(shown: &str, parts: Vec<(String, Self)>, items: &[Item]) -> Self {
        let mut all = Self { folder: shown.to_owned(), ..Self::default() };
        for (name, part) in parts {
            let of = |file: String| format!("{name}/{file}");
            let own = format!("{name}/");
            let first = items.iter().find(|item| item.file.starts_with(&own));
            all.concepts.push(ConceptCount {
                folder: part.folder,
                pictures: part.pictures,
                repeats: first.map_or(1, |item| item.repeats),
                weight: first.map_or(1.0, |item| item.weight),
                name: name.clone(),
            });
            all.pictures += part.pictures;
            for (origin, count) in part.captions {
                *all.captions.entry(origin).or_default() += count;
            }
            all.empty_captions += part.empty_captions;
            all.examples.extend(part.examples.into_iter().map(|e| Example { file: of(e.file), ..e }));
            all.skipped.extend(part.skipped.into_iter().map(|s| Skipped { file: of(s.file), ..s }));
            all.left_out.extend(part.left_out.into_iter().map(|l| LeftOut { file: of(l.file), ..l }));
            all.enlarged.extend(part.enlarged.into_iter().map(|e| Enlarged { file: of(e.file), ..e }));
            all.cropped.extend(part.cropped.into_iter().map(|c| Cropped { file: of(c.file), ..c }));
            all.unmasked.extend(part.unmasked.into_iter().map(of));
            all.notices.extend(part.notices.into_iter().map(|notice| format!("{name}: {notice}")));
        }
        all.examples.truncate(EXAMPLES);
        all.count(items);
        all
    }

    /// Fills in what needs all pictures.
    pub(super) fn finish(&mut self, items: &[Item], mask: MaskSource) {
        if mask != MaskSource::None {
            let unmasked = |item: &&Item| item.mask.is_none();
            self.unmasked = items.iter().filter(unmasked).map(|item| item.file.clone()).collect();
        }
        self.count(items);
    }

    /// Counts sizes, copies and masks.
    pub(super) fn count(&mut self, items: &[Item]) {
        self.pictures = items.len();
        self.masks = items.iter().filter(|item| item.mask.is_some()).count();
        let here: BTreeSet<&str> = items.iter().map(|item| item.file.as_str()).collect();
        self.unmasked.retain(|file| here.contains(file.as_str()));
        self.sizes = counted(items.iter().map(|item| [item.width, item.height]));
        self.buckets = counted(items.iter().map(|item| [item.size.width(), item.size.height()]));
        let mut contents: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for item in items {
            contents.entry(&item.sha256).or_default().push(item.file.clone());
        }
        self.duplicates = contents.into_values().filter(|files| files.len() > 1).collect();
        self.duplicates.sort();
    }

    /// What a person must see before training, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for skipped in &self.skipped {
            warnings.push(format!("skipped: {}", skipped.reason));
        }
        let names = |files: Vec<&str>| match files[..] {
            [a, b, c, _, ..] => format!("`{a}`, `{b}`, `{c}` and {} more", files.len() - 3),
            _ => files.iter().map(|f| format!("`{f}`")).collect::<Vec<_>>().join(", "),
        };
        if let Some(worst) = self.enlarged.iter().map(|e| e.factor).reduce(f64::max) {
            let files = names(self.enlarged.iter().map(|e| e.file.as_str()).collect());
            warnings
                .push(format!("smaller than the training size and blown up (by up to {worst:.1}): {files}"));
        }
        if !self.cropped.is_empty() {
            let files = names(self.cropped.iter().map(|c| c.file.as_str()).collect());
            warnings.push(format!("more than half of the picture is cropped away: {files}"));
        }
        for files in &self.duplicates {
            warnings.push(format!(
                "the same picture several times: {}",
                names(files.iter().map(String::as_str).collect())
            ));
        }
        if !self.unmasked.is_empty() {
            let files = names(self.unmasked.iter().map(String::as_str).collect());
            warnings.push(format!("without a mask, all of them counts: {files}"));
        }
        if self.empty_captions > 0 {
            warnings.push(format!("{} pictures are trained without a text", self.empty_captions));
        }
        warnings.extend(self.notices.iter().cloned());
        warnings
    }
}
