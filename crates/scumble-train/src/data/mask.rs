//! The mask of a picture: a file beside it, or its transparency.
//!
//! `name.mask.png` (any readable format) belongs to the picture `name.*` and has its upright size; its grey value is the
//! mean of red, green and blue. White counts, black does not. A mask is cut, scaled and mirrored with its picture.

use std::path::{Path, PathBuf};

use super::{DataError, Result, sha256};
use crate::config::MaskSource;
use crate::picture::{DecodeOptions, Picture, decode, read_bounded};

/// Where an item's mask is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemMask {
    /// A file of its own.
    File {
        /// The file.
        path: PathBuf,
        /// SHA-256 of its bytes, hexadecimal.
        sha256: String,
    },
    /// The picture's transparency.
    Alpha,
}

impl ItemMask {
    /// What tells this mask from others of the same picture.
    pub fn identity(&self) -> &str {
        match self {
            Self::File { sha256, .. } => sha256,
            Self::Alpha => "alpha",
        }
    }
}

/// The mask that `source` finds for a decoded picture; `file` is the one beside it. A file must be readable and of the
/// picture's size.
pub fn find(
    source: MaskSource,
    picture: &Picture,
    shown: &str,
    file: Option<&Path>,
    options: &DecodeOptions,
) -> Result<Option<ItemMask>> {
    let by_file = matches!(source, MaskSource::Auto | MaskSource::File);
    if let Some(path) = file.filter(|_| by_file) {
        let (mask, sha256) = read(path, options)?;
        if (mask.width, mask.height) != (picture.width, picture.height) {
            return Err(DataError::MaskSize {
                mask: path.display().to_string(),
                found: [mask.width, mask.height],
                picture: shown.to_owned(),
                expected: [picture.width, picture.height],
            });
        }
        return Ok(Some(ItemMask::File { path: path.to_owned(), sha256 }));
    }
    let by_alpha = matches!(source, MaskSource::Auto | MaskSource::Alpha);
    Ok((by_alpha && picture.alpha.is_some()).then_some(ItemMask::Alpha))
}

/// The mask as the alpha plane of its picture, so that both are fitted together.
pub fn lay(mask: &ItemMask, picture: &mut Picture, options: &DecodeOptions) -> Result<()> {
    let ItemMask::File { path, sha256 } = mask else { return Ok(()) };
    let (grey, found) = read(path, options)?;
    if found != *sha256 {
        return Err(DataError::Changed { file: path.display().to_string() });
    }
    let mean = |rgb: &[u8]| (rgb.iter().map(|&value| u32::from(value)).sum::<u32>() / 3) as u8;
    picture.alpha = Some(grey.rgb.chunks_exact(3).map(mean).collect());
    Ok(())
}

fn read(path: &Path, options: &DecodeOptions) -> Result<(Picture, String)> {
    let bytes = read_bounded(path, options.limits.file_bytes)?;
    Ok((decode(&bytes, &path.display().to_string(), options)?, sha256(&bytes)))
}
