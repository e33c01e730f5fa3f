//! Models of further inputs, and 2.x as it was published: every layout into every other, made of the small models.

use super::*;

const CONV_IN: &str = "model.diffusion_model.input_blocks.0.0.weight";
const RESBLOCKS: &str = "cond_stage_model.model.transformer.resblocks.";

type Tensors = BTreeMap<String, Tensor>;

/// A small model's single file without any metadata, as published ones are.
fn single_of(model: &str) -> Tensors {
    let temporary = tempfile::tempdir().unwrap();
    let path = save(&fixtures().join(model), &temporary.path().join("a.safetensors"), Layout::Safetensors);
    let file = SafetensorsFile::open(&path).unwrap();
    file.names().into_iter().map(|name| (name.clone(), file.read(&name).unwrap())).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let list: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    write_safetensors(path, &list, &BTreeMap::new()).unwrap();
}

/// Values that differ from place to place and are exact in f16.
fn filled(dims: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..dims.iter().product()).map(|i: usize| (i * 7 % 2039) as f32).collect();
    Tensor::from_slice(&values, dims).unwrap().to_dtype(DType::F16).unwrap()
}

fn json_of(file: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

struct Kind {
    model: &'static str,
    purpose: Purpose,
    channels: usize,
    pipeline: &'static str,
    /// Tensors of the UNet that only this kind has, and what diffusers calls them.
    class: &'static [(&'static str, &'static str, &'static [usize])],
    /// Tensors of the file that are in no part.
    extras: &'static [&'static str],
}

const KINDS: [Kind; 5] = [
    Kind {
        model: "tiny-sd1",
        purpose: Purpose::Inpainting,
        channels: 9,
        pipeline: "StableDiffusionInpaintPipeline",
        class: &[],
        extras: &["model_ema.diffusion_modelinput_blocks00weight"],
    },
    Kind {
        model: "tiny-sd1",
        purpose: Purpose::Instruction,
        channels: 8,
        pipeline: "StableDiffusionInstructPix2PixPipeline",
        class: &[],
        extras: &[],
    },
    Kind {
        model: "tiny-sd2",
        purpose: Purpose::Depth,
        channels: 5,
        pipeline: "StableDiffusionDepth2ImgPipeline",
        class: &[],
        extras: &[
            "depth_model.model.pretrained.model.cls_token",
            "depth_model.model.scratch.layer1_rn.weight",
        ],
    },
    Kind {
        model: "tiny-sd2",
        purpose: Purpose::Upscaling,
        channels: 7,
        pipeline: "StableDiffusionUpscalePipeline",
        class: &[("label_emb.weight", "class_embedding.weight", &[20, 64])],
        extras: &["low_scale_model.betas", "low_scale_model.alphas_cumprod"],
    },
    Kind {
        model: "tiny-sd2",
        purpose: Purpose::ImageVariation,
        channels: 4,
        pipeline: "StableUnCLIPImg2ImgPipeline",
        class: &[
            ("label_emb.0.0.weight", "class_embedding.linear_1.weight", &[64, 40]),
            ("label_emb.0.0.bias", "class_embedding.linear_1.bias", &[64]),
            ("label_emb.0.2.weight", "class_embedding.linear_2.weight", &[64, 64]),
            ("label_emb.0.2.bias", "class_embedding.linear_2.bias", &[64]),
        ],
        extras: &["embedder.model.visual.proj", "noise_augmentor.data_mean"],
    },
];

impl Kind {
    fn tensors(&self) -> Tensors {
        let mut tensors = single_of(self.model);
        let outputs = tensors[CONV_IN].dims()[0];
        tensors.insert(CONV_IN.into(), filled(&[outputs, self.channels, 3, 3]));
        for (name, _, dims) in self.class {
            tensors.insert(format!("model.diffusion_model.{name}"), filled(dims));
        }
        for name in self.extras {
            tensors.insert((*name).into(), filled(&[3, 5]));
        }
        tensors
    }
}

