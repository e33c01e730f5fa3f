//! `--adapter FILE[:UNET[:TEXT]]`: taken apart from the right, so that paths may hold colons.

use std::path::{Path, PathBuf};

use scumble_adapter::attach::Strength;

use crate::failure::{Failure, Result};

/// A file and its strengths.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterArg {
    /// The file.
    pub path: PathBuf,
    /// One number counts for both towers.
    pub strength: Strength,
}

impl AdapterArg {
    /// Parses the option. A path that exists as typed is taken whole.
    pub fn parse(text: &str) -> Result<Self> {
        let whole = Self { path: PathBuf::from(text), strength: Strength::default() };
        if whole.path.exists() {
            return Ok(whole);
        }
        let (path, numbers) = split_numbers(text);
        if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
            return Err(Failure::usage(format!("`--adapter {text}`: {number} is no strength"))
                .hint("0 is without the adapter, 1 is as it was trained"));
        }
        let strength = match numbers.as_slice() {
            [] => Strength::default(),
            [both] => Strength { unet: *both, text_encoder: *both },
            [unet, text_encoder] => Strength { unet: *unet, text_encoder: *text_encoder },
            _ => {
                return Err(Failure::usage(format!("`--adapter {text}` has more than two strengths"))
                    .hint("write FILE, FILE:0.8 or FILE:0.8:0.5 (UNet, then text encoder)"));
            }
        };
        if !Path::new(path).exists() {
            return Err(Failure::new(format!("there is no adapter file `{path}`"))
                .hint("strengths follow the file after colons, such as dog.safetensors:0.8"));
        }
        Ok(Self { path: PathBuf::from(path), strength })
    }

    /// Name and strengths, as pictures carry them.
    pub fn label(&self) -> String {
        let name = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Strength { unet, text_encoder } = self.strength;
        if unet == text_encoder {
            format!("<lora:{name}:{unet}>")
        } else {
            format!("<lora:{name}:{unet}:{text_encoder}>")
        }
    }
}

/// The numbers at the end, after colons.
fn split_numbers(text: &str) -> (&str, Vec<f32>) {
    let mut rest = text;
    let mut numbers = Vec::new();
    while let Some((before, last)) = rest.rsplit_once(':') {
        let Ok(number) = last.parse::<f32>() else { break };
        numbers.insert(0, number);
        rest = before;
    }
    (rest, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths() {
        assert_eq!(split_numbers("a.safetensors"), ("a.safetensors", vec![]));
        assert_eq!(split_numbers("C:\\x\\a.pt:0.5"), ("C:\\x\\a.pt", vec![0.5]));
        assert_eq!(split_numbers("a:0.5:-1"), ("a", vec![0.5, -1.0]));
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let parsed = AdapterArg::parse(&format!("{path}:0.5:0")).unwrap();
        assert_eq!(parsed.strength, Strength { unet: 0.5, text_encoder: 0.0 });
        assert!(AdapterArg::parse(&format!("{path}:1:2:3")).is_err());
        assert!(AdapterArg::parse("nothing-here.safetensors").is_err());
    }
}
