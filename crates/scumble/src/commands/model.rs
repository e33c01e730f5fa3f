//! Opening base models: what several commands do before their own work.

use std::path::Path;

use scumble_model::base::{BaseFiles, BaseOptions};
use scumble_model::text_encoder::TextEncoder;
use scumble_model::tokenizer::Tokenizer;
use scumble_tensor::{Backend, DType, Tensor};

use crate::failure::Result;

/// Opens a base with everything left to its files.
pub fn open(spec: &str) -> Result<BaseFiles> {
    Ok(BaseFiles::open(spec, &BaseOptions::from_env())?)
}

/// The base's tokenizer.
pub fn tokenizer(files: &BaseFiles) -> Result<Tokenizer> {
    Ok(files.tokenizer.open()?)
}

/// The base's text encoder, computing in `dtype`.
pub fn text_encoder(files: &BaseFiles, backend: &dyn Backend, dtype: DType) -> Result<TextEncoder> {
    let component = &files.text_encoder;
    Ok(TextEncoder::load(&component.config, component.weights.as_ref(), backend, dtype)?)
}

/// Token ids of some texts, `[n, tokens]`.
pub fn ids(tokenizer: &Tokenizer, texts: &[&str]) -> Result<Tensor> {
    let rows: Vec<Vec<i64>> = texts.iter().map(|text| tokenizer.encode(text)).collect();
    Ok(Tensor::from_slice(&rows.concat(), &[rows.len(), rows.first().map_or(0, Vec::len)])?)
}

/// A file's or folder's name without ending, for people.
pub fn short_name(path: &str) -> String {
    let stem = Path::new(path).file_stem();
    stem.map_or_else(|| path.to_owned(), |stem| stem.to_string_lossy().into_owned())
}
