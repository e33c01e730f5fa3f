//! `scumble inspect` and `scumble diff` as a user meets them.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::collections::BTreeMap;

use common::{Place, fail, fixture, run, scumble, text};
use scumble_model::files::write_safetensors;
use scumble_tensor::Tensor;
use serde_json::Value;

fn raw(arguments: &[&str], files: &[&str]) -> String {
    let mut command = scumble();
    command.arg("inspect").args(arguments).args(files.iter().map(|file| fixture(file)));
    text(&run(&mut command).stdout)
}

/// The page without its line breaks.
fn inspect(arguments: &[&str], files: &[&str]) -> String {
    flat(&raw(arguments, files))
}

fn flat(page: &str) -> String {
    page.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn json(arguments: &[&str], file: &str) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&raw(&arguments, &[file])).unwrap()
}

/// The one fixture adapter, in every dialect, without its base: the same modules, ranks and norms.
#[test]
fn every_dialect_of_one_adapter_is_described_alike() {
    let golden = json(&[], "lora/cloneofsimo.safetensors");
    let norm = golden["norm"].as_f64().unwrap();
    assert!(norm > 0.0);
    for (file, dialect, unet, text_modules, tolerance) in [
        ("lora/cloneofsimo.safetensors", "original", 144, 12, 1e-9),
        ("lora/cloneofsimo_ge015.safetensors", "original", 144, 12, 1e-6),
        ("lora/cloneofsimo_f16.safetensors", "original", 144, 12, 1e-3),
        ("lora/cloneofsimo.pt", "original", 144, 12, 1e-6),
        ("lora/kohya.safetensors", "kohya", 144, 12, 1e-5),
        ("lora/peft.safetensors", "peft", 144, 12, 1e-6),
    ] {
        let found = json(&[], file);
        assert_eq!((&found["kind"], &found["dialect"]), (&"adapter".into(), &dialect.into()), "{file}");
        assert_eq!(found["family"], Value::Null, "{file} is for no published base");
        assert_eq!(found["complete"], true, "{file}: {}", found["misfits"]);
        let towers = found["towers"].as_array().unwrap();
        assert_eq!(
            (&towers[0]["modules"], &towers[1]["modules"]),
            (&unet.into(), &text_modules.into()),
            "{file}"
        );
        assert_eq!(towers[0]["ranks"], serde_json::json!({"4": unet}), "{file}");
        let off = (found["norm"].as_f64().unwrap() / norm - 1.0).abs();
        assert!(off < tolerance, "{file}: {off:e}");
        let modules = found["modules"].as_array().unwrap();
        let golden = golden["modules"].as_array().unwrap();
        for (module, golden) in modules.iter().zip(golden) {
            assert_eq!(module["path"], golden["path"], "{file}");
        }
    }
    let attention = json(&[], "lora/diffusers_old.safetensors");
    assert_eq!(
        (&attention["dialect"], attention["modules"].as_array().unwrap().len()),
        (&"old-diffusers".into(), 140)
    );
    let legacy = json(&[], "lora/cloneofsimo_noff_legacy.pt");
    assert_eq!(legacy["towers"][0]["modules"], 128);
    let extended = json(&[], "lora/cloneofsimo_extended.safetensors");
    assert_eq!(extended["towers"][0]["targets"]["resnets"], 80);
    let tokens = json(&[], "lora/cloneofsimo.ti.pt");
    assert_eq!((&tokens["kind"], tokens["tokens"].as_array().unwrap().len()), (&"embedding".into(), 2));
}

#[test]
fn a_page_says_what_people_ask() {
    let page = inspect(&[], &["lora/kohya.safetensors"]);
    for words in [
        "adapter in the kohya dialect",
        "another size",
        "144 modules (64 cross-attention, 16 feed-forward, 64 self-attention); LoRA; rank 4; alpha 2; scale 0.5",
        "unet.down_blocks.0",
        "█",
        "all numbers are finite",
        "sha256",
        "AutoV3",
    ] {
        assert!(page.contains(words), "no `{words}` in\n{page}");
    }
    let page = inspect(&["--modules", "--tensors", "--metadata"], &["lora/cloneofsimo.safetensors"]);
    for words in ["unet.mid_block.attentions.0", "unet:12:up", "unet:0:rank = 4", "<s1>: 1 vector, 48 wide"] {
        assert!(page.contains(words), "no `{words}` in\n{page}");
    }
}

