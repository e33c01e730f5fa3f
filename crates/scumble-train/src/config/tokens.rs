//! `[tokens]`: new words.

use super::section::section;

section! {
    /// `[tokens]`: new words.
    Tokens {
        /// Words that the base does not have, such as `<s1>`; each gets rows of its own that are learned.
        add: Vec<String> = Vec::new(),
        /// How the words begin, one for all or one each: a known word, several words, `<rand-0.017>` or `<zero>`.
        init: Vec<String> = Vec::new(),
        /// Rows of each word: more can hold more, and take as much of the prompt's room.
        vectors: usize = 1,
        /// Pull the rows to the usual length after each update, so that other words of a prompt keep their weight.
        norm_prior: bool = true,
        /// The length they are pulled to. Left out, the median length of the base's words.
        norm: Option<f64> = None,
        /// Learning rate of the words from the end of their window on. Left out, they rest then.
        continue_lr: Option<f64> = None,
    }
}
