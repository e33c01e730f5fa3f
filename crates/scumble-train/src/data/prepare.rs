//! Pictures cut and scaled into a new folder, with their masks and texts.
//!
//! ```text
//! centre   the largest part of the training shape in the middle
//! mask     the smallest part of the training shape around the mask (where it is half white or more) with a margin on each
//!          side; moved into the picture where it sticks out, and no larger than it. Without a mask: the centre
//! ```
//!
//! Nothing that is there already is written over: all names are checked before the first file is made.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use scumble_model::files::atomic_write;

use super::{DataError, Dataset, Item, Result};
use crate::picture::resize::resample;
use crate::picture::{Filter, Fit, Picture, png};

/// How a picture is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// In the middle.
    Centre,
    /// Around the mask.
    Mask {
        /// Room on each side, as a share of the masked part's longer side.
        margin: f64,
    },
}

/// What is done to what does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Nothing.
    Keep,
    /// It is painted over with a colour, softly where the mask is grey.
    Fill([u8; 3]),
}

/// How a folder is prepared.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// Where to.
    pub folder: PathBuf,
    /// How pictures are cut.
    pub cut: Cut,
    /// What is done to what does not count.
    pub background: Background,
    /// The text of every picture: `{caption}` is its own text, `{name}` its file's name in words, `{n}` its number. Its own
    /// text when absent.
    pub template: Option<String>,
}

/// A picture that was written.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prepared {
    /// Where it came from.
    pub source: String,
    /// The new picture.
    pub file: PathBuf,
    /// The part of the source: left, top, width, height.
    pub crop: [f64; 4],
    /// New pixels for one of its own.
    pub enlargement: f64,
    /// Whether it was cut around a mask.
    pub by_mask: bool,
    /// Its text.
    pub caption: String,
}

