//! Torch's containers: where in the file the pickle and the storages are.
//!
//! Zip (torch 1.6 and later): `<top>/data.pkl`, `<top>/data/<key>` per storage, `<top>/byteorder`; stored, not
//! deflated, by torch, but repacked files exist. Legacy: five things one after the other, namely the pickles of a
//! magic number, a protocol version, the byte order, the object and the list of storage keys, then for each key
//! a u64 element count and the elements. Tar, before both: see [`super::tar`].

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;

use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::machine::{self, Fault, Loaded};
use super::tar;
use super::value::StorageDeclaration;
use crate::files::error::{FileError, Result, human_bytes, printable};

pub(super) const FORMAT: &str = "torch";
/// `data.pkl` of a full model with optimizer state takes a few megabytes.
pub(super) const MAX_PICKLE: u64 = 64 << 20;
/// Weights deflate to nine tenths; a record that inflates more than this is a bomb (small ones are let through).
const MAX_RATIO: u64 = 100;
const MAX_UNQUESTIONED: u64 = 16 << 20;
/// First pickle of a legacy file.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;

/// The bytes of one storage inside the file.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub range: Range<usize>,
    /// Size when inflated, for deflated records.
    pub inflated: Option<usize>,
}

impl Record {
    pub(super) fn len(&self) -> usize {
        self.inflated.unwrap_or(self.range.len())
    }

    /// The content; at most the declared size is taken.
    pub(super) fn content<'a>(&self, path: &Path, file: &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>> {
        let raw = file.get(self.range.clone()).unwrap_or_default();
        let Some(size) = self.inflated else { return Ok(raw.into()) };
        let mut content = Vec::new();
        DeflateDecoder::new(raw)
            .take(size as u64 + 1)
            .read_to_end(&mut content)
            .map_err(|error| FileError::malformed(path, FORMAT, format!("a deflated record: {error}")))?;
        if content.len() != size {
            let reason = format!("a deflated record is declared as {size} bytes but is not");
            return Err(FileError::malformed(path, FORMAT, reason));
        }
        Ok(content.into())
    }
}

/// A container taken apart.
pub(super) struct Contents {
    pub loaded: Loaded,
    /// By storage key.
    pub records: BTreeMap<String, Record>,
}

/// Takes a file apart, whichever container it is.
pub(super) fn open(path: &Path, file: &[u8]) -> Result<Contents> {
    let contents = match file {
        [b'P', b'K', 3 | 5, ..] => open_zip(path, file)?,
        // A zip whose first bytes are lost still has its directory at the end.
        _ if file.first() != Some(&0x80) && has_zip_end(file) => open_zip(path, file)?,
        [] => return Err(FileError::malformed(path, FORMAT, "the file is empty")),
        _ if tar::is_tar(file) => tar::open(path, file)?,
        [0x80, ..] => open_legacy(path, file)?,
        _ => return Err(FileError::malformed(path, FORMAT, "it is neither a zip archive nor a pickle")),
    };
    check_storages(path, &contents)?;
    Ok(contents)
}

fn has_zip_end(file: &[u8]) -> bool {
    let tail = &file[file.len().saturating_sub(22)..];
    tail.starts_with(b"PK\x05\x06")
}

fn open_zip(path: &Path, file: &[u8]) -> Result<Contents> {
    let mut entries = zip_entries(path, file)?;
    let Some(pickle_name) =
        entries.keys().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl")).cloned()
    else {
        return Err(FileError::malformed(path, FORMAT, "the zip archive has no `data.pkl`"));
    };
    let top = pickle_name.trim_end_matches("data.pkl");
    if let Some(byte_order) = entries.get(&format!("{top}byteorder")).filter(|record| record.len() < 64) {
        check_byte_order(path, &byte_order.content(path, file)?)?;
    }
    let pickle = &entries[&pickle_name];
    if pickle.len() as u64 > MAX_PICKLE {
        return Err(too_large(path, "`data.pkl`".into(), pickle.len() as u64, MAX_PICKLE));
    }
    let pickle = pickle.content(path, file)?;
    let loaded = machine::load(&pickle).map_err(|fault| in_file(path, fault))?;
    let data = format!("{top}data/");
    let records = std::mem::take(&mut entries)
        .into_iter()
        .filter_map(|(name, record)| Some((name.strip_prefix(&data)?.to_string(), record)))
        .collect();
    Ok(Contents { loaded, records })
}

fn check_byte_order(path: &Path, byte_order: &[u8]) -> Result<()> {
    if byte_order.trim_ascii() == b"little" {
        return Ok(());
    }
    let found = printable(&String::from_utf8_lossy(byte_order));
    Err(FileError::malformed(path, FORMAT, format!("the byte order is `{found}`; only `little` is read")))
}

