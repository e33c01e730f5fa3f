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

use super::backward::{FEWEST_TASKS, shared};
use super::tiled::{Deep, Heads, PAIR, PANEL, PANEL_STRIPS};
use super::{Sizes, like_queries, operands};
use crate::engine::{Engine, Scratch};
use crate::gemm::operand::Operand;
use crate::gemm::tiled_task::turn_tile;
use crate::operands::floats_of;
use crate::pool::SharedMut;
use crate::simd::math::{MASKED, exp2_for_bf16};
use crate::simd::{Kernel, Scalar, Simd};
use crate::tiles::pack::{Pack, Side, tile_blocks};
use crate::tiles::{Ahead, DEPTH, SIDE, SUMS, Strips, TILE, TileKernel, TileUnit, Unit};

/// Fewest keys of a range, but for the only one: each range has a part of the queries' gradient to write and to add.
const RANGE_KEYS: usize = 4 * PANEL;

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
    // Every key belongs to a panel, which writes all of it.
    let room = |wanted: bool, like: &Tensor| {
        wanted.then(|| Tensor::build(like.dims(), |_: &mut [bf16]| ())).transpose()
    };
    let (mut d_k, mut d_v) = (room(wanted[1], k)?, room(wanted[2], v)?);
    let ranges = FEWEST_TASKS.div_ceil(s.batch_heads().max(1)).clamp(1, s.keys.div_ceil(RANGE_KEYS).max(1));
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
                a_row: None,
                a_rows: count,
                b: right.as_ptr(),
                b_strip: self.strip,
                depth: sizes.width,
                c: sums.as_mut_ptr(),
                c_row: SUMS,
                c_column: SUMS,
                begins: true,
                ahead: Ahead::NONE,
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

/// Adds the ranges' parts in order, times the scale, into the queries' layout.
fn add_parts(engine: &Engine, problem: &Problem, ranges: usize, parts: &[f32], q: &Tensor) -> Result<Tensor> {
    const LINES: usize = 16;
    let model = problem.s.heads * problem.s.width;
    Tensor::build(q.dims(), |d_q: &mut [bf16]| {
        engine.pool.run_pieces(d_q, LINES * model, |piece, d_q| {
            engine.tier.run_rounding(AddParts { problem, ranges, parts, first: piece * LINES, d_q });
        });
    })
}

/// [`add_parts`] for some lines from `first` on. Parts are tiles `[query][d]`.
struct AddParts<'a> {
    problem: &'a Problem,
    ranges: usize,
    parts: &'a [f32],
    first: usize,
    d_q: &'a mut [bf16],
}

impl Kernel for AddParts<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sizes = self.problem.s;
        let width_strips = sizes.width.div_ceil(SIDE);
        let part = self.problem.padded * width_strips * SIDE;
        let scale = s.splat(self.problem.scale);
        let model = sizes.heads * sizes.width;
        // Tile by tile: a line across all heads would find its numbers on few lines of the cache.
        for (head, strip) in
            (0..sizes.heads).flat_map(|head| (0..width_strips).map(move |strip| (head, strip)))
        {
            let column = head * sizes.width + strip * SIDE;
            let count = SIDE.min(sizes.width - strip * SIDE);
            for (index, to) in self.d_q.chunks_exact_mut(model).enumerate() {
                let (batch, query) =
                    ((self.first + index) / sizes.queries, (self.first + index) % sizes.queries);
                let first = (batch * sizes.heads + head) * self.ranges * part;
                let at = first + (query / SIDE * width_strips + strip) * SUMS + query % SIDE * SIDE;
                for (lane, to) in to[column..][..count].chunks_mut(S::LANES).enumerate() {
                    let at = at + lane * S::LANES;
                    let mut sum = s.read(&self.parts[at..][..S::LANES]);
                    for range in 1..self.ranges {
                        sum = s.add(sum, s.read(&self.parts[at + range * part..][..S::LANES]));
                    }
                    bf16::write(s, to, s.mul(sum, scale));
                }
            }
        }
    }
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
    /// Tiles `[query strip][key strip]` of a square, which stay in the first-level cache.
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
        2 * PAIR * PAIR * SUMS + 3 * PANEL * PANEL / 2 + 2 * s.width.next_multiple_of(SIDE) * PANEL
    }

    fn new(s: &Sizes, scratch: &'a mut [f32]) -> Self {
        let square = PANEL * PANEL;
        let (scores, rest) = scratch.split_at_mut(PAIR * PAIR * SUMS);
        let (d_p, rest) = rest.split_at_mut(PAIR * PAIR * SUMS);
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
    /// Whether these are the panel of keys' first queries.
    begins: bool,
}

