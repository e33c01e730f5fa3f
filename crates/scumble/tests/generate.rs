//! `scumble generate` as a user meets it: pictures, the text inside them, adapters of every spelling.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Place, difference, fail, fixture, run, text};
use scumble_model::files::{SafetensorsFile, TensorSource as _, write_safetensors};
use scumble_tensor::Tensor;
use scumble_train::picture::{Picture, infotext::Infotext, png};

/// Paints with further arguments; the picture.
fn paint(place: &Place, name: &str, args: &[&str]) -> Picture {
    run(place.generate(name).args(args));
    place.picture(name)
}

/// A trained adapter in three spellings, strong enough to be seen.
fn trained(place: &Place) -> [String; 3] {
    let mut command = place.train();
    command.args(["--steps", "6", "--lr", "0.05", "--text-encoder", "--lr-text-encoder", "0.05"]);
    let output = run(command.args(["--format", "kohya", "--format", "peft", "--format", "original"]));
    let files: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    files.try_into().unwrap()
}

/// The same noise in another precision: another picture, but not another one to look at.
#[test]
fn bf16_paints_nearly_the_same() {
    let place = Place::new();
    for precision in ["f32", "bf16"] {
        run(place.generate(&format!("{precision}.png")).args(["--precision", precision]));
    }
    let (exact, fast) = (place.picture("f32.png"), place.picture("bf16.png"));
    let apart: u64 = exact.rgb.iter().zip(&fast.rgb).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = apart as f64 / exact.rgb.len() as f64;
    assert!((0.01..12.0).contains(&mean), "on average {mean} levels apart");
}

#[test]
fn a_picture_of_the_size_asked_for_tells_how_it_was_made() {
    let place = Place::with(&[]);
    let prompt = "a (red:1.2) dog, \"quoted\"\nsecond line";
    let mut command = place.generate("out.png");
    command.args([
        "--prompt",
        prompt,
        "--negative",
        "blurry, ünscharf",
        "--size",
        "72x48",
        "--seed",
        "18446744073709551615",
    ]);
    command.args(["--sampler", "dpmpp_2m_karras", "--guidance", "4.5", "--steps", "3"]);
    let output = run(&mut command);
    assert_eq!(text(&output.stdout), "out.png\n");
    assert!(!text(&output.stderr).contains(['\r', '\x1b']));
    let picture = place.picture("out.png");
    assert_eq!((picture.width, picture.height), (72, 48));

    let texts = png::read_texts(&place.path("out.png")).unwrap();
    let info = Infotext::parse(&texts["parameters"]);
    assert_eq!((info.prompt.as_str(), info.negative.as_str()), (prompt, "blurry, ünscharf"));
    for (key, value) in [
        ("Steps", "3"),
        ("Sampler", "DPM++ 2M"),
        ("Schedule type", "Karras"),
        ("CFG scale", "4.5"),
        ("Seed", "18446744073709551615"),
        ("Model", "tiny-sd1"),
        ("RNG", "CPU"),
    ] {
        assert_eq!(info.get(key), Some(value), "{key}: {}", texts["parameters"]);
    }
    assert_eq!(info.size("Size"), Some((72, 48)));
    let request: serde_json::Value = serde_json::from_str(&texts["scumble"]).unwrap();
    assert_eq!(request["prompt"].as_str(), Some(prompt));
    assert_eq!(request["seed"].as_u64(), Some(u64::MAX));
    assert_eq!(request["sampler"].as_str(), Some("dpmpp_2m_karras"));
}

#[test]
fn the_same_request_gives_the_same_file_and_each_part_of_it_counts() {
    let place = Place::with(&[]);
    let first = paint(&place, "a.png", &[]);
    run(&mut place.generate("b.png"));
    assert!(place.bytes("a.png") == place.bytes("b.png"));
    assert!(paint(&place, "threads.png", &["--threads", "1"]) == first);
    for (name, args) in [
        ("seed", ["--seed", "1"]),
        ("prompt", ["--prompt", "a blue cat"]),
        ("negative", ["--negative", "a dog"]),
        ("steps", ["--steps", "3"]),
        ("guidance", ["--guidance", "1"]),
        ("sampler", ["--sampler", "euler_a"]),
        ("prediction", ["--prediction", "v_prediction"]),
    ] {
        assert!(paint(&place, &format!("{name}.png"), &args) != first, "{name} does not matter");
    }
}

