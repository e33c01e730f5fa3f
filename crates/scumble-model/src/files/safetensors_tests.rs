//! Tests of the safetensors container: the public hostile files, our own broken ones, and writing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_tensor::{DType, Tensor};

use super::*;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// A file with the given header text and data.
fn file_of(folder: &Path, header: &str, data: &[u8]) -> PathBuf {
    let path = folder.join("case.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn expected() -> serde_json::Value {
    let text = std::fs::read_to_string(fixtures().join("hostile/expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn hostile_files_are_refused_and_odd_ones_read() {
    let mut seen = 0;
    for (name, case) in expected()["files"].as_object().unwrap() {
        if case["format"] != "safetensors" {
            continue;
        }
        seen += 1;
        let opened = SafetensorsFile::open(&fixtures().join("hostile").join(name));
        match case["expect"].as_str().unwrap() {
            "ok" => {
                let file = opened.unwrap();
                let tensors = case["tensors"].as_object().unwrap();
                assert_eq!(file.names(), tensors.keys().cloned().collect::<Vec<_>>(), "{name}");
                for (tensor, expected) in tensors {
                    let read = file.read(tensor).unwrap();
                    let values: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
                    assert_eq!(read.to_vec::<f64>().unwrap(), values, "{name} {tensor}");
                    assert_eq!(serde_json::json!(read.dims()), expected["shape"], "{name} {tensor}");
                }
            }
            _ => {
                let error = opened.err().unwrap_or_else(|| panic!("{name} was accepted")).to_string();
                assert!(error.contains(name.as_str()), "{name}: {error}");
            }
        }
    }
    assert_eq!(seen, 18);
}

#[test]
fn each_broken_rule_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let cases: [(String, usize, &str); 9] = [
        (format!("{{{a},{a}}}"), 8, "`a` comes twice"),
        (format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},{a}}}"#), 8, "metadata `k` comes twice"),
        (format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{a}}}"#), 8, "`__metadata__` comes twice"),
        (format!(r#"{{"__metadata__":{{"k":5}},{a}}}"#), 8, "expected a string"),
        (format!("{{{a}}}"), 7, "cut short"),
        (format!("{{{a}}}"), 9, "the file at 9"),
        (r#"{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#.into(), 2, "F8_E4M3"),
        (r#"{"a":{"dtype":"F16","shape":[1,1,1,1,1,1,1],"data_offsets":[0,2]}}"#.into(), 2, "6 dimensions"),
        (
            format!(r#"{{{a},"b":{{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}}}"#),
            12,
            "tensor `b`: expected data at offset 8",
        ),
    ];
    for (header, data, words) in cases {
        let error = SafetensorsFile::open(&file_of(folder.path(), &header, &vec![0; data])).err();
        let error = error.unwrap_or_else(|| panic!("{header} was accepted")).to_string();
        assert!(error.contains(words), "{header}: {error}");
    }
}

/// One tensor too many, and none too many. They are empty, so that the file is nothing but its header.
#[test]
fn the_number_of_tensors_is_limited() {
    const LIMIT: usize = 262_144;
    let folder = tempfile::tempdir().unwrap();
    let header = |count: usize| {
        let entry = |i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
        format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(","))
    };
    let error = SafetensorsFile::open(&file_of(folder.path(), &header(LIMIT + 1), &[])).err().unwrap();
    assert!(error.to_string().contains("case.safetensors"), "{error}");
    assert!(error.to_string().contains("more than 262144 tensors"), "{error}");
    let file = SafetensorsFile::open(&file_of(folder.path(), &header(LIMIT), &[])).unwrap();
    assert_eq!(file.names().len(), LIMIT);
    // What could not be read is not written.
    let layout =
        (0..=LIMIT).map(|i| (i.to_string(), TensorInfo { dtype: DType::U8, shape: vec![0] })).collect();
    let path = folder.path().join("never.safetensors");
    let error =
        write_safetensors_with(&path, layout, &BTreeMap::new(), |_| panic!("it is read")).unwrap_err();
    assert!(error.to_string().contains("262145 tensors") && !path.exists(), "{error}");
}

#[test]
fn a_header_longer_than_the_limit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.safetensors");
    // The length alone, and a hole where the header would be.
    std::fs::write(&path, 100_000_001u64.to_le_bytes()).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(100_000_009).unwrap();
    let error = SafetensorsFile::open(&path).err().unwrap().to_string();
    assert!(error.contains("long.safetensors") && error.contains("at most 100000000"), "{error}");
}

#[test]
fn unaligned_data_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}"#;
    for padding in 0..8 {
        let header = format!("{header}{}", " ".repeat(padding));
        let data: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let file = SafetensorsFile::open(&file_of(folder.path(), &header, &data)).unwrap();
        assert_eq!(file.read("a").unwrap().as_slice::<f64>().unwrap(), [1.5, -2.0]);
    }
}

