//! CLIP's two encoders with their common space (transformers' `CLIPModel`): how well does a picture fit a text?
//!
//! ```text
//! picture:  h = [class, patches] + positions;  h <- pre_layrnorm h, layers (not causal);  post_layernorm h[0]
//! image_embeds = visual_projection of that,   text_embeds = text_projection of the state at the end token
//! similarity = cosine(image_embeds, text_embeds),   logits = exp(logit_scale) * similarity
//! ```
//!
//! The spelling `pre_layrnorm` is that of every published file. [`ClipFiles`] is such a model's folder, [`ImageProcessor`]
//! what brings pictures to the size and range that the vision tower takes.

mod files;
mod processor;
mod vision;

use std::collections::BTreeMap;

use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var};
use serde_json::Value;

use crate::files::{FileError, TensorInfo, TensorSource};
use crate::text_encoder::TextEncoder;
pub use files::ClipFiles;
pub use processor::{ImageProcessor, Processed};
pub use vision::{Vision, VisionConfig};

/// Both encoders.
pub struct Clip {
    /// Texts.
    pub text: TextEncoder,
    /// Pictures.
    pub vision: Vision,
    logit_scale: Param,
}

impl Clip {
    /// Builds the model that `config` (the `config.json` of a `CLIPModel`) describes from `weights`.
    pub fn load(
        config: &Value,
        weights: &dyn TensorSource,
        backend: &dyn Backend,
        dtype: DType,
    ) -> crate::Result<Self> {
        let is_vision =
            |name: &str| name.starts_with("vision_model.") || name.starts_with("visual_projection.");
        let part = |keep: &dyn Fn(&str) -> bool| {
            let names = weights.names().into_iter().filter(|name| name != SCALE && keep(name)).collect();
            Part { inner: weights, names }
        };
        let text = part(&|name| !is_vision(name));
        let vision = part(&is_vision);
        let scale = match weights.info(SCALE) {
            Some(info) if info.numel() == 1 => weights.read(SCALE)?.to_vec::<f32>()?[0],
            _ => {
                let file = std::path::PathBuf::from(weights.describe());
                return Err(FileError::missing_tensor(&file, SCALE).into());
            }
        };
        Ok(Self {
            text: TextEncoder::load(&tower(config, "text_config"), &text, backend, dtype)?,
            vision: Vision::load(&tower(config, "vision_config"), &vision, backend, dtype)?,
            logit_scale: Param::frozen(SCALE, Tensor::scalar(scale)?),
        })
    }

    /// Builds it with random weights, for training from scratch; similarities begin multiplied by 1 / 0.07 (Radford et
    /// al. 2021, section 2.5).
    pub fn fresh(config: &Value, seed: u64, backend: &dyn Backend, dtype: DType) -> crate::Result<Self> {
        let scale = Tensor::scalar((1.0f32 / 0.07).ln())?;
        Ok(Self {
            text: TextEncoder::fresh_projected(&tower(config, "text_config"), seed, backend, dtype)?,
            vision: Vision::fresh(&tower(config, "vision_config"), seed, backend, dtype)?,
            logit_scale: Param::frozen(SCALE, scale),
        })
    }

    /// What similarities are multiplied by: `exp(logit_scale)`.
    pub fn scale(&self) -> Result<f32> {
        Ok(self.logit_scale.value().item::<f32>()?.exp())
    }

    /// Logarithm of what similarities are multiplied by, a scalar on the host.
    pub fn logit_scale(&self) -> &Param {
        &self.logit_scale
    }

    /// i64 `ids [n, tokens]` -> `[n, projection width]`, not normalised.
    pub fn embed_texts<'m>(&'m self, tape: &Tape<'m>, ids: &Tensor) -> Result<Var> {
        let output = self.text.forward(tape, ids)?;
        Ok(output.projected.unwrap_or(output.pooled))
    }

    /// `pictures [n, side, side, 3]`, normalised as the model wants them -> `[n, projection width]`, not normalised.
    pub fn embed_pictures<'m>(&'m self, tape: &Tape<'m>, pictures: &Tensor) -> Result<Var> {
        self.vision.forward(tape, pictures)
    }
}

const SCALE: &str = "logit_scale";

/// A tower's configuration. The width of the common space stands beside the towers and counts for both.
fn tower(config: &Value, name: &str) -> Value {
    let mut tower = config.get(name).cloned().unwrap_or_else(|| serde_json::json!({}));
    let width = config.get("projection_dim").cloned().unwrap_or_else(|| 512.into());
    if let Some(tower) = tower.as_object_mut() {
        tower.insert("projection_dim".into(), width);
    }
    tower
}

/// The cosine of the angle between two embeddings; 0 where one has no length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// Some tensors of a source.
struct Part<'a> {
    inner: &'a dyn TensorSource,
    names: std::collections::BTreeSet<String>,
}

impl TensorSource for Part<'_> {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn names(&self) -> Vec<String> {
        self.names.iter().cloned().collect()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.names.contains(name).then(|| self.inner.info(name)).flatten()
    }
    fn read(&self, name: &str) -> crate::files::Result<Tensor> {
        self.inner.read(name)
    }
    fn metadata(&self) -> &BTreeMap<String, String> {
        self.inner.metadata()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines() {
        assert!((cosine(&[3.0, 4.0], &[6.0, 8.0]) - 1.0).abs() < 1e-12);
        assert!(cosine(&[1.0, 0.0], &[0.0, 2.0]).abs() < 1e-12);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 2.0]), 0.0);
    }
}
