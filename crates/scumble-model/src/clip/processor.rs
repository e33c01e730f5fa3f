//! From any picture to what CLIP's vision tower sees (transformers' `CLIPImageProcessor`), as `preprocessor_config.json` says.
//!
//! ```text
//! resize:     the shorter side becomes `size.shortest_edge` (224), the longer floor(edge * longer / shorter); bicubic
//! crop:       `crop_size` (224 x 224) from the middle, black where the picture is smaller
//! rescale:    x * 1/255,     normalise: (x - mean) / std for each colour
//! ```
//!
//! Resizing is Pillow's, byte for byte (see [`crate::resample`]). Newer transformers resize with torchvision by default,
//! which differs by up to one step of 255 here and there.

use serde_json::{Value, json};

use crate::nn::{Config, ConfigError};
use crate::resample::{Filter, Samples, resample};

const COMPONENT: &str = "picture processor";
/// CLIP's colours: means and standard deviations of the pictures it was trained on.
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
/// Longest side after resizing: a strip of a picture must not take gigabytes.
const LONGEST: usize = 1 << 14;

/// Which size a picture is brought to before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resize {
    /// This length for the shorter side, proportions kept.
    ShortestEdge(usize),
    /// Height and width, proportions lost.
    Exactly([usize; 2]),
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    resize: Option<(Resize, Filter)>,
    /// Height and width.
    crop: Option<[usize; 2]>,
    factor: f64,
    mean: [f64; 3],
    std: [f64; 3],
}

/// A picture as the vision tower sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Processed {
    /// Rows.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// `[height, width, 3]`.
    pub values: Vec<f32>,
}

impl ImageProcessor {
    /// CLIP's own, for pictures of `side` x `side`: what a folder without a configuration means.
    pub fn clip(side: usize) -> Self {
        Self {
            resize: Some((Resize::ShortestEdge(side), Filter::Bicubic)),
            crop: Some([side; 2]),
            factor: 1.0 / 255.0,
            mean: MEAN,
            std: STD,
        }
    }

    /// Reads a `preprocessor_config.json` (or a `processor_config.json`, which has it inside), with CLIP's defaults.
    pub fn parse(values: &Value) -> Result<Self, ConfigError> {
        let whole = Config::new(COMPONENT, values)?;
        let config = whole.get("image_processor").map_or(Ok(whole), |inner| Config::new(COMPONENT, inner))?;
        let flag = |key| config.flag_or(key, true);
        let filter = match config.get("resample").map(|value| value.as_u64()) {
            None | Some(Some(3)) => Filter::Bicubic,
            Some(Some(1)) => Filter::Lanczos,
            Some(Some(2)) => Filter::Bilinear,
            _ => {
                let found = config.get("resample").unwrap_or(&Value::Null);
                return Err(config.error("resample", "1 (Lanczos), 2 (bilinear) or 3 (bicubic)", found));
            }
        };
        let resize = if flag("do_resize")? { Some((resize_of(&config)?, filter)) } else { None };
        let crop = if flag("do_center_crop")? { Some(crop_of(&config)?) } else { None };
        let factor = if flag("do_rescale")? { config.number_or("rescale_factor", 1.0 / 255.0)? } else { 1.0 };
        let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
        if flag("do_normalize")? {
            (mean, std) = (colours(&config, "image_mean", MEAN)?, colours(&config, "image_std", STD)?);
        }
        if std.iter().any(|&s| s <= 0.0) {
            return Err(config.error("image_std", "three numbers above 0", json!(std)));
        }
        Ok(Self { resize, crop, factor, mean, std })
    }

    /// Height and width of what comes out, where that does not depend on the picture.
    pub fn output_size(&self) -> Option<[usize; 2]> {
        match (self.crop, self.resize) {
            (Some(size), _) | (None, Some((Resize::Exactly(size), _))) => Some(size),
            _ => None,
        }
    }

    /// An RGB picture of 8 bits, rows from the top: what the tower sees of it. `None` if the number of bytes is not
    /// `width * height * 3` or there are none.
    pub fn process(&self, rgb: &[u8], width: usize, height: usize) -> Option<Processed> {
        if rgb.is_empty() || Some(rgb.len()) != width.checked_mul(height).and_then(|n| n.checked_mul(3)) {
            return None;
        }
        let [new_height, new_width] = self.resized(height, width);
        let samples = Samples { bytes: rgb, width, height, channels: 3 };
        let all = [0.0, 0.0, width as f64, height as f64];
        let filter = self.resize.map_or(Filter::Bicubic, |(_, filter)| filter);
        let bytes = resample(samples, all, [new_width, new_height], filter);
        let (bytes, [height, width]) = match self.crop {
            Some(size) => (centre_crop(&bytes, [new_height, new_width], size), size),
            None => (bytes, [new_height, new_width]),
        };
        let value = |(at, &byte): (usize, &u8)| {
            let colour = at % 3;
            // transformers rounds to f32 after the rescaling.
            let scaled = f64::from((f64::from(byte) * self.factor) as f32);
            ((scaled - self.mean[colour]) / self.std[colour]) as f32
        };
        Some(Processed { height, width, values: bytes.iter().enumerate().map(value).collect() })
    }