#[test]
fn models_of_further_inputs_go_everywhere_and_back() {
    for kind in &KINDS {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        let (tensors, single) = (kind.tensors(), path("in.safetensors"));
        write(&single, &tensors);
        let opened = open(&single);
        assert_eq!((opened.purpose, opened.left_out.len()), (kind.purpose, 0));
        // 1.x has its list of positions, 2.x of three layers nothing.
        let extras: Vec<String> =
            opened.extras().names().into_iter().filter(|name| !name.ends_with("position_ids")).collect();
        let mut wanted = kind.extras.to_vec();
        wanted.sort_unstable();
        assert_eq!(extras, wanted);

        let folder = save(&single, &path("folder"), Layout::Folder);
        let of_folder = open(&folder);
        let unet = &of_folder.parts[&Part::Unet];
        assert_eq!((of_folder.purpose, &unet.config["in_channels"]), (kind.purpose, &kind.channels.into()));
        assert!(
            unet.weights.read("conv_in.weight").unwrap().bytes().unwrap()
                == tensors[CONV_IN].bytes().unwrap()
        );
        for (name, theirs, dims) in kind.class {
            let found = unet.weights.read(theirs).unwrap();
            let wanted = &tensors[&format!("model.diffusion_model.{name}")];
            assert_eq!(found.dims(), *dims);
            assert!(found.bytes().unwrap() == wanted.bytes().unwrap(), "{name}");
        }
        assert_eq!(json_of(folder.join("model_index.json"))["_class_name"], kind.pipeline);

        let original = SafetensorsFile::open(&single).unwrap();
        for (name, layout, wrapper) in
            [("again.safetensors", Layout::Safetensors, ""), ("again.ckpt", Layout::Ckpt, "state_dict.")]
        {
            let again = save(&folder, &path(name), layout);
            assert_same(open_any(&again).unwrap().as_ref(), &original, wrapper);
        }
        // A folder as published: nothing of any single file in it.
        std::fs::remove_file(folder.join(EXTRAS_FILE)).unwrap();
        let plain = save(&folder, &path("plain.ckpt"), Layout::Ckpt);
        let back = open(&save(&plain, &path("back"), Layout::Folder));
        assert_eq!(back.purpose, kind.purpose);
        for (part, component) in &of_folder.parts {
            assert_same(back.parts[part].weights.as_ref(), component.weights.as_ref(), "");
            assert_eq!(back.parts[part].config, component.config);
        }
        for file in ["model_index.json", "scheduler/scheduler_config.json"] {
            assert_eq!(json_of(path("back").join(file)), json_of(folder.join(file)), "{file}");
        }
    }
}

/// What is left out on request is named.
#[test]
fn pruned_tensors_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let single = temporary.path().join("in.safetensors");
    for kind in &KINDS {
        write(&single, &kind.tensors());
        let options = OpenOptions { prune: true, ..OpenOptions::default() };
        let pruned = Checkpoint::open(single.to_str().unwrap(), &options).unwrap();
        assert!(pruned.extras().names().is_empty());
        for name in kind.extras {
            assert!(pruned.left_out.contains(&format!("`{name}`: no part uses it")), "{name}");
        }
    }
}

/// What diffusers cannot know from the tensors' sizes.
#[test]
fn an_upscaling_model_gets_its_own_configurations() {
    let temporary = tempfile::tempdir().unwrap();
    let single = temporary.path().join("in.safetensors");
    let mut tensors = KINDS[3].tensors();
    // Its self-attention looks at the text, which is wider, where the published one's does.
    for name in ["to_k", "to_v"] {
        let key = format!("model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.{name}.weight");
        let width = tensors[&key].dims()[0];
        tensors.insert(key, filled(&[width, 64]));
    }
    write(&single, &tensors);
    let folder = save(&single, &temporary.path().join("folder"), Layout::Folder);
    let unet = json_of(folder.join("unet/config.json"));
    assert_eq!(unet["num_class_embeds"], 20);
    assert_eq!(unet["only_cross_attention"], serde_json::json!([false, true, false, false]));
    assert_eq!(json_of(folder.join("vae/config.json"))["scaling_factor"], 0.08333);
    let scheduler = json_of(folder.join("scheduler/scheduler_config.json"));
    assert_eq!(
        (&scheduler["prediction_type"], &scheduler["beta_end"]),
        (&"v_prediction".into(), &0.02.into())
    );
    let index = json_of(folder.join("model_index.json"));
    assert_eq!(index["low_res_scheduler"], serde_json::json!(["diffusers", "DDPMScheduler"]));
    assert_eq!(index["max_noise_level"], 350);
    let noise = json_of(folder.join("low_res_scheduler/scheduler_config.json"));
    assert_eq!(noise["_class_name"], "DDPMScheduler");
}

