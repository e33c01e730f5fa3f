//! A CLIP model as a judge: texts and pictures become directions of one space, and the cosine between two tells how well
//! they fit.

use std::sync::Arc;

use scumble_model::clip::{Clip, ClipFiles, ImageProcessor};
use scumble_model::tokenizer::Tokenizer;
use scumble_tensor::{Backend, DType, Tape, Tensor};
use scumble_train::picture::Picture;

use crate::error::{EvalError, Result};

/// Pictures or texts that go through the model at once.
const BATCH: usize = 16;

/// A direction: coordinates with a sum of squares of 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding(Vec<f64>);

impl Embedding {
    /// The direction of a vector; `None` where it has no length or is not finite.
    pub fn new(values: &[f32]) -> Option<Self> {
        let length = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        let is_good = length.is_finite() && length > 0.0;
        is_good.then(|| Self(values.iter().map(|&v| f64::from(v) / length).collect()))
    }

    /// The cosine of the angle to another, -1 to 1.
    pub fn cosine(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).map(|(a, b)| a * b).sum()
    }
}

/// See the module's text.
pub struct Judge {
    name: String,
    clip: Clip,
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    backend: Arc<dyn Backend>,
}

impl Judge {
    /// Loads the model in f32.
    pub fn open(files: ClipFiles, backend: Arc<dyn Backend>) -> Result<Self> {
        let clip = files.load(backend.as_ref(), DType::F32)?;
        let ClipFiles { name, tokenizer, processor, .. } = files;
        Ok(Self { name, clip, tokenizer, processor, backend })
    }

    /// The model as the user named it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many of a text's tokens the model does not see.
    pub fn unseen_tokens(&self, text: &str) -> usize {
        self.tokenizer.count(text).saturating_sub(self.length().saturating_sub(2))
    }

    fn length(&self) -> usize {
        self.tokenizer.max_length().min(self.clip.text.config().positions)
    }

    /// The directions of texts. What is longer than the model reads is cut.
    pub fn texts(&self, texts: &[&str]) -> Result<Vec<Embedding>> {
        let length = self.length();
        let mut embeddings = Vec::with_capacity(texts.len());
        for batch in texts.chunks(BATCH) {
            let mut ids = Vec::with_capacity(batch.len() * length);
            for text in batch {
                let mut row = self.tokenizer.encode(text);
                if row.len() > length {
                    row.truncate(length);
                    row[length - 1] = self.tokenizer.end_id();
                }
                ids.extend(row);
            }
            let tape = Tape::inference(Arc::clone(&self.backend));
            let rows = self.clip.embed_texts(&tape, &Tensor::from_slice(&ids, &[batch.len(), length])?)?;
            self.split(rows.value(), batch.len(), |n| format!("the text `{}`", batch[n]), &mut embeddings)?;
        }
        Ok(embeddings)
    }

    /// The directions of pictures of any size.
    pub fn pictures(&self, pictures: &[&Picture]) -> Result<Vec<Embedding>> {
        let mut embeddings = Vec::with_capacity(pictures.len());
        for (number, batch) in pictures.chunks(BATCH).enumerate() {
            let (mut values, mut size) = (Vec::new(), [0, 0]);
            for picture in batch {
                let seen = self.processor.process(&picture.rgb, picture.width, picture.height);
                let seen = seen.ok_or_else(|| {
                    EvalError::setting("picture", format!("{picture:?} has no pixels"), "take it out")
                })?;
                size = [seen.height, seen.width];
                values.extend(seen.values);
            }
            let tape = Tape::inference(Arc::clone(&self.backend));
            let seen = Tensor::from_slice(&values, &[batch.len(), size[0], size[1], 3])?;
            let rows = self.clip.embed_pictures(&tape, &seen)?;
            let what = |n: usize| format!("picture {}", number * BATCH + n + 1);
            self.split(rows.value(), batch.len(), what, &mut embeddings)?;
        }
        Ok(embeddings)
    }

    /// Rows of `[n, width]` as directions.
    fn split(
        &self,
        rows: &Tensor,
        n: usize,
        what: impl Fn(usize) -> String,
        into: &mut Vec<Embedding>,
    ) -> Result<()> {
        let values = rows.to_vec::<f32>()?;
        for (row, values) in values.chunks_exact((values.len() / n.max(1)).max(1)).enumerate() {
            let embedding = Embedding::new(values);
            into.push(
                embedding
                    .ok_or_else(|| EvalError::NotFinite { model: self.name.clone(), what: what(row) })?,
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions() {
        let (a, b) = (Embedding::new(&[3.0, 4.0]).unwrap(), Embedding::new(&[8.0, -6.0]).unwrap());
        assert!((a.cosine(&a) - 1.0).abs() < 1e-12 && a.cosine(&b).abs() < 1e-12);
        assert_eq!(Embedding::new(&[0.0, 0.0]), None);
        assert_eq!(Embedding::new(&[1.0, f32::NAN]), None);
    }
}
