//! Attention backward: one task a head and a range of keys; scores are computed again tile by tile.
//!
//! Here vectors run along keys. For a panel of keys, a task walks the queries in blocks:
//!
//! ```text
//! p  [query][key] = exp2(q k^T - lse)         rows of q, packed panel of k
//! ds [query][key] = p (do v^T - D)            rows of do, packed panel of v
//! dv^T [d][key] += do^T p                     strips of do
//! dk^T [d][key] += q^T ds                     strips of q
//! dq [query][d] += ds k                       rows of ds, rows of k as vectors
//! ```
//!
//! Gradients of keys and values belong to one task. Those of the queries get a part from every range of keys; parts
//! are added in order afterwards. The number of ranges depends on the sizes alone.

use scumble_tensor::backend::{AttentionGrads, AttentionSpec};
use scumble_tensor::{Result, Tensor};

use super::tiled_backward::{self, Given};
use super::{Sizes, like_queries, operands, split_heads, transpose_scaled, unit_for};
use crate::engine::{Engine, Scratch};
use crate::gemm::kernel::{ROWS, multiply_rows, multiply_strip, with_vectors, zero};
use crate::operands::floats_of;
use crate::pool::SharedMut;
use crate::simd::math::exp2;
use crate::simd::{Kernel, Scalar, Simd, with_scalar};

/// Queries of a block: a multiple of the tile's rows; two tiles of scores in the first-level cache.
const QUERY_BLOCK: usize = 8 * ROWS;
/// Fewest tasks to cut the keys for when there are few heads.
pub(super) const FEWEST_TASKS: usize = 16;

/// What all tasks read.
struct Problem<'a, E> {
    s: Sizes,
    k: &'a [E],
    v: &'a [E],
    /// `[b * heads, nq, row]`, heads apart.
    queries: &'a [f32],
    upstream: &'a [f32],
    row: usize,
    /// `[b * heads, nk, key_row]`.
    keys: &'a [f32],
    key_row: usize,
    /// Log-sum-exp in base 2, and `D`, `[b * heads, nq]`.
    lse: &'a [f32],
    dots: &'a [f32],
    scale: f32,
    wanted: [bool; 3],
}

/// Gradients of attention; see [`super`] for the formulas.
#[allow(clippy::too_many_arguments)] // the op has this many operands
pub(crate) fn attention_grad(
    engine: &Engine,
    d_o: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    o: &Tensor,
    lse: &Tensor,
    spec: AttentionSpec,
    wanted: [bool; 3],
) -> Result<AttentionGrads> {
    if let Some(unit) = unit_for(engine, q, &spec) {
        return tiled_backward::attention_grad(engine, unit, &Given { d_o, q, k, v, o, lse }, spec, wanted);
    }
    with_scalar!("attention_grad", q.dtype(), E => {
        attention_grad_typed::<E>(engine, d_o, q, k, v, o, lse, spec, wanted)
    })
}

