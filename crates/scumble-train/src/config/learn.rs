//! `[learn]`: when and how fast each part learns. [`windows`](super::windows) says what is left open.

use super::section::section;
use crate::lr_schedule::ScheduleKind;

section! {
    /// `[learn.unet]`, `[learn.text_encoder]`, `[learn.tokens]`: when and how fast one part learns.
    Window {
        /// The update that it begins with. Left out, the method decides (0 but for `pivotal`).
        start: Option<u64> = None,
        /// The update that it ends before. Left out, the method decides (the last but for new words).
        stop: Option<u64> = None,
        /// Learning rate. Left out, the one in `[train]`.
        lr: Option<f64> = None,
        /// Shape of the learning rate over the window. Left out, the one in `[train]`.
        schedule: Option<ScheduleKind> = None,
        /// Updates at the window's start that climb to the full rate. Left out, those of `[train]`.
        warmup: Option<u64> = None,
        /// How strongly it is pulled to zero. Left out, as in `[train]`; new words are not pulled.
        weight_decay: Option<f64> = None,
    }
}

section! {
    /// `[learn]`: windows and rates of the parts.
    Learn {
        /// LoRA+: how much faster the output side of each pair learns than the input side; 16 is usual. Left out, both
        /// learn alike.
        lora_plus: Option<f64> = None,
        /// Factors of the UNet's and the text encoder's rates by block: `NAME=FACTOR` with commas between (`IN04`, `MID`,
        /// `OUT08`, `BASE`, `down`, `mid`, `up`, `text`, or parts of a path such as `attn2`), or 25 numbers (IN00 to 11,
        /// MID, OUT00 to 11). Later ones win; 0 holds a block still.
        blocks: Option<String> = None,
        /// The UNet's factors or weights.
        unet: Window = Window::default(),
        /// The text encoder's factors or weights.
        text_encoder: Window = Window::default(),
        /// New words.
        tokens: Window = Window::default(),
    }
}
