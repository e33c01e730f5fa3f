//! Dense linear algebra of the size that adapters need.
//!
//! A low-rank change `B A` has thin factors, so everything about it can be known without the product: the QR
//! decompositions of `B` and `A^T` leave a small core, and the core's singular values are the product's
//! ([`core`]). Cores have a few hundred rows; they are done in f64 with Householder reflections ([`qr`]) and
//! one-sided Jacobi rotations ([`svd`]), which are short, accurate and the same on every machine. Dense changes of
//! thousands of rows go through a seeded range finder on the backend's matrix product ([`sketch`]).
//!
//! Own code and not a crate, because the crates that do this well bring general matrix products of their own and
//! with them a good part of the whole build's time, while all that is needed are these few hundred lines.

pub mod core;
pub mod matrix;
pub mod qr;
pub mod sketch;
pub mod svd;

pub use self::core::LowRankCore;
pub use matrix::Matrix;
