//! Folders as people have them: components that no single file holds, old names, shards, several kinds of weights.

use super::*;

const TEXT: &str = "text_encoder/model.safetensors";
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const POSITIONS: &str = "text_model.embeddings.position_ids";

/// A copy of a small model that may be changed.
fn copy_of(model: &str, to: &Path) -> PathBuf {
    save(&fixtures().join(model), to, Layout::Folder);
    // What the fixture keeps beside the model.
    std::fs::remove_dir_all(to.join("expected")).unwrap();
    to.to_path_buf()
}

fn all_of(file: &Path) -> Vec<(String, Tensor)> {
    let file = open_any(file).unwrap();
    file.names().into_iter().map(|name| (name.clone(), file.read(&name).unwrap())).collect()
}

fn write(file: &Path, tensors: &[(String, Tensor)]) {
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    write_safetensors(file, tensors, &metadata).unwrap();
}

/// A file with the text encoder's tensors and others.
fn add_to_text(folder: &Path, name: &str, tensor: Tensor) {
    let mut tensors = all_of(&folder.join(TEXT));
    tensors.retain(|(other, _)| other != name);
    tensors.push((name.into(), tensor));
    write(&folder.join(TEXT), &tensors);
}

fn positions(dtype: DType) -> Tensor {
    folder_names::count(77, dtype, &[1, 77]).unwrap()
}

fn json_of(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn weights_that_only_a_folder_holds_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = copy_of("tiny-sd1", &temporary.path().join("m"));
    assert_eq!(open(&folder).left_out, [""; 0]);
    for file in [
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "depth_estimator/config.json",
        "depth_estimator/pytorch_model.bin",
        "feature_extractor/preprocessor_config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "v1.safetensors",
        ".cache/old.safetensors",
    ] {
        std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        std::fs::copy(
            folder.join(if file.ends_with(".json") { "unet/config.json" } else { UNET }),
            folder.join(file),
        )
        .unwrap();
    }
    let index_file = folder.join("model_index.json");
    let mut index = json_of(&index_file);
    let classes = [
        ("safety_checker", "StableDiffusionSafetyChecker"),
        ("depth_estimator", "DPTForDepthEstimation"),
        ("feature_extractor", "DPTFeatureExtractor"),
    ];
    for (name, class) in classes {
        index[name] = serde_json::json!(["transformers", class]);
    }
    std::fs::write(&index_file, index.to_string()).unwrap();

    let only = "weights that only a folder has a place for";
    let unchosen = "weights of a kind that was not chosen";
    let other = |kind: &str| format!("`unet/diffusion_pytorch_model{kind}.safetensors`: {unchosen}");
    let mut wanted = vec![
        format!("`depth_estimator/pytorch_model.bin`: {only}"),
        format!("`safety_checker/model.safetensors`: {only}"),
        other(".fp16"),
        "`v1.safetensors`: weights beside the model's parts".to_string(),
    ];
    assert_eq!(open(&folder).left_out, wanted);
    let mut options = OpenOptions::default();
    options.base.variant = Some("fp16".into());
    let variant = Checkpoint::open(folder.to_str().unwrap(), &options).unwrap();
    wanted[2] = other("");
    assert_eq!(variant.left_out, wanted);
    // What is said to be left out of a folder is what is not there, and nothing else.
    let left = variant.left_out_of(Layout::Folder);
    assert_eq!(left, wanted[2..]);
    assert_eq!(variant.left_out_of(Layout::Ckpt), wanted);
    let again = temporary.path().join("again");
    variant.save(&again, Layout::Folder, &mut |_| ()).unwrap();
    for (line, is_there) in wanted.iter().zip([true, true, false, false]) {
        let file = line.split('`').nth(1).unwrap();
        // The variant that was chosen has the plain name now.
        assert_eq!(again.join(file).exists(), is_there || file.starts_with("unet/"), "{line}");
    }

    // The way back has no weights for them, and must not say that it does.
    let single = save(&folder, &temporary.path().join("a.safetensors"), Layout::Safetensors);
    let back = save(&single, &temporary.path().join("back"), Layout::Folder);
    let found = json_of(&back.join("model_index.json"));
    for (name, _) in &classes[..2] {
        assert_eq!(found[*name], serde_json::json!([null, null]), "{name}");
    }
    for name in ["feature_extractor", "scheduler", "tokenizer", "unet", "text_encoder", "vae"] {
        assert!(index[name][1].is_string() && found[name] == index[name], "{name}: {}", found[name]);
    }
}

