//! Learned words: rows of the token table that adapters and embedding files bring.
//!
//! | file | tensors | the word in prompts |
//! |---|---|---|
//! | AUTOMATIC1111 `.pt` | `string_to_param.*` `[n, d]` | the file's name |
//! | AUTOMATIC1111 `.safetensors` | `emb_params` `[n, d]` | the file's name |
//! | both encoders of SDXL | `clip_l` `[n, d]`, `clip_g` | the file's name |
//! | diffusers | `<word>` `[d]` or `[n, d]`, any number of words | the tensor's name |
//!
//! A word of n rows becomes n tokens. Names of letters are found as whole words only, whatever their case.

use std::collections::BTreeMap;
use std::path::Path;

use scumble_model::files::open_any;
use scumble_model::prompt::Tokens;
use scumble_model::tokenizer::Tokenizer;
use scumble_tensor::{DType, Tensor};

use crate::error::{PaintError, Result};

/// Most rows of one word.
const MOST_ROWS: usize = 1000;

/// A word and its rows `[n, d]`, f32.
#[derive(Clone, Debug)]
pub struct Learned {
    /// As prompts have it.
    pub word: String,
    /// Its rows.
    pub rows: Tensor,
}

/// The words of an embedding file; `word` replaces the name, where there is one word only.
pub fn read(path: &Path, word: Option<&str>) -> Result<Vec<Learned>> {
    let shown = path.display().to_string();
    let wrong = |reason: String| {
        PaintError::file(
            "embedding",
            shown.clone(),
            reason,
            "embeddings of AUTOMATIC1111 (.pt, .safetensors) and of diffusers are read",
        )
    };
    let source = open_any(path)?;
    let names = source.names();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let named_by_file =
        ["string_to_param.*", "emb_params", "clip_l"].iter().find(|key| source.info(key).is_some());
    let keys: Vec<(String, String)> = match named_by_file {
        Some(key) => vec![((*key).to_owned(), stem)],
        None => names.iter().map(|name| (name.clone(), name.clone())).collect(),
    };
    if keys.is_empty() {
        return Err(wrong("it holds no tensor".to_owned()));
    }
    if word.is_some() && keys.len() > 1 {
        return Err(wrong(format!("it holds {} words, which can't all be called one", keys.len())));
    }
    let mut learned = Vec::new();
    for (key, name) in keys {
        let info = source.info(&key).ok_or_else(|| wrong(format!("`{key}` is not there")))?;
        let rows = match info.shape.as_slice() {
            &[width] if width > 0 => [1, width],
            &[n, width] if (1..=MOST_ROWS).contains(&n) && width > 0 => [n, width],
            shape => {
                return Err(wrong(format!("`{key}` is {shape:?}, expected the rows of a word, [n, width]")));
            }
        };
        let tensor = source.read(&key)?.to_dtype(DType::F32)?.reshape(&rows)?;
        if tensor.as_slice::<f32>()?.iter().any(|value| !value.is_finite()) {
            return Err(wrong(format!("`{key}` has values that are no numbers")));
        }
        learned.push(Learned { word: word.map_or(name, str::to_owned), rows: tensor });
    }
    Ok(learned)
}

/// A tokenizer that knows learned words.
pub struct Words {
    tokenizer: Tokenizer,
    /// The rows of each learned word, by the id that the tokenizer gives it.
    expansion: BTreeMap<i64, Vec<i64>>,
    /// All rows `[n, d]`, for the text encoder's table.
    pub rows: Option<Tensor>,
}

