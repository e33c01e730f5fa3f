//! Floor 1 of scumble: the kernels of the CPU.
//!
//! * [`CpuBackend`] implements [`Backend`]: every op on f32 and on bf16. Registers always hold f32: a `Scalar` widens
//!   what is read and rounds what is written, so bf16 halves the memory and its traffic, and sums lose nothing. Other
//!   types are moved, converted and looked up, and refused by what computes.
//! * [`Tier`]: the instruction set, chosen at run time, or forced by `SCUMBLE_CPU_TIER`. A kernel is written once over
//!   a vector type and compiled for every tier.
//! * `gemm`: one product routine for linear layers and convolutions; `attention`: never forms the score matrix.
//! * `tiles`: matrix units, which multiply bf16 without widening it; a tier that has one uses it for every product of
//!   bf16 operands.
//! * `winograd`: convolutions of 3 x 3 with fewer multiplications, on a matrix unit.
//! * `pool`: threads. Work is cut by shape and sums are ordered, so the number of threads never shows in a result.
//! * [`measure_peak`]: what the machine could do at best.
//!
//! Deliberately not here: the tape, models, files.

mod activation;
mod adamw;
mod attention;
mod backend;
mod channels;
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
mod moments;
mod operands;
mod outer;
mod peak;
mod pool;
mod reduce;
mod simd;
mod swap;
mod tier;
mod tiles;
mod winograd;

pub use backend::CpuBackend;
pub use peak::{Peak, measure_peak};
pub use tier::{TIER_VARIABLE, Tier};
