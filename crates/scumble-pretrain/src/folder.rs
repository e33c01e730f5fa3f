//! Networks as folders in the layout of diffusers and transformers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use scumble_model::files::{atomic_write, write_safetensors};
use scumble_model::nn::Modules;
use scumble_model::tokenizer::TokenizerFiles;
use scumble_tensor::{Backend, DType, Param};
use scumble_train::{Result, TrainError};
use serde_json::Value;

/// Name of the weights of diffusers' networks.
pub const DIFFUSION_WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
/// Name of the weights of transformers' networks.
pub const TEXT_WEIGHTS: &str = "model.safetensors";

/// Writes `config.json` and weights of `params` in half precision, which is how published models come.
pub fn network(
    folder: &Path,
    weights: &str,
    config: &Value,
    params: &[Param],
    backend: &dyn Backend,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(TrainError::io("creating", folder))?;
    json(&folder.join("config.json"), config)?;
    let half =
        |param: &Param| Ok((param.name().to_owned(), Modules::export(backend, param)?.to_dtype(DType::F16)?));
    let tensors = params.iter().map(half).collect::<Result<Vec<_>>>()?;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(write_safetensors(&folder.join(weights), &tensors, &metadata)?)
}

/// Writes a `tokenizer/` folder.
pub fn tokenizer(folder: &Path, files: &TokenizerFiles) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(TrainError::io("creating", folder))?;
    for (name, text) in files {
        atomic_write(&folder.join(name), |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// Writes a configuration.
pub fn json(path: &Path, value: &Value) -> Result<()> {
    Ok(atomic_write(path, |file| writeln!(file, "{value:#}"))?)
}

/// Reads a configuration.
pub fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io("reading", path))?;
    serde_json::from_str(&text).map_err(|error| TrainError::Mismatch {
        what: path.display().to_string(),
        expected: "JSON".to_owned(),
        found: error.to_string(),
    })
}
