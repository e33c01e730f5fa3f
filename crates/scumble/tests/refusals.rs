//! Bad input of every kind: exit code 1, the file named, nothing left behind, no crash.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Place, fail, fixture, run, tensors, text};
use scumble_model::files::{SafetensorsFile, TensorSource as _, write_safetensors};
use scumble_tensor::Tensor;

/// Fails with code 1, soon, with these words and without those of a crash.
fn refused(command: &mut Command, words: &[&str]) -> String {
    let start = Instant::now();
    let said = fail(command, 1);
    assert!(start.elapsed() < Duration::from_secs(30), "{command:?} took {:?}", start.elapsed());
    for word in words {
        assert!(said.contains(word), "{command:?} does not say {word}: {said}");
    }
    for crash in ["panicked", "backtrace", "overflow occurred", "unwrap"] {
        assert!(!said.contains(crash), "{said}");
    }
    said
}

/// As [`refused`], and with a hint on what to do.
fn refused_with_hint(command: &mut Command, words: &[&str]) {
    let said = refused(command, words);
    assert!(said.contains("hint: "), "no hint: {said}");
}

/// A copy of the base that may be damaged.
fn base(place: &Place) -> String {
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        std::fs::create_dir_all(place.path("base").join(part)).unwrap();
        for entry in std::fs::read_dir(fixture("tiny-sd1").join(part)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, place.path("base").join(part).join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::copy(fixture("tiny-sd1/model_index.json"), place.path("base/model_index.json")).unwrap();
    "base".to_owned()
}

/// Writes a safetensors file again, with the tensors that `change` makes.
fn rewrite(from: &Path, to: &Path, change: impl Fn(&str, Tensor) -> Option<Tensor>) {
    let file = SafetensorsFile::open(from).unwrap();
    let changed = |name: String| {
        let tensor = file.read(&name).unwrap();
        change(&name, tensor).map(|tensor| (name, tensor))
    };
    let tensors: Vec<_> = file.names().into_iter().filter_map(changed).collect();
    let metadata = file.metadata().clone();
    drop(file);
    write_safetensors(to, &tensors, &metadata).unwrap();
}

fn one_value(tensor: &Tensor, value: f32) -> Tensor {
    let mut values = tensor.to_vec::<f32>().unwrap();
    values[0] = value;
    Tensor::from_slice(&values, tensor.dims()).unwrap().to_dtype(tensor.dtype()).unwrap()
}

#[test]
fn folders_without_a_usable_picture() {
    let place = Place::with(&[]);
    refused_with_hint(&mut place.train(), &["`pictures`", "no pictures"]);
    refused_with_hint(place.train().args(["--images", "nowhere"]), &["`nowhere`"]);
    place.make("rubbish", &[]);
    for (name, content) in
        [("notes.md", "hello"), ("a.txt", "a caption without a picture"), (".hidden.png", "x")]
    {
        std::fs::write(place.path("rubbish").join(name), content).unwrap();
    }
    std::fs::create_dir(place.path("rubbish/folder")).unwrap();
    refused_with_hint(place.train().args(["--images", "rubbish"]), &["`rubbish`"]);
    refused_with_hint(place.train().args(["--images", "rubbish/notes.md"]), &["notes.md"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn pictures_that_can_not_be_decoded() {
    for name in [
        "zero.jpg",
        "truncated.jpg",
        "truncated.png",
        "bomb_60000.png",
        "text.png",
        "zero_size.png",
        "one_pixel.png",
        "crc_error.png",
    ] {
        let place = Place::with(&[name]);
        refused_with_hint(&mut place.train(), &[name]);
        assert!(!place.path("runs").exists(), "{name}");
        // Beside a good picture it is named and left out, or ends it all by choice.
        place.make("pictures", &["plain.png"]);
        let output = run(place.train().args(["--steps", "1"]));
        let said = text(&output.stderr);
        assert!(said.contains("warning: skipped") && said.contains(name), "{said}");
        refused_with_hint(place.train().args(["--set", "data.unreadable=error"]), &[name]);
    }
}

#[test]
fn caption_files_with_rubbish() {
    let place = Place::new();
    std::fs::write(place.path("pictures/plain.txt"), b"a \xff\xfe dog").unwrap();
    let said = text(&run(place.train().args(["--steps", "1"])).stderr);
    assert!(said.contains("plain.txt") && said.contains("UTF-8"), "{said}");
    refused_with_hint(place.train().args(["--set", "data.unreadable=error"]), &["plain.txt", "UTF-8"]);
    std::fs::write(place.path("pictures/plain.txt"), b"a\0 d\x07og").unwrap();
    let said = text(&run(place.train().args(["--steps", "1"])).stderr);
    assert!(said.contains("plain.txt") && said.contains("2 control characters"), "{said}");
    std::fs::write(place.path("pictures/plain.txt"), "dog ".repeat(1000)).unwrap();
    let said = text(&run(place.train().args(["--steps", "1"])).stderr);
    assert!(said.contains("plain.png") && said.contains("tokens"), "{said}");
    std::fs::write(place.path("pictures/plain.txt"), vec![b'x'; 10 << 20]).unwrap();
    refused(place.train().args(["--set", "data.unreadable=error"]), &["plain.txt"]);
}

#[test]
fn bases_that_are_none() {
    let place = Place::new();
    let with_base = |base: &str, words: &[&str]| {
        refused_with_hint(place.train().args(["--base", base]), words);
        refused_with_hint(place.generate("out.png").args(["--base", base]), words);
    };
    with_base("nowhere", &["nowhere"]);
    with_base("./no/where", &["./no/where"]);
    with_base("somebody/nothing", &["somebody/nothing"]);
    with_base("pictures", &["pictures"]);
    with_base("pictures/plain.png", &["plain.png"]);
    std::fs::write(place.path("empty.safetensors"), "").unwrap();
    with_base("empty.safetensors", &["empty.safetensors"]);
    let adapter = fixture("lora/kohya.safetensors").display().to_string();
    with_base(&adapter, &["kohya.safetensors"]);
    assert!(!place.path("runs").exists() && !place.path("out.png").exists());
}

#[test]
fn bases_that_lack_something() {
    type Damage = fn(&Path);
    let cases: &[(&str, Damage, &[&str])] = &[
        ("no unet", |base| std::fs::remove_dir_all(base.join("unet")).unwrap(), &["unet/config.json"]),
        (
            "no vae weights",
            |base| std::fs::remove_file(base.join("vae/diffusion_pytorch_model.safetensors")).unwrap(),
            &["vae", "diffusion_pytorch_model.safetensors"],
        ),
        ("no tokenizer", |base| std::fs::remove_dir_all(base.join("tokenizer")).unwrap(), &["tokenizer"]),
        (
            "a tensor too few",
            |base| {
                let file = base.join("unet/diffusion_pytorch_model.safetensors");
                rewrite(&file, &file, |name, tensor| (name != "conv_in.weight").then_some(tensor));
            },
            &["conv_in.weight"],
        ),
        (
            "a tensor of another shape",
            |base| {
                let file = base.join("text_encoder/model.safetensors");
                rewrite(&file, &file, |name, tensor| {
                    let cut = name.ends_with("final_layer_norm.weight");
                    Some(if cut { Tensor::from_slice(&[1f32; 3], &[3]).unwrap() } else { tensor })
                });
            },
            &["final_layer_norm.weight", "[3]"],
        ),
        (
            "half a file",
            |base| {
                let file = base.join("vae/diffusion_pytorch_model.safetensors");
                let bytes = std::fs::read(&file).unwrap();
                std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
            },
            &["vae", "diffusion_pytorch_model.safetensors"],
        ),
        (
            "no JSON",
            |base| std::fs::write(base.join("unet/config.json"), "{").unwrap(),
            &["unet", "config.json"],
        ),
        ("a list", |base| std::fs::write(base.join("vae/config.json"), "[]").unwrap(), &["vae"]),
        (
            "no schedule",
            |base| {
                std::fs::write(base.join("scheduler/scheduler_config.json"), "{\"_class_name\":\"Magic\"}")
                    .unwrap()
            },
            &["Magic"],
        ),
    ];
    for (what, damage, words) in cases {
        let place = Place::new();
        let base = base(&place);
        damage(&place.path("base"));
        let before = place.files();
        let said = refused(place.generate("out.png").args(["--base", &base]), words);
        assert!(!said.is_empty(), "{what}");
        assert_eq!(place.files(), before, "{what}");
    }
}

#[test]
fn bases_with_absurd_numbers() {
    for (part, key, value) in [
        ("unet", "block_out_channels", "[1099511627776, 1099511627776]"),
        ("unet", "block_out_channels", "[]"),
        ("unet", "attention_head_dim", "0"),
        ("unet", "attention_head_dim", "-8"),
        ("unet", "norm_num_groups", "7"),
        ("unet", "layers_per_block", "1000000000"),
        ("unet", "in_channels", "1048576"),
        ("unet", "cross_attention_dim", "1e300"),
        ("vae", "block_out_channels", "[1048576, 1048576]"),
        ("vae", "latent_channels", "0"),
        ("vae", "scaling_factor", "\"big\""),
        ("text_encoder", "num_hidden_layers", "1000000000000"),
        ("text_encoder", "num_attention_heads", "0"),
        ("text_encoder", "hidden_act", "\"magic\""),
        ("text_encoder", "vocab_size", "1048576"),
        ("scheduler", "num_train_timesteps", "1000000000000"),
        ("scheduler", "beta_end", "-3.0"),
    ] {
        let place = Place::new();
        let base = base(&place);
        let file = if part == "scheduler" { "scheduler_config.json" } else { "config.json" };
        let path = place.path("base").join(part).join(file);
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = place.train();
        command.args(["--base", &base]);
        #[cfg(unix)]
        let mut command = common::limited("-v 4000000", &command);
        let said = refused(&mut command, &[]);
        let part = part.replace('_', " ");
        assert!(
            said.contains(key) || said.contains(&part) || said.contains(&part.replace(' ', "_")),
            "{key}: {said}"
        );
        assert!(!place.path("runs").exists(), "{key}");
    }
}

/// A base with a NaN in it paints nothing rather than something black.
#[test]
fn bases_that_are_not_finite() {
    let weights = "diffusion_pytorch_model.safetensors";
    for (file, tensor, training) in [
        (format!("unet/{weights}"), "conv_out.bias", &["step 1", "the pictures of the step"][..]),
        ("text_encoder/model.safetensors".to_owned(), "text_model.final_layer_norm.bias", &["step 1"]),
        (format!("vae/{weights}"), "encoder.conv_out.bias", &["VAE", "pictures/"]),
        (format!("vae/{weights}"), "decoder.conv_out.bias", &[]),
    ] {
        let place = Place::new();
        let base = base(&place);
        let file = place.path("base").join(file);
        rewrite(&file, &file, |name, values| {
            Some(if name == tensor { one_value(&values, f32::NAN) } else { values })
        });
        if !tensor.starts_with("encoder.") {
            refused_with_hint(place.generate("out.png").args(["--base", &base]), &["NaN"]);
            assert!(!place.path("out.png").exists(), "{tensor}");
        }
        // The decoder has no part in training.
        if !training.is_empty() {
            refused_with_hint(place.train().args(["--base", &base]), training);
            assert!(!place.path("runs/lora/lora.safetensors").exists(), "{tensor}");
        }
    }
}

/// Every picture of the fixtures in one folder: the sound ones are used, the others named.
#[test]
fn a_folder_of_everything() {
    let place = Place::with(&[]);
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("images/expected.json")).unwrap()).unwrap();
    let images = fixture("images").display().to_string();
    let output = run(place.train().args(["--images", &images, "--dry-run", "--json"]));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let skipped = told["plan"]["data"]["skipped"].as_array().unwrap();
    let skipped: Vec<&str> = skipped.iter().map(|skipped| skipped["file"].as_str().unwrap()).collect();
    let mut sound = 0;
    for (name, picture) in expected["files"].as_object().unwrap() {
        let expect = picture["expect"].as_str().unwrap();
        sound += u64::from(!skipped.contains(&name.as_str()));
        match expect {
            "ok" => assert!(!skipped.contains(&name.as_str()) || name == "one_pixel.png", "{name}"),
            "error" => assert!(skipped.contains(&name.as_str()), "{name}"),
            _ => {}
        }
    }
    assert_eq!(told["plan"]["data"]["pictures"].as_u64(), Some(sound));
    assert!(sound >= 30);
    for name in skipped {
        assert!(text(&output.stderr).contains(name), "{name} is left out silently");
    }
}

#[test]
fn adapters_that_do_not_fit() {
    let place = Place::new();
    let mut command = place.train();
    run(command.arg("--base").arg(fixture("tiny-sd2")).args(["--name", "two"]));
    let adapter = "runs/two/two.safetensors";
    refused_with_hint(
        place.generate("out.png").args(["--adapter", adapter]),
        &["two.safetensors", "do not fit"],
    );
    // Even at strength 0, and folded.
    let none = format!("{adapter}:0");
    refused_with_hint(place.generate("out.png").args(["--adapter", &none, "--fold"]), &["two.safetensors"]);
    let output = run(place.generate("part.png").args(["--adapter", adapter, "--allow-partial"]));
    assert!(text(&output.stderr).contains("warning:"));

    run(&mut place.train());
    let good = place.path("runs/lora/lora.safetensors");
    let damaged = place.path("damaged.safetensors");
    let with = |words: &[&str], change: &dyn Fn(&str, Tensor) -> Option<Tensor>| {
        rewrite(&good, &damaged, change);
        refused(place.generate("out.png").args(["--adapter", "damaged.safetensors"]), words);
    };
    let first = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k";
    for value in [f32::NAN, f32::INFINITY] {
        with(&["damaged.safetensors"], &|name, tensor| {
            Some(if name == format!("{first}.lora_up.weight") { one_value(&tensor, value) } else { tensor })
        });
    }
    with(&["damaged.safetensors", "alpha"], &|name, tensor| {
        Some(if name == format!("{first}.alpha") { one_value(&tensor, f32::NAN) } else { tensor })
    });
    with(&["attn1_to_k"], &|name, tensor| (name != format!("{first}.lora_up.weight")).then_some(tensor));
    assert!(!place.path("out.png").exists());
}

#[test]
fn every_hostile_file_is_refused_as_adapter_and_as_base() {
    let place = Place::new();
    let mut refusals = 0;
    for entry in std::fs::read_dir(fixture("hostile")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let file = path.display().to_string();
        for (option, used) in [("--adapter", "as an adapter"), ("--base", "as a base")] {
            let mut command = place.generate("out.png");
            command.args([option, &file]);
            #[cfg(unix)]
            let mut command = common::limited("-v 3000000", &command);
            let said = refused(&mut command, &[name]);
            assert!(said.len() < 2000, "{name} {used}: {} characters of message", said.len());
            refusals += 1;
        }
    }
    assert!(refusals >= 80, "only {refusals}");
    assert!(place.files().iter().all(|file| file.starts_with("pictures/")), "{:?}", place.files());
}

#[test]
fn settings_that_can_not_work() {
    let place = Place::new();
    for (args, words) in [
        (["--rank", "1000"], ["rank 1000", "32"]),
        (["--size", "63"], ["63", "64"]),
        (["--size", "0"], ["0", "8"]),
        (["--rank", "0"], ["lora.unet.rank", "1"]),
        (["--steps", "0"], ["train.steps", "1"]),
        (["--lr", "nan"], ["train.lr", "NaN"]),
        (["--lr", "1e9"], ["train.lr", "0.0001"]),
        (["--set", "lora.unet.alpha=-1"], ["lora.unet.alpha", "-1"]),
        (["--batch", "0"], ["train.batch", "1"]),
        (["--name", "../up"], ["save.name", "../up"]),
        (["--schedule", "sometimes"], ["sometimes", "cosine"]),
        (["--template", "style"], ["data.template", "--trigger"]),
        (["--class-images", "dogs"], ["data.class_folder", "--class-prompt"]),
        (["--set", "lora.include=[\"no_such_layer\"]"], ["no_such_layer", "pattern"]),
        (["--set", "lora.exclude=[\"unet\"]"], ["exclude", ""]),
        (["--set", "validate.steps=0"], ["validate.steps", "1"]),
    ] {
        refused(place.train().args(args), &words);
        assert!(!place.path("runs").exists(), "{args:?}");
    }
    let single = fixture("single_file/tiny-sd1-single.safetensors").display().to_string();
    refused(place.train().args(["--base", &single, "--set", "base.config=nowhere"]), &["nowhere"]);
    // Far more than this machine's memory.
    #[cfg(target_os = "linux")]
    refused_with_hint(place.train().args(["--batch", "100000000"]), &["GiB"]);
}

/// The run ends by itself when its numbers do, names step and pictures, and the last checkpoint is sound.
#[test]
fn a_learning_rate_that_breaks_everything() {
    let place = Place::new();
    let mut command = place.train();
    command.args(["--lr", "1000", "--steps", "50", "--save-every", "1", "--set", "train.max_grad_norm=0"]);
    let said = refused(&mut command, &["step", "lower the learning rate"]);
    assert!(said.contains("plain.png") || said.contains("baseline420.jpg"), "{said}");
    let files = place.files();
    let checkpoints: Vec<_> = files.iter().filter(|file| file.contains("checkpoints/")).collect();
    assert!(!checkpoints.is_empty());
    for file in checkpoints {
        let all = tensors(&place.path(file));
        assert!(all.values().flatten().all(|value| value.is_finite()), "{file}");
    }
    assert!(!place.path("runs/lora/lora.safetensors").exists());
}

#[test]
fn folders_that_can_not_be_written() {
    let place = Place::new();
    std::fs::write(place.path("file"), "in the way").unwrap();
    refused_with_hint(place.train().args(["--out", "file"]), &["`file`"]);
    refused_with_hint(place.train().args(["--out", "file/runs"]), &["`file/runs`"]);
    refused(&mut place.generate("file/out.png"), &["`file`"]);
    std::fs::create_dir(place.path("folder.png")).unwrap();
    run(&mut place.generate("folder.png"));
    assert!(place.path("folder.png/scumble.png").is_file());
    assert_eq!(place.bytes("file"), b"in the way");
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full() {
    let place = Place::new();
    // Room for the settings and the metrics, not for a checkpoint.
    let blocks = 100;
    let mut limited = common::limited(&format!("-f {blocks}"), &place.train());
    refused(&mut limited, &["step-00000000.safetensors"]);
    assert!(!place.files().iter().any(|file| file.ends_with(".part") || file.ends_with(".safetensors")));
    // A picture that does not fit leaves none.
    let mut limited = common::limited("-f 1", place.generate("out.png").args(["--size", "128"]));
    refused(&mut limited, &["out.png"]);
    assert!(!place.files().iter().any(|file| file.contains("out.png")));
    // With the first checkpoints there, a full disk loses nothing of them.
    run(place.train().args(["--out", "whole", "--steps", "6"]));
    run(place.train().args(["--out", "more", "--steps", "6", "--save-every", "2"]));
    std::fs::remove_file(place.path("more/lora/checkpoints/step-00000006.safetensors")).unwrap();
    std::fs::remove_file(place.path("more/lora/lora.safetensors")).unwrap();
    let before = place.bytes("more/lora/checkpoints/step-00000004.safetensors");
    let mut resume = place.scumble();
    resume.args(["train", "--resume", "more/lora"]);
    refused(&mut common::limited(&format!("-f {blocks}"), &resume), &[".safetensors"]);
    assert!(place.bytes("more/lora/checkpoints/step-00000004.safetensors") == before);
    run(&mut resume);
    assert!(place.bytes("more/lora/lora.safetensors") == place.bytes("whole/lora/lora.safetensors"));
}
