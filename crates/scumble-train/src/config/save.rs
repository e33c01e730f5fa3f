//! `[save]`: what is written, and where.

use std::path::PathBuf;

use super::choice::choice;
use super::section::section;

choice! {
    /// The spelling of the adapter file.
    FileFormat = Kohya {
        /// What AUTOMATIC1111, ComfyUI and diffusers load.
        Kohya = "kohya",
        /// What PEFT and diffusers write.
        Peft = "peft",
        /// The `unet:0:up` layout of the first LoRA tool for Stable Diffusion.
        Original = "original",
    }
}
choice! {
    /// The number type of the adapter file.
    FileType = F16 {
        /// Half the size, and what most tools write.
        F16 = "f16",
        /// Half the size, less precise, larger range.
        Bf16 = "bf16",
        /// Nothing is rounded.
        F32 = "f32",
    }
}
choice! {
    /// What to do when the run's folder is there already.
    Existing = Number {
        /// Use a new one: `name-2`, `name-3`, ...
        Number = "number",
        /// Stop.
        Error = "error",
        /// Delete the old run first.
        Replace = "replace",
    }
}

section! {
    /// `[save]`: what is written, and where.
    Save {
        /// The folder that holds all runs.
        folder: PathBuf = PathBuf::from("runs"),
        /// Name of this run's folder and of the adapter file.
        name: String = "lora".to_owned(),
        /// What to do when that folder is there already: `number` (take `name-2`), `error` or `replace`.
        existing: Existing = Existing::Number,
        /// Save a checkpoint and an adapter after every so many steps. 0: only at the end.
        every: u64 = 250,
        /// How many checkpoints are kept; older ones are deleted. 0 keeps all.
        keep_last: usize = 2,
        /// Spellings of the adapter file: any of `kohya`, `peft` and `original`.
        formats: Vec<FileFormat> = vec![FileFormat::Kohya],
        /// Number type of the adapter file: `f16`, `bf16` or `f32`.
        dtype: FileType = FileType::F16,
        /// Write the run's course for TensorBoard too.
        tensorboard: bool = true,
    }
}
