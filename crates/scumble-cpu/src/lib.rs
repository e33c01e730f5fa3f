//! Floor 1 of scumble: the kernels of the CPU.
//!
//! * [`CpuBackend`] implements [`Backend`]: f32 in every op; other types are moved, converted and looked up, and
//!   refused by what computes. Kernels for other types go beside those of f32, chosen by the operands' type.
//! * [`Tier`]: the instruction set, chosen at run time, or forced by `SCUMBLE_CPU_TIER`. A kernel is written once over
//!   a vector type and compiled for every tier.
//! * `gemm`: one product routine for linear layers and convolutions; `attention`: never forms the score matrix.
//! * `pool`: threads. Work is cut by shape and sums are ordered, so the number of threads never shows in a result.
//! * [`measure_peak`]: what the machine could do at best.
//!
//! Deliberately not here: the tape, models, files.

mod activation;
mod adamw;
mod attention;
mod backend;
mod conv;
mod elementwise;
mod embedding;
mod engine;
mod gemm;
mod group_norm;
mod layer_norm;
mod layout;
mod loss;
mod matmul;
mod operands;
mod peak;
mod pool;
mod reduce;
mod simd;
mod tier;

pub use backend::CpuBackend;
pub use peak::{Peak, measure_peak};
pub use tier::{TIER_VARIABLE, Tier};
