//! Adapters and embeddings in torch's container: written, read again with the same bytes, and what they cannot hold.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::{assert_same, difference, fixture, load, table};
use scumble_adapter::architecture::Architecture;
use scumble_adapter::dialect::{
    ReadOptions, TokenPolicy, WriteOptions, by_name, companions, load_adapter, save_adapter,
};
use scumble_adapter::merge::{Input, MergeOptions, Mode, Weights, merge};
use scumble_adapter::positional::Generation;
use scumble_adapter::rank::RankRule;
use scumble_adapter::{Adapter, ModuleTable, Tower};
use scumble_cpu::CpuBackend;
use scumble_model::base::checkpoint::write_embedding;
use scumble_model::files::{PickleFile, TensorInfo, TensorSource, TorchItem, write_safetensors, write_torch};
use scumble_tensor::rng::stream;
use scumble_tensor::{DType, Tensor};

fn save(path: &Path, adapter: &Adapter, dialect: &str, options: &WriteOptions) -> Result<(), String> {
    let saved = save_adapter(path, adapter, &table("tiny-sd1"), by_name(dialect).unwrap(), options);
    saved.map(|_| ()).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Adapter {
    load_adapter(path, &table("tiny-sd1"), ReadOptions::default()).unwrap().adapter
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The files that the original's own tool wrote: read, written, and tensor for tensor the same in the same places.
#[test]
fn lists_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    for (name, parts) in [
        ("cloneofsimo.pt", &["cloneofsimo.pt", "cloneofsimo.text_encoder.pt", "cloneofsimo.ti.pt"][..]),
        ("cloneofsimo.text_encoder.pt", &["cloneofsimo.text_encoder.pt"]),
        ("cloneofsimo.ti.pt", &["cloneofsimo.ti.pt"]),
        ("cloneofsimo_noff_legacy.pt", &["cloneofsimo_noff_legacy.pt"]),
    ] {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let adapter = load(name).unwrap().adapter;
        save(&folder.join(name), &adapter, "original", &WriteOptions::default()).unwrap();
        assert_eq!(files(&folder), parts, "{name}");
        for part in parts {
            let golden = PickleFile::open(&fixture(&format!("lora/{part}"))).unwrap();
            let ours = PickleFile::open(&folder.join(part)).unwrap();
            assert_eq!(golden.names(), ours.names(), "{part}");
            for tensor in golden.names() {
                let (expected, found) = (golden.read(&tensor).unwrap(), ours.read(&tensor).unwrap());
                assert_eq!(
                    (expected.dtype(), expected.dims()),
                    (found.dtype(), found.dims()),
                    "{part} {tensor}"
                );
                assert_eq!(expected.bytes().unwrap(), found.bytes().unwrap(), "{part} {tensor}");
            }
        }
        assert_same(&adapter, &read(&folder.join(name)));
    }
}

/// Whatever numbered files hold, their lists hold: resnets, half precision, the newer order, zero pairs between.
#[test]
fn numbered_files_become_lists_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.pt");
    for name in ["cloneofsimo_extended.safetensors", "cloneofsimo_f16.safetensors"] {
        for generation in [Generation::UpTo014, Generation::From015] {
            let mut adapter = load(name).unwrap().adapter;
            adapter.tokens.clear();
            let options = WriteOptions { generation: Some(generation), ..WriteOptions::default() };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("list.pt");
            save(&path, &adapter, "original", &options).unwrap();
            assert_same(&adapter, &read(&path));
        }
    }
    // Modules between that the adapter leaves alone are pairs of zeros, which change nothing.
    let mut sparse = load("cloneofsimo.safetensors").unwrap().adapter;
    sparse.modules.retain(|path, _| path.ends_with("attn2.to_k"));
    sparse.tokens.clear();
    save(&path, &sparse, "original", &WriteOptions::default()).unwrap();
    let mut back = read(&path);
    assert_eq!(back.modules.len(), 128);
    back.modules.retain(|path, _| sparse.modules.contains_key(path));
    assert_same(&sparse, &back);
}

/// A list has no place for alpha: it is in the factors, and the file stands at scale 1.
#[test]
fn alphas_are_multiplied_into_lists() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("folded.pt");
    let adapter = load("kohya.safetensors").unwrap().adapter;
    assert!(adapter.low_rank().all(|(_, factors)| factors.scale() != 1.0));
    save(&path, &adapter, "original", &WriteOptions::default()).unwrap();
    let back = read(&path);
    assert!(back.low_rank().all(|(_, factors)| factors.scale() == 1.0));
    assert_eq!(difference(&adapter, &back), 0.0);
}

