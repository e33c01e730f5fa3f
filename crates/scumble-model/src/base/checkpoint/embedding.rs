//! Learned tokens as AUTOMATIC1111 reads them: `{"string_to_token": {"*": 265}, "string_to_param": {"*": [n, d]}, "name"}`.

use std::path::Path;

use scumble_tensor::Tensor;

use crate::files::{Result, TensorInfo, TorchItem, write_torch};

/// Writes the vectors `[n, d]` of one embedding as a `.pt` file.
pub fn write_embedding(path: &Path, name: &str, vectors: &Tensor) -> Result<()> {
    let star = |item: TorchItem| TorchItem::Dict(vec![("*".into(), item)]);
    let info = TensorInfo { dtype: vectors.dtype(), shape: vectors.dims().to_vec() };
    let root = TorchItem::Dict(vec![
        ("string_to_token".into(), star(TorchItem::Int(265))),
        ("string_to_param".into(), star(TorchItem::Tensor("*".into(), info))),
        ("name".into(), TorchItem::Text(name.into())),
        ("step".into(), TorchItem::None),
        ("sd_checkpoint".into(), TorchItem::None),
        ("sd_checkpoint_name".into(), TorchItem::None),
    ]);
    write_torch(path, &root, |_| Ok(vectors.clone()))
}