#[allow(clippy::too_many_arguments)] // the op has this many operands
fn attention_grad_typed<E: Scalar>(
    engine: &Engine,
    d_o: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    o: &Tensor,
    lse: &Tensor,
    spec: AttentionSpec,
    wanted: [bool; 3],
) -> Result<AttentionGrads> {
    const OP: &str = "attention_grad";
    let s = Sizes::new(OP, q, k, v, &spec)?;
    let [q_data, k_data, v_data] = operands::<E>(OP, q, k, v)?;
    let upstream = like_queries::<E>(OP, "the upstream gradient", d_o, &s)?;
    let o = like_queries::<E>(OP, "the result", o, &s)?;
    let lse = floats_of(OP, "the log-sum-exp", lse, s.batch_heads() * s.queries)?;
    let shape = engine.panel_shape();
    let (row, key_row) = (s.width.next_multiple_of(ROWS), s.width.next_multiple_of(shape.lanes));
    let (query_floats, key_floats) = (s.batch_heads() * s.queries * row, s.batch_heads() * s.keys * key_row);
    let (mut queries, mut grads) = (Scratch::new(1, query_floats)?, Scratch::new(1, query_floats)?);
    let mut keys = Scratch::new(1, key_floats)?;
    split_heads(engine, &s, q_data, s.queries, row, queries.all());
    split_heads(engine, &s, upstream, s.queries, row, grads.all());
    split_heads(engine, &s, k_data, s.keys, key_row, keys.all());
    let lse: Vec<f32> = lse.iter().map(|lse| lse * std::f32::consts::LOG2_E).collect();
    let dots = dots(engine, &s, upstream, o);
    let problem = Problem {
        s,
        k: k_data,
        v: v_data,
        queries: queries.all(),
        upstream: grads.all(),
        row,
        keys: keys.all(),
        key_row,
        lse: &lse,
        dots: &dots,
        scale: spec.scale,
        wanted,
    };
    let empty = |wanted: bool, like: &Tensor| if wanted { zeros(like).map(Some) } else { Ok(None) };
    let (mut d_k, mut d_v) = (empty(wanted[1], k)?, empty(wanted[2], v)?);
    let ranges = FEWEST_TASKS.div_ceil(s.batch_heads().max(1)).clamp(1, s.keys.div_ceil(shape.width).max(1));
    let part = if wanted[0] { s.queries * key_row } else { 0 };
    let mut parts = Scratch::new(1, s.batch_heads() * ranges * part)?;
    run_tasks(engine, &problem, ranges, parts.all(), &mut d_k, &mut d_v)?;
    let d_q = if wanted[0] { Some(add_parts(engine, &problem, ranges, parts.all(), q)?) } else { None };
    Ok(AttentionGrads { q: d_q, k: d_k, v: d_v })
}

fn zeros(like: &Tensor) -> Result<Tensor> {
    Tensor::zeros(like.dtype(), like.dims())
}

/// The elements of an optional result.
pub(super) fn shared<E: Scalar>(tensor: &mut Option<Tensor>) -> Result<SharedMut<'_, E>> {
    let values = match tensor {
        Some(tensor) => tensor.get_mut::<E>()?,
        None => None,
    };
    Ok(SharedMut::new(values.unwrap_or_default()))
}

fn run_tasks<E: Scalar>(
    engine: &Engine,
    problem: &Problem<'_, E>,
    ranges: usize,
    parts: &mut [f32],
    d_k: &mut Option<Tensor>,
    d_v: &mut Option<Tensor>,
) -> Result<()> {
    let s = problem.s;
    let panel = engine.panel_shape().width;
    let panels = s.keys.div_ceil(panel);
    let floats = (2 * s.width + 2 * problem.row + 2 * QUERY_BLOCK) * panel;
    let scratch = Scratch::new(engine.pool.threads(), floats)?;
    let part = if problem.wanted[0] { s.queries * problem.key_row } else { 0 };
    let parts = SharedMut::new(parts);
    let (d_k, d_v) = (shared::<E>(d_k)?, shared::<E>(d_v)?);
    engine.pool.run(s.batch_heads() * ranges, |task, worker| {
        let (head, range) = (task / ranges, task % ranges);
        engine.tier.run(Range {
            p: problem,
            head,
            keys: (range * panels / ranges * panel, ((range + 1) * panels / ranges * panel).min(s.keys)),
            // SAFETY: every task has a part of its own.
            d_q: unsafe { parts.slice(task * part, part) },
            d_k,
            d_v,
            // SAFETY: no two tasks run as the same worker at once.
            scratch: unsafe { scratch.of(worker) },
        });
    });
    Ok(())
}

/// `D = rowsum(do o)` for each head, `[b * heads, nq]`.
fn dots<E: Scalar>(engine: &Engine, s: &Sizes, d_o: &[E], o: &[E]) -> Vec<f32> {
    let mut dots = vec![0.0f32; s.batch_heads() * s.queries];
    let pieces = s.queries.div_ceil(DOT_QUERIES);
    let parts = SharedMut::new(&mut dots);
    engine.pool.run(s.batch_heads() * pieces, |task, _| {
        let (head, first) = (task / pieces, (task % pieces) * DOT_QUERIES);
        let count = DOT_QUERIES.min(s.queries - first);
        // SAFETY: every task has queries of its own.
        let dots = unsafe { parts.slice(head * s.queries + first, count) };
        let model = s.heads * s.width;
        let start = ((head / s.heads) * s.queries + first) * model + (head % s.heads) * s.width;
        let (a, b) = (&d_o[start..], &o[start..]);
        engine.tier.run(Dots { a, b, row: model, width: s.width, dots });
    });
    dots
}