/// All records of the archive, with their places checked but nothing inflated.
fn zip_entries(path: &Path, file: &[u8]) -> Result<BTreeMap<String, Record>> {
    let malformed = |reason: String| FileError::malformed(path, FORMAT, reason);
    let mut archive =
        ZipArchive::new(Cursor::new(file)).map_err(|error| malformed(format!("zip archive: {error}")))?;
    let mut entries = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| malformed(format!("zip entry: {error}")))?;
        let name = entry.name().map_err(|error| malformed(format!("zip entry: {error}")))?.into_owned();
        let shown = printable(&name);
        let (size, packed) = (entry.size(), entry.compressed_size());
        let start = entry.data_start().ok_or_else(|| malformed(format!("`{shown}` has no data")))?;
        let range = usize::try_from(start)
            .ok()
            .and_then(|start| Some(start..start.checked_add(usize::try_from(packed).ok()?)?))
            .filter(|range| range.end <= file.len())
            .ok_or_else(|| malformed(format!("`{shown}` reaches beyond the end of the file")))?;
        let inflated = match entry.compression() {
            _ if entry.encrypted() => return Err(malformed(format!("`{shown}` is encrypted"))),
            CompressionMethod::Stored if size == packed => None,
            CompressionMethod::Stored => {
                return Err(malformed(format!("`{shown}` is stored with two different sizes")));
            }
            CompressionMethod::Deflated => {
                if size > MAX_UNQUESTIONED && size > packed.saturating_mul(MAX_RATIO) {
                    return Err(too_large(path, format!("inflating `{shown}`"), size, packed * MAX_RATIO));
                }
                Some(
                    usize::try_from(size)
                        .map_err(|_| malformed(format!("`{shown}` is larger than memory")))?,
                )
            }
            other => return Err(malformed(format!("`{shown}` is packed with {other}"))),
        };
        if entries.insert(name, Record { range, inflated }).is_some() {
            return Err(malformed(format!("`{shown}` comes twice")));
        }
    }
    Ok(entries)
}

fn open_legacy(path: &Path, file: &[u8]) -> Result<Contents> {
    let malformed = |reason: &str| FileError::malformed(path, FORMAT, reason);
    let mut position = 0;
    let mut next = || -> Result<Loaded> {
        let loaded = machine::load(&file[position..]).map_err(|fault| in_file(path, fault))?;
        position += loaded.end;
        Ok(loaded)
    };
    // The magic number has ten bytes, so the machine only names it; its bytes are compared in place.
    let magic = next()?;
    if !file[..magic.end].windows(MAGIC.len()).any(|window| window == MAGIC) {
        return Err(malformed("it is a pickle, but not one that torch wrote"));
    }
    if next()?.value.as_int() != Some(LEGACY_PROTOCOL) {
        return Err(malformed("the legacy protocol version is not 1001"));
    }
    if matches!(next()?.value.get("little_endian"), Some(super::Value::Bool(false))) {
        return Err(malformed("the byte order is big; only little is read"));
    }
    let loaded = next()?;
    let keys = next()?;
    let records = legacy_records(path, file, position, &loaded.storages, &keys)?;
    Ok(Contents { loaded, records })
}

/// The storages behind the pickles of a legacy file.
fn legacy_records(
    path: &Path,
    file: &[u8],
    mut position: usize,
    storages: &[StorageDeclaration],
    keys: &Loaded,
) -> Result<BTreeMap<String, Record>> {
    let malformed = |reason: String| FileError::malformed(path, FORMAT, reason);
    let sizes: BTreeMap<&str, usize> =
        storages.iter().map(|storage| (storage.key.as_ref(), storage.dtype.size())).collect();
    let mut records = BTreeMap::new();
    for key in keys.value.as_list().unwrap_or_default() {
        let key = key.as_text().ok_or_else(|| malformed("a storage key that is no string".into()))?;
        let shown = printable(key);
        let element =
            *sizes.get(key).ok_or_else(|| malformed(format!("storage `{shown}` belongs to no tensor")))?;
        let cut = || malformed(format!("the file ends inside storage `{shown}`"));
        let count = file.get(position..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(cut)?;
        let start = position + 8;
        let end = usize::try_from(u64::from_le_bytes(*count))
            .ok()
            .and_then(|count| start.checked_add(count.checked_mul(element)?))
            .filter(|&end| end <= file.len())
            .ok_or_else(cut)?;
        position = end;
        if records.insert(key.to_string(), Record { range: start..end, inflated: None }).is_some() {
            return Err(malformed(format!("storage `{shown}` comes twice")));
        }
    }
    Ok(records)
}

/// Every storage the pickle mentions must be there with the bytes it declares.
fn check_storages(path: &Path, contents: &Contents) -> Result<()> {
    for storage in &contents.loaded.storages {
        let shown = printable(&storage.key);
        let bytes = storage.numel * storage.dtype.size();
        match contents.records.get(storage.key.as_ref()) {
            Some(record) if record.len() >= bytes => {}
            None if bytes == 0 => {}
            found => {
                let found = found.map_or("no data".into(), |record| format!("{} bytes", record.len()));
                let reason = format!("storage `{shown}`: expected {bytes} bytes, found {found}");
                return Err(FileError::malformed(path, FORMAT, reason));
            }
        }
    }
    Ok(())
}

fn too_large(path: &Path, what: String, found: u64, limit: u64) -> FileError {
    FileError::TooLarge {
        file: path.into(),
        what,
        found: human_bytes(found.into()),
        limit: human_bytes(limit.into()),
    }
}

pub(super) fn in_file(path: &Path, fault: Fault) -> FileError {
    match fault {
        Fault::Refused(global) => FileError::RefusedGlobal { file: path.into(), global: printable(&global) },
        Fault::Malformed(reason) => FileError::malformed(path, FORMAT, printable(&reason)),
        Fault::UnsupportedDType(dtype) => FileError::UnsupportedDType {
            file: path.into(),
            tensor: "(a storage)".into(),
            dtype: printable(&dtype),
        },
        Fault::TooMuch(what, limit) => FileError::TooLarge {
            file: path.into(),
            what: "its pickle".into(),
            found: format!("more than {limit} {what}"),
            limit: limit.to_string(),
        },
    }
}
