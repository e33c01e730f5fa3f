//! From a folder of pictures to batches: which pictures there are, what is said about each, in which order they are seen.
//!
//! A picture and its text live in one [`Item`] from the moment the folder is read; nothing here keeps two lists side by side.
//! Everything random is a pure function of seed and visit number ([`Order`]), so a resumed run needs no stored position.
//!
//! * [`folder`]: what counts as a picture. [`caption`]: its text, [`tags`]: what a visit does to it. [`templates`]:
//!   sentences around a trigger word. [`mask`]: which part counts. [`buckets`]: at which size.
//! * [`holes`]: what a base for inpainting learns to fill.
//! * [`concept`]: several folders, each with its own settings. [`gather`]: all of a run's folders as one data set.
//! * [`look`]: what a person should know about each picture, [`contact`]: seen on a sheet. [`prepare`]: cut pictures in a
//!   new folder.
//! * [`order`]: shuffling, cropping, flipping. [`latents`], [`cache`]: results kept by content. [`report`]: what was found.

pub mod buckets;
pub mod cache;
pub mod caption;
pub mod concept;
pub mod contact;
mod error;
pub mod folder;
pub mod gather;
pub mod holes;
pub mod latents;
pub mod look;
pub mod mask;
pub mod order;
pub mod prepare;
pub mod report;
pub mod tags;
pub mod templates;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::config::{MaskSource, Unreadable};
use crate::picture::{DecodeOptions, Filter, Fit, Picture, TargetSize, decode, fit, read_bounded};

pub use buckets::{BucketRules, Buckets};
pub use cache::{CacheKey, DiskCache, Loaded};
pub use caption::{Caption, CaptionRules, Origin};
pub use error::DataError;
pub use latents::{Augmentation, LatentCaching};
pub use mask::ItemMask;
pub use order::{Draw, Order, Role};
pub use report::DatasetReport;
use report::LeftOut;
pub use tags::TagRules;

/// The result of everything that touches a data set.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// Latents have one cell for 8 x 8 pixels; a picture with a shorter side teaches nothing.
pub const SMALLEST_SIDE: usize = 8;

/// How a folder is read.
#[derive(Clone, Debug)]
pub struct DatasetOptions {
    /// Where texts come from.
    pub captions: CaptionRules,
    /// Whether a file that cannot be used is left out, or ends it all.
    pub unreadable: Unreadable,
    /// Where masks come from.
    pub mask: MaskSource,
    /// Background behind transparency, limits.
    pub decode: DecodeOptions,
    /// Sizes of the training pictures.
    pub buckets: Buckets,
    /// What is changed from visit to visit.
    pub augmentation: Augmentation,
    /// How often each picture counts in a round.
    pub repeats: usize,
    /// What its loss counts.
    pub weight: f64,
}

/// A picture on disk with its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The file.
    pub path: PathBuf,
    /// Its name, as shown to people.
    pub file: String,
    /// SHA-256 of the file's bytes, hexadecimal.
    pub sha256: String,
    /// Upright width in pixels.
    pub width: usize,
    /// Upright height in pixels.
    pub height: usize,
    /// What is said about it.
    pub caption: Caption,
    /// Which part of it counts; all of it when absent.
    pub mask: Option<ItemMask>,
    /// The size that it is trained at.
    pub size: TargetSize,
    /// What is changed from visit to visit.
    pub augmentation: Augmentation,
    /// How often it counts in a round.
    pub repeats: usize,
    /// What its loss counts.
    pub weight: f64,
}

impl Item {
    /// Everything about it but picture, mask and text that decides the course of a run.
    pub fn terms(&self) -> String {
        let Self { size, augmentation, repeats, weight, caption, .. } = self;
        format!("{size:?} {augmentation:?} {repeats} {weight} {:?}", caption.tags)
    }
}

/// An item as one visit sees it: fitted picture and chosen text.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Where it comes from.
    pub item: &'a Item,
    /// Of the training size.
    pub picture: Picture,
    /// The text for this visit.
    pub caption: String,
}

