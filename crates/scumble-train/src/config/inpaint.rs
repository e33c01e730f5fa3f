//! `[inpaint]`: what is painted over when the base is one for inpainting.

use super::check::{number, refuse};
use super::choice::choice;
use super::section::section;
use super::{Mask, MaskSource};
use crate::error::Result;

choice! {
    /// Where the holes come from that the base learns to fill.
    Holes = Random {
        /// Rectangles at random, and sometimes everything.
        Random = "random",
        /// The picture's mask: what is white is to be filled.
        Mask = "mask",
    }
}

section! {
    /// `[inpaint]`: for bases that fill holes (nine input channels). Others do not look at it.
    Inpaint {
        /// Where the holes come from: `random`, or `mask` (white is filled; needs `mask.source`).
        holes: Holes = Holes::Random,
        /// Share of the times that the whole picture is one hole, 0 to 1.
        whole: f64 = 0.25,
    }
}

impl Inpaint {
    pub(super) fn check(&self, mask: &Mask, by_concept: bool) -> Result<()> {
        number("inpaint.whole", self.whole, |share| (0.0..=1.0).contains(&share), "between 0 and 1")?;
        if self.holes == Holes::Mask && mask.source == MaskSource::None && !by_concept {
            let hint = "set `mask.source` to `auto`, `file` or `alpha`, or `inpaint.holes` to `random`";
            return refuse("inpaint.holes", self.holes, "needs masks", hint);
        }
        Ok(())
    }
}
