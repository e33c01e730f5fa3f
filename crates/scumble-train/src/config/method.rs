//! What is trained, and `[full]`, which belongs to one of the methods.

use super::choice::choice;
use super::section::section;

choice! {
    /// What is trained.
    Method = Lora {
        /// Two thin factors beside each chosen layer; the base stays as it is.
        Lora = "lora",
        /// New words alone: a few rows of the text encoder's table, everything else stays as it is.
        TextualInversion = "textual-inversion",
        /// New words in the first half, then factors around them.
        Pivotal = "pivotal",
        /// New words and factors together; the words rest after the first half.
        PivotalSingle = "pivotal-single",
        /// Every weight of the UNet. The result is a whole model.
        Full = "full",
    }
}

section! {
    /// `[full]`: learning whole weights, with `method = "full"`.
    Full {
        /// Whether the text encoder's weights learn too.
        text_encoder: bool = false,
    }
}
