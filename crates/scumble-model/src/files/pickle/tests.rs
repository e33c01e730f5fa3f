//! Tests of the pickle reader: the golden files, the public hostile ones, our own hostile ones, broken ones.

use std::io::Write;
use std::path::Path;

use super::machine::{Fault, MAX_STEPS, MAX_TENSORS, MAX_TEXT, load};
use super::records::MAX_PICKLE;
use super::tar::MAX_MEMBERS;
use super::*;
use crate::files::SafetensorsFile;
use crate::files::safetensors_tests::fixtures;

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn golden_files_hold_the_expected_tensors() {
    let folder = fixtures().join("pickles");
    let expected = SafetensorsFile::open(&folder.join("expected.safetensors")).unwrap();
    for (name, case) in json(&folder.join("expected.json"))["files"].as_object().unwrap() {
        let file = PickleFile::open(&folder.join(name)).unwrap();
        for tensor in case["tensors"].as_array().unwrap() {
            let tensor = tensor.as_str().unwrap();
            let read = file.read(tensor).unwrap();
            let wanted = expected.read(&format!("{name}|{tensor}")).unwrap();
            assert_eq!((read.dtype(), read.dims()), (wanted.dtype(), wanted.dims()), "{name}|{tensor}");
            assert_eq!(read.bytes().unwrap(), wanted.bytes().unwrap(), "{name}|{tensor}");
            assert_eq!(file.info(tensor).unwrap().shape, wanted.dims());
        }
        if !name.starts_with("lightning") {
            assert_eq!(file.names().len(), case["tensors"].as_array().unwrap().len(), "{name}");
        }
    }
}

#[test]
fn what_lies_around_the_tensors_is_kept_or_named() {
    for name in ["lightning_zip.ckpt", "lightning_legacy.ckpt"] {
        let file = PickleFile::open(&fixtures().join("pickles").join(name)).unwrap();
        assert_eq!(file.root().get("global_step").unwrap().as_int(), Some(120));
        let parameters = file.root().get("hyper_parameters").unwrap();
        assert_eq!(parameters.get("neg").unwrap().as_int(), Some(-129));
        assert_eq!(parameters.get("name").unwrap().as_text(), Some("ünï"));
        assert!(matches!(parameters.get("blob").unwrap(), Value::Bytes(bytes) if **bytes == [0, 0xff]));
        assert_eq!(parameters.get("flags").unwrap().as_list().unwrap().len(), 2);
        assert!(matches!(parameters.get("big").unwrap(), Value::Opaque(_)));
        let checkpoint = file.root().get("callbacks").unwrap().get("ModelCheckpoint").unwrap();
        let score = checkpoint.get("best_model_score").unwrap();
        assert!(matches!(score, Value::Opaque(class) if &**class == "numpy._core.multiarray.scalar"));
    }
}

#[test]
fn hostile_files_are_refused() {
    let folder = fixtures().join("hostile");
    let named = [
        ("os_system.zip.pt", "system"),
        ("eval.plain.pkl.pt", "__builtin__.eval"),
        ("popen.zip.pt", ".Popen"),
        ("stack_global_proto4.zip.pt", "system"),
        ("getattr_chain.zip.pt", "getattr"),
        ("inst_proto0.zip.pt", "system"),
        ("runpy.zip.pt", "runpy"),
        ("ordereddict_subcall.zip.pt", "system"),
        ("ext_opcode.zip.pt", "copyreg"),
        ("shared_list_dag.zip.pt", "naming its tensors"),
        ("storage_too_short.zip.pt", "storage `0`"),
        ("negative_offset.zip.pt", "negative"),
        ("stride_overflow.zip.pt", "shape"),
        ("missing_record.zip.pt", "no data"),
        ("deflate_bomb.zip.pt", "inflating"),
        ("no_stop.zip.pt", "ends in the middle"),
        ("memo_missing.zip.pt", "memo entry"),
        ("not_a_checkpoint.pt", "neither a zip archive nor a pickle"),
        ("truncated.zip.pt", "zip"),
    ];
    let mut seen = 0;
    for (name, case) in json(&folder.join("expected.json"))["files"].as_object().unwrap() {
        if case["format"] != "pickle" {
            continue;
        }
        seen += 1;
        match PickleFile::open(&folder.join(name)) {
            Ok(file) => {
                assert_ne!(case["expect"], "refuse", "{name} was accepted");
                for tensor in file.names() {
                    let _ = file.read(&tensor);
                }
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(name.as_str()), "{name}: {error}");
                if let Some((_, word)) = named.iter().find(|(file, _)| file == name) {
                    assert!(error.replace(name.as_str(), "").contains(word), "{name}: {error}");
                }
            }
        }
    }
    assert_eq!(seen, 21);
}