/// A folder of 2022: old names in the VAE, a list of positions in the text encoder.
#[test]
fn old_names_of_a_folder_come_back() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    let modern = save(&copy_of("tiny-sd1", &path("m")), &path("m.safetensors"), Layout::Safetensors);
    for (dtype, name) in [(DType::I64, "i64"), (DType::F16, "f16")] {
        let folder = copy_of("tiny-sd1", &path(name));
        let old = all_of(&fixtures().join("single_file/tiny-sd1-vae-old-attention-names.safetensors"));
        // And as the original code had them: convolutions.
        let is_convolution = |name: &str| name.starts_with("encoder.") && name.ends_with("query.weight");
        let old = old.into_iter().map(|(name, tensor)| match is_convolution(&name) {
            true => (name, tensor.reshape(&[24, 24, 1, 1]).unwrap()),
            false => (name, tensor),
        });
        write(&folder.join(VAE), &old.collect::<Vec<_>>());
        add_to_text(&folder, POSITIONS, positions(dtype));
        assert_eq!(open(&folder).left_out, [""; 0]);

        let single = save(&folder, &path("a.safetensors"), Layout::Safetensors);
        if dtype == DType::I64 {
            // Single files have one spelling.
            assert_same(open_any(&single).unwrap().as_ref(), open_any(&modern).unwrap().as_ref(), "");
        }
        let ckpt = save(&single, &path("a.ckpt"), Layout::Ckpt);
        for (from, to) in [(&single, "from-single"), (&ckpt, "from-ckpt"), (&folder, "from-folder")] {
            let back = save(from, &path(&format!("{name}-{to}")), Layout::Folder);
            for part in [UNET, TEXT, VAE] {
                let same =
                    std::fs::read(back.join(part)).unwrap() == std::fs::read(folder.join(part)).unwrap();
                assert!(same, "{dtype} {to}: {part} differs");
            }
            let again = save(&back, &path("again.safetensors"), Layout::Safetensors);
            let (again, wanted) = (open_any(&again).unwrap(), open_any(&single).unwrap());
            assert_same(again.as_ref(), wanted.as_ref(), "");
            assert_eq!(again.metadata()[FOLDER_NAMES_KEY], wanted.metadata()[FOLDER_NAMES_KEY]);
            BaseFiles::open(back.to_str().unwrap(), &BaseOptions::default()).unwrap();
        }
        std::fs::remove_file(single).unwrap();
    }
}

/// OpenCLIP's layout has no place for a list of positions; it is made again all the same.
#[test]
fn positions_beside_open_clip_come_back() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = copy_of("tiny-sd2", &temporary.path().join("m"));
    add_to_text(&folder, POSITIONS, positions(DType::I64));
    let single = save(&folder, &temporary.path().join("a.safetensors"), Layout::Safetensors);
    assert!(open_any(&single).unwrap().names().iter().all(|name| !name.contains("position_ids")));
    let back = save(&single, &temporary.path().join("back"), Layout::Folder);
    assert!(std::fs::read(back.join(TEXT)).unwrap() == std::fs::read(folder.join(TEXT)).unwrap());
}

/// Sums of models have rounded positions in them.
#[test]
fn positions_that_do_not_count_are_left_out_by_name() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = copy_of("tiny-sd1", &temporary.path().join("m"));
    let mut wrong: Vec<f32> = (0..77).map(|position| position as f32).collect();
    wrong[40] = 39.97;
    for tensor in
        [Tensor::from_slice(&wrong, &[1, 77]).unwrap(), Tensor::zeros(DType::I64, &[1, 70]).unwrap()]
    {
        add_to_text(&folder, POSITIONS, tensor);
        let left_out = open(&folder).left_out;
        assert_eq!(left_out, ["`text_encoder.text_model.embeddings.position_ids`: no part uses it"]);
    }
}

