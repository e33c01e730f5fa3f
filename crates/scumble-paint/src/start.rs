//! Pictures to begin with, and masks: read, brought to size, turned into what the pipeline takes.
//!
//! A picture of other proportions is cropped at its centre, and its mask with it, so they must be of one size. A mask is
//! read by its brightness; without blur it is cut at one half.

use std::path::Path;

use scumble_tensor::Tensor;
use scumble_train::picture::{DecodeOptions, Fit, Picture, TargetSize, fit, read};

use crate::error::{PaintError, Result};
use crate::request::{Init, LONGEST_SIDE, Mask};

/// A picture at the size to paint, and what of it is painted.
pub struct Start {
    /// The picture.
    pub picture: Picture,
    /// `height * width` values, 1 where to paint.
    pub mask: Option<Vec<f32>>,
}

/// Reads picture and mask. Without a `size` the picture's own, brought to multiples of 8, is taken.
pub fn load(init: &Init, size: Option<[usize; 2]>) -> Result<Start> {
    let picture = read(&init.image, &DecodeOptions::default())?;
    let original = (picture.width, picture.height);
    let [width, height] = size.unwrap_or_else(|| own_size(&picture));
    let how = Fit::centre(TargetSize::new(width, height)?);
    let mask = init.mask.as_ref().map(|mask| load_mask(mask, &init.image, original, &how)).transpose()?;
    Ok(Start { picture: fit(&picture, &how), mask })
}

fn own_size(picture: &Picture) -> [usize; 2] {
    let longest = picture.width.max(picture.height).max(1);
    let shrink = (LONGEST_SIDE as f64 / longest as f64).min(1.0);
    [picture.width, picture.height].map(|side| ((side as f64 * shrink / 8.0).round() as usize).max(1) * 8)
}

fn load_mask(mask: &Mask, of: &Path, size: (usize, usize), how: &Fit) -> Result<Vec<f32>> {
    // What is transparent is not marked.
    let picture = read(&mask.image, &DecodeOptions { background: [0; 3], ..DecodeOptions::default() })?;
    if (picture.width, picture.height) != size {
        return Err(PaintError::file(
            "mask",
            mask.image.display().to_string(),
            format!(
                "it has {} x {} pixels, `{}` has {} x {}",
                picture.width,
                picture.height,
                of.display(),
                size.0,
                size.1
            ),
            "a mask has the size of its picture",
        ));
    }
    let fitted = fit(&picture, how);
    let brightness = |pixel: &[u8]| pixel.iter().map(|&v| f32::from(v)).sum::<f32>() / (3.0 * 255.0);
    let cut = |value: f32| if (value >= 0.5) != mask.invert { 1.0 } else { 0.0 };
    let hard: Vec<f32> = fitted.rgb.chunks_exact(3).map(|pixel| cut(brightness(pixel))).collect();
    Ok(if mask.blur > 0.0 { blurred(&hard, fitted.width, mask.blur) } else { hard })
}

/// A Gaussian blur with a standard deviation of `sigma` pixels, first along rows, then along columns; the border goes
/// on outside.
fn blurred(values: &[f32], width: usize, sigma: f64) -> Vec<f32> {
    let reach = (3.0 * sigma).ceil() as i64;
    let bell = |x: i64| (-(x * x) as f64 / (2.0 * sigma * sigma)).exp();
    let sum: f64 = (-reach..=reach).map(bell).sum();
    let kernel: Vec<f64> = (-reach..=reach).map(|x| bell(x) / sum).collect();
    let height = values.len() / width.max(1);
    let along = |values: &[f32], step: (i64, i64)| -> Vec<f32> {
        let at = |x: i64, y: i64| {
            let (x, y) = (x.clamp(0, width as i64 - 1), y.clamp(0, height as i64 - 1));
            f64::from(values[y as usize * width + x as usize])
        };
        let place = |i: usize| ((i % width) as i64, (i / width) as i64);
        let mean = |i: usize| {
            let (x, y) = place(i);
            let terms = kernel.iter().zip(-reach..=reach);
            terms.map(|(weight, d)| weight * at(x + d * step.0, y + d * step.1)).sum::<f64>() as f32
        };
        (0..values.len()).map(mean).collect()
    };
    along(&along(values, (1, 0)), (0, 1))
}