/// Queries of a task of [`dots`].
const DOT_QUERIES: usize = 256;

/// Products of rows, each summed in the order of the score kernel: where a query sees one key only, `do v^T - D` is
/// then exactly 0, as it should be.
struct Dots<'a, E> {
    a: &'a [E],
    b: &'a [E],
    row: usize,
    width: usize,
    dots: &'a mut [f32],
}

impl<E: Scalar> Kernel for Dots<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (group, dots) in self.dots.chunks_mut(8).enumerate() {
            // Eight rows side by side hide the latency of their chains.
            let mut sums = [s.splat(0.0); 8];
            for d in 0..self.width {
                for (index, sum) in sums.iter_mut().enumerate().take(dots.len()) {
                    let at = (group * 8 + index) * self.row + d;
                    *sum = s.fma(s.splat(self.a[at].widen()), s.splat(self.b[at].widen()), *sum);
                }
            }
            for (dot, sum) in dots.iter_mut().zip(sums) {
                let mut lanes = [0.0f32; 16];
                s.write(&mut lanes, sum);
                *dot = lanes[0];
            }
        }
    }
}

/// Adds the ranges' parts in order, times the scale, into the queries' layout.
fn add_parts<E: Scalar>(
    engine: &Engine,
    problem: &Problem<'_, E>,
    ranges: usize,
    parts: &[f32],
    q: &Tensor,
) -> Result<Tensor> {
    let (s, row) = (problem.s, problem.key_row);
    let model = s.heads * s.width;
    Tensor::build(q.dims(), |d_q: &mut [E]| {
        engine.pool.run_pieces(d_q, 16 * model, |piece, d_q| {
            for (index, to) in d_q.chunks_exact_mut(s.width).enumerate() {
                let (line, head) = (piece * 16 + index / s.heads, index % s.heads);
                let (batch, query) = (line / s.queries, line % s.queries);
                let from = |range: usize| {
                    let task = (batch * s.heads + head) * ranges + range;
                    &parts[(task * s.queries + query) * row..][..s.width]
                };
                for (d, to) in to.iter_mut().enumerate() {
                    let sum = (1..ranges).fold(from(0)[d], |sum, range| sum + from(range)[d]);
                    *to = E::narrow(sum * problem.scale);
                }
            }
        });
    })
}

/// A range of keys of one head.
struct Range<'a, E> {
    p: &'a Problem<'a, E>,
    head: usize,
    keys: (usize, usize),
    d_q: &'a mut [f32],
    d_k: SharedMut<'a, E>,
    d_v: SharedMut<'a, E>,
    scratch: &'a mut [f32],
}

impl<E: Scalar> Kernel for Range<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        self.d_q.fill(0.0);
        let panel = S::PANEL * S::LANES;
        for first in (self.keys.0..self.keys.1).step_by(panel) {
            let count = panel.min(self.keys.1 - first);
            with_vectors!(S, count.div_ceil(S::LANES), NV => self.panel::<S, NV>(s, first, count));
        }
    }
}

/// The scratch of one panel of keys.
struct Tiles<'a> {
    /// `[d][key]`, times scale and log2 e.
    keys: &'a mut [f32],
    /// `[d][key]`.
    values: &'a mut [f32],
    /// `[d rounded to strips][key]`.
    d_keys: &'a mut [f32],
    d_values: &'a mut [f32],
    /// `[query][key]`.
    p: &'a mut [f32],
    d_scores: &'a mut [f32],
}

