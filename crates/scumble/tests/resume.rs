//! Runs that end early and go on: kills, Ctrl-C, changed settings.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, fail, fixture, run, tensors, text};

/// A run long enough to be disturbed.
fn long(place: &Place) -> Command {
    let mut command = place.train();
    command.args(["--steps", "16", "--save-every", "2", "--flip", "--batch", "2"]);
    command
}

fn quietly(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until `done` holds; false when the process ended before.
fn wait_until(child: &mut Child, done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "nothing happens");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Everything under its final name is whole.
fn all_files_are_whole(place: &Place) {
    for file in place.files().iter().filter(|file| !file.contains("/.")) {
        if file.ends_with(".safetensors") {
            assert!(!tensors(&place.path(file)).is_empty(), "{file}");
        } else if file.ends_with(".png") || file.ends_with(".jpg") {
            place.picture(file);
        } else if file.ends_with(".toml") {
            toml::from_str::<toml::Table>(&text(&place.bytes(file))).unwrap();
        } else if file.ends_with(".jsonl") {
            let content = text(&place.bytes(file));
            for (index, line) in content.lines().enumerate() {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(record["step"].as_u64(), Some(index as u64 + 1));
            }
        } else {
            let known = ["run.lock", "events.out.tfevents.scumble"];
            assert!(known.iter().any(|name| file.ends_with(name)), "what is {file}?");
        }
    }
}

/// Adapter and last checkpoint of two places are equal, and nothing half written is left.
fn same_end(ours: &Place, theirs: &Place) {
    for file in ["runs/lora/lora.safetensors", "runs/lora/checkpoints/step-00000016.safetensors"] {
        assert!(ours.bytes(file) == theirs.bytes(file), "{file}");
    }
    let files = |place: &Place| -> Vec<String> {
        place.files().into_iter().filter(|file| file.starts_with("runs/")).collect()
    };
    assert_eq!(files(ours), files(theirs));
    let records = text(&ours.bytes("runs/lora/metrics.jsonl"));
    let losses = |records: &str| -> Vec<(u64, f64)> {
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        records
            .lines()
            .map(parse)
            .map(|r| (r["step"].as_u64().unwrap(), r["loss"].as_f64().unwrap()))
            .collect()
    };
    assert!(losses(&records) == losses(&text(&theirs.bytes("runs/lora/metrics.jsonl"))));
}

fn undisturbed() -> Place {
    let place = Place::new();
    run(&mut long(&place));
    place
}

#[test]
fn killed_at_any_moment_it_ends_in_the_same_bytes() {
    let undisturbed = undisturbed();
    let place = Place::new();
    let mut child = quietly(&mut long(&place));
    let first = "runs/lora/checkpoints/step-00000000.safetensors";
    assert!(wait_until(&mut child, || place.path(first).exists()));
    child.kill().unwrap();
    child.wait().unwrap();
    let mut kills = 1;
    loop {
        all_files_are_whole(&place);
        let records = || std::fs::read(place.path("runs/lora/metrics.jsonl")).map_or(0, |bytes| bytes.len());
        let before = records();
        let mut child = quietly(place.scumble().args(["train", "--resume", "last"]));
        // Somewhere after it got going: each time a little later after another line of metrics.
        if !wait_until(&mut child, || records() != before) {
            assert!(child.wait().unwrap().success());
            break;
        }
        std::thread::sleep(Duration::from_millis(kills * 37 % 60));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
        assert!(kills < 300, "it never comes to its end");
    }
    assert!(kills >= 3, "only {kills} kills");
    same_end(&place, &undisturbed);
}

/// The first checkpoint is written before the first step, with an optimizer that has seen nothing.
#[test]
fn it_goes_on_from_before_the_first_step() {
    let place = Place::new();
    run(place.train().args(["--set", "save.keep_last=0"]));
    let whole = place.bytes("runs/lora/lora.safetensors");
    let output =
        run(place.scumble().args(["train", "--resume", "runs/lora/checkpoints/step-00000000.safetensors"]));
    assert_eq!(text(&output.stdout), "runs/lora/lora.safetensors\n");
    assert!(place.bytes("runs/lora/lora.safetensors") == whole);
}

/// What a killed process was writing when it ended goes away when the run goes on.
#[test]
fn half_written_files_are_cleared_away() {
    let place = Place::new();
    run(place.train().args(["--validate", "a dog", "--set", "validate.steps=1"]));
    let left = [
        "runs/lora/.lora.safetensors.77-0.part",
        "runs/lora/checkpoints/.step-00000003.safetensors.77-1.part",
        "runs/lora/samples/.step-00000003-0.png.77-2.part",
    ]
    .map(|path| place.path(path));
    for path in &left {
        std::fs::write(path, "half").unwrap();
    }
    // An adapter whose checkpoint went just before the kill goes too; what else lies there is none of ours.
    let orphan = place.path("runs/lora/lora-peft-step000002.safetensors");
    std::fs::write(&orphan, "left").unwrap();
    for name in [".notes", "lora-best.safetensors"] {
        std::fs::write(place.path("runs/lora").join(name), "mine").unwrap();
    }
    run(place.scumble().args(["train", "--resume", "runs/lora"]));
    for path in &left {
        assert!(!path.exists(), "{}", path.display());
    }
    assert!(!orphan.exists());
    for name in [".notes", "lora-best.safetensors"] {
        assert_eq!(place.bytes(&format!("runs/lora/{name}")), b"mine");
    }
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    // SAFETY: sends a signal to a child that was not waited for, so the number still means it.
    let sent = unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    assert_eq!(sent, 0);
}

#[cfg(unix)]
#[test]
fn interrupted_it_saves_and_goes_on_to_the_same_bytes() {
    let undisturbed = undisturbed();
    let place = Place::new();
    let mut child = quietly(&mut long(&place));
    let metrics = place.path("runs/lora/metrics.jsonl");
    assert!(wait_until(&mut child, || std::fs::read(&metrics).is_ok_and(|bytes| bytes.len() > 300)));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    all_files_are_whole(&place);
    // The saved step is the last one that was made, whether or not a save was due.
    let step = text(&place.bytes("runs/lora/metrics.jsonl")).lines().count();
    assert!(step < 16);
    let adapter = format!("runs/lora/lora-step{step:06}.safetensors");
    assert_eq!(text(&output.stdout), format!("{adapter}\n"));
    assert!(place.path(&adapter).is_file());
    let said = text(&run(place.scumble().args(["train", "--resume", "runs/lora"])).stderr);
    assert!(said.contains(&format!("going on after step {step}")), "{said}");
    for file in ["runs/lora/lora.safetensors", "runs/lora/checkpoints/step-00000016.safetensors"] {
        assert!(place.bytes(file) == undisturbed.bytes(file), "{file}");
    }
}

#[cfg(unix)]
#[test]
fn interrupted_before_it_began_it_leaves_nothing() {
    let place = Place::new();
    // Class pictures in a thousand steps each: long enough to be interrupted.
    let mut command = place.train();
    command.args(["--class-prompt", "a dog", "--class-count", "50", "--class-images", "dogs"]);
    let mut child = quietly(command.args(["--set", "data.class_steps=500"]));
    assert!(wait_until(&mut child, || place.path("dogs").exists()));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(130), ""));
    assert!(!place.path("runs").exists());
}

