//! Fixture folders, comparisons and the backend that the golden tests share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use scumble_cpu::CpuBackend;
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_model::nn::{to_file_layout, to_memory_layout};
use scumble_tensor::reference::ReferenceBackend;
use scumble_tensor::{Backend, DType, Tensor, Var};

/// The element type that the golden tests compute in.
pub const DTYPE: DType = DType::F32;

/// The fast backend, one for all tests.
pub fn backend() -> Arc<dyn Backend> {
    static CPU: OnceLock<Arc<CpuBackend>> = OnceLock::new();
    CPU.get_or_init(|| Arc::new(CpuBackend::new(None).unwrap())).clone()
}

/// Both backends: the one of plain loops and the fast one.
pub fn backends() -> [Arc<dyn Backend>; 2] {
    [Arc::new(ReferenceBackend), backend()]
}

/// A model of the fixtures.
pub struct Fixture {
    folder: PathBuf,
}

impl Fixture {
    pub fn new(name: &str) -> Self {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures"));
        Self { folder: root.join(name) }
    }

    pub fn json(&self, path: &str) -> serde_json::Value {
        let path = self.folder.join(path);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap()
    }

    pub fn weights(&self, path: &str) -> SafetensorsFile {
        SafetensorsFile::open(&self.folder.join(path)).unwrap()
    }

    pub fn golden(&self, path: &str) -> Golden {
        Golden { file: self.weights(path) }
    }
}

/// A file of inputs and outputs.
pub struct Golden {
    file: SafetensorsFile,
}

impl Golden {
    pub fn names(&self) -> Vec<String> {
        self.file.names()
    }

    pub fn tensor(&self, name: &str) -> Tensor {
        self.file.read(name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A tensor of floats in memory layout, in the type that is computed in.
    pub fn input(&self, name: &str) -> Tensor {
        to_memory_layout(&self.tensor(name)).unwrap().to_dtype(DTYPE).unwrap()
    }

    pub fn var(&self, name: &str) -> Var {
        Var::constant(self.input(name))
    }

    /// Compares a tensor in memory layout with the stored one: the largest difference over the root mean square.
    pub fn compare(&self, name: &str, found: &Tensor, bound: f64) {
        self.compare_as_filed(name, &to_file_layout(found).unwrap(), bound);
    }

    /// Compares a tensor in file layout with the stored one.
    pub fn compare_as_filed(&self, name: &str, found: &Tensor, bound: f64) {
        let expected = self.tensor(name);
        assert_eq!(expected.numel(), found.numel(), "{name}: {:?} and {:?}", expected.dims(), found.dims());
        let (expected, found) = (expected.to_vec::<f64>().unwrap(), found.to_vec::<f64>().unwrap());
        let error = relative_error(&expected, &found);
        assert!(error <= bound, "{name}: off by {error:.2e} of the rms, bound {bound:.0e}");
    }
}

pub fn relative_error(expected: &[f64], found: &[f64]) -> f64 {
    let squares: f64 = expected.iter().map(|value| value * value).sum();
    let rms = (squares / expected.len() as f64).sqrt();
    let largest = expected.iter().zip(found).map(|(a, b)| (a - b).abs());
    largest.fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) }) / rms
}
