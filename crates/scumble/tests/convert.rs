//! `scumble convert` as a user meets it: checkpoints and adapters there and back, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::collections::BTreeMap;

use common::{Place, fail, fixture, run, tensors, text};
use scumble_model::files::{SafetensorsFile, TensorSource as _, write_safetensors};
use scumble_tensor::{DType, Tensor};

/// A pickled checkpoint becomes a folder and a safetensors file; both hold what the golden file of the same model holds.
#[test]
fn a_checkpoint_keeps_every_tensor_in_every_layout() {
    let place = Place::with(&[]);
    run(place.scumble().arg("convert").arg(fixture("single_file/tiny-sd1.ckpt")).arg("folder"));
    let part = "unet/diffusion_pytorch_model.safetensors";
    let golden = tensors(&fixture("tiny-sd1").join(part));
    assert_eq!(tensors(&place.path("folder").join(part)), golden);
    run(place.scumble().args(["convert", "folder", "single.safetensors"]));
    let single = tensors(&place.path("single.safetensors"));
    assert_eq!(single, tensors(&fixture("single_file/tiny-sd1-single.safetensors")));
    run(place.scumble().args(["convert", "single.safetensors", "again.ckpt"]));
    run(place.scumble().args(["convert", "again.ckpt", "again", "--dtype", "f32"]));
    assert_eq!(tensors(&place.path("again").join(part)), golden);
}

#[test]
fn an_adapter_keeps_its_factors_in_another_dialect() {
    let place = Place::with(&[]);
    let base = fixture("tiny-sd1").display().to_string();
    let convert = |from: &std::path::Path, to: &str, dialect: &str| {
        run(place.scumble().arg("convert").arg(from).args([to, "--to", dialect, "--for", &base]));
    };
    let kohya = fixture("lora/kohya.safetensors");
    convert(&kohya, "peft.safetensors", "peft");
    convert(&place.path("peft.safetensors"), "kohya.safetensors", "kohya");
    assert_eq!(tensors(&place.path("kohya.safetensors")), tensors(&kohya));
}

/// As the programs of 2022 want them: the original's lists with the files that belong to them, and embeddings.
#[test]
fn adapters_become_pickled_files_and_come_back() {
    let place = Place::with(&[]);
    let base = fixture("tiny-sd1").display().to_string();
    let convert = |from: &std::path::Path, to: &str, arguments: &[&str]| {
        let mut command = place.scumble();
        command.arg("convert").arg(from).args([to, "--for", &base]).args(arguments);
        command
    };
    let golden = fixture("lora/cloneofsimo.safetensors");
    run(&mut convert(&golden, "old.pt", &["--to", "original"]));
    assert_eq!(place.files(), ["old.pt", "old.text_encoder.pt", "old.ti.pt"]);
    run(&mut convert(&place.path("old.pt"), "back.safetensors", &["--to", "original"]));
    assert_eq!(tensors(&place.path("back.safetensors")), tensors(&golden));

    let unet_only = ["--to", "original", "--tokens", "omit"];
    std::fs::remove_file(place.path("old.pt")).unwrap();
    let message = fail(&mut convert(&golden, "old.pt", &unet_only), 1);
    assert!(message.contains("old.text_encoder.pt") && message.contains("--force"), "{message}");
    let message =
        fail(&mut convert(&golden, "old.pt", &["--to", "original", "--tokens", "omit", "--force"]), 1);
    assert!(message.contains("old.ti.pt") && message.contains("another adapter"), "{message}");
    run(&mut convert(&golden, "old.pt", &["--to", "original", "--force"]));

    let embedding = ["--to", "a1111-embedding", "--token", "<s1>"];
    run(&mut convert(&golden, "s1.pt", &embedding));
    run(&mut convert(&place.path("s1.pt"), "learned_embeds.bin", &["--to", "diffusers-embedding"]));
    run(&mut convert(&place.path("learned_embeds.bin"), "s1.safetensors", &["--to", "a1111-embedding"]));
    run(&mut convert(&golden, "expected.safetensors", &embedding));
    assert_eq!(tensors(&place.path("s1.safetensors")), tensors(&place.path("expected.safetensors")));

    let kohya = fixture("lora/kohya.safetensors");
    let said = text(&run(&mut convert(&kohya, "plain.pt", &["--to", "original"])).stderr);
    assert!(said.contains("metadata is left out"), "{said}");
    let message = fail(&mut convert(&golden, "kohya.pt", &["--to", "kohya", "--tokens", "omit"]), 2);
    assert!(message.contains("kohya.pt") && message.contains(".safetensors"), "{message}");
    let message = fail(&mut convert(&golden, "s1.bin", &embedding), 2);
    assert!(message.contains("neither in .safetensors nor in .pt"), "{message}");
}

