//! What a file of tensors is, by the names in it: an adapter of some dialect, embeddings, or a model.

use scumble_model::files::TensorSource;

use super::{Dialect, detect};

/// Kinds of files that people have.
#[derive(Clone, Copy)]
pub enum FileKind {
    /// An adapter, or embeddings alone, in this dialect.
    Adapter(&'static dyn Dialect),
    /// A complete model in the original code's single-file names.
    Checkpoint,
    /// One component of a diffusers folder, such as `unet`.
    Component(&'static str),
    /// Nothing that is known.
    Unknown,
}

/// Beginnings of names in single-file checkpoints.
const CHECKPOINT: [&str; 7] = [
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.embedders.",
    "control_model.",
    "model_ema.",
    "state_dict.model.diffusion_model.",
];

/// Beginnings of names in the components of a diffusers folder.
const COMPONENTS: [(&str, &str); 8] = [
    ("down_blocks.", "unet"),
    ("up_blocks.", "unet"),
    ("mid_block.", "unet"),
    ("controlnet_cond_embedding.", "controlnet"),
    ("encoder.", "vae"),
    ("decoder.", "vae"),
    ("text_model.", "text_encoder"),
    ("vision_model.", "image_encoder"),
];

impl FileKind {
    /// By the names and sizes of the tensors.
    pub fn of(source: &dyn TensorSource) -> Self {
        let names = source.names();
        let any = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        if CHECKPOINT.iter().any(|prefix| any(prefix)) {
            return Self::Checkpoint;
        }
        if let Some(dialect) = detect(source) {
            return Self::Adapter(dialect);
        }
        let component = COMPONENTS.iter().find(|(prefix, _)| any(prefix));
        component.map_or(Self::Unknown, |(_, component)| Self::Component(component))
    }
}
