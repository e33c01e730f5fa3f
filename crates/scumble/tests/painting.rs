//! `scumble generate` beyond text to picture: every option changes the picture it should, and contradictions are refused.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use common::{Place, difference, fail, fixture, run, text};
use scumble_model::files::{open_any, write_safetensors};
use scumble_train::picture::{Infotext, Picture, png};

fn paint(place: &Place, name: &str, args: &[&str]) -> Picture {
    run(place.generate(name).args(args));
    place.picture(name)
}

/// A picture and a mask of its right half.
fn with_start() -> Place {
    let place = Place::with(&[]);
    let pixels = |value: &dyn Fn(usize, usize) -> [u8; 3]| {
        let rgb = (0..64 * 64).flat_map(|i| value(i % 64, i / 64)).collect();
        Picture::from_rgb(64, 64, rgb).unwrap()
    };
    let picture = pixels(&|x, y| [(x * 4) as u8, (y * 4) as u8, (x + y) as u8]);
    png::write(&place.path("start.png"), &picture, &[]).unwrap();
    png::write(&place.path("mask.png"), &pixels(&|x, _| [if x >= 32 { 255 } else { 0 }; 3]), &[]).unwrap();
    png::write(&place.path("small.png"), &Picture::filled(32, 32, [255; 3]), &[]).unwrap();
    place
}

#[test]
fn each_painting_option_counts() {
    let place = Place::with(&[]);
    let base = paint(&place, "base.png", &[]);
    let ddim = paint(&place, "ddim.png", &["--sampler", "ddim"]);
    assert!(paint(&place, "eta.png", &["--sampler", "ddim", "--eta", "1"]) != ddim);
    assert!(paint(&place, "skip.png", &["--clip-skip", "1"]) != base);
    assert!(paint(&place, "weight.png", &["--prompt", "a (red:1.5) dog"]) != base);
    assert!(paint(&place, "one.png", &["--prompt", "a (red:1) dog"]) == base);
    assert!(paint(&place, "break.png", &["--prompt", "a red BREAK dog"]) != base);
    let long = "dog ".repeat(90);
    assert!(
        paint(&place, "long.png", &["--prompt", &long])
            != paint(&place, "75.png", &["--prompt", &long[..300]])
    );
    for upscaler in ["image", "latent"] {
        let hires = |name: &str, more: &[&str]| {
            let args = [&["--hires", "1.5", "--hires-upscaler", upscaler], more].concat();
            paint(&place, &format!("{upscaler}-{name}.png"), &args)
        };
        let plain = hires("plain", &[]);
        assert_eq!((plain.width, plain.height), (96, 96));
        assert!(hires("strong", &["--hires-strength", "1"]) != plain);
        assert!(hires("steps", &["--hires-steps", "4"]) != plain);
    }
    assert!(place.picture("image-plain.png") != place.picture("latent-plain.png"));
    let sized = |name: &str, tiling: &str| paint(&place, name, &["--size", "576x64", "--vae-tiling", tiling]);
    let whole = sized("off.png", "off");
    assert!(sized("auto.png", "auto") == whole && sized("on.png", "on") != whole);
}

#[test]
fn pictures_and_masks_to_begin_with() {
    let place = with_start();
    let start = place.picture("start.png");
    let from = |name: &str, more: &[&str]| {
        paint(
            &place,
            name,
            &[&["--sampler", "ddim", "--steps", "5", "--init-image", "start.png"], more].concat(),
        )
    };
    let plain = from("plain.png", &[]);
    assert!(from("default.png", &["--strength", "0.75"]) == plain);
    assert!(from("weak.png", &["--strength", "0.3"]) != plain);
    assert!(from("none.png", &["--strength", "0"]) == from("none2.png", &["--strength", "0", "--seed", "0"]));
    let masked = from("masked.png", &["--mask", "mask.png"]);
    assert!(masked != plain);
    let inverted = from("inverted.png", &["--mask", "mask.png", "--mask-invert"]);
    assert!(inverted != masked);
    assert!(from("blurred.png", &["--mask", "mask.png", "--mask-blur", "6"]) != masked);
    let kept = from("kept.png", &["--mask", "mask.png", "--keep-unmasked"]);
    for y in 0..64 {
        for x in 0..64 {
            let expected = if x < 32 { start.pixel(x, y) } else { masked.pixel(x, y) };
            assert_eq!(kept.pixel(x, y), expected);
        }
    }
    let texts = png::read_texts(&place.path("kept.png")).unwrap();
    assert_eq!(Infotext::parse(&texts["parameters"]).get("Denoising strength"), Some("0.75"));
}

