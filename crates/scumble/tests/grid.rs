//! `scumble grid`: every cell is the picture that `generate` paints, sheets and animations are deterministic, and grids that
//! can't be are refused before anything is loaded.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::process::Command;

use common::{Place, fail, fixture, run, text};
use scumble_model::files::{SafetensorsFile, TensorSource as _, write_safetensors};
use scumble_train::picture::{Infotext, Picture, png};

fn grid(place: &Place, args: &[&str]) -> Command {
    let mut command = place.scumble();
    command.arg("grid").arg("--base").arg(fixture("tiny-sd1"));
    command.args(["--size", "64", "--steps", "2"]).args(args);
    command
}

fn with_adapters() -> Place {
    let place = Place::with(&[]);
    std::fs::create_dir_all(place.path("loras")).unwrap();
    for name in ["dog", "cat"] {
        let to = place.path(&format!("loras/{name}.safetensors"));
        std::fs::copy(fixture("lora/kohya.safetensors"), to).unwrap();
    }
    place
}

#[test]
fn every_cell_is_the_picture_that_generate_paints() {
    let place = with_adapters();
    let axes = ["--x", "adapter=none,loras/*.safetensors", "--y", "strength=0,1", "--z", "seed=3,4"];
    let args =
        [&["--prompt", "a red dog", "--pictures", "cells", "--out", "g.png"], axes.as_slice()].concat();
    let output = run(&mut grid(&place, &args));
    let stdout = text(&output.stdout);
    assert_eq!(stdout.lines().take(2).collect::<Vec<_>>(), ["g-000.png", "g-001.png"]);
    assert_eq!(stdout.lines().count(), 2 + 12);
    let cell = |index: usize| place.picture(&format!("cells/cell-{index:03}.png"));
    let generated = |name: &str, args: &[&str]| {
        run(place.generate(name).args(args));
        place.picture(name)
    };
    let plain = generated("plain.png", &["--seed", "3"]);
    // No adapter, whatever the strength; and any adapter at strength 0.
    for index in [0, 1, 2, 3] {
        assert!(cell(index) == plain, "{index}");
    }
    let worn = generated("worn.png", &["--seed", "3", "--adapter", "loras/cat.safetensors"]);
    assert!(worn != plain && cell(4) == worn && cell(5) == worn);
    assert!(cell(10) == generated("four.png", &["--seed", "4", "--adapter", "loras/cat.safetensors"]));
    // A cell tells how it is painted again.
    run(place.generate("again.png").args(["--from", "cells/cell-004.png"]));
    assert!(place.picture("again.png") == worn);

    // The same grid from its own text has the same bytes.
    let bytes = place.bytes("g-000.png");
    let mut again = place.scumble();
    again.args(["grid", "--from", "g-000.png", "--out", "again.png", "--base"]).arg(fixture("tiny-sd1"));
    again.args(["--x", "adapter=none,loras/*.safetensors", "--y", "strength=0,1", "--z", "seed=3,4"]);
    run(&mut again);
    assert!(place.bytes("again-000.png") == bytes && place.bytes("again-001.png") != bytes);
    let texts = png::read_texts(&place.path("g-000.png")).unwrap();
    let info = Infotext::parse(&texts["parameters"]);
    assert_eq!((info.get("Script"), info.get("Y Values")), (Some("X/Y/Z plot"), Some("0,1")));
    assert_eq!((info.get("Z Type"), info.get("X Type")), (Some("Seed"), Some("Adapter")));
}

#[test]
fn a_grid_is_painted_again_from_itself() {
    let place = with_adapters();
    let args = ["--prompt", "a red dog", "--adapter", "loras/dog.safetensors", "--x", "strength=0..2:3"];
    let output = run(&mut grid(&place, &[&args[..], &["--out", "g.png", "--json"]].concat()));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["columns"], &value["files"][0]), (&3.into(), &"g.png".into()));
    let again = |out: &str, more: &[&str]| {
        let mut command = place.scumble();
        command.args(["grid", "--from", "g.png", "--out", out, "--base"]).arg(fixture("tiny-sd1")).args(more);
        run(&mut command);
        place.bytes(out)
    };
    let first = place.bytes("g.png");
    assert!(again("same.png", &[]) == first);
    assert!(again("seed.png", &["--seed", "1"]) != first);
    assert!(again("other.png", &["--x", "strength=0,2"]) != first);
    let mut generate = place.generate("one.png");
    let error = fail(generate.args(["--from", "g.png"]), 1);
    assert!(error.contains("scumble grid --from"), "{error}");
}