/// What the name promises and what is in the adapter must agree, and nothing else may lie beside it.
#[test]
fn names_and_neighbours_of_lists_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let whole = load("cloneofsimo.safetensors").unwrap().adapter;
    let options = WriteOptions::default();
    let refused = |name: &str, adapter: &Adapter| save(&at(name), adapter, "original", &options).unwrap_err();
    let mut text = whole.clone();
    text.modules.retain(|path, _| Tower::of(path) == Some(Tower::TextEncoder));
    text.tokens.clear();
    let message = refused("a.pt", &text);
    assert!(message.contains("NAME.text_encoder.pt"), "{message}");
    let message = refused("a.text_encoder.pt", &whole);
    assert!(message.contains("text encoder's modules alone"), "{message}");
    let message = refused("a.ti.pt", &whole);
    assert!(message.contains("learned tokens alone"), "{message}");
    let message = refused("a.bin", &whole);
    assert!(message.contains("a.bin") && message.contains(".pt only"), "{message}");
    assert!(files(folder.path()).is_empty(), "nothing is written before all is checked");

    save(&at("a.pt"), &whole, "original", &options).unwrap();
    let original = by_name("original").unwrap();
    assert_eq!(companions(&at("a.pt"), original), [at("a.text_encoder.pt"), at("a.ti.pt")]);
    assert!(companions(&at("a.ti.pt"), original).is_empty());
    assert!(companions(&at("a.pt"), by_name("a1111-embedding").unwrap()).is_empty());
    let mut unet = whole.clone();
    unet.modules.retain(|path, _| Tower::of(path) == Some(Tower::UNet));
    unet.tokens.clear();
    let message = refused("a.pt", &unet);
    assert!(message.contains("a.text_encoder.pt") && message.contains("of another adapter"), "{message}");
    assert_same(&whole, &read(&at("a.pt")));
    save(&at("b.pt"), &unet, "original", &options).unwrap();
    assert_same(&unet, &read(&at("b.pt")));
}

#[test]
fn dialects_without_a_pickled_form_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = load("kohya.safetensors").unwrap().adapter;
    for dialect in ["kohya", "peft", "old-diffusers"] {
        let mut attention = adapter.clone();
        attention.modules.retain(|path, _| !path.contains(".ff."));
        let message =
            save(&folder.path().join("a.pt"), &attention, dialect, &WriteOptions::default()).unwrap_err();
        assert!(message.contains("a.pt") && message.contains("no pickled form"), "{dialect}: {message}");
    }
    assert!(files(folder.path()).is_empty());
}

fn rows(count: usize, width: usize) -> Tensor {
    stream(4, "rows").randn_tensor(&[count, width]).unwrap()
}

fn token(name: &str, rows: Tensor) -> Adapter {
    let mut adapter = Adapter::default();
    adapter.tokens.insert(name.into(), rows);
    adapter
}

/// Of one and of several rows, in each element type.
#[test]
fn embeddings_come_back_from_every_form() {
    let folder = tempfile::tempdir().unwrap();
    for (dialect, file) in [
        ("a1111-embedding", "cat.pt"),
        ("diffusers-embedding", "learned_embeds.bin"),
        ("original", "cat.ti.pt"),
    ] {
        for (count, dtype) in [(1, DType::F32), (3, DType::F32), (3, DType::F16), (1, DType::BF16)] {
            let cat = token("<cat>", rows(count, 48).to_dtype(dtype).unwrap());
            let path = folder.path().join(file);
            let saved = save(&path, &cat, dialect, &WriteOptions::default());
            if dialect == "original" && count > 1 {
                assert!(saved.unwrap_err().contains("holds one a token"));
                continue;
            }
            saved.unwrap();
            let loaded = load_adapter(&path, &table("tiny-sd1"), ReadOptions::default()).unwrap();
            assert_eq!((loaded.report.dialect, loaded.report.tokens), (dialect, 1), "{file}");
            let found = &loaded.adapter.tokens["<cat>"];
            assert_eq!((found.dtype(), found.dims()), (dtype, &[count, 48][..]), "{file}");
            assert_same(&cat, &loaded.adapter);
        }
    }
    let cat = token("<cat>", rows(1, 48));
    let wrong = folder.path().join("cat.bin");
    let message = save(&wrong, &cat, "a1111-embedding", &WriteOptions::default()).unwrap_err();
    assert!(message.contains("cat.bin") && message.contains(".pt only"), "{message}");
    let message = save(&folder.path().join("b.pt"), &cat, "diffusers-embedding", &WriteOptions::default());
    assert!(message.unwrap_err().contains(".bin only"));
}

