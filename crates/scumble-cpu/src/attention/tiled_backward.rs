//! Attention backward on a matrix unit: one task a head and a range of keys; scores are computed again tile by tile.
//!
//! For a panel of keys, a task walks the queries in panels. Columns of tiles are keys:
//!
//! ```text
//! s   [query][key]  = q k^T             left: q                         right: k, both deep in width
//! dp  [query][key]  = do v^T            left: do                        right: v
//! p   = exp2(s - lse),  ds = p (dp - D)
//! dv^T [d][key]    += do^T p            left: do^T, deep in queries     right: p, pairs of queries
//! dk^T [d][key]    += q^T ds            left: q^T                       right: ds
//! dq  [query][d]   += ds k              left: ds, rows of queries       right: k, deep in keys
//! ```
//!
//! `p` and `ds` are rounded to bf16 when they enter the last three products; everything else is f32. `D = rowsum(do o)`
//! is the diagonal of a product on the same unit: where a query sees one key only, `dp - D` is then exactly 0, as it
//! should be. Gradients of keys and values belong to one task; those of the queries get a part from every range of
//! keys, and parts are added in order. The number of ranges depends on the sizes alone.

use half::bf16;
use scumble_tensor::backend::{AttentionGrads, AttentionSpec};
use scumble_tensor::{Result, Tensor};

use super::backward::{FEWEST_TASKS, shared, zeros};
use super::tiled::{Deep, Heads, PANEL, PANEL_STRIPS};
use super::{Sizes, like_queries, operands};
use crate::engine::{Engine, Scratch};
use crate::gemm::operand::Operand;
use crate::gemm::tiled_task::turn_tile;
use crate::operands::floats_of;
use crate::pool::SharedMut;
use crate::simd::math::{MASKED, exp2};
use crate::simd::{Kernel, Scalar, Simd};
use crate::tiles::pack::{Pack, Side, tile_blocks};
use crate::tiles::{DEPTH, SIDE, SUMS, Strips, TILE, TileKernel, TileUnit, Unit};

/// What all tasks read.
struct Problem {
    s: Sizes,
    /// Left: strips of queries.
    queries: Heads,
    upstream: Heads,
    /// Left: strips of the width, deep in queries.
    queries_turned: Heads,
    upstream_turned: Heads,
    /// Right: strips of keys.
    keys: Heads,
    values: Heads,
    /// Right: strips of the width, deep in keys.
    keys_turned: Heads,
    /// Log-sum-exp in base 2, and `D`: `[b * heads, padded]`, whole panels of queries.
    lse: Vec<f32>,
    dots: Vec<f32>,
    padded: usize,
    scale: f32,
    wanted: [bool; 3],
}

/// The tensors of the op.
pub(super) struct Given<'a> {
    pub d_o: &'a Tensor,
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub o: &'a Tensor,
    pub lse: &'a Tensor,
}

/// Gradients of attention.
pub(super) fn attention_grad(
    engine: &Engine,
    unit: Unit,
    given: &Given<'_>,
    spec: AttentionSpec,
    wanted: [bool; 3],
) -> Result<AttentionGrads> {
    const OP: &str = "attention_grad";
    let Given { q, k, v, .. } = *given;
    let s = Sizes::new(OP, q, k, v, &spec)?;
    let [queries, keys, values] = operands::<bf16>(OP, q, k, v)?;
    let upstream = like_queries::<bf16>(OP, "the upstream gradient", given.d_o, &s)?;
    let o = like_queries::<bf16>(OP, "the result", given.o, &s)?;
    let lse = floats_of(OP, "the log-sum-exp", given.lse, s.batch_heads() * s.queries)?;
    let of_queries = |x, deep| Heads::new(engine, &s, x, s.queries, deep, Side::Left);
    let of_keys = |x, deep| Heads::new(engine, &s, x, s.keys, deep, Side::Right);
    let padded = s.queries.next_multiple_of(PANEL);
    let upstream_heads = of_queries(upstream, Deep::Width)?;
    let problem = Problem {
        dots: dots(engine, unit, &s, &upstream_heads, o, padded),
        queries: of_queries(queries, Deep::Width)?,
        upstream: upstream_heads,
        queries_turned: of_queries(queries, Deep::Tokens)?,
        upstream_turned: of_queries(upstream, Deep::Tokens)?,
        keys: of_keys(keys, Deep::Width)?,
        values: of_keys(values, Deep::Width)?,
        keys_turned: of_keys(keys, Deep::Tokens)?,
        lse: padded_lse(&s, lse, padded),
        padded,
        s,
        scale: spec.scale,
        wanted,
    };
    let empty = |wanted: bool, like: &Tensor| if wanted { zeros(like).map(Some) } else { Ok(None) };
    let (mut d_k, mut d_v) = (empty(wanted[1], k)?, empty(wanted[2], v)?);
    let ranges = FEWEST_TASKS.div_ceil(s.batch_heads().max(1)).clamp(1, s.keys.div_ceil(PANEL).max(1));
    let part = if wanted[0] { padded * s.width.next_multiple_of(SIDE) } else { 0 };
    let mut parts = Scratch::new(1, s.batch_heads() * ranges * part)?;
    run_tasks(engine, unit, &problem, ranges, parts.all(), [&mut d_k, &mut d_v])?;
    let d_q = if wanted[0] { Some(add_parts(engine, &problem, ranges, parts.all(), q)?) } else { None };
    Ok(AttentionGrads { q: d_q, k: d_k, v: d_v })
}