/// An alpha that no factor of its type can take up exactly: the warning says how much is lost.
#[test]
fn rounding_of_alpha_is_said_in_figures() {
    let place = Place::with(&[]);
    let base = fixture("tiny-sd1").display().to_string();
    let kohya = fixture("lora/kohya.safetensors");
    let said = |from: &std::path::Path, to: &str| {
        let mut command = place.scumble();
        command.arg("convert").arg(from).args([to, "--to", "original", "--for", &base]);
        text(&run(&mut command).stderr)
    };
    let exact = said(&kohya, "exact.safetensors");
    assert!(!exact.contains("rounds"), "{exact}");
    let three_quarters = |key: String| {
        let tensor = match key.ends_with(".alpha") {
            true => Tensor::scalar(3.0f32),
            false => SafetensorsFile::open(&kohya).unwrap().read(&key).unwrap().to_dtype(DType::BF16),
        };
        (key, tensor.unwrap())
    };
    let names = SafetensorsFile::open(&kohya).unwrap().names();
    let changed: Vec<_> = names.into_iter().map(three_quarters).collect();
    write_safetensors(&place.path("changed.safetensors"), &changed, &BTreeMap::new()).unwrap();
    let rounded = said(&place.path("changed.safetensors"), "rounded.safetensors");
    // Half a step of a bf16 is 2^-8 = 3.9e-3 of it.
    assert!(rounded.contains("156 modules") && rounded.contains("e-3 of each"), "{rounded}");
}

/// `--force` replaces a model's folder; it must not remove the folder of somebody's pictures.
#[test]
fn a_folder_that_is_no_model_is_never_replaced() {
    let place = Place::with(&[]);
    std::fs::create_dir(place.path("album")).unwrap();
    std::fs::write(place.path("album/dog.txt"), b"mine").unwrap();
    let convert = |to: &str| {
        let mut command = place.scumble();
        command
            .arg("convert")
            .arg(fixture("single_file/tiny-sd1.ckpt"))
            .args([to, "--to", "folder", "--force"]);
        command
    };
    let message = fail(&mut convert("album"), 1);
    assert!(message.contains("no model"), "{message}");
    std::fs::create_dir(place.path("models")).unwrap();
    std::fs::copy(fixture("single_file/tiny-sd1.ckpt"), place.path("models/a.ckpt")).unwrap();
    let message = fail(place.scumble().args(["convert", "models/a.ckpt", "models", "--force"]), 1);
    assert!(message.contains("lies in"), "{message}");
    assert_eq!(place.bytes("album/dog.txt"), b"mine");
    run(&mut convert("model"));
    run(&mut convert("model"));
}

#[test]
fn options_of_the_other_kind_are_refused() {
    let place = Place::with(&[]);
    let model = fixture("single_file/tiny-sd1.ckpt");
    let message = fail(place.scumble().arg("convert").arg(model).args(["out", "--token", "<s1>"]), 2);
    assert!(message.contains("--token"), "{message}");
    let adapter = fixture("lora/kohya.safetensors");
    let to = ["out.safetensors", "--to", "peft", "--ema", "drop"];
    let message = fail(place.scumble().arg("convert").arg(adapter).args(to), 2);
    assert!(message.contains("--ema"), "{message}");
    let folder = fixture("tiny-sd1");
    let message = fail(place.scumble().arg("convert").arg(folder).args(["out.ckpt", "--ema", "use"]), 1);
    assert!(message.contains("averaged"), "{message}");
}

#[test]
fn what_cannot_be_converted_is_said_and_leaves_nothing() {
    let place = Place::with(&[]);
    std::fs::write(place.path("rubbish.ckpt"), b"rubbish").unwrap();
    let message = fail(place.scumble().args(["convert", "rubbish.ckpt", "out"]), 1);
    assert!(message.contains("rubbish.ckpt"), "{message}");
    let mut command = place.scumble();
    command.arg("convert").arg(fixture("single_file/tiny-sd1.ckpt")).arg("out.what");
    let message = command.output().unwrap();
    assert!(!message.status.success());
    std::fs::write(place.path("there.safetensors"), b"mine").unwrap();
    let mut command = place.scumble();
    command.arg("convert").arg(fixture("single_file/tiny-sd1.ckpt")).arg("there.safetensors");
    let message = fail(&mut command, 1);
    assert!(message.contains("--force"), "{message}");
    assert_eq!(place.bytes("there.safetensors"), b"mine");
    assert_eq!(place.files(), ["rubbish.ckpt", "there.safetensors"]);
}

