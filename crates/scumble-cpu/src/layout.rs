//! Ops that only move elements: concatenation, slices, nearest upsampling; for every element type.

use scumble_tensor::memory::HostBuffer;
use scumble_tensor::{Result, Tensor, shape_error};

use crate::elementwise::PIECE;
use crate::engine::Engine;
use crate::operands::elements_of;
use crate::simd::{Kernel, Scalar, Simd, with_scalar};

/// Bytes a task moves.
const PIECE_BYTES: usize = 4 * PIECE;

fn with_last(x: &Tensor, last: usize) -> Vec<usize> {
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(last);
    dims
}

/// A new tensor like `like` whose rows of `row_bytes` are written by `fill(row, bytes)`.
fn by_rows(
    engine: &Engine,
    like: &Tensor,
    dims: &[usize],
    row_bytes: usize,
    fill: impl Fn(usize, &mut [u8]) + Sync,
) -> Result<Tensor> {
    let count: usize = scumble_tensor::Shape::new(dims)?.numel();
    let mut buffer = HostBuffer::for_overwrite(count * like.dtype().size())?;
    if let Some(rows) = PIECE_BYTES.checked_div(row_bytes) {
        let rows = rows.max(1);
        engine.pool.run_pieces(buffer.as_mut_bytes(), rows * row_bytes, |index, piece| {
            for (row, bytes) in piece.chunks_exact_mut(row_bytes).enumerate() {
                fill(index * rows + row, bytes);
            }
        });
    }
    Tensor::from_buffer(like.dtype(), buffer, dims)
}

