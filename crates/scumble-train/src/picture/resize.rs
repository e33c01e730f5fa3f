//! Fitting pictures to a training size: cover, crop, flip.
//!
//! How a pixel comes out of its neighbours is in [`scumble_model::resample`]. Crop and resize are one step: the part of the
//! source that will be seen (a rectangle with fractional borders) is resampled directly, so a 10 x 60000 strip costs no more
//! than a square.

use scumble_model::resample::Samples;

pub use scumble_model::resample::Filter;

use super::{Picture, PictureError, Result};

/// Largest side that is fitted to.
pub const LARGEST_SIDE: usize = 8192;

/// A size that latents can have: both sides multiples of 8, 8 to [`LARGEST_SIDE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct TargetSize {
    width: usize,
    height: usize,
}

impl TargetSize {
    /// Checks the size.
    pub fn new(width: usize, height: usize) -> Result<Self> {
        let fits = |side: usize| side.is_multiple_of(8) && (8..=LARGEST_SIDE).contains(&side);
        if fits(width) && fits(height) {
            Ok(Self { width, height })
        } else {
            Err(PictureError::TargetSize { width, height, limit: LARGEST_SIDE })
        }
    }

    /// In pixels.
    pub fn width(self) -> usize {
        self.width
    }

    /// In pixels.
    pub fn height(self) -> usize {
        self.height
    }
}

/// How a picture is brought to a size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Wanted size.
    pub size: TargetSize,
    /// Where in the room that is left over the crop lies, across and down: 0 left or top, 0.5 centre, 1 right or bottom.
    pub anchor: [f64; 2],
    /// Mirror left to right (after cropping).
    pub flip: bool,
    /// Window.
    pub filter: Filter,
}

impl Fit {
    /// The centre, unflipped, Lanczos.
    pub fn centre(size: TargetSize) -> Self {
        Self { size, anchor: [0.5; 2], flip: false, filter: Filter::default() }
    }

    /// The visible part of a `width` x `height` source: left, top, width, height.
    pub fn source_box(&self, width: usize, height: usize) -> [f64; 4] {
        let (w, h) = (width as f64, height as f64);
        let scale = self.enlargement(width, height);
        let seen = [(self.size.width as f64 / scale).min(w), (self.size.height as f64 / scale).min(h)];
        let [ax, ay] = self.anchor.map(|a| a.clamp(0.0, 1.0));
        [(w - seen[0]) * ax, (h - seen[1]) * ay, seen[0], seen[1]]
    }

    /// How many output pixels one source pixel becomes, along one side; above 1 the picture is blown up.
    pub fn enlargement(&self, width: usize, height: usize) -> f64 {
        (self.size.width as f64 / width as f64).max(self.size.height as f64 / height as f64)
    }
}

/// Scales a picture until it covers the wanted size and crops the rest off.
pub fn fit(picture: &Picture, how: &Fit) -> Picture {
    let source = how.source_box(picture.width, picture.height);
    let out = resample(picture, source, how.size.width, how.size.height, how.filter);
    if how.flip { out.flipped() } else { out }
}

/// Scales the whole picture to any size (of at least one pixel), proportions ignored.
pub fn resize(picture: &Picture, width: usize, height: usize, filter: Filter) -> Picture {
    let whole = [0.0, 0.0, picture.width as f64, picture.height as f64];
    resample(picture, whole, width.max(1), height.max(1), filter)
}

