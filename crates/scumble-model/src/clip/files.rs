//! A CLIP model's folder in transformers' layout: both towers in one file of weights, the tokenizer and the picture
//! processor beside it.
//!
//! ```text
//! config.json                  of a CLIPModel: text_config, vision_config, projection_dim
//! model.safetensors            or pytorch_model.bin, or several with their index
//! vocab.json, merges.txt       or tokenizer.json
//! preprocessor_config.json     or processor_config.json; without both, CLIP's own
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use scumble_tensor::{Backend, DType};
use serde_json::Value;

use super::{Clip, ImageProcessor, VisionConfig};
use crate::Result;
use crate::base::{Part, choose_weights, embedded, open_weights, read_object};
use crate::files::{FileError, TensorSource, printable};
use crate::tokenizer::Tokenizer;

/// Everything a CLIP model consists of, its weights still in their file.
pub struct ClipFiles {
    /// As the user named it.
    pub name: String,
    /// The `config.json`.
    pub config: Value,
    /// Tensors of both towers.
    pub weights: Arc<dyn TensorSource>,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// Pictures to what the vision tower sees.
    pub processor: ImageProcessor,
}

impl ClipFiles {
    /// Opens a folder, or for `embedded` the model that judges the embedded base.
    pub fn open(folder: &Path) -> Result<Self> {
        let name = folder.display().to_string();
        let folder = embedded::clip_path(&name)?;
        let folder = folder.as_ref();
        let config_file = folder.join("config.json");
        let missing = |what: &str, file: &str| {
            let hint = "name a folder with a CLIP model in transformers' layout, such as a download of \
                        `openai/clip-vit-base-patch32`";
            FileError::Missing { what: what.into(), file: folder.join(file), hint: hint.into() }
        };
        if !config_file.is_file() {
            return Err(missing("the CLIP model's configuration", "config.json").into());
        }
        let config = read_object(&config_file)?;
        let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("clip");
        if kind != "clip" || config.get("vision_config").is_none() {
            let reason = match kind {
                "clip" => "it has no `vision_config`: it is no CLIP model with both encoders".to_owned(),
                kind => format!("it is a model of type `{}`", printable(kind)),
            };
            let base = folder.display().to_string();
            let hint = "use a CLIPModel: text and vision encoder in one file".to_owned();
            return Err(FileError::Unsupported { base, reason, hint }.into());
        }
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let files: BTreeSet<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let file = choose_weights(Part::TextEncoder, &files, None)
            .ok_or_else(|| missing("the CLIP model's weights", "model.safetensors"))?;
        let tokenizer = Tokenizer::from_folder(folder)?;
        let processor = ["preprocessor_config.json", "processor_config.json"];
        let processor = match processor.into_iter().find(|name| files.contains(*name)) {
            Some(name) => ImageProcessor::parse(&read_object(&folder.join(name))?)?,
            None => ImageProcessor::clip(side(&config)?),
        };
        let weights = open_weights(&folder.join(file))?;
        Ok(Self { name: name.clone(), config, weights, tokenizer, processor })
    }

    /// Builds the model; an error where the processor's pictures are not of the size that the vision tower takes.
    pub fn load(&self, backend: &dyn Backend, dtype: DType) -> Result<Clip> {
        let side = side(&self.config)?;
        if self.processor.output_size() != Some([side; 2]) {
            let found = match self.processor.output_size() {
                Some([height, width]) => format!("makes pictures of {width} x {height}"),
                None => "makes pictures of any size".to_owned(),
            };
            let reason = format!("its picture processor {found}, its vision encoder takes {side} x {side}");
            let hint = "download `config.json` and `preprocessor_config.json` from the same place".to_owned();
            return Err(FileError::Unsupported { base: self.name.clone(), reason, hint }.into());
        }
        Clip::load(&self.config, self.weights.as_ref(), backend, dtype)
    }
}

/// Pixels of a side that the vision tower takes.
fn side(config: &Value) -> Result<usize> {
    let vision = config.get("vision_config").cloned().unwrap_or_else(|| serde_json::json!({}));
    Ok(VisionConfig::parse(&vision)?.side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_clip_model_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = |folder: &Path| ClipFiles::open(folder).err().unwrap().to_string();
        assert!(message(folder.path()).contains("config.json"));
        let write = |text: &str| std::fs::write(folder.path().join("config.json"), text).unwrap();
        write(r#"{"model_type": "siglip", "vision_config": {}}"#);
        assert!(message(folder.path()).contains("siglip"));
        write(r#"{"model_type": "clip"}"#);
        assert!(message(folder.path()).contains("vision_config"));
        write(r#"{"model_type": "clip", "vision_config": {}}"#);
        assert!(message(folder.path()).contains("model.safetensors"));
        write("[");
        assert!(message(folder.path()).contains("JSON"));
    }
}