/// The usable pictures of a folder, in the order of their names.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Pictures with texts.
    pub items: Vec<Item>,
    /// What was found and left out.
    pub report: DatasetReport,
    decode: DecodeOptions,
}

impl Dataset {
    /// Reads a folder of training pictures. At least one must be usable.
    pub fn open(folder: &Path, options: &DatasetOptions) -> Result<Self> {
        let dataset = Self::open_or_empty(folder, options)?;
        if !dataset.items.is_empty() {
            let masked = dataset.items.iter().any(|item| item.mask.is_some());
            if options.mask != MaskSource::None && !masked {
                return Err(DataError::NoMasks { folder: folder.to_path_buf(), source_name: options.mask });
            }
            return Ok(dataset);
        }
        let (folder, skipped) = (folder.to_path_buf(), dataset.report.skipped);
        if skipped.is_empty() {
            Err(DataError::NoPictures { folder, others: dataset.report.left_out.len() })
        } else {
            Err(DataError::NothingUsable { folder, skipped })
        }
    }

    /// Reads a folder of class pictures, all with the class prompt. It may be missing or empty: then all are to be painted.
    pub fn open_class(folder: &Path, class_prompt: &str, options: &DatasetOptions) -> Result<Self> {
        let captions = CaptionRules::prompt(class_prompt);
        let options = DatasetOptions { captions, mask: MaskSource::None, ..options.clone() };
        if folder.exists() {
            return Self::open_or_empty(folder, &options);
        }
        options.captions.check()?;
        let report = DatasetReport::new(folder, Vec::new());
        Ok(Self { items: Vec::new(), report, decode: options.decode })
    }

    /// Several data sets as one; pictures are called `name/file` then. `shown` is what they are called together.
    pub fn join(shown: &str, parts: Vec<(String, Self)>) -> Self {
        let decode = parts.first().map_or_else(DecodeOptions::default, |(_, part)| part.decode);
        let (mut items, mut reports) = (Vec::new(), Vec::new());
        for (name, part) in parts {
            items.extend(
                part.items.into_iter().map(|item| Item { file: format!("{name}/{}", item.file), ..item }),
            );
            reports.push((name, part.report));
        }
        Self { report: DatasetReport::join(shown, reports, &items), items, decode }
    }

    fn open_or_empty(folder: &Path, options: &DatasetOptions) -> Result<Self> {
        options.captions.check()?;
        let listing = folder::list(folder)?;
        let mut report = DatasetReport::new(folder, listing.left_out);
        if options.mask == MaskSource::None {
            let reason = "a mask; masks are not used (`mask.source` is none)";
            report.left_out.extend(listing.masks.values().map(|path| LeftOut::new(path, reason)));
        }
        let mut items = Vec::with_capacity(listing.pictures.len());
        let mask_of = |path: &Path| path.file_stem().and_then(|stem| listing.masks.get(stem));
        for result in in_parallel(&listing.pictures, |path| {
            open_item(path, mask_of(path).map(PathBuf::as_path), options)
        }) {
            match result {
                Ok((item, notices)) => {
                    report.add(&item, notices);
                    items.push(item);
                }
                Err((path, error)) if options.unreadable == Unreadable::Skip && error.concerns_one_file() => {
                    report.skip(path, &error);
                }
                Err((_, error)) => return Err(error),
            }
        }
        report.finish(&items, options.mask);
        Ok(Self { items, report, decode: options.decode })
    }

    /// An item's whole picture, upright. A file that is no longer the one that was listed is an error: its size and its
    /// cached latents would be another picture's.
    pub fn picture(&self, item: &Item) -> Result<Picture> {
        let bytes = read_bounded(&item.path, self.decode.limits.file_bytes)?;
        let shown = item.path.display().to_string();
        if sha256(&bytes) != item.sha256 {
            return Err(DataError::Changed { file: shown });
        }
        Ok(decode(&bytes, &shown, &self.decode)?)
    }