#[test]
fn adapters_by_block_by_step_and_by_name() {
    let place = Place::with(&[]);
    std::fs::create_dir_all(place.path("loras/deep")).unwrap();
    std::fs::copy(fixture("lora/kohya.safetensors"), place.path("loras/deep/dog.safetensors")).unwrap();
    let base = paint(&place, "base.png", &[]);
    let file = "loras/deep/dog.safetensors";
    let with = |name: &str, more: &[&str]| {
        paint(&place, &format!("{name}.png"), &[&["--steps", "4", "--adapter", file], more].concat())
    };
    let four = paint(&place, "four.png", &["--steps", "4"]);
    let full = with("full", &[]);
    assert!(full != four && base != four);
    let in_prompt = |name: &str, tag: &str| {
        let prompt = format!("a red dog{tag}");
        paint(&place, name, &["--steps", "4", "--adapter-dir", "loras", "--prompt", &prompt])
    };
    assert!(in_prompt("tag.png", " <lora:dog:1>") == full);
    let half = format!("{file}:0.5:0");
    let half = paint(&place, "half.png", &["--steps", "4", "--adapter", &half]);
    assert!(in_prompt("half2.png", " <lora:dog:0.5:0>") == half && half != full);
    assert!(in_prompt("zero.png", "<lora:dog:0>") == four);
    // Blocks: all off is off, one off is between.
    assert!(with("off", &["--block-strength", "unet=0,text=0"]) == four);
    let no_mid = with("mid", &["--block-strength", "mid=0"]);
    assert!(no_mid != full && no_mid != four);
    assert!(with("named", &["--block-strength", "dog:mid=0"]) == no_mid);
    // Schedules.
    assert!(with("constant", &["--strength-schedule", "constant"]) == full);
    assert!(with("linear1", &["--strength-schedule", "linear:1:1"]) == full);
    let falling = with("falling", &["--strength-schedule", "linear:1:0"]);
    assert!(falling != full && with("rising", &["--strength-schedule", "dog:cosine:0:1"]) != falling);
    assert!(with("window", &["--strength-schedule", "window:0:0.5"]) != full);
    assert!(with("all", &["--strength-schedule", "timesteps:0:1000"]) == full);
    let early = with("early", &["--strength-schedule", "dog:timesteps:500:1000"]);
    assert!(early != full && early != four);
    assert!(early != with("late", &["--strength-schedule", "timesteps:0:500"]));
    // Guidance by the difference: 1 is ordinary, 0 is without.
    assert!(with("one", &["--adapter-guidance", "1"]) == full);
    assert!(difference(&with("without", &["--adapter-guidance", "0"]), &four) <= 1);
    assert!(with("beyond", &["--adapter-guidance", "2"]) != full);
    let refused = |args: &[&str], words: &[&str]| {
        let said = fail(place.generate("out.png").args(args), 2);
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
        assert!(!place.path("out.png").exists());
    };
    refused(&["--block-strength", "mid=0"], &["--adapter"]);
    refused(&["--adapter", file, "--block-strength", "cat:mid=0"], &["`cat`"]);
    refused(&["--adapter", file, "--block-strength", "middle=0"], &["`middle`", "down.0"]);
    refused(&["--adapter", file, "--strength-schedule", "sine:0:1"], &["sine", "linear"]);
    refused(&["--adapter", file, "--fold", "--strength-schedule", "linear:1:0"], &["--fold", "schedules"]);
    refused(&["--adapter", file, "--fold", "--adapter-guidance", "2"], &["--adapter-guidance"]);
    refused(&["--prompt", "x <lora:dog:zwei>"], &["<lora:dog:zwei>"]);
    let said = fail(place.generate("out.png").args(["--adapter-dir", "loras", "--prompt", "<lora:dgo>"]), 1);
    assert!(said.contains("`dgo`"), "{said}");
}