impl<E: Scalar> Range<'_, E> {
    #[inline(always)]
    fn panel<S: Simd, const NV: usize>(&mut self, s: S, first: usize, count: usize) {
        let problem = self.p;
        let (sizes, panel) = (problem.s, NV * S::LANES);
        let width = sizes.width;
        let scratch = std::mem::take(&mut self.scratch);
        let (keys, rest) = scratch.split_at_mut(width * panel);
        let (values, rest) = rest.split_at_mut(width * panel);
        let (d_keys, rest) = rest.split_at_mut(problem.row * panel);
        let (d_values, rest) = rest.split_at_mut(problem.row * panel);
        let (p, d_scores) = rest.split_at_mut(QUERY_BLOCK * panel);
        let mut tiles = Tiles { keys, values, d_keys, d_values, p, d_scores };
        let model = sizes.heads * width;
        let start =
            ((self.head / sizes.heads) * sizes.keys + first) * model + (self.head % sizes.heads) * width;
        let factor = problem.scale * std::f32::consts::LOG2_E;
        transpose_scaled(&problem.k[start..], model, count, width, factor, tiles.keys, panel);
        transpose_scaled(&problem.v[start..], model, count, width, 1.0, tiles.values, panel);
        tiles.d_keys.fill(0.0);
        tiles.d_values.fill(0.0);
        // Queries before the first key of the panel do not see it.
        let begin = if sizes.causal { first / QUERY_BLOCK * QUERY_BLOCK } else { 0 };
        for query in (begin..sizes.queries).step_by(QUERY_BLOCK) {
            let queries = QUERY_BLOCK.min(sizes.queries - query);
            self.scores::<S, NV>(s, &mut tiles, first, query, queries);
            self.accumulate::<S, NV>(s, &mut tiles, query, queries);
            if problem.wanted[0] {
                self.query_gradient::<S, NV>(s, &tiles, (first, count), query, queries);
            }
        }
        for (wanted, to, from, factor) in [
            (problem.wanted[1], self.d_k, &*tiles.d_keys, problem.scale),
            (problem.wanted[2], self.d_v, &*tiles.d_values, 1.0),
        ] {
            for key in 0..if wanted { count } else { 0 } {
                // SAFETY: every task has keys of its own.
                let to = unsafe { to.slice(start + key * model, width) };
                to.iter_mut().enumerate().for_each(|(d, to)| *to = E::narrow(from[d * panel + key] * factor));
            }
        }
        self.scratch = scratch;
    }

    /// Rows of the queries, or of another tensor in their layout.
    #[inline(always)]
    fn rows<'r>(&self, of: &'r [f32], query: usize, queries: usize) -> &'r [f32] {
        let start = (self.head * self.p.s.queries + query) * self.p.row;
        &of[start..start + queries * self.p.row]
    }

    /// `p` and `d_scores` for a block of queries.
    #[inline(always)]
    fn scores<S: Simd, const NV: usize>(
        &self,
        s: S,
        tiles: &mut Tiles<'_>,
        first_key: usize,
        query: usize,
        queries: usize,
    ) {
        let problem = self.p;
        let (width, panel) = (problem.s.width, NV * S::LANES);
        let (q, d_o) =
            (self.rows(problem.queries, query, queries), self.rows(problem.upstream, query, queries));
        let at = self.head * problem.s.queries + query;
        let (lse, dots) = (&problem.lse[at..at + queries], &problem.dots[at..at + queries]);
        let (keys, values) = (&tiles.keys[..width * panel], &tiles.values[..width * panel]);
        for first in (0..queries).step_by(ROWS) {
            let row = |r: usize| (first + r).min(queries - 1);
            let [mut q_rows, mut d_o_rows] = [[std::ptr::null(); ROWS]; 2];
            for (r, (q_row, d_o_row)) in q_rows.iter_mut().zip(&mut d_o_rows).enumerate() {
                let start = row(r) * problem.row;
                (*q_row, *d_o_row) = (q[start..][..width].as_ptr(), d_o[start..][..width].as_ptr());
            }
            let mut acc = zero::<S, NV>(s);
            // SAFETY: each row is a slice of `width` floats, the panel holds `width` steps of `NV` vectors.
            unsafe { multiply_rows::<S, NV>(s, &mut acc, &q_rows, width, keys.as_ptr(), panel) };
            let lines = tiles.p[first * panel..].chunks_exact_mut(panel);
            for (r, (line, acc)) in lines.zip(&acc).enumerate() {
                let lse = s.splat(lse[row(r)]);
                for v in 0..NV {
                    s.write(&mut line[v * S::LANES..][..S::LANES], exp2(s, s.sub(acc[v], lse)));
                }
                if problem.s.causal {
                    let seen = (query + first + r + 1).saturating_sub(first_key).min(panel);
                    line[seen..].fill(0.0);
                }
            }
            let mut acc = zero::<S, NV>(s);
            // SAFETY: as above.
            unsafe { multiply_rows::<S, NV>(s, &mut acc, &d_o_rows, width, values.as_ptr(), panel) };
            let lines = tiles.p[first * panel..].chunks_exact(panel);
            let lines = lines.zip(tiles.d_scores[first * panel..].chunks_exact_mut(panel));
            for (r, ((p, line), acc)) in lines.zip(&acc).enumerate() {
                let dot = s.splat(dots[row(r)]);
                for v in 0..NV {
                    let p = s.read(&p[v * S::LANES..][..S::LANES]);
                    s.write(&mut line[v * S::LANES..][..S::LANES], s.mul(p, s.sub(acc[v], dot)));
                }
            }
        }
    }

    /// `dv^T += do^T p` and `dk^T += q^T ds`.
    #[inline(always)]
    fn accumulate<S: Simd, const NV: usize>(
        &self,
        s: S,
        tiles: &mut Tiles<'_>,
        query: usize,
        queries: usize,
    ) {
        let problem = self.p;
        let panel = NV * S::LANES;
        let products = [
            (problem.wanted[2], problem.upstream, &*tiles.p, &mut *tiles.d_values),
            (problem.wanted[1], problem.queries, &*tiles.d_scores, &mut *tiles.d_keys),
        ];
        for (wanted, rows, scores, sums) in products {
            if !wanted {
                continue;
            }
            let (rows, scores) = (self.rows(rows, query, queries), &scores[..queries * panel]);
            for (strip, sums) in sums[..problem.row * panel].chunks_exact_mut(ROWS * panel).enumerate() {
                let mut acc = load::<S, NV>(s, sums, panel);
                // SAFETY: rows are padded to whole strips, so each of the `queries` rows has six floats from
                // `strip`; `scores` holds `queries` steps of `NV` vectors.
                unsafe {
                    let rows = rows.as_ptr().add(strip * ROWS);
                    multiply_strip::<S, NV>(s, &mut acc, rows, problem.row, queries, scores.as_ptr(), panel);
                }
                for (line, acc) in sums.chunks_exact_mut(panel).zip(&acc) {
                    for v in 0..NV {
                        s.write(&mut line[v * S::LANES..][..S::LANES], acc[v]);
                    }
                }
            }
        }
    }

    /// `dq += ds k`.
    #[inline(always)]
    fn query_gradient<S: Simd, const NV: usize>(
        &mut self,
        s: S,
        tiles: &Tiles<'_>,
        (first_key, keys): (usize, usize),
        query: usize,
        queries: usize,
    ) {
        let (problem, panel) = (self.p, NV * S::LANES);
        let row = problem.key_row;
        let start = (self.head * problem.s.keys + first_key) * row;
        let key_rows = &problem.keys[start..start + keys * row];
        for first in (0..queries).step_by(ROWS) {
            let mut rows = [std::ptr::null(); ROWS];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = tiles.d_scores[(first + r).min(queries - 1) * panel..][..keys].as_ptr();
            }
            let count = ROWS.min(queries - first);
            let lines = &mut self.d_q[(query + first) * row..][..count * row];
            for column in (0..row).step_by(S::PANEL * S::LANES) {
                let vectors = (row - column).min(S::PANEL * S::LANES) / S::LANES;
                with_vectors!(S, vectors, W => {
                    let mut acc = load::<S, W>(s, &lines[column..], row);
                    // SAFETY: each row is a slice of `keys` floats; each of the `keys` rows of k has `W` vectors
                    // from `column` on.
                    unsafe {
                        let b = key_rows.as_ptr().add(column);
                        multiply_rows::<S, W>(s, &mut acc, &rows, keys, b, row);
                    }
                    for (line, acc) in lines.chunks_exact_mut(row).zip(&acc) {
                        for v in 0..W {
                            s.write(&mut line[column + v * S::LANES..][..S::LANES], acc[v]);
                        }
                    }
                });
            }
        }
    }
}

/// A tile from lines `row` floats apart; zeros for lines that are not there.
#[inline(always)]
fn load<S: Simd, const NV: usize>(s: S, from: &[f32], row: usize) -> [[S::V; NV]; ROWS] {
    let mut acc = zero::<S, NV>(s);
    for (line, acc) in from.chunks(row).zip(&mut acc) {
        for v in 0..NV {
            acc[v] = s.read(&line[v * S::LANES..][..S::LANES]);
        }
    }
    acc
}
