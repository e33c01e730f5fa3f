//! `[validate]`: pictures painted while training, to see it learn.

use super::section::section;

section! {
    /// `[validate]`: pictures painted while training, to see it learn.
    Validate {
        /// What to paint; one picture for each text. Empty: none are painted.
        prompts: Vec<String> = Vec::new(),
        /// What not to paint.
        negative: String = String::new(),
        /// Paint after every so many steps (and before the first and after the last). 0: only before and after.
        every: u64 = 250,
        /// The noise that painting starts from; the same every time, so pictures can be compared.
        seed: u64 = 42,
        /// Steps of the painting.
        steps: usize = 25,
        /// How closely the painting follows the text; 1 is without guidance.
        guidance: f64 = 7.5,
        /// Sampler of the painting. Left out, the one the base model asks for.
        sampler: Option<String> = None,
    }
}