#[test]
fn every_sampler_paints_by_each_of_its_names() {
    let place = Place::with(&[]);
    let mut pictures = Vec::new();
    for kind in scumble_model::sampler::SAMPLERS {
        let picture = paint(&place, &format!("{}.png", kind.name), &["--sampler", kind.name, "--steps", "4"]);
        assert!(!pictures.contains(&picture), "{} paints as another does", kind.name);
        let label = [kind.label, kind.schedule_label.unwrap_or("")].join(" ");
        let by_label = paint(&place, "label.png", &["--sampler", label.trim(), "--steps", "4", "--force"]);
        assert!(by_label == picture, "{label}");
        pictures.push(picture);
    }
    assert!(pictures.len() >= 7);
    let said = fail(place.generate("x.png").args(["--sampler", "eular"]), 1);
    assert!(
        said.contains("`eular`") && said.contains("did you mean `euler") && said.contains("ddim"),
        "{said}"
    );
    assert!(!place.path("x.png").exists());
}

#[test]
fn several_pictures_are_those_of_the_following_seeds() {
    let place = Place::with(&[]);
    let output = run(place.generate("many.png").args(["--count", "3", "--seed", "5"]));
    let files = ["many-000.png", "many-001.png", "many-002.png"];
    assert_eq!(text(&output.stdout), files.map(|file| format!("{file}\n")).concat());
    for (seed, file) in [("5", files[0]), ("6", files[1]), ("7", files[2])] {
        let alone = paint(&place, &format!("{seed}.png"), &["--seed", seed]);
        assert!(alone == place.picture(file), "seed {seed}");
        let texts = png::read_texts(&place.path(file)).unwrap();
        assert_eq!(Infotext::parse(&texts["parameters"]).get("Seed"), Some(seed));
    }
    let output = run(place.generate("folder").args(["--count", "2", "--json"]));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["pictures"].as_array().unwrap().len(), 2);
    assert_eq!(told["pictures"][1]["seed"].as_u64(), Some(1));
    assert!(place.path(told["pictures"][1]["file"].as_str().unwrap()).is_file());
    run(&mut place.generate("folder"));
    assert!(place.path("folder/scumble.png").is_file());
}

#[test]
fn an_adapter_counts_as_much_as_asked() {
    let place = Place::new();
    let files = trained(&place);
    let base = paint(&place, "base.png", &[]);
    let at = |name: &str, adapters: &[String], more: &[&str]| {
        let mut args: Vec<&str> =
            adapters.iter().flat_map(|adapter| ["--adapter", adapter.as_str()]).collect();
        args.extend(more);
        paint(&place, &format!("{name}.png"), &args)
    };
    let with = |strength: &str| [format!("{}{strength}", files[0])];
    let full = at("full", &with(""), &[]);
    assert!(difference(&full, &base) > 8, "the adapter is hardly seen");
    assert!(at("one", &with(":1"), &[]) == full);
    assert!(at("zero", &with(":0"), &[]) == base, "strength 0 is the base");
    assert!(at("zero-folded", &with(":0"), &["--fold"]) == base, "strength 0, folded");
    assert!(at("zero-zero", &with(":0:0"), &[]) == base);
    let [half, unet, words] = [(":0.5"), (":1:0"), (":0:1")]
        .map(|strength| at(&format!("at{}", strength.replace(':', "-")), &with(strength), &[]));
    for (name, picture) in [("half", &half), ("unet", &unet), ("text", &words)] {
        assert!(*picture != base && *picture != full, "{name}");
    }
    assert!(unet != words && at("negative", &with(":-1"), &[]) != full);

    // Each spelling holds the same factors.
    for (file, name) in files.iter().zip(["kohya", "peft", "original"]) {
        assert!(at(name, std::slice::from_ref(file), &[]) == full, "{name}");
    }
    let folded = at("folded", &with(""), &["--fold"]);
    assert!(difference(&folded, &full) <= 2, "folded is off by {}", difference(&folded, &full));
    // In bf16 a folded weight is rounded where a live one is not.
    let bf16 = |name: &str, more: &[&str]| at(name, &with(""), &[&["--precision", "bf16"], more].concat());
    assert!(bf16("folded-bf16", &["--fold"]) != bf16("full-bf16", &[]), "--fold does not matter");

    // Two at half strength are one at full strength.
    let halves = [format!("{}:0.5", files[0]), format!("{}:0.5", files[1])];
    assert!(difference(&at("halves", &halves, &[]), &full) <= 2);
    let opposite = [files[0].clone(), format!("{}:-1", files[2])];
    assert!(difference(&at("opposite", &opposite, &[]), &base) <= 2);

    let texts = png::read_texts(&place.path("at-0.5.png")).unwrap();
    let parameters = &texts["parameters"];
    assert!(parameters.contains("<lora:lora:0.5>") && parameters.contains("Lora hashes:"), "{parameters}");
}

