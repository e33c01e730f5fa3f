//! Writing torch's zip container, as `torch.save` would and every `torch.load` reads.
//!
//! ```text
//! archive/data.pkl     protocol 2; a tensor is _rebuild_tensor_v2(storage, 0, sizes, strides, False, OrderedDict())
//! archive/data/<n>     elements of storage n, stored, at a multiple of 64 bytes from the file's beginning
//! archive/version      "3\n"
//! ```
//!
//! No `byteorder` record: without it readers take little-endian, and older programs refuse archives that have records
//! they don't know. Entries carry no time, so equal content gives equal bytes.

use std::io::{BufWriter, Write};
use std::path::Path;

use scumble_tensor::Tensor;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::globals::storage_class;
use crate::files::atomic::AtomicFile;
use crate::files::error::{FileError, Result};
use crate::files::source::TensorInfo;

const ALIGNMENT: u16 = 64;
/// The id of the padding that torch puts into an entry's header ("FB").
const PADDING_ID: u16 = 0x4246;

/// Something to be written into a torch file.
#[derive(Clone, Debug)]
pub enum TorchItem {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<TorchItem>),
    /// A dictionary with string keys, in this order.
    Dict(Vec<(String, TorchItem)>),
    /// A tensor that the writer asks for by this name.
    Tensor(String, TensorInfo),
}

/// Writes one object as a torch file, whole or not at all. Tensors are asked for one at a time, in the order in which
/// they stand in `root`, so that a model larger than memory can pass through; `read` must return what the item says.
pub fn write_torch(
    path: &Path,
    root: &TorchItem,
    mut read: impl FnMut(&str) -> Result<Tensor>,
) -> Result<()> {
    let mut pickle = Pickle::default();
    pickle.bytes.extend_from_slice(&[0x80, 2]);
    pickle.item(path, root)?;
    pickle.bytes.push(b'.');

    let mut target = AtomicFile::create(path)?;
    let write = |source| FileError::Write { file: path.into(), source };
    let pack = |error: zip::result::ZipError| write(std::io::Error::other(error));
    let entry = |bytes: usize| {
        SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment_and_header_id(ALIGNMENT, PADDING_ID)
            .large_file(bytes as u64 >= u64::from(u32::MAX))
    };
    let mut zip = ZipWriter::new(BufWriter::with_capacity(1 << 20, &mut target));
    zip.start_file("archive/data.pkl", entry(pickle.bytes.len())).map_err(pack)?;
    zip.write_all(&pickle.bytes).map_err(write)?;
    for (key, (name, info)) in pickle.storages.iter().enumerate() {
        let tensor = read(name)?;
        if tensor.dtype() != info.dtype || tensor.dims() != info.shape {
            let found = format!("{} {:?}", tensor.dtype(), tensor.dims());
            return Err(FileError::tensor(path, name, format!("{} {:?}", info.dtype, info.shape), found));
        }
        let bytes = tensor.bytes().map_err(|source| FileError::engine(path, name, source))?;
        zip.start_file(format!("archive/data/{key}"), entry(bytes.len())).map_err(pack)?;
        zip.write_all(bytes).map_err(write)?;
    }
    zip.start_file("archive/version", entry(2)).map_err(pack)?;
    zip.write_all(b"3\n").map_err(write)?;
    zip.finish().map_err(pack)?.flush().map_err(write)?;
    target.commit()
}

/// The bytes of a pickle under construction. Every container and tensor is new, so the memo is not needed.
#[derive(Default)]
struct Pickle {
    bytes: Vec<u8>,
    /// By key: name and type of the tensor that fills the storage.
    storages: Vec<(String, TensorInfo)>,
}

impl Pickle {
    fn item(&mut self, path: &Path, item: &TorchItem) -> Result<()> {
        match item {
            TorchItem::None => self.bytes.push(b'N'),
            TorchItem::Bool(value) => self.bytes.push(if *value { 0x88 } else { 0x89 }),
            TorchItem::Int(value) => self.int(*value),
            TorchItem::Float(value) => {
                self.bytes.push(b'G');
                self.bytes.extend_from_slice(&value.to_be_bytes());
            }
            TorchItem::Text(text) => self.text(path, text)?,
            TorchItem::List(items) => {
                self.bytes.extend_from_slice(b"](");
                items.iter().try_for_each(|item| self.item(path, item))?;
                self.bytes.push(b'e');
            }
            TorchItem::Dict(pairs) => {
                self.bytes.extend_from_slice(b"}(");
                for (key, value) in pairs {
                    self.text(path, key)?;
                    self.item(path, value)?;
                }
                self.bytes.push(b'u');
            }
            TorchItem::Tensor(name, info) => self.tensor(path, name, info)?,
        }
        Ok(())
    }

