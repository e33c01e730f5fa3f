//! Nonlinearities and their gradients.
//!
//! ```text
//! SiLU  x sigmoid(x)            derivative  sigmoid(x) (1 + x (1 - sigmoid(x)))
//! GELU  x Phi(x)                derivative  Phi(x) + x phi(x)
//! QuickGELU  x sigmoid(1.702 x)
//! GEGLU  [a, b] -> a GELU(b)    gradients   dy GELU(b),  dy a GELU'(b)
//! ```

use scumble_tensor::backend::Activation;
use scumble_tensor::{Result, Tensor, shape_error};

use crate::elementwise::{Binary, PIECE, Unary, binary, unary};
use crate::engine::Engine;
use crate::operands::{elements, elements_of};
use crate::simd::math::{normal, sigmoid};
use crate::simd::{Kernel, Scalar, Simd, with_scalar};

/// CLIP's slope of the sigmoid that stands for the normal distribution.
const QUICK_SLOPE: f32 = 1.702;

/// `x sigmoid(slope x)`.
#[inline(always)]
pub(crate) fn swish<S: Simd, E: Scalar>(s: S, x: S::V, slope: f32) -> S::V {
    s.mul(x, sigmoid::<S, E>(s, s.mul(s.splat(slope), x)))
}

/// Derivative of [`swish`]: `g (1 + slope x (1 - g))`, `g = sigmoid(slope x)`.
#[inline(always)]
pub(crate) fn swish_slope<S: Simd, E: Scalar>(s: S, x: S::V, slope: f32) -> S::V {
    let scaled = s.mul(s.splat(slope), x);
    let g = sigmoid::<S, E>(s, scaled);
    let rest = s.mul(scaled, s.sub(s.splat(1.0), g));
    s.fma(g, rest, g)
}

#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, normal(s, x).0)
}

/// GELU and its derivative.
#[inline(always)]
fn gelu_and_slope<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let (distribution, density) = normal(s, x);
    (s.mul(x, distribution), s.fma(x, density, distribution))
}

#[derive(Clone, Copy)]
struct Value(Activation);

impl Unary for Value {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self.0 {
            Activation::Silu => swish::<S, f32>(s, x, 1.0),
            Activation::Gelu => gelu(s, x),
            Activation::QuickGelu => swish::<S, f32>(s, x, QUICK_SLOPE),
        }
    }
}

#[derive(Clone, Copy)]
struct Gradient(Activation);

impl Binary for Gradient {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, d_y: S::V, x: S::V) -> S::V {
        let slope = match self.0 {
            Activation::Silu => swish_slope::<S, f32>(s, x, 1.0),
            Activation::Gelu => gelu_and_slope(s, x).1,
            Activation::QuickGelu => swish_slope::<S, f32>(s, x, QUICK_SLOPE),
        };
        s.mul(d_y, slope)
    }
}

/// `kind(x)`.
pub(crate) fn activation(engine: &Engine, kind: Activation, x: &Tensor) -> Result<Tensor> {
    unary(engine, "activation", x, Value(kind))
}

/// `d_y kind'(x)`.
pub(crate) fn activation_grad(engine: &Engine, kind: Activation, d_y: &Tensor, x: &Tensor) -> Result<Tensor> {
    binary(engine, "activation_grad", d_y, x, Gradient(kind))
}

/// `[..., 2 d]` -> `[..., d]`.
pub(crate) fn geglu(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    with_scalar!("geglu", x.dtype(), E => geglu_typed::<E>(engine, x))
}

fn geglu_typed<E: Scalar>(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    let (rows, width) = halves("geglu", x)?;
    let from = elements::<E>("geglu", "the input", x)?;
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(width);
    let piece_rows = (PIECE / width.max(1)).max(1);
    Tensor::build(&dims, |y: &mut [E]| {
        debug_assert_eq!(y.len(), rows * width);
        engine.pool.run_pieces(y, piece_rows * width, |index, y| {
            let x = &from[index * piece_rows * width * 2..][..y.len() * 2];
            engine.tier.run_rounding(Gated { x, y, width });
        });
    })
}

/// Gradient of [`geglu`].
pub(crate) fn geglu_grad(engine: &Engine, d_y: &Tensor, x: &Tensor) -> Result<Tensor> {
    with_scalar!("geglu_grad", x.dtype(), E => geglu_grad_typed::<E>(engine, d_y, x))
}

fn geglu_grad_typed<E: Scalar>(engine: &Engine, d_y: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (rows, width) = halves("geglu_grad", x)?;
    let from = elements::<E>("geglu_grad", "the input", x)?;
    let upstream = elements_of::<E>("geglu_grad", "the upstream gradient", d_y, rows * width)?;
    let piece_rows = (PIECE / (2 * width).max(1)).max(1);
    Tensor::build(x.dims(), |d_x: &mut [E]| {
        engine.pool.run_pieces(d_x, piece_rows * width * 2, |index, d_x| {
            let start = index * piece_rows * width;
            let (x, d_y) = (&from[start * 2..][..d_x.len()], &upstream[start..][..d_x.len() / 2]);
            engine.tier.run_rounding(GatedGradient { d_y, x, d_x, width });
        });
    })
}

/// `(rows, d)` of `[..., 2 d]`.
fn halves(op: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    let width = x.shape().last();
    if x.shape().rank() == 0 || !width.is_multiple_of(2) {
        return Err(shape_error(op, "input", "[..., 2 d]", x.shape()));
    }
    Ok((x.shape().rows(), width / 2))
}

struct Gated<'a, E> {
    x: &'a [E],
    y: &'a mut [E],
    width: usize,
}

impl<E: Scalar> Kernel for Gated<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.chunks_exact((2 * self.width).max(1));
        for (y, x) in self.y.chunks_exact_mut(self.width.max(1)).zip(rows) {
            let (a, b) = x.split_at(self.width);
            let halves = a.chunks(S::LANES).zip(b.chunks(S::LANES));
            for (y, (a, b)) in y.chunks_mut(S::LANES).zip(halves) {
                E::write(s, y, s.mul(E::read(s, a), gelu(s, E::read(s, b))));
            }
        }
    }
}

struct GatedGradient<'a, E> {
    d_y: &'a [E],
    x: &'a [E],
    d_x: &'a mut [E],
    width: usize,
}

impl<E: Scalar> Kernel for GatedGradient<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.width.max(1);
        let rows = self.x.chunks_exact(2 * width).zip(self.d_y.chunks_exact(width));
        for (d_x, (x, d_y)) in self.d_x.chunks_exact_mut(2 * width).zip(rows) {
            let ((a, b), (d_a, d_b)) = (x.split_at(width), d_x.split_at_mut(width));
            let halves = a.chunks(S::LANES).zip(b.chunks(S::LANES)).zip(d_y.chunks(S::LANES));
            let to = d_a.chunks_mut(S::LANES).zip(d_b.chunks_mut(S::LANES));
            for ((d_a, d_b), ((a, b), d_y)) in to.zip(halves) {
                let (value, slope) = gelu_and_slope(s, E::read(s, b));
                let d_y = E::read(s, d_y);
                E::write(s, d_a, s.mul(d_y, value));
                E::write(s, d_b, s.mul(s.mul(d_y, E::read(s, a)), slope));
            }
        }
    }
}
