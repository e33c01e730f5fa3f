//! Every layout into every other and back: the same tensors, the same metadata.

mod folders;
mod kinds;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_tensor::{DType, Tensor};
use serde_json::Value;

use super::*;
use crate::base::{BaseFiles, BaseOptions};
use crate::files::safetensors_tests::fixtures;
use crate::files::{PickleFile, SafetensorsFile, open_any, write_safetensors};

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default()).unwrap()
}

fn save(from: &Path, to: &Path, layout: Layout) -> PathBuf {
    open(from).save(to, layout, &mut |_| ()).unwrap();
    to.to_path_buf()
}

fn assert_same(found: &dyn TensorSource, wanted: &dyn TensorSource, wrapper: &str) {
    let names = |source: &dyn TensorSource| -> Vec<String> {
        source.names().iter().map(|name| name.trim_start_matches("state_dict.").to_string()).collect()
    };
    assert_eq!(names(found), names(wanted));
    for name in wanted.names() {
        let plain = name.trim_start_matches("state_dict.");
        let (a, b) = (found.read(&format!("{wrapper}{plain}")).unwrap(), wanted.read(&name).unwrap());
        assert_eq!((a.dtype(), a.dims()), (b.dtype(), b.dims()), "{name}");
        assert!(a.bytes().unwrap() == b.bytes().unwrap(), "{name} has other values");
    }
}

#[test]
fn a_folder_becomes_the_single_file_of_the_key_lists() {
    for (model, family) in [("tiny-sd1", Architecture::Sd1), ("tiny-sd2", Architecture::Sd2)] {
        let temporary = tempfile::tempdir().unwrap();
        let folder = fixtures().join(model);
        assert_eq!(open(&folder).architecture, family);
        let single = save(&folder, &temporary.path().join("a.safetensors"), Layout::Safetensors);
        let keys =
            std::fs::read_to_string(fixtures().join(format!("single_file/{model}-keys.json"))).unwrap();
        let keys: Value = serde_json::from_str(&keys).unwrap();
        let file = SafetensorsFile::open(&single).unwrap();
        let wanted: BTreeMap<String, Vec<usize>> = keys["keys"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, entry)| (key.clone(), serde_json::from_value(entry["shape"].clone()).unwrap()))
            .collect();
        let found: BTreeMap<String, Vec<usize>> =
            file.names().into_iter().map(|name| (name.clone(), file.info(&name).unwrap().shape)).collect();
        assert_eq!(found, wanted, "{model}");
        // And back, by way of the other container.
        let ckpt = save(&single, &temporary.path().join("a.ckpt"), Layout::Ckpt);
        assert_same(&PickleFile::open(&ckpt).unwrap(), &file, "state_dict.");
        assert_eq!(open_any(&ckpt).unwrap().metadata(), file.metadata());
        let back = save(&ckpt, &temporary.path().join("back"), Layout::Folder);
        let (back, original) = (open(&back), open(&folder));
        for (part, component) in &original.parts {
            assert_same(back.parts[part].weights.as_ref(), component.weights.as_ref(), "");
            assert_eq!(back.parts[part].config, component.config);
        }
        BaseFiles::open(back.name.as_str(), &BaseOptions::default()).unwrap();
    }
}