/// 2.x with all 24 layers, of the small model's: each layer has values of its own.
fn published_sd2() -> Tensors {
    let mut tensors = single_of("tiny-sd2");
    let first: Vec<(String, Vec<usize>)> = tensors
        .iter()
        .filter_map(|(name, tensor)| {
            Some((name.strip_prefix(RESBLOCKS)?.strip_prefix("0.")?.to_string(), tensor.dims().to_vec()))
        })
        .collect();
    for layer in 0..24 {
        for (tail, dims) in &first {
            let count = dims.iter().product();
            let values: Vec<f32> = (0..count).map(|i: usize| (i * 5 % 83 + layer) as f32).collect();
            let tensor = Tensor::from_slice(&values, dims).unwrap().to_dtype(DType::F16).unwrap();
            tensors.insert(format!("{RESBLOCKS}{layer}.{tail}"), tensor);
        }
    }
    tensors.insert("cond_stage_model.model.text_projection".into(), filled(&[64, 64]));
    let scale = Tensor::scalar(4.5f32).unwrap().to_dtype(DType::F16).unwrap();
    tensors.insert("cond_stage_model.model.logit_scale".into(), scale);
    tensors
}

#[test]
fn sd2_as_published_comes_back_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    let tensors = published_sd2();
    write(&path("in.safetensors"), &tensors);
    let original = SafetensorsFile::open(&path("in.safetensors")).unwrap();
    let folder = save(&path("in.safetensors"), &path("folder"), Layout::Folder);
    let text = open(&folder).parts[&Part::TextEncoder].clone();
    assert_eq!(text.config["num_hidden_layers"], 23);
    assert!(text.weights.names().iter().all(|name| !name.contains(".23.") && !name.contains("projection")));
    let extras = SafetensorsFile::open(&folder.join(EXTRAS_FILE)).unwrap().names();
    // Two norms, two packed, out_proj, and the two layers behind: twelve of a layer.
    assert_eq!(extras.len(), 12 + 2, "{extras:?}");
    for (name, layout, wrapper) in
        [("again.safetensors", Layout::Safetensors, ""), ("again.ckpt", Layout::Ckpt, "state_dict.")]
    {
        let again = save(&folder, &path(name), layout);
        assert_same(open_any(&again).unwrap().as_ref(), &original, wrapper);
    }
}

/// A folder of 23 layers becomes a file with all names that published ones have, and comes back.
#[test]
fn sd2_from_a_folder_has_every_name_that_readers_look_for() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    let tensors = published_sd2();
    write(&path("in.safetensors"), &tensors);
    let folder = save(&path("in.safetensors"), &path("folder"), Layout::Folder);
    std::fs::remove_file(folder.join(EXTRAS_FILE)).unwrap();
    for (name, layout) in [("a.safetensors", Layout::Safetensors), ("a.ckpt", Layout::Ckpt)] {
        let single = open_any(&save(&folder, &path(name), layout)).unwrap();
        let wrapper = if layout == Layout::Ckpt { "state_dict." } else { "" };
        let found: Vec<String> =
            single.names().iter().map(|name| name.strip_prefix(wrapper).unwrap().into()).collect();
        assert_eq!(found, tensors.keys().cloned().collect::<Vec<_>>());
        for (name, wanted) in &tensors {
            let read = single.read(&format!("{wrapper}{name}")).unwrap();
            assert_eq!((read.dtype(), read.dims()), (wanted.dtype(), wanted.dims()), "{name}");
            let wanted = match name.strip_prefix(RESBLOCKS).and_then(|tail| tail.strip_prefix("23.")) {
                Some(tail) => &tensors[&format!("{RESBLOCKS}22.{tail}")],
                None if name.ends_with("text_projection") || name.ends_with("logit_scale") => continue,
                None => wanted,
            };
            assert!(read.bytes().unwrap() == wanted.bytes().unwrap(), "{name}");
        }
        let projection = single.read(&format!("{wrapper}cond_stage_model.model.text_projection")).unwrap();
        let identity = projection.to_vec::<f32>().unwrap();
        assert!((0..64 * 64).all(|i| identity[i] == f32::from(i / 64 == i % 64)));
        let back = open(&save(&path(name), &path(&format!("{name}.d")), Layout::Folder));
        for (part, component) in open(&folder).parts {
            assert_same(back.parts[&part].weights.as_ref(), component.weights.as_ref(), "");
            assert_eq!(back.parts[&part].config, component.config);
        }
    }
}
