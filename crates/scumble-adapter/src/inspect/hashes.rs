//! The hashes under which tools and sites know a file.
//!
//! | name | of what |
//! |---|---|
//! | sha256 | the whole file |
//! | AutoV2 | its first 10 digits: a checkpoint's name in AUTOMATIC1111 and on Civitai |
//! | AutoV1 | first 8 digits of the sha256 of bytes 0x100000..0x110000: the old name |
//! | tensors | sha256 of everything behind a safetensors header, so free of metadata; kohya's `sshs_model_hash` |
//! | AutoV3 | its first 12 digits: an adapter's name in AUTOMATIC1111 and on Civitai |
//!
//! kohya writes `sshs_model_hash` and `sshs_legacy_hash` into the file itself. The first must be that of the tensors;
//! the second is of an image of the file with fewer metadata and cannot be seen again in the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use scumble_model::files::{FileError, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Hashes of a file, hexadecimal.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Hashes {
    /// Of the whole file.
    pub sha256: String,
    /// First 10 digits of it.
    pub auto_v2: String,
    /// AUTOMATIC1111's old model hash; `e3b0c442` for files under 1 MiB.
    pub auto_v1: String,
    /// Of the tensors' bytes; safetensors only.
    pub tensors_sha256: Option<String>,
    /// First 12 digits of it.
    pub auto_v3: Option<String>,
    /// `sshs_model_hash` of the metadata.
    pub stated: Option<String>,
    /// Whether `stated` is that of the tensors.
    pub stated_is_right: Option<bool>,
}

const WINDOW: std::ops::Range<u64> = 0x10_0000..0x11_0000;

/// Reads the file once.
pub fn hash_file(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Hashes> {
    let read = |source: std::io::Error| FileError::Read { file: path.into(), source };
    let mut file = File::open(path).map_err(|source| FileError::Open { file: path.into(), source })?;
    let data_start = data_start(&mut file).map_err(read)?;
    let (mut whole, mut tensors, mut window) = (Sha256::new(), Sha256::new(), Sha256::new());
    let (mut buffer, mut position) = (vec![0u8; 1 << 20], 0u64);
    loop {
        let count = file.read(&mut buffer).map_err(read)?;
        if count == 0 {
            break;
        }
        let block = &buffer[..count];
        whole.update(block);
        window.update(part(block, position, WINDOW));
        if let Some(start) = data_start {
            tensors.update(part(block, position, start..u64::MAX));
        }
        position += count as u64;
    }
    let sha256 = hex(&whole.finalize());
    let tensors_sha256 = data_start.map(|_| hex(&tensors.finalize()));
    let stated = metadata.get("sshs_model_hash").cloned();
    Ok(Hashes {
        auto_v2: sha256[..10].into(),
        auto_v1: hex(&window.finalize())[..8].into(),
        auto_v3: tensors_sha256.as_ref().map(|hash| hash[..12].into()),
        stated_is_right: stated.as_ref().zip(tensors_sha256.as_ref()).map(|(a, b)| a.eq_ignore_ascii_case(b)),
        stated,
        tensors_sha256,
        sha256,
    })
}

/// Where a safetensors file's data begin; leaves the file at its beginning.
fn data_start(file: &mut File) -> std::io::Result<Option<u64>> {
    use std::io::{Seek, SeekFrom};
    let mut start = Vec::new();
    file.by_ref().take(9).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    let is_safetensors = start.get(8) == Some(&b'{');
    let length = start.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    Ok(length.filter(|_| is_safetensors).and_then(|length| length.checked_add(8)))
}

/// The bytes of `block`, which begins at `position`, that lie in `range`.
fn part(block: &[u8], position: u64, range: std::ops::Range<u64>) -> &[u8] {
    let within = |at: u64| at.saturating_sub(position).min(block.len() as u64) as usize;
    let (from, to) = (within(range.start), within(range.end));
    &block[from..to.max(from)]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_from_blocks() {
        let block: Vec<u8> = (0..100).collect();
        assert_eq!(part(&block, 0, 10..20), &block[10..20]);
        assert_eq!(part(&block, 1000, 1050..5000), &block[50..]);
        assert!(part(&block, 1000, 10..20).is_empty() && part(&block, 0, 200..300).is_empty());
    }

    #[test]
    fn each_hash_is_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let mut bytes = b"\x02\0\0\0\0\0\0\0{}".to_vec();
        let data: Vec<u8> = (0..0x11_8000u32).map(|i| (i % 251) as u8).collect();
        bytes.extend(&data);
        std::fs::write(&path, &bytes).unwrap();
        let of = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        let mut metadata = BTreeMap::from([("sshs_model_hash".to_owned(), of(&data))]);
        let hashes = hash_file(&path, &metadata).unwrap();
        assert_eq!(hashes.sha256, of(&bytes));
        assert_eq!(hashes.auto_v1, of(&bytes[0x10_0000..0x11_0000])[..8]);
        assert_eq!(hashes.tensors_sha256.as_deref(), Some(of(&data).as_str()));
        assert_eq!(hashes.stated_is_right, Some(true));
        metadata.insert("sshs_model_hash".into(), "12".into());
        assert_eq!(hash_file(&path, &metadata).unwrap().stated_is_right, Some(false));
        std::fs::write(&path, b"PK").unwrap();
        let hashes = hash_file(&path, &BTreeMap::new()).unwrap();
        assert_eq!((hashes.auto_v1.as_str(), hashes.auto_v3), ("e3b0c442", None));
    }
}
