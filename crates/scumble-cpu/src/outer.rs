//! Products of all pairs of rows and their gradients: small operands, plain loops that the compiler turns into vectors.

use scumble_tensor::{Result, Tensor, shape_error};

use crate::elementwise::PIECE;
use crate::engine::Engine;
use crate::operands::floats;
use crate::simd::{Kernel, Simd};

/// `[n, p, q, c]` of operands that fit.
fn sizes(op: &'static str, a: &Tensor, b: &Tensor) -> Result<[usize; 4]> {
    match (a.dims(), b.dims()) {
        (&[n, p, c], &[n_b, q, c_b]) if (n, c) == (n_b, c_b) => Ok([n, p, q, c]),
        _ => Err(shape_error(op, "the second operand", format!("[n, q, c] beside {}", a.shape()), b.shape())),
    }
}

/// `a [n, p, c]`, `b [n, q, c]` -> `[n, p, q, c]`.
pub(crate) fn outer(engine: &Engine, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let [n, p, q, c] = sizes("outer", a, b)?;
    let (left, right) = (floats("outer", "the first operand", a)?, floats("outer", "the second operand", b)?);
    Tensor::build(&[n, p, q, c], |y: &mut [f32]| {
        // A unit is all that meets one row of `a`.
        let (unit, units) = (q * c, per_piece(q * c));
        engine.pool.run_pieces(y, units * unit, |index, y| {
            for (at, y) in y.chunks_exact_mut(unit.max(1)).enumerate() {
                let place = index * units + at;
                let (row, others) = (&left[place * c..][..c], &right[place / p * unit..][..unit]);
                engine.tier.run(Spread { row, others, y });
            }
        });
    })
}

/// Units of this length that are worth a task.
fn per_piece(unit: usize) -> usize {
    (PIECE / 4 / unit.max(1)).max(1)
}

struct Spread<'a> {
    row: &'a [f32],
    others: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        if let &[factor] = self.row {
            self.y.iter_mut().zip(self.others).for_each(|(y, other)| *y = factor * other);
            return;
        }
        let c = self.row.len().max(1);
        for (y, other) in self.y.chunks_exact_mut(c).zip(self.others.chunks_exact(c)) {
            y.iter_mut().zip(self.row.iter().zip(other)).for_each(|(y, (a, b))| *y = a * b);
        }
    }
}

/// Gradients for `a` and `b`.
pub(crate) fn outer_grad(engine: &Engine, dy: &Tensor, a: &Tensor, b: &Tensor) -> Result<[Tensor; 2]> {
    const OP: &str = "outer_grad";
    let [n, p, q, c] = sizes(OP, a, b)?;
    if dy.dims() != [n, p, q, c] {
        return Err(shape_error(OP, "dy", format!("[{n}, {p}, {q}, {c}]"), dy.shape()));
    }
    let (left, right) = (floats(OP, "the first operand", a)?, floats(OP, "the second operand", b)?);
    let d_y = floats(OP, "dy", dy)?;
    // Row i of an image meets rows j that lie side by side; the other way round they lie q rows apart.
    let d_a = Tensor::build(a.dims(), |to: &mut [f32]| {
        let units = per_piece(q * c);
        engine.pool.run_pieces(to, units * c, |index, to| {
            for (at, to) in to.chunks_exact_mut(c.max(1)).enumerate() {
                let place = index * units + at;
                let (d_y, others) = (&d_y[place * q * c..], &right[place / p * q * c..]);
                engine.tier.run(Gather { d_y, step: c, others, count: q, to });
            }
        });
    })?;
    let d_b = Tensor::build(b.dims(), |to: &mut [f32]| {
        let units = per_piece(p * c);
        engine.pool.run_pieces(to, units * c, |index, to| {
            for (at, to) in to.chunks_exact_mut(c.max(1)).enumerate() {
                let (image, j) = ((index * units + at) / q, (index * units + at) % q);
                let (d_y, others) = (&d_y[(image * p * q + j) * c..], &left[image * p * c..]);
                engine.tier.run(Gather { d_y, step: q * c, others, count: p, to });
            }
        });
    })?;
    Ok([d_a, d_b])
}

/// `to = sum over i of d_y[i step ..] others[i c ..]`.
struct Gather<'a> {
    d_y: &'a [f32],
    step: usize,
    others: &'a [f32],
    count: usize,
    to: &'a mut [f32],
}

impl Kernel for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let c = self.to.len();
        self.to.fill(0.0);
        for i in 0..self.count {
            let (d_y, other) = (&self.d_y[i * self.step..][..c], &self.others[i * c..][..c]);
            self.to.iter_mut().zip(d_y.iter().zip(other)).for_each(|(to, (d_y, other))| *to += d_y * other);
        }
    }
}
