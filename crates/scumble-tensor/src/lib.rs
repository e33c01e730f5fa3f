//! Floor 0 of scumble: tensors, the ops that diffusion models need, and the tape that differentiates them.
//!
//! * [`Tensor`]: contiguous numbers of one [`DType`] on one [`Device`].
//! * [`Backend`]: the kernels a device must bring; [`reference`] is the plain-loop one that judges all others,
//!   [`conformance`] the suite that does the judging.
//! * [`ops`]: one file an op: formula, tape function, plain-loop forward and vector-Jacobian product, tests.
//! * [`Tape`]: records only what leads to something trainable and frees what backward has used.
//! * [`rng`]: random numbers equal to PyTorch's CPU generator, in named streams.
//!
//! Deliberately not here: models, files, threads, and any kernel that is fast.

pub mod backend;
pub mod conformance;
mod dtype;
mod error;
pub mod memory;
pub mod ops;
mod param;
pub mod reference;
pub mod rng;
mod shape;
mod tape;
mod tensor;

pub use backend::Backend;
pub use dtype::{DType, Element};
pub use error::{Error, Result, shape_error};
pub use param::Param;
pub use shape::Shape;
pub use tape::{DropoutKey, Gradients, KeptBytes, LeafId, Recompute, Tape, Var};
pub use tensor::{Device, DeviceBuffer, Prepared, Tensor};
