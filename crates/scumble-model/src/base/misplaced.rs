//! Options that mean nothing for a kind of base. They are refused: who writes one expects that it does something.

use super::BaseOptions;
use crate::files::{FileError, Result};

impl BaseOptions {
    /// Refuses what only a single file has use for; `name` is the folder as the user called it.
    pub(super) fn check_for_folder(&self, name: &str) -> Result<()> {
        if self.config.is_none() {
            return Ok(());
        }
        refuse(
            name,
            "the setting `config` lends a single file the configurations of a folder; this is a folder, which has its own"
                .into(),
            "leave `config` out; what is wrong in a folder is changed in its config.json files",
        )
    }

    /// Refuses what only a folder has use for; `name` is the file as the user called it.
    pub(super) fn check_for_single_file(&self, name: &str) -> Result<()> {
        let Some(variant) = &self.variant else { return Ok(()) };
        refuse(
            name,
            format!(
                "the setting `variant` (here `{variant}`) chooses among the weight files of a folder; a single file has \
                 its weights only once"
            ),
            "leave `variant` out, or name the folder or the Hub's model that has this variant",
        )
    }
}

fn refuse(base: &str, reason: String, hint: &str) -> Result<()> {
    Err(FileError::Unsupported { base: base.into(), reason, hint: hint.into() })
}
