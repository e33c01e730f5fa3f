//! LoKr (LyCORIS; Kronecker adapters, Edalati et al. 2022): a Kronecker product as a branch that never forms it.
//!
//! ```text
//! dW = scale * kron(w1, w2),   out = o1 o2, in = i1 i2,   w1 [o1, i1],   w2 [o2, i2] or [o2, kh, kw, i2]
//! dW x, for x seen as [i1, i2]:    h[c, :] = w2 x[c, :] for each of the i1 rows,    y[o, :] = sum_c w1[o, c] h[c, :]
//! ```
//!
//! Each of the matrices may be a product of two. If `w2` is one, its output side comes last, so that what lies between is
//! only as wide as its rank. On a convolution the `i1` rows are pictures of `i2` channels of their own.

use std::sync::atomic::{AtomicU32, Ordering};

use scumble_tensor::ops::add::add_scaled;
use scumble_tensor::ops::conv2d::conv2d;
use scumble_tensor::ops::dropout::dropout;
use scumble_tensor::ops::linear::{linear, scaled};
use scumble_tensor::ops::swap::swap_middle;
use scumble_tensor::{Backend, Param, Result, Tape, Tensor, Var, shape_error};

use super::branch::Branch;
use super::difference::Tunable;
use super::projection::{Kind, Projection};

/// One of the two matrices.
pub enum Factor {
    /// As it is.
    Whole(Param),
    /// `a [o, r]` times `b [r, i]` (or `[r, kh, kw, i]`).
    Pair {
        /// Output side.
        a: Param,
        /// Input side.
        b: Param,
    },
}

impl Factor {
    fn params(&self) -> Vec<&Param> {
        match self {
            Factor::Whole(whole) => vec![whole],
            Factor::Pair { a, b } => vec![a, b],
        }
    }

    /// What meets the input first.
    fn first(&self) -> &Param {
        match self {
            Factor::Whole(first) | Factor::Pair { b: first, .. } => first,
        }
    }

    /// `[o, i]`, the kernel left out.
    fn size(&self) -> [usize; 2] {
        let last = |param: &Param| param.value().shape().last();
        match self {
            Factor::Whole(whole) => [whole.value().shape().first(), last(whole)],
            Factor::Pair { a, b } => [a.value().shape().first(), last(b)],
        }
    }

    /// As f32 numbers, `[o, (kh, kw,) i]`.
    fn dense(&self, backend: &dyn Backend) -> Result<Vec<f32>> {
        let product = match self {
            Factor::Whole(whole) => whole.value(),
            Factor::Pair { a, b } => super::branch::product(backend, b, a, 1.0)?,
        };
        backend.download(&product)?.to_vec::<f32>()
    }
}

/// See the module's text.
pub struct Kronecker {
    w1: Factor,
    w2: Factor,
    scale: AtomicU32,
    dropout: f32,
    site: u64,
}

impl Kronecker {
    /// `scale` is 1 where both are whole, otherwise `alpha / r`, times the strength.
    pub fn new(w1: Factor, w2: Factor, scale: f32) -> Self {
        Self { w1, w2, scale: AtomicU32::new(scale.to_bits()), dropout: 0.0, site: 0 }
    }

    /// As [`super::LowRank::with_dropout`].
    pub fn with_dropout(mut self, probability: f32, site: u64) -> Self {
        (self.dropout, self.site) = (probability, site);
        self
    }

    fn scale(&self) -> f32 {
        f32::from_bits(self.scale.load(Ordering::Relaxed))
    }