/// Resamples the rectangle `source` (left, top, width, height) to `width` x `height`.
pub(crate) fn resample(
    picture: &Picture,
    source: [f64; 4],
    width: usize,
    height: usize,
    filter: Filter,
) -> Picture {
    let plane = |bytes: &[u8], channels| {
        let samples = Samples { bytes, width: picture.width, height: picture.height, channels };
        scumble_model::resample::resample(samples, source, [width, height], filter)
    };
    Picture {
        width,
        height,
        rgb: plane(&picture.rgb, 3),
        alpha: picture.alpha.as_deref().map(|a| plane(a, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{DecodeOptions, decode};

    fn photo() -> Picture {
        let bytes = include_bytes!("../../../../tests/fixtures/images/plain.png");
        decode(bytes, "plain.png", &DecodeOptions::default()).unwrap()
    }

    /// Pillow 13: `im.resize(size, filter)` of `plain.png`: pixels at (0, 0), (w/2, h/2), (w-1, h-1).
    #[test]
    fn equals_pillow() {
        let cases: &[(usize, usize, Filter, [[i32; 3]; 3])] = PILLOW;
        let photo = photo();
        for &(w, h, filter, pixels) in cases {
            let out = resize(&photo, w, h, filter);
            for ((x, y), wanted) in [(0, 0), (w / 2, h / 2), (w - 1, h - 1)].into_iter().zip(pixels) {
                let found = out.pixel(x, y).map(i32::from);
                assert_eq!(found, wanted, "{w} x {h} {filter:?} at {x}, {y}");
            }
        }
    }

    const PILLOW: &[(usize, usize, Filter, [[i32; 3]; 3])] = &[
        (40, 24, Filter::Bilinear, [[131, 78, 57], [53, 30, 16], [164, 142, 138]]),
        (40, 24, Filter::Bicubic, [[129, 75, 54], [42, 21, 9], [166, 144, 141]]),
        (40, 24, Filter::Lanczos, [[128, 73, 53], [36, 16, 6], [167, 145, 142]]),
        (17, 61, Filter::Bilinear, [[143, 90, 72], [88, 60, 32], [155, 129, 112]]),
        (17, 61, Filter::Bicubic, [[141, 87, 69], [86, 56, 28], [157, 131, 115]]),
        (17, 61, Filter::Lanczos, [[140, 86, 69], [87, 57, 27], [157, 131, 116]]),
        (200, 160, Filter::Bilinear, [[126, 69, 50], [26, 15, 5], [172, 150, 147]]),
        (200, 160, Filter::Bicubic, [[125, 68, 49], [21, 13, 5], [173, 151, 148]]),
        (200, 160, Filter::Lanczos, [[125, 68, 49], [21, 13, 6], [173, 151, 147]]),
    ];

    #[test]
    fn the_same_size_is_the_same_picture() {
        let photo = photo();
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            assert_eq!(resize(&photo, photo.width, photo.height, filter), photo);
        }
    }

    #[test]
    fn fit_covers_crops_and_flips() {
        // Left half black, right half white: a square crop anchored left is black, right white, centre both.
        let mut wide = Picture::filled(64, 16, [0; 3]);
        for row in wide.rgb.chunks_exact_mut(64 * 3) {
            row[32 * 3..].fill(255);
        }
        let size = TargetSize::new(16, 16).unwrap();
        let at = |x: f64, flip| fit(&wide, &Fit { anchor: [x, 0.5], flip, ..Fit::centre(size) });
        assert_eq!(at(0.0, false), Picture::filled(16, 16, [0; 3]));
        assert_eq!(at(1.0, false), Picture::filled(16, 16, [255; 3]));
        let centre = at(0.5, false);
        assert_eq!((centre.pixel(0, 0), centre.pixel(15, 15)), ([0; 3], [255; 3]));
        assert_eq!(at(0.5, true), centre.flipped());
    }

    #[test]
    fn extreme_shapes_cost_no_more_than_their_crop() {
        let strip = Picture::filled(1, 60_000, [9, 8, 7]);
        let out = fit(&strip, &Fit::centre(TargetSize::new(512, 512).unwrap()));
        assert_eq!((out.width, out.height, out.pixel(511, 511)), (512, 512, [9, 8, 7]));
    }

    #[test]
    fn alpha_follows_its_picture() {
        let mut p = photo();
        p.alpha = Some((0..96 * 64).map(|i| if i % 96 < 48 { 0 } else { 255 }).collect());
        let out = fit(&p, &Fit { flip: true, ..Fit::centre(TargetSize::new(24, 16).unwrap()) });
        let alpha = out.alpha.unwrap();
        assert_eq!((alpha[0], alpha[23], alpha.len()), (255, 0, 24 * 16));
    }

    #[test]
    fn sizes_that_no_latent_has_are_refused() {
        for (w, h) in [(0, 8), (12, 8), (8, 511), (8200, 8)] {
            let message = TargetSize::new(w, h).unwrap_err().to_string();
            assert!(message.contains("multiples of 8"), "{message}");
        }
    }
}
