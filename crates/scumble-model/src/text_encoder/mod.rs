//! CLIP's text encoder (transformers' `CLIPTextModel`): OpenAI's of Stable Diffusion 1 and OpenCLIP's of 2 and XL.
//!
//! ```text
//! h = token_embedding(ids) + position_embedding(0, 1, ...)
//! h <- layer(h) for every layer;   last = final_layer_norm(h)
//! pooled = last at the end token;  projected = text_projection pooled, where the model has one
//! ```
//!
//! There is no mask for padding: the models were trained to see it.

mod config;
pub(crate) mod layer;

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_tensor::ops::add::add;
use scumble_tensor::ops::concat::{concat_rows, slice_rows};
use scumble_tensor::ops::embedding::embedding;
use scumble_tensor::{Backend, DType, Error, Param, Result, Tape, Tensor, Var, shape_error};
use serde_json::Value;

use crate::files::TensorSource;
use crate::nn::{Embedding, LayerNorm, Loader, Modules, Projection};
pub use config::{EndToken, TextEncoderConfig};
use layer::{Layer, LayerSizes};

/// What messages call it.
const COMPONENT: &str = "text encoder";

/// See the module's text.
pub struct TextEncoder {
    config: TextEncoderConfig,
    modules: Modules,
    tokens: Embedding,
    positions: Param,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    projection: Option<Arc<Projection>>,
}

/// Everything there is to know about some prompts.
pub struct TextOutput {
    /// Token plus position `[n, tokens, width]`.
    pub embeddings: Var,
    /// What goes into the last layer `[n, tokens, width]`.
    pub penultimate: Var,
    /// The last layer's output after the final norm `[n, tokens, width]`.
    pub last_hidden_state: Var,
    /// The last hidden state at the end token `[n, width]`.
    pub pooled: Var,
    /// The pooled state projected into CLIP's common space `[n, projection width]`, where the model has that.
    pub projected: Option<Var>,
}

impl TextEncoder {
    /// Builds the model that `config` (a transformers `config.json`) describes from `weights`, whose names may or
    /// may not begin with `text_model.`.
    pub fn load(
        config: &Value,
        weights: &dyn TensorSource,
        backend: &dyn Backend,
        dtype: DType,
    ) -> crate::Result<Self> {
        let loader = Loader::new(COMPONENT, weights, backend, dtype)
            .with_aliases(|name| name.strip_prefix("text_model.").map(str::to_owned))
            .tolerating(&["embeddings.position_ids"]);
        let projected = loader.has("text_projection.weight");
        Self::build(config, loader, projected)
    }

    /// Builds it with random weights, for training from scratch and benchmarks; without a projection.
    pub fn fresh(config: &Value, seed: u64, backend: &dyn Backend, dtype: DType) -> crate::Result<Self> {
        Self::build(config, Loader::fresh(COMPONENT, seed, backend, dtype), false)
    }

    /// As [`TextEncoder::fresh`], with the projection into CLIP's common space.
    pub fn fresh_projected(
        config: &Value,
        seed: u64,
        backend: &dyn Backend,
        dtype: DType,
    ) -> crate::Result<Self> {
        Self::build(config, Loader::fresh(COMPONENT, seed, backend, dtype), true)
    }