impl Words {
    /// Adds words to a tokenizer; `table` is the row count and the width of the text encoder's table. Of two words of
    /// one name the first counts; the names of the others are returned.
    pub fn new(tokenizer: &Tokenizer, table: [usize; 2], learned: &[Learned]) -> Result<(Self, Vec<String>)> {
        let mut tokenizer = tokenizer.clone();
        let (mut expansion, mut values, mut hidden) = (BTreeMap::new(), Vec::<f32>::new(), Vec::new());
        let mut taken = BTreeMap::new();
        let [base_rows, width] = table;
        for Learned { word, rows } in learned {
            if taken.insert(word.to_lowercase(), ()).is_some() {
                hidden.push(word.clone());
                continue;
            }
            let &[n, found] = rows.dims() else { continue };
            if found != width {
                return Err(PaintError::file(
                    "embedding",
                    word.clone(),
                    format!("its rows have {found} numbers, the base's have {width}"),
                    "it was made for another family of bases",
                ));
            }
            let letters = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let whole = letters(word.chars().next()) || letters(word.chars().next_back());
            let id = tokenizer.add_word(word, whole)?;
            let first = base_rows + values.len() / width.max(1);
            expansion.insert(id, (first as i64..(first + n) as i64).collect());
            values.extend_from_slice(rows.as_slice::<f32>()?);
        }
        let count = values.len() / width.max(1);
        let rows = (count > 0).then(|| Tensor::from_slice(&values, &[count, width])).transpose()?;
        Ok((Self { tokenizer, expansion, rows }, hidden))
    }

    /// The tokenizer with the words.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Text as groups of rows of the table.
    pub fn tokenize(&self, text: &str) -> Tokens {
        let ids = self.tokenizer.tokenize_all(text).into_iter();
        ids.map(|id| self.expansion.get(&id).cloned().unwrap_or_else(|| vec![id])).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use scumble_model::files::write_safetensors;
    use scumble_model::tokenizer::Pad;

    fn rows(n: usize, width: usize) -> Tensor {
        Tensor::from_slice(&(0..n * width).map(|i| i as f32).collect::<Vec<_>>(), &[n, width]).unwrap()
    }

    #[test]
    fn words_of_several_rows() {
        let tokenizer = Tokenizer::clip(Pad::End).unwrap();
        let learned = |word: &str, n| Learned { word: word.into(), rows: rows(n, 4) };
        let all = [learned("<s1>", 1), learned("Moody", 3), learned("moody", 1)];
        let (words, hidden) = Words::new(&tokenizer, [49408, 4], &all).unwrap();
        assert_eq!(hidden, ["moody"]);
        assert_eq!(words.rows.as_ref().unwrap().dims(), [4, 4]);
        let cat = tokenizer.tokenize_all("cat")[0];
        assert_eq!(words.tokenize("cat<s1>"), [vec![cat], vec![49408]]);
        assert_eq!(words.tokenize("moody cat"), [vec![49409, 49410, 49411], vec![cat]]);
        assert!(words.tokenize("moodyish").iter().all(|group| group.len() == 1));
        assert!(Words::new(&tokenizer, [49408, 5], &all).is_err());
        let error = Words::new(&tokenizer, [49408, 4], &[learned("cat</w>", 1)]).err().unwrap();
        assert!(error.to_string().contains("exists"), "{error}");
    }

    #[test]
    fn files_of_both_programs() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, tensors: &[(&str, Tensor)]| {
            let path = folder.path().join(name);
            let tensors: Vec<(String, Tensor)> =
                tensors.iter().map(|(k, t)| ((*k).to_owned(), t.clone())).collect();
            write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
            path
        };
        let names = |path: &Path, word: Option<&str>| -> Vec<(String, usize)> {
            let words = read(path, word).unwrap();
            words.into_iter().map(|learned| (learned.word, learned.rows.dims()[0])).collect()
        };
        let a1111 = write("moody.safetensors", &[("emb_params", rows(2, 4))]);
        assert_eq!(names(&a1111, None), [("moody".to_owned(), 2)]);
        assert_eq!(names(&a1111, Some("x")), [("x".to_owned(), 2)]);
        let one = rows(1, 4).reshape(&[4]).unwrap();
        let diffusers = write("learned.safetensors", &[("<a>", one), ("<b>", rows(1, 4))]);
        assert_eq!(names(&diffusers, None), [("<a>".to_owned(), 1), ("<b>".to_owned(), 1)]);
        assert!(read(&diffusers, Some("x")).is_err());
        let odd = write("odd.safetensors", &[("w", rows(2, 4).reshape(&[2, 2, 2]).unwrap())]);
        assert!(read(&odd, None).unwrap_err().to_string().contains("`w`"));
        let nan = write("nan.safetensors", &[("w", Tensor::from_slice(&[f32::NAN; 2], &[1, 2]).unwrap())]);
        assert!(read(&nan, None).is_err());
        assert!(read(&folder.path().join("none.pt"), None).is_err());
    }
}
