//! What can go wrong with a picture, each variant naming the file and the reason.
//!
//! The file is kept as text for people (not as a path): names that are no valid UTF-8 are shown with replacement
//! characters. [`PictureError::hint`] says what to do, where there is something to do.

use super::Format;

/// A picture that cannot be read, fitted or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The operating system refused.
    #[error("cannot read picture `{file}`: {source}")]
    Read {
        /// File as shown to people.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A folder, a pipe or a device under a picture's name.
    #[error("`{file}` is not a regular file")]
    NotAFile {
        /// File as shown to people.
        file: String,
    },
    /// Zero bytes.
    #[error("`{file}` is empty (0 bytes)")]
    Empty {
        /// File as shown to people.
        file: String,
    },
    /// The content is in no format that is read here.
    #[error("`{file}` is not a JPEG, PNG, WebP, BMP or GIF picture: it {found}")]
    UnknownFormat {
        /// File as shown to people.
        file: String,
        /// What the first bytes look like, as the end of a sentence.
        found: &'static str,
    },
    /// More bytes than the limit.
    #[error("`{file}` has {bytes} bytes, more than the limit of {limit}")]
    FileTooLarge {
        /// File as shown to people.
        file: String,
        /// Its size.
        bytes: u64,
        /// [`super::Limits::file_bytes`].
        limit: u64,
    },
    /// More pixels than the limit; found in the header, before any memory was taken.
    #[error("`{file}` declares {width} x {height} pixels, more than the limit of {limit} pixels")]
    TooManyPixels {
        /// File as shown to people.
        file: String,
        /// Declared width.
        width: u64,
        /// Declared height.
        height: u64,
        /// [`super::Limits::pixels`].
        limit: u64,
    },
    /// Decoding would take more memory than the limit.
    #[error(
        "decoding `{file}` ({width} x {height}) would take about {bytes} bytes, more than the limit of {limit}"
    )]
    TooMuchMemory {
        /// File as shown to people.
        file: String,
        /// Declared width.
        width: u64,
        /// Declared height.
        height: u64,
        /// Estimated need.
        bytes: u64,
        /// [`super::Limits::decoder_bytes`].
        limit: u64,
    },
    /// Width or height 0.
    #[error("`{file}` declares {width} x {height} pixels: a picture has at least one")]
    NoPixels {
        /// File as shown to people.
        file: String,
        /// Declared width.
        width: u64,
        /// Declared height.
        height: u64,
    },
    /// The file ends before the picture does.
    #[error("`{file}` is cut off: {reason}")]
    Truncated {
        /// File as shown to people.
        file: String,
        /// Which part is missing.
        reason: String,
    },
    /// The content contradicts itself or its checksums.
    #[error("`{file}` is a damaged {format} file: {reason}")]
    Damaged {
        /// File as shown to people.
        file: String,
        /// Its format by content.
        format: Format,
        /// What the decoder found.
        reason: String,
    },
    /// A picture of a known format using something that is not read here.
    #[error("`{file}` uses a {format} feature that is not supported: {reason}")]
    Unsupported {
        /// File as shown to people.
        file: String,
        /// Its format by content.
        format: Format,
        /// The feature.
        reason: String,
    },
    /// A size that the model's latents cannot have.
    #[error("size {width} x {height}: both must be multiples of 8, at least 8 and at most {limit}")]
    TargetSize {
        /// Width asked for.
        width: usize,
        /// Height asked for.
        height: usize,
        /// Largest allowed side.
        limit: usize,
    },
    /// A PNG could not be composed.
    #[error("cannot compose the PNG for `{file}`: {reason}")]
    Encode {
        /// File as shown to people.
        file: String,
        /// Reason.
        reason: String,
    },
    /// A PNG could not be stored.
    #[error("cannot write `{file}`: {reason}")]
    Write {
        /// File as shown to people.
        file: String,
        /// The system's reason.
        reason: String,
    },
}

impl PictureError {
    /// What the reader of the message can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Read { .. } | Self::NotAFile { .. } => return None,
            Self::Empty { .. } | Self::Truncated { .. } => "copy the picture again from where it came from",
            Self::Damaged { .. } => {
                "open it in a picture editor and save it again, or take it out of the folder"
            }
            Self::UnknownFormat { .. } | Self::Unsupported { .. } => "convert it to JPEG or PNG",
            Self::FileTooLarge { .. } | Self::TooManyPixels { .. } | Self::TooMuchMemory { .. } => {
                "scale the picture down before training on it; training sizes are far smaller"
            }
            Self::NoPixels { .. } => "take the file out of the folder",
            Self::TargetSize { .. } => "choose the nearest multiple of 8, such as 512 x 512",
            Self::Encode { .. } => "shorten the texts stored in the picture",
            Self::Write { .. } => "check that the folder exists, is writable and has room",
        })
    }
}