    fn tensor(&mut self, path: &Path, name: &str, info: &TensorInfo) -> Result<()> {
        let Some(class) = storage_class(info.dtype) else {
            return Err(FileError::UnsupportedDType {
                file: path.into(),
                tensor: name.into(),
                dtype: info.dtype.to_string(),
            });
        };
        let sizes = |list: &[usize]| list.iter().map(|&size| size as i64).collect::<Vec<_>>();
        self.bytes.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text(path, "storage")?;
        self.bytes.extend_from_slice(format!("ctorch\n{class}\n").as_bytes());
        self.text(path, &self.storages.len().to_string())?;
        self.text(path, "cpu")?;
        self.int(info.numel() as i64);
        self.bytes.extend_from_slice(b"tQ");
        self.int(0);
        self.tuple(&sizes(&info.shape));
        self.tuple(&sizes(&strides(&info.shape)));
        // requires_grad, backward hooks.
        self.bytes.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR");
        self.storages.push((name.into(), info.clone()));
        Ok(())
    }

    fn tuple(&mut self, values: &[i64]) {
        self.bytes.push(b'(');
        values.iter().for_each(|&value| self.int(value));
        self.bytes.push(b't');
    }

    fn int(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(value @ 0..=255) => self.bytes.extend_from_slice(&[b'K', value as u8]),
            Ok(value) => {
                self.bytes.push(b'J');
                self.bytes.extend_from_slice(&value.to_le_bytes());
            }
            Err(_) => {
                self.bytes.extend_from_slice(&[0x8a, 8]);
                self.bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
    }

    fn text(&mut self, path: &Path, text: &str) -> Result<()> {
        let length = u32::try_from(text.len())
            .map_err(|_| FileError::malformed(path, super::records::FORMAT, "a string of more than 4 GiB"))?;
        self.bytes.push(b'X');
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Strides of contiguous elements.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::DType;

    use crate::files::{PickleFile, TensorSource, Value};

    fn info(tensor: &Tensor) -> TensorInfo {
        TensorInfo { dtype: tensor.dtype(), shape: tensor.dims().to_vec() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt");
        let values: Vec<f32> = (0..24).map(|n| n as f32 - 3.5).collect();
        let mut tensors = Vec::new();
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64, DType::U8] {
            tensors.push(Tensor::from_slice(&values, &[2, 3, 4]).unwrap().to_dtype(dtype).unwrap());
        }
        tensors.push(Tensor::scalar(7i64).unwrap());
        tensors.push(Tensor::zeros(DType::F32, &[0, 4]).unwrap());
        let items = tensors.iter().enumerate().map(|(n, t)| TorchItem::Tensor(n.to_string(), info(t)));
        let root = TorchItem::Dict(vec![
            ("tensors".into(), TorchItem::List(items.collect())),
            ("big".into(), TorchItem::Int(1 << 40)),
            ("negative".into(), TorchItem::Int(-5)),
            ("half".into(), TorchItem::Float(0.5)),
            ("none".into(), TorchItem::None),
            ("yes".into(), TorchItem::Bool(true)),
            ("metadata".into(), TorchItem::Dict(vec![("k".into(), TorchItem::Text("ä".into()))])),
        ]);
        let read = |name: &str| Ok(tensors[name.parse::<usize>().unwrap()].clone());
        write_torch(&path, &root, read).unwrap();
        let file = PickleFile::open(&path).unwrap();
        assert_eq!(file.names().len(), tensors.len());
        for (index, tensor) in tensors.iter().enumerate() {
            let found = file.read(&format!("tensors.{index}")).unwrap();
            assert_eq!((found.dtype(), found.dims()), (tensor.dtype(), tensor.dims()));
            assert_eq!(found.bytes().unwrap(), tensor.bytes().unwrap());
        }
        assert_eq!(file.root().get("big").unwrap().as_int(), Some(1 << 40));
        assert_eq!(file.root().get("negative").unwrap().as_int(), Some(-5));
        assert!(matches!(file.root().get("half").unwrap(), Value::Float(0.5)));
        assert!(matches!(file.root().get("yes").unwrap(), Value::Bool(true)));
        assert_eq!(file.metadata()["k"], "ä");

        let again = folder.path().join("b.pt");
        write_torch(&again, &root, read).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
    }

    #[test]
    fn storages_are_aligned_as_torch_aligns_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt");
        let tensor = Tensor::zeros(DType::F16, &[3]).unwrap();
        let items = (0..5).map(|n| TorchItem::Tensor(n.to_string(), info(&tensor))).collect();
        write_torch(&path, &TorchItem::List(items), |_| Ok(tensor.clone())).unwrap();
        let mut zip = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).unwrap();
            assert_eq!(entry.data_start().unwrap() % 64, 0);
            assert_eq!(entry.compression(), CompressionMethod::Stored);
        }
    }

    #[test]
    fn a_tensor_that_is_not_what_was_announced_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt");
        let tensor = Tensor::zeros(DType::F16, &[3]).unwrap();
        let wrong = TensorInfo { dtype: DType::F16, shape: vec![4] };
        let error = write_torch(&path, &TorchItem::Tensor("x".into(), wrong), |_| Ok(tensor.clone()));
        assert!(error.unwrap_err().to_string().contains("`x`"));
        let unsigned = TensorInfo { dtype: DType::U32, shape: vec![4] };
        let error = write_torch(&path, &TorchItem::Tensor("x".into(), unsigned), |_| Ok(tensor.clone()));
        assert!(error.unwrap_err().to_string().contains("u32"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
