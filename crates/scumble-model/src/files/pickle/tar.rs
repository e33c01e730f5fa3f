//! Torch's oldest container (before 0.2): a tar archive of three members.
//!
//! ```text
//! storages   pickle(count); count times: pickle((key, location, class)), u64 elements, the elements; then
//!            pickle([(key of a view, key of its root, offset, elements), ...])
//! tensors    pickle(count); count times: pickle((key, key of its storage, class)), i32 dimensions, 4 bytes of nothing,
//!            i64 sizes, i64 strides, i64 offset
//! pickle     the object; a persistent id is the key of a tensor, as text
//! ```
//!
//! Keys were addresses in the writer's memory. Tar headers are blocks of 512 bytes, sizes in octal digits (POSIX ustar);
//! members begin at blocks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::machine::{self, Loaded, MAX_RANK, MAX_TENSORS, StorageClass, storage_class_of, view};
use super::records::{Contents, FORMAT, Record, in_file};
use super::value::{PickledTensor, StorageDeclaration, Value};
use crate::files::error::{FileError, Result};

const BLOCK: usize = 512;
/// Members that are looked at before giving up; torch wrote four.
pub(super) const MAX_MEMBERS: usize = 64;

/// Whether the file begins with a tar header.
pub(super) fn is_tar(file: &[u8]) -> bool {
    file.get(257..262) == Some(b"ustar")
}

/// Takes the archive apart.
pub(super) fn open(path: &Path, file: &[u8]) -> Result<Contents> {
    let members = members(path, file)?;
    let member = |name: &str| {
        members
            .get(name)
            .cloned()
            .ok_or_else(|| malformed(path, format!("the tar archive has no member `{name}`")))
    };
    let (storages, records) = storages(path, file, member("storages")?)?;
    let tensors = tensors(path, file, member("tensors")?, &storages)?;
    let object =
        machine::load_with(&file[member("pickle")?], tensors).map_err(|fault| in_file(path, fault))?;
    let declared: Vec<StorageDeclaration> = storages.into_values().collect();
    Ok(Contents { loaded: Loaded { storages: declared, ..object }, records })
}

fn malformed(path: &Path, reason: impl Into<String>) -> FileError {
    FileError::malformed(path, FORMAT, reason)
}

/// The members by name; a name that comes twice is its last.
fn members(path: &Path, file: &[u8]) -> Result<BTreeMap<String, Range<usize>>> {
    let mut members = BTreeMap::new();
    let mut position = 0usize;
    while let Some(header) = file.get(position..position + BLOCK) {
        if header[0] == 0 {
            break;
        }
        if members.len() >= MAX_MEMBERS {
            return Err(malformed(path, format!("the tar archive has more than {MAX_MEMBERS} members")));
        }
        let name = header[..100].split(|&byte| byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).trim_start_matches("./").to_owned();
        let digits = std::str::from_utf8(&header[124..136]).unwrap_or_default();
        let size = usize::from_str_radix(digits.trim_matches(['\0', ' ']), 8)
            .map_err(|_| malformed(path, "a tar header without a size"))?;
        let start = position + BLOCK;
        let end = start.checked_add(size).filter(|&end| end <= file.len());
        let end = end.ok_or_else(|| malformed(path, "a tar member reaches beyond the end of the file"))?;
        members.insert(name, start..end);
        position = end.next_multiple_of(BLOCK);
    }
    Ok(members)
}

/// A member that is read from its beginning to its end: pickles, and bytes between them.
struct Reader<'f> {
    path: &'f Path,
    file: &'f [u8],
    position: usize,
    end: usize,
}

impl<'f> Reader<'f> {
    fn pickle(&mut self) -> Result<Value> {
        let loaded =
            machine::load(&self.file[self.position..self.end]).map_err(|fault| in_file(self.path, fault))?;
        self.position += loaded.end;
        Ok(loaded.value)
    }

    fn take(&mut self, bytes: usize) -> Result<&'f [u8]> {
        let end = self.position.checked_add(bytes).filter(|&end| end <= self.end);
        let end = end.ok_or_else(|| malformed(self.path, "a tar member ends in the middle"))?;
        let taken = &self.file[self.position..end];
        self.position = end;
        Ok(taken)
    }

    /// A whole number of 64 bits that may not be negative.
    fn size(&mut self) -> Result<usize> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        usize::try_from(i64::from_le_bytes(bytes))
            .map_err(|_| malformed(self.path, "a size that is negative"))
    }

    fn count(&mut self, what: &str) -> Result<usize> {
        let count = self.pickle()?.as_int().and_then(|count| usize::try_from(count).ok());
        match count {
            Some(count) if count <= MAX_TENSORS => Ok(count),
            _ => Err(malformed(self.path, format!("the number of {what} is no number up to {MAX_TENSORS}"))),
        }
    }
}