/// Two strips of queries and two of keys: the first of each, counted from the panels'.
#[derive(Clone, Copy)]
struct Square {
    query: usize,
    key: usize,
}

impl TileKernel for Range<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd, U: TileUnit>(mut self, s: S, unit: U) {
        // What no panel of keys begins: queries that come before all keys of the range.
        if self.p.s.causal || self.keys.0 >= self.keys.1 {
            self.d_q.fill(0.0);
        }
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
        // Queries before the first key of the panel do not see it.
        let begin = if sizes.causal { key / PANEL * PANEL } else { 0 };
        if begin >= sizes.queries {
            tiles.d_keys.fill(0.0);
            tiles.d_values.fill(0.0);
        }
        for query in (begin..sizes.queries).step_by(PANEL) {
            let queries = PANEL.min(sizes.queries - query);
            let at = At { key, keys, query, queries, begins: query == begin };
            for query in (0..queries.div_ceil(SIDE)).step_by(PAIR) {
                for key in (0..keys.div_ceil(SIDE)).step_by(PAIR) {
                    self.scores(unit, tiles, at, Square { query, key });
                    self.weigh(s, tiles, at, Square { query, key });
                }
            }
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

    /// Scores and the gradient of the weights for a square.
    #[inline(always)]
    fn scores<U: TileUnit>(&self, unit: U, tiles: &mut Tiles<'_>, at: At, square: Square) {
        let problem = self.p;
        let rows = (at.queries.div_ceil(SIDE) - square.query).min(PAIR);
        let columns = (at.keys.div_ceil(SIDE) - square.key).min(PAIR);
        for (left, right, to) in [
            (&problem.queries, &problem.keys, &mut *tiles.scores),
            (&problem.upstream, &problem.values, &mut *tiles.d_p),
        ] {
            let strips = Strips {
                a: left.of(self.head)[(at.query / SIDE + square.query) * left.strip..].as_ptr(),
                a_strip: left.strip,
                a_row: None,
                a_rows: at.queries - square.query * SIDE,
                b: right.of(self.head)[(at.key / SIDE + square.key) * right.strip..].as_ptr(),
                b_strip: right.strip,
                depth: problem.s.width,
                c: to.as_mut_ptr(),
                c_row: PAIR * SUMS,
                c_column: SUMS,
                begins: true,
                ahead: Ahead::NONE,
            };
            // SAFETY: both heads have strips for these queries and keys, equally deep; there are sums for a square.
            unsafe { unit.block(rows, columns, &strips) };
        }
    }

    /// `p` and `ds` from the scores of a square, rounded and packed: tile by tile of 16 queries and 16 keys.
    #[inline(always)]
    fn weigh<S: Simd>(&self, s: S, tiles: &mut Tiles<'_>, at: At, square: Square) {
        let problem = self.p;
        let factor = problem.scale * std::f32::consts::LOG2_E;
        let first = self.head * problem.padded + at.query;
        let (lse, dots) = (&problem.lse[first..first + PANEL], &problem.dots[first..first + PANEL]);
        let key_strips = at.keys.div_ceil(SIDE);
        for row in square.query..square.query + PAIR {
            for strip in square.key..(square.key + PAIR).min(key_strips) {
                let sums = ((row - square.query) * PAIR + strip - square.key) * SUMS;
                let pairs = strip * (PANEL / DEPTH) * TILE + row * SUMS;
                let query = row * SIDE;
                let tile = Weigh {
                    scores: &tiles.scores[sums..][..SUMS],
                    d_p: &tiles.d_p[sums..][..SUMS],
                    lse: &lse[query..][..SIDE],
                    dots: &dots[query..][..SIDE],
                    factor,
                    p: &mut tiles.p[pairs..][..SUMS],
                    d_scores: &mut tiles.d_scores[pairs..][..SUMS],
                    rows: &mut tiles.d_score_rows[(row * (PANEL / DEPTH) + strip / 2) * TILE..][..TILE],
                    half: strip % 2,
                };
                // Later queries see no less.
                if query + SIDE <= at.queries && self.seen(at, query, strip) == SIDE {
                    tile.run(s, |_| SIDE);
                } else {
                    tile.run(s, |line| {
                        if query + line < at.queries { self.seen(at, query + line, strip) } else { 0 }
                    });
                }
            }
            // Depths up to the end of the last tile.
            if square.key + 1 == key_strips {
                let tile = &mut tiles.d_score_rows[(row * (PANEL / DEPTH) + key_strips / 2) * TILE..][..TILE];
                for line in tile.chunks_exact_mut(DEPTH) {
                    line[SIDE..].fill(bf16::ZERO);
                }
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
                a_row: None,
                a_rows: problem.s.width,
                b: right.as_ptr(),
                b_strip: PANEL / DEPTH * TILE,
                depth: at.queries,
                c: to.as_mut_ptr(),
                c_row: PANEL_STRIPS * SUMS,
                c_column: SUMS,
                begins: at.begins,
                ahead: Ahead::NONE,
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
                a_row: None,
                a_rows: at.queries,
                b: keys.of(self.head)[at.key / DEPTH * TILE..].as_ptr(),
                b_strip: keys.strip,
                depth: at.keys,
                c: self.d_q[at.query / SIDE * width_strips * SUMS..].as_mut_ptr(),
                c_row: width_strips * SUMS,
                c_column: SUMS,
                begins: at.key == self.keys.0 && !problem.s.causal,
                ahead: Ahead::NONE,
            };
            // SAFETY: as above; the part has sums for whole panels of queries.
            unsafe { unit.grid(at.queries.div_ceil(SIDE), width_strips, &strips) };
        }
    }
}

/// `p` and `ds` of 16 queries and 16 keys.
struct Weigh<'a> {
    /// `[query][key]`.
    scores: &'a [f32],
    d_p: &'a [f32],
    /// Of each query.
    lse: &'a [f32],
    dots: &'a [f32],
    factor: f32,
    /// Half a right tile: pairs of queries.
    p: &'a mut [bf16],
    d_scores: &'a mut [bf16],
    /// A left tile: rows of queries, the keys in its first or second half.
    rows: &'a mut [bf16],
    half: usize,
}

