//! Every layout into every other and back: the same tensors, the same metadata.

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
