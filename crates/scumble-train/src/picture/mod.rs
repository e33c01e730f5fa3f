//! Pictures: reading them in whatever form people keep them, fitting them to a training size, writing PNG.
//!
//! One type, [`Picture`]: 8-bit RGB rows from the top, pixels interleaved, plus the alpha plane if the file had one.
//! Everything that arrives is turned into it at the door ([`decode`]); nothing further in knows of palettes, CMYK,
//! 16-bit samples or camera orientation. Colours are sRGB as stored: colour profiles are not applied.

pub mod canvas;
pub mod decode;
mod error;
pub mod font;
pub mod gif;
pub mod infotext;
pub mod png;
pub mod resize;
pub mod sheet;
mod structure;
pub mod table;

pub use decode::{DecodeOptions, Format, Limits, decode, read, read_bounded};
pub use error::PictureError;
pub use gif::Animation;
pub use infotext::Infotext;
pub use resize::{Filter, Fit, TargetSize, fit, resize};
pub use sheet::{Sheet, SheetRow};
pub use table::Table;

/// The result of everything that touches pictures.
pub type Result<T, E = PictureError> = std::result::Result<T, E>;

/// An 8-bit RGB picture, rows from the top, three bytes a pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes, red first.
    pub rgb: Vec<u8>,
    /// `height * width` bytes, 255 opaque, where the file had transparency. `rgb` is already flattened.
    pub alpha: Option<Vec<u8>>,
}

impl std::fmt::Debug for Picture {
    /// Sizes only: the samples would bury any message.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} x {}, alpha: {})", self.width, self.height, self.alpha.is_some())
    }
}

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, rgb: colour.repeat(width * height), alpha: None }
    }

    /// Takes interleaved RGB bytes; `None` if their number is not `width * height * 3`.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Option<Self> {
        let expected = width.checked_mul(height)?.checked_mul(3)?;
        (rgb.len() == expected && expected > 0).then_some(Self { width, height, rgb, alpha: None })
    }

    /// The colour at column `x`, row `y`; black outside.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        match self.rgb.get(at..at + 3) {
            Some(&[r, g, b]) if x < self.width => [r, g, b],
            _ => [0; 3],
        }
    }

    /// The values a VAE encoder takes: `x / 127.5 - 1`, shape `[height, width, 3]`.
    pub fn to_signed_unit(&self) -> Vec<f32> {
        self.rgb.iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect()
    }

    /// The picture behind a VAE decoder's output of shape `[height, width, 3]`, as diffusers turns it into bytes:
    /// `round(clamp(x / 2 + 0.5, 0, 1) * 255)`, halves to the even neighbour. NaN becomes 0. `None` if the number of
    /// values does not fit.
    pub fn from_signed_unit(width: usize, height: usize, values: &[f32]) -> Option<Self> {
        let byte = |&v: &f32| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        Self::from_rgb(width, height, values.iter().map(byte).collect())
    }

    /// Mirrored left to right.
    pub fn flipped(&self) -> Self {
        let mirror = |plane: &[u8], channels: usize| -> Vec<u8> {
            plane
                .chunks_exact(self.width * channels)
                .flat_map(|row| row.chunks_exact(channels).rev().flatten().copied())
                .collect()
        };
        Self {
            width: self.width,
            height: self.height,
            rgb: mirror(&self.rgb, 3),
            alpha: self.alpha.as_deref().map(|a| mirror(a, 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_unit_and_back() {
        let picture = Picture::from_rgb(3, 1, vec![0, 1, 127, 128, 200, 255, 7, 8, 9]).unwrap();
        let values = picture.to_signed_unit();
        assert_eq!((values[0], values[5]), (-1.0, 1.0));
        assert_eq!(Picture::from_signed_unit(3, 1, &values).unwrap(), picture);
        let out = Picture::from_signed_unit(1, 1, &[-7.0, f32::NAN, 9.0]).unwrap();
        assert_eq!(out.rgb, [0, 0, 255]);
        assert!(Picture::from_signed_unit(2, 1, &[0.0; 3]).is_none());
    }

    #[test]
    fn flip_mirrors_colour_and_alpha() {
        let picture = Picture { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6], alpha: Some(vec![7, 8]) };
        let flipped = picture.flipped();
        assert_eq!((flipped.rgb.clone(), flipped.alpha.clone()), (vec![4, 5, 6, 1, 2, 3], Some(vec![8, 7])));
        assert_eq!(flipped.flipped(), picture);
    }
}
