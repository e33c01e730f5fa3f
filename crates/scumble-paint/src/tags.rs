//! `<lora:NAME:STRENGTH>` in prompts: adapters asked for where the words are.
//!
//! ```text
//! <lora:name>   <lora:name:0.8>   <lora:name:0.8:0.5>            UNet and text; UNet, then text
//! <lora:name:te=0.5:unet=0.8>                                    either by name, in AUTOMATIC1111's spelling
//! ```
//!
//! The tag is taken out of the prompt. Other `<word:...>` are words of the prompt, but for `hypernet`, which is refused.

use crate::error::{PaintError, Result};

/// An adapter that a prompt asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Tag {
    /// The file's name without its ending.
    pub name: String,
    /// Strength on the UNet.
    pub unet: f32,
    /// Strength on the text encoder.
    pub text: f32,
}

/// The prompt without its tags, and the tags in order.
pub fn extract(prompt: &str) -> Result<(String, Vec<Tag>)> {
    let (mut words, mut tags, mut rest) = (String::new(), Vec::new(), prompt);
    while let Some(start) = rest.find('<') {
        let (before, from) = rest.split_at(start);
        words.push_str(before);
        let inner = from.find('>').map(|end| (&from[1..end], end + 1)).and_then(|(inner, length)| {
            let (kind, arguments) = inner.split_once(':')?;
            Some((kind, arguments, length))
        });
        match inner {
            Some(("lora" | "lyco", arguments, length)) => {
                tags.push(tag(&from[..length], arguments)?);
                rest = &from[length..];
            }
            Some(("hypernet", _, length)) => {
                return Err(PaintError::setting(
                    format!("`{}`", &from[..length]),
                    "hypernetworks are not supported",
                    "take the tag out of the prompt",
                ));
            }
            _ => {
                words.push('<');
                rest = &from[1..];
            }
        }
    }
    words.push_str(rest);
    if tags.is_empty() {
        return Ok((prompt.to_owned(), tags));
    }
    Ok((words.trim().to_owned(), tags))
}

/// A prompt of AUTOMATIC1111, where two plain numbers are text encoder, then UNet, in a form that means the same here.
pub fn from_other_programs(prompt: &str) -> String {
    let (mut words, mut rest) = (String::new(), prompt);
    while let Some(start) = rest.find("<lora:").or_else(|| rest.find("<lyco:")) {
        let Some(length) = rest[start..].find('>') else { break };
        let (before, tag) = (&rest[..start], &rest[start + 1..start + length]);
        words.push_str(before);
        let parts: Vec<&str> = tag.split(':').collect();
        let is_number = |text: &str| text.trim().parse::<f32>().is_ok();
        match parts.as_slice() {
            [kind, name, text, unet] if is_number(text) && is_number(unet) => {
                words.push_str(&format!("<{kind}:{name}:te={text}:unet={unet}>"));
            }
            _ => words.push_str(&format!("<{tag}>")),
        }
        rest = &rest[start + length + 1..];
    }
    words + rest
}

fn tag(whole: &str, arguments: &str) -> Result<Tag> {
    let wrong = |reason: &str| {
        let whole: String = whole.chars().take(80).collect();
        PaintError::setting(
            format!("`{whole}`"),
            reason,
            "write <lora:name:0.8> or <lora:name:0.8:0.5> (UNet, then text)",
        )
    };
    let mut parts = arguments.split(':');
    let name = parts.next().unwrap_or_default().trim().to_owned();
    if name.is_empty() {
        return Err(wrong("it names no adapter"));
    }
    let number = |text: &str| {
        text.trim()
            .parse::<f32>()
            .ok()
            .filter(|n| n.is_finite())
            .ok_or_else(|| wrong("its strength is no number"))
    };
    let (mut plain, mut unet, mut text) = (Vec::new(), None, None);
    for part in parts {
        match part.split_once('=') {
            Some(("te", value)) => text = Some(number(value)?),
            Some(("unet", value)) => unet = Some(number(value)?),
            Some(_) => return Err(wrong("only te= and unet= are known")),
            None => plain.push(number(part)?),
        }
    }
    if plain.len() > 2 {
        return Err(wrong("it has more than two strengths"));
    }
    let first = plain.first().copied().unwrap_or(1.0);
    let second = plain.get(1).copied().unwrap_or(first);
    Ok(Tag { name, unet: unet.unwrap_or(first), text: text.unwrap_or(second) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_taken_out() {
        let check = |prompt: &str, words: &str, expected: &[(&str, f32, f32)]| {
            let (found, tags) = extract(prompt).unwrap();
            assert_eq!(found, words);
            let tags: Vec<_> = tags.iter().map(|tag| (tag.name.as_str(), tag.unet, tag.text)).collect();
            assert_eq!(tags, expected);
        };
        check("a dog <lora:sks:0.8> at dawn", "a dog  at dawn", &[("sks", 0.8, 0.8)]);
        check("<lora:a><lora:b:1:0>x", "x", &[("a", 1.0, 1.0), ("b", 1.0, 0.0)]);
        check("x <lora:c:te=0.5:unet=2>", "x", &[("c", 2.0, 0.5)]);
        check("x <lora:c:0.7:te=0>", "x", &[("c", 0.7, 0.0)]);
        check("a <s1> dog, x < y, <b:c> <", "a <s1> dog, x < y, <b:c> <", &[]);
        check("<lora:ä ö:-1>", "", &[("ä ö", -1.0, -1.0)]);
    }

    #[test]
    fn two_numbers_of_other_programs_are_named() {
        let check = |prompt: &str, expected: &str| assert_eq!(from_other_programs(prompt), expected);
        check("a <lora:x:0.5:1> b <lyco:y:1>", "a <lora:x:te=0.5:unet=1> b <lyco:y:1>");
        check(
            "<lora:x:te=1:unet=2><lora:y:1:dyn=2> <lora:z:1",
            "<lora:x:te=1:unet=2><lora:y:1:dyn=2> <lora:z:1",
        );
    }

    #[test]
    fn broken_tags_are_named() {
        for prompt in
            ["<lora::1>", "<lora:a:x>", "<lora:a:1:2:3>", "<lora:a:nan>", "<lora:a:dyn=1>", "<hypernet:h:1>"]
        {
            let error = extract(prompt).unwrap_err();
            assert!(error.to_string().contains(prompt) && error.is_usage(), "{error}");
        }
    }
}
