//! The safetensors container: a header that is checked as a whole, and tensors read one at a time.
//!
//! ```text
//! u64 little-endian header length | JSON header, starting with `{` | tensor data, row-major, little-endian
//! ```
//!
//! The header maps names to `{dtype, shape, data_offsets: [begin, end]}` relative to the end of the header, and
//! `__metadata__` to strings. The rules that keep a hostile file harmless: the header is at most 100 MB and inside
//! the file, it has at most 262144 tensors, no key comes twice, data covers the rest of the file in order without
//! hole or overlap, and every size is its shape times its element size, multiplied with overflow checks. Data may
//! start at any address (older writers do not pad), so elements are copied, never cast in place.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use scumble_tensor::memory::HostBuffer;
use scumble_tensor::{DType, Tensor};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::atomic::AtomicFile;
use super::error::{FileError, Result, printable};
use super::positioned::read_exact_at;
use super::source::{TensorInfo, TensorSource};

/// The format's own cap on the header.
const MAX_HEADER: u64 = 100_000_000;
/// A full model with averages and optimizer state has less than ten thousand, the largest language models a hundred
/// thousand. A header of the full length could have ten times as many, and each takes memory.
const MAX_TENSORS: usize = 256 << 10;
const METADATA: &str = "__metadata__";
const FORMAT: &str = "safetensors";

/// Element types under the names the header uses, in the order of the reference implementation's list: writers
/// sort by it, last first.
const DTYPES: [(&str, DType); 11] = [
    ("BOOL", DType::Bool),
    ("U8", DType::U8),
    ("I8", DType::I8),
    ("I16", DType::I16),
    ("F16", DType::F16),
    ("BF16", DType::BF16),
    ("I32", DType::I32),
    ("U32", DType::U32),
    ("F32", DType::F32),
    ("F64", DType::F64),
    ("I64", DType::I64),
];

struct Entry {
    info: TensorInfo,
    /// Inside the mapped file.
    range: Range<usize>,
}

