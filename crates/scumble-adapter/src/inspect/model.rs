//! A model: a folder, a single file or a `.ckpt`.

use std::collections::BTreeMap;
use std::path::Path;

use scumble_model::base::checkpoint::{Checkpoint, OpenOptions};
use scumble_model::base::{BaseFiles, BaseOptions};
use serde::Serialize;

use super::tensors::{TensorSummary, summarise};
use crate::error::Result;

/// A model in figures.
#[derive(Clone, Debug, Serialize)]
pub struct ModelContent {
    /// `folder`, `safetensors` or `torch`.
    pub layout: &'static str,
    /// The family in words.
    pub family: String,
    /// What its UNet's inputs are for.
    pub purpose: String,
    /// `epsilon` or `v_prediction`, where the family is one that can be run.
    pub prediction: Option<String>,
    /// How that is known.
    pub prediction_source: Option<String>,
    /// Why it cannot be run here, if it cannot.
    pub not_runnable: Option<String>,
    /// By part: `unet`, `text_encoder`, `vae`, ...
    pub parts: Vec<PartSummary>,
    /// Tensors of averaged weights beside the others.
    pub averaged: usize,
    /// Other tensors that belong to no part, by first part of the name.
    pub extras: BTreeMap<String, usize>,
    /// What converting would leave out.
    pub left_out: Vec<String>,
    /// Learned tokens in its vocabulary.
    pub learned_tokens: Vec<String>,
}

/// A part of a model.
#[derive(Clone, Debug, Serialize)]
pub struct PartSummary {
    /// Name of its folder.
    pub part: &'static str,
    /// Its tensors.
    #[serde(flatten)]
    pub tensors: TensorSummary,
}

/// Describes a model; its numbers are looked at if `scan`.
pub(super) fn describe(
    path: &Path,
    scan: bool,
    threads: usize,
) -> Result<(ModelContent, BTreeMap<String, String>)> {
    let name = path.display().to_string();
    // A path is never to be taken for a name on the Hub.
    let checkpoint = Checkpoint::open(&name, &OpenOptions::default())?;
    let layout = match path.is_dir() {
        true => "folder",
        false => super::container(path),
    };
    let mut parts = Vec::new();
    for (part, component) in &checkpoint.parts {
        let tensors = summarise(component.weights.as_ref(), scan, threads)?;
        parts.push(PartSummary { part: part.folder(), tensors });
    }
    let (mut averaged, mut extras) = (0, BTreeMap::new());
    for name in checkpoint.extras().names() {
        if name.starts_with("model_ema.") {
            averaged += 1;
        } else {
            let first = name.split('.').next().unwrap_or_default();
            *extras.entry(super::training::cut(first)).or_default() += 1;
        }
    }
    let opened = BaseFiles::open(&name, &BaseOptions::default());
    let (prediction, prediction_source, not_runnable) = match &opened {
        Ok(files) => (
            files.scheduler_config.get("prediction_type").and_then(|kind| kind.as_str()).map(str::to_owned),
            Some(files.prediction_source.to_string()),
            None,
        ),
        Err(error) => (None, None, Some(error.to_string())),
    };
    let content = ModelContent {
        layout,
        family: checkpoint.architecture.to_string(),
        purpose: checkpoint.purpose.to_string(),
        prediction,
        prediction_source,
        not_runnable,
        parts,
        averaged,
        extras,
        left_out: checkpoint.left_out.clone(),
        learned_tokens: checkpoint.learned_tokens().into_iter().map(str::to_owned).collect(),
    };
    Ok((content, checkpoint.metadata))
}
