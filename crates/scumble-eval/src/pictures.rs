//! Pictures that are there already: a folder's files with the texts they were made from.
//!
//! A picture's text is `<name>.txt` beside it, else the prompt that scumble, AUTOMATIC1111 and their relatives write into
//! PNG files, else none. Pictures are decoded a few at a time: a folder of photographs would not fit into memory.

use std::path::{Path, PathBuf};

use scumble_paint::{record, tags};
use scumble_train::TrainError;
use scumble_train::data::folder;
use scumble_train::picture::{DecodeOptions, Picture, read, read_bounded};

use crate::error::{EvalError, Result};
use crate::judge::{Embedding, Judge};

/// Pictures that are in memory at once.
const AT_ONCE: usize = 16;
/// Longest text beside a picture, in bytes.
const LONGEST_TEXT: u64 = 1 << 16;

/// A picture's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Its name without the folder.
    pub name: String,
    /// What it was made from, where that is known.
    pub text: Option<String>,
}

/// The pictures of a folder in the order of their names; an error where there is none.
pub fn list(folder: &Path) -> Result<Vec<Found>> {
    let listing = folder::list(folder).map_err(TrainError::from)?;
    if listing.pictures.is_empty() {
        return Err(EvalError::path(
            folder,
            "there are no pictures in it",
            "name the folder that holds them",
        ));
    }
    listing.pictures.into_iter().map(found).collect()
}

fn found(path: PathBuf) -> Result<Found> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = match path.with_extension("txt") {
        beside if beside.is_file() => {
            let bytes = read_bounded(&beside, LONGEST_TEXT)?;
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            Some(text).filter(|text| !text.is_empty())
        }
        _ => painted_from(&path),
    };
    Ok(Found { path, name, text })
}

/// The prompt inside a PNG, without its adapters' tags.
fn painted_from(path: &Path) -> Option<String> {
    let prompt = record::read(path).ok()?.request.prompt;
    let (text, _) = tags::extract(&prompt).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The directions of pictures on disk; `None` for files that can't be decoded, of which `note` hears. `watch` is told how
/// many are done.
pub fn embed(
    judge: &Judge,
    files: &[Found],
    note: &mut dyn FnMut(String),
    watch: &mut dyn FnMut(usize),
) -> Result<Vec<Option<Embedding>>> {
    let mut embeddings = Vec::with_capacity(files.len());
    for batch in files.chunks(AT_ONCE) {
        let mut pictures: Vec<Option<Picture>> = Vec::with_capacity(batch.len());
        for file in batch {
            match read(&file.path, &DecodeOptions::default()) {
                Ok(picture) => pictures.push(Some(picture)),
                Err(error) => {
                    note(format!("left out: {error}"));
                    pictures.push(None);
                }
            }
        }
        let sound: Vec<&Picture> = pictures.iter().flatten().collect();
        let mut judged = judge.pictures(&sound)?.into_iter();
        embeddings.extend(pictures.iter().map(|picture| picture.as_ref().and_then(|_| judged.next())));
        watch(embeddings.len());
    }
    if embeddings.iter().all(Option::is_none) {
        let folder = files.first().and_then(|file| file.path.parent()).unwrap_or(Path::new(""));
        return Err(EvalError::path(folder, "none of its pictures can be read", "see the warnings above"));
    }
    Ok(embeddings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_paint::Request;
    use scumble_train::picture::png;

    #[test]
    fn texts_beside_and_inside() {
        let folder = tempfile::tempdir().unwrap();
        let picture = Picture::filled(8, 8, [9; 3]);
        let write = |name: &str, texts: &[(&str, &str)]| {
            png::write(&folder.path().join(name), &picture, texts).unwrap();
        };
        assert!(list(folder.path()).unwrap_err().to_string().contains("no pictures"));
        let request = Request { prompt: "a <lora:x:1> cat".into(), ..Request::default() };
        write("a.png", &[("scumble", &serde_json::to_string(&request).unwrap())]);
        write(
            "b.png",
            &[("parameters", "a dog\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 8x8")],
        );
        write(
            "c.png",
            &[("parameters", "a dog\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 8x8")],
        );
        write("d.png", &[]);
        std::fs::write(folder.path().join("c.txt"), "a fish\n").unwrap();
        let texts: Vec<Option<String>> = list(folder.path()).unwrap().into_iter().map(|f| f.text).collect();
        let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
        assert_eq!(texts.len(), 4);
        assert!(texts[0].is_some_and(|text| text.starts_with('a') && text.ends_with("cat")), "{texts:?}");
        assert_eq!(texts[1..], [Some("a dog"), Some("a fish"), None]);
    }
}
