//! What became of every tensor of an adapter file.

use serde::Serialize;

/// A tensor or module that was not used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// How many leftovers of a kind are written out.
const SHOWN: usize = 3;

/// One sentence, then a list of a few leftovers of each kind.
impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { dialect, modules, tokens, .. } = self;
        write!(f, "{dialect} adapter, of which {modules} modules and {tokens} tokens fit this base")?;
        if let Some(guess) = &self.guess {
            write!(f, "; {guess}")?;
        }
        let groups = [("modules do not fit", &self.misfits), ("tensors have no place", &self.unmatched)];
        for (what, leftovers) in groups.into_iter().filter(|(_, leftovers)| !leftovers.is_empty()) {
            write!(f, "\n  {} {what}:", leftovers.len())?;
            for Leftover { name, reason } in leftovers.iter().take(SHOWN) {
                write!(f, "\n    {name}: {reason}")?;
            }
            if leftovers.len() > SHOWN {
                write!(f, "\n    and {} more", leftovers.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_a_few_and_counts_the_rest() {
        let leftover = |index| Leftover { name: format!("m{index}"), reason: "too wide".into() };
        let report = LoadReport {
            dialect: "kohya",
            modules: 2,
            misfits: (0..5).map(leftover).collect(),
            guess: Some("this looks like SD2".into()),
            ..LoadReport::default()
        };
        let expected = "kohya adapter, of which 2 modules and 0 tokens fit this base; this looks like SD2\n  \
                        5 modules do not fit:\n    m0: too wide\n    m1: too wide\n    m2: too wide\n    and 2 more";
        assert_eq!(report.to_string(), expected);
    }
}
