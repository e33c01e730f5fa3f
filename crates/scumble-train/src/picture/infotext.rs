//! The text that A1111 and its relatives store in pictures under `parameters`.
//!
//! ```text
//! <prompt, may have several lines>
//! Negative prompt: <negative, may have several lines>
//! Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x512, Model: "a, b"
//! ```
//!
//! Written: a value with a comma, colon, newline or double quote at its start becomes a JSON string; the negative line is left
//! out when there is none. Read: the last line counts as parameters only if it holds at least three `key: value` pairs; a key
//! is a word character followed by word characters, spaces, `-` or `/`; a value is a JSON string or runs to the next comma.

use std::fmt;
use std::sync::OnceLock;

use regex::Regex;

/// Prompt, negative prompt and the ordered fields of one picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Infotext {
    /// May have several lines.
    pub prompt: String,
    /// Empty if there is none.
    pub negative: String,
    /// In the order of the text.
    pub fields: Vec<(String, String)>,
}

impl Infotext {
    /// A prompt without fields.
    pub fn new(prompt: &str, negative: &str) -> Self {
        Self { prompt: prompt.into(), negative: negative.into(), fields: Vec::new() }
    }

    /// Appends a field.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.fields.push((key.into(), value.to_string()));
        self
    }

    /// Appends `Size: WxH`.
    #[must_use]
    pub fn with_size(self, width: usize, height: usize) -> Self {
        self.with("Size", format_args!("{width}x{height}"))
    }

    /// The first field of that name.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A field of the form `WxH` as two numbers.
    pub fn size(&self, key: &str) -> Option<(usize, usize)> {
        let (width, height) = self.get(key)?.split_once('x')?;
        Some((width.parse().ok()?, height.parse().ok()?))
    }

    /// Reads any text; what does not look like parameters is prompt.
    pub fn parse(text: &str) -> Self {
        let mut lines: Vec<&str> = text.trim().lines().collect();
        let mut info = Self::default();
        if let Some(last) = lines.last() {
            let fields = fields(last);
            if fields.len() >= 3 {
                info.fields = fields;
                lines.pop();
            }
        }
        let (mut prompt, mut negative, mut in_negative) = (Vec::new(), Vec::new(), false);
        for line in lines.iter().map(|line| line.trim()) {
            match line.strip_prefix("Negative prompt:") {
                Some(rest) => {
                    in_negative = true;
                    negative.push(rest.trim());
                }
                None if in_negative => negative.push(line),
                None => prompt.push(line),
            }
        }
        info.prompt = prompt.join("\n");
        info.negative = negative.join("\n").trim().to_owned();
        info
    }
}

impl fmt::Display for Infotext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prompt.trim())?;
        if !self.negative.trim().is_empty() {
            write!(f, "\nNegative prompt: {}", self.negative.trim())?;
        }
        for (i, (key, value)) in self.fields.iter().enumerate() {
            let separator = if i == 0 { "\n" } else { ", " };
            write!(f, "{separator}{key}: {}", quoted(value))?;
        }
        Ok(())
    }
}

/// The value as it stands, or as a JSON string where it would end early or be taken for one.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) || value.starts_with('"') || value.trim() != value {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_owned()
    }
}

fn fields(line: &str) -> Vec<(String, String)> {
    static PATTERN: OnceLock<Option<Regex>> = OnceLock::new();
    let pattern =
        PATTERN.get_or_init(|| Regex::new(r#"\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)"#).ok());
    let Some(pattern) = pattern else { return Vec::new() };
    pattern
        .captures_iter(line)
        .map(|found| {
            let (_, [key, value]) = found.extract();
            let text = match value.starts_with('"').then(|| serde_json::from_str::<String>(value)) {
                Some(Ok(unquoted)) => unquoted,
                _ => value.trim_end().to_owned(),
            };
            (key.to_owned(), text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a1111_writes() {
        let text = "a cat, <lora:x:0.8>\nsecond line\nNegative prompt: blurry,\nlow quality\nSteps: 20, Sampler: Euler a, \
            Schedule type: Automatic, CFG scale: 7, Seed: 965400086, Size: 512x768, Model hash: 45dee52b, \
            Lora hashes: \"x: 0123456789ab, y: 1\", Version: v1.10.0";
        let info = Infotext::parse(text);
        assert_eq!(info.prompt, "a cat, <lora:x:0.8>\nsecond line");
        assert_eq!(info.negative, "blurry,\nlow quality");
        assert_eq!(info.get("Sampler"), Some("Euler a"));
        assert_eq!(info.size("Size"), Some((512, 768)));
        assert_eq!(info.get("Lora hashes"), Some("x: 0123456789ab, y: 1"));
        assert_eq!(info.get("Version"), Some("v1.10.0"));
        assert_eq!(info.to_string(), text);
    }

    #[test]
    fn a_last_line_of_two_pairs_is_prompt() {
        let info = Infotext::parse("time: noon, place: here");
        assert_eq!((info.prompt.as_str(), info.fields.len()), ("time: noon, place: here", 0));
        assert_eq!(Infotext::parse(""), Infotext::default());
    }

    #[test]
    fn awkward_values_survive() {
        let info = Infotext::new("p", "")
            .with("Model", "a, \"b\"")
            .with("Note", "line\nline: \\ two")
            .with("Quote", "\"")
            .with("Path", "C:\\x")
            .with("Space", " x ")
            .with("Empty", "")
            .with_size(64, 96);
        assert_eq!(Infotext::parse(&info.to_string()), info);
        assert!(!info.to_string().contains("Negative prompt"));
    }

    #[test]
    fn rubbish_does_no_harm() {
        let long = "a:".repeat(50_000);
        for text in [long.as_str(), "\"\"\":,,,::", "Steps: \"\\", "Negative prompt:", "\0\u{7f}: x, y"] {
            let _ = Infotext::parse(text).to_string();
        }
        assert_eq!(Infotext::parse("Negative prompt: only").negative, "only");
    }
}