/// The same factors of other people's tools, at the strengths that the golden files were made with.
#[test]
fn adapters_of_other_tools_paint_alike() {
    let place = Place::with(&[]);
    let spelled = |name: &str, file: &str| {
        let adapter = format!("{}:0.8", fixture("lora").join(file).display());
        paint(&place, &format!("{name}.png"), &["--adapter", &adapter])
    };
    let base = paint(&place, "base.png", &[]);
    let kohya = spelled("kohya", "kohya.safetensors");
    assert!(kohya != base);
    for file in ["peft.safetensors", "cloneofsimo.safetensors", "cloneofsimo_ge015.safetensors"] {
        let other = spelled(file.split('.').next().unwrap(), file);
        assert!(difference(&other, &kohya) <= 1, "{file}");
    }
}

#[test]
fn one_base_in_every_container_paints_the_same() {
    let place = Place::with(&[]);
    let with_base = |name: &str, base: &str| {
        let base = fixture(base).display().to_string();
        paint(&place, name, &["--base", &base])
    };
    let safetensors = with_base("a.png", "single_file/tiny-sd1-single.safetensors");
    assert!(with_base("b.png", "single_file/tiny-sd1.ckpt") == safetensors);
    // SD2: another text encoder, head count and prediction.
    assert!(with_base("c.png", "tiny-sd2") != safetensors);
}

#[test]
fn the_variant_asked_for_is_painted_with() {
    let place = Place::with(&[]);
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        let (from, to) = (fixture("tiny-sd1").join(part), place.path("base").join(part));
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::copy(fixture("tiny-sd1/model_index.json"), place.path("base/model_index.json")).unwrap();
    // The UNet's variant has its first convolution doubled.
    let unet = SafetensorsFile::open(&place.path("base/unet/diffusion_pytorch_model.safetensors")).unwrap();
    let doubled = |name: String| {
        let tensor = unet.read(&name).unwrap();
        let values = tensor.to_vec::<f32>().unwrap();
        let factor = if name == "conv_in.weight" { 2.0 } else { 1.0 };
        let values: Vec<f32> = values.iter().map(|value| factor * value).collect();
        (name, Tensor::from_slice(&values, tensor.dims()).unwrap())
    };
    let tensors: Vec<_> = unet.names().into_iter().map(doubled).collect();
    let variant = place.path("base/unet/diffusion_pytorch_model.fp16.safetensors");
    write_safetensors(&variant, &tensors, &Default::default()).unwrap();
    let plain = paint(&place, "fixture.png", &[]);
    assert!(paint(&place, "plain.png", &["--base", "base"]) == plain);
    let varied = paint(&place, "variant.png", &["--base", "base", "--variant", "fp16"]);
    assert!(varied != plain, "--variant does not matter");
    let said = fail(place.generate("x.png").args(["--base", "base", "--variant", "nope"]), 1);
    assert!(said.contains("`nope`") && said.contains("fp16") && said.contains("hint:"), "{said}");
    let single = fixture("single_file/tiny-sd1-single.safetensors");
    let mut of_file = place.scumble();
    of_file.args(["generate", "--prompt", "x", "--out", "x.png", "--variant", "fp16", "--base"]).arg(single);
    let said = fail(&mut of_file, 1);
    assert!(said.contains("`variant`") && said.contains("`fp16`") && said.contains("hint:"), "{said}");
}

