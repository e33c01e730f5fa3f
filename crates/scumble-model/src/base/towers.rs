//! The parts of a model that adapters change, by themselves: a folder need not be complete.

use super::weights::Part;
use super::{BaseFiles, BaseOptions, Component, embedded, folder};
use crate::files::{FileError, Result};

/// UNet and text encoder, as far as they are there.
pub struct TowerFiles {
    /// The denoiser.
    pub unet: Option<Component>,
    /// The text encoder.
    pub text_encoder: Option<Component>,
}

impl TowerFiles {
    /// Opens a folder with `unet` or `text_encoder` in it, or else whatever [`BaseFiles::open`] takes.
    pub fn open(spec: &str, options: &BaseOptions) -> Result<Self> {
        let path = embedded::base_path(spec)?;
        let path = path.as_ref();
        if !path.is_dir() {
            let files = BaseFiles::open(spec, options)?;
            return Ok(Self { unet: Some(files.unet), text_encoder: Some(files.text_encoder) });
        }
        options.check_for_folder(spec)?;
        let unet = folder::open_single(spec, path, Part::Unet, options)?;
        let text_encoder = folder::open_single(spec, path, Part::TextEncoder, options)?;
        if unet.is_none() && text_encoder.is_none() {
            return Err(FileError::Missing {
                what: "a UNet or text encoder".into(),
                file: path.join("unet"),
                hint: "name a folder in diffusers' layout, or a single file".into(),
            });
        }
        Ok(Self { unet, text_encoder })
    }
}
