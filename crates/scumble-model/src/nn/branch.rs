//! What an adapter adds to a projection.
//!
//! A [`Branch`] sees the projection's input and its output so far and returns the new output, so a multiplicative or
//! a weight-decomposed adapter is as possible as an additive one. [`LowRank`] is the LoRA (Hu et al. 2021):
//!
//!     y + scale * up(down(dropout(x))),   down [r, in] or [r, kh, kw, in],   up [out, r]
//!
//! On a convolution `down` is a convolution with the base's kernel, stride and padding and `up` is 1x1.

use std::sync::atomic::{AtomicU32, Ordering};

use scumble_tensor::backend::MatMul;
use scumble_tensor::ops::conv2d::low_rank_conv;
use scumble_tensor::ops::dropout::dropout;
use scumble_tensor::ops::linear::low_rank;
use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var, shape_error};

use super::projection::{Kind, Projection};

/// Changes a projection's output.
pub trait Branch: Send + Sync {
    /// Errors when this branch does not fit `projection`.
    fn check(&self, projection: &Projection) -> Result<()>;

    /// The new output, from the projection's input `x` and its output so far `y`.
    fn forward(&self, tape: &Tape<'_>, projection: &Projection, x: &Var, y: Var) -> Result<Var>;

    /// What training can change.
    fn params(&self) -> Vec<Param>;

    /// The change of the base weight that does the same, f32 in the weight's memory layout: what folding adds.
    fn delta(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor>;
}

/// A low-rank branch.
pub struct LowRank {
    down: Param,
    up: Param,
    scale: AtomicU32,
    dropout: f32,
    site: u64,
}

impl LowRank {
    /// `down [r, in]` or `[r, kh, kw, in]`, `up [out, r]`; `scale` is `alpha / r` times the strength.
    pub fn new(down: Param, up: Param, scale: f32) -> Self {
        Self { down, up, scale: AtomicU32::new(scale.to_bits()), dropout: 0.0, site: 0 }
    }

    /// Drops inputs with `probability` while a tape trains; `site` sets this branch's masks apart from all others.
    pub fn with_dropout(mut self, probability: f32, site: u64) -> Self {
        (self.dropout, self.site) = (probability, site);
        self
    }

    /// First factor.
    pub fn down(&self) -> &Param {
        &self.down
    }

    /// Second factor.
    pub fn up(&self) -> &Param {
        &self.up
    }

    /// The rank.
    pub fn rank(&self) -> usize {
        self.down.value().shape().first()
    }

    /// The factor of the branch.
    pub fn scale(&self) -> f32 {
        f32::from_bits(self.scale.load(Ordering::Relaxed))
    }

    /// Changes the factor of the branch; at 0 the base's output is returned untouched.
    pub fn set_scale(&self, scale: f32) {
        self.scale.store(scale.to_bits(), Ordering::Relaxed);
    }
}

impl Branch for LowRank {
    fn check(&self, projection: &Projection) -> Result<()> {
        let rank = self.rank();
        let mut down = projection.weight().value().dims().to_vec();
        if let Some(first) = down.first_mut() {
            *first = rank;
        }
        let up = [projection.out_features(), rank];
        let expect = |what, expected: &[usize], found: &Param| {
            if found.value().dims() == expected {
                return Ok(());
            }
            Err(shape_error(
                "attach",
                what,
                format!("{expected:?} for {}", projection.path()),
                found.value().shape(),
            ))
        };
        expect("down", &down, &self.down)?;
        expect("up", &up, &self.up)
    }

    fn forward(&self, tape: &Tape<'_>, projection: &Projection, x: &Var, y: Var) -> Result<Var> {
        let scale = self.scale();
        if scale == 0.0 {
            return Ok(y);
        }
        let x = dropout(tape, x, self.dropout, self.site)?;
        let (down, up) = (tape.param(&self.down), tape.param(&self.up));
        match projection.kind() {
            Kind::Linear => low_rank(tape, &x, &down, &up, scale, &y),
            Kind::Conv2d(spec) => low_rank_conv(tape, &x, &down, &up, scale, spec, &y),
        }
    }

    fn params(&self) -> Vec<Param> {
        vec![self.down.clone(), self.up.clone()]
    }

    fn delta(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor> {
        let (down, up) = (self.down.value(), self.up.value());
        let rank = down.shape().first();
        let down = backend.cast(&down.reshape(&[rank, down.numel() / rank.max(1)])?, DType::F32)?;
        let up = backend.cast(&up, DType::F32)?;
        let product = backend.matmul(MatMul { alpha: self.scale(), ..MatMul::nn(&up, &down) })?;
        product.reshape(projection.weight().value().dims())
    }
}