/// Log-sum-exp in base 2, each head padded to whole panels.
fn padded_lse(s: &Sizes, lse: &[f32], padded: usize) -> Vec<f32> {
    let mut out = vec![0.0; s.batch_heads() * padded];
    for (to, from) in out.chunks_mut(padded.max(1)).zip(lse.chunks(s.queries.max(1))) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from * std::f32::consts::LOG2_E);
    }
    out
}

/// `D = rowsum(do o)` for each head, `[b * heads, padded]`.
fn dots(engine: &Engine, unit: Unit, s: &Sizes, upstream: &Heads, o: &[bf16], padded: usize) -> Vec<f32> {
    let mut dots = vec![0.0f32; s.batch_heads() * padded];
    engine.pool.run_pieces(&mut dots, padded.max(1), |head, dots| {
        let model = s.heads * s.width;
        let start = (head / s.heads) * s.queries * model + (head % s.heads) * s.width;
        unit.run(Dots { s, upstream: upstream.of(head), strip: upstream.strip, o: &o[start..], dots });
    });
    dots
}

struct Dots<'a> {
    s: &'a Sizes,
    upstream: &'a [bf16],
    strip: usize,
    o: &'a [bf16],
    dots: &'a mut [f32],
}

impl TileKernel for Dots<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd, U: TileUnit>(self, s: S, unit: U) {
        let sizes = self.s;
        let operand = Operand::strided(self.o, sizes.queries, sizes.width, sizes.heads * sizes.width);
        let block = &tile_blocks(1, sizes.width, (self.strip / TILE).max(1))[0];
        let mut right = vec![bf16::ZERO; self.strip];
        for (index, dots) in self.dots.chunks_mut(SIDE).take(sizes.queries.div_ceil(SIDE)).enumerate() {
            let first = index * SIDE;
            let count = SIDE.min(sizes.queries - first);
            Pack { operand: &operand, block, first, count, side: Side::Right, to: &mut right }.run(s);
            let mut sums = [0.0f32; SUMS];
            let at = Strips {
                a: self.upstream[index * self.strip..][..self.strip].as_ptr(),
                a_strip: self.strip,
                b: right.as_ptr(),
                b_strip: self.strip,
                steps: self.strip / TILE,
                c: sums.as_mut_ptr(),
                c_row: SUMS,
                c_column: SUMS,
                begins: true,
            };
            // SAFETY: one strip of each operand and one tile of sums.
            unsafe { unit.block(1, 1, &at) };
            dots.iter_mut().enumerate().for_each(|(i, dot)| *dot = sums[i * SIDE + i]);
        }
    }
}

