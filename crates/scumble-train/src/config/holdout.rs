//! `[holdout]`: pictures that are not trained on, to see whether the model learns the subject or the pictures by heart.

use std::path::PathBuf;

use super::check::{at_least_one, number, refuse};
use super::section::section;
use crate::error::Result;

section! {
    /// `[holdout]`: pictures that are only tested with: the validation loss.
    Holdout {
        /// A folder of pictures to test with, with texts as for the others.
        folder: Option<PathBuf> = None,
        /// Share of the pictures to test with instead, 0 to 0.9; they are not trained on. 0 is none.
        share: f64 = 0.0,
        /// Test after every so many steps, and after the last.
        every: u64 = 100,
        /// Noise levels for each picture and test. More are steadier and take longer.
        draws: usize = 4,
        /// Stop after so many tests without a better one. 0 never stops.
        patience: usize = 0,
    }
}

impl Holdout {
    /// Whether anything is tested.
    pub fn is_on(&self) -> bool {
        self.folder.is_some() || self.share > 0.0
    }

    pub(super) fn check(&self) -> Result<()> {
        number("holdout.share", self.share, |share| (0.0..=0.9).contains(&share), "between 0 and 0.9")?;
        if self.folder.is_some() && self.share > 0.0 {
            let hint = "give a folder, or a share of the training pictures";
            return refuse("holdout.share", self.share, "and `holdout.folder` are both given", hint);
        }
        if !self.is_on() && *self != Self::default() {
            let hint = "say what to test with: `holdout.folder` or `holdout.share`";
            return refuse(
                "holdout.share",
                0,
                "other settings of `[holdout]` are there but nothing is held out",
                hint,
            );
        }
        at_least_one("holdout.every", self.every)?;
        at_least_one("holdout.draws", self.draws as u64)?;
        if self.draws > 100 {
            return refuse("holdout.draws", self.draws, "must be at most 100", "4 to 10 are usual");
        }
        Ok(())
    }
}