#[test]
fn learned_words_act_where_they_stand() {
    let place = Place::with(&[]);
    let adapter = fixture("lora/cloneofsimo.safetensors").display().to_string();
    let adapter = format!("{adapter}:0");
    let words = |name: &str, prompt: &str, more: &[&str]| {
        paint(&place, name, &[&["--prompt", prompt], more].concat())
    };
    let without = words("a.png", "a <s1> dog", &[]);
    let with = words("b.png", "a <s1> dog", &["--adapter", &adapter]);
    assert!(with != without, "learned words of an adapter are not used");
    assert!(words("c.png", "a red dog", &["--adapter", &adapter]) == words("d.png", "a red dog", &[]));
    // The same rows from a file of their own.
    let rows = fixture("lora/cloneofsimo.ti.pt").display().to_string();
    let from_file = words("e.png", "a <s1> dog", &["--embedding", &rows]);
    assert!(from_file == with);
    let said = fail(place.generate("x.png").args(["--embedding", "none.pt"]), 1);
    assert!(said.contains("none.pt"), "{said}");
    // The same file found by its name, in the prompt or in the negative one.
    std::fs::create_dir_all(place.path("words/deep")).unwrap();
    let both = open_any(std::path::Path::new(&rows)).unwrap();
    let first = both.read("<s1>").unwrap();
    let first = first.reshape(&[1, first.shape().last()]).unwrap();
    let tensors = [("emb_params".to_owned(), first)];
    write_safetensors(&place.path("words/deep/moody.safetensors"), &tensors, &Default::default()).unwrap();
    // Under another word than its file's name.
    let renamed = ["--embedding", "words/deep/moody.safetensors:<zed>"];
    assert!(words("l.png", "a <zed> dog", &renamed) == with);
    assert!(words("m.png", "a moody dog", &renamed) != with && words("n.png", "a <zed> dog", &[]) != with);
    let by_name = words("f.png", "a Moody dog", &["--embedding-dir", "words"]);
    assert!(by_name == with && by_name != words("g.png", "a Moody dog", &[]));
    let plain = words("h.png", "a red dog", &["--embedding-dir", "words", "--negative", "moody"]);
    assert!(plain != words("i.png", "a red dog", &["--negative", "moody"]));
    let again = |name: &str, more: &[&str]| {
        let mut command = place.scumble();
        command
            .arg("generate")
            .arg("--base")
            .arg(fixture("tiny-sd1"))
            .args(["--from", "f.png", "--out", name]);
        command.args(more);
        command
    };
    run(&mut again("j.png", &[]));
    assert!(place.picture("j.png") == with);
    std::fs::rename(place.path("words/deep/moody.safetensors"), place.path("words/moody.safetensors"))
        .unwrap();
    assert!(fail(&mut again("k.png", &[]), 1).contains("moody.safetensors"));
    run(&mut again("k.png", &["--embedding-dir", "words"]));
    assert!(place.picture("k.png") == with);
    let said = fail(place.generate("x.png").args(["--embedding-dir", "nowhere"]), 1);
    assert!(said.contains("nowhere"), "{said}");
}

#[test]
fn prompts_of_a_file() {
    let place = Place::with(&[]);
    let lines = "# pictures\na red dog\n\na blue cat --seed 5 --steps 3\n";
    std::fs::write(place.path("prompts.txt"), lines).unwrap();
    let mut command = place.scumble();
    command.arg("generate").arg("--base").arg(fixture("tiny-sd1"));
    command.args(["--size", "64", "--steps", "2", "--prompts", "prompts.txt", "--out", "many.png"]);
    assert_eq!(text(&run(&mut command).stdout), "many-000.png\nmany-001.png\n");
    assert!(place.picture("many-000.png") == paint(&place, "dog.png", &[]));
    let cat = paint(&place, "cat.png", &["--prompt", "a blue cat", "--seed", "5", "--steps", "3"]);
    assert!(place.picture("many-001.png") == cat);
    std::fs::write(place.path("prompts.txt"), "a dog --sed 3").unwrap();
    let said = fail(command.args(["--out", "other.png"]), 2);
    assert!(said.contains("line 1") && said.contains("--sed"), "{said}");
    std::fs::write(place.path("prompts.txt"), "# nothing").unwrap();
    assert!(fail(&mut command, 1).contains("no prompts"));
}