/// A picture as the encoder takes it, `[1, 3, h, w]` in -1..1; pixels that `blank` marks (1/2 and more) are 0.
pub fn tensor(picture: &Picture, blank: Option<&[f32]>) -> Result<Tensor> {
    let (pixels, interleaved) = (picture.width * picture.height, picture.to_signed_unit());
    let value = |i: usize| {
        let (channel, pixel) = (i / pixels, i % pixels);
        let kept = blank.is_none_or(|mask| mask[pixel] < 0.5);
        if kept { interleaved[pixel * 3 + channel] } else { 0.0 }
    };
    let values: Vec<f32> = (0..3 * pixels).map(value).collect();
    Ok(Tensor::from_slice(&values, &[1, 3, picture.height, picture.width])?)
}

/// The painted picture where the mask is 1, the original where it is 0, mixed between.
pub fn compose(painted: &mut Picture, original: &Picture, mask: &[f32]) {
    let pixels = painted.rgb.chunks_exact_mut(3).zip(original.rgb.chunks_exact(3)).zip(mask);
    for ((painted, original), &mask) in pixels {
        for (new, &old) in painted.iter_mut().zip(original) {
            *new = (f32::from(*new) * mask + f32::from(old) * (1.0 - mask)).round() as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_train::picture::png;

    fn save(
        folder: &tempfile::TempDir,
        name: &str,
        width: usize,
        value: impl Fn(usize, usize) -> u8,
    ) -> std::path::PathBuf {
        let path = folder.path().join(name);
        let rgb = (0..width * width).flat_map(|i| [value(i % width, i / width); 3]).collect();
        png::write(&path, &Picture::from_rgb(width, width, rgb).unwrap(), &[]).unwrap();
        path
    }

    #[test]
    fn masks_follow_their_picture() {
        let folder = tempfile::tempdir().unwrap();
        let image = save(&folder, "i.png", 20, |x, y| (x * 10 + y) as u8);
        let half = save(&folder, "m.png", 20, |x, _| if x < 10 { 255 } else { 100 });
        let small = save(&folder, "s.png", 16, |_, _| 0);
        let mask = Mask { image: half, invert: false, blur: 0.0, keep_unmasked: false };
        let init = Init { image, strength: 0.5, mask: Some(mask.clone()) };
        let start = load(&init, None).unwrap();
        assert_eq!((start.picture.width, start.picture.height), (24, 24));
        let hard = start.mask.unwrap();
        assert_eq!((hard[0], hard[23]), (1.0, 0.0));
        let with = |mask: Mask| load(&Init { mask: Some(mask), ..init.clone() }, None);
        let inverted = with(Mask { invert: true, ..mask.clone() }).unwrap().mask.unwrap();
        assert!(hard.iter().zip(&inverted).all(|(a, b)| a + b == 1.0));
        let soft = with(Mask { blur: 2.0, ..mask.clone() }).unwrap().mask.unwrap();
        assert!(soft[0] > 0.99 && soft[23] < 0.01 && (0.3..0.7).contains(&soft[11]), "{soft:?}");
        let error = with(Mask { image: small, ..mask }).err().unwrap().to_string();
        assert!(error.contains("16 x 16") && error.contains("20 x 20"), "{error}");
        let wide = load(&Init { mask: None, ..init.clone() }, Some([32, 16])).unwrap();
        assert_eq!((wide.picture.width, wide.picture.height), (32, 16));
    }

    #[test]
    fn kept_pixels_are_exact() {
        let original = Picture::from_rgb(3, 1, vec![1, 2, 3, 100, 100, 100, 7, 8, 9]).unwrap();
        let mut painted = Picture::filled(3, 1, [200; 3]);
        compose(&mut painted, &original, &[0.0, 0.5, 1.0]);
        assert_eq!(painted.rgb, [1, 2, 3, 150, 150, 150, 200, 200, 200]);
        let tensor = tensor(&original, Some(&[0.0, 1.0, 0.0])).unwrap();
        assert_eq!(tensor.dims(), [1, 3, 1, 3]);
        let values = tensor.as_slice::<f32>().unwrap();
        assert!(values[1] == 0.0 && values[4] == 0.0 && values[0] == 1.0 / 127.5 - 1.0);
    }
}
