//! Which adapter, where it is found, and how strongly it acts on which module at which step.
//!
//! ```text
//! strength of a module = strength of its tower * factor of its block * factor of the schedule (UNet only)
//! ```
//!
//! Blocks are chosen by selectors; of several that fit, the last counts:
//!
//! | selector | modules |
//! |---|---|
//! | `unet`, `text` | all of that tower |
//! | `down`, `mid`, `up`, `down.1`, `up.2` | the UNet's parts, or one block of them |
//! | `text.11` | one layer of the text encoder |
//! | anything else, such as `attn2` or `attn1.to_q` | modules with these parts in their path |

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{PaintError, Result};
use crate::schedule::Schedule;
use crate::tags::Tag;

/// Endings of adapter files, in the order in which they are looked for.
const ENDINGS: [&str; 5] = ["safetensors", "sft", "pt", "bin", "ckpt"];

/// How many files and folders a search looks at.
const MOST_LOOKED_AT: usize = 100_000;

/// One adapter of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterUse {
    /// The file. Pictures keep the path only if it is a relative one.
    pub file: PathBuf,
    /// The first 12 digits of its SHA-256, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Strength on the UNet.
    pub unet: f32,
    /// Strength on the text encoder.
    pub text: f32,
    /// Factors of blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<(String, f32)>,
    /// The factor over the steps.
    #[serde(default, skip_serializing_if = "is_constant")]
    pub schedule: Schedule,
}

fn is_constant(schedule: &Schedule) -> bool {
    *schedule == Schedule::Constant
}

impl AdapterUse {
    /// A file at one strength for both towers.
    pub fn new(file: PathBuf, unet: f32, text: f32) -> Self {
        Self { file, hash: None, unet, text, blocks: Vec::new(), schedule: Schedule::Constant }
    }

    /// Reads `FILE[:UNET[:TEXT]]`, taken apart from the right, so that paths may hold colons. What exists as typed is
    /// taken whole; what does not is looked for by name in `folders`.
    pub fn parse(text: &str, folders: &[PathBuf]) -> Result<Self> {
        if Path::new(text).is_file() {
            return Ok(Self::new(text.into(), 1.0, 1.0));
        }
        let (name, numbers) = split_numbers(text);
        let hint = "write FILE, FILE:0.8 or FILE:0.8:0.5 (UNet, then text encoder)";
        if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
            return Err(PaintError::setting(format!("`{text}`"), format!("{number} is no strength"), hint));
        }
        let (unet, text_encoder) = match numbers.as_slice() {
            [] => (1.0, 1.0),
            &[both] => (both, both),
            &[unet, text_encoder] => (unet, text_encoder),
            _ => {
                return Err(PaintError::setting(format!("`{text}`"), "it has more than two strengths", hint));
            }
        };
        let path = Path::new(name);
        let file = if path.exists() { path.to_owned() } else { find(folders, name)? };
        Ok(Self::new(file, unet, text_encoder))
    }

    /// The adapter of a tag, looked for in `folders`.
    pub fn of_tag(tag: &Tag, folders: &[PathBuf]) -> Result<Self> {
        Ok(Self::new(find(folders, &tag.name)?, tag.unet, tag.text))
    }

    /// The file's name without its ending.
    pub fn name(&self) -> String {
        self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// As it is typed: `FILE[:UNET[:TEXT]]`, the path as pictures keep it.
    pub(crate) fn written(&self) -> String {
        let file = crate::record::portable(&self.file).display().to_string();
        match (self.unet, self.text) {
            (1.0, 1.0) => file,
            (unet, text) if unet == text => format!("{file}:{unet}"),
            (unet, text) => format!("{file}:{unet}:{text}"),
        }
    }

    /// As prompts have it. AUTOMATIC1111 reads two plain numbers the other way round, so both are named where they
    /// differ.
    pub fn label(&self) -> String {
        let (name, unet, text) = (self.name(), self.unet, self.text);
        if unet == text {
            format!("<lora:{name}:{unet}>")
        } else {
            format!("<lora:{name}:te={text}:unet={unet}>")
        }
    }

    /// The strength on the module at `path` with the schedule's factor `factor`.
    pub fn strength(&self, path: &str, factor: f32) -> f32 {
        let block = self.blocks.iter().rev().find(|(selector, _)| selects(selector, path));
        let block = block.map_or(1.0, |(_, factor)| *factor);
        match path.starts_with("unet.") {
            true => self.unet * block * factor,
            false => self.text * block,
        }
    }

    /// Errors where a selector fits none of the modules at `paths`.
    pub fn check_blocks(&self, paths: &[String]) -> Result<()> {
        let idle = |selector: &&(String, f32)| !paths.iter().any(|path| selects(&selector.0, path));
        let Some((selector, _)) = self.blocks.iter().find(idle) else { return Ok(()) };
        Err(PaintError::setting(
            format!("block `{selector}`"),
            format!("`{}` has no module there", self.file.display()),
            "blocks are named unet, down.0, mid, up.1, text, text.3, or by parts of a path such as attn2",
        ))
    }
}