/// SDXL: two text encoders in two spellings, one with a projection that is turned over. The file is made of the key list.
#[test]
fn sdxl_goes_to_a_folder_and_back() {
    let temporary = tempfile::tempdir().unwrap();
    let keys = std::fs::read_to_string(fixtures().join("single_file/tiny-sdxl-keys.json")).unwrap();
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let mut tensors = Vec::new();
    for (index, (key, entry)) in keys["keys"].as_object().unwrap().iter().enumerate() {
        let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 7 + index * 13) % 2039) as f32).collect();
        let tensor = Tensor::from_slice(&values, &shape).unwrap().to_dtype(DType::F16).unwrap();
        tensors.push((key.clone(), tensor));
    }
    let single = temporary.path().join("xl.safetensors");
    write_safetensors(&single, &tensors, &BTreeMap::new()).unwrap();
    let opened = open(&single);
    assert_eq!(opened.architecture, Architecture::Sdxl);
    assert!(opened.extras().names().is_empty() && opened.left_out.is_empty(), "{:?}", opened.left_out);
    let folder = save(&single, &temporary.path().join("xl"), Layout::Folder);
    let of_folder = open(&folder);
    for (key, tensor) in &tensors {
        let from: Vec<String> = serde_json::from_value(keys["keys"][key]["from"].clone()).unwrap();
        let mut found: Vec<f32> = Vec::new();
        for source in &from {
            let (part, name) = source.split_once(": ").unwrap();
            let (name, transposed) =
                name.strip_suffix(" (transposed)").map_or((name, false), |name| (name, true));
            let part = of_folder.parts.keys().find(|of| of.folder() == part).unwrap();
            let tensor = of_folder.parts[part].weights.read(name).unwrap();
            let values = tensor.to_vec::<f32>().unwrap();
            match (transposed, tensor.dims()) {
                (true, &[rows, columns]) => found.extend(
                    (0..columns)
                        .flat_map(|c| (0..rows).map(move |r| (r, c)))
                        .map(|(r, c)| values[r * columns + c]),
                ),
                _ => found.extend(values),
            }
        }
        assert!(found == tensor.to_vec::<f32>().unwrap(), "{key} from {from:?}");
    }
    let index: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("model_index.json")).unwrap()).unwrap();
    assert_eq!(index["_class_name"], "StableDiffusionXLPipeline");
    let wanted = SafetensorsFile::open(&single).unwrap();
    for (name, layout, wrapper) in
        [("again.safetensors", Layout::Safetensors, ""), ("again.ckpt", Layout::Ckpt, "state_dict.")]
    {
        let again = save(&folder, &temporary.path().join(name), layout);
        assert_same(open_any(&again).unwrap().as_ref(), &wanted, wrapper);
    }
}

#[test]
fn the_public_single_file_survives_every_layout() {
    let temporary = tempfile::tempdir().unwrap();
    for name in ["tiny-sd1-single.safetensors", "tiny-sd1.ckpt"] {
        let original = fixtures().join("single_file").join(name);
        let wanted = open_any(&original).unwrap();
        let folder = save(&original, &temporary.path().join(format!("{name}.d")), Layout::Folder);
        for (layout, wrapper) in [(Layout::Safetensors, ""), (Layout::Ckpt, "state_dict.")] {
            let again = save(&folder, &temporary.path().join("again"), layout);
            assert_same(open_any(&again).unwrap().as_ref(), wanted.as_ref(), wrapper);
            std::fs::remove_file(again).unwrap();
        }
        let ids = |path: &Path| {
            let base = BaseFiles::open(path.to_str().unwrap(), &BaseOptions::default()).unwrap();
            base.tokenizer.open().unwrap().encode("a photo of sks dog, naïve!")
        };
        assert_eq!(ids(&folder), ids(&original));
    }
}

#[test]
fn unused_layers_averages_and_odd_spellings_come_back() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("in.safetensors");
    let file = SafetensorsFile::open(&fixtures().join("single_file/tiny-sd1-single.safetensors")).unwrap();
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for name in file.names() {
        let tensor = file.read(&name).unwrap();
        if let Some(tail) = name.strip_prefix("model.") {
            let doubled: Vec<f32> = tensor.to_vec::<f32>().unwrap().iter().map(|v| v * 2.0).collect();
            let copy = Tensor::from_slice(&doubled, tensor.dims()).unwrap();
            tensors.insert(format!("model_ema.{}", tail.replace('.', "")), copy);
        }
        // Files of 2022.
        let name = name.replace("transformer.text_model.", "transformer.");
        let is_old = name.ends_with("mid.attn_1.q.weight");
        let shape = if is_old { &tensor.dims()[..3] } else { tensor.dims() };
        tensors.insert(name, tensor.reshape(shape).unwrap());
    }
    tensors.insert("alphas_cumprod".into(), Tensor::zeros(DType::F64, &[1000]).unwrap());
    let list: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    let metadata = BTreeMap::from([("author".to_string(), "somebody".to_string())]);
    write_safetensors(&path, &list, &metadata).unwrap();
    let folder = save(&path, &temporary.path().join("folder"), Layout::Folder);
    let again = save(&folder, &temporary.path().join("again.safetensors"), Layout::Safetensors);
    let (found, wanted) = (SafetensorsFile::open(&again).unwrap(), SafetensorsFile::open(&path).unwrap());
    assert_same(&found, &wanted, "");
    assert_eq!(found.metadata()["author"], "somebody");

    let options = OpenOptions { ema: Ema::Use, ..OpenOptions::default() };
    let averaged = Checkpoint::open(path.to_str().unwrap(), &options).unwrap();
    let plain = open(&path);
    let of = |checkpoint: &Checkpoint| {
        checkpoint.parts[&Part::Unet].weights.read("conv_in.weight").unwrap().to_vec::<f32>().unwrap()
    };
    assert!(of(&averaged).iter().zip(of(&plain)).all(|(a, b)| *a == b * 2.0));
    assert!(averaged.extras().names().iter().all(|name| !name.starts_with("model_ema.")));
    let without = fixtures().join("single_file/tiny-sd1.ckpt");
    let error = Checkpoint::open(without.to_str().unwrap(), &options).err().unwrap();
    assert!(error.to_string().contains("no averaged weights"), "{error}");
}

