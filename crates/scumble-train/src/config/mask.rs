//! `[mask]`: which part of each picture counts.

use super::check::{number, refuse};
use super::choice::choice;
use super::section::section;
use crate::error::Result;

choice! {
    /// Where the mask of a picture comes from.
    MaskSource = None {
        /// From nowhere: everything counts.
        None = "none",
        /// `<name>.mask.png` beside the picture where there is one, otherwise its transparency where it has one.
        Auto = "auto",
        /// `<name>.mask.png` beside the picture.
        File = "file",
        /// The picture's transparency.
        Alpha = "alpha",
    }
}
choice! {
    /// How a mask weighs the loss.
    MaskLoss = Linear {
        /// From `mask.floor` where it is black to 1 where it is white.
        Linear = "linear",
        /// As the first LoRA tool for Stable Diffusion did: squared, and relative to the batch.
        Original = "original",
    }
}

section! {
    /// `[mask]`: which part of each picture counts. White counts, black does not.
    Mask {
        /// Where masks come from: `none`, `auto`, `file` (`<name>.mask.png` beside each picture) or `alpha` (its transparency).
        source: MaskSource = MaskSource::None,
        /// How they weigh the loss: `linear`, or `original` to repeat runs of the first LoRA tool.
        loss: MaskLoss = MaskLoss::Linear,
        /// What black counts, with `linear`. A little keeps backgrounds from drifting.
        floor: f64 = 0.1,
        /// Exponent of the mask: above 1 grey counts less, below 1 more.
        temperature: f64 = 1.0,
        /// Divides each picture's weights by their mean, with `linear`, so that small masks count as much as large ones.
        normalize: bool = false,
    }
}

impl Mask {
    /// The key of the first setting that is not as it would be if nobody had written it.
    pub fn written(&self) -> Option<&'static str> {
        // Taken apart, so that a new setting can't be forgotten here.
        let Self { source, loss, floor, temperature, normalize } = self;
        let usual = Self::default();
        let keys = [
            ("mask.source", *source != usual.source),
            ("mask.loss", *loss != usual.loss),
            ("mask.floor", *floor != usual.floor),
            ("mask.temperature", *temperature != usual.temperature),
            ("mask.normalize", *normalize != usual.normalize),
        ];
        keys.into_iter().find_map(|(key, is_written)| is_written.then_some(key))
    }

    /// `by_concept`: a dataset file may ask for masks itself.
    pub(super) fn check(&self, by_concept: bool) -> Result<()> {
        let usual = Self::default();
        if self.source == MaskSource::None && *self != usual && !by_concept {
            let hint = "set `mask.source` to `auto`, `file` or `alpha`, or delete them";
            return refuse(
                "mask.source",
                "none",
                "other settings of `[mask]` are there but no masks are used",
                hint,
            );
        }
        number("mask.floor", self.floor, |floor| (0.0..=1.0).contains(&floor), "between 0 and 1")?;
        number("mask.temperature", self.temperature, |t| t > 0.0 && t <= 100.0, "above 0 and at most 100")?;
        if self.loss == MaskLoss::Original && (self.floor, self.normalize) != (usual.floor, usual.normalize) {
            let key = if self.normalize { "mask.normalize" } else { "mask.floor" };
            return refuse(key, "...", "is for `mask.loss = \"linear\"`", "delete it, or change `mask.loss`");
        }
        Ok(())
    }
}