/// The Hub's place is taken by a server that counts who knocks and hangs up.
#[test]
fn offline_asks_nobody() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let knocks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&knocks);
    std::thread::spawn(move || {
        for caller in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(caller);
        }
    });
    let place = Place::with(&[]);
    let unknown = |more: &[&str]| {
        let mut command = place.generate("x.png");
        command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", &address).env("HF_HOME", place.path("hub"));
        for proxy in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        fail(command.args(["--base", "somebody/nothing"]).args(more), 1)
    };
    let said = unknown(&["--offline"]);
    assert!(said.contains("somebody/nothing") && said.contains("switched off"), "{said}");
    assert_eq!(knocks.load(Ordering::SeqCst), 0, "{said}");
    let said = unknown(&[]);
    assert!(!said.contains("switched off") && knocks.load(Ordering::SeqCst) > 0, "{said}");
}

#[test]
fn a_picture_brings_its_base_along() {
    let place = Place::with(&[]);
    std::fs::copy(fixture("single_file/tiny-sd1-single.safetensors"), place.path("base.safetensors"))
        .unwrap();
    let first = paint(&place, "first.png", &["--base", "base.safetensors"]);
    let again = |name: &str, more: &[&str]| {
        run(place.scumble().args(["generate", "--from", "first.png", "--out", name]).args(more));
        place.picture(name)
    };
    assert!(again("again.png", &[]) == first);
    assert_eq!(place.bytes("again.png"), place.bytes("first.png"));
    // One that is typed counts more; its own sampler needs more steps.
    let other = fixture("tiny-sd2").display().to_string();
    let ddim = again("ddim.png", &["--sampler", "ddim"]);
    assert!(again("other.png", &["--sampler", "ddim", "--base", &other]) != ddim);
}

#[test]
fn nothing_is_replaced_unasked() {
    let place = Place::with(&[]);
    std::fs::write(place.path("out.png"), "precious").unwrap();
    let said = fail(&mut place.generate("out.png"), 1);
    assert!(said.contains("out.png") && said.contains("--force"), "{said}");
    assert_eq!(place.bytes("out.png"), b"precious");
    std::fs::write(place.path("many-001.png"), "precious").unwrap();
    fail(place.generate("many.png").args(["--count", "2"]), 1);
    assert!(!place.path("many-000.png").exists() && place.bytes("many-001.png") == b"precious");
    run(place.generate("out.png").arg("--force"));
    assert_eq!(place.picture("out.png").width, 64);
}

#[test]
fn requests_that_can_not_be_painted() {
    let place = Place::with(&[]);
    let before = place.files();
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let said = fail(place.generate("out.png").args(args), code);
        for word in words {
            assert!(said.contains(word), "{args:?} lacks {word}: {said}");
        }
        assert_eq!(place.files(), before, "{args:?}");
    };
    refused(&["--size", "63"], 2, &["63", "64"]);
    refused(&["--size", "64x100"], 2, &["100", "104"]);
    refused(&["--size", "0"], 2, &["nearest is 8"]);
    refused(&["--size", "99999999999999999999"], 2, &["99999999999999999999"]);
    refused(&["--size", "80000"], 2, &["8192"]);
    refused(&["--guidance", "nan"], 2, &["guidance"]);
    refused(&["--guidance=-1"], 2, &["guidance"]);
    refused(&["--count", "0"], 2, &["count"]);
    refused(&["--steps", "0"], 1, &["steps"]);
    refused(&["--steps", "1001"], 1, &["1001", "1000"]);
    refused(&["--prediction", "noise"], 2, &["v_prediction"]);
    refused(&["--out", "out.jpg"], 1, &["out.jpg", ".png"]);
    let adapter = fixture("lora/kohya.safetensors").display().to_string();
    refused(&["--adapter", &format!("{adapter}:1:1:1")], 2, &["two strengths"]);
    refused(&["--adapter", &format!("{adapter}:nan")], 2, &["kohya.safetensors:nan", "strength"]);
    refused(&["--adapter", &format!("{adapter}:1:inf")], 2, &["inf", "strength"]);
    refused(&["--adapter", "no-such.safetensors:0.5"], 1, &["`no-such.safetensors`"]);
}