    fn build(config: &Value, loader: Loader<'_>, projected: bool) -> crate::Result<Self> {
        let config = TextEncoderConfig::parse(config)?;
        let (root, width) = (loader.root(), config.width);
        let model = root.at("text_model");
        let embeddings = model.at("embeddings");
        let tokens = embeddings.at("token_embedding").embedding(config.vocabulary, width)?;
        let positions = embeddings.at("position_embedding").table("weight", &[config.positions, width])?;
        let sizes = LayerSizes {
            width,
            inner_width: config.inner_width,
            heads: config.heads,
            activation: config.activation,
            eps: config.eps,
            causal: true,
        };
        let layer = |index: usize| Layer::new(&model.at("encoder.layers").at(index), sizes);
        let layers = (0..config.layers).map(layer).collect::<crate::Result<_>>()?;
        let final_norm = model.at("final_layer_norm").layer_norm(width, config.eps)?;
        let projection = root.at("text_projection");
        let projection =
            projected.then(|| projection.linear(width, config.projection_width, false)).transpose()?;
        let modules = loader.finish()?;
        Ok(Self { config, modules, tokens, positions, layers, final_norm, projection })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &TextEncoderConfig {
        &self.config
    }

    /// Its modules by path: parameters, observers.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Every linear layer, by path; paths begin with `text_model.`.
    pub fn projections(&self) -> &BTreeMap<String, Arc<Projection>> {
        self.modules.projections()
    }

    /// Every parameter, named as transformers names it.
    pub fn params(&self) -> &[Param] {
        self.modules.params()
    }

    /// The token table; added rows are new tokens.
    pub fn token_embedding(&self) -> &Embedding {
        &self.tokens
    }

    /// What a UNet is conditioned on, for i64 `ids [n, tokens]`: the hidden state `clip_skip` layers before the last
    /// one's output, after the final norm; `[n, tokens, width]`. Skipped layers are not run.
    pub fn states<'m>(&'m self, tape: &Tape<'m>, ids: &Tensor, clip_skip: usize) -> Result<Var> {
        if clip_skip > self.layers.len() {
            return Err(shape_error(
                "text encoder",
                "clip skip",
                format!("at most {}", self.layers.len()),
                clip_skip,
            ));
        }
        let h = self.embed(tape, ids)?;
        let h = run(tape, &self.layers[..self.layers.len() - clip_skip], h)?;
        self.final_norm.forward(tape, &h)
    }

    /// Everything, for i64 `ids [n, tokens]`.
    pub fn forward<'m>(&'m self, tape: &Tape<'m>, ids: &Tensor) -> Result<TextOutput> {
        let embeddings = self.embed(tape, ids)?;
        let (before, last) = self.layers.split_at(self.layers.len() - 1);
        let penultimate = run(tape, before, embeddings.clone())?;
        let h = run(tape, last, penultimate.clone())?;
        let last_hidden_state = self.final_norm.forward(tape, &h)?;
        let pooled = self.pool(tape, &last_hidden_state, ids)?;
        let project = |projection: &Arc<Projection>| projection.forward(tape, &pooled);
        let projected = self.projection.as_ref().map(project).transpose()?;
        Ok(TextOutput { embeddings, penultimate, last_hidden_state, pooled, projected })
    }

    fn embed(&self, tape: &Tape<'_>, ids: &Tensor) -> Result<Var> {
        let &[n, tokens] = ids.dims() else {
            return Err(shape_error("text encoder", "ids", "[n, tokens]", ids.shape()));
        };
        if tokens > self.config.positions {
            let expected = format!("at most {}", self.config.positions);
            return Err(shape_error("text encoder", "tokens of a prompt", expected, tokens));
        }
        let positions: Vec<i64> = (0..n).flat_map(|_| 0..tokens as i64).collect();
        let positions = Tensor::from_slice(&positions, &[n, tokens])?;
        let of_position = embedding(tape, &tape.param(&self.positions), &positions)?;
        add(tape, &self.tokens.forward(tape, ids)?, &of_position)
    }

    /// The row of each prompt's end token.
    fn pool(&self, tape: &Tape<'_>, states: &Var, ids: &Tensor) -> Result<Var> {
        let &[n, tokens, width] = states.dims() else {
            return Err(shape_error("text encoder", "states", "[n, tokens, width]", states.value().shape()));
        };
        let rows = states.reshape(&[n * tokens, width])?;
        let ends = ids.as_slice::<i64>()?.chunks_exact(tokens.max(1)).enumerate();
        let ends: Vec<Var> = ends
            .map(|(prompt, ids)| slice_rows(tape, &rows, prompt * tokens + self.config.end.position(ids), 1))
            .collect::<Result<_>>()?;
        concat_rows(tape, &ends.iter().collect::<Vec<_>>())
    }
}

/// Layers one after the other, each a checkpoint.
fn run<'m>(tape: &Tape<'m>, layers: &'m [Layer], mut h: Var) -> Result<Var> {
    for layer in layers {
        h = tape.checkpoint(&[&h], |tape, inputs| match inputs {
            [h] => layer.forward(tape, h),
            _ => Err(Error::Tape("a text layer has one input")),
        })?;
    }
    Ok(h)
}
