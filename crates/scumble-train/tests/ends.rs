//! Violent ends: a killed process and a full disk leave the last checkpoint whole, and the run goes on from it.
//!
//! The test program starts itself again as the process that is to end; `SCUMBLE_TEST_RUN` holds its configuration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Heard, Workplace, adapter, run, run_with};
use scumble_train::TrainConfig;
use scumble_train::run::Start;
use scumble_train::run::folder::{RunFolder, checkpoints_of};

const VARIABLE: &str = "SCUMBLE_TEST_RUN";

/// The body of the process that ends: not a test by itself.
#[test]
fn child() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let start = Start::Resume { from: None, allow_changes: false };
    let config = TrainConfig::from_toml(&text).unwrap();
    let resumed = run_with(&config, &start, None, &Heard::default());
    // Nothing there yet: a new run.
    let result = match resumed {
        Err(scumble_train::TrainError::NoCheckpoint { .. }) => run(&config),
        other => other,
    };
    if let Err(error) = result {
        println!("error: {error}");
        std::process::exit(1);
    }
}

fn command(config: &TrainConfig) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(VARIABLE, config.to_toml().unwrap());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn finished(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

/// Every checkpoint under its final name can be read.
fn all_checkpoints_are_whole(run: &Path) {
    let store = checkpoints_of(run);
    for step in store.steps().unwrap() {
        scumble_train::checkpoint::Checkpoint::read(&store.path(step)).unwrap();
    }
}

#[test]
fn killed_again_and_again_it_ends_in_the_same_bytes() {
    let place = Workplace::new();
    let mut config = place.config();
    config.train.steps = 40;
    config.save.every = 1;
    config.save.keep_last = 2;
    let undisturbed = run(&config).unwrap();
    let runs = place.folder.path().join("killed");
    config.save.folder = runs.clone();
    let mut kills = 0;
    for round in 0..200u64 {
        let mut child = command(&config).spawn().unwrap();
        // Moments spread over loading, training and saving.
        std::thread::sleep(Duration::from_millis(150 + round * 97 % 700));
        let done = finished(&mut child);
        if !done {
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            for entry in std::fs::read_dir(&runs).into_iter().flatten() {
                all_checkpoints_are_whole(&entry.unwrap().path());
            }
            continue;
        }
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        break;
    }
    assert!(kills > 0, "the run was too quick to be killed");
    // A process killed before its first checkpoint leaves a folder with nothing in it; the next takes `lora-2`.
    let folder = RunFolder::newest(&config.save).unwrap();
    let file = folder.join("lora.safetensors");
    assert!(file.is_file(), "it never came to its end");
    assert!(std::fs::read(file).unwrap() == adapter(&undisturbed));
    let records = scumble_train::metrics::read(&folder.join("metrics.jsonl")).unwrap();
    assert!(records.iter().map(|record| record.step).eq(1..=40));
}

/// A limit on the size of files stands in for a full disk: both make a write fail part way.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_the_last_checkpoint_stays() {
    let place = Workplace::new();
    let mut config = place.config();
    config.save.every = 2;
    let whole = run_with(&config, &Start::New, Some(3), &Heard::default()).unwrap();
    let store = checkpoints_of(&whole.folder);
    let before = std::fs::read(store.path(3)).unwrap();
    let test = command(&config);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh"]);
    limited.arg(test.get_program()).args(test.get_args());
    limited.env(VARIABLE, config.to_toml().unwrap());
    let output = limited.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains("error: "), "{text}");
    assert!(text.contains(".safetensors"), "the file is named: {text}");
    assert_eq!(store.latest().unwrap().step, 3);
    assert!(std::fs::read(store.path(3)).unwrap() == before);
    let left: Vec<_> = std::fs::read_dir(whole.folder.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".part")), "{left:?}");
    let start = Start::Resume { from: None, allow_changes: false };
    assert_eq!(run_with(&config, &start, None, &Heard::default()).unwrap().steps, 6);
}

#[test]
fn a_folder_that_can_not_be_written_is_named() {
    let place = Workplace::new();
    let mut config = place.config();
    let file = place.folder.path().join("a file");
    std::fs::write(&file, b"").unwrap();
    config.save.folder = file.join("runs");
    let error = run(&config).unwrap_err().to_string();
    assert!(error.contains("a file"), "{error}");
}