#[test]
fn the_oldest_container_is_read() {
    let folder = fixtures().join("pickles");
    let expected = SafetensorsFile::open(&folder.join("tar_expected.safetensors")).unwrap();
    let file = PickleFile::open(&folder.join("tar.pt")).unwrap();
    assert_eq!(file.names(), expected.names());
    for name in expected.names() {
        let (read, wanted) = (file.read(&name).unwrap(), expected.read(&name).unwrap());
        assert_eq!((read.dtype(), read.dims()), (wanted.dtype(), wanted.dims()), "{name}");
        assert_eq!(read.bytes().unwrap(), wanted.bytes().unwrap(), "{name}");
    }
    assert_eq!(file.root().get("step").unwrap().as_int(), Some(3));
}

/// A tar archive of these members.
fn tar_of(members: &[(&str, Vec<u8>)]) -> tempfile::NamedTempFile {
    let mut bytes = Vec::new();
    for (name, content) in members {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[257..263].copy_from_slice(b"ustar\0");
        bytes.extend(header);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// One storage of two floats under key 1 and one tensor under key 2, by its sizes, stride and offset.
fn tar_with(object: &[u8], size: i64, stride: i64, offset: i64, views: &[u8]) -> Result<PickleFile> {
    let mut storages = b"\x80\x02K\x01.\x80\x02K\x01U\x03cpuctorch\nFloatStorage\n\x87.".to_vec();
    storages.extend(2i64.to_le_bytes());
    storages.extend([1f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
    storages.extend(views);
    let mut tensors = b"\x80\x02K\x01.\x80\x02K\x02K\x01ctorch\nFloatTensor\n\x87.".to_vec();
    tensors.extend([1i32.to_le_bytes(), 0i32.to_le_bytes()].concat());
    tensors.extend([size, stride, offset].iter().flat_map(|value| value.to_le_bytes()));
    let members = [("storages", storages), ("tensors", tensors), ("pickle", object.to_vec())];
    PickleFile::open(tar_of(&members).path())
}

#[test]
fn the_oldest_container_is_checked_like_the_others() {
    const NO_VIEWS: &[u8] = b"\x80\x02].";
    let read = |object: &[u8], size, stride, offset| {
        tar_with(object, size, stride, offset, NO_VIEWS)
            .map(|file| file.read("").unwrap().to_vec::<f32>().unwrap())
    };
    assert_eq!(read(b"\x80\x02U\x012Q.", 2, 1, 0).unwrap(), [1.0, 2.0]);
    assert_eq!(read(b"\x80\x02K\x02Q.", 1, 1, 1).unwrap(), [2.0]);
    for (object, size, stride, offset) in [
        (&b"\x80\x02U\x013Q."[..], 2, 1, 0),
        (b"\x80\x02NQ.", 2, 1, 0),
        (b"\x80\x02U\x012Q.", 3, 1, 0),
        (b"\x80\x02U\x012Q.", 2, 1, 1),
        (b"\x80\x02U\x012Q.", -1, 1, 0),
        (b"\x80\x02U\x012Q.", 2, i64::MAX, 0),
        (b"\x80\x02U\x012Q.", i64::MAX, 0, 0),
        (b"\x80\x02cposix\nsystem\nU\x02id\x85R.", 2, 1, 0),
    ] {
        assert!(read(object, size, stride, offset).is_err(), "{object:?} {size} {stride} {offset}");
    }
    // (key 5, root 1, offset, elements): the view must lie in its root.
    let view = |offset: u8, elements: u8| {
        tar_with(
            b"\x80\x02U\x012Q.",
            1,
            1,
            0,
            &[&b"\x80\x02](("[..], &[b'K', 5, b'K', 1, b'K', offset, b'K', elements], b"te."].concat(),
        )
    };
    assert!(view(1, 1).is_ok() && view(1, 2).is_err() && view(9, 0).is_err());
    let error = PickleFile::open(tar_of(&[("pickle", b"\x80\x02N.".to_vec())]).path()).err().unwrap();
    assert!(error.to_string().contains("storages"), "{error}");
}

/// A stored zip with `data.pkl` and other records under `top/`.
fn zip_of(pickle: &[u8], records: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = zip::ZipWriter::new(file.reopen().unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file("top/data.pkl", options).unwrap();
    writer.write_all(pickle).unwrap();
    for (name, content) in records {
        writer.start_file(format!("top/{name}"), options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap();
    file
}

/// The pickle of one float tensor: storage length, offset, sizes, strides as 32-bit numbers.
fn tensor_pickle(numel: i32, offset: i32, sizes: &[i32], strides: &[i32]) -> Vec<u8> {
    let int = |value: i32| [&b"J"[..], &value.to_le_bytes()].concat();
    let tuple = |values: &[i32]| {
        let items: Vec<u8> = values.iter().flat_map(|&value| int(value)).collect();
        [&b"("[..], &items, b"t"].concat()
    };
    [
        &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu"[..],
        &int(numel),
        b"tQ",
        &int(offset),
        &tuple(sizes),
        &tuple(strides),
        b"\x89)tR.",
    ]
    .concat()
}

#[test]
fn views_stay_inside_their_storage() {
    let data: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let open = |numel, offset, sizes: &[i32], strides: &[i32]| {
        let file = zip_of(&tensor_pickle(numel, offset, sizes, strides), &[("data/0", &data)]);
        PickleFile::open(file.path()).map(|file| file.read("").unwrap().to_vec::<f32>().unwrap())
    };
    assert_eq!(open(6, 0, &[3, 2], &[1, 3]).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(open(6, 4, &[2], &[1]).unwrap(), [4.0, 5.0]);
    assert_eq!(open(6, 5, &[2, 2], &[0, 0]).unwrap(), [5.0; 4]);
    assert_eq!(open(6, 99, &[0, 7], &[5, 5]).unwrap(), [0.0f32; 0]);
    assert_eq!(open(6, 5, &[], &[]).unwrap(), [5.0]);
    for (numel, offset, sizes, strides) in [
        (6, 5, &[2][..], &[1][..]),
        (6, 6, &[], &[]),
        (6, -1, &[1], &[1]),
        (6, 0, &[-1], &[1]),
        (6, 0, &[2], &[-1]),
        (6, 0, &[2, 2], &[1]),
        (7, 0, &[1], &[1]),
        (-6, 0, &[1], &[1]),
        (6, 0, &[2, 2], &[3, 3]),
        (6, 0, &[1, 1, 1, 1, 1, 1, 1], &[1, 1, 1, 1, 1, 1, 1]),
        (6, 0, &[i32::MAX, i32::MAX], &[0, 0]),
        (6, 0, &[i32::MAX], &[0]),
    ] {
        assert!(open(numel, offset, sizes, strides).is_err(), "{numel} {offset} {sizes:?} {strides:?}");
    }
}

#[test]
fn byte_order_and_element_type_are_checked() {
    let pickle = b"\x80\x02}.";
    assert!(PickleFile::open(zip_of(pickle, &[("byteorder", b"little")]).path()).is_ok());
    let big = PickleFile::open(zip_of(pickle, &[("byteorder", b"big")]).path());
    assert!(big.err().unwrap().to_string().contains("byte order"));
    let pickle = b"\x80\x02(U\x07storagectorch\nComplexFloatStorage\nU\x010U\x03cpuK\x01tQ.";
    let error = PickleFile::open(zip_of(pickle, &[("data/0", &[0; 8])]).path()).err().unwrap();
    assert!(error.to_string().contains("ComplexFloatStorage"), "{error}");
}

#[test]
fn tensors_of_other_kinds_are_named() {
    let fault = load(b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n)R.").err();
    assert_eq!(fault, Some(Fault::UnsupportedDType("torch._utils._rebuild_sparse_tensor".into())));
}

#[test]
fn budgets_end_every_bomb() {
    let nested = [&b"\x80\x02"[..], &[b']'].repeat(100_000), &[b'a'].repeat(99_999), b"."].concat();
    assert!(matches!(load(&nested), Err(Fault::TooMuch("containers inside each other", _))));
    // A list that contains itself.
    assert!(load(b"\x80\x02]q\x00h\x00a.").is_err());
    let values = [&b"\x80\x02"[..], &[b'N'].repeat(5 << 20)].concat();
    assert!(matches!(load(&values), Err(Fault::TooMuch(..))));
    let doubled = [&b"\x80\x02"[..], &[b'2'].repeat(10)].concat();
    assert!(load(&doubled).is_err());
    // One long list, made into a set again and again.
    let mut copies = b"\x80\x02](".to_vec();
    copies.extend([b'N'].repeat(100_000));
    copies.extend(b"e\x85q\x00cbuiltins\nset\nq\x01");
    copies.extend(b"h\x01h\x00R".repeat(1000));
    assert!(matches!(load(&copies), Err(Fault::TooMuch("copied elements", _))));
}

/// Each limit of the machine by itself, one beyond it; what is at the limit is read.
#[test]
fn the_machine_names_its_limits() {
    let limit = |pickle: &[u8]| match load(pickle) {
        Err(Fault::TooMuch(what, limit)) => Some((what, limit)),
        _ => None,
    };
    // A string of zeros that were never written: it is refused by its length.
    let mut text = vec![0; MAX_TEXT + 16];
    text[..3].copy_from_slice(b"\x80\x02X");
    text[3..7].copy_from_slice(&(MAX_TEXT as u32 + 1).to_le_bytes());
    assert_eq!(limit(&text), Some(("bytes of text", MAX_TEXT)));

    let steps = |pairs: usize| [&b"(0".repeat(pairs)[..], b"N."].concat();
    assert!(load(&steps(MAX_STEPS / 2 - 1)).is_ok());
    assert_eq!(limit(&steps(MAX_STEPS / 2)), Some(("instructions", MAX_STEPS)));

    let storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x01t";
    let storages =
        |count: usize| [&b"\x80\x02"[..], storage, b"q\x00", &b"h\x00Q0".repeat(count), b"."].concat();
    assert_eq!(load(&storages(MAX_TENSORS)).unwrap().storages.len(), MAX_TENSORS);
    assert_eq!(limit(&storages(MAX_TENSORS + 1)), Some(("storages", MAX_TENSORS)));

    let tensors = |count: usize| {
        let head =
            [&b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x01("[..], storage, b"QK\x00))\x89)tq\x02"];
        [&head.concat()[..], &b"h\x01h\x02R0".repeat(count), b"."].concat()
    };
    assert!(load(&tensors(MAX_TENSORS)).is_ok());
    assert_eq!(limit(&tensors(MAX_TENSORS + 1)), Some(("tensors", MAX_TENSORS)));
}

/// A zip whose only record, stored, is a hole of so many bytes.
fn hollow_zip(name: &str, size: u32) -> tempfile::NamedTempFile {
    use std::io::{Seek, SeekFrom};
    let record = |start: &[u8]| {
        let mut header = start.to_vec();
        header.extend([20u16, 0, 0, 0, 33].iter().flat_map(|value| value.to_le_bytes()));
        header.extend([0, size, size].iter().flat_map(|value: &u32| value.to_le_bytes()));
        header.extend([name.len() as u16, 0].iter().flat_map(|value| value.to_le_bytes()));
        header
    };
    let local = [&record(b"PK\x03\x04")[..], name.as_bytes()].concat();
    let directory = [&record(b"PK\x01\x02\x14\x00")[..], &[0; 14], name.as_bytes()].concat();
    let start = local.len() as u32 + size;
    let mut end = b"PK\x05\x06\0\0\0\0\x01\0\x01\0".to_vec();
    end.extend([directory.len() as u32, start].iter().flat_map(|value| value.to_le_bytes()));
    end.extend([0, 0]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut handle = file.as_file();
    handle.write_all(&local).unwrap();
    handle.seek(SeekFrom::Start(start.into())).unwrap();
    handle.write_all(&[directory, end].concat()).unwrap();
    file
}

#[test]
fn containers_name_their_limits() {
    let message = |file: tempfile::NamedTempFile| PickleFile::open(file.path()).err().unwrap().to_string();
    let limit = u32::try_from(MAX_PICKLE).unwrap();
    let found = message(hollow_zip("top/data.pkl", limit + 1));
    assert!(found.contains("`data.pkl`") && found.contains("the limit is 64.0 MiB"), "{found}");
    // Of zeros, so the machine is asked, and knows no such instruction.
    let found = message(hollow_zip("top/data.pkl", limit));
    assert!(found.contains("instruction 0x00"), "{found}");

    let names: Vec<String> = (0..=MAX_MEMBERS).map(|number| number.to_string()).collect();
    let members: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), Vec::new())).collect();
    let found = message(tar_of(&members));
    assert!(found.contains("more than 64 members"), "{found}");
    let found = message(tar_of(&members[..MAX_MEMBERS]));
    assert!(found.contains("no member `storages`"), "{found}");
    let many = [&b"\x80\x02J"[..], &(MAX_TENSORS as i32 + 1).to_le_bytes(), b"."].concat();
    let found = message(tar_of(&[("storages", many.clone())]));
    assert!(found.contains("number of storages is no number up to 262144"), "{found}");
    let none = b"\x80\x02K\x00.\x80\x02].".to_vec();
    let found = message(tar_of(&[("storages", none), ("tensors", many)]));
    assert!(found.contains("number of tensors is no number up to 262144"), "{found}");
}

#[test]
fn calls_of_values_and_stack_tricks_are_refused() {
    for pickle in [
        &b"\x80\x02U\x01a)R."[..],
        b"\x80\x02}(R.",
        b"\x80\x02.",
        b"\x80\x02(0.",
        b"\x80\x02e.",
        b"\x80\x02N(a.",
        b"\x80\x06N.",
        b"\x80\x02}U\x01ae.",
        b"\x80\x02}(Nu.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02NQ.",
        b"Pabc\n.",
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x00(h\x00Nh\x00NtR.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x97.",
        b"\x80\x02X\xff\xff\xff\xffab.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.",
    ] {
        assert!(load(pickle).is_err(), "{:?} was accepted", String::from_utf8_lossy(pickle));
    }
    assert!(load(b"(dp0\nS'a'\np1\nI5\ns.").unwrap().value.get("a").unwrap().as_int() == Some(5));
}

#[test]
fn truncated_and_flipped_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.pt");
    let read_all = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        if let Ok(file) = PickleFile::open(&path) {
            for name in file.names() {
                let _ = file.read(&name);
            }
        }
    };
    for name in ["list_legacy.pt", "list_zip.pt", "tar.pt"] {
        let original = std::fs::read(fixtures().join("pickles").join(name)).unwrap();
        // What follows a tar's last member is nothing but zeros.
        let needed = original.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        for length in 0..needed {
            std::fs::write(&path, &original[..length]).unwrap();
            assert!(PickleFile::open(&path).is_err(), "{name}: {length} bytes were accepted");
        }
        for byte in 0..original.len() {
            for bit in [0, 3, 7] {
                let mut bytes = original.clone();
                bytes[byte] ^= 1 << bit;
                read_all(&bytes);
            }
        }
    }
}

#[test]
fn published_adapters_are_read() {
    let shared = std::env::var_os("SCUMBLE_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    let folder = shared.join("real_loras");
    if !folder.is_dir() {
        return;
    }
    for (name, count) in
        [("lora_kiriko.pt", 256), ("lora_disney.pt", 256), ("lora_kiriko.text_encoder.pt", 184)]
    {
        let file = PickleFile::open(&folder.join(name)).unwrap();
        let list = file.root().as_list().unwrap();
        assert_eq!(list.len(), count, "{name}");
        if count == 256 {
            // Files of that time have a zero factor at every output projection.
            let up = file.read_tensor(list[6].as_tensor().unwrap(), "6").unwrap();
            assert!(up.to_vec::<f32>().unwrap().iter().all(|&value| value == 0.0));
        }
    }
    let embedding = PickleFile::open(&folder.join("lora_kiriko2.ti.pt")).unwrap().read("<krk>").unwrap();
    let norm = embedding.to_vec::<f64>().unwrap().iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!((norm - 0.745).abs() < 1e-3, "{norm}");
    let file = SafetensorsFile::open(&folder.join("lora_disney.safetensors")).unwrap();
    assert_eq!((file.names().len(), file.metadata().len()), (386, 196));
    let up = file.read("unet:0:up").unwrap().to_vec::<f64>().unwrap();
    let rms = (up.iter().map(|value| value * value).sum::<f64>() / up.len() as f64).sqrt();
    assert!((rms - 0.00919).abs() < 1e-5, "{rms}");
}
