//! From a source to a file, one tensor at a time: while one is written the next is read or computed.
//!
//! At most two tensors are alive. Blocks that tensors leave behind are given back as soon as they add up, since a
//! checkpoint's tensors have few sizes in common.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use scumble_tensor::{Tensor, memory};

use super::error::{FileError, Result};
use super::pickle::{TorchItem, write_torch};
use super::safetensors::{sort_as_written, write_safetensors_with};
use super::source::{TensorInfo, TensorSource};

/// Memory kept for reuse between tensors: enough for the sizes that a UNet has again and again, because
/// clearing a fresh block costs the system about as much as reading and writing what goes into it.
const KEPT_BYTES: usize = 160 << 20;

/// Told how many bytes of tensors have passed, each time one has.
pub type Watch<'w> = dyn FnMut(u64) + 'w;

/// Reads `names` in order on another thread and hands `use_them` a function that returns the next one.
pub fn read_ahead<T>(
    source: &dyn TensorSource,
    names: &[String],
    use_them: impl FnOnce(&mut dyn FnMut() -> Result<Tensor>) -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        // Without room in the channel the reader waits with the one tensor it has.
        let (send, receive) = sync_channel(0);
        scope.spawn(move || {
            for name in names {
                if send.send(source.read(name)).is_err() {
                    // The writer gave up and says why.
                    return;
                }
            }
        });
        use_them(&mut || {
            if memory::stats().pooled_bytes > KEPT_BYTES {
                memory::trim();
            }
            receive
                .recv()
                .unwrap_or_else(|_| Err(FileError::missing_tensor(source.describe(), "(the next one)")))
        })
    })
}

fn layout_of(source: &dyn TensorSource) -> Vec<(String, TensorInfo)> {
    source.names().into_iter().filter_map(|name| Some((name.clone(), source.info(&name)?))).collect()
}

/// Writes everything in `source` as one safetensors file, whole or not at all.
pub fn write_safetensors_from(
    path: &Path,
    source: &dyn TensorSource,
    metadata: &BTreeMap<String, String>,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let mut layout = layout_of(source);
    sort_as_written(&mut layout);
    let names: Vec<String> = layout.iter().map(|(name, _)| name.clone()).collect();
    read_ahead(source, &names, |next| {
        write_safetensors_with(path, layout, metadata, |_| watched(next()?, watch))
    })
}

/// Writes everything in `source` as a torch file `{"state_dict": {...}, "metadata": {...}}`, whole or not at all.
pub fn write_state_dict(
    path: &Path,
    source: &dyn TensorSource,
    metadata: &BTreeMap<String, String>,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let layout = layout_of(source);
    let names: Vec<String> = layout.iter().map(|(name, _)| name.clone()).collect();
    let tensors = layout.into_iter().map(|(name, info)| (name.clone(), TorchItem::Tensor(name, info)));
    let mut root = vec![("state_dict".to_string(), TorchItem::Dict(tensors.collect()))];
    if !metadata.is_empty() {
        let strings = metadata.iter().map(|(key, value)| (key.clone(), TorchItem::Text(value.clone())));
        root.push(("metadata".into(), TorchItem::Dict(strings.collect())));
    }
    read_ahead(source, &names, |next| write_torch(path, &TorchItem::Dict(root), |_| watched(next()?, watch)))
}

fn watched(tensor: Tensor, watch: &mut Watch<'_>) -> Result<Tensor> {
    watch((tensor.numel() * tensor.dtype().size()) as u64);
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::safetensors_tests::fixtures;
    use crate::files::{SafetensorsFile, open_any};

    #[test]
    fn a_file_passes_through_both_containers() {
        let folder = tempfile::tempdir().unwrap();
        let source = SafetensorsFile::open(&fixtures().join("pickles/expected.safetensors")).unwrap();
        let metadata = BTreeMap::from([("k".to_string(), "v".to_string())]);
        let mut passed = 0;
        let (one, two) = (folder.path().join("a.safetensors"), folder.path().join("a.ckpt"));
        write_safetensors_from(&one, &source, &metadata, &mut |bytes| passed += bytes).unwrap();
        let total: usize = source.names().iter().map(|name| source.info(name).unwrap().bytes()).sum();
        assert_eq!(passed, total as u64);
        write_state_dict(&two, &source, &metadata, &mut |_| ()).unwrap();
        for (path, prefix) in [(one, ""), (two, "state_dict.")] {
            let file = open_any(&path).unwrap();
            assert_eq!(file.metadata(), &metadata);
            assert_eq!(file.names().len(), source.names().len());
            for name in source.names() {
                let (found, wanted) =
                    (file.read(&format!("{prefix}{name}")).unwrap(), source.read(&name).unwrap());
                assert_eq!((found.dtype(), found.dims()), (wanted.dtype(), wanted.dims()));
                assert_eq!(found.bytes().unwrap(), wanted.bytes().unwrap());
            }
        }
    }

    #[test]
    fn a_reader_that_fails_ends_the_writing() {
        let source = SafetensorsFile::open(&fixtures().join("pickles/expected.safetensors")).unwrap();
        let names = vec![source.names()[0].clone(), "absent".to_string(), source.names()[1].clone()];
        let result = read_ahead(&source, &names, |next| (0..3).try_for_each(|_| next().map(drop)));
        assert!(result.unwrap_err().to_string().contains("absent"));
    }
}