    /// Height and width after resizing.
    fn resized(&self, height: usize, width: usize) -> [usize; 2] {
        match self.resize {
            None => [height, width],
            Some((Resize::Exactly(size), _)) => size,
            Some((Resize::ShortestEdge(edge), _)) => {
                let (short, long) = (height.min(width), height.max(width));
                let longer = (edge as f64 * long as f64 / short as f64) as usize;
                let longer = longer.clamp(edge, LONGEST.max(edge));
                if height <= width { [edge, longer] } else { [longer, edge] }
            }
        }
    }
}

/// `size`: a number (old files), `shortest_edge`, or `height` and `width`.
fn resize_of(config: &Config<'_>) -> Result<Resize, ConfigError> {
    let Some(size) = config.get("size") else { return Ok(Resize::ShortestEdge(224)) };
    if size.is_u64() {
        return side(config, "size", size).map(Resize::ShortestEdge);
    }
    match (size.get("shortest_edge"), size.get("height"), size.get("width")) {
        (Some(edge), None, None) => side(config, "size.shortest_edge", edge).map(Resize::ShortestEdge),
        (None, Some(height), Some(width)) => {
            Ok(Resize::Exactly([side(config, "size.height", height)?, side(config, "size.width", width)?]))
        }
        _ => Err(config.error("size", "`shortest_edge`, or `height` and `width`", size)),
    }
}

/// `crop_size`: a number (old files), or `height` and `width`.
fn crop_of(config: &Config<'_>) -> Result<[usize; 2], ConfigError> {
    let Some(size) = config.get("crop_size") else { return Ok([224; 2]) };
    if size.is_u64() {
        return side(config, "crop_size", size).map(|side| [side; 2]);
    }
    match (size.get("height"), size.get("width")) {
        (Some(height), Some(width)) => {
            Ok([side(config, "crop_size.height", height)?, side(config, "crop_size.width", width)?])
        }
        _ => Err(config.error("crop_size", "`height` and `width`", size)),
    }
}

fn side(config: &Config<'_>, key: &str, value: &Value) -> Result<usize, ConfigError> {
    match value.as_u64() {
        Some(side @ 1..=4096) => Ok(side as usize),
        _ => Err(config.error(key, "a whole number from 1 to 4096", value)),
    }
}

fn colours(config: &Config<'_>, key: &str, usual: [f64; 3]) -> Result<[f64; 3], ConfigError> {
    let Some(value) = config.get(key) else { return Ok(usual) };
    let numbers =
        value.as_array().and_then(|items| items.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
    let three = numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok());
    three
        .filter(|three| three.iter().all(|number| number.is_finite()))
        .ok_or_else(|| config.error(key, "three numbers", value))
}

/// The middle of a picture, sizes as height and width; black around a picture that is smaller.
fn centre_crop(bytes: &[u8], [height, width]: [usize; 2], [rows, columns]: [usize; 2]) -> Vec<u8> {
    // Of an odd number of pixels too many the smaller half is cut before, of too few the larger half is put before.
    let shift = |have: usize, want: usize| (have as i64 - want as i64).div_euclid(2);
    let (top, left) = (shift(height, rows), shift(width, columns));
    let mut out = vec![0; rows * columns * 3];
    for (row, line) in out.chunks_exact_mut(columns * 3).enumerate() {
        let Some(y) = usize::try_from(row as i64 + top).ok().filter(|&y| y < height) else { continue };
        for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
            if let Some(x) = usize::try_from(column as i64 + left).ok().filter(|&x| x < width) {
                pixel.copy_from_slice(&bytes[(y * width + x) * 3..][..3]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_old_and_new() {
        let usual = ImageProcessor::clip(224);
        assert_eq!(ImageProcessor::parse(&json!({})).unwrap(), usual);
        let old = json!({"size": 224, "crop_size": 224, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"});
        assert_eq!(ImageProcessor::parse(&old).unwrap(), usual);
        let new = json!({"image_processor": {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}});
        let new = ImageProcessor::parse(&new).unwrap();
        assert_eq!((new.output_size(), new.clone()), (Some([336, 336]), ImageProcessor::clip(336)));
    }

    #[test]
    fn refusals_name_the_key() {
        for (key, values) in [
            ("resample", json!({"resample": 9})),
            ("resample", json!({"resample": "nearest"})),
            ("size", json!({"size": {"longest_edge": 9}})),
            ("size.shortest_edge", json!({"size": {"shortest_edge": 0}})),
            ("crop_size", json!({"crop_size": {"height": 9}})),
            ("crop_size.width", json!({"crop_size": {"height": 9, "width": 1_000_000}})),
            ("image_mean", json!({"image_mean": [0.5, 0.5]})),
            ("image_std", json!({"image_std": [0.5, 0.0, 0.5]})),
            ("do_resize", json!({"do_resize": "yes"})),
        ] {
            assert_eq!(ImageProcessor::parse(&values).unwrap_err().key, key, "{values}");
        }
    }

    #[test]
    fn strips_and_rubbish() {
        let processor = ImageProcessor::clip(8);
        let strip = processor.process(&vec![7; 60_000 * 3], 60_000, 1).unwrap();
        assert_eq!((strip.height, strip.width, strip.values.len()), (8, 8, 192));
        assert!(processor.process(&[1, 2], 1, 1).is_none());
        assert!(processor.process(&[], 0, 5).is_none());
        assert!(processor.process(&[1], usize::MAX, usize::MAX).is_none());
    }
}
