//! What became of every tensor of an adapter file.

use crate::error::list;

/// A tensor or module that was not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Key of the file, or path of the module.
    pub name: String,
    /// Why it was not used.
    pub reason: String,
}

/// The account of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// The file's dialect.
    pub dialect: &'static str,
    /// Modules that were matched.
    pub modules: usize,
    /// Tokens that were read.
    pub tokens: usize,
    /// Tensors that belong to no module of the base.
    pub unmatched: Vec<Leftover>,
    /// Modules whose tensors do not fit the base or each other.
    pub misfits: Vec<Leftover>,
    /// What the file seems to be made for instead.
    pub guess: Option<String>,
}

impl LoadReport {
    /// Whether everything in the file was used.
    pub fn is_complete(&self) -> bool {
        self.unmatched.is_empty() && self.misfits.is_empty()
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} adapter: {} modules and {} tokens matched", self.dialect, self.modules, self.tokens)?;
        let lines = |leftovers: &[Leftover]| {
            list(&leftovers.iter().map(|l| format!("{}: {}", l.name, l.reason)).collect::<Vec<_>>())
        };
        if !self.misfits.is_empty() {
            write!(f, "; {} modules do not fit: {}", self.misfits.len(), lines(&self.misfits))?;
        }
        if !self.unmatched.is_empty() {
            write!(f, "; {} tensors have no place: {}", self.unmatched.len(), lines(&self.unmatched))?;
        }
        if let Some(guess) = &self.guess {
            write!(f, "; {guess}")?;
        }
        Ok(())
    }
}
