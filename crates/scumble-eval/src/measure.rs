//! The three numbers that tell what fine-tuning did, from CLIP's directions of unit length.
//!
//! ```text
//! text alignment of a picture    cos(picture, text)            with the trigger replaced by its class word
//! image alignment of a picture   mean over references r of cos(picture, r)  =  picture . (mean of r)
//! drift of a pair                1 - cos(picture by the base, picture by the tuned model)
//!                                the same text without the trigger, the same noise
//! ```
//!
//! Text alignment falls when a model forgets what words mean; image alignment rises as it learns the subject; drift is what
//! it did to everything else. Of a set the mean is reported, with the standard error of it.

use scumble_train::picture::Picture;
use serde::Serialize;

use crate::judge::Embedding;

/// A mean and how sure it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Standard error of the mean: deviation of the values / sqrt(count); 0 for one value.
    pub error: f64,
    /// How many values.
    pub count: usize,
}

impl Mean {
    /// Of some values; `None` for none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let n = count as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
        let error = if count > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        Some(Self { mean, error, count })
    }
}

/// How well each picture shows what its text says.
pub fn text_alignment(pictures: &[Embedding], texts: &[Embedding]) -> Vec<f64> {
    pictures.iter().zip(texts).map(|(picture, text)| picture.cosine(text)).collect()
}

/// How much each picture looks like the references; nothing where there are none.
pub fn image_alignment(pictures: &[Embedding], references: &[Embedding]) -> Vec<f64> {
    let to_references = |picture: &Embedding| {
        references.iter().map(|reference| picture.cosine(reference)).sum::<f64>() / references.len() as f64
    };
    if references.is_empty() { Vec::new() } else { pictures.iter().map(to_references).collect() }
}

/// How far each picture of the tuned model is from the base's of the same text and noise.
pub fn drift(base: &[Embedding], tuned: &[Embedding]) -> Vec<f64> {
    base.iter().zip(tuned).map(|(base, tuned)| 1.0 - base.cosine(tuned)).collect()
}

/// Mean absolute difference of two pictures' samples, 0 to 1; 1 where their sizes differ.
pub fn pixel_difference(a: &Picture, b: &Picture) -> f64 {
    if (a.width, a.height) != (b.width, b.height) || a.rgb.is_empty() {
        return 1.0;
    }
    let sum: u64 = a.rgb.iter().zip(&b.rgb).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / 255.0 / a.rgb.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(degrees: f32) -> Embedding {
        let angle = degrees.to_radians();
        Embedding::new(&[angle.cos() * 3.0, angle.sin() * 3.0]).unwrap()
    }

    #[test]
    fn means_and_their_errors() {
        assert_eq!(Mean::of(&[]), None);
        assert_eq!(Mean::of(&[2.0]), Some(Mean { mean: 2.0, error: 0.0, count: 1 }));
        // Sample deviation of 1, 2, 3, 4 is sqrt(5/3); over sqrt(4).
        let mean = Mean::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((mean.mean - 2.5).abs() < 1e-12 && (mean.error - (5.0f64 / 12.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn alignments_are_cosines() {
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        close(text_alignment(&[at(0.0)], &[at(60.0)])[0], 0.5);
        // The mean direction of +-60 degrees is not made longer: 0.5, not 1.
        close(image_alignment(&[at(0.0)], &[at(60.0), at(-60.0)])[0], 0.5);
        assert!(image_alignment(&[at(0.0)], &[]).is_empty());
        close(drift(&[at(10.0), at(0.0)], &[at(10.0), at(90.0)])[0], 0.0);
        close(drift(&[at(10.0), at(0.0)], &[at(10.0), at(90.0)])[1], 1.0);
    }

    #[test]
    fn pixels() {
        let (black, white) = (Picture::filled(2, 1, [0; 3]), Picture::filled(2, 1, [255; 3]));
        assert_eq!(pixel_difference(&black, &white), 1.0);
        assert_eq!(pixel_difference(&black, &black), 0.0);
        assert_eq!(pixel_difference(&black, &Picture::filled(1, 1, [0; 3])), 1.0);
    }
}
