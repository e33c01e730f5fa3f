//! A close look at every picture before training: how sharp it is, whether another is nearly the same, what is cut away.
//!
//! ```text
//! blur        Crete et al. 2007: with D = sum of |differences of neighbours| of the grey picture and V = sum of
//!             max(0, |its differences| - |those of the picture blurred over 9 pixels|):  1 - V / D, along rows and
//!             along columns, the larger. 0 is sharp, 1 is blurred; contrast does not matter
//! likeness    64 bits, whether a pixel of the picture shrunk to 9 x 8 is darker than its right neighbour; two pictures
//!             with few different bits are nearly the same
//! ```
//!
//! Blur is measured on the picture at its training size: what is soft at full size may be sharp enough for training.

use serde::Serialize;

use super::{Dataset, Item, Result, in_parallel};
use crate::picture::{Filter, Fit, Picture, resize};

/// Above this a picture is called blurred.
const BLURRED: f64 = 0.55;
/// So many different bits are still nearly the same picture.
const ALIKE: u32 = 4;
/// Half the width of the blur's window.
const REACH: usize = 4;

/// What is known about a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// Its name.
    pub file: String,
    /// Upright pixels.
    pub width: usize,
    /// Upright pixels.
    pub height: usize,
    /// The size that it is trained at.
    pub trained_width: usize,
    /// The size that it is trained at.
    pub trained_height: usize,
    /// The part that is used with a centred crop: left, top, width, height in its own pixels.
    pub crop: [f64; 4],
    /// Output pixels for one of its own, along a side.
    pub enlargement: f64,
    /// 0 sharp to 1 blurred.
    pub blur: f64,
    /// Share of the crop that counts, with a mask.
    pub mask: Option<f64>,
    /// Its text, the first of several.
    pub caption: String,
    /// How often it counts in a round.
    pub repeats: usize,
    /// What its loss counts.
    pub weight: f64,
    /// What a person should look at.
    pub remarks: Vec<String>,
}

/// Looks at every picture of a data set, in its order.
pub fn look(dataset: &Dataset) -> Result<Vec<Seen>> {
    let mut all = Vec::with_capacity(dataset.items.len());
    let one = |index: usize| {
        let item = &dataset.items[index];
        let picture = dataset.fitted(item, [0.5; 2], false)?;
        let mask = dataset.fitted_mask(item, [0.5; 2], false)?;
        Ok((seen(item, &picture, mask.as_deref()), likeness(&picture)))
    };
    let indices: Vec<usize> = (0..dataset.items.len()).collect();
    for result in in_parallel(&indices, |&index| one(index)) {
        all.push(result.map_err(|(_, error)| error)?);
    }
    for later in 1..all.len() {
        let alike = |first: &usize| match (all[*first].1, all[later].1) {
            (Some(a), Some(b)) => (a ^ b).count_ones() <= ALIKE,
            _ => false,
        };
        let same = |first: &usize| dataset.items[*first].sha256 == dataset.items[later].sha256;
        if let Some(first) = (0..later).find(same).or_else(|| (0..later).find(alike)) {
            let kind = if same(&first) { "the same picture as" } else { "nearly the same as" };
            let remark = format!("{kind} `{}`", all[first].0.file);
            all[later].0.remarks.push(remark);
        }
    }
    Ok(all.into_iter().map(|(seen, _)| seen).collect())
}

fn seen(item: &Item, fitted: &Picture, mask: Option<&[f32]>) -> Seen {
    let fit = Fit::centre(item.size);
    let crop = fit.source_box(item.width, item.height);
    let enlargement = fit.enlargement(item.width, item.height);
    let share = crop[2] * crop[3] / (item.width * item.height) as f64;
    let blur = blur(fitted);
    let mask = mask.map(|mask| mask.iter().map(|&v| f64::from(v)).sum::<f64>() / mask.len().max(1) as f64);
    let caption = item.caption.choose(0.0).to_owned();
    let mut remarks = Vec::new();
    if enlargement > 1.0 {
        remarks.push(format!("small: blown up {enlargement:.1} times"));
    }
    if blur > BLURRED {
        remarks.push(format!("looks blurred ({blur:.2})"));
    }
    if share < 0.5 {
        remarks.push(format!("{:.0} % of it are cut away", (1.0 - share) * 100.0));
    }
    match mask {
        Some(share) if share < 0.01 => {
            remarks.push("next to nothing of it counts: its mask is black".to_owned())
        }
        _ => {}
    }
    if caption.is_empty() {
        remarks.push("no text".to_owned());
    }
    Seen {
        file: item.file.clone(),
        width: item.width,
        height: item.height,
        trained_width: item.size.width(),
        trained_height: item.size.height(),
        crop,
        enlargement,
        blur,
        mask,
        caption,
        repeats: item.repeats,
        weight: item.weight,
        remarks,
    }
}

