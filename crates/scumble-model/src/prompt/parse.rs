//! From a prompt's text to parts with weights.

/// What a round bracket multiplies with; a square one divides by it.
const BRACKET: f64 = 1.1;

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Words and their weight.
    Text(String, f32),
    /// `BREAK`: what follows begins a new chunk.
    Break,
}

/// A prompt's parts in order; neighbours of one weight are one part. Brackets that are never closed hold to the end.
pub fn parse(prompt: &str) -> Vec<Part> {
    let mut pieces: Vec<(String, f64)> = Vec::new();
    let (mut round, mut square) = (Vec::new(), Vec::new());
    let mut rest = prompt;
    let push = |pieces: &mut Vec<(String, f64)>, text: &str| pieces.push((text.to_owned(), 1.0));
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match c {
            '\\' => {
                let escaped = rest[1..].chars().next().filter(|next| "()[]\\".contains(*next));
                let text = escaped.map_or("\\", |next| &rest[1..1 + next.len_utf8()]);
                taken += escaped.map_or(0, char::len_utf8);
                push(&mut pieces, text);
            }
            '(' => round.push(pieces.len()),
            '[' => square.push(pieces.len()),
            ':' if !round.is_empty() && weight(rest).is_some() => {
                let (number, length) = weight(rest).unwrap_or((1.0, 1));
                multiply(&mut pieces, round.pop(), number);
                taken = length;
            }
            ')' if !round.is_empty() => multiply(&mut pieces, round.pop(), BRACKET),
            ']' if !square.is_empty() => multiply(&mut pieces, square.pop(), 1.0 / BRACKET),
            _ => {
                let end = rest[taken..].find(['\\', '(', ')', '[', ']', ':']);
                taken = end.map_or(rest.len(), |end| taken + end);
                push(&mut pieces, &rest[..taken]);
            }
        }
        rest = &rest[taken..];
    }
    for open in round {
        multiply(&mut pieces, Some(open), BRACKET);
    }
    for open in square {
        multiply(&mut pieces, Some(open), 1.0 / BRACKET);
    }
    joined(pieces)
}

/// The words of a prompt without weights, for tools that know none.
pub fn plain(prompt: &str) -> String {
    let words = parse(prompt).into_iter().map(|part| match part {
        Part::Text(text, _) => text,
        Part::Break => " ".to_owned(),
    });
    words.collect::<Vec<_>>().concat()
}

/// `: 1.3 )` at the beginning of `text`: the number and the length of it all.
fn weight(text: &str) -> Option<(f64, usize)> {
    let close = text.find(')')?;
    let number: &str = text[1..close].trim();
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let value = number.parse::<f64>().ok().filter(|value| plain && value.is_finite())?;
    Some((value, close + 1))
}

fn multiply(pieces: &mut [(String, f64)], from: Option<usize>, factor: f64) {
    let from = from.unwrap_or(pieces.len());
    pieces[from..].iter_mut().for_each(|(_, weight)| *weight *= factor);
}

/// Breaks found, neighbours of one weight joined, weights rounded.
fn joined(pieces: Vec<(String, f64)>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (text, weight) in pieces {
        let weight = weight as f32;
        for (index, text) in split_at_breaks(&text).into_iter().enumerate() {
            if index > 0 {
                parts.push(Part::Break);
            }
            match parts.last_mut() {
                _ if text.is_empty() => {}
                Some(Part::Text(before, other)) if *other == weight => before.push_str(text),
                _ => parts.push(Part::Text(text.to_owned(), weight)),
            }
        }
    }
    parts
}

/// The text between the words `BREAK`, without the space around them.
fn split_at_breaks(text: &str) -> Vec<&str> {
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (mut parts, mut start, mut from) = (Vec::new(), 0, 0);
    while let Some(found) = text[from..].find("BREAK") {
        let (begin, end) = (from + found, from + found + "BREAK".len());
        if !word(text[..begin].chars().next_back()) && !word(text[end..].chars().next()) {
            parts.push(text[start..begin].trim_end());
            start = end + (text[end..].len() - text[end..].trim_start().len());
        }
        from = end.max(start);
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prompt: &str, expected: &[(&str, f64)]) {
        let close = |parts: &[Part]| {
            parts.len() == expected.len()
                && parts.iter().zip(expected).all(|(part, (text, weight))| match part {
                    Part::Text(found, w) => found == text && (f64::from(*w) - weight).abs() < 1e-6,
                    Part::Break => *text == "BREAK" && *weight < 0.0,
                })
        };
        let parts = parse(prompt);
        assert!(close(&parts), "{prompt}: {parts:?}");
    }

    /// The published examples of AUTOMATIC1111's parser and their results.
    #[test]
    fn as_the_original_reads_them() {
        check("normal text", &[("normal text", 1.0)]);
        check("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
        check("(unbalanced", &[("unbalanced", 1.1)]);
        check("\\(literal\\]", &[("(literal]", 1.0)]);
        check("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]);
        check(
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            &[
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        );
    }

    #[test]
    fn breaks_escapes_and_odd_ends() {
        check("a BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]);
        check("(a BREAK b:1.5)", &[("a", 1.5), ("BREAK", -1.0), ("b", 1.5)]);
        check("BREAKFAST a_BREAK", &[("BREAKFAST a_BREAK", 1.0)]);
        check("BREAK", &[("BREAK", -1.0)]);
        check("a: b, 10:30)", &[("a: b, 10:30)", 1.0)]);
        check("(a:b)", &[("a:b", 1.1)]);
        check("(a:-1)(b: +.5 )", &[("a", -1.0), ("b", 0.5)]);
        check("\\", &[("\\", 1.0)]);
        check("\\\\(x)", &[("\\", 1.0), ("x", 1.1)]);
        check("] ) é(ü", &[("] ) é", 1.0), ("ü", 1.1)]);
        check("(a:1e9)", &[("a:1e9", 1.1)]);
        check("", &[]);
        assert_eq!(plain("a (red:1.2) [dog] \\(here\\) BREAK b"), "a red dog (here) b");
    }

    #[test]
    fn deep_nesting_does_no_harm() {
        let text = format!("{}x{}", "(".repeat(20_000), ")".repeat(20_000));
        assert_eq!(parse(&text).len(), 1);
        parse(&"[(:1)".repeat(10_000));
    }
}