#[test]
fn a_base_says_what_will_happen() {
    let base = fixture("tiny-sd1").display().to_string();
    let found = json(&["--base", &base], "lora/cloneofsimo.safetensors");
    let on_base = &found["on_base"];
    assert_eq!(on_base["fits_whole"], true, "{on_base}");
    assert_eq!(on_base["towers"]["text_encoder"][0], 12);
    assert_eq!(on_base["new_tokens"], serde_json::json!(["<s1>", "<s2>"]));
    let page = inspect(&["--base", &base], &["lora/kohya.safetensors"]);
    assert!(page.contains("it fits, every tensor has its place"), "{page}");
    let other = fixture("tiny-sd2").display().to_string();
    let page = inspect(&["--base", &other], &["lora/kohya.safetensors"]);
    assert!(page.contains("it fits in part") && page.contains("do not fit"), "{page}");
    let page = inspect(&["--base", "sd1"], &["lora/kohya.safetensors"]);
    assert!(page.contains("nothing of it fits"), "{page}");
}

#[test]
fn models_are_described_in_every_layout() {
    for (file, layout, parts) in [
        ("tiny-sd1", "folder", ["unet", "text_encoder", "vae"]),
        ("single_file/tiny-sd1.ckpt", "torch", ["unet", "text_encoder", "vae"]),
        ("single_file/tiny-sd1-single.safetensors", "safetensors", ["unet", "text_encoder", "vae"]),
    ] {
        let found = json(&[], file);
        assert_eq!((&found["kind"], &found["layout"]), (&"model".into(), &layout.into()), "{file}");
        assert_eq!(found["family"], "Stable Diffusion 1.x", "{file}");
        let names: Vec<&str> =
            found["parts"].as_array().unwrap().iter().map(|part| part["part"].as_str().unwrap()).collect();
        assert_eq!(names, parts, "{file}");
        assert_eq!(found["parts"][0]["findings"], serde_json::json!([0, 0]), "{file}");
        assert_eq!(found["prediction"], "epsilon", "{file}");
    }
    let page = inspect(&["--quick"], &["tiny-sd2"]);
    assert!(page.contains("Stable Diffusion 2.x, text to image") && page.contains("v_prediction"), "{page}");
    let page = inspect(&[], &["tiny-sd1/unet/diffusion_pytorch_model.safetensors"]);
    assert!(page.contains("one component of a model, by its names a unet"), "{page}");
}

/// Numbers that are not finite, modules without effect, tensors without a place: told, not refused.
#[test]
fn broken_files_are_described() {
    let place = Place::with(&[]);
    let key = |part: &str| format!("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.{part}");
    let other =
        |part: &str| format!("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k.{part}");
    let filled =
        |value: f32, dims: &[usize]| Tensor::from_slice(&vec![value; dims.iter().product()], dims).unwrap();
    let tensors = vec![
        (key("lora_down.weight"), filled(f32::NAN, &[1, 1280])),
        (key("lora_up.weight"), filled(1.0, &[1280, 1])),
        (other("lora_down.weight"), filled(1.0, &[1, 1280])),
        (other("lora_up.weight"), filled(0.0, &[1280, 1])),
        ("lora_unet_nonsense.lora_up.weight".to_owned(), filled(1.0, &[4, 1])),
    ];
    let metadata = BTreeMap::from([
        ("ss_output_name".to_owned(), "cat\u{1b}[31m".to_owned()),
        ("modelspec.trigger_phrase".to_owned(), "sks cat".to_owned()),
        ("sshs_model_hash".to_owned(), "0".repeat(64)),
    ]);
    write_safetensors(&place.path("broken.safetensors"), &tensors, &metadata).unwrap();
    let page = text(&run(place.scumble().args(["inspect", "broken.safetensors"])).stdout);
    assert!(!page.contains('\x1b'), "{page:?}");
    let page = flat(&page);
    for words in [
        "Stable Diffusion 1.x",
        "with NaN or infinity",
        "attn1.to_q, down: 1280",
        "1 module of 2 change nothing",
        "lora_unet_nonsense.lora_up.weight",
        "trigger sks cat",
        "title cat [31m",
        "is not that of its tensors",
        "not finite",
    ] {
        assert!(page.contains(words), "no `{words}` in\n{page}");
    }
    // An adapter file with a truth that contradicts itself is still listed.
    std::fs::write(place.path("half.safetensors"), &place.bytes("broken.safetensors")[..900]).unwrap();
    fail(place.scumble().args(["inspect", "half.safetensors"]), 1);
}