/// Rows behind the vocabulary go into files beside a single file, and what is left is a model that can be opened.
#[test]
fn learned_tokens_leave_a_model_that_opens() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = save(&fixtures().join("tiny-sd1"), &temporary.path().join("m"), Layout::Folder);
    let path = folder.join("text_encoder/model.safetensors");
    let file = SafetensorsFile::open(&path).unwrap();
    let mut tensors: Vec<_> = file.names().into_iter().map(|n| (n.clone(), file.read(&n).unwrap())).collect();
    let (_, table) = tensors.iter_mut().find(|(name, _)| name == tokens::TABLE).unwrap();
    let (rows, width) = (table.shape().first(), table.shape().last());
    let mut values = table.to_vec::<f32>().unwrap();
    // The first id is free: rows are found by id, not by counting.
    values.extend((0..3 * width).map(|i| (i / width + 1) as f32));
    *table = Tensor::from_slice(&values, &[rows + 3, width]).unwrap().to_dtype(DType::F16).unwrap();
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let config = folder.join("text_encoder/config.json");
    let mut value: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    value["vocab_size"] = (rows + 3).into();
    std::fs::write(&config, value.to_string()).unwrap();
    let added = serde_json::json!({ "<cat>": rows + 1, "[cat]": rows + 2 });
    std::fs::write(folder.join("tokenizer/added_tokens.json"), added.to_string()).unwrap();

    let single = temporary.path().join("a.safetensors");
    let opened = open(&folder);
    let promised = opened.embedding_files(&single, Layout::Safetensors);
    let saved = opened.save(&single, Layout::Safetensors, &mut |_| ()).unwrap();
    assert_eq!(saved.embeddings, promised);
    assert_eq!(promised.len(), 2);
    for (file, value) in promised.iter().zip([2.0, 3.0]) {
        let source = open_any(file).unwrap();
        let name = source.names().into_iter().find(|name| name.starts_with("string_to_param")).unwrap();
        assert_eq!(source.read(&name).unwrap().to_vec::<f32>().unwrap(), vec![value; width]);
    }
    let backend = scumble_tensor::reference::ReferenceBackend;
    for path in [single.clone(), save(&single, &temporary.path().join("back"), Layout::Folder)] {
        let base = BaseFiles::open(path.to_str().unwrap(), &BaseOptions::default()).unwrap();
        let text = &base.text_encoder;
        crate::text_encoder::TextEncoder::load(&text.config, text.weights.as_ref(), &backend, DType::F32)
            .unwrap();
        assert_eq!(base.tokenizer.open().unwrap().vocab_size(), rows);
    }
}

#[test]
fn a_name_without_a_place_is_refused_and_nothing_is_left_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = save(&fixtures().join("tiny-sd1"), &temporary.path().join("m"), Layout::Folder);
    let vae = folder.join("vae/diffusion_pytorch_model.safetensors");
    let file = SafetensorsFile::open(&vae).unwrap();
    let mut tensors: Vec<_> = file.names().into_iter().map(|n| (n.clone(), file.read(&n).unwrap())).collect();
    tensors.push(("surprise".into(), Tensor::zeros(DType::F16, &[1]).unwrap()));
    write_safetensors(&vae, &tensors, &BTreeMap::new()).unwrap();
    let error = open(&folder).save(&temporary.path().join("a.ckpt"), Layout::Ckpt, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("`vae.surprise`"), "{error}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1);
}