/// AUTOMATIC1111's file as its own code writes it, and as exporters do that wrap the token's number in a tensor; the name
/// is the one inside, or the file's where there is none.
#[test]
fn pickled_embeddings_of_automatic1111_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file name.pt");
    let vectors = rows(4, 48);
    write_embedding(&path, "sks cat", &vectors).unwrap();
    assert_same(&token("sks cat", vectors.clone()), &read(&path));
    write_embedding(&path, "", &vectors).unwrap();
    assert_same(&token("file name", vectors.clone()), &read(&path));

    let number = Tensor::from_slice(&[265i64], &[1]).unwrap();
    let item = |name: &str, tensor: &Tensor| {
        let info = TensorInfo { dtype: tensor.dtype(), shape: tensor.dims().to_vec() };
        TorchItem::Dict(vec![("*".into(), TorchItem::Tensor(name.into(), info))])
    };
    let root = TorchItem::Dict(vec![
        ("string_to_token".into(), item("number", &number)),
        ("string_to_param".into(), item("vectors", &vectors)),
        ("name".into(), TorchItem::Text("wrapped".into())),
        ("step".into(), TorchItem::Int(500)),
    ]);
    let tensors = |name: &str| Ok(if name == "number" { number.clone() } else { vectors.clone() });
    write_torch(&path, &root, tensors).unwrap();
    let loaded = load_adapter(&path, &table("tiny-sd1"), ReadOptions::default()).unwrap();
    assert_eq!((loaded.report.dialect, loaded.report.modules), ("a1111-embedding", 0));
    assert_same(&token("wrapped", vectors.clone()), &loaded.adapter);

    // For a base of another width.
    let message = load_adapter(&path, &table("tiny-sd2"), ReadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("wrapped: the token is 48 wide, the base's text encoder 64"), "{message}");
}

/// SDXL's two text encoders: rows for each under one name, by names of AUTOMATIC1111 and of cog's trainer.
#[test]
fn embeddings_of_sdxl_have_rows_for_both_text_encoders() {
    let folder = tempfile::tempdir().unwrap();
    let table: ModuleTable = Architecture::Sdxl.table().unwrap();
    let (first, second) = (rows(2, 768), rows(2, 1280));
    let a1111 = by_name("a1111-embedding").unwrap();
    for keys in [["clip_l", "clip_g"], ["text_encoders_0", "text_encoders_1"]] {
        let path = folder.path().join("style.safetensors");
        let tensors = [(keys[0].to_owned(), first.clone()), (keys[1].to_owned(), second.clone())];
        write_safetensors(&path, &tensors, &std::collections::BTreeMap::new()).unwrap();
        let loaded = load_adapter(&path, &table, ReadOptions::default()).unwrap();
        assert_eq!((loaded.report.dialect, loaded.report.tokens), ("a1111-embedding", 1), "{keys:?}");
        let adapter = loaded.adapter;
        assert_eq!(adapter.tokens["style"].bytes().unwrap(), first.bytes().unwrap(), "{keys:?}");
        assert_eq!(adapter.tokens_2["style"].bytes().unwrap(), second.bytes().unwrap(), "{keys:?}");

        let again = folder.path().join("again.safetensors");
        save_adapter(&again, &adapter, &table, a1111, &WriteOptions::default()).unwrap();
        let again = load_adapter(&again, &table, ReadOptions::default()).unwrap().adapter;
        assert_eq!(again.tokens["style"].bytes().unwrap(), first.bytes().unwrap(), "the name is inside");
        assert_eq!(again.tokens_2["style"].bytes().unwrap(), second.bytes().unwrap());

        for (dialect, file) in [("a1111-embedding", "a.pt"), ("diffusers-embedding", "a.bin")] {
            let (path, dialect) = (folder.path().join(file), by_name(dialect).unwrap());
            let message = save_adapter(&path, &adapter, &table, dialect, &WriteOptions::default());
            assert!(message.unwrap_err().to_string().contains("SDXL's two"), "{file}");
        }
        let mut half = adapter.clone();
        half.tokens.clear();
        let message =
            save_adapter(&folder.path().join("a.pt"), &half, &table, a1111, &WriteOptions::default());
        assert!(message.unwrap_err().to_string().contains("clip_g"));
    }
    // Rows for one of them alone say by their width which it is.
    for (rows, is_second) in [(first, false), (second, true)] {
        let path = folder.path().join("one.safetensors");
        let tensors = [("<one>".to_owned(), rows)];
        write_safetensors(&path, &tensors, &std::collections::BTreeMap::new()).unwrap();
        let adapter = load_adapter(&path, &table, ReadOptions::default()).unwrap().adapter;
        assert_eq!((adapter.tokens.len(), adapter.tokens_2.len()), if is_second { (0, 1) } else { (1, 0) });
    }
    assert!(!folder.path().join("a.pt").exists() && !folder.path().join("a.bin").exists());
}