#[test]
fn several_files_are_described_and_the_bad_ones_named() {
    let place = Place::with(&[]);
    std::fs::write(place.path("rubbish.pt"), b"rubbish").unwrap();
    let mut command = place.scumble();
    command
        .args(["inspect", "--json", "rubbish.pt", "nothing.safetensors"])
        .arg(fixture("lora/peft.safetensors"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("rubbish.pt") && errors.contains("nothing.safetensors"), "{errors}");
    assert!(errors.contains("2 of 3 files"), "{errors}");
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["dialect"]), (1, &"peft".into()));
    fail(place.scumble().arg("inspect"), 2);
    fail(place.scumble().args(["inspect", "x", "--base", "nowhere"]), 1);
}

#[test]
fn adapters_are_compared() {
    let diff = |a: &str, b: &str, more: &[&str]| {
        let mut command = scumble();
        command.arg("diff").arg(fixture(a)).arg(fixture(b)).args(more);
        flat(&text(&run(&mut command).stdout))
    };
    let json = |a: &str, b: &str| -> Value { serde_json::from_str(&diff(a, b, &["--json"])).unwrap() };
    let page = diff("lora/cloneofsimo.safetensors", "lora/cloneofsimo_ge015.safetensors", &[]);
    assert!(page.contains("the same: every module, alpha, token and number"), "{page}");
    let found = json("lora/kohya.safetensors", "lora/peft.safetensors");
    assert_eq!(found["same"], false);
    assert!(found["distance"].as_f64().unwrap() < 1e-6 && found["cosine"].as_f64().unwrap() > 0.999_999);
    assert_eq!(found["modules"][0]["unlike"][0], "alpha 1 and 4");
    let found = json("lora/cloneofsimo.safetensors", "lora/cloneofsimo_f16.safetensors");
    let distance = found["distance"].as_f64().unwrap();
    assert!(distance > 1e-6 && distance < 1e-3, "{distance}");
    let page = diff("lora/peft.safetensors", "lora/diffusers_old.safetensors", &["--modules"]);
    assert!(
        page.contains("only in A") && page.contains("ff.net.0.proj") && page.contains("and 8 more"),
        "{page}"
    );
    let page = diff("lora/cloneofsimo.safetensors", "lora/kohya.safetensors", &[]);
    assert!(page.contains("<s1>: only in A"), "{page}");
    let message =
        fail(scumble().arg("diff").arg(fixture("tiny-sd1")).arg(fixture("lora/kohya.safetensors")), 1);
    assert!(message.contains("scumble extract"), "{message}");
    let model = fixture("single_file/tiny-sd1.ckpt");
    let message = fail(scumble().arg("diff").arg(fixture("lora/kohya.safetensors")).arg(model), 1);
    assert!(message.contains("is a model"), "{message}");
}

/// A kind that is not read is named, with what goes with it and alone.
#[test]
fn an_adapter_of_an_unknown_kind_is_named() {
    let place = Place::with(&[]);
    let page = |keys: &[(&str, &[usize])]| {
        let zeros = |dims: &[usize]| Tensor::zeros(scumble_tensor::DType::F32, dims).unwrap();
        let tensors: Vec<_> = keys.iter().map(|(key, dims)| ((*key).to_owned(), zeros(dims))).collect();
        write_safetensors(&place.path("a.safetensors"), &tensors, &BTreeMap::new()).unwrap();
        let page = text(&run(place.scumble().args(["inspect", "a.safetensors"])).stdout);
        page.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let oft = ("lora_unet_mid_block_attentions_0_proj_in.oft_blocks", &[4, 320, 320][..]);
    let alone = page(&[oft]);
    assert!(alone.contains("XL: OFT is not supported"), "{alone}");
    let down = ("lora_unet_mid_block_attentions_0_proj_out.lora_down.weight", &[2, 1280, 1, 1][..]);
    let up = ("lora_unet_mid_block_attentions_0_proj_out.lora_up.weight", &[1280, 2, 1, 1][..]);
    let mixed = page(&[oft, down, up]);
    assert!(mixed.contains("adapter in the kohya dialect") && mixed.contains("OFT is not"), "{mixed}");
}
