//! The layout of a description: a head, then labelled paragraphs, broken at the width of the terminal.

use std::io::IsTerminal as _;

/// Columns of the labels.
const LABEL: usize = 12;
/// Columns of a bar.
const BAR: usize = 24;

/// A page of text.
pub struct Page {
    text: String,
    width: usize,
}

impl Page {
    /// As wide as the terminal; 100 columns elsewhere.
    pub fn new() -> Self {
        let stdout = std::io::stdout();
        let found = if stdout.is_terminal() { terminal_size::terminal_size_of(stdout) } else { None };
        Self {
            text: String::new(),
            width: found.map_or(100, |(width, _)| usize::from(width.0)).clamp(40, 160),
        }
    }

    /// The first line.
    pub fn head(&mut self, text: &str) {
        self.text.push_str(&clean(text));
        self.text.push('\n');
    }

    /// A labelled paragraph.
    pub fn text(&mut self, label: &str, text: &str) {
        let columns = self.width.saturating_sub(LABEL + 3);
        let mut label = label;
        for line in broken(text, columns) {
            self.text.push_str(format!("  {label:LABEL$} {line}").trim_end());
            self.text.push('\n');
            label = "";
        }
    }

    /// A line under the last label, not broken.
    pub fn line(&mut self, text: &str) {
        self.text.push_str(&format!("  {:LABEL$} {text}\n", ""));
    }

    /// A list under one label, of which a few are shown.
    pub fn list(&mut self, label: &str, items: &[String], shown: usize) {
        let mut label = label;
        for item in items.iter().take(shown) {
            self.text(label, item);
            label = "";
        }
        if items.len() > shown {
            self.text("", &format!("and {} more", items.len() - shown));
        }
    }

    /// The page without the last line's end.
    pub fn finish(self) -> String {
        self.text.trim_end().to_owned()
    }
}

/// Text broken into lines of at most `columns` characters, at blanks where there are any.
fn broken(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let length = word.chars().count();
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + length > columns {
            lines.push(String::new());
        } else if last > 0 {
            lines.last_mut().into_iter().for_each(|line| line.push(' '));
        }
        lines.last_mut().into_iter().for_each(|line| line.push_str(word));
    }
    lines
}

/// A bar for `value` of `most`.
pub fn bar(value: f64, most: f64) -> String {
    if value <= 0.0 || most <= 0.0 {
        return String::new();
    }
    let length = (value / most * BAR as f64).round() as usize;
    if length == 0 { "▏".into() } else { "█".repeat(length.min(BAR)) }
}

/// Without what a terminal would obey.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A number of bytes.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// A count as people read it.
pub fn count(numbers: u64) -> String {
    match numbers {
        0..10_000 => numbers.to_string(),
        10_000..1_000_000 => format!("{:.1} thousand", numbers as f64 / 1e3),
        _ => format!("{:.1} million", numbers as f64 / 1e6),
    }
}

/// `1 module`, `2 modules`.
pub fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_blanks() {
        assert_eq!(broken("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(broken("aaaaaaaa b", 5), ["aaaaaaaa", "b"]);
        assert_eq!(broken("", 5), [""]);
    }

    #[test]
    fn bars_show_what_is_there() {
        assert_eq!(bar(0.0, 1.0), "");
        assert_eq!(bar(0.001, 1.0), "▏");
        assert_eq!(bar(1.0, 1.0).chars().count(), BAR);
        assert_eq!(bar(0.5, 1.0).chars().count(), BAR / 2);
    }

    #[test]
    fn figures_for_people() {
        assert_eq!(
            (bytes(999), bytes(1_582_501), count(400)),
            ("999 bytes".into(), "1.6 MB".into(), "400".into())
        );
        assert_eq!((plural(1, "module"), plural(0, "token")), ("1 module".into(), "0 tokens".into()));
    }
}