/// Reads `mid=0.5,up.1=0`.
pub fn parse_blocks(text: &str) -> Result<Vec<(String, f32)>> {
    let one = |part: &str| {
        let pair = part.split_once('=').map(|(name, value)| (name.trim(), value.trim().parse::<f32>()));
        match pair {
            Some((name, Ok(value))) if value.is_finite() && !name.is_empty() => Ok((name.to_owned(), value)),
            _ => Err(PaintError::setting(
                format!("block strength `{part}`"),
                "it is no name and number",
                "write BLOCK=NUMBER, several with commas, such as mid=0.5,up.1=0",
            )),
        }
    };
    text.split(',').map(one).collect()
}

fn selects(selector: &str, path: &str) -> bool {
    let dotted = format!(".{path}.");
    let (head, number) = selector.split_once('.').unwrap_or((selector, ""));
    let part = match (head, number.parse::<usize>(), number) {
        ("unet", _, "") => "unet".to_owned(),
        ("text", _, "") => "text_encoder".to_owned(),
        ("text", Ok(layer), _) => format!("encoder.layers.{layer}"),
        ("mid", _, "") => "mid_block".to_owned(),
        ("down" | "up", _, "") => format!("{head}_blocks"),
        ("down" | "up", Ok(block), _) => format!("{head}_blocks.{block}"),
        _ => selector.to_owned(),
    };
    dotted.contains(&format!(".{part}."))
}

/// The adapter file of a name (its path below a folder, with or without ending) in some folders and those below them.
pub fn find(folders: &[PathBuf], name: &str) -> Result<PathBuf> {
    find_file("adapter", folders, name, "pass --adapter-dir FOLDER to say where adapters are")
}

/// As [`find`], for other files.
pub(crate) fn find_file(what: &'static str, folders: &[PathBuf], name: &str, hint: &str) -> Result<PathBuf> {
    let mut files = Vec::new();
    let mut looked_at = 0;
    for folder in folders {
        if !folder.is_dir() {
            let name = folder.display().to_string();
            return Err(PaintError::file("folder", name, "it is not there", hint));
        }
        gather(folder, &mut files, &mut looked_at);
    }
    files.sort();
    let stem = |path: &Path| path.with_extension("").to_string_lossy().replace('\\', "/");
    let fits = |path: &&PathBuf| {
        let ends = |whole: &str| whole == name || whole.ends_with(&format!("/{name}"));
        ends(&stem(path)) || ends(&path.to_string_lossy().replace('\\', "/"))
    };
    let found: Vec<&PathBuf> = files.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let near = files
                .iter()
                .filter_map(|file| file.file_stem())
                .map(|stem| stem.to_string_lossy().into_owned());
            let near = near
                .map(|known| (strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase()), known))
                .filter(|(near, _)| *near > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = near.map_or(hint.to_owned(), |(_, known)| format!("did you mean `{known}`?"));
            Err(PaintError::file(what, name, "there is no such file", hint))
        }
        [first, second, ..] => Err(PaintError::file(
            what,
            name,
            format!("several files have this name: {} and {}", first.display(), second.display()),
            "write more of the path",
        )),
    }
}

