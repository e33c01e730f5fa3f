//! What the tests of the command line share: running the program, and comparing tensor files.

#![allow(dead_code)] // each test file uses a part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use scumble_model::files::{SafetensorsFile, TensorSource as _};
use scumble_train::picture::{DecodeOptions, Picture, read};

/// A file of the fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path)
}

/// The program, without the surroundings' settings.
pub fn scumble() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scumble"));
    for name in ["NO_COLOR", "CLICOLOR_FORCE", "HF_HOME", "HF_ENDPOINT", "HF_TOKEN"] {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        // The instruction set stays what the tests are run with; settings do not.
        if name.to_string_lossy().starts_with("SCUMBLE_") && name != "SCUMBLE_CPU_TIER" {
            command.env_remove(name);
        }
    }
    command.env("HF_HUB_OFFLINE", "1");
    // Numbers are compared with those of other implementations, also on machines that would compute in bf16.
    command.env("SCUMBLE_PRECISION", "f32");
    // The embedded base is not laid out among the user's files.
    command.env("SCUMBLE_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
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

/// A folder of its own with a `pictures` folder in it, where the program is run.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// With two pictures that need no warning at 64 x 64.
    pub fn new() -> Self {
        Self::with(&["plain.png", "baseline420.jpg"])
    }

    /// With pictures of the fixtures.
    pub fn with(pictures: &[&str]) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.make("pictures", pictures);
        place
    }

    /// One more folder of pictures.
    pub fn make(&self, folder: &str, pictures: &[&str]) {
        std::fs::create_dir_all(self.path(folder)).unwrap();
        for name in pictures {
            std::fs::copy(fixture("images").join(name), self.path(folder).join(name)).unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Bytes of a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// All files below, hidden ones included, by path relative to the folder.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(self.folder.path()).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    /// The program, run here.
    pub fn scumble(&self) -> Command {
        let mut command = scumble();
        command.current_dir(self.folder.path());
        command
    }

    /// `train` on the pictures: three quick steps that leave their mark.
    pub fn train(&self) -> Command {
        let mut command = self.scumble();
        command.arg("train").arg("--base").arg(fixture("tiny-sd1"));
        command.args(["--images", "pictures", "--size", "64", "--steps", "3", "--lr", "0.01"]);
        command
    }

    /// `generate` with one picture of 64 x 64 in two steps.
    pub fn generate(&self, out: &str) -> Command {
        let mut command = self.scumble();
        command.arg("generate").arg("--base").arg(fixture("tiny-sd1"));
        command.args(["--prompt", "a red dog", "--size", "64", "--steps", "2", "--out", out]);
        command
    }

    /// A picture's pixels.
    pub fn picture(&self, name: &str) -> Picture {
        read(&self.path(name), &DecodeOptions::default()).unwrap()
    }
}

/// The program under limits of the shell's `ulimit`; where a limit kills, it fails instead.
#[cfg(unix)]
pub fn limited(limit: &str, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("trap '' XFSZ; ulimit {limit}; exec \"$@\"")).arg("sh");
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    limited
}

/// The largest difference of two pictures' values.
pub fn difference(a: &Picture, b: &Picture) -> u8 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// Names and shapes of a file's tensors.
pub fn shapes(path: &Path) -> BTreeMap<String, Vec<usize>> {
    let file = SafetensorsFile::open(path).unwrap();
    file.names().into_iter().map(|name| (name.clone(), file.info(&name).unwrap().shape)).collect()
}