/// An open safetensors file.
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Maps the file and checks its header completely; no element is read yet.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, map) = map_file(path)?;
        let bytes = map.as_deref().unwrap_or_default();
        let data_start = header_end(path, bytes)?;
        let header: Header = serde_json::from_slice(&bytes[8..data_start])
            .map_err(|error| FileError::malformed(path, FORMAT, format!("header: {error}")))?;
        let entries = check_entries(path, header.tensors, data_start, bytes.len())?;
        Ok(Self { path: path.into(), file, entries, metadata: header.metadata })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl TensorSource for SafetensorsFile {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.entries.get(name).map(|entry| entry.info.clone())
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let entry = self.entries.get(name).ok_or_else(|| FileError::missing_tensor(&self.path, name))?;
        read_tensor(&self.path, &self.file, name, &entry.info, entry.range.start)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// Reads a contiguous tensor that begins at byte `start` of a file.
pub(super) fn read_tensor(
    path: &Path,
    file: &File,
    name: &str,
    info: &TensorInfo,
    start: usize,
) -> Result<Tensor> {
    let engine = |source| FileError::engine(path, name, source);
    let mut buffer = HostBuffer::for_overwrite(info.bytes()).map_err(engine)?;
    read_exact_at(file, buffer.as_mut_bytes(), start as u64)
        .map_err(|source| FileError::Read { file: path.into(), source })?;
    Tensor::from_buffer(info.dtype, buffer, &info.shape).map_err(engine)
}

/// Opens a file and maps it read-only; no map for an empty one, which cannot be mapped everywhere. Only headers,
/// directories and pickles are looked at through the map; elements are read from the file.
pub(super) fn map_file(path: &Path) -> Result<(File, Option<Mmap>)> {
    let open_error = |source| FileError::Open { file: path.into(), source };
    let file = File::open(path).map_err(open_error)?;
    let meta = file.metadata().map_err(open_error)?;
    if meta.is_dir() {
        return Err(open_error(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    if meta.len() == 0 {
        return Ok((file, None));
    }
    // SAFETY: the map is read-only and only ever seen as bytes that are copied out. A program that truncates the
    // file meanwhile could end this process with a bus error, not corrupt it; our own writers replace by rename.
    let map = unsafe { Mmap::map(&file) }.map_err(open_error)?;
    Ok((file, Some(map)))
}

/// Where the header ends and the data begins.
fn header_end(path: &Path, bytes: &[u8]) -> Result<usize> {
    let malformed = |reason: String| Err(FileError::malformed(path, FORMAT, reason));
    let Some(&length) = bytes.first_chunk::<8>() else {
        return malformed(format!("{} bytes are too few for the header's length", bytes.len()));
    };
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return malformed(format!("the header claims {length} bytes; at most {MAX_HEADER} are allowed"));
    }
    let Some(end) = usize::try_from(length).ok().map(|length| 8 + length).filter(|&end| end <= bytes.len())
    else {
        return malformed(format!("the header claims {length} bytes, the file has {}", bytes.len() - 8));
    };
    if bytes[8..end].first() != Some(&b'{') {
        return malformed("the header does not start with `{`".into());
    }
    Ok(end)
}

/// Checks types, sizes and that the tensors tile the data exactly.
fn check_entries(
    path: &Path,
    raw: BTreeMap<String, RawEntry>,
    data_start: usize,
    file_len: usize,
) -> Result<BTreeMap<String, Entry>> {
    let mut tensors: Vec<(String, RawEntry)> = raw.into_iter().collect();
    tensors.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut entries = BTreeMap::new();
    let mut position = 0usize;
    for (name, raw) in tensors {
        let [begin, end] = raw.data_offsets;
        let shown = printable(&name);
        let fail = |expected: String, found: String| Err(FileError::tensor(path, &shown, expected, found));
        if begin != position || end < begin {
            return fail(format!("data at offset {position}"), format!("[{begin}, {end}]"));
        }
        let Some(dtype) = DTYPES.iter().find(|(spelled, _)| *spelled == raw.dtype).map(|&(_, dtype)| dtype)
        else {
            return Err(FileError::UnsupportedDType {
                file: path.into(),
                tensor: shown,
                dtype: printable(&raw.dtype),
            });
        };
        let shape = raw.shape.0;
        let size = shape.iter().try_fold(dtype.size(), |size, &n| size.checked_mul(n));
        if size != Some(end - begin) {
            let size = size.map_or("more than memory can address".into(), |size| format!("{size} bytes"));
            return fail(format!("{size} for {dtype} {shape:?}"), format!("{} bytes", end - begin));
        }
        if end > file_len - data_start {
            return fail(
                format!("data inside the file's {} bytes", file_len - data_start),
                format!("[{begin}, {end}]: the file is cut short"),
            );
        }
        position = end;
        let range = data_start + begin..data_start + end;
        entries.insert(name, Entry { info: TensorInfo { dtype, shape }, range });
    }
    if position != file_len - data_start {
        let reason =
            format!("the tensors end at byte {position} of the data, the file at {}", file_len - data_start);
        return Err(FileError::malformed(path, FORMAT, reason));
    }
    Ok(entries)
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Sizes,
    data_offsets: [usize; 2],
}

/// A shape, refused while it is read when it has more dimensions than a tensor can have.
struct Sizes(Vec<usize>);

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct SizesVisitor;
        impl<'de> Visitor<'de> for SizesVisitor {
            type Value = Sizes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of at most 6 sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Sizes, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = list.next_element()? {
                    if sizes.len() == 6 {
                        return Err(A::Error::custom("a shape of more than 6 dimensions"));
                    }
                    sizes.push(size);
                }
                Ok(Sizes(sizes))
            }
        }
        deserializer.deserialize_seq(SizesVisitor)
    }
}

/// The JSON header; duplicate keys are refused, since two readers could see two different files.
struct Header {
    tensors: BTreeMap<String, RawEntry>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header { tensors: BTreeMap::new(), metadata: BTreeMap::new() };
                let mut metadata_seen = false;
                while let Some(name) = map.next_key::<String>()? {
                    let duplicate = if name == METADATA {
                        header.metadata = map.next_value::<Unique>()?.0;
                        std::mem::replace(&mut metadata_seen, true)
                    } else {
                        if header.tensors.len() >= MAX_TENSORS {
                            return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                        }
                        let entry = map.next_value()?;
                        header.tensors.insert(name.clone(), entry).is_some()
                    };
                    if duplicate {
                        return Err(A::Error::custom(format!("`{}` comes twice", printable(&name))));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Strings by name, no name twice.
struct Unique(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct UniqueVisitor;
        impl<'de> Visitor<'de> for UniqueVisitor {
            type Value = Unique;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object whose values are strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Unique, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    let shown = printable(&key);
                    if strings.insert(key, value).is_some() {
                        return Err(A::Error::custom(format!("metadata `{shown}` comes twice")));
                    }
                }
                Ok(Unique(strings))
            }
        }
        deserializer.deserialize_map(UniqueVisitor)
    }
}