    /// The second matrix, or its input side, on each of the `i1` parts of `x`: `[rows, k, i1]` and `[rows, k]`.
    fn second(&self, tape: &Tape<'_>, projection: &Projection, x: &Var) -> Result<(Var, usize, usize)> {
        let ([_, i1], [_, i2]) = (self.w1.size(), self.w2.size());
        let w = tape.param(self.w2.first());
        let k = w.value().shape().first();
        match projection.kind() {
            Kind::Conv2d(spec) if projection.kernel() != [1, 1] || spec.stride != 1 => {
                let [n, h, width, _] = x.value().nhwc("kronecker")?;
                let parts = swap_middle(tape, x, [n, h * width, i1, i2])?.reshape(&[n * i1, h, width, i2])?;
                let u = conv2d(tape, &parts, &w, None, None, spec)?;
                let pixels = u.dims()[1] * u.dims()[2];
                // From [n, i1, pixels, k] straight to [n, pixels, k, i1].
                Ok((swap_middle(tape, &u, [n, i1, pixels * k, 1])?, n * pixels, k))
            }
            _ => {
                let rows = x.value().numel() / (i1 * i2).max(1);
                let u = linear(tape, &x.reshape(&[rows * i1, i2])?, &w.reshape(&[k, i2])?, None, None)?;
                Ok((swap_middle(tape, &u, [rows, i1, k, 1])?, rows, k))
            }
        }
    }
}

impl Tunable for Kronecker {
    fn set_scale(&self, scale: f32) {
        self.scale.store(scale.to_bits(), Ordering::Relaxed);
    }
}

impl Branch for Kronecker {
    fn check(&self, projection: &Projection) -> Result<()> {
        let ([o1, i1], [o2, i2]) = (self.w1.size(), self.w2.size());
        let weight = projection.weight().value();
        let kernel = projection.kernel();
        let first = self.w2.first().value();
        let taps = first.numel() / (first.shape().first() * i2).max(1);
        let inner = |factor: &Factor| match factor {
            Factor::Whole(_) => true,
            Factor::Pair { a, b } => a.value().shape().last() == b.value().shape().first(),
        };
        let fits = [o1 * o2, i1 * i2] == [projection.out_features(), projection.in_features()]
            && taps == kernel[0] * kernel[1]
            && first.dims().len() == weight.dims().len()
            && inner(&self.w1)
            && inner(&self.w2);
        if fits {
            return Ok(());
        }
        let expected = format!("a Kronecker product of {} for {}", weight.shape(), projection.path());
        Err(shape_error("attach", "w1 and w2", expected, format!("[{o1}, {i1}] and [{o2}, {i2}]")))
    }

    fn forward(&self, tape: &Tape<'_>, projection: &Projection, x: &Var, y: Var) -> Result<Var> {
        let scale = self.scale();
        if scale == 0.0 {
            return Ok(y);
        }
        let x = dropout(tape, x, self.dropout, self.site)?;
        let ([o1, i1], [o2, _]) = (self.w1.size(), self.w2.size());
        let (turned, rows, k) = self.second(tape, projection, &x)?;
        let mut mixed = turned.reshape(&[rows * k, i1])?;
        for param in self.w1.params().into_iter().rev() {
            mixed = linear(tape, &mixed, &tape.param(param), None, None)?;
        }
        let mixed = swap_middle(tape, &mixed, [rows, k, o1, 1])?;
        let dims = y.dims().to_vec();
        match &self.w2 {
            Factor::Whole(_) => add_scaled(tape, &y, &mixed.reshape(&dims)?, scale),
            Factor::Pair { a, .. } => {
                let y = y.reshape(&[rows * o1, o2])?;
                let mixed = mixed.reshape(&[rows * o1, k])?;
                scaled(tape, &mixed, &tape.param(a), None, Some(&y), scale)?.reshape(&dims)
            }
        }
    }

    fn params(&self) -> Vec<Param> {
        self.w1.params().into_iter().chain(self.w2.params()).cloned().collect()
    }

    fn delta(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor> {
        let ([o1, i1], [o2, i2]) = (self.w1.size(), self.w2.size());
        let (w1, w2, scale) = (self.w1.dense(backend)?, self.w2.dense(backend)?, self.scale());
        let taps = w2.len() / (o2 * i2).max(1);
        let mut delta = Vec::with_capacity(o1 * o2 * taps * i1 * i2);
        for (a, row) in (0..o1).flat_map(|a| w2.chunks_exact((taps * i2).max(1)).map(move |row| (a, row))) {
            for tap in row.chunks_exact(i2.max(1)) {
                for &factor in &w1[a * i1..(a + 1) * i1] {
                    delta.extend(tap.iter().map(|value| scale * factor * value));
                }
            }
        }
        backend.upload(&Tensor::from_slice(&delta, projection.weight().value().dims())?)
    }
}