/// The files below a folder that may hold weights, in no order; `looked_at` counts against a limit.
pub(crate) fn gather(folder: &Path, files: &mut Vec<PathBuf>, looked_at: &mut usize) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        *looked_at += 1;
        let (path, kind) = (entry.path(), entry.file_type());
        match kind {
            _ if *looked_at > MOST_LOOKED_AT => return,
            // Links to folders are not followed: they may lead back up.
            Ok(kind) if kind.is_dir() => gather(&path, files, looked_at),
            _ => {
                let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
                if ENDINGS.contains(&ending.as_str()) {
                    files.push(path);
                }
            }
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

/// The first 12 digits of a file's SHA-256, which is how adapters are told apart in pictures.
pub fn short_hash(path: &Path) -> Result<String> {
    let failed = |error: std::io::Error| {
        PaintError::file("adapter", path.display().to_string(), format!("cannot be read: {error}"), "")
    };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match std::io::Read::read(&mut file, &mut buffer).map_err(failed)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_behind_a_path() {
        assert_eq!(split_numbers("a.safetensors"), ("a.safetensors", vec![]));
        assert_eq!(split_numbers("C:\\x\\a.pt:0.5"), ("C:\\x\\a.pt", vec![0.5]));
        assert_eq!(split_numbers("a:0.5:-1"), ("a", vec![0.5, -1.0]));
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let parsed = AdapterUse::parse(&format!("{path}:0.5:0"), &[]).unwrap();
        assert_eq!((parsed.unet, parsed.text), (0.5, 0.0));
        assert!(AdapterUse::parse(&format!("{path}:1:2:3"), &[]).unwrap_err().is_usage());
        assert!(AdapterUse::parse("nothing-here.safetensors", &[]).is_err());
    }

    #[test]
    fn blocks_are_selected_by_name() {
        let path = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";
        for selector in ["unet", "up", "up.1", "attn2", "attn2.to_k", "up_blocks.1"] {
            assert!(selects(selector, path), "{selector}");
        }
        for selector in ["text", "mid", "down", "up.10", "up.0", "attn", "to_q", ""] {
            assert!(!selects(selector, path), "{selector}");
        }
        let text = "text_encoder.text_model.encoder.layers.3.self_attn.q_proj";
        assert!(selects("text", text) && selects("text.3", text) && !selects("text.1", text));
        let mut adapter = AdapterUse::new("x".into(), 2.0, 3.0);
        adapter.blocks = parse_blocks("unet=0.5, up.1=0.1").unwrap();
        assert!((adapter.strength(path, 0.5) - 0.1).abs() < 1e-6);
        assert_eq!(adapter.strength("unet.mid_block.attn1.to_q", 1.0), 1.0);
        assert_eq!(adapter.strength(text, 0.5), 3.0);
        assert!(adapter.check_blocks(&[path.to_owned()]).is_ok());
        let error = adapter.check_blocks(&[text.to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`unet`"), "{error}");
        for text in ["mid", "mid=x", "=1", "mid=inf", ""] {
            assert!(parse_blocks(text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_are_found_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for file in
            ["dog.safetensors", "sub/cat.pt", "sub/dog2.safetensors", "a/same.pt", "b/same.pt", "notes.txt"]
        {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let folders = [folder.path().to_owned()];
        assert_eq!(find(&folders, "dog").unwrap(), folder.path().join("dog.safetensors"));
        assert_eq!(find(&folders, "cat").unwrap(), folder.path().join("sub/cat.pt"));
        assert_eq!(find(&folders, "a/same").unwrap(), folder.path().join("a/same.pt"));
        assert!(find(&folders, "same").unwrap_err().to_string().contains("several"));
        assert!(find(&folders, "notes").is_err());
        assert!(find(&folders, "dogg").unwrap_err().hints()[0].contains("`dog`"));
        assert!(find(&[folder.path().join("none")], "dog").is_err());
        assert_eq!(short_hash(&folder.path().join("dog.safetensors")).unwrap().len(), 12);
        let tag = Tag { name: "dog".into(), unet: 0.5, text: 1.0 };
        assert_eq!(AdapterUse::of_tag(&tag, &folders).unwrap().label(), "<lora:dog:te=1:unet=0.5>");
    }
}