/// Tokens that are left out are in no file.
#[test]
fn omitted_tokens_have_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = load("cloneofsimo.safetensors").unwrap().adapter;
    let options = WriteOptions { tokens: TokenPolicy::Omit, ..WriteOptions::default() };
    save(&folder.path().join("a.pt"), &adapter, "original", &options).unwrap();
    assert_eq!(files(folder.path()), ["a.pt", "a.text_encoder.pt"]);
}

/// Feed-forward and resnets without attention: no list that readers know. The metadata of a numbered file says it.
#[test]
fn a_list_that_would_be_misread_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut adapter = load("cloneofsimo_extended.safetensors").unwrap().adapter;
    adapter.tokens.clear();
    adapter.modules.retain(|path, _| path.ends_with(".ff.net.0.proj") || path.contains(".resnets."));
    let numbered = folder.path().join("a.safetensors");
    save(&numbered, &adapter, "original", &WriteOptions::default()).unwrap();
    assert_same(&adapter, &read(&numbered));
    let message = save(&folder.path().join("a.pt"), &adapter, "original", &WriteOptions::default());
    assert!(message.unwrap_err().contains("nothing but its order"));
    assert_eq!(files(folder.path()), ["a.safetensors"]);
}

/// A model of the original's first months is three files beside each other, named after the first: factors of the UNet, of the
/// text encoder, and the learned words. All three are read by the first's name, and merging keeps what each of them holds.
#[test]
fn three_files_are_one_adapter_with_its_token() {
    let loaded = load("cloneofsimo.pt").unwrap();
    assert_eq!((loaded.report.dialect, loaded.report.is_complete()), ("original", true));
    let (adapter, whole) = (loaded.adapter, load("cloneofsimo.safetensors").unwrap().adapter);
    assert!(!adapter.tokens.is_empty());
    // The same adapter as the one file of later times, its token to the last bit.
    assert_same(&adapter, &whole);
    let words = PickleFile::open(&fixture("lora/cloneofsimo.ti.pt")).unwrap();
    assert_eq!(words.names(), adapter.tokens.keys().cloned().collect::<Vec<_>>());
    for (word, rows) in &adapter.tokens {
        let stored = words.read(word).unwrap();
        assert_eq!(stored.to_vec::<f32>().unwrap(), rows.to_vec::<f32>().unwrap(), "{word}");
    }

    let other = load("kohya.safetensors").unwrap().adapter;
    assert!(other.tokens.is_empty());
    let input =
        |name: &str, adapter, weight| Input { name: name.to_owned(), adapter, weights: Weights::all(weight) };
    let inputs = [input("three", &adapter, 0.5), input("other", &other, 0.5)];
    for mode in [Mode::Exact, Mode::Concat, Mode::Ties] {
        let rank = if mode == Mode::Concat { RankRule::Lossless } else { RankRule::Fixed(4) };
        let options = MergeOptions { mode, rank, ..MergeOptions::default() };
        let backend = CpuBackend::new(Some(1)).unwrap();
        let merged = merge(&inputs, &table("tiny-sd1"), &options, &backend, &|_| ()).unwrap();
        assert!(
            merged.renamed.is_empty() && merged.adapter.tokens.keys().eq(adapter.tokens.keys()),
            "{mode:?}"
        );
        for (word, rows) in &adapter.tokens {
            // Words have no strength.
            assert_eq!(
                rows.bytes().unwrap(),
                merged.adapter.tokens[word].bytes().unwrap(),
                "{mode:?} {word}"
            );
        }
        let towers =
            |tower| merged.adapter.modules.keys().filter(|path| Tower::of(path) == Some(tower)).count();
        assert_eq!((towers(Tower::UNet), towers(Tower::TextEncoder)), (144, 12), "{mode:?}");
    }

    // Alone, the first file is what it is: the UNet's factors, and no token.
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("lora/cloneofsimo.pt"), folder.path().join("a.pt")).unwrap();
    let alone = read(&folder.path().join("a.pt"));
    assert!(alone.tokens.is_empty() && alone.modules.keys().all(|path| path.starts_with("unet.")));
}