#[test]
fn a_picture_is_painted_again_from_what_it_says() {
    let place = with_start();
    std::fs::copy(fixture("lora/kohya.safetensors"), place.path("dog.safetensors")).unwrap();
    let first = paint(
        &place,
        "first.png",
        &[
            "--prompt",
            "a (red:1.2) dog",
            "--negative",
            "blurred",
            "--seed",
            "9",
            "--adapter",
            "dog.safetensors:0.7",
            "--block-strength",
            "mid=0.5",
            "--strength-schedule",
            "linear:1:0.5",
            "--sampler",
            "euler_karras",
            "--clip-skip",
            "1",
            "--init-image",
            "start.png",
            "--mask",
            "mask.png",
            "--mask-invert",
            "--strength",
            "0.5",
            "--steps",
            "4",
        ],
    );
    let again = |name: &str, more: &[&str]| {
        let mut command = place.scumble();
        command.arg("generate").arg("--base").arg(fixture("tiny-sd1"));
        command.args(["--from", "first.png", "--out", name]).args(more);
        command
    };
    run(&mut again("again.png", &[]));
    assert!(place.picture("again.png") == first);
    assert_eq!(place.bytes("again.png"), place.bytes("first.png"));
    run(&mut again("seed.png", &["--seed", "10"]));
    assert!(place.picture("seed.png") != first);
    // Whoever says where its files are now changes nothing else.
    for file in ["start.png", "mask.png"] {
        std::fs::copy(place.path(file), place.path(&format!("moved-{file}"))).unwrap();
    }
    let [image, mask] = [["--init-image", "moved-start.png"], ["--mask", "moved-mask.png"]];
    for (name, moved) in [("a.png", &image[..]), ("b.png", &mask), ("c.png", &[image, mask].concat())] {
        run(&mut again(name, moved));
        assert!(place.picture(name) == first, "{moved:?}");
    }
    // Another program's text, without our own.
    let plain =
        "a red dog\nSteps: 2, Sampler: PLMS, CFG scale: 7.5, Seed: 0, Size: 64x64, RNG: CPU, Strange: yes";
    png::write(&place.path("other.png"), &Picture::filled(8, 8, [0; 3]), &[(png::PARAMETERS, plain)])
        .unwrap();
    let mut command = place.scumble();
    command.arg("generate").arg("--base").arg(fixture("tiny-sd1")).args([
        "--from",
        "other.png",
        "--out",
        "o.png",
    ]);
    let output = run(&mut command);
    assert!(text(&output.stderr).contains("Strange"), "{}", text(&output.stderr));
    assert!(place.picture("o.png") == paint(&place, "same.png", &[]));
    // Its two plain numbers are the other way round.
    let tagged = plain.replace("a red dog", "a red dog<lora:dog:0:0.5>");
    png::write(&place.path("other.png"), &Picture::filled(8, 8, [0; 3]), &[(png::PARAMETERS, &tagged)])
        .unwrap();
    run(command.args(["--force", "--adapter-dir", "."]));
    assert!(place.picture("o.png") == paint(&place, "half.png", &["--adapter", "dog.safetensors:0.5:0"]));
    // What the picture was made of must be the same.
    std::fs::copy(fixture("lora/peft.safetensors"), place.path("dog.safetensors")).unwrap();
    assert!(fail(&mut again("x.png", &[]), 1).contains("hash"));
    std::fs::remove_file(place.path("dog.safetensors")).unwrap();
    assert!(fail(&mut again("x.png", &[]), 1).contains("`dog`"));
    let mut silent = place.scumble();
    silent.args(["generate", "--from", "start.png", "--out", "x.png"]);
    assert!(fail(&mut silent, 1).contains("no text"));
}

#[test]
fn contradictions_are_refused() {
    let place = with_start();
    let before = place.files();
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let said = fail(place.generate("out.png").args(args), code);
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
        assert_eq!(place.files(), before, "{args:?}");
    };
    refused(&["--mask", "mask.png"], 2, &["--mask", "--init-image"]);
    refused(&["--strength", "0.5"], 2, &["--strength", "--init-image"]);
    refused(&["--init-image", "start.png", "--mask-blur", "2"], 2, &["--mask-blur", "--mask"]);
    refused(&["--init-image", "start.png", "--keep-unmasked"], 2, &["--keep-unmasked"]);
    refused(&["--init-image", "start.png", "--mask-invert"], 2, &["--mask-invert"]);
    refused(&["--init-image", "start.png", "--strength", "1.5"], 2, &["--strength", "1.5"]);
    refused(&["--init-image", "start.png", "--strength", "nan"], 2, &["--strength"]);
    refused(&["--init-image", "none.png"], 1, &["none.png"]);
    refused(&["--init-image", "start.png", "--mask", "small.png"], 1, &["32 x 32", "64 x 64"]);
    let hires = ["--init-image", "start.png", "--mask", "mask.png", "--hires", "2"];
    refused(&hires, 2, &["--hires", "--mask"]);
    refused(&["--hires-steps", "3"], 2, &["--hires-steps", "--hires"]);
    refused(&["--hires", "0.5"], 2, &["0.5"]);
    refused(&["--eta", "0.5", "--sampler", "euler"], 2, &["--eta", "ddim"]);
    refused(&["--clip-skip", "50"], 2, &["--clip-skip"]);
    refused(&["--sampler", "lcm", "--steps", "60"], 1, &["60", "50"]);
    refused(&["--prompts", "x.txt"], 2, &["--prompt"]);
    // What could have no effect.
    refused(&["--fold"], 2, &["--fold", "hint: add --adapter"]);
    refused(&["--allow-partial"], 2, &["--allow-partial", "hint: add --adapter"]);
    refused(&["--adapter-guidance", "2"], 2, &["--adapter-guidance", "hint: add --adapter"]);
    refused(&["--negative", "dark", "--guidance", "1"], 2, &["--negative", "hint: give a larger --guidance"]);
    // What says no more than is so anyway.
    run(place.generate("out.png").args(["--adapter-guidance", "1", "--negative", "", "--guidance", "1"]));
}
