//! From a folder of pictures to batches: which pictures there are, what is said about each, in which order they are seen.
//!
//! A picture and its text live in one [`Item`] from the moment the folder is read; nothing here keeps two lists side by side.
//! Everything random is a pure function of seed and visit number ([`Order`]), so a resumed run needs no stored position.
//!
//! * [`folder`]: what counts as a picture. [`caption`]: its text. [`templates`]: sentences around a trigger word.
//! * [`order`]: shuffling, cropping, flipping. [`latents`], [`cache`]: results kept by content. [`report`]: what was found.

pub mod cache;
pub mod caption;
mod error;
pub mod folder;
pub mod latents;
pub mod order;
pub mod report;
pub mod templates;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::config::Unreadable;
use crate::picture::{DecodeOptions, Filter, Fit, Picture, TargetSize, decode, fit, read_bounded};

pub use cache::{CacheKey, DiskCache, Loaded};
pub use caption::{Caption, CaptionRules, Origin};
pub use error::DataError;
pub use latents::{Augmentation, LatentCaching};
pub use order::{Draw, Order, Role};
pub use report::DatasetReport;

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
    /// Background behind transparency, limits.
    pub decode: DecodeOptions,
    /// Size of the training pictures.
    pub size: TargetSize,
}

/// A picture on disk with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// An item as one visit sees it: fitted picture and chosen text.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    size: TargetSize,
    decode: DecodeOptions,
}

impl Dataset {
    /// Reads a folder of training pictures. At least one must be usable.
    pub fn open(folder: &Path, options: &DatasetOptions) -> Result<Self> {
        let dataset = Self::open_or_empty(folder, options)?;
        if !dataset.items.is_empty() {
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
        let options = DatasetOptions { captions: CaptionRules::prompt(class_prompt), ..options.clone() };
        if folder.exists() {
            return Self::open_or_empty(folder, &options);
        }
        options.captions.check()?;
        let report = DatasetReport::new(folder, Vec::new());
        Ok(Self { items: Vec::new(), report, size: options.size, decode: options.decode })
    }

    fn open_or_empty(folder: &Path, options: &DatasetOptions) -> Result<Self> {
        options.captions.check()?;
        let listing = folder::list(folder)?;
        let mut report = DatasetReport::new(folder, listing.left_out);
        let mut items = Vec::with_capacity(listing.pictures.len());
        for result in in_parallel(&listing.pictures, |path| open_item(path, options)) {
            match result {
                Ok((item, notices)) => {
                    report.add(&item, notices, options.size);
                    items.push(item);
                }
                Err((path, error)) if options.unreadable == Unreadable::Skip && error.concerns_one_file() => {
                    report.skip(path, &error);
                }
                Err((_, error)) => return Err(error),
            }
        }
        report.finish(&items);
        Ok(Self { items, report, size: options.size, decode: options.decode })
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
        let how = Fit { size: self.size, anchor, flip, filter: Filter::default() };
        Ok(fit(&self.picture(item)?, &how))
    }

    /// Picture and text of a visit. The draw must come from an [`Order`] over this data set.
    pub fn sample(&self, draw: &Draw) -> Result<Sample<'_>> {
        let item = self.items.get(draw.item);
        let item = item.ok_or(DataError::NoSuchItem { index: draw.item, items: self.items.len() })?;
        let picture = self.fitted(item, draw.anchor, draw.flip)?;
        Ok(Sample { item, picture, caption: item.caption.choose(draw.caption).to_owned() })
    }

    /// The size that pictures are fitted to.
    pub fn size(&self) -> TargetSize {
        self.size
    }

    /// The key under which an item's centre-cropped latents are kept; `vae` says which VAE made them.
    pub fn latents_key(&self, item: &Item, flip: bool, vae: &str) -> CacheKey {
        latents::key(&item.sha256, self.size, flip, self.decode.background, vae)
    }
}

/// Reads, hashes and decodes one picture and finds its text.
fn open_item(path: &Path, options: &DatasetOptions) -> Result<(Item, Vec<String>)> {
    let shown = path.display().to_string();
    let bytes = read_bounded(path, options.decode.limits.file_bytes)?;
    let Picture { width, height, .. } = decode(&bytes, &shown, &options.decode)?;
    if width.min(height) < SMALLEST_SIDE {
        return Err(DataError::TooSmall { file: shown, width, height });
    }
    let (caption, notices) = options.captions.caption(path)?;
    let item =
        Item { path: path.into(), file: shown_name(path), sha256: sha256(&bytes), width, height, caption };
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

/// `work` on every path with a thread for each core (at most 8: each may hold a decoded photograph). Results are in the
/// order of the paths, failures with their path.
fn in_parallel<T: Send>(
    paths: &[PathBuf],
    work: impl Fn(&Path) -> Result<T> + Sync,
) -> Vec<Result<T, (&Path, DataError)>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8)).min(paths.len());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(paths.len())));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(path) = paths.get(i) else { return };
                    let result = work(path).map_err(|error| (path.as_path(), error));
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}