    /// An item fitted to the training size; `anchor` as in [`Fit::anchor`].
    pub fn fitted(&self, item: &Item, anchor: [f64; 2], flip: bool) -> Result<Picture> {
        let how = Fit { size: item.size, anchor, flip, filter: Filter::default() };
        Ok(fit(&self.picture(item)?, &how))
    }

    /// An item's whole picture with its mask, where it has one, as alpha plane.
    pub fn with_mask(&self, item: &Item) -> Result<Picture> {
        let mut picture = self.picture(item)?;
        if let Some(mask) = &item.mask {
            mask::lay(mask, &mut picture, &self.decode)?;
        }
        Ok(picture)
    }

    /// What counts of an item fitted to the training size, 0 to 1 a pixel; `None` when all of it does.
    pub fn fitted_mask(&self, item: &Item, anchor: [f64; 2], flip: bool) -> Result<Option<Vec<f32>>> {
        if item.mask.is_none() {
            return Ok(None);
        }
        let picture = self.with_mask(item)?;
        let how = Fit { size: item.size, anchor, flip, filter: Filter::Bilinear };
        let plane = fit(&picture, &how).alpha;
        Ok(plane.map(|plane| plane.iter().map(|&value| f32::from(value) / 255.0).collect()))
    }

    /// Picture and text of a visit. The draw must come from an [`Order`] over this data set.
    pub fn sample(&self, draw: &Draw) -> Result<Sample<'_>> {
        let item = self.items.get(draw.item);
        let item = item.ok_or(DataError::NoSuchItem { index: draw.item, items: self.items.len() })?;
        let picture = self.fitted(item, draw.anchor, draw.flip)?;
        Ok(Sample { item, picture, caption: item.caption.choose(draw.caption).to_owned() })
    }

    /// The key under which an item's centre-cropped mask is kept.
    pub fn mask_key(&self, item: &Item, flip: bool) -> Option<CacheKey> {
        let mask = item.mask.as_ref()?;
        let transform = format!("1 bilinear centre {}x{} flip={flip}", item.size.width(), item.size.height());
        Some(CacheKey::new("mask", &[&item.sha256, mask.identity(), &transform]))
    }

    /// The key under which an item's centre-cropped latents are kept; `vae` says which VAE made them.
    pub fn latents_key(&self, item: &Item, flip: bool, vae: &str) -> CacheKey {
        latents::key(&item.sha256, item.size, flip, self.decode.background, vae)
    }
}

/// Reads, hashes and decodes one picture and finds its text and its mask.
fn open_item(path: &Path, mask_file: Option<&Path>, options: &DatasetOptions) -> Result<(Item, Vec<String>)> {
    let shown = path.display().to_string();
    let bytes = read_bounded(path, options.decode.limits.file_bytes)?;
    let picture = decode(&bytes, &shown, &options.decode)?;
    let (width, height) = (picture.width, picture.height);
    if width.min(height) < SMALLEST_SIDE {
        return Err(DataError::TooSmall { file: shown, width, height });
    }
    let mask = mask::find(options.mask, &picture, &shown, mask_file, &options.decode)?;
    let (caption, notices) = options.captions.caption(path)?;
    let (file, sha256) = (shown_name(path), sha256(&bytes));
    let DatasetOptions { augmentation, repeats, weight, .. } = *options;
    let size = options.buckets.of(width, height);
    let path = path.into();
    let item = Item { path, file, sha256, width, height, caption, mask, size, augmentation, repeats, weight };
    Ok((item, notices))
}

/// A file's name for people.
fn shown_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// SHA-256 in hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `work` on everything with a thread for each core (at most 8: each may hold a decoded photograph). Results are in the
/// order of the operands, failures with theirs.
fn in_parallel<I: Sync, T: Send>(
    all: &[I],
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Vec<Result<T, (&I, DataError)>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8)).min(all.len());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(all.len())));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(operand) = all.get(i) else { return };
                    let result = work(operand).map_err(|error| (i, error));
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(i, result)| result.map_err(|(_, error)| (&all[i], error))).collect()
}
