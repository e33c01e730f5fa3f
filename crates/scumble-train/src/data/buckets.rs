//! Sizes for pictures of different shapes: aspect-ratio buckets.
//!
//! With buckets a picture is trained at the size, of about the same area, whose shape is nearest to its own, so that little
//! is cropped away:
//!
//! ```text
//! A = width * height of the training size
//! for w = min, min + step, ..., max:    h = min(max, floor(A / w / step) * step),  kept if h >= min
//! both (w, h) and (h, w); the training size itself
//! bucket of a picture: the same size, otherwise the smallest |ln(w / h) - ln(w' / h')|, then the larger area
//! ```

use super::{DataError, Result};
use crate::picture::TargetSize;

/// The sizes that pictures are trained at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    sizes: Vec<TargetSize>,
}

/// How buckets are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketRules {
    /// Sides are multiples of this, itself a multiple of 8.
    pub step: usize,
    /// Shortest side.
    pub min: usize,
    /// Longest side.
    pub max: usize,
}

impl BucketRules {
    /// What is usual for a training size: sides from half to twice the square's, in steps of 64, of 8 for small pictures.
    pub fn usual(size: TargetSize) -> Self {
        let side = ((size.width() * size.height()) as f64).sqrt();
        let step = if side >= 256.0 { 64 } else { 8 };
        let rounded = |length: f64| ((length / step as f64).round() as usize).max(1) * step;
        Self { step, min: rounded(side / 2.0), max: rounded(side * 2.0) }
    }
}

impl Buckets {
    /// One size for all.
    pub fn one(size: TargetSize) -> Self {
        Self { sizes: vec![size] }
    }

    /// All sizes of about the area of `size`; an error when the rules leave none.
    pub fn new(size: TargetSize, rules: BucketRules) -> Result<Self> {
        let BucketRules { step, min, max } = rules;
        let none = || DataError::NoBuckets { step, min, max, width: size.width(), height: size.height() };
        if step == 0 || !step.is_multiple_of(8) {
            return Err(none());
        }
        let area = size.width() * size.height();
        let mut sizes = Vec::new();
        for w in (min.div_ceil(step).max(1) * step..=max).step_by(step) {
            let h = max.min(area / w) / step * step;
            if h >= min.max(step) {
                sizes.extend([TargetSize::new(w, h)?, TargetSize::new(h, w)?]);
            }
        }
        if sizes.is_empty() {
            return Err(none());
        }
        sizes.push(size);
        sizes.sort();
        sizes.dedup();
        Ok(Self { sizes })
    }

    /// All sizes, narrowest first.
    pub fn sizes(&self) -> &[TargetSize] {
        &self.sizes
    }

    /// The size that a picture is trained at.
    pub fn of(&self, width: usize, height: usize) -> TargetSize {
        let shape = |w: usize, h: usize| (w as f64 / h as f64).ln();
        let wanted = shape(width, height);
        let off = |size: &TargetSize| {
            let same = size.width() == width && size.height() == height;
            if same { -1.0 } else { (shape(size.width(), size.height()) - wanted).abs() }
        };
        let area = |size: &TargetSize| size.width() * size.height();
        let nearest = self.sizes.iter().min_by(|a, b| off(a).total_cmp(&off(b)).then(area(b).cmp(&area(a))));
        // There is always one: both constructors put one in.
        nearest.copied().unwrap_or(self.sizes[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: usize, height: usize) -> TargetSize {
        TargetSize::new(width, height).unwrap()
    }

    fn buckets() -> Buckets {
        let rules = BucketRules { step: 64, min: 256, max: 1024 };
        Buckets::new(size(512, 512), rules).unwrap()
    }

    #[test]
    fn sizes_of_512_are_those_that_are_known() {
        let sizes: Vec<(usize, usize)> =
            buckets().sizes().iter().map(|size| (size.width(), size.height())).collect();
        // The list that sd-scripts logs for 512 x 512 with sides from 256 to 1024.
        let expected = [
            (256, 832),
            (256, 896),
            (256, 960),
            (256, 1024),
            (320, 704),
            (320, 768),
            (384, 640),
            (448, 576),
            (512, 512),
            (576, 448),
            (640, 384),
            (704, 320),
            (768, 320),
            (832, 256),
            (896, 256),
            (960, 256),
            (1024, 256),
        ];
        assert_eq!(sizes, expected);
        assert!(sizes.iter().all(|(w, h)| w * h <= 512 * 512));
    }

    #[test]
    fn the_nearest_shape_is_chosen() {
        let buckets = buckets();
        assert_eq!(buckets.of(4000, 3000), size(576, 448));
        assert_eq!(buckets.of(3000, 4000), size(448, 576));
        assert_eq!(buckets.of(100, 101), size(512, 512));
        assert_eq!(buckets.of(256, 960), size(256, 960));
        assert_eq!(buckets.of(10, 10_000), size(256, 1024));
        assert_eq!(Buckets::one(size(64, 128)).of(4000, 3000), size(64, 128));
    }

    #[test]
    fn usual_rules_fit_every_size() {
        for side in [8, 64, 128, 512, 1024] {
            let size = size(side, side);
            let buckets = Buckets::new(size, BucketRules::usual(size)).unwrap();
            assert!(buckets.sizes().contains(&size), "{side}");
            assert!(side == 8 || buckets.sizes().len() > 2, "{side}: {:?}", buckets.sizes());
        }
    }

    #[test]
    fn rules_that_leave_nothing_are_refused() {
        for (step, min, max) in [(64, 1024, 256), (0, 256, 512), (20, 256, 512), (64, 2048, 4096)] {
            let error = Buckets::new(size(512, 512), BucketRules { step, min, max }).unwrap_err();
            assert!(matches!(error, DataError::NoBuckets { .. }) && !error.hints().is_empty(), "{error}");
        }
    }
}
