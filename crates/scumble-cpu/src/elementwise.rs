//! Element-wise maps in f32 over f32 or bf16: one body over vectors, cut into pieces for the threads.
//!
//! These ops run at memory speed; a piece is large enough to be worth handing out and small enough to balance.

use half::bf16;
use scumble_tensor::{DType, Result, Tensor};

use crate::engine::Engine;
use crate::operands::{elements, expect_same};
use crate::simd::{Kernel, Scalar, Simd, with_scalar};

/// Elements of a piece.
pub(crate) const PIECE: usize = 16 << 10;

/// A function of one float.
pub(crate) trait Unary: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V;
}

/// A function of two floats.
pub(crate) trait Binary: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V;
}

struct UnaryPiece<'a, F, E> {
    f: F,
    x: &'a [E],
    y: &'a mut [E],
}

impl<F: Unary, E: Scalar> Kernel for UnaryPiece<'_, F, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (y, x) in self.y.chunks_mut(S::LANES).zip(self.x.chunks(S::LANES)) {
            E::write(s, y, self.f.apply(s, E::read(s, x)));
        }
    }
}

struct BinaryPiece<'a, F, E> {
    f: F,
    a: &'a [E],
    b: &'a [E],
    y: &'a mut [E],
}

impl<F: Binary, E: Scalar> Kernel for BinaryPiece<'_, F, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let operands = self.a.chunks(S::LANES).zip(self.b.chunks(S::LANES));
        for (y, (a, b)) in self.y.chunks_mut(S::LANES).zip(operands) {
            E::write(s, y, self.f.apply(s, E::read(s, a), E::read(s, b)));
        }
    }
}

/// `f(x)`.
pub(crate) fn unary(engine: &Engine, op: &'static str, x: &Tensor, f: impl Unary) -> Result<Tensor> {
    with_scalar!(op, x.dtype(), E => {
        let from = elements::<E>(op, "the input", x)?;
        Tensor::build(x.dims(), |y: &mut [E]| {
            engine.pool.run_pieces(y, PIECE, |index, y| {
                let x = &from[index * PIECE..][..y.len()];
                engine.tier.run(UnaryPiece { f, x, y });
            });
        })
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
    with_scalar!(op, a.dtype(), E => {
        let from_a = elements::<E>(op, "the first operand", a)?;
        let from_b = elements::<E>(op, "the second operand", b)?;
        Tensor::build(a.dims(), |y: &mut [E]| {
            engine.pool.run_pieces(y, PIECE, |index, y| {
                let range = index * PIECE..index * PIECE + y.len();
                engine.tier.run_rounding(BinaryPiece { f, a: &from_a[range.clone()], b: &from_b[range], y });
            });
        })
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
pub(crate) fn accumulate(engine: &Engine, into: Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "accumulate";
    expect_same(OP, "the second operand", &into, b)?;
    with_scalar!(OP, into.dtype(), E => accumulate_typed::<E>(engine, into, b))
}

fn accumulate_typed<E: Scalar>(engine: &Engine, mut into: Tensor, b: &Tensor) -> Result<Tensor> {
    let from = elements::<E>("accumulate", "the second operand", b)?;
    let Some(sum) = into.get_mut::<E>()? else { return add_scaled(engine, &into, b, 1.0) };
    engine.pool.run_pieces(sum, PIECE, |index, sum| {
        let b = &from[index * PIECE..][..sum.len()];
        engine.tier.run_rounding(Accumulate { sum, b });
    });
    Ok(into)
}

struct Accumulate<'a, E> {
    sum: &'a mut [E],
    b: &'a [E],
}

impl<E: Scalar> Kernel for Accumulate<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (sum, b) in self.sum.chunks_mut(S::LANES).zip(self.b.chunks(S::LANES)) {
            let total = s.add(E::read(s, sum), E::read(s, b));
            E::write(s, sum, total);
        }
    }
}

struct CastPiece<'a, E, Y> {
    x: &'a [E],
    y: &'a mut [Y],
}

impl<E: Scalar, Y: Scalar> Kernel for CastPiece<'_, E, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (y, x) in self.y.chunks_mut(S::LANES).zip(self.x.chunks(S::LANES)) {
            Y::write(s, y, E::read(s, x));
        }
    }
}

/// `x` in another element type; between f32 and bf16 with vectors, else number by number.
pub(crate) fn cast(engine: &Engine, x: &Tensor, dtype: DType) -> Result<Tensor> {
    match (x.dtype(), dtype) {
        (DType::F32, DType::BF16) => cast_typed::<f32, bf16>(engine, x),
        (DType::BF16, DType::F32) => cast_typed::<bf16, f32>(engine, x),
        _ => x.to_dtype(dtype),
    }
}

fn cast_typed<E: Scalar, Y: Scalar>(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    let from = x.as_slice::<E>()?;
    Tensor::build(x.dims(), |y: &mut [Y]| {
        engine.pool.run_pieces(y, PIECE, |index, y| {
            let x = &from[index * PIECE..][..y.len()];
            engine.tier.run(CastPiece { x, y });
        });
    })
}