fn grey(picture: &Picture) -> Vec<f32> {
    let luma = |rgb: &[u8]| 0.299 * f32::from(rgb[0]) + 0.587 * f32::from(rgb[1]) + 0.114 * f32::from(rgb[2]);
    picture.rgb.chunks_exact(3).map(luma).collect()
}

/// See the module's text; a picture of one colour is not called blurred.
pub fn blur(picture: &Picture) -> f64 {
    let grey = grey(picture);
    let (w, h) = (picture.width, picture.height);
    let across = blur_along(h, w, |line, at| grey[line * w + at]);
    let down = blur_along(w, h, |line, at| grey[at * w + line]);
    across.max(down)
}

fn blur_along(lines: usize, length: usize, value: impl Fn(usize, usize) -> f32) -> f64 {
    let (mut sharp, mut lost) = (0f64, 0f64);
    for line in 0..lines {
        let mean = |at: usize| {
            let window = at.saturating_sub(REACH)..(at + REACH + 1).min(length);
            let count = window.len() as f32;
            window.map(|at| value(line, at)).sum::<f32>() / count
        };
        let mut before = mean(0);
        for at in 1..length {
            let now = mean(at);
            let own = (value(line, at) - value(line, at - 1)).abs();
            lost += f64::from((own - (now - before).abs()).max(0.0));
            sharp += f64::from(own);
            before = now;
        }
    }
    if sharp > 0.0 { 1.0 - lost / sharp } else { 0.0 }
}

/// See the module's text; `None` for a picture with next to nothing on it.
fn likeness(picture: &Picture) -> Option<u64> {
    let small = grey(&resize(picture, 9, 8, Filter::Bilinear));
    let (low, high) = small.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    if high - low < 8.0 {
        return None;
    }
    let mut bits = 0;
    for row in small.chunks_exact(9) {
        for pair in row.windows(2) {
            bits = bits << 1 | u64::from(pair[0] < pair[1]);
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use crate::data::gather;
    use crate::picture::{DecodeOptions, png, read};

    fn photo() -> Picture {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/images/plain.png");
        read(path.as_ref(), &DecodeOptions::default()).unwrap()
    }

    /// Shrunk and grown again.
    fn softened(picture: &Picture, times: usize) -> Picture {
        let small = resize(picture, picture.width / times, picture.height / times, Filter::Bilinear);
        resize(&small, picture.width, picture.height, Filter::Bicubic)
    }

    #[test]
    fn softer_pictures_are_more_blurred_whatever_their_contrast() {
        let photo = photo();
        let values = [blur(&photo), blur(&softened(&photo, 2)), blur(&softened(&photo, 4))];
        assert!(values[0] < values[1] && values[1] < values[2], "{values:?}");
        assert!(values[0] < BLURRED && values[2] > BLURRED, "{values:?}");
        let mut pale = photo.clone();
        pale.rgb.iter_mut().for_each(|v| *v = 100 + *v / 4);
        assert!((blur(&pale) - values[0]).abs() < 0.05, "{} {}", blur(&pale), values[0]);
        assert_eq!(blur(&Picture::filled(32, 32, [9; 3])), 0.0);
    }

    #[test]
    fn remarks_name_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, picture: &Picture| png::write(&dir.path().join(name), picture, &[]).unwrap();
        let photo = photo();
        put("a.png", &photo);
        put("b-soft.png", &softened(&photo, 4));
        put("c-small.png", &resize(&photo, 40, 40, Filter::Lanczos));
        put("d-long.png", &Picture::filled(600, 64, [3; 3]));
        std::fs::copy(dir.path().join("a.png"), dir.path().join("e-copy.png")).unwrap();
        let mut pale = photo.clone();
        pale.rgb.iter_mut().for_each(|v| *v = 40 + *v / 4 * 3);
        put("f-pale.png", &pale);
        std::fs::write(dir.path().join("d-long.txt"), "").unwrap();
        let mut config = TrainConfig::default();
        (config.data.folder, config.data.width, config.data.height) = (dir.path().into(), 64, 64);
        let all = look(&gather::pictures(&config).unwrap()).unwrap();
        let remarks = |name: &str| all.iter().find(|seen| seen.file == name).unwrap().remarks.join("; ");
        assert_eq!(remarks("a.png"), "");
        assert!(remarks("b-soft.png").contains("blurred"), "{}", remarks("b-soft.png"));
        assert!(remarks("f-pale.png").contains("nearly the same as `a.png`"), "{}", remarks("f-pale.png"));
        assert!(remarks("c-small.png").contains("blown up 1.6 times"), "{}", remarks("c-small.png"));
        assert!(remarks("d-long.png").contains("89 % of it are cut away"), "{}", remarks("d-long.png"));
        assert!(remarks("d-long.png").contains("no text"));
        assert!(remarks("e-copy.png").contains("the same picture as `a.png`"));
    }
}
