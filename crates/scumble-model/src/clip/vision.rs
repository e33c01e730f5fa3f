//! CLIP's vision transformer: a picture cut into patches, read like a sentence behind a learned class token.

use std::sync::Arc;

use scumble_tensor::backend::{Activation, Conv2dSpec, Padding};
use scumble_tensor::ops::add::add;
use scumble_tensor::ops::concat::{concat_channels, slice_channels};
use scumble_tensor::ops::embedding::embedding;
use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var, shape_error};
use serde_json::{Value, json};

use crate::files::TensorSource;
use crate::nn::{Config, ConfigError, LayerNorm, Loader, Modules, Projection};
use crate::text_encoder::layer::{Layer, LayerSizes};

const COMPONENT: &str = "vision encoder";

/// Sizes of a vision encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Pixels of a side of the picture.
    pub side: usize,
    /// Pixels of a side of a patch; divides the picture's.
    pub patch: usize,
    /// Width of the states.
    pub width: usize,
    /// Width inside the feed-forward.
    pub inner_width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of the attentions.
    pub heads: usize,
    /// Width of the common space.
    pub projection_width: usize,
    /// Nonlinearity of the feed-forward.
    pub activation: Activation,
    /// Epsilon of the norms.
    pub eps: f32,
}

impl VisionConfig {
    /// Reads a `vision_config`, with transformers' defaults.
    pub fn parse(values: &Value) -> std::result::Result<Self, ConfigError> {
        let config = Config::new(COMPONENT, values)?;
        let (side, patch) = (config.size_or("image_size", 224)?, config.size_or("patch_size", 32)?);
        if side % patch != 0 {
            return Err(config.error("patch_size", format!("a divisor of image_size ({side})"), patch));
        }
        let (width, heads) =
            (config.size_or("hidden_size", 768)?, config.size_or("num_attention_heads", 12)?);
        if width % heads != 0 {
            return Err(config.error(
                "num_attention_heads",
                format!("a divisor of hidden_size ({width})"),
                heads,
            ));
        }
        config.only("num_channels", &[json!(3)])?;
        config.only("hidden_act", &[json!("quick_gelu"), json!("gelu")])?;
        let is_quick = config.text_or("hidden_act", "quick_gelu")? == "quick_gelu";
        Ok(Self {
            side,
            patch,
            width,
            inner_width: config.size_or("intermediate_size", 3072)?,
            layers: config.size_or("num_hidden_layers", 12)?,
            heads,
            projection_width: config.size_or("projection_dim", 512)?,
            activation: if is_quick { Activation::QuickGelu } else { Activation::Gelu },
            eps: config.number_or("layer_norm_eps", 1e-5)? as f32,
        })
    }

    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        (self.side / self.patch).pow(2)
    }
}

/// See the module's text.
pub struct Vision {
    config: VisionConfig,
    modules: Modules,
    class: Param,
    patches: Arc<Projection>,
    positions: Param,
    pre_norm: LayerNorm,
    layers: Vec<Layer>,
    post_norm: LayerNorm,
    projection: Arc<Projection>,
}

impl Vision {
    pub(super) fn load(
        config: &Value,
        weights: &dyn TensorSource,
        backend: &dyn Backend,
        dtype: DType,
    ) -> crate::Result<Self> {
        let loader = Loader::new(COMPONENT, weights, backend, dtype).tolerating(&["embeddings.position_ids"]);
        Self::build(config, loader)
    }

    pub(super) fn fresh(
        config: &Value,
        seed: u64,
        backend: &dyn Backend,
        dtype: DType,
    ) -> crate::Result<Self> {
        Self::build(config, Loader::fresh(COMPONENT, seed, backend, dtype))
    }

    fn build(config: &Value, loader: Loader<'_>) -> crate::Result<Self> {
        let config = VisionConfig::parse(config)?;
        let (root, width) = (loader.root(), config.width);
        let model = root.at("vision_model");
        let embeddings = model.at("embeddings");
        let spec = Conv2dSpec { stride: config.patch, padding: Padding::default() };
        let sizes = LayerSizes {
            width,
            inner_width: config.inner_width,
            heads: config.heads,
            activation: config.activation,
            eps: config.eps,
            causal: false,
        };
        let layer = |index: usize| Layer::new(&model.at("encoder.layers").at(index), sizes);
        let class = embeddings.table("class_embedding", &[width])?;
        let patches = embeddings.at("patch_embedding").conv2d_unbiased(3, width, config.patch, spec)?;
        let positions =
            embeddings.at("position_embedding").table("weight", &[config.patches() + 1, width])?;
        let pre_norm = model.at("pre_layrnorm").layer_norm(width, config.eps)?;
        let layers = (0..config.layers).map(layer).collect::<crate::Result<_>>()?;
        let post_norm = model.at("post_layernorm").layer_norm(width, config.eps)?;
        let projection = root.at("visual_projection").linear(width, config.projection_width, false)?;
        let modules = loader.finish()?;
        Ok(Self { config, modules, class, patches, positions, pre_norm, layers, post_norm, projection })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Its modules by path.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// `pictures [n, side, side, 3]` -> `[n, projection width]`.
    pub(super) fn forward<'m>(&'m self, tape: &Tape<'m>, pictures: &Tensor) -> Result<Var> {
        let [n, height, width, channels] = pictures.nhwc(COMPONENT)?;
        let side = self.config.side;
        if [height, width, channels] != [side, side, 3] {
            return Err(shape_error(
                COMPONENT,
                "pictures",
                format!("[n, {side}, {side}, 3]"),
                pictures.shape(),
            ));
        }
        let (tokens, wide) = (self.config.patches(), self.config.width);
        let pictures = Var::constant(tape.backend().upload(pictures)?);
        let patches = self.patches.forward(tape, &pictures)?.reshape(&[n, tokens * wide])?;
        let class = tape.param(&self.class).reshape(&[1, wide])?;
        let class = embedding(tape, &class, &Tensor::from_slice(&vec![0i64; n], &[n])?)?;
        let h = concat_channels(tape, &[&class, &patches])?.reshape(&[n, tokens + 1, wide])?;
        let ids: Vec<i64> = (0..n).flat_map(|_| 0..=tokens as i64).collect();
        let ids = Tensor::from_slice(&ids, &[n, tokens + 1])?;
        let h = add(tape, &h, &embedding(tape, &tape.param(&self.positions), &ids)?)?;
        let mut h = self.pre_norm.forward(tape, &h)?;
        for layer in &self.layers {
            h = layer.forward(tape, &h)?;
        }
        let first = slice_channels(tape, &h.reshape(&[n, (tokens + 1) * wide])?, 0, wide)?;
        self.projection.forward(tape, &self.post_norm.forward(tape, &first)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_key() {
        for (key, value) in [
            ("patch_size", json!(30)),
            ("num_attention_heads", json!(7)),
            ("num_channels", json!(1)),
            ("hidden_act", json!("relu")),
        ] {
            assert_eq!(VisionConfig::parse(&json!({ key: value })).unwrap_err().key, key);
        }
        assert_eq!(VisionConfig::parse(&json!({})).unwrap().patches(), 49);
    }
}