#[test]
fn a_changed_run_is_refused_unless_told() {
    let place = Place::new();
    run(&mut place.train());
    let before = place.bytes("runs/lora/lora.safetensors");
    let resume = |args: &[&str]| {
        let mut command = place.scumble();
        command.args(["train", "--resume", "runs/lora"]).args(args);
        command
    };
    for (args, key, values) in [
        (["--rank", "8"], "`lora.unet.rank`", "was 4, is 8"),
        (["--lr", "0.5"], "`train.lr`", "was 0.01, is 0.5"),
        (["--seed", "5"], "`train.seed`", "was 0, is 5"),
        (["--prompt", "a cat"], "`data.prompt`", "a cat"),
    ] {
        let said = fail(&mut resume(&args), 1);
        assert!(said.contains(key) && said.contains(values) && said.contains("--allow-changes"), "{said}");
    }
    std::fs::copy(fixture("images/gray.jpg"), place.path("pictures/new.jpg")).unwrap();
    let said = fail(&mut resume(&[]), 1);
    assert!(said.contains("pictures"), "{said}");
    std::fs::remove_file(place.path("pictures/new.jpg")).unwrap();
    assert!(place.bytes("runs/lora/lora.safetensors") == before, "a refused run changes nothing");

    let more = ["--lr", "0.02", "--steps", "5", "--allow-changes"];
    let said = text(&run(&mut resume(&more)).stderr);
    assert!(said.contains("warning:") && said.contains("`train.lr` was 0.01, is 0.02"), "{said}");
    assert!(place.bytes("runs/lora/lora.safetensors") != before);
    // The run's file tells what it is now, so going on once more needs no word.
    let config: toml::Table = toml::from_str(&text(&place.bytes("runs/lora/config.toml"))).unwrap();
    assert_eq!(config["train"]["steps"].as_integer(), Some(5));
    run(&mut resume(&[]));
    // What does not decide the result may change at any time.
    run(&mut resume(&[
        "--save-every",
        "1",
        "--threads",
        "1",
        "--validate",
        "a dog",
        "--set",
        "validate.steps=1",
    ]));
    // A rank can't change even when told, and says why.
    let said = fail(&mut resume(&["--rank", "8", "--allow-changes"]), 1);
    assert!(said.contains("expected f32 [8"), "{said}");
}

