//! New words as files of their own, one a word, for programs that keep embeddings apart from adapters.
//!
//! ```text
//! embeddings/<word>.safetensors              emb_params [n, d]     AUTOMATIC1111: the file's name is the word
//! embeddings/<word>-diffusers.safetensors    <word>     [n, d]     diffusers' load_textual_inversion
//! ```
//!
//! In file names the brackets of a word are left out: `<s1>` becomes `s1`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_model::files::write_safetensors;
use scumble_tensor::Tensor;

use crate::error::{Result, TrainError};

/// Writes the rows `[n, d]` of each word into `folder`.
pub fn write(words: &BTreeMap<String, Tensor>, folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).map_err(TrainError::io("creating", folder))?;
    let mut paths = Vec::new();
    for (index, (word, rows)) in words.iter().enumerate() {
        let name = file_name(word, index);
        for (ending, key) in [("", "emb_params"), ("-diffusers", word.as_str())] {
            let path = folder.join(format!("{name}{ending}.safetensors"));
            write_safetensors(&path, &[(key.to_owned(), rows.clone())], &BTreeMap::new())?;
            paths.push(path);
        }
    }
    Ok(paths)
}

/// A word as a file name everywhere; words that differ in odd characters only are told apart by their number.
fn file_name(word: &str, index: usize) -> String {
    let inner = word.strip_prefix('<').and_then(|word| word.strip_suffix('>')).unwrap_or(word);
    let plain = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '_' };
    let name: String = inner.chars().take(80).map(plain).collect();
    if name == inner { name } else { format!("{name}-{index}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_model::files::{SafetensorsFile, TensorSource};

    #[test]
    fn each_word_has_a_file_for_each_program() {
        let folder = tempfile::tempdir().unwrap();
        let rows = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
        let words = BTreeMap::from([("<s1>".to_owned(), rows.clone()), ("a/b".to_owned(), rows)]);
        let paths = write(&words, &folder.path().join("embeddings")).unwrap();
        let names: Vec<_> = paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "s1.safetensors",
                "s1-diffusers.safetensors",
                "a_b-1.safetensors",
                "a_b-1-diffusers.safetensors"
            ]
        );
        let keys: Vec<_> = paths.iter().flat_map(|p| SafetensorsFile::open(p).unwrap().names()).collect();
        assert_eq!(keys, ["emb_params", "<s1>", "emb_params", "a/b"]);
    }
}