#[test]
fn truncated_and_flipped_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let original = std::fs::read(fixtures().join("hostile/ok_padded_header.safetensors")).unwrap();
    let path = folder.path().join("broken.safetensors");
    for length in 0..original.len() {
        std::fs::write(&path, &original[..length]).unwrap();
        assert!(SafetensorsFile::open(&path).is_err(), "{length} bytes were accepted");
    }
    for bit in 0..original.len() * 8 {
        let mut bytes = original.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = SafetensorsFile::open(&path) {
            for name in file.names() {
                let info = file.info(&name).unwrap();
                assert_eq!(file.read(&name).unwrap().dims(), info.shape);
            }
        }
    }
}

#[test]
fn what_the_reference_writer_wrote_is_written_again_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.safetensors");
    for name in ["tiny-sd1/vae/diffusion_pytorch_model.safetensors", "pickles/expected.safetensors"] {
        let path = fixtures().join(name);
        let source = SafetensorsFile::open(&path).unwrap();
        let tensors: Vec<_> = source
            .names()
            .into_iter()
            .rev()
            .map(|name| (name.clone(), source.read(&name).unwrap()))
            .collect();
        write_safetensors(&copy, &tensors, source.metadata()).unwrap();
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap(), "{name} differs");
    }
}

#[test]
fn the_reference_reader_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.safetensors");
    let mut tensors = Vec::new();
    let all = "f64 f32 f16 bf16 i64 i32 i16 i8 u32 u8 bool";
    let dtypes = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U32,
        DType::U8,
        DType::Bool,
    ];
    for (name, dtype) in all.split(' ').zip(dtypes) {
        tensors.push((name.to_string(), Tensor::zeros(dtype, &[3, 1]).unwrap()));
    }
    tensors.push(("empty ⌀ \"quoted\"".into(), Tensor::zeros(DType::F16, &[0, 4]).unwrap()));
    tensors.push(("scalar".into(), Tensor::scalar(0.25f32).unwrap()));
    let metadata = BTreeMap::from([("b".to_string(), "2\n".to_string()), ("a".to_string(), "é".to_string())]);
    write_safetensors(&path, &tensors, &metadata).unwrap();

    let bytes = std::fs::read(&path).unwrap();
    let judged = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(judged.len(), tensors.len());
    assert_eq!(judged.tensor("scalar").unwrap().data(), 0.25f32.to_le_bytes());
    let ours = SafetensorsFile::open(&path).unwrap();
    assert_eq!(*ours.metadata(), metadata);
    for (name, tensor) in &tensors {
        let read = ours.read(name).unwrap();
        assert_eq!((read.dtype(), read.dims()), (tensor.dtype(), tensor.dims()), "{name}");
        assert_eq!(judged.tensor(name).unwrap().shape(), tensor.dims(), "{name}");
    }
}

#[test]
fn names_that_cannot_be_written_are_refused_before_anything_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("never.safetensors");
    let tensor = Tensor::scalar(1.0f32).unwrap();
    for names in [["a", "a"], ["a", "__metadata__"]] {
        let tensors = names.map(|name| (name.to_string(), tensor.clone()));
        assert!(write_safetensors(&path, &tensors, &BTreeMap::new()).is_err());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn absent_files_folders_and_tensors_are_named() {
    let error = SafetensorsFile::open(Path::new("no/such.safetensors")).err().unwrap();
    assert!(error.to_string().contains("no/such.safetensors") && !error.hints().is_empty());
    assert!(SafetensorsFile::open(&fixtures()).is_err());
    let file = SafetensorsFile::open(&fixtures().join("hostile/ok_unsorted.safetensors")).unwrap();
    assert!(file.read("c").unwrap_err().to_string().contains("`c`"));
    assert!(file.info("c").is_none());
}