#[test]
fn the_last_axis_of_an_animation_runs_over_time() {
    let place = with_adapters();
    let sweep = |out: &str, more: &[&str]| {
        let args = ["--prompt", "a red dog", "--adapter", "loras/dog.safetensors", "--out", out];
        run(&mut grid(&place, &[&args[..], more].concat()));
        place.bytes(out)
    };
    let frames = |bytes: &[u8]| {
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(bytes).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            frames.push((frame.width, frame.height, frame.delay, frame.buffer.to_vec()));
        }
        frames
    };
    let one = sweep("a.gif", &["--x", "strength=0..1:4"]);
    assert!(sweep("b.gif", &["--x", "strength=0..1:4"]) == one);
    let shown = frames(&one);
    assert_eq!(shown.iter().map(|frame| frame.2).collect::<Vec<_>>(), [25, 25, 25, 100]);
    assert!(shown.windows(2).all(|pair| pair[0].3 != pair[1].3));
    assert!(text(&one).contains("a red dog"), "the parameters are inside");
    let two = sweep("c.gif", &["--x", "seed=1,2", "--y", "strength=0.25,1,10", "--frame-ms", "40"]);
    let shown = frames(&two);
    assert_eq!(shown.iter().map(|frame| frame.2).collect::<Vec<_>>(), [4, 4, 16]);
    assert!(shown[0].0 > 2 * 192);
}