/// Errors unless all parts have the first one's type and, apart from dimension `free`, its sizes.
fn compatible<'t>(op: &'static str, parts: &[&'t Tensor], last_is_free: bool) -> Result<&'t Tensor> {
    let [first, rest @ ..] = parts else { return Err(shape_error(op, "parts", "at least one", 0)) };
    let fixed = |t: &'t Tensor| -> Option<&'t [usize]> {
        if last_is_free {
            t.dims().split_last().map(|(_, d)| d)
        } else {
            t.dims().split_first().map(|(_, d)| d)
        }
    };
    for part in std::iter::once(first).chain(rest) {
        part.check_dtype(op, first.dtype())?;
        part.bytes()?;
        if fixed(part).is_none() || fixed(part) != fixed(first) {
            return Err(shape_error(op, "a part", first.shape(), part.shape()));
        }
    }
    Ok(first)
}

/// Along the last dimension.
pub(crate) fn concat_channels(engine: &Engine, parts: &[&Tensor]) -> Result<Tensor> {
    let first = compatible("concat_channels", parts, true)?;
    let size = first.dtype().size();
    let mut sources = Vec::with_capacity(parts.len());
    for part in parts {
        sources.push((part.bytes()?, part.shape().last() * size));
    }
    let channels = parts.iter().map(|part| part.shape().last()).sum();
    by_rows(engine, first, &with_last(first, channels), channels * size, |row, to| {
        let mut at = 0;
        for &(from, len) in &sources {
            to[at..at + len].copy_from_slice(&from[row * len..(row + 1) * len]);
            at += len;
        }
    })
}

/// `len` channels from `start`.
pub(crate) fn slice_channels(engine: &Engine, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    let c = x.shape().last();
    if x.shape().rank() == 0 || start.checked_add(len).is_none_or(|end| end > c) {
        return Err(shape_error(
            "slice_channels",
            "channels",
            format!("within {c}"),
            format!("{start}+{len}"),
        ));
    }
    let (from, size) = (x.bytes()?, x.dtype().size());
    by_rows(engine, x, &with_last(x, len), len * size, |row, to| {
        let at = (row * c + start) * size;
        to.copy_from_slice(&from[at..at + len * size]);
    })
}

/// Along the first dimension.
pub(crate) fn concat_rows(parts: &[&Tensor]) -> Result<Tensor> {
    let first = compatible("concat_rows", parts, false)?;
    let mut dims = first.dims().to_vec();
    dims[0] = parts.iter().map(|part| part.shape().first()).sum();
    let bytes = scumble_tensor::Shape::new(&dims)?.numel() * first.dtype().size();
    let mut buffer = HostBuffer::for_overwrite(bytes)?;
    let mut rest = buffer.as_mut_bytes();
    for part in parts {
        let from = part.bytes()?;
        let (to, after) = rest.split_at_mut(from.len());
        to.copy_from_slice(from);
        rest = after;
    }
    Tensor::from_buffer(first.dtype(), buffer, &dims)
}

/// `len` entries of the first dimension from `start`.
pub(crate) fn slice_rows(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    let n = x.shape().first();
    if x.shape().rank() == 0 || start.checked_add(len).is_none_or(|end| end > n) {
        return Err(shape_error("slice_rows", "rows", format!("within {n}"), format!("{start}+{len}")));
    }
    let mut dims = x.dims().to_vec();
    dims[0] = len;
    let row = x.numel() / n.max(1) * x.dtype().size();
    Tensor::from_bytes(x.dtype(), &x.bytes()?[start * row..(start + len) * row], &dims)
}

/// `[n, h, w, c]` -> `[n, size[0], size[1], c]`.
pub(crate) fn upsample(engine: &Engine, x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let [n, h, w, c] = x.nhwc("upsample_nearest")?;
    if (h == 0 || w == 0) && size[0] * size[1] > 0 {
        return Err(shape_error("upsample_nearest", "input", "at least one pixel", x.shape()));
    }
    let (from, pixel) = (x.bytes()?, c * x.dtype().size());
    by_rows(engine, x, &[n, size[0], size[1], c], pixel, |row, to| {
        let (line, column) = (row / size[1], row % size[1]);
        let (image, line) = (line / size[0], line % size[0]);
        let at = ((image * h + line * h / size[0]) * w + column * w / size[1]) * pixel;
        to.copy_from_slice(&from[at..at + pixel]);
    })
}

/// Gradient of [`upsample`]: every input pixel gets the sum over its copies.
pub(crate) fn upsample_grad(engine: &Engine, d_y: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    with_scalar!("upsample_nearest_grad", d_y.dtype(), E => upsample_grad_typed::<E>(engine, d_y, size))
}

fn upsample_grad_typed<E: Scalar>(engine: &Engine, d_y: &Tensor, [h, w]: [usize; 2]) -> Result<Tensor> {
    const OP: &str = "upsample_nearest_grad";
    let [n, big_h, big_w, c] = d_y.nhwc(OP)?;
    let from = elements_of::<E>(OP, "the upstream gradient", d_y, n * big_h * big_w * c)?;
    if h == 0 || w == 0 {
        return Err(shape_error(OP, "size", "at least one pixel", format!("[{h}, {w}]")));
    }
    // Copies of source index i are those j with floor(j * small / big) = i.
    let copies =
        |i: usize, small: usize, big: usize| (i * big).div_ceil(small)..((i + 1) * big).div_ceil(small);
    Tensor::build(&[n, h, w, c], |d_x: &mut [E]| {
        engine.pool.run_pieces(d_x, w * c, |line, d_x| {
            let (image, y) = (line / h, line % h);
            let lines: Vec<&[E]> = copies(y, h, big_h)
                .map(|big_y| &from[(image * big_h + big_y) * big_w * c..][..big_w * c])
                .collect();
            for (x, d_x) in d_x.chunks_exact_mut(c.max(1)).enumerate() {
                engine.tier.run(SumPixels { lines: &lines, pixels: copies(x, w, big_w), sum: d_x });
            }
        });
    })
}

/// Sums the same pixels of some lines, in order.
struct SumPixels<'a, E> {
    lines: &'a [&'a [E]],
    pixels: std::ops::Range<usize>,
    sum: &'a mut [E],
}

impl<E: Scalar> Kernel for SumPixels<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.sum.len();
        for at in (0..c).step_by(S::LANES) {
            let end = (at + S::LANES).min(c);
            let mut sum = s.splat(0.0);
            for line in self.lines {
                for pixel in self.pixels.clone() {
                    sum = s.add(sum, E::read(s, &line[pixel * c + at..pixel * c + end]));
                }
            }
            E::write(s, &mut self.sum[at..end], sum);
        }
    }
}
