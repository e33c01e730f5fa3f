//! First values of a model that no file brings: for training from scratch and for benchmarks.
//!
//! Linear layers and convolutions start as PyTorch's do, weight and bias uniform in +-1/sqrt(inputs of one output);
//! norms start as the identity, tables normal with deviation 0.02 (CLIP's). Every parameter draws from a stream of
//! its own name, so adding one changes no other.

use scumble_tensor::rng::stream;
use scumble_tensor::{Result, Tensor};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Init {
    /// Uniform in `+-1/sqrt(inputs)`.
    Uniform {
        /// Inputs of one output.
        inputs: usize,
    },
    /// The same everywhere.
    Constant(f32),
    /// Normal around 0 with this deviation.
    Normal(f32),
}

impl Init {
    /// The first value of parameter `name`, f32 in file layout.
    pub(super) fn value(self, seed: u64, name: &str, dims: &[usize]) -> Result<Tensor> {
        let fill = |draw: &dyn Fn(&mut [f32])| Tensor::build::<f32>(dims, |values| draw(values));
        match self {
            Init::Constant(constant) => fill(&|values| values.fill(constant)),
            Init::Uniform { inputs } => {
                let bound = 1.0 / (inputs.max(1) as f32).sqrt();
                fill(&|values| {
                    copy(values, stream(seed, name).rand(values.len()), |u| (2.0 * u - 1.0) * bound)
                })
            }
            Init::Normal(deviation) => {
                fill(&|values| copy(values, stream(seed, name).randn(values.len()), |z| z * deviation))
            }
        }
    }
}

fn copy(values: &mut [f32], drawn: Vec<f32>, map: impl Fn(f32) -> f32) {
    for (value, drawn) in values.iter_mut().zip(drawn) {
        *value = map(drawn);
    }
}