/// What is typed beside the axes acts in each cell as it does in `generate`.
#[test]
fn what_is_typed_beside_the_axes_holds_for_every_cell() {
    let place = with_adapters();
    let rgb = (0..64 * 64).flat_map(|i| [(i % 64 * 4) as u8, (i / 64 * 4) as u8, 90]).collect();
    png::write(&place.path("start.png"), &Picture::from_rgb(64, 64, rgb).unwrap(), &[]).unwrap();
    let mask = (0..64 * 64).flat_map(|i| [if i % 64 < 32 { 0 } else { 255 }; 3]).collect();
    png::write(&place.path("mask.png"), &Picture::from_rgb(64, 64, mask).unwrap(), &[]).unwrap();
    let generated = |name: &str, args: &[&str]| {
        run(place.generate(name).args(["--seed", "3"]).args(args));
        place.picture(name)
    };
    let one_cell = |name: &str, args: &[&str]| {
        let mut command = grid(&place, &["--prompt", "a red dog", "--x", "seed=3"]);
        command.args(["--pictures", name, "--out", &format!("{name}.png")]).args(args);
        command
    };
    let mut seen = vec![generated("plain.png", &[])];
    for (name, args) in [
        ("negative", &["--negative", "a blue cat"][..]),
        ("precision", &["--precision", "bf16"]),
        ("named", &["--adapter-dir", "loras", "--prompt", "a red dog <lora:dog:0.9>"]),
        ("begun", &["--init-image", "start.png"]),
        ("forgotten", &["--init-image", "start.png", "--strength", "1"]),
        ("masked", &["--init-image", "start.png", "--mask", "mask.png"]),
        ("inverted", &["--init-image", "start.png", "--mask", "mask.png", "--mask-invert"]),
        ("blurred", &["--init-image", "start.png", "--mask", "mask.png", "--mask-blur", "6"]),
        ("kept", &["--init-image", "start.png", "--mask", "mask.png", "--keep-unmasked"]),
        ("larger", &["--hires", "2"]),
        ("repainted", &["--hires", "2", "--hires-strength", "1"]),
        ("longer", &["--hires", "2", "--hires-steps", "4"]),
        ("latent", &["--hires", "2", "--hires-upscaler", "latent"]),
        ("larger-begun", &["--hires", "2", "--init-image", "start.png"]),
        ("wide", &["--init-image", "start.png", "--size", "96x64"]),
        ("still", &["--sampler", "ddim"]),
        ("stirred", &["--sampler", "ddim", "--eta", "1"]),
        ("skipping", &["--clip-skip", "1"]),
        ("blocks", &["--adapter", "loras/dog.safetensors", "--block-strength", "mid=0,attn2=3"]),
        ("fading", &["--adapter", "loras/dog.safetensors", "--strength-schedule", "linear:1:0"]),
        ("beyond", &["--adapter", "loras/dog.safetensors", "--adapter-guidance", "3"]),
    ] {
        run(&mut one_cell(name, args));
        let cell = place.picture(&format!("{name}/cell-000.png"));
        assert!(cell == generated(&format!("{name}-alone.png"), args), "{name} is not as in generate");
        assert!(!seen.contains(&cell), "{name} does not matter");
        seen.push(cell);
    }
    // An adapter that fits but for one module.
    let kohya = SafetensorsFile::open(&fixture("lora/kohya.safetensors")).unwrap();
    let mut tensors: Vec<_> =
        kohya.names().into_iter().map(|name| (name.clone(), kohya.read(&name).unwrap())).collect();
    for (name, tensor) in tensors.clone() {
        if name.contains("layers_0_self_attn_k_proj") {
            tensors.push((name.replace("layers_0", "layers_77"), tensor));
        }
    }
    write_safetensors(&place.path("odd.safetensors"), &tensors, kohya.metadata()).unwrap();
    let odd = ["--adapter", "odd.safetensors"];
    let said = fail(&mut one_cell("odd", &odd), 1);
    assert!(said.contains("odd.safetensors") && said.contains("layers_77"), "{said}");
    let output = run(one_cell("part", &odd).arg("--allow-partial"));
    assert!(text(&output.stderr).contains("warning:"), "{}", text(&output.stderr));
    let whole = generated("whole.png", &["--adapter", "loras/dog.safetensors"]);
    assert!(place.picture("part/cell-000.png") == whole && !seen.contains(&whole));
    // Sheet and cells are replaced only with a word for it.
    let sheet = place.bytes("negative.png");
    std::fs::write(place.path("negative.png"), "x").unwrap();
    let negative = ["--negative", "a blue cat"];
    assert!(fail(&mut one_cell("negative", &negative), 1).contains("--force"));
    assert_eq!(place.bytes("negative.png"), b"x");
    run(one_cell("negative", &negative).arg("--force"));
    assert!(place.bytes("negative.png") == sheet);
}

#[test]
fn options_without_an_effect_are_refused() {
    let place = with_adapters();
    let refused = |args: &[&str], words: &[&str]| {
        let error = fail(&mut grid(&place, &[&["--prompt", "x"], args].concat()), 2);
        assert!(
            words.iter().all(|word| error.contains(word)) && error.contains("hint:"),
            "{args:?}: {error}"
        );
        assert!(!error.contains("loading") && !place.path("grid.png").exists(), "{error}");
    };
    // The grid's own --prompt and --steps are typed already.
    for (axis, option) in [
        ("prompt=a|b", &["--prompt"][..]),
        ("steps=1,2", &["--steps"]),
        ("negative=a|b", &["--negative", "c"]),
        ("seed=1,2", &["--seed", "3"]),
        ("guidance=2,3", &["--guidance", "4"]),
        ("sampler=ddim,euler", &["--sampler", "lms"]),
        ("clip-skip=0,1", &["--clip-skip", "1"]),
        ("adapter-guidance=1,2", &["--adapter-guidance", "2"]),
        ("init-strength=0.5,1", &["--strength", "0.7"]),
    ] {
        let typed = if option.len() > 1 { option } else { &[] };
        let setting = format!("axis `{}`", axis.split('=').next().unwrap());
        let more =
            ["--x", axis, "--adapter", "loras/dog.safetensors", "--init-image", "loras/dog.safetensors"];
        refused(&[&more, typed].concat(), &[option[0], &setting]);
    }
    refused(&["--x", "seed=1,2", "--frame-ms", "100"], &["--frame-ms", ".gif"]);
    // A strength that is written down, and an axis that replaces it.
    for (axis, adapter) in [
        ("strength=0,1", "loras/dog.safetensors:0.7"),
        ("unet-strength=0,1", "loras/dog.safetensors:0.7:1"),
        ("text-strength=0,1", "loras/dog.safetensors:0.7"),
    ] {
        let name = format!("axis `{}`", axis.split('=').next().unwrap());
        refused(&["--x", axis, "--adapter", adapter], &[adapter, &name]);
    }
    let of_axis = ["--x", "adapter=none,loras/dog.safetensors:0.7", "--y", "strength=0,1"];
    refused(&of_axis, &["loras/dog.safetensors:0.7", "axis `strength`"]);
    for option in [&["--fold"][..], &["--allow-partial"], &["--adapter-guidance", "2"]] {
        refused(&[&["--x", "seed=1,2"], option].concat(), &[option[0], "--adapter"]);
    }
    refused(&["--x", "adapter-guidance=1,2"], &["axis `adapter-guidance`", "--adapter"]);
    refused(&["--x", "guidance=0,1", "--negative", "c"], &["--negative", "--guidance"]);
    refused(&["--x", "negative=c|d", "--guidance", "1"], &["axis `negative`", "--guidance"]);
    // One cell that listens is enough, and the axes of a picture count as typed ones do.
    run(&mut grid(&place, &["--prompt", "x", "--x", "guidance=1,4", "--negative", "c", "--out", "g.png"]));
    let mut again = place.scumble();
    again.args(["grid", "--from", "g.png", "--guidance", "2", "--base"]).arg(fixture("tiny-sd1"));
    let said = fail(&mut again, 2);
    assert!(said.contains("--guidance has no effect") && said.contains("--x"), "{said}");
}