type Storages = BTreeMap<i64, StorageDeclaration>;

fn storages(path: &Path, file: &[u8], member: Range<usize>) -> Result<(Storages, BTreeMap<String, Record>)> {
    let mut reader = Reader { path, file, position: member.start, end: member.end };
    let (mut storages, mut records) = (Storages::new(), BTreeMap::new());
    for _ in 0..reader.count("storages")? {
        let head = reader.pickle()?;
        let Some([key, _, class]) = head.as_list() else {
            return Err(malformed(path, "a storage without key, location and class"));
        };
        let key = number(key).ok_or_else(|| malformed(path, "a storage without a key"))?;
        let dtype = match storage_class_of(class) {
            StorageClass::Known(dtype) => dtype,
            StorageClass::Unread(name) => {
                let tensor = "(a storage)".into();
                return Err(FileError::UnsupportedDType {
                    file: path.into(),
                    tensor,
                    dtype: name.to_string(),
                });
            }
            StorageClass::None => return Err(malformed(path, "a storage without a storage class")),
        };
        let numel = reader.size()?;
        let bytes = numel.checked_mul(dtype.size());
        let bytes = bytes.ok_or_else(|| malformed(path, "a storage larger than memory can address"))?;
        let start = reader.position;
        reader.take(bytes)?;
        let name: Arc<str> = key.to_string().into();
        records.insert(name.to_string(), Record { range: start..start + bytes, inflated: None });
        let declaration = StorageDeclaration { key: name, dtype, numel, view_offset: 0, view_numel: numel };
        storages.insert(key, declaration);
    }
    for storage_view in reader.pickle()?.as_list().unwrap_or_default() {
        let parts = storage_view.as_list().unwrap_or_default();
        let numbers: Option<Vec<i64>> = parts.iter().map(number).collect();
        let Some([target, root, offset, numel]) = numbers.as_deref() else {
            return Err(malformed(path, "a storage view that is no group of four numbers"));
        };
        let root =
            storages.get(root).ok_or_else(|| malformed(path, "a view of a storage that is not there"))?;
        let extent = usize::try_from(*offset).ok().zip(usize::try_from(*numel).ok());
        let within = |&(offset, numel): &(usize, usize)| {
            offset.checked_add(numel).is_some_and(|end| end <= root.view_numel)
        };
        let (offset, view_numel) =
            extent.filter(within).ok_or_else(|| malformed(path, "a storage view beyond its storage"))?;
        let declaration =
            StorageDeclaration { view_offset: root.view_offset + offset, view_numel, ..root.clone() };
        storages.insert(*target, declaration);
    }
    Ok((storages, records))
}

fn tensors(
    path: &Path,
    file: &[u8],
    member: Range<usize>,
    storages: &Storages,
) -> Result<BTreeMap<i64, Arc<PickledTensor>>> {
    let mut reader = Reader { path, file, position: member.start, end: member.end };
    let mut tensors = BTreeMap::new();
    for _ in 0..reader.count("tensors")? {
        let head = reader.pickle()?;
        let parts = head.as_list().unwrap_or_default();
        let key = parts.first().and_then(number);
        let storage = parts.get(1).and_then(number).and_then(|key| storages.get(&key));
        let (Some(key), Some(storage)) = (key, storage) else {
            return Err(malformed(path, "a tensor without a key or without a storage"));
        };
        let dimensions = reader.take(8)?;
        let dimensions = i32::from_le_bytes([dimensions[0], dimensions[1], dimensions[2], dimensions[3]]);
        let dimensions = usize::try_from(dimensions).ok().filter(|&dimensions| dimensions <= MAX_RANK);
        let dimensions = dimensions
            .ok_or_else(|| malformed(path, format!("a tensor of more than {MAX_RANK} dimensions")))?;
        let mut sizes = || (0..dimensions).map(|_| reader.size()).collect::<Result<Vec<usize>>>();
        let (shape, strides) = (sizes()?, sizes()?);
        let offset = reader.size()?;
        let tensor = view(storage, offset, shape, strides).map_err(|fault| in_file(path, fault))?;
        tensors.insert(key, Arc::new(tensor));
    }
    Ok(tensors)
}

/// A key, as a number or as its digits.
fn number(value: &Value) -> Option<i64> {
    value.as_int().or_else(|| value.as_text()?.parse().ok())
}