fn run_tasks(
    engine: &Engine,
    unit: Unit,
    problem: &Problem,
    ranges: usize,
    parts: &mut [f32],
    [d_k, d_v]: [&mut Option<Tensor>; 2],
) -> Result<()> {
    let s = problem.s;
    let panels = s.keys.div_ceil(PANEL);
    let scratch = Scratch::new(engine.pool.threads(), Tiles::floats(&s))?;
    let part = if problem.wanted[0] { problem.padded * s.width.next_multiple_of(SIDE) } else { 0 };
    let parts = SharedMut::new(parts);
    let (d_k, d_v) = (shared::<bf16>(d_k)?, shared::<bf16>(d_v)?);
    engine.pool.run(s.batch_heads() * ranges, |task, worker| {
        let (head, range) = (task / ranges, task % ranges);
        unit.run(Range {
            p: problem,
            head,
            keys: (range * panels / ranges * PANEL, ((range + 1) * panels / ranges * PANEL).min(s.keys)),
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

/// Adds the ranges' parts in order, times the scale, into the queries' layout. Parts are tiles `[query][d]`.
fn add_parts(engine: &Engine, problem: &Problem, ranges: usize, parts: &[f32], q: &Tensor) -> Result<Tensor> {
    let s = problem.s;
    let (model, width_strips) = (s.heads * s.width, s.width.div_ceil(SIDE));
    let part = problem.padded * width_strips * SIDE;
    Tensor::build(q.dims(), |d_q: &mut [bf16]| {
        engine.pool.run_pieces(d_q, 16 * model, |piece, d_q| {
            for (index, to) in d_q.chunks_exact_mut(s.width).enumerate() {
                let (line, head) = (piece * 16 + index / s.heads, index % s.heads);
                let (batch, query) = (line / s.queries, line % s.queries);
                let task = (batch * s.heads + head) * ranges;
                for (strip, to) in to.chunks_mut(SIDE).enumerate() {
                    let at = (query / SIDE * width_strips + strip) * SUMS + query % SIDE * SIDE;
                    for (d, to) in to.iter_mut().enumerate() {
                        let of = |range: usize| parts[(task + range) * part + at + d];
                        let sum = (1..ranges).fold(of(0), |sum, range| sum + of(range));
                        *to = bf16::narrow(sum * problem.scale);
                    }
                }
            }
        });
    })
}

/// A range of keys of one head.
struct Range<'a> {
    p: &'a Problem,
    head: usize,
    keys: (usize, usize),
    d_q: &'a mut [f32],
    d_k: SharedMut<'a, bf16>,
    d_v: SharedMut<'a, bf16>,
    scratch: &'a mut [f32],
}

/// The scratch of one panel of keys.
struct Tiles<'a> {
    /// Tiles `[query strip][key strip]`.
    scores: &'a mut [f32],
    d_p: &'a mut [f32],
    /// Right: strips of keys, pairs of queries.
    p: &'a mut [bf16],
    d_scores: &'a mut [bf16],
    /// Left: strips of queries, deep in keys.
    d_score_rows: &'a mut [bf16],
    /// Tiles `[width strip][key strip]`.
    d_keys: &'a mut [f32],
    d_values: &'a mut [f32],
}

impl<'a> Tiles<'a> {
    fn floats(s: &Sizes) -> usize {
        2 * PANEL * PANEL + 3 * PANEL * PANEL / 2 + 2 * s.width.next_multiple_of(SIDE) * PANEL
    }

    fn new(s: &Sizes, scratch: &'a mut [f32]) -> Self {
        let square = PANEL * PANEL;
        let (scores, rest) = scratch.split_at_mut(square);
        let (d_p, rest) = rest.split_at_mut(square);
        let (p, rest) = rest.split_at_mut(square / 2);
        let (d_scores, rest) = rest.split_at_mut(square / 2);
        let (d_score_rows, rest) = rest.split_at_mut(square / 2);
        let (d_keys, rest) = rest.split_at_mut(s.width.next_multiple_of(SIDE) * PANEL);
        Tiles {
            scores,
            d_p,
            p: bytemuck::cast_slice_mut(p),
            d_scores: bytemuck::cast_slice_mut(d_scores),
            d_score_rows: bytemuck::cast_slice_mut(d_score_rows),
            d_keys,
            d_values: &mut rest[..s.width.next_multiple_of(SIDE) * PANEL],
        }
    }
}

/// A panel of keys and one of queries: first and count.
#[derive(Clone, Copy)]
struct At {
    key: usize,
    keys: usize,
    query: usize,
    queries: usize,
}

impl TileKernel for Range<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd, U: TileUnit>(mut self, s: S, unit: U) {
        self.d_q.fill(0.0);
        let scratch = std::mem::take(&mut self.scratch);
        let mut tiles = Tiles::new(&self.p.s, scratch);
        for key in (self.keys.0..self.keys.1).step_by(PANEL) {
            self.panel(s, unit, &mut tiles, key, PANEL.min(self.keys.1 - key));
        }
    }
}

impl Range<'_> {
    #[inline(always)]
    fn panel<S: Simd, U: TileUnit>(&mut self, s: S, unit: U, tiles: &mut Tiles<'_>, key: usize, keys: usize) {
        let problem = self.p;
        let sizes = problem.s;
        tiles.d_keys.fill(0.0);
        tiles.d_values.fill(0.0);
        // Queries before the first key of the panel do not see it.
        let begin = if sizes.causal { key / PANEL * PANEL } else { 0 };
        for query in (begin..sizes.queries).step_by(PANEL) {
            let at = At { key, keys, query, queries: PANEL.min(sizes.queries - query) };
            self.scores(unit, tiles, at);
            self.weigh(s, tiles, at);
            self.accumulate(unit, tiles, at);
        }
        let model = sizes.heads * sizes.width;
        let start =
            ((self.head / sizes.heads) * sizes.keys + key) * model + (self.head % sizes.heads) * sizes.width;
        for (wanted, to, from, factor) in [
            (problem.wanted[1], self.d_k, &*tiles.d_keys, problem.scale),
            (problem.wanted[2], self.d_v, &*tiles.d_values, 1.0),
        ] {
            if wanted {
                write_turned(s, from, to, start, model, sizes.width, keys, factor);
            }
        }
    }

    /// Scores and the gradient of the weights for one panel of each.
    #[inline(always)]
    fn scores<U: TileUnit>(&self, unit: U, tiles: &mut Tiles<'_>, at: At) {
        let problem = self.p;
        for (left, right, to) in [
            (&problem.queries, &problem.keys, &mut *tiles.scores),
            (&problem.upstream, &problem.values, &mut *tiles.d_p),
        ] {
            let strips = Strips {
                a: left.of(self.head)[at.query / SIDE * left.strip..].as_ptr(),
                a_strip: left.strip,
                b: right.of(self.head)[at.key / SIDE * right.strip..].as_ptr(),
                b_strip: right.strip,
                steps: left.strip / TILE,
                c: to.as_mut_ptr(),
                c_row: PANEL_STRIPS * SUMS,
                c_column: SUMS,
                begins: true,
            };
            // SAFETY: both heads have strips for these queries and keys, equally deep; the sums are a panel each way.
            unsafe { unit.grid(at.queries.div_ceil(SIDE), at.keys.div_ceil(SIDE), &strips) };
        }
    }

    /// `p` and `ds` from scores, rounded and packed.
    #[inline(always)]
    fn weigh<S: Simd>(&self, s: S, tiles: &mut Tiles<'_>, at: At) {
        let problem = self.p;
        let factor = s.splat(problem.scale * std::f32::consts::LOG2_E);
        let first = self.head * problem.padded + at.query;
        let (lse, dots) = (&problem.lse[first..first + PANEL], &problem.dots[first..first + PANEL]);
        let key_strips = at.keys.div_ceil(SIDE);
        let key_tiles = at.keys.div_ceil(DEPTH) * DEPTH / SIDE;
        for pair in 0..at.queries.next_multiple_of(DEPTH) / 2 {
            for strip in 0..key_strips {
                let mut weights = [[0.0f32; SIDE]; 2];
                let mut d_scores = [[0.0f32; SIDE]; 2];
                for half in 0..2 {
                    let query = 2 * pair + half;
                    if query >= at.queries {
                        continue;
                    }
                    let row = (query / SIDE * PANEL_STRIPS + strip) * SUMS + query % SIDE * SIDE;
                    let lse = s.splat(lse[query]);
                    let dot = s.splat(dots[query]);
                    let seen = self.seen(at, query, strip);
                    let mut scores = [MASKED; SIDE];
                    for lane in (0..SIDE).step_by(S::LANES) {
                        let score = s.read(&tiles.scores[row + lane..][..S::LANES]);
                        s.write(&mut scores[lane..][..S::LANES], s.sub(s.mul(score, factor), lse));
                    }
                    if seen < SIDE {
                        scores[seen..].fill(MASKED);
                    }
                    for lane in (0..SIDE).step_by(S::LANES) {
                        let p = exp2(s, s.read(&scores[lane..][..S::LANES]));
                        let d_p = s.read(&tiles.d_p[row + lane..][..S::LANES]);
                        s.write(&mut weights[half][lane..][..S::LANES], p);
                        s.write(&mut d_scores[half][lane..][..S::LANES], s.mul(p, s.sub(d_p, dot)));
                    }
                }
                let tile = (strip * (PANEL / DEPTH) + pair / SIDE) * TILE + pair % SIDE * DEPTH;
                for lane in (0..SIDE).step_by(S::LANES) {
                    let read = |of: &[f32; SIDE]| s.read(&of[lane..][..S::LANES]);
                    let p = &mut tiles.p[tile + 2 * lane..][..2 * S::LANES];
                    let d_s = &mut tiles.d_scores[tile + 2 * lane..][..2 * S::LANES];
                    // SAFETY: room for a register's pairs in both.
                    unsafe {
                        s.store_pairs(p.as_mut_ptr(), read(&weights[0]), read(&weights[1]));
                        s.store_pairs(d_s.as_mut_ptr(), read(&d_scores[0]), read(&d_scores[1]));
                    }
                }
                for (half, d_scores) in d_scores.iter().enumerate() {
                    let to = score_row(tiles.d_score_rows, 2 * pair + half, strip);
                    for lane in (0..SIDE).step_by(S::LANES) {
                        bf16::write(s, &mut to[lane..][..S::LANES], s.read(&d_scores[lane..][..S::LANES]));
                    }
                }
            }
            // Depths up to the end of the last tile.
            for (strip, half) in (key_strips..key_tiles).flat_map(|strip| [(strip, 0), (strip, 1)]) {
                score_row(tiles.d_score_rows, 2 * pair + half, strip).fill(bf16::ZERO);
            }
        }
    }

    /// How many keys of a strip a query sees.
    #[inline(always)]
    fn seen(&self, at: At, query: usize, strip: usize) -> usize {
        let present = at.keys - strip * SIDE;
        let seen = if self.p.s.causal {
            (at.query + query + 1).saturating_sub(at.key + strip * SIDE).min(present)
        } else {
            present
        };
        seen.min(SIDE)
    }

    /// The three products that sum over a panel.
    #[inline(always)]
    fn accumulate<U: TileUnit>(&mut self, unit: U, tiles: &mut Tiles<'_>, at: At) {
        let problem = self.p;
        let width_strips = problem.s.width.div_ceil(SIDE);
        for (wanted, left, right, to) in [
            (problem.wanted[2], &problem.upstream_turned, &*tiles.p, &mut *tiles.d_values),
            (problem.wanted[1], &problem.queries_turned, &*tiles.d_scores, &mut *tiles.d_keys),
        ] {
            if !wanted {
                continue;
            }
            let strips = Strips {
                a: left.of(self.head)[at.query / DEPTH * TILE..].as_ptr(),
                a_strip: left.strip,
                b: right.as_ptr(),
                b_strip: PANEL / DEPTH * TILE,
                steps: at.queries.div_ceil(DEPTH),
                c: to.as_mut_ptr(),
                c_row: PANEL_STRIPS * SUMS,
                c_column: SUMS,
                begins: false,
            };
            // SAFETY: strips of the width are deep enough for all queries, those of keys for a panel; there are sums for
            // the whole width.
            unsafe { unit.grid(width_strips, at.keys.div_ceil(SIDE), &strips) };
        }
        if problem.wanted[0] {
            let keys = &problem.keys_turned;
            let strips = Strips {
                a: tiles.d_score_rows.as_ptr(),
                a_strip: PANEL / DEPTH * TILE,
                b: keys.of(self.head)[at.key / DEPTH * TILE..].as_ptr(),
                b_strip: keys.strip,
                steps: at.keys.div_ceil(DEPTH),
                c: self.d_q[at.query / SIDE * width_strips * SUMS..].as_mut_ptr(),
                c_row: width_strips * SUMS,
                c_column: SUMS,
                begins: false,
            };
            // SAFETY: as above; the part has sums for whole panels of queries.
            unsafe { unit.grid(at.queries.div_ceil(SIDE), width_strips, &strips) };
        }
    }
}

/// The part of a row of `ds` (left tiles) that belongs to a strip of keys.
#[inline(always)]
fn score_row(tiles: &mut [bf16], query: usize, key_strip: usize) -> &mut [bf16] {
    let tile = query / SIDE * (PANEL / DEPTH) + key_strip / 2;
    &mut tiles[tile * TILE + query % SIDE * DEPTH + key_strip % 2 * SIDE..][..SIDE]
}

/// Writes tiles `[d][key]` times `factor` as rows of keys.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // where from, where to, how large
fn write_turned<S: Simd>(
    s: S,
    from: &[f32],
    to: SharedMut<'_, bf16>,
    start: usize,
    model: usize,
    width: usize,
    keys: usize,
    factor: f32,
) {
    let factor = s.splat(factor);
    for (row, strip) in
        (0..width.div_ceil(SIDE)).flat_map(|row| (0..keys.div_ceil(SIDE)).map(move |strip| (row, strip)))
    {
        let mut turned = [0.0f32; SUMS];
        turn_tile(s, &from[(row * PANEL_STRIPS + strip) * SUMS..][..SUMS], &mut turned);
        let first = row * SIDE;
        for (line, key) in turned.chunks_exact(SIDE).zip(strip * SIDE..keys) {
            // SAFETY: every task has keys of its own.
            let to = unsafe { to.slice(start + key * model + first, SIDE.min(width - first)) };
            for (to, sums) in to.chunks_mut(S::LANES).zip(line.chunks(S::LANES)) {
                bf16::write(s, to, s.mul(s.read(sums), factor));
            }
        }
    }
}