#[test]
fn grids_that_cannot_be_are_refused() {
    let place = with_adapters();
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let error = fail(&mut grid(&place, args), code);
        assert!(words.iter().all(|word| error.contains(word)), "{args:?}: {error}");
        assert!(!error.contains("loading"), "{error}");
    };
    let prompt = ["--prompt", "x"];
    let with = |args: &[&'static str]| [&prompt[..], args].concat();
    refused(&["--x", "seed=1,2"], 2, &["nothing to paint"]);
    refused(&prompt, 2, &["--x"]);
    refused(&with(&["--x", "seed="]), 2, &["no values", "hint"]);
    refused(&with(&["--x", "colour=red"]), 2, &["no setting `colour`", "guidance"]);
    refused(&with(&["--x", "seed=1..1000", "--y", "steps=1..1000"]), 2, &["1000 x 1000", "1000"]);
    refused(&with(&["--x", "seed=1", "--y", "seed=2"]), 2, &["two axes"]);
    refused(&with(&["--x", "strength=0,1"]), 2, &["no --adapter", "add --adapter"]);
    refused(&with(&["--x", "adapter=nowhere*.pt"]), 1, &["nowhere*.pt"]);
    refused(&with(&["--x", "adapter=loras/none.pt"]), 1, &["none.pt"]);
    refused(&with(&["--x", "seed=1..20", "--y", "guidance=2,3", "--out", "a.gif"]), 2, &["16 x 16", "last"]);
    refused(&with(&["--x", "seed=1,2", "--out", "a.jpg"]), 1, &[".png"]);
    refused(&with(&["--x", "adapter=loras/dog.safetensors,none", "--fold"]), 2, &["--fold"]);
    refused(&with(&["--y", "seed=1"]), 2, &["--x"]);
    refused(&with(&["--x", "guidance=-1"]), 2, &["guidance"]);
    std::fs::write(place.path("taken.png"), "x").unwrap();
    refused(&with(&["--x", "seed=1,2", "--out", "taken.png"]), 1, &["taken.png", "--force"]);
    let error = fail(&mut grid(&place, &with(&["--x", "sampler=euler,eulr"])), 1);
    assert!(error.contains("eulr"), "{error}");
    assert!(!place.path("grid.png").exists() && place.bytes("taken.png") == b"x");
    std::fs::create_dir(place.path("cells")).unwrap();
    std::fs::write(place.path("cells/cell-001.png"), "x").unwrap();
    refused(&with(&["--x", "seed=1,2", "--pictures", "cells"]), 1, &["cell-001.png"]);
}
