//! `--prompts FILE`: a prompt on each line, followed by options of its own.
//!
//! ```text
//! # a comment
//! a castle at dawn
//! a (red:1.2) dog --seed 7 --steps 30 --size 512x768 --negative "blurred, dark"
//! ```
//!
//! Options begin at the first ` --`; quotes hold words together. What a line does not say is as on the command line.

use std::path::Path;

use clap::Parser;
use scumble_paint::request::Request;

use super::idle;
use super::options::PaintingOptions;
use crate::failure::{Failure, Result};

/// Largest file, in bytes.
const LARGEST: u64 = 4 << 20;

#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[arg(long)]
    negative: Option<String>,
    #[command(flatten)]
    painting: PaintingOptions,
}

/// The requests of a file, each `common` with its line's changes.
pub fn read(path: &Path, common: &Request) -> Result<Vec<Request>> {
    let failed =
        |reason: String| Failure::new(format!("cannot read prompts from `{}`: {reason}", path.display()));
    let found = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !found.is_file() || found.len() > LARGEST {
        return Err(failed(format!("it is no text file of at most {LARGEST} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let mut requests = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let request = parse(line, common).map_err(|reason| {
            Failure::usage(format!("`{}`, line {}: {reason}", path.display(), number + 1))
                .hint("write a prompt, then options such as --seed 3 or --negative \"two words\"")
        })?;
        requests.push(request);
    }
    if requests.is_empty() {
        return Err(failed("it has no prompts".to_owned()));
    }
    Ok(requests)
}

fn parse(line: &str, common: &Request) -> std::result::Result<Request, String> {
    let (prompt, options) = match line.find(" --") {
        Some(at) => line.split_at(at),
        None => (line, ""),
    };
    if prompt.starts_with("--") {
        return Err("it has options but no prompt".to_owned());
    }
    let options = Line::try_parse_from(words(options)?).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })?;
    let mut request = Request { prompt: prompt.trim().to_owned(), ..common.clone() };
    let has_negative = options.negative.is_some();
    request.negative = options.negative.unwrap_or(request.negative);
    options.painting.apply(&mut request);
    options.painting.check(&request).map_err(|failure| failure.to_string())?;
    if has_negative {
        let alone = std::slice::from_ref(&request);
        idle::check_negative("--negative", alone).map_err(|failure| failure.to_string())?;
    }
    Ok(request)
}

/// Words at spaces, but for those in quotes.
fn words(text: &str) -> std::result::Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err("a quote is not closed".to_owned()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_options() {
        let common = Request { steps: 3, negative: "n".into(), ..Request::default() };
        let plain = parse("a castle, --at dawn".split(" --").next().unwrap(), &common).unwrap();
        assert_eq!((plain.prompt.as_str(), plain.steps, plain.negative.as_str()), ("a castle,", 3, "n"));
        let full =
            parse("it's a (red:1.2) dog --seed 7 --size 64x32 --negative \"two words\"", &common).unwrap();
        assert_eq!((full.prompt.as_str(), full.seed, full.size), ("it's a (red:1.2) dog", 7, Some([64, 32])));
        assert_eq!((full.negative.as_str(), full.steps), ("two words", 3));
        for line in [
            "a --sed 3",
            "--seed 3",
            "a --negative \"x",
            "a --seed x",
            "a --hires-steps 3",
            "a --negative x --guidance 1",
        ] {
            assert!(parse(line, &common).is_err(), "{line}");
        }
        // Only what the line itself says is held against it; nothing, and a tag alone, need no guidance.
        for line in ["a --guidance 1", "a --guidance 1 --negative ''", "a --guidance 1 --negative <lora:x>"] {
            assert_eq!(parse(line, &common).unwrap().guidance, 1.0, "{line}");
        }
    }
}