#[test]
fn a_strangers_names_and_sizes_do_no_harm() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a.safetensors");
    let tensors = all_of(&fixtures().join("single_file/tiny-sd1-single.safetensors"));
    let huge = [1usize << 40, 1 << 40];
    let write_with = |names: Value| {
        let metadata = BTreeMap::from([(FOLDER_NAMES_KEY.to_string(), names.to_string())]);
        write_safetensors(&path, &tensors, &metadata).unwrap();
    };
    write_with(serde_json::json!({
        "unet": { "names": { "conv_in.bias": ["in.bias", huge] } },
        "text_encoder": { "positions": ["p", "i64", huge] },
        "vae": { "positions": ["p", "i64", [1, 77]] },
    }));
    let back = save(&path, &temporary.path().join("back"), Layout::Folder);
    assert_eq!(open_any(&back.join(UNET)).unwrap().info("in.bias").unwrap().shape, [32]);
    for part in [TEXT, VAE] {
        assert!(open_any(&back.join(part)).unwrap().info("p").is_none(), "{part}");
    }
    // Two tensors under one name.
    write_with(serde_json::json!({ "unet": { "names": { "conv_in.bias": ["conv_out.bias", [32]] } } }));
    let error = open(&path).save(&temporary.path().join("no"), Layout::Folder, &mut |_| ()).unwrap_err();
    assert!(
        error.to_string().contains("`conv_out.bias`") && error.to_string().contains("a.safetensors"),
        "{error}"
    );
    write_with(serde_json::json!({ "unet": 5 }));
    let error = Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default()).err().unwrap().to_string();
    assert!(error.contains("a.safetensors") && error.contains("scumble.folder_names"), "{error}");
}

/// Cuts a file of weights in two with an index, and removes it.
fn cut(file: &Path) -> [PathBuf; 2] {
    let tensors = all_of(file);
    let (folder, stem) = (file.parent().unwrap(), file.file_stem().unwrap().to_str().unwrap());
    let (first, second) = tensors.split_at(tensors.len() / 3);
    let mut places = BTreeMap::new();
    let shards = [(1, first), (2, second)].map(|(number, tensors)| {
        let name = format!("{stem}-{number:05}-of-00002.safetensors");
        write(&folder.join(&name), tensors);
        places.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), name.clone())));
        folder.join(name)
    });
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": places });
    std::fs::write(folder.join(format!("{stem}.safetensors.index.json")), index.to_string()).unwrap();
    std::fs::remove_file(file).unwrap();
    shards
}

#[test]
fn shards_become_one_file() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    let folder = copy_of("tiny-sd1", &path("m"));
    let wanted = save(&folder, &path("whole.safetensors"), Layout::Safetensors);
    let wanted = SafetensorsFile::open(&wanted).unwrap();
    cut(&folder.join(UNET));
    let [_, second] = cut(&folder.join(TEXT));
    assert_eq!(open(&folder).left_out, [""; 0], "shards that are read are not left out");
    for (name, layout, wrapper) in
        [("a.safetensors", Layout::Safetensors, ""), ("a.ckpt", Layout::Ckpt, "state_dict.")]
    {
        let single = save(&folder, &path(name), layout);
        let single = open_any(&single).unwrap();
        assert_same(single.as_ref(), &wanted, wrapper);
        assert_eq!(single.metadata(), wanted.metadata(), "an index is no configuration");
    }
    // A folder is written whole, without what the shards were.
    let again = save(&folder, &path("again"), Layout::Folder);
    let names = |part: &str| {
        let mut names: Vec<String> = std::fs::read_dir(again.join(part))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("unet"), ["config.json", "diffusion_pytorch_model.safetensors"]);
    assert_eq!(names("text_encoder"), ["config.json", "model.safetensors"]);
    std::fs::remove_file(&second).unwrap();
    let error =
        Checkpoint::open(folder.to_str().unwrap(), &OpenOptions::default()).err().unwrap().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");
}

