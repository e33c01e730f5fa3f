//! Element-wise maps: one body over vectors, cut into pieces for the threads.
//!
//! These ops run at memory speed; a piece is large enough to be worth handing out and small enough to balance.

use scumble_tensor::{Result, Tensor};

use crate::engine::Engine;
use crate::operands::{expect_same, floats};
use crate::simd::{Kernel, Simd};

/// Floats of a piece.
pub(crate) const PIECE: usize = 16 << 10;

/// A function of one float.
pub(crate) trait Unary: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V;
}

/// A function of two floats.
pub(crate) trait Binary: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V;
}

struct UnaryPiece<'a, F> {
    f: F,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<F: Unary> Kernel for UnaryPiece<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (y, x) in self.y.chunks_mut(S::LANES).zip(self.x.chunks(S::LANES)) {
            s.write(y, self.f.apply(s, s.read(x)));
        }
    }
}

struct BinaryPiece<'a, F> {
    f: F,
    a: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
}

impl<F: Binary> Kernel for BinaryPiece<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let operands = self.a.chunks(S::LANES).zip(self.b.chunks(S::LANES));
        for (y, (a, b)) in self.y.chunks_mut(S::LANES).zip(operands) {
            s.write(y, self.f.apply(s, s.read(a), s.read(b)));
        }
    }
}

/// `f(x)`.
pub(crate) fn unary(engine: &Engine, op: &'static str, x: &Tensor, f: impl Unary) -> Result<Tensor> {
    let from = floats(op, "the input", x)?;
    Tensor::build(x.dims(), |y: &mut [f32]| {
        engine.pool.run_pieces(y, PIECE, |index, y| {
            let x = &from[index * PIECE..][..y.len()];
            engine.tier.run(UnaryPiece { f, x, y });
        });
    })
}

/// `f(a, b)`.
pub(crate) fn binary(
    engine: &Engine,
    op: &'static str,
    a: &Tensor,
    b: &Tensor,
    f: impl Binary,
) -> Result<Tensor> {
    expect_same(op, "the second operand", a, b)?;
    let (from_a, from_b) = (floats(op, "the first operand", a)?, floats(op, "the second operand", b)?);
    Tensor::build(a.dims(), |y: &mut [f32]| {
        engine.pool.run_pieces(y, PIECE, |index, y| {
            let range = index * PIECE..index * PIECE + y.len();
            engine.tier.run(BinaryPiece { f, a: &from_a[range.clone()], b: &from_b[range], y });
        });
    })
}

#[derive(Clone, Copy)]
struct AddScaled(f32);

impl Binary for AddScaled {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
        s.add(a, s.mul(s.splat(self.0), b))
    }
}

#[derive(Clone, Copy)]
struct Product;

impl Binary for Product {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
        s.mul(a, b)
    }
}

#[derive(Clone, Copy)]
struct Scaled(f32);

impl Unary for Scaled {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.mul(s.splat(self.0), x)
    }
}

/// `a + beta * b`.
pub(crate) fn add_scaled(engine: &Engine, a: &Tensor, b: &Tensor, beta: f32) -> Result<Tensor> {
    binary(engine, "add_scaled", a, b, AddScaled(beta))
}

/// `a * b`.
pub(crate) fn mul(engine: &Engine, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    binary(engine, "mul", a, b, Product)
}

/// `alpha * x`.
pub(crate) fn scale(engine: &Engine, x: &Tensor, alpha: f32) -> Result<Tensor> {
    unary(engine, "scale", x, Scaled(alpha))
}

/// `into + b`, in place when `into` is not shared.
pub(crate) fn accumulate(engine: &Engine, mut into: Tensor, b: &Tensor) -> Result<Tensor> {
    expect_same("accumulate", "the second operand", &into, b)?;
    floats("accumulate", "the first operand", &into)?;
    let from = floats("accumulate", "the second operand", b)?;
    let Some(sum) = into.get_mut::<f32>()? else { return add_scaled(engine, &into, b, 1.0) };
    struct Accumulate<'a> {
        sum: &'a mut [f32],
        b: &'a [f32],
    }
    impl Kernel for Accumulate<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            self.sum.iter_mut().zip(self.b).for_each(|(sum, b)| *sum += b);
        }
    }
    engine.pool.run_pieces(sum, PIECE, |index, sum| {
        let b = &from[index * PIECE..][..sum.len()];
        engine.tier.run(Accumulate { sum, b });
    });
    Ok(into)
}
