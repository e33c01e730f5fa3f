//! `[cache]`: results that are computed once.

use std::path::PathBuf;

use super::choice::choice;
use super::section::section;

choice! {
    /// Where results that never change are kept.
    CacheMode = Memory {
        /// Nowhere: computed again each time.
        None = "none",
        /// In memory, for this run.
        Memory = "memory",
        /// On disk under the content of picture and model, for later runs too.
        Disk = "disk",
    }
}

section! {
    /// `[cache]`: results that are computed once.
    Cache {
        /// The pictures as the UNet sees them: `none`, `memory` or `disk`.
        latents: CacheMode = CacheMode::Memory,
        /// The texts as the UNet sees them: `none`, `memory` or `disk`. Off by itself when the text encoder learns.
        texts: CacheMode = CacheMode::Memory,
        /// Folder of the disk cache. Left out, `cache` beside the runs.
        folder: Option<PathBuf> = None,
    }
}