#[test]
fn nothing_to_go_on_from_is_an_error() {
    let place = Place::new();
    let said = fail(place.train().args(["--resume", "last"]), 1);
    assert!(said.contains("runs/lora") && said.contains("without `--resume`"), "{said}");
    let said = fail(place.train().args(["--resume", "runs/other"]), 1);
    assert!(said.contains("runs/other"), "{said}");
    assert!(!place.path("runs").exists());
    run(&mut place.train());
    // An adapter is no checkpoint.
    let said = fail(place.scumble().args(["train", "--resume", "runs/lora/lora.safetensors"]), 1);
    assert!(said.contains("lora.safetensors") && said.contains("checkpoints"), "{said}");
    // Nor is half of one.
    let checkpoint = place.path("runs/lora/checkpoints/step-00000003.safetensors");
    let whole = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, &whole[..whole.len() / 2]).unwrap();
    let said = fail(place.scumble().args(["train", "--resume", "runs/lora"]), 1);
    assert!(said.contains("step-00000003.safetensors"), "{said}");
}

/// Two processes never write into one folder.
#[test]
fn a_run_that_is_going_on_is_left_alone() {
    let place = Place::new();
    let mut command = place.train();
    let mut child = quietly(command.args(["--steps", "100000", "--save-every", "1"]));
    assert!(wait_until(&mut child, || place
        .path("runs/lora/checkpoints/step-00000001.safetensors")
        .exists()));
    let said = fail(place.scumble().args(["train", "--resume", "runs/lora"]), 1);
    assert!(said.contains("another process") && said.contains("runs/lora"), "{said}");
    let said = fail(place.train().args(["--existing", "replace"]), 1);
    assert!(said.contains("another process"), "{said}");
    assert_eq!(text(&run(&mut place.train()).stdout), "runs/lora-2/lora.safetensors\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `--resume last` is the newest run of the name.
#[test]
fn last_is_the_newest_run_of_the_name() {
    let place = Place::new();
    run(&mut place.train());
    run(place.train().args(["--seed", "1"]));
    let output = run(place.scumble().args(["train", "--resume"]));
    assert_eq!(text(&output.stdout), "runs/lora-2/lora.safetensors\n");
    let output = run(place.scumble().args(["train", "--resume", "runs/lora"]));
    assert_eq!(text(&output.stdout), "runs/lora/lora.safetensors\n");
}
