//! Attention without a score matrix: tiles of scores live in the first-level cache, softmax runs online.
//!
//! ```text
//! s = scale q k^T,   p = softmax(s),   o = p v,   lse = log sum exp s
//! D = rowsum(do o),  p = exp(s - lse),  ds = p (do v^T - D)
//! dv = p^T do,   dq = scale ds k,   dk = scale ds^T q
//! ```
//!
//! Heads lie side by side in a row of `q`, `k`, `v`; they are first copied apart, which costs little beside the
//! quadratic part and lets the inner loops run over short, dense rows. Scores are kept in base 2
//! (`scale * log2 e` is folded into one operand), so that `exp2` needs no multiplication. On a matrix unit the same is
//! done tile by tile: [`tiled_forward`], [`tiled_backward`].

pub(crate) mod backward;
pub(crate) mod forward;
mod tiled;
mod tiled_backward;
mod tiled_forward;

use scumble_tensor::backend::AttentionSpec;
use scumble_tensor::{DType, Result, Tensor, shape_error};

use crate::engine::Engine;
use crate::operands::{elements, expect_count};
use crate::pool::SharedMut;
use crate::simd::{Kernel, Scalar, Simd};
use crate::tiles::Unit;

/// Sizes of an attention, checked.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
    pub causal: bool,
}

impl Sizes {
    fn new(op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec) -> Result<Self> {
        let (&[batch, queries, all], &[_, keys, _]) = (q.dims(), k.dims()) else {
            return Err(shape_error(op, "queries and keys", "[b, tokens, heads * d]", q.shape()));
        };
        if spec.heads == 0 || all == 0 || !all.is_multiple_of(spec.heads) {
            return Err(shape_error(op, "width", format!("a multiple of {} heads", spec.heads), all));
        }
        for (what, tensor) in [("keys", k), ("values", v)] {
            if tensor.dims() != [batch, keys, all] {
                return Err(shape_error(op, what, format!("[{batch}, {keys}, {all}]"), tensor.shape()));
            }
        }
        if keys == 0 && batch * queries > 0 {
            return Err(shape_error(op, "keys", "at least one", keys));
        }
        let (heads, causal) = (spec.heads, spec.causal);
        Ok(Self { batch, heads, queries, keys, width: all / heads, causal })
    }

    fn batch_heads(&self) -> usize {
        self.batch * self.heads
    }

    /// Number of keys that queries before `end` see.
    fn keys_seen(&self, end: usize) -> usize {
        if self.causal { end.min(self.keys) } else { self.keys }
    }
}

/// The matrix unit that computes this attention, if any: its softmax looks for the largest score before the scale.
fn unit_for(engine: &Engine, q: &Tensor, spec: &AttentionSpec) -> Option<Unit> {
    engine.tier.unit().filter(|_| q.dtype() == DType::BF16 && spec.scale >= 0.0)
}

/// Copies heads apart, widened: `x [b, tokens, heads * d]` -> `[b * heads, tokens, row]`, zeros behind the `d` floats.
fn split_heads<E: Scalar>(engine: &Engine, s: &Sizes, x: &[E], tokens: usize, row: usize, to: &mut [f32]) {
    let to = SharedMut::new(to);
    let piece = 256;
    let pieces = tokens.div_ceil(piece);
    engine.pool.run(s.batch_heads() * pieces, |task, _| {
        let (head, first) = (task / pieces, (task % pieces) * piece);
        let count = piece.min(tokens - first);
        // SAFETY: every task has rows of its own.
        let to = unsafe { to.slice((head * tokens + first) * row, count * row) };
        let start = ((head / s.heads) * tokens + first) * s.heads * s.width + (head % s.heads) * s.width;
        let from = &x[start.min(x.len())..];
        engine.tier.run(CopyRows { from, step: s.heads * s.width, width: s.width, to, row });
    });
}

struct CopyRows<'a, E> {
    from: &'a [E],
    step: usize,
    width: usize,
    to: &'a mut [f32],
    row: usize,
}

impl<E: Scalar> Kernel for CopyRows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (token, to) in self.to.chunks_exact_mut(self.row.max(1)).enumerate() {
            let (values, rest) = to.split_at_mut(self.width);
            let from = &self.from[token * self.step..][..self.width];
            for (to, from) in values.chunks_mut(S::LANES).zip(from.chunks(S::LANES)) {
                s.write(to, E::read(s, from));
            }
            rest.fill(0.0);
        }
    }
}

/// Transposes `count` rows of `width` floats (`row` apart) times `factor` into `[width][to_row]`, zeros behind.
#[inline(always)]
fn transpose_scaled<E: Scalar>(
    from: &[E],
    row: usize,
    count: usize,
    width: usize,
    factor: f32,
    to: &mut [f32],
    to_row: usize,
) {
    for (d, line) in to.chunks_exact_mut(to_row).take(width).enumerate() {
        for (index, value) in line[..count].iter_mut().enumerate() {
            *value = from[index * row + d].widen() * factor;
        }
        line[count..].fill(0.0);
    }
}

/// The three operands' elements.
fn operands<'t, E: Scalar>(
    op: &'static str,
    q: &'t Tensor,
    k: &'t Tensor,
    v: &'t Tensor,
) -> Result<[&'t [E]; 3]> {
    Ok([elements(op, "the queries", q)?, elements(op, "the keys", k)?, elements(op, "the values", v)?])
}

/// Checks a tensor laid out as the queries.
fn like_queries<'t, E: Scalar>(
    op: &'static str,
    what: &'static str,
    tensor: &'t Tensor,
    s: &Sizes,
) -> Result<&'t [E]> {
    expect_count(op, what, tensor, s.batch * s.queries * s.heads * s.width)?;
    elements(op, what, tensor)
}