/// Each kind of weights has values of its own; the one that was asked for is the one that is written.
#[test]
fn the_variant_asked_for_is_written() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = copy_of("tiny-sd1", &temporary.path().join("m"));
    let doubled = all_of(&folder.join(UNET)).into_iter().map(|(name, tensor)| {
        let values: Vec<f32> = tensor.to_vec::<f32>().unwrap().iter().map(|value| value * 2.0).collect();
        (name, Tensor::from_slice(&values, tensor.dims()).unwrap().to_dtype(DType::F16).unwrap())
    });
    write(&folder.join("unet/diffusion_pytorch_model.non_ema.safetensors"), &doubled.collect::<Vec<_>>());
    let written = |variant: Option<&str>, name: &str| {
        let mut options = OpenOptions::default();
        options.base.variant = variant.map(str::to_string);
        let to = temporary.path().join(name);
        let checkpoint = Checkpoint::open(folder.to_str().unwrap(), &options).unwrap();
        checkpoint.save(&to, Layout::Safetensors, &mut |_| ()).unwrap();
        let single = SafetensorsFile::open(&to).unwrap();
        single.read("model.diffusion_model.input_blocks.0.0.weight").unwrap().to_vec::<f32>().unwrap()
    };
    let (plain, other) = (written(None, "a.safetensors"), written(Some("non_ema"), "b.safetensors"));
    assert!(plain.iter().any(|value| *value != 0.0));
    assert!(plain.iter().zip(other).all(|(plain, other)| plain * 2.0 == other));
}

/// A folder keeps a single file's averaged weights in its extras: they stay, or go on request, and are never used.
#[test]
fn averaged_weights_in_a_folder_stay_or_go() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    let mut tensors = all_of(&fixtures().join("single_file/tiny-sd1-single.safetensors"));
    let averaged = "model_ema.diffusion_modelout2bias";
    tensors.push((averaged.into(), Tensor::from_slice(&[5.0f32; 4], &[4]).unwrap()));
    tensors.push(("alphas_cumprod".into(), Tensor::zeros(DType::F32, &[1000]).unwrap()));
    write(&path("in.safetensors"), &tensors);
    let folder = save(&path("in.safetensors"), &path("m"), Layout::Folder);
    let written = |ema, prune| -> Vec<String> {
        let options = OpenOptions { ema, prune, ..OpenOptions::default() };
        let checkpoint = Checkpoint::open(folder.to_str().unwrap(), &options).unwrap();
        assert_eq!(checkpoint.averages_dropped, usize::from(ema == Ema::Drop));
        assert_eq!(checkpoint.left_out.contains(&"`alphas_cumprod`: no part uses it".into()), prune);
        checkpoint.save(&path("out.safetensors"), Layout::Safetensors, &mut |_| ()).unwrap();
        SafetensorsFile::open(&path("out.safetensors")).unwrap().names()
    };
    let has = |names: &[String], name: &str| names.iter().any(|other| other == name);
    let kept = written(Ema::Keep, false);
    assert!(has(&kept, averaged) && has(&kept, "alphas_cumprod"));
    let dropped = written(Ema::Drop, false);
    assert!(!has(&dropped, averaged) && has(&dropped, "alphas_cumprod") && dropped.len() + 1 == kept.len());
    let pruned = written(Ema::Keep, true);
    assert!(!has(&pruned, averaged) && !has(&pruned, "alphas_cumprod"));
    let options = OpenOptions { ema: Ema::Use, ..OpenOptions::default() };
    let error = Checkpoint::open(folder.to_str().unwrap(), &options).err().unwrap().to_string();
    assert!(error.contains("averaged weights"), "{error}");
    // The same for the file itself, by way of every layout.
    for (layout, name) in
        [(Layout::Folder, "f"), (Layout::Ckpt, "f.ckpt"), (Layout::Safetensors, "f.safetensors")]
    {
        let options = OpenOptions { ema: Ema::Drop, ..OpenOptions::default() };
        let checkpoint = Checkpoint::open(path("in.safetensors").to_str().unwrap(), &options).unwrap();
        assert_eq!(checkpoint.averages_dropped, 1);
        checkpoint.save(&path(name), layout, &mut |_| ()).unwrap();
        let extras = open(&path(name)).extras().names();
        assert!(!has(&extras, averaged) && has(&extras, "alphas_cumprod"), "{layout:?}: {extras:?}");
    }
}
