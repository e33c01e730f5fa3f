//! What can go wrong between a folder and a batch. [`DataError::hints`] says what to do.

use std::path::PathBuf;

use super::report::Skipped;
use crate::config::MaskSource;
use crate::picture::PictureError;

/// A folder of pictures that cannot be trained on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Nothing there, or a file.
    #[error("`{}` is not a folder", folder.display())]
    NotAFolder {
        /// The path given.
        folder: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot list the folder `{}`: {source}", folder.display())]
    List {
        /// The path given.
        folder: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A folder without a single picture.
    #[error("there are no pictures in `{}` ({others} other files and folders are there)", folder.display())]
    NoPictures {
        /// The folder.
        folder: PathBuf,
        /// Entries that are no pictures.
        others: usize,
    },
    /// All pictures were skipped.
    #[error("none of the pictures in `{}` can be used ({}): {}", folder.display(), skipped.len(), first(skipped))]
    NothingUsable {
        /// The folder.
        folder: PathBuf,
        /// Each with its reason.
        skipped: Vec<Skipped>,
    },
    /// A picture that cannot be read.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A picture smaller than one cell of the latents.
    #[error("`{file}` has {width} x {height} pixels: too small to learn from (at least 8 x 8)")]
    TooSmall {
        /// The file.
        file: String,
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
    },
    /// A mask that does not fit its picture.
    #[error(
        "the mask `{mask}` has {} x {} pixels, its picture `{picture}` has {} x {}",
        found[0], found[1], expected[0], expected[1]
    )]
    MaskSize {
        /// The mask's file.
        mask: String,
        /// Its width and height.
        found: [usize; 2],
        /// The picture's file.
        picture: String,
        /// Its upright width and height.
        expected: [usize; 2],
    },
    /// Masks were asked for and there are none.
    #[error("`mask.source` is {source_name}, but no picture in `{}` has a mask", folder.display())]
    NoMasks {
        /// The folder.
        folder: PathBuf,
        /// What was asked for.
        source_name: MaskSource,
    },
    /// A setting about masks, and a dataset file of which no concept has masks.
    #[error("`{setting}` is about masks, but no concept of `{dataset}` says where masks come from")]
    MasksUnasked {
        /// The setting's key.
        setting: &'static str,
        /// The dataset file.
        dataset: String,
    },
    /// Masks were asked for, and none is left to learn from.
    #[error("the pictures with a mask ({masks}) are all held out to test with: none is left to learn from")]
    MasksHeldOut {
        /// Pictures with a mask.
        masks: usize,
    },
    /// Rules for sizes that no size follows.
    #[error(
        "no picture size has sides from {min} to {max} in steps of {step} and the area of {width} x {height}"
    )]
    NoBuckets {
        /// Steps of the sides.
        step: usize,
        /// Shortest side.
        min: usize,
        /// Longest side.
        max: usize,
        /// Of the training size.
        width: usize,
        /// Of the training size.
        height: usize,
    },
    /// A dataset file, or one of its concepts, that cannot be used.
    #[error("{file}: {problem}")]
    DatasetFile {
        /// The file or the concept.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Too few pictures to hold some out.
    #[error("{held_out} of {pictures} pictures would be held out, and {left} be left to learn from")]
    HoldOut {
        /// Usable pictures.
        pictures: usize,
        /// Held out.
        held_out: usize,
        /// Left.
        left: usize,
    },
    /// A file that would have to be written over.
    #[error("`{}` is there already", file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// Writing failed.
    #[error("cannot write `{}`: {source}", file.display())]
    Write {
        /// The file or folder.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file was replaced while it was being used.
    #[error("`{file}` has changed since the folder was read")]
    Changed {
        /// The file.
        file: String,
    },
    /// A caption file that is no text.
    #[error("the caption file `{file}` cannot be used: {reason}")]
    Caption {
        /// The caption file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A picture without the caption file that was asked for.
    #[error("`{picture}` has no caption: there is no `{expected}` beside it")]
    MissingCaption {
        /// The picture.
        picture: String,
        /// The caption file's name.
        expected: String,
    },
    /// Settings that give no text.
    #[error("{setting} needs `{missing}`")]
    MissingSetting {
        /// What was chosen.
        setting: &'static str,
        /// What is absent or empty.
        missing: &'static str,
    },
    /// A draw that belongs to another data set.
    #[error("picture {index} was asked for, but the data set has {items}")]
    NoSuchItem {
        /// Index of the draw.
        index: usize,
        /// Number of pictures.
        items: usize,
    },
}

/// The first reasons, for a message of bearable length.
fn first(skipped: &[Skipped]) -> String {
    let shown: Vec<&str> = skipped.iter().take(3).map(|s| s.reason.as_str()).collect();
    let more = skipped.len() - shown.len();
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join("; "))
}

impl DataError {
    /// Whether leaving one file out would help.
    pub fn concerns_one_file(&self) -> bool {
        matches!(self, Self::Picture(_) | Self::TooSmall { .. } | Self::Caption { .. })
    }

    /// What the reader of the message can do.
    pub fn hints(&self) -> Vec<String> {
        let one = |hint: &str| vec![hint.to_owned()];
        match self {
            Self::NotAFolder { .. } | Self::List { .. } => {
                one("give a folder that holds the pictures themselves; folders inside it are not entered")
            }
            Self::NoPictures { .. } => {
                one("put JPEG, PNG, WebP, BMP or GIF files right into it; folders inside it are not entered")
            }
            Self::NothingUsable { skipped, .. } => {
                let mut hints: Vec<String> = skipped.iter().flat_map(|s| s.hints.clone()).collect();
                hints.sort();
                hints.dedup();
                hints
            }
            Self::Picture(error) => error.hint().map(str::to_owned).into_iter().collect(),
            Self::TooSmall { .. } => one("use a larger version of the picture, or take it out of the folder"),
            Self::MaskSize { .. } => one(
                "paint the mask on the picture itself, after turning it upright, and save it at the same size",
            ),
            Self::NoMasks { .. } => one(
                "put `<name>.mask.png` beside the pictures, save them with transparency, or set `mask.source` to `none`",
            ),
            Self::MasksUnasked { setting, .. } => vec![format!(
                "write `mask = \"file\"` (`<name>.mask.png` beside the pictures), `\"alpha\"` (their transparency) or \
                 `\"auto\"` into `[defaults]` or a `[[concept]]`, or delete `{setting}`"
            )],
            Self::MasksHeldOut { .. } => one(
                "give more pictures masks, hold out a folder of its own with `holdout.folder`, or set `mask.source` to `none`",
            ),
            Self::Exists { .. } => one("choose a new folder with `--out`; nothing was written"),
            Self::Write { .. } => one("allow this user to write there, or choose another folder"),
            Self::NoBuckets { .. } => one(
                "give `data.bucket_step` a multiple of 8, and a wider range with `data.bucket_min` and `data.bucket_max`",
            ),
            Self::DatasetFile { .. } => one("docs/datasets.md lists what a dataset file can hold"),
            Self::HoldOut { .. } => {
                one("change `holdout.share`, or hold out a folder of its own with `holdout.folder`")
            }
            Self::Changed { .. } => one("start again, and leave the folder alone while training"),
            Self::Caption { .. } => one("save it as plain text in UTF-8, one line, or delete it"),
            Self::MissingCaption { .. } => {
                one("write the file, or let captions come from `auto`, `file-name` or `prompt`")
            }
            Self::MissingSetting { missing, .. } => vec![format!("set `{missing}`, such as `sks dog`")],
            Self::NoSuchItem { .. } => Vec::new(),
        }
    }
}
