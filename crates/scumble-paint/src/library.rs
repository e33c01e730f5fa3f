//! Folders of learned words: files that prompts use by their names, as AUTOMATIC1111's `embeddings` folder.
//!
//! A prompt uses `moody-light.pt` by saying `moody-light`, in whatever case, where no letter, digit or `_` stands directly
//! before or after it. Of a file with several words (diffusers) each keeps its own name; the file comes along where
//! its name is said.

use std::path::{Path, PathBuf};

use crate::adapters;
use crate::error::{PaintError, Result};
use crate::request::EmbeddingUse;
use crate::words;

const HINT: &str = "say with --embedding-dir FOLDER where learned words are";

/// The files of some folders.
#[derive(Debug, Default)]
pub struct Library {
    /// Name in lower case and file, longest names first: `night-sky` before `night`.
    files: Vec<(String, PathBuf)>,
}

impl Library {
    /// Looks through folders and those below them.
    pub fn open(folders: &[PathBuf]) -> Result<Self> {
        let (mut files, mut looked_at) = (Vec::new(), 0);
        for folder in folders {
            if !folder.is_dir() {
                return Err(PaintError::file(
                    "folder",
                    folder.display().to_string(),
                    "it is not there",
                    HINT,
                ));
            }
            adapters::gather(folder, &mut files, &mut looked_at);
        }
        let named =
            |path: PathBuf| (path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase(), path);
        let mut files: Vec<_> = files.into_iter().map(named).collect();
        files.sort_by(|a, b| (b.0.len(), &a.0, &a.1).cmp(&(a.0.len(), &b.0, &b.1)));
        Ok(Self { files })
    }

    /// The files that some texts name. Two files of one name are an error.
    pub fn named_in(&self, texts: &[&str]) -> Result<Vec<EmbeddingUse>> {
        let mut rest: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
        let mut found = Vec::new();
        for (index, (name, file)) in self.files.iter().enumerate() {
            if name.is_empty() || !take(&mut rest, name) {
                continue;
            }
            if let Some((_, other)) = self.files.get(index + 1).filter(|(next, _)| next == name) {
                let reason =
                    format!("several files have this name: {} and {}", file.display(), other.display());
                return Err(PaintError::file("embedding", name.clone(), reason, "rename one of them"));
            }
            found.push(self.use_of(file)?);
        }
        Ok(found)
    }

    /// A file under its own name, or, where it holds several words, under theirs.
    fn use_of(&self, file: &Path) -> Result<EmbeddingUse> {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_one = words::read(file, None)?.len() == 1;
        Ok(EmbeddingUse { file: file.to_owned(), token: is_one.then_some(stem) })
    }
}

/// Takes every whole occurrence of `name` out of the texts, so that shorter names are not found in it; whether there was
/// one.
fn take(texts: &mut [String], name: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut taken = false;
    for text in texts {
        let mut from = 0;
        while let Some(at) = text[from..].find(name).map(|at| from + at) {
            let end = at + name.len();
            let inside = is_word(text[..at].chars().next_back()) && is_word(name.chars().next())
                || is_word(text[end..].chars().next()) && is_word(name.chars().next_back());
            if inside {
                from = end;
                continue;
            }
            // A separator stays, so that what stood around it does not become one word.
            text.replace_range(at..end, "\n");
            taken = true;
            from = at + 1;
        }
    }
    taken
}

/// The file of a name in folders of learned words.
pub fn find(folders: &[PathBuf], name: &str) -> Result<PathBuf> {
    adapters::find_file("embedding", folders, name, HINT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use scumble_model::files::write_safetensors;
    use scumble_tensor::Tensor;

    use super::*;

    fn library(files: &[(&str, &[&str])]) -> (tempfile::TempDir, Library) {
        let folder = tempfile::tempdir().unwrap();
        for (name, keys) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let rows = Tensor::from_slice(&[0.5f32; 4], &[1, 4]).unwrap();
            let tensors: Vec<_> = keys.iter().map(|key| ((*key).to_owned(), rows.clone())).collect();
            write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        }
        let library = Library::open(&[folder.path().to_owned()]).unwrap();
        (folder, library)
    }

    #[test]
    fn prompts_name_files() {
        let (_folder, library) = library(&[
            ("Moody.safetensors", &["emb_params"]),
            ("deep/moody-night.safetensors", &["emb_params"]),
            ("<s1>.safetensors", &["<s1>"]),
            ("pair.safetensors", &["<a>", "<b>"]),
        ]);
        let named = |texts: &[&str]| -> Vec<Option<String>> {
            library.named_in(texts).unwrap().into_iter().map(|found| found.token).collect()
        };
        let one = |name: &str| vec![Some(name.to_owned())];
        assert_eq!(named(&["a moody dog"]), one("Moody"));
        assert_eq!(named(&["a (MOODY:1.2), dog"]), one("Moody"));
        assert_eq!(named(&["moody-night"]), one("moody-night"));
        assert_eq!(named(&["a moodyish dog, my_moody"]), []);
        assert_eq!(named(&["a dog", "moody"]), one("Moody"));
        assert_eq!(named(&["a dog<s1>s"]), one("<s1>"));
        assert_eq!(named(&["the pair"]), [None]);
        assert_eq!(named(&["moody-night, moody"]).len(), 2);
        assert_eq!(named(&["äöü moody ß"]), one("Moody"));
    }

    #[test]
    fn two_files_of_one_name_and_no_folder() {
        let (folder, twins) =
            library(&[("a/x.safetensors", &["emb_params"]), ("b/X.safetensors", &["emb_params"])]);
        assert!(twins.named_in(&["an x"]).unwrap_err().to_string().contains("several"));
        assert!(twins.named_in(&["a y"]).unwrap().is_empty());
        assert!(Library::open(&[folder.path().join("none")]).is_err());
        assert!(find(&[folder.path().to_owned()], "a/x").is_ok());
    }
}
