//! How the program ends: exit codes, and errors printed with their causes and hints.
//!
//! ```text
//! error: `cat.safetensors` does not fit this base model
//!   caused by: 12 of 192 modules have another input width
//! ```
//!
//! ```text
//! hint: this looks like an SD2 adapter; pass the base it was made for
//! ```

use std::process::ExitCode;

use crate::terminal::{Paint, Terminal};

/// What a command ends with when nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done.
    Done,
    /// Stopped by Ctrl-C with the state saved.
    Interrupted,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::Interrupted => ExitCode::from(130),
        }
    }
}

/// Why a command failed: an error with its causes, and hints on what to do about it.
#[derive(Debug)]
pub struct Failure {
    error: Box<dyn std::error::Error + Send + Sync>,
    hints: Vec<String>,
    exit: u8,
}

/// A command's result.
pub type Result<T = Outcome> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure that the user can mend: exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { error: message.into().into(), hints: Vec::new(), exit: 1 }
    }

    /// Wrong usage that the argument parser cannot see: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: 2, ..Self::new(message) }
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    fn from_error(error: impl std::error::Error + Send + Sync + 'static, hints: Vec<String>) -> Self {
        Self { error: Box::new(error), hints, exit: 1 }
    }

    /// Prints the error, its causes and hints on standard error; the exit code.
    pub fn report(&self, terminal: &Terminal) -> ExitCode {
        let mut text = format!("{} {}\n", terminal.paint(Paint::Error, "error:"), self.error);
        let mut last = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let message = error.to_string();
            // Transparent wrappers repeat their source's words; say everything once.
            if !last.contains(&message) {
                text.push_str(&format!("  {} {message}\n", terminal.paint(Paint::Error, "caused by:")));
            }
            last = message;
            cause = error.source();
        }
        for (index, hint) in self.hints.iter().enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            text.push_str(&format!("{gap}{} {hint}\n", terminal.paint(Paint::Hint, "hint:")));
        }
        terminal.error_text(&text);
        ExitCode::from(self.exit)
    }
}

impl From<scumble_tensor::Error> for Failure {
    fn from(error: scumble_tensor::Error) -> Self {
        Self::from_error(error, Vec::new())
    }
}

impl From<scumble_train::picture::PictureError> for Failure {
    fn from(error: scumble_train::picture::PictureError) -> Self {
        let hints = error.hint().map(str::to_owned).into_iter().collect();
        Self::from_error(error, hints)
    }
}

impl From<scumble_paint::PaintError> for Failure {
    fn from(error: scumble_paint::PaintError) -> Self {
        let (hints, exit) = (error.hints(), if error.is_usage() { 2 } else { 1 });
        Self { exit, ..Self::from_error(error, hints) }
    }
}

impl From<scumble_eval::EvalError> for Failure {
    fn from(error: scumble_eval::EvalError) -> Self {
        let (hints, exit) = (error.hints(), if error.is_usage() { 2 } else { 1 });
        Self { exit, ..Self::from_error(error, hints) }
    }
}

/// Errors that know what to do about them.
macro_rules! hinting_failure {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let hints = error.hints();
                Self::from_error(error, hints)
            }
        })+
    };
}
hinting_failure!(
    scumble_model::Error,
    scumble_model::files::FileError,
    scumble_adapter::AdapterError,
    scumble_train::TrainError,
);

/// Errors of parts that the enum over a floor's errors wraps.
macro_rules! wrapped_failure {
    ($($error:ty => $floor:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                <$floor>::from(error).into()
            }
        })+
    };
}
wrapped_failure!(
    scumble_model::sampler::SamplerError => scumble_model::Error,
    scumble_model::schedule::ScheduleError => scumble_model::Error,
    scumble_model::tokenizer::TokenizerError => scumble_model::Error,
    scumble_train::data::DataError => scumble_train::TrainError,
);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        assert_eq!(Failure::new("x").exit, 1);
        assert_eq!(Failure::usage("x").exit, 2);
        assert_eq!(
            format!("{:?}", ExitCode::from(Outcome::Interrupted)),
            format!("{:?}", ExitCode::from(130))
        );
    }
}
