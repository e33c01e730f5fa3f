//! `probe text`: token ids of prompts, and the text encoder's states.

use std::sync::Arc;

use serde_json::Value;

use scumble_tensor::{Tape, Tensor};

use super::tensors::Outputs;
use super::{TextArgs, read_json};
use crate::commands::model;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Encodes all prompts of the spec in one batch.
pub fn run(context: &Context, args: &TextArgs) -> Result {
    let backend = context.backend()?;
    let spec = read_json(&args.spec)?;
    let prompts = prompts(&spec)?;
    let files = model::open(&args.base.base)?;
    let tokenizer = model::tokenizer(&files)?;
    let encoder = model::text_encoder(&files, backend.as_ref(), args.base.precision.dtype())?;
    let ids: Vec<Vec<i64>> = prompts.iter().map(|prompt| tokenizer.encode(prompt)).collect();
    let dims = [ids.len(), ids.first().map_or(0, Vec::len)];
    let ids = Tensor::from_slice(&ids.concat(), &dims)?;
    let tape = Tape::inference(Arc::clone(&backend));
    let output = encoder.forward(&tape, &backend.upload(&ids)?)?;
    let mut outputs = Outputs::default();
    outputs.push("input_ids", ids)?;
    for (name, value) in [
        ("embeddings", output.embeddings),
        ("penultimate", output.penultimate),
        ("last_hidden_state", output.last_hidden_state),
        ("pooled", output.pooled),
    ] {
        outputs.push(name, backend.download(value.value())?)?;
    }
    outputs.write(&args.base.out)?;
    Ok(Outcome::Done)
}

fn prompts(spec: &Value) -> Result<Vec<&str>> {
    let prompts: Option<Vec<&str>> =
        spec.get("prompts").and_then(Value::as_array).and_then(|all| all.iter().map(Value::as_str).collect());
    prompts
        .filter(|prompts| !prompts.is_empty())
        .ok_or_else(|| Failure::new("the spec has no `prompts`: a list of texts"))
}
