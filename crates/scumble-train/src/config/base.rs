//! `[base]`: the model that is fine-tuned.

use std::path::PathBuf;

use super::choice::choice;
use super::section::section;

choice! {
    /// What the base model's UNet predicts.
    Prediction = Epsilon {
        /// The noise.
        Epsilon = "epsilon",
        /// The velocity, as in SD2 768.
        Velocity = "v_prediction",
    }
}

section! {
    /// `[base]`: the model that is fine-tuned.
    Base {
        /// A diffusers folder, a `.safetensors` or `.ckpt` file, or the name of a model on the Hub such as `owner/name`.
        model: String = String::new(),
        /// Which weight files to take where a folder has several kinds, such as `fp16`.
        variant: Option<String> = None,
        /// For a single file: a diffusers folder whose configurations and tokenizer are used instead of guessed ones.
        config: Option<PathBuf> = None,
        /// What the model predicts: `epsilon` or `v_prediction`. Left out, the model's own files decide.
        prediction: Option<Prediction> = None,
        /// Never use the network; a model from the Hub must have been downloaded before.
        offline: bool = false,
    }
}