/// Writes host tensors as one file, whole or not at all. The bytes depend on names, values and metadata only, not
/// on the order given: tensors are ordered by element type (widest first) and name, metadata by key, and the
/// header is padded with spaces to a multiple of 8.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut by_name = BTreeMap::new();
    let mut layout = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        by_name.insert(name.as_str(), tensor);
        layout.push((name.clone(), TensorInfo { dtype: tensor.dtype(), shape: tensor.dims().to_vec() }));
    }
    write_safetensors_with(path, layout, metadata, |name| {
        by_name.get(name).map(|&tensor| tensor.clone()).ok_or_else(|| FileError::missing_tensor(path, name))
    })
}

/// As [`write_safetensors`], asking for one tensor at a time in file order, so that a model larger than memory
/// can pass through. `read` must return what `layout` announced.
pub fn write_safetensors_with(
    path: &Path,
    mut layout: Vec<(String, TensorInfo)>,
    metadata: &BTreeMap<String, String>,
    mut read: impl FnMut(&str) -> Result<Tensor>,
) -> Result<()> {
    sort_as_written(&mut layout);
    let header = header_json(path, &layout, metadata)?;
    let mut target = AtomicFile::create(path)?;
    let write_error = |source| FileError::Write { file: path.into(), source };
    {
        let mut out = BufWriter::with_capacity(1 << 20, &mut target);
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(write_error)?;
        out.write_all(&header).map_err(write_error)?;
        for (name, info) in &layout {
            let tensor = read(name)?;
            if tensor.dtype() != info.dtype || tensor.dims() != info.shape {
                let found = format!("{} {:?}", tensor.dtype(), tensor.dims());
                return Err(FileError::tensor(path, name, format!("{} {:?}", info.dtype, info.shape), found));
            }
            let bytes = tensor.bytes().map_err(|source| FileError::engine(path, name, source))?;
            out.write_all(bytes).map_err(write_error)?;
        }
        out.flush().map_err(write_error)?;
    }
    target.commit()
}

/// The order of tensors in the files we write.
pub(super) fn sort_as_written(layout: &mut [(String, TensorInfo)]) {
    layout.sort_by(|(a_name, a), (b_name, b)| {
        position(b.dtype).cmp(&position(a.dtype)).then_with(|| a_name.cmp(b_name))
    });
}

fn position(dtype: DType) -> usize {
    DTYPES.iter().position(|&(_, listed)| listed == dtype).unwrap_or_default()
}

fn header_json(
    path: &Path,
    layout: &[(String, TensorInfo)],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    if layout.len() > MAX_TENSORS {
        let reason = format!("{} tensors; at most {MAX_TENSORS} are allowed", layout.len());
        return Err(FileError::malformed(path, FORMAT, reason));
    }
    let mut object = serde_json::Map::new();
    if !metadata.is_empty() {
        object.insert(METADATA.into(), serde_json::json!(metadata));
    }
    let mut offset = 0usize;
    for (name, info) in layout {
        let end = offset + info.bytes();
        let value = serde_json::json!({
            "dtype": DTYPES[position(info.dtype)].0,
            "shape": info.shape,
            "data_offsets": [offset, end],
        });
        if name == METADATA || object.insert(name.clone(), value).is_some() {
            return Err(FileError::tensor(path, name, "every name once", "a name twice, or a reserved one"));
        }
        offset = end;
    }
    let mut header = serde_json::Value::Object(object).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() as u64 > MAX_HEADER {
        let reason = format!("a header of {} bytes; at most {MAX_HEADER} are allowed", header.len());
        return Err(FileError::malformed(path, FORMAT, reason));
    }
    Ok(header)
}