/// Writes every picture of a data set, its mask and its text.
pub fn prepare(
    dataset: &Dataset,
    how: &Preparation,
    each: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Prepared>> {
    let names = names(&dataset.items);
    std::fs::create_dir_all(&how.folder)
        .map_err(|source| DataError::Write { file: how.folder.clone(), source })?;
    for (name, item) in names.iter().zip(&dataset.items) {
        let masked = item.mask.is_some();
        let ending = |ending: &str| how.folder.join(format!("{name}.{ending}"));
        let files = [Some(ending("png")), Some(ending("txt")), masked.then(|| ending("mask.png"))];
        if let Some(file) = files.into_iter().flatten().find(|file| file.exists()) {
            return Err(DataError::Exists { file });
        }
    }
    let mut all = Vec::new();
    for (index, (name, item)) in names.iter().zip(&dataset.items).enumerate() {
        all.push(one(dataset, item, name, index + 1, how)?);
        each(index + 1, names.len());
    }
    Ok(all)
}

fn one(dataset: &Dataset, item: &Item, name: &str, number: usize, how: &Preparation) -> Result<Prepared> {
    let picture = dataset.with_mask(item)?;
    let mask = picture.alpha.as_deref().filter(|_| item.mask.is_some());
    let fit = Fit::centre(item.size);
    let around = match (how.cut, mask) {
        (Cut::Mask { margin }, Some(mask)) => around_mask(&picture, mask, margin, &fit),
        _ => None,
    };
    let crop = around.unwrap_or_else(|| fit.source_box(picture.width, picture.height));
    let (width, height) = (item.size.width(), item.size.height());
    let mut cut = resample(&picture, crop, width, height, Filter::default());
    let mask = cut.alpha.take().filter(|_| item.mask.is_some());
    if let (Background::Fill(colour), Some(mask)) = (how.background, &mask) {
        for (pixel, &kept) in cut.rgb.chunks_exact_mut(3).zip(mask) {
            for (value, colour) in pixel.iter_mut().zip(colour) {
                let kept = f32::from(kept) / 255.0;
                *value = (f32::from(*value) * kept + f32::from(colour) * (1.0 - kept)).round() as u8;
            }
        }
    }
    let file = how.folder.join(format!("{name}.png"));
    png::write(&file, &cut, &[])?;
    if let Some(mask) = mask {
        let rgb = mask.iter().flat_map(|&value| [value; 3]).collect();
        png::write(&how.folder.join(format!("{name}.mask.png")), &Picture { rgb, ..cut }, &[])?;
    }
    let own = item.caption.choose(0.0);
    let caption = match &how.template {
        None => own.to_owned(),
        Some(template) => template
            .replace("{caption}", own)
            .replace("{name}", &super::caption::from_file_name(&item.path))
            .replace("{n}", &number.to_string()),
    };
    if !caption.trim().is_empty() {
        let text = how.folder.join(format!("{name}.txt"));
        atomic_write(&text, |file| writeln!(file, "{}", caption.trim()))
            .map_err(|error| DataError::Write { file: text.clone(), source: std::io::Error::other(error) })?;
    }
    let enlargement = width as f64 / crop[2];
    Ok(Prepared { source: item.file.clone(), file, crop, enlargement, by_mask: around.is_some(), caption })
}

/// A name for each picture, told apart by numbers where two have the same.
fn names(items: &[Item]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let name = |item: &Item| {
        let stem = Path::new(&item.path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut name = stem.clone();
        let mut number = 1;
        while !taken.insert(name.to_lowercase()) {
            number += 1;
            name = format!("{stem}-{number}");
        }
        name
    };
    items.iter().map(name).collect()
}

/// The part of the picture around its mask; `None` when the mask is black.
fn around_mask(picture: &Picture, mask: &[u8], margin: f64, fit: &Fit) -> Option<[f64; 4]> {
    let (w, h) = (picture.width, picture.height);
    let white = |at: &usize| mask[*at] >= 128;
    let rows: Vec<usize> = (0..w * h).filter(white).map(|at| at / w).collect();
    let columns = (0..w * h).filter(white).map(|at| at % w);
    let (left, right) = columns.fold((usize::MAX, 0), |(low, high), x| (low.min(x), high.max(x)));
    let (&top, &bottom) = (rows.first()?, rows.last()?);
    let masked = [(right + 1 - left) as f64, (bottom + 1 - top) as f64];
    let room = 2.0 * margin * masked[0].max(masked[1]);
    // As small as the training shape can be around it, as large as the picture allows.
    let largest = fit.source_box(w, h);
    let shape = largest[2] / largest[3];
    let height = (masked[1] + room).max((masked[0] + room) / shape).min(largest[3]);
    let size = [height * shape, height];
    let place = |start: usize, length: f64, size: f64, all: usize| {
        (start as f64 + length / 2.0 - size / 2.0).clamp(0.0, (all as f64 - size).max(0.0))
    };
    Some([place(left, masked[0], size[0], w), place(top, masked[1], size[1], h), size[0], size[1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MaskSource, TrainConfig};
    use crate::data::gather;
    use crate::picture::{DecodeOptions, read};

    struct Place(tempfile::TempDir);

    impl Place {
        /// A picture 200 x 100, grey with a white square of 20 at (150, 70), and its mask.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("in")).unwrap();
            let square = |inside: u8, outside: u8| {
                let pixel = |i: usize| {
                    let (x, y) = (i % 200, i / 200);
                    [if (150..170).contains(&x) && (70..90).contains(&y) { inside } else { outside }; 3]
                };
                Picture::from_rgb(200, 100, (0..200 * 100).flat_map(pixel).collect()).unwrap()
            };
            png::write(&dir.path().join("in/a_dog.png"), &square(255, 60), &[]).unwrap();
            png::write(&dir.path().join("in/a_dog.mask.png"), &square(255, 0), &[]).unwrap();
            Self(dir)
        }

        fn dataset(&self) -> Dataset {
            let mut config = TrainConfig::default();
            config.data.folder = self.0.path().join("in");
            (config.data.width, config.data.height, config.mask.source) = (64, 64, MaskSource::Auto);
            gather::pictures(&config).unwrap()
        }

        fn how(&self, cut: Cut) -> Preparation {
            let folder = self.0.path().join("out");
            Preparation { folder, cut, background: Background::Keep, template: None }
        }

        fn read(&self, name: &str) -> Picture {
            read(&self.0.path().join("out").join(name), &DecodeOptions::default()).unwrap()
        }
    }

    #[test]
    fn a_mask_is_cut_around_with_picture_mask_and_text() {
        let place = Place::new();
        let how = Preparation {
            background: Background::Fill([0, 0, 255]),
            template: Some("photo {n} of {name}, {caption}".into()),
            ..place.how(Cut::Mask { margin: 0.5 })
        };
        let prepared = prepare(&place.dataset(), &how, &mut |_, _| {}).unwrap();
        assert_eq!(prepared[0].crop, [140.0, 60.0, 40.0, 40.0]);
        assert!(prepared[0].by_mask && prepared[0].enlargement == 1.6);
        let (picture, mask) = (place.read("a_dog.png"), place.read("a_dog.mask.png"));
        assert_eq!((picture.width, picture.height), (64, 64));
        assert_eq!((picture.pixel(32, 32), picture.pixel(2, 2)), ([255; 3], [0, 0, 255]));
        assert_eq!((mask.pixel(32, 32), mask.pixel(2, 2)), ([255; 3], [0; 3]));
        let text = std::fs::read_to_string(place.0.path().join("out/a_dog.txt")).unwrap();
        assert_eq!(text, "photo 1 of a dog, a dog\n");
    }

    #[test]
    fn cuts_stay_within_the_picture_and_the_centre_is_the_default() {
        let place = Place::new();
        let wide = prepare(&place.dataset(), &place.how(Cut::Mask { margin: 3.0 }), &mut |_, _| {}).unwrap();
        assert_eq!(wide[0].crop, [100.0, 0.0, 100.0, 100.0], "no larger than the picture, moved into it");
        std::fs::remove_dir_all(place.0.path().join("out")).unwrap();
        let centre = prepare(&place.dataset(), &place.how(Cut::Centre), &mut |_, _| {}).unwrap();
        assert_eq!((centre[0].crop, centre[0].by_mask), ([50.0, 0.0, 100.0, 100.0], false));
    }

    #[test]
    fn nothing_is_written_over() {
        let place = Place::new();
        let out = place.0.path().join("out");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("a_dog.txt"), "mine").unwrap();
        let error = prepare(&place.dataset(), &place.how(Cut::Centre), &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("a_dog.txt") && !error.hints().is_empty(), "{error}");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1, "not even a part of it");
        assert_eq!(std::fs::read_to_string(out.join("a_dog.txt")).unwrap(), "mine");
    }
}