/// What is said to be left out of a folder is not in it: other components go along from folder to folder.
#[test]
fn what_is_left_out_depends_on_the_layout() {
    let place = Place::with(&[]);
    let part = "unet/diffusion_pytorch_model.safetensors";
    run(place.scumble().arg("convert").arg(fixture("single_file/tiny-sd1.ckpt")).arg("folder"));
    let said = |to: &str| {
        let output = run(place.scumble().args(["convert", "folder", to, "--verbose"]));
        text(&output.stderr)
    };
    assert!(!said("whole.safetensors").contains("left out"));
    std::fs::create_dir(place.path("folder/safety_checker")).unwrap();
    for file in ["safety_checker/model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"] {
        std::fs::copy(place.path("folder").join(part), place.path("folder").join(file)).unwrap();
    }
    let single = said("single.safetensors");
    for words in ["says why): 2 tensors", "`safety_checker/model.safetensors`: weights that only a folder"] {
        assert!(single.contains(words), "{single}");
    }
    let folder = said("again");
    assert!(folder.contains("says why): 1 tensors") && folder.contains("fp16"), "{folder}");
    assert!(!folder.contains("safety_checker"), "{folder}");
    assert!(place.path("again/safety_checker/model.safetensors").is_file());
    assert!(!place.path("again/unet/diffusion_pytorch_model.fp16.safetensors").exists());
}

/// Names, order and token decide the keys or their order; what no part uses goes when asked.
#[test]
fn options_decide_how_a_file_is_spelled() {
    let place = Place::with(&[]);
    let base = fixture("tiny-sd1").display().to_string();
    let converted = |from: &std::path::Path, to: &str, arguments: &[&str]| {
        let mut command = place.scumble();
        run(command.arg("convert").arg(from).args([to, "--for", &base]).args(arguments));
        tensors(&place.path(to))
    };
    let kohya = fixture("lora/kohya.safetensors");
    for (names, block) in [("compvis", "lora_unet_input_blocks_"), ("diffusers", "lora_unet_down_blocks_")] {
        let keys = converted(&kohya, &format!("{names}.safetensors"), &["--to", "kohya", "--names", names]);
        assert!(keys.keys().any(|key| key.starts_with(block)), "{names}");
        assert!(keys.keys().all(|key| !key.starts_with("lora_unet_") || key.contains("block")), "{names}");
    }
    let ordered = |order: &str, to: &str| converted(&kohya, to, &["--to", "original", "--order", order]);
    let (old, new) = (ordered("0.14", "old.safetensors"), ordered("0.15", "new.safetensors"));
    let sorted = |file: &BTreeMap<String, Vec<f64>>| {
        let mut values: Vec<String> = file.values().map(|values| format!("{values:?}")).collect();
        values.sort();
        values
    };
    assert!(old != new && sorted(&old) == sorted(&new), "the same factors in another order");

    let golden = fixture("lora/cloneofsimo.safetensors");
    let renamed = ["--to", "diffusers-embedding", "--token", "<s1>", "--rename-token", "<cat>"];
    let embedding = converted(&golden, "cat.safetensors", &renamed);
    assert_eq!(embedding.keys().collect::<Vec<_>>(), ["<cat>"]);
    assert_eq!(embedding["<cat>"], tensors(&golden)["<s1>"]);

    let single = SafetensorsFile::open(&fixture("single_file/tiny-sd1-single.safetensors")).unwrap();
    let mut all: Vec<_> = single.names().into_iter().map(|n| (n.clone(), single.read(&n).unwrap())).collect();
    all.push(("somebody.elses".to_owned(), Tensor::scalar(1.0f32).unwrap()));
    write_safetensors(&place.path("more.safetensors"), &all, &single.metadata().clone()).unwrap();
    for (out, arguments, is_kept) in
        [("kept.safetensors", &[][..], true), ("pruned.safetensors", &["--prune"], false)]
    {
        run(place.scumble().args(["convert", "more.safetensors", out]).args(arguments));
        assert_eq!(tensors(&place.path(out)).contains_key("somebody.elses"), is_kept, "{arguments:?}");
    }
}
