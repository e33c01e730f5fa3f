//! An adapter as tensors and metadata, ready for the container; and the hashes that kohya's readers look for.
//!
//! `sshs_model_hash` is the sha256 of the data section, so of the tensors in the container's order: by element type
//! (f64, f32, bf16, f16), then by name. `sshs_legacy_hash` is the start of the sha256 of bytes
//! 0x100000..0x110000 of the file as it would be with only its `ss_*` metadata; of a smaller file that is nothing,
//! and the hash is `e3b0c442`.

use std::collections::BTreeMap;

use scumble_tensor::{DType, Tensor};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::{AdapterError, Result};

/// What goes into the container.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    /// Keys and tensors.
    pub tensors: Vec<(String, Tensor)>,
    /// The container's metadata.
    pub metadata: BTreeMap<String, String>,
    /// What multiplying alphas into factors cost, in a dialect that has no place for them.
    pub rounding: Rounding,
}

/// What was rounded because a dialect has no place for alpha.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// Modules whose factors are no longer exactly `alpha / rank` times what they were, or do not give them back.
    pub modules: usize,
    /// The most that a number of them is off, as a part of itself: half a step of its type (2^-11 of an f16, 2^-8 of a
    /// bf16, 2^-24 of an f32), and up to 1 where it falls below f16's smallest normal number.
    pub largest: f64,
}

impl Encoded {
    /// Adds a factor in an element type; refuses one whose values that type cannot hold.
    pub(super) fn factor(&mut self, key: String, module: &str, factor: &Tensor, dtype: DType) -> Result<()> {
        let stored = factor.to_dtype(dtype)?;
        let overflows = |tensor: &Tensor| -> Result<bool> {
            Ok(tensor.to_vec::<f32>()?.iter().any(|value| !value.is_finite()))
        };
        if stored.dtype() != factor.dtype() && overflows(&stored)? && !overflows(factor)? {
            return Err(AdapterError::Factors {
                module: module.into(),
                what: format!("a value is too large for {}; write bf16 or f32", stored.dtype()),
            });
        }
        self.tensors.push((key, stored));
        Ok(())
    }
}

/// The two hashes in kohya metadata.
pub(super) struct Hashes {
    pub model: String,
    pub legacy: String,
}

/// Order of element types in the container, first to last, and their names there.
const CONTAINER_ORDER: [(DType, &str); 11] = [
    (DType::I64, "I64"),
    (DType::F64, "F64"),
    (DType::F32, "F32"),
    (DType::U32, "U32"),
    (DType::I32, "I32"),
    (DType::BF16, "BF16"),
    (DType::F16, "F16"),
    (DType::I16, "I16"),
    (DType::I8, "I8"),
    (DType::U8, "U8"),
    (DType::Bool, "BOOL"),
];

fn container_rank(dtype: DType) -> usize {
    CONTAINER_ORDER.iter().position(|(other, _)| *other == dtype).unwrap_or(CONTAINER_ORDER.len())
}

/// Sorts the tensors as the container does and hashes them.
pub(super) fn hashes(encoded: &mut Encoded) -> Result<Hashes> {
    encoded.tensors.sort_by(|(a_key, a), (b_key, b)| {
        (container_rank(a.dtype()), a_key).cmp(&(container_rank(b.dtype()), b_key))
    });
    let window = 0x10_0000usize..0x11_0000;
    let (mut model, mut legacy) = (Sha256::new(), Sha256::new());
    let mut position = data_start(encoded);
    for (_, tensor) in &encoded.tensors {
        let bytes = tensor.bytes()?;
        model.update(bytes);
        let from = window.start.saturating_sub(position).min(bytes.len());
        let to = window.end.saturating_sub(position).min(bytes.len());
        legacy.update(&bytes[from..to]);
        position += bytes.len();
    }
    let legacy = hex(&legacy.finalize());
    Ok(Hashes { model: hex(&model.finalize()), legacy: legacy[..8].to_owned() })
}

/// Where the data would start in a file whose only metadata are the `ss_*` entries: 8 bytes of length, then the JSON
/// header padded to a multiple of 8.
fn data_start(encoded: &Encoded) -> usize {
    let only_ss: Map<String, Value> = encoded
        .metadata
        .iter()
        .filter(|(key, _)| key.starts_with("ss_"))
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    let mut header = Map::new();
    header.insert("__metadata__".into(), Value::Object(only_ss));
    let mut end = 0;
    for (key, tensor) in &encoded.tensors {
        let start = end;
        end += tensor.numel() * tensor.dtype().size();
        let (_, dtype) = CONTAINER_ORDER[container_rank(tensor.dtype())];
        header.insert(
            key.clone(),
            json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, end] }),
        );
    }
    8 + Value::Object(header).to_string().len().next_multiple_of(8)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
