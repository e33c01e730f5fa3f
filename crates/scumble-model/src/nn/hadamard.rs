//! LoHa (LyCORIS; FedPara, Hyeon-Woo et al. 2022): the elementwise product of two low-rank products as a branch.
//!
//! ```text
//! dW = scale * (a1 b1) * (a2 b2),   a [out, r],   b [r, in] or [r, kh, kw, in]
//!    = scale * up down,   up [out, r^2] = all a1[:, i] a2[:, j],   down [r^2, in] = all b1[i] b2[j]
//! ```
//!
//! The second form is a plain pair of rank `r^2`, so no dense change is formed and none needs a gradient, unless `r^2` is
//! so large that the dense product costs less. Which form it is depends on the sizes alone.

use std::sync::atomic::{AtomicU32, Ordering};

use scumble_tensor::ops::add::add_scaled;
use scumble_tensor::ops::conv2d::conv2d;
use scumble_tensor::ops::dropout::dropout;
use scumble_tensor::ops::linear::{linear, product};
use scumble_tensor::ops::mul::mul;
use scumble_tensor::ops::outer::outer;
use scumble_tensor::{Backend, Param, Result, Tape, Tensor, Var};

use super::branch::{self, Branch, expect_pair, pair};
use super::difference::Tunable;
use super::projection::{Kind, Projection};

/// See the module's text.
pub struct Hadamard {
    /// `[a, b]` of the first and of the second product.
    sides: [[Param; 2]; 2],
    scale: AtomicU32,
    dropout: f32,
    site: u64,
}

impl Hadamard {
    /// `[a, b]` of both products; `scale` is `alpha / r` times the strength.
    pub fn new(sides: [[Param; 2]; 2], scale: f32) -> Self {
        Self { sides, scale: AtomicU32::new(scale.to_bits()), dropout: 0.0, site: 0 }
    }

    /// As [`super::LowRank::with_dropout`].
    pub fn with_dropout(mut self, probability: f32, site: u64) -> Self {
        (self.dropout, self.site) = (probability, site);
        self
    }

    fn scale(&self) -> f32 {
        f32::from_bits(self.scale.load(Ordering::Relaxed))
    }

    /// Ranks of the two products.
    fn ranks(&self) -> [usize; 2] {
        self.sides.each_ref().map(|[_, b]| b.value().shape().first())
    }

    /// Whether the dense product costs less than a pair of the product of both ranks.
    fn is_dense(&self, projection: &Projection) -> bool {
        let [first, second] = self.ranks();
        let outputs = projection.out_features();
        let weights = projection.weight().value().numel();
        first * second * (weights / outputs.max(1) + outputs) > weights
    }
}

impl Tunable for Hadamard {
    fn set_scale(&self, scale: f32) {
        self.scale.store(scale.to_bits(), Ordering::Relaxed);
    }
}

impl Branch for Hadamard {
    fn check(&self, projection: &Projection) -> Result<()> {
        self.sides.iter().try_for_each(|[a, b]| expect_pair(projection, b, a))
    }

    fn forward(&self, tape: &Tape<'_>, projection: &Projection, x: &Var, y: Var) -> Result<Var> {
        let scale = self.scale();
        if scale == 0.0 {
            return Ok(y);
        }
        let x = dropout(tape, x, self.dropout, self.site)?;
        let [[a1, b1], [a2, b2]] = self.sides.each_ref().map(|side| side.each_ref().map(|p| tape.param(p)));
        let mut dims = projection.weight().value().dims().to_vec();
        let outputs = projection.out_features();
        let columns = projection.weight().value().numel() / outputs.max(1);
        let [first, second] = self.ranks();
        if self.is_dense(projection) {
            let flat = |b: &Var, rank| b.reshape(&[rank, columns]);
            let one = product(tape, &a1, &flat(&b1, first)?)?;
            let other = product(tape, &a2, &flat(&b2, second)?)?;
            let delta = mul(tape, &one, &other)?.reshape(&dims)?;
            let change = match projection.kind() {
                Kind::Linear => linear(tape, &x, &delta, None, None)?,
                Kind::Conv2d(spec) => conv2d(tape, &x, &delta, None, None, spec)?,
            };
            return add_scaled(tape, &y, &change, scale);
        }
        let up = outer(tape, &a1, &a2, [outputs, first, second, 1])?.reshape(&[outputs, first * second])?;
        let down = outer(tape, &b1, &b2, [1, first, second, columns])?;
        if let Some(size) = dims.first_mut() {
            *size = first * second;
        }
        pair(tape, projection, &x, [&down.reshape(&dims)?, &up], scale, &y)
    }

    fn params(&self) -> Vec<Param> {
        self.sides.iter().flatten().cloned().collect()
    }

    fn delta(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor> {
        let [one, other] = self.sides.each_ref().map(|[a, b]| branch::product(backend, b, a, 1.0));
        let delta = backend.scale(&backend.mul(&one?, &other?)?, self.scale())?;
        delta.reshape(projection.weight().value().dims())
    }
}
