//! What the tests of the command line share: running the program, and comparing tensor files.

#![allow(dead_code)] // each test file uses a part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use scumble_model::files::{SafetensorsFile, TensorSource as _};

/// A file of the fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path)
}

/// The program, without the surroundings' settings.
pub fn scumble() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scumble"));
    for name in ["NO_COLOR", "CLICOLOR_FORCE", "HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "SCUMBLE_THREADS"] {
        command.env_remove(name);
    }
    command.env("HF_HUB_OFFLINE", "1");
    command
}

/// Runs it and expects success.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", text(&output.stderr));
    output
}

/// Runs it and expects exit code `code`; standard error.
pub fn fail(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{stderr}");
    assert!(stderr.contains("error:"), "{stderr}");
    stderr
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All tensors of a file, as f64.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let file = SafetensorsFile::open(path).unwrap();
    file.names().into_iter().map(|name| (name.clone(), file.read(&name).unwrap().to_vec().unwrap())).collect()
}

/// Compares every tensor of `actual` with `expected` by max|a - b| / rms(b); `bound` tells what is allowed for a
/// name. Returns how many were compared.
pub fn compare(actual: &Path, expected: &Path, bound: impl Fn(&str) -> f64) -> usize {
    let expected = tensors(expected);
    let actual = tensors(actual);
    for (name, values) in &actual {
        let golden = expected.get(name).unwrap_or_else(|| panic!("`{name}` is no golden tensor"));
        assert_eq!(values.len(), golden.len(), "{name}");
        let rms = (golden.iter().map(|value| value * value).sum::<f64>() / golden.len().max(1) as f64).sqrt();
        let worst = values.iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let relative = worst / rms.max(1e-30);
        assert!(relative <= bound(name), "{name}: off by {relative:e} of its rms, allowed {:e}", bound(name));
    }
    actual.len()
}
