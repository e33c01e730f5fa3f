//! Options that could have no effect on any of the pictures asked for. They are refused: who types one expects to see it.

use scumble_paint::adapters::AdapterUse;
use scumble_paint::request::Request;
use scumble_paint::tags;

use super::options::AdapterOptions;
use crate::failure::{Failure, Result};

/// The adapters of a picture, and its two texts without tags.
type Resolved = (Vec<AdapterUse>, [String; 2]);

/// Errors on options about adapters where no picture wears one.
pub fn check_adapters(args: &AdapterOptions, resolved: &[Resolved]) -> Result<()> {
    let given = [
        ("--fold", args.fold),
        ("--allow-partial", args.allow_partial),
        ("--adapter-guidance", args.adapter_guidance.is_some_and(|scale| scale != 1.0)),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => check_worn(option, resolved),
        None => Ok(()),
    }
}

/// Errors where no picture wears an adapter, which `what` is about.
pub fn check_worn(what: &str, resolved: &[Resolved]) -> Result<()> {
    if resolved.iter().any(|(adapters, _)| !adapters.is_empty()) {
        return Ok(());
    }
    Err(Failure::usage(format!("{what} has no effect without an adapter"))
        .hint(format!("add --adapter FILE, or leave {what} out")))
}

/// Errors where no picture is guided, and so none away from the negative prompt that came by `what`.
pub fn check_negative(what: &str, requests: &[Request]) -> Result<()> {
    let mut unheard = false;
    for request in requests {
        if request.guidance > 1.0 {
            return Ok(());
        }
        unheard |= is_unheard(request)?;
    }
    if unheard {
        return Err(Failure::usage(format!("{what} has no effect with a --guidance of 1 or less"))
            .hint(format!("give a larger --guidance, or leave {what} out")));
    }
    Ok(())
}

/// Whether a request has a negative prompt and no guidance away from it. Tags in it act all the same.
fn is_unheard(request: &Request) -> Result<bool> {
    let (words, _) = tags::extract(&request.negative)?;
    Ok(request.guidance <= 1.0 && !words.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_guided_picture_is_enough_for_a_negative_prompt() {
        let of = |guidance: f64, negative: &str| Request {
            guidance,
            negative: negative.into(),
            ..Request::default()
        };
        let check =
            |requests: &[Request]| check_negative("--negative", requests).map_err(|error| error.to_string());
        assert!(check(&[of(1.0, "dark"), of(1.1, "dark")]).is_ok());
        assert!(check(&[of(1.0, ""), of(0.5, "<lora:x:0.5>")]).is_ok(), "nothing, and a tag that acts");
        assert!(check(&[of(1.0, ""), of(0.5, "dark <lora:x>")]).unwrap_err().contains("--negative"));
    }
}
