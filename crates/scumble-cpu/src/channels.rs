//! Each channel times a number of its own, and the sums that are its gradient. Both run at memory speed.

use scumble_tensor::{Result, Tensor, shape_error};

use crate::elementwise::PIECE;
use crate::engine::Engine;
use crate::operands::{channels, elements, expect_same, floats_of, optional};
use crate::reduce::column_sums;
use crate::simd::{Kernel, Scalar, Simd, with_scalar};

const OP: &str = "scale_channels";

/// `x [..., c] s [c] + bias [c] + add`.
pub(crate) fn scale_channels(
    engine: &Engine,
    x: &Tensor,
    s: &Tensor,
    bias: Option<&Tensor>,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    if x.dims().is_empty() {
        return Err(shape_error(OP, "input", "[..., c]", x.shape()));
    }
    let c = x.shape().last();
    let s = floats_of(OP, "one number a channel", s, c)?;
    let bias = bias.map(|bias| channels(OP, "bias", bias, c)).transpose()?;
    if let Some(add) = add {
        expect_same(OP, "add", x, add)?;
    }
    with_scalar!(OP, x.dtype(), E => {
        let from = elements::<E>(OP, "the input", x)?;
        let add = optional::<E>(OP, "add", add, x.numel())?;
        let piece = (PIECE / c.max(1)).max(1) * c;
        Tensor::build(x.dims(), |y: &mut [E]| {
            engine.pool.run_pieces(y, piece, |index, y| {
                let range = index * piece..index * piece + y.len();
                let (x, add) = (&from[range.clone()], add.map(|add| &add[range.clone()]));
                engine.tier.run(ScaleRows { x, s, bias: bias.as_deref(), add, y });
            });
        })
    })
}

struct ScaleRows<'a, E> {
    x: &'a [E],
    s: &'a [f32],
    bias: Option<&'a [f32]>,
    add: Option<&'a [E]>,
    y: &'a mut [E],
}

impl<E: Scalar> Kernel for ScaleRows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.s.len().max(1);
        for (row, (y, x)) in self.y.chunks_exact_mut(c).zip(self.x.chunks_exact(c)).enumerate() {
            for (block, (y, x)) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)).enumerate() {
                let at = block * S::LANES;
                let mut value = s.mul(E::read(s, x), s.read(&self.s[at..]));
                if let Some(bias) = self.bias {
                    value = s.add(value, s.read(&bias[at..]));
                }
                if let Some(add) = self.add {
                    value = s.add(value, E::read(s, &add[row * c + at..]));
                }
                E::write(s, y, value);
            }
        }
    }
}

/// f32 `[c]`: the sum over all rows of `a b`.
pub(crate) fn dot_rows(engine: &Engine, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "dot_rows";
    expect_same(OP, "the second operand", a, b)?;
    let (rows, c) = (a.shape().rows(), a.shape().last());
    let sums = with_scalar!(OP, a.dtype(), E => {
        let (a, b) = (elements::<E>(OP, "the first operand", a)?, elements::<E>(OP, "the second operand", b)?);
        column_sums::<1>(engine, [1, rows, c], |_, first, rows, sums| {
            let range = first * c..(first + rows) * c;
            engine.tier.run(AddProducts { a: &a[range.clone()], b: &b[range], sums });
        })
    })?;
    Tensor::build(&[c], |to: &mut [f32]| {
        to.iter_mut().zip(&sums).for_each(|(to, &sum)| *to = sum as f32);
    })
}

struct AddProducts<'a, E> {
    a: &'a [E],
    b: &'a [E],
    sums: &'a mut [f32],
}

impl<E: Scalar> Kernel for AddProducts<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let c = self.sums.len().max(1);
        for (a, b) in self.a.chunks_exact(c).zip(self.b.chunks_exact(c)) {
            self.sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a.widen() * b.widen());
        }
    }
}
