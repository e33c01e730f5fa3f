//! Where text goes: results on standard output, everything else on standard error; colours and the progress line
//! only where a person watches.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Meaning of a coloured text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Something went wrong.
    Error,
    /// Something deserves attention.
    Warning,
    /// Advice.
    Hint,
    /// Less important.
    Dim,
}

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// What happens and how far it is.
    Normal,
    /// Also details.
    Verbose,
}

/// The program's two output streams.
pub struct Terminal {
    color: bool,
    verbosity: Verbosity,
    live: bool,
    state: Mutex<LineState>,
}

#[derive(Default)]
struct LineState {
    line_open: bool,
    last_drawn: Option<Instant>,
}

/// A watched line is redrawn at most ten times a second.
const REDRAW: Duration = Duration::from_millis(100);
/// A log gets a plain line at most this often.
const PLAIN_LINE: Duration = Duration::from_secs(10);

impl Terminal {
    /// Looks at the streams and at NO_COLOR, CLICOLOR_FORCE and SCUMBLE_NO_PROGRESS.
    pub fn new(color: ColorChoice, verbosity: Verbosity) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => !set("NO_COLOR") && (is_terminal || set("CLICOLOR_FORCE")),
        };
        let live = is_terminal && !set("SCUMBLE_NO_PROGRESS");
        Self { color, verbosity, live, state: Mutex::default() }
    }

    /// `text` in the colour of its meaning, where colours are on.
    pub fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Error => "1;31",
            Paint::Warning => "1;33",
            Paint::Hint => "1;36",
            Paint::Dim => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A result, on standard output. A reader that went away is no failure.
    pub fn result(&self, text: &str) {
        self.close_line();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).ok();
    }

    /// What is going on, on standard error.
    pub fn status(&self, text: &str) {
        if self.verbosity >= Verbosity::Normal {
            self.error_text(&format!("{text}\n"));
        }
    }

    /// A detail for those who asked for more.
    pub fn detail(&self, text: &str) {
        if self.verbosity >= Verbosity::Verbose {
            self.error_text(&format!("{}\n", self.paint(Paint::Dim, text)));
        }
    }

    /// Something the user should look at.
    pub fn warning(&self, text: &str) {
        self.error_text(&format!("{} {text}\n", self.paint(Paint::Warning, "warning:")));
    }

    /// Raw text on standard error, below any progress line.
    pub fn error_text(&self, text: &str) {
        self.close_line();
        std::io::stderr().lock().write_all(text.as_bytes()).ok();
    }

    /// Shows how far a task is: redrawn in place on a terminal, a plain line now and then in a log.
    pub fn progress(&self, progress: &Progress) {
        if self.verbosity < Verbosity::Normal {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = if self.live { REDRAW } else { PLAIN_LINE };
        let is_due = state.last_drawn.is_none_or(|last| last.elapsed() >= wait);
        if !is_due && progress.done < progress.total {
            return;
        }
        state.last_drawn = Some(Instant::now());
        let mut stderr = std::io::stderr().lock();
        if self.live {
            let line = progress.line(terminal_width());
            write!(stderr, "\r\x1b[2K{line}").and_then(|()| stderr.flush()).ok();
            state.line_open = true;
        } else {
            writeln!(stderr, "{}", progress.line(usize::MAX)).ok();
        }
    }

    fn close_line(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.line_open) {
            std::io::stderr().lock().write_all(b"\n").ok();
        }
    }
}

fn terminal_width() -> usize {
    terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(width, _)| usize::from(width.0))
}

/// How far a task is.
pub struct Progress<'a> {
    /// What is counted: `step`, `image`, ...
    pub unit: &'a str,
    /// How many are done, those of an earlier run included.
    pub done: u64,
    /// How many there are.
    pub total: u64,
    /// How many were done since `elapsed` began; rate and time left come from these only.
    pub done_here: u64,
    /// Since this run's first unit.
    pub elapsed: Duration,
    /// Further figures, such as `loss 0.0843`.
    pub extra: &'a str,
}

impl Progress<'_> {
    /// One line of at most `width - 1` columns; the bar gives way first, then the figures on the right.
    pub fn line(&self, width: usize) -> String {
        let mut left = format!("{} {}/{}", self.unit, self.done, self.total);
        let mut right = String::new();
        if let Some(rate) = self.rate() {
            right.push_str(&if rate >= 1.0 {
                format!("{rate:.2} it/s")
            } else {
                format!("{:.2} s/it", 1.0 / rate)
            });
        }
        if !self.extra.is_empty() {
            right.push_str(&format!("  {}", self.extra));
        }
        if self.done < self.total {
            let left_over = (self.total - self.done) as f64;
            let eta = self.rate().map_or("estimating".to_owned(), |rate| duration(left_over / rate));
            right.push_str(&format!("  ETA {eta}"));
        }
        let columns = width.saturating_sub(1);
        let bar = columns.min(120).saturating_sub(left.len() + right.trim_start().len() + 5).min(30);
        if bar >= 5 {
            let filled = (bar as u64 * self.done / self.total.max(1)) as usize;
            let head = if filled < bar { ">" } else { "" };
            left.push_str(&format!(
                " [{}{head}{}]",
                "=".repeat(filled),
                " ".repeat(bar - filled - head.len())
            ));
        }
        let mut line = format!("{left} {}", right.trim_start());
        line.truncate(line.char_indices().nth(columns).map_or(line.len(), |(index, _)| index));
        line
    }

    fn rate(&self) -> Option<f64> {
        let seconds = self.elapsed.as_secs_f64();
        (self.done_here > 0 && seconds > 0.0).then(|| self.done_here as f64 / seconds)
    }
}

/// `1d 4h`, `3h 12m`, `4m 10s`, `8s`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).min(u32::MAX as f64).round() as u64;
    let (days, hours, minutes, rest) =
        (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest:02}s"),
        (0, _, _) => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(done: u64) -> Progress<'static> {
        Progress {
            unit: "step",
            done,
            total: 1000,
            done_here: done,
            elapsed: Duration::from_secs(100),
            extra: "loss 0.0843",
        }
    }

    #[test]
    fn a_line_fits_and_never_wraps() {
        for width in [1, 10, 20, 40, 60, 80, 200] {
            for done in [0, 1, 412, 999, 1000] {
                assert!(progress(done).line(width).chars().count() < width.max(1) + usize::from(width == 0));
            }
        }
        assert_eq!(progress(412).line(50), "step 412/1000 4.12 it/s  loss 0.0843  ETA 2m 23s");
        assert!(progress(412).line(100).contains("[=") && progress(1000).line(100).contains("=]"));
    }

    #[test]
    fn durations() {
        let texts: Vec<String> = [8.0, 250.0, 11520.0, 100_800.0, -1.0].map(duration).into();
        assert_eq!(texts, ["8s", "4m 10s", "3h 12m", "1d 4h", "0s"]);
    }
}