impl Weigh<'_> {
    /// `seen` tells how many of the keys a query sees.
    #[inline(always)]
    fn run<S: Simd>(self, s: S, seen: impl Fn(usize) -> usize) {
        let factor = s.splat(self.factor);
        for pair in 0..SIDE / 2 {
            let seen = [seen(2 * pair), seen(2 * pair + 1)];
            for lane in (0..SIDE).step_by(S::LANES) {
                let mut weights = [s.splat(0.0); 2];
                let mut d_scores = [s.splat(0.0); 2];
                for half in 0..2 {
                    let (query, visible) = (2 * pair + half, seen[half].saturating_sub(lane));
                    let score = s.read(&self.scores[query * SIDE + lane..][..S::LANES]);
                    let mut exponent = s.fma(score, factor, s.splat(-self.lse[query]));
                    if visible < S::LANES {
                        exponent = masked(s, exponent, visible);
                    }
                    let d_p = s.read(&self.d_p[query * SIDE + lane..][..S::LANES]);
                    weights[half] = exp2_for_bf16(s, exponent);
                    d_scores[half] = s.mul(weights[half], s.sub(d_p, s.splat(self.dots[query])));
                    if visible == 0 {
                        // Queries behind the last have sums of no meaning.
                        d_scores[half] = s.splat(0.0);
                    }
                }
                let at = pair * DEPTH + 2 * lane;
                let row = |query: usize| query * DEPTH + self.half * SIDE + lane;
                let rows = [row(2 * pair), row(2 * pair + 1)];
                let p = self.p[at..][..2 * S::LANES].as_mut_ptr();
                let pairs = self.d_scores[at..][..2 * S::LANES].as_mut_ptr();
                let rows = rows.map(|row| self.rows[row..][..S::LANES].as_mut_ptr());
                // SAFETY: room for a register's pairs in both, and for a register in each row.
                unsafe {
                    s.store_pairs(p, weights[0], weights[1]);
                    s.store_pairs_and_rows(pairs, rows, d_scores[0], d_scores[1]);
                }
            }
        }
    }
}

/// The first `visible` of the exponents, the others masked.
#[inline(always)]
fn masked<S: Simd>(s: S, exponents: S::V, visible: usize) -> S::V {
    let mut lanes = [MASKED; SIDE];
    s.write(&mut lanes[..S::LANES], exponents);
    lanes[visible..].fill(MASKED);
    s.read(&lanes[..S::LANES])
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
