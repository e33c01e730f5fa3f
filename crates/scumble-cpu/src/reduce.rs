//! Sums over rows, over pictures and of squares.
//!
//! Rows are summed in pieces of at most 64 in f32, pieces in f64 and in order: the result depends on the shape alone.

use scumble_tensor::{DType, Result, Tensor, shape_error, with_element};

use crate::elementwise::PIECE;
use crate::engine::{Engine, Scratch};
use crate::operands::{elements, images, unsupported};
use crate::simd::{Kernel, Scalar, Simd, with_scalar};

/// Rows of a piece of an `[n, inner, c]` tensor: few enough for f32 sums, enough to be worth a task.
pub(crate) fn piece_rows(c: usize) -> usize {
    (PIECE / c.max(1)).clamp(1, 64)
}

/// Per image and channel, `[n, c]` each, the sums of `TERMS` functions: `add(image, first_row, rows, sums)` adds a
/// piece's rows to `sums [TERMS, c]`, which come as zeros.
pub(crate) fn column_sums<const TERMS: usize>(
    engine: &Engine,
    [n, inner, c]: [usize; 3],
    add: impl Fn(usize, usize, usize, &mut [f32]) + Sync,
) -> Result<Vec<f64>> {
    let rows = piece_rows(c);
    let pieces = inner.div_ceil(rows);
    let mut partial = Scratch::new(1, n * pieces * TERMS * c)?;
    let partial = &mut partial.all()[..n * pieces * TERMS * c];
    engine.pool.run_pieces(partial, TERMS * c, |index, sums| {
        let (image, first) = (index / pieces, (index % pieces) * rows);
        sums.fill(0.0);
        add(image, first, rows.min(inner - first), sums);
    });
    let mut total = vec![0.0f64; n * TERMS * c];
    if c > 0 {
        for (index, sums) in partial.chunks_exact(TERMS * c).enumerate() {
            let total = &mut total[(index / pieces) * TERMS * c..][..TERMS * c];
            total.iter_mut().zip(sums).for_each(|(total, &sum)| *total += f64::from(sum));
        }
    }
    Ok(total)
}

/// Adds rows to sums as wide as a row.
pub(crate) struct AddRows<'a, E> {
    pub x: &'a [E],
    pub sums: &'a mut [f32],
}

impl<E: Scalar> Kernel for AddRows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for row in self.x.chunks_exact(self.sums.len().max(1)) {
            self.sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.widen());
        }
    }
}

fn sums<E: Scalar>(engine: &Engine, x: &[E], shape: [usize; 3]) -> Result<Vec<f64>> {
    let [_, inner, c] = shape;
    column_sums::<1>(engine, shape, |image, first, rows, sums| {
        let x = &x[(image * inner + first) * c..][..rows * c];
        engine.tier.run(AddRows { x, sums });
    })
}

fn narrowed<E: Scalar>(dims: &[usize], values: &[f64]) -> Result<Tensor> {
    Tensor::build(dims, |to: &mut [E]| {
        to.iter_mut().zip(values).for_each(|(to, &value)| *to = E::from_f64(value));
    })
}

/// `[n, ..., c]` -> `[n, c]`.
pub(crate) fn sum_per_image(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "sum_per_image";
    let shape = images(OP, x)?;
    with_scalar!(OP, x.dtype(), E => {
        let sums = sums(engine, elements::<E>(OP, "the input", x)?, shape)?;
        narrowed::<E>(&[shape[0], shape[2]], &sums)
    })
}

/// `[..., c]` -> f32 `[c]`.
pub(crate) fn sum_rows(engine: &Engine, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "sum_rows";
    let (rows, c) = (x.shape().rows(), x.shape().last());
    with_scalar!(OP, x.dtype(), E => {
        let sums = sums(engine, elements::<E>(OP, "the input", x)?, [1, rows, c])?;
        narrowed::<f32>(&[c], &sums)
    })
}

/// Sum of squares, f64 throughout.
pub(crate) fn sum_squares(engine: &Engine, x: &Tensor) -> Result<f64> {
    if !x.dtype().is_float() {
        return Err(unsupported("sum_squares", format!("the input of type {}", x.dtype())));
    }
    if !matches!(x.dtype(), DType::F32 | DType::BF16) {
        let bytes = x.bytes()?;
        return with_element!(x.dtype(), T => {
            let values = bytemuck::cast_slice::<u8, T>(bytes);
            Ok(values.iter().map(|&value| scumble_tensor::Element::to_f64(value).powi(2)).sum())
        });
    }
    with_scalar!("sum_squares", x.dtype(), E => {
        let from = x.as_slice::<E>()?;
        let mut partial = vec![0.0f64; from.len().div_ceil(PIECE)];
        engine.pool.run_pieces(&mut partial, 1, |index, sum| {
            let start = index * PIECE;
            let x = &from[start..from.len().min(start + PIECE)];
            sum[0] = engine.tier.run(Squares { x });
        });
        Ok(partial.iter().sum())
    })
}

struct Squares<'a, E> {
    x: &'a [E],
}

impl<E: Scalar> Kernel for Squares<'_, E> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let mut lanes = [0.0f64; 16];
        let square = |x: E| f64::from(x.widen()) * f64::from(x.widen());
        let (whole, rest) = self.x.as_chunks::<16>();
        for chunk in whole {
            lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += square(x));
        }
        lanes.iter_mut().zip(rest).for_each(|(lane, &x)| *lane += square(x));
        lanes.iter().sum()
    }
}

/// `x [n, ..., c] + t [n, c]`.
pub(crate) fn add_per_image(engine: &Engine, x: &Tensor, t: &Tensor) -> Result<Tensor> {
    with_scalar!("add_per_image", x.dtype(), E => add_per_image_typed::<E>(engine, x, t))
}

fn add_per_image_typed<E: Scalar>(engine: &Engine, x: &Tensor, t: &Tensor) -> Result<Tensor> {
    let [n, inner, c] = images("add_per_image", x)?;
    let from = elements::<E>("add_per_image", "the input", x)?;
    if t.dims() != [n, c] {
        return Err(shape_error("add_per_image", "the addend", format!("[{n}, {c}]"), t.shape()));
    }
    let t = elements::<E>("add_per_image", "the addend", t)?;
    let rows = (PIECE / c.max(1)).max(1);
    let pieces = inner.div_ceil(rows);
    Tensor::build(x.dims(), |y: &mut [E]| {
        let y = crate::pool::SharedMut::new(y);
        engine.pool.run(n * pieces, |index, _| {
            let (image, first) = (index / pieces, (index % pieces) * rows);
            let (start, len) = ((image * inner + first) * c, rows.min(inner - first) * c);
            // SAFETY: every task has rows of its own.
            let y = unsafe { y.slice(start, len) };
            engine.tier.run_rounding(AddToRows {
                x: &from[start..start + len],
                t: &t[image * c..(image + 1) * c],
                y,
            });
        });
    })
}

struct AddToRows<'a, E> {
    x: &'a [E],
    t: &'a [E],
    y: &'a mut [E],
}

impl<E: Scalar> Kernel for AddToRows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.t.len().max(1);
        for (y, x) in self.y.chunks_exact_mut(c).zip(self.x.chunks_exact(c)) {
            let operands = x.chunks(S::LANES).zip(self.t.chunks(S::LANES));
            for (y, (x, t)) in y.chunks_mut(S::LANES).zip(operands) {
                E::write(s, y, s.add(E::read(s, x), E::read(s, t)));
            }
        }
    }
}
