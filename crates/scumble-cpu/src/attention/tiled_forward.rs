//! Attention forward on a matrix unit: one task a head and a panel of queries.
//!
//! Columns of tiles are queries, so maximum and sum of the softmax are vertical operations, and exponentials become the
//! right operand of the second product by rounding two rows of scores into one row of pairs:
//!
//! ```text
//! s^T [key][query]  = k q^T              left: keys, deep in width     right: queries
//! p   [key pair][query]                  rounded to bf16
//! o^T [d][query]   += v^T p              left: v^T, deep in keys       right: p
//! ```
//!
//! A panel of keys meets two strips of queries at a time, so that scores and exponentials stay in the first-level cache.
//! Scores, softmax and both sums are f32; `p` is rounded, as every implementation on a matrix unit does.

use half::bf16;
use scumble_tensor::backend::AttentionSpec;
use scumble_tensor::{Result, Tensor};

use super::tiled::{Deep, Heads, PAIR, PANEL, PANEL_STRIPS};
use super::{Sizes, operands};
use crate::engine::{Engine, Scratch};
use crate::gemm::operand::Operand;
use crate::gemm::tiled_task::turn_tile;
use crate::pool::SharedMut;
use crate::simd::math::{MASKED, exp2, exp2_for_bf16};
use crate::simd::{Kernel, Scalar, Simd};
use crate::tiles::pack::{Pack, Side, tile_blocks};
use crate::tiles::{Ahead, DEPTH, SIDE, SUMS, Strips, TILE, TileKernel, TileUnit, Unit};

/// Result and log-sum-exp `[b, heads, nq]`.
pub(super) fn attention(
    engine: &Engine,
    unit: Unit,
    [q, k, v]: [&Tensor; 3],
    spec: AttentionSpec,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "attention";
    let s = Sizes::new(OP, q, k, v, &spec)?;
    let [queries, keys, values] = operands::<bf16>(OP, q, k, v)?;
    let keys = Heads::new(engine, &s, keys, s.keys, Deep::Width, Side::Left)?;
    let values = Heads::new(engine, &s, values, s.keys, Deep::Tokens, Side::Left)?;
    let scratch = Scratch::new(engine.pool.threads(), Panel::floats(&s))?;
    let mut lse = vec![0.0f32; s.batch_heads() * s.queries];
    let lse_parts = SharedMut::new(&mut lse);
    let panels = s.queries.div_ceil(PANEL);
    let o = Tensor::try_build(q.dims(), |o: &mut [bf16]| {
        let o = SharedMut::new(o);
        engine.pool.run(s.batch_heads() * panels, |task, worker| {
            let (head, first) = (task / panels, (task % panels) * PANEL);
            let count = PANEL.min(s.queries - first);
            unit.run(Panel {
                s: &s,
                head,
                first,
                count,
                queries,
                keys: (keys.of(head), keys.strip),
                values: (values.of(head), values.strip),
                factor: spec.scale * std::f32::consts::LOG2_E,
                // SAFETY: no two tasks run as the same worker at once.
                scratch: unsafe { scratch.of(worker) },
                o,
                // SAFETY: every task has queries of its own.
                lse: unsafe { lse_parts.slice(head * s.queries + first, count) },
            });
        });
        Ok(())
    })?;
    Ok((o, Tensor::from_slice(&lse, &[s.batch, s.heads, s.queries])?))
}

/// A panel of queries of one head.
struct Panel<'a> {
    s: &'a Sizes,
    head: usize,
    first: usize,
    count: usize,
    queries: &'a [bf16],
    /// Strips, and numbers from one to the next.
    keys: (&'a [bf16], usize),
    values: (&'a [bf16], usize),
    factor: f32,
    scratch: &'a mut [f32],
    o: SharedMut<'a, bf16>,
    lse: &'a mut [f32],
}

impl Panel<'_> {
    /// Floats of queries, scores, exponentials and sums.
    fn floats(s: &Sizes) -> usize {
        let queries = PANEL_STRIPS * s.width.div_ceil(DEPTH) * TILE / 2;
        queries + PANEL * PAIR * SIDE * 3 / 2 + s.width.div_ceil(SIDE) * SIDE * PANEL
    }
}

/// What the softmax has seen of each query: its largest score, in base 2, and the sum of exponentials about that.
struct Seen {
    most: [f32; PANEL],
    total: [f32; PANEL],
}

impl TileKernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, U: TileUnit>(self, s: S, unit: U) {
        let sizes = self.s;
        let (steps, width_strips) = (sizes.width.div_ceil(DEPTH), sizes.width.div_ceil(SIDE));
        let strips = self.count.div_ceil(SIDE);
        let model = sizes.heads * sizes.width;
        let start = ((self.head / sizes.heads) * sizes.queries + self.first) * model
            + (self.head % sizes.heads) * sizes.width;
        let (queries, rest) = self.scratch.split_at_mut(PANEL_STRIPS * steps * TILE / 2);
        let (scores, rest) = rest.split_at_mut(PANEL * PAIR * SIDE);
        let (p, sums) = rest.split_at_mut(PANEL * PAIR * SIDE / 2);
        let (queries, p): (&mut [bf16], &mut [bf16]) =
            (bytemuck::cast_slice_mut(queries), bytemuck::cast_slice_mut(p));
        let operand = Operand::strided(&self.queries[start..], self.count, sizes.width, model);
        let block = &tile_blocks(1, sizes.width, steps.max(1))[0];
        Pack { operand: &operand, block, first: 0, count: self.count, side: Side::Right, to: queries }.run(s);
        let mut seen = Seen { most: [MASKED; PANEL], total: [0.0; PANEL] };
        let keys = sizes.keys_seen(self.first + self.count);
        let pairs = || (0..strips).step_by(PAIR).map(|first| first..(first + PAIR).min(strips));
        for (block, pair) in (0..keys).step_by(PANEL).flat_map(|block| pairs().map(move |pair| (block, pair)))
        {
            let count = PANEL.min(keys - block);
            let first = self.first + pair.start * SIDE;
            let at = Strips {
                a: self.keys.0[block / SIDE * self.keys.1..].as_ptr(),
                a_strip: self.keys.1,
                a_row: None,
                a_rows: count,
                b: queries[pair.start * steps * TILE..].as_ptr(),
                b_strip: steps * TILE,
                depth: sizes.width,
                c: scores.as_mut_ptr(),
                c_row: PAIR * SUMS,
                c_column: SUMS,
                begins: true,
                ahead: Ahead::NONE,
            };
            // SAFETY: the head has strips for all keys, the queries those of the pair, and there are scores for a panel of
            // keys and a pair.
            unsafe { unit.grid(count.div_ceil(SIDE), pair.len(), &at) };
            if sizes.causal && block + count > first + 1 {
                mask_future(scores, block, count, first);
            }
            let mut shrink = [1.0f32; PAIR * SIDE];
            for (strip, shrink) in shrink.chunks_exact_mut(SIDE).enumerate().take(pair.len()) {
                softmax(s, scores, [strip, pair.start], count, self.factor, &mut seen, shrink, p);
            }
            let sums = &mut sums[pair.start * SUMS..];
            if block > 0 && shrink.iter().any(|&factor| factor != 1.0) {
                rescale(s, sums, width_strips, &shrink[..pair.len() * SIDE]);
            }
            let at = Strips {
                a: self.values.0[block / DEPTH * TILE..].as_ptr(),
                a_strip: self.values.1,
                a_row: None,
                a_rows: sizes.width,
                b: p.as_ptr(),
                b_strip: PANEL / DEPTH * TILE,
                depth: count,
                c: sums.as_mut_ptr(),
                c_row: PANEL_STRIPS * SUMS,
                c_column: SUMS,
                begins: block == 0,
                ahead: Ahead::NONE,
            };
            // SAFETY: strips of the values are deep enough for all keys, those of `p` for a panel, and there are sums
            // for the whole width.
            unsafe { unit.grid(width_strips, pair.len(), &at) };
        }
        for query in 0..self.count {
            self.lse[query] = (seen.most[query] + seen.total[query].log2()) * std::f32::consts::LN_2;
        }
        for (row, strip) in (0..width_strips).flat_map(|row| (0..strips).map(move |strip| (row, strip))) {
            let mut turned = [0.0f32; SUMS];
            turn_tile(s, &sums[(row * PANEL_STRIPS + strip) * SUMS..][..SUMS], &mut turned);
            let first = row * SIDE;
            for (line, query) in turned.chunks_exact(SIDE).zip(strip * SIDE..self.count) {
                // SAFETY: every task has queries of its own.
                let to =
                    unsafe { self.o.slice(start + query * model + first, SIDE.min(sizes.width - first)) };
                let inverse = s.splat(1.0 / seen.total[query]);
                for (to, sums) in to.chunks_mut(S::LANES).zip(line.chunks(S::LANES)) {
                    bf16::write(s, to, s.mul(s.read(sums), inverse));
                }
            }
        }
    }
}

/// Row `key` of the scores of a pair's strip of queries.
#[inline(always)]
fn row(strip: usize, key: usize) -> usize {
    ((key / SIDE) * PAIR + strip) * SUMS + (key % SIDE) * SIDE
}

/// Masks the keys from `block` on that lie behind their query, for a pair of strips from query `first` on.
#[inline(always)]
fn mask_future(scores: &mut [f32], block: usize, keys: usize, first: usize) {
    for key in 0..keys {
        let hidden = (block + key).saturating_sub(first).min(PAIR * SIDE);
        for strip in 0..hidden.div_ceil(SIDE) {
            scores[row(strip, key)..][..(hidden - strip * SIDE).min(SIDE)].fill(MASKED);
        }
    }
}

/// Turns a strip's scores into exponentials about the running maximum, rounded as pairs of keys, zeros behind the last.
/// `strip` is counted within the pair whose first strip is `first`.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // all of a step of the online softmax
fn softmax<S: Simd>(
    s: S,
    scores: &[f32],
    [strip, first]: [usize; 2],
    keys: usize,
    factor: f32,
    seen: &mut Seen,
    shrink: &mut [f32],
    p: &mut [bf16],
) {
    let factor = s.splat(factor);
    let p = &mut p[strip * (PANEL / DEPTH) * TILE..][..PANEL / DEPTH * TILE];
    for lane in (0..SIDE).step_by(S::LANES) {
        let at = (first + strip) * SIDE + lane;
        // Four chains of maxima hide their latency.
        let mut highest = [s.splat(MASKED); 4];
        for tile in 0..keys.div_ceil(SIDE) {
            let lines = &score_tile(scores, tile, strip)[..SIDE * SIDE.min(keys - tile * SIDE)];
            for lines in lines.as_chunks::<SIDE>().0.chunks(4) {
                for (highest, line) in highest.iter_mut().zip(lines) {
                    *highest = s.max(*highest, s.read(&line[lane..][..S::LANES]));
                }
            }
        }
        let highest = s.max(s.max(highest[0], highest[1]), s.max(highest[2], highest[3]));
        let before = s.read(&seen.most[at..][..S::LANES]);
        let most = s.max(before, s.mul(highest, factor));
        let shrunk = exp2(s, s.sub(before, most));
        let negated = s.sub(s.splat(0.0), most);
        let mut total = [s.mul(s.read(&seen.total[at..][..S::LANES]), shrunk), s.splat(0.0)];
        for tile in 0..keys.next_multiple_of(DEPTH) / SIDE {
            let to = &mut p[tile * SUMS..][..SUMS];
            let lines = score_tile(scores, tile, strip);
            let base = [factor, negated];
            if keys >= (tile + 1) * SIDE {
                exponentials(s, lines, lane, base, |_| 2, &mut total, to);
            } else {
                let present = |pair| keys.saturating_sub(tile * SIDE + 2 * pair);
                exponentials(s, lines, lane, base, present, &mut total, to);
            }
        }
        s.write(&mut seen.most[at..][..S::LANES], most);
        s.write(&mut seen.total[at..][..S::LANES], s.add(total[0], total[1]));
        s.write(&mut shrink[lane..][..S::LANES], shrunk);
    }
}

/// Exponentials of 16 keys' scores, rounded as pairs of keys and added to the totals of even and odd ones; `present` tells how
/// many keys of a pair there are.
#[inline(always)]
fn exponentials<S: Simd>(
    s: S,
    lines: &[f32],
    lane: usize,
    [factor, negated]: [S::V; 2],
    present: impl Fn(usize) -> usize,
    total: &mut [S::V; 2],
    to: &mut [bf16],
) {
    let (lines, to) = (lines.as_chunks::<{ 2 * SIDE }>().0, to.as_chunks_mut::<{ 2 * SIDE }>().0);
    for (pair, (lines, to)) in lines.iter().zip(to).enumerate() {
        let mut values = [s.splat(0.0); 2];
        for half in 0..2 {
            if present(pair) > half {
                values[half] = exponential(s, &lines[half * SIDE + lane..], factor, negated);
                total[half] = s.add(total[half], values[half]);
            }
        }
        // SAFETY: room for a register's pairs.
        unsafe { s.store_pairs(to[2 * lane..][..2 * S::LANES].as_mut_ptr(), values[0], values[1]) };
    }
}

/// The scores of 16 keys and a strip of queries.
#[inline(always)]
fn score_tile(scores: &[f32], tile: usize, strip: usize) -> &[f32] {
    &scores[(tile * PAIR + strip) * SUMS..][..SUMS]
}

/// `2^(score factor - most)`.
#[inline(always)]
fn exponential<S: Simd>(s: S, scores: &[f32], factor: S::V, negated: S::V) -> S::V {
    exp2_for_bf16(s, s.fma(s.read(&scores[..S::LANES]), factor, negated))
}

/// Multiplies the sums of each query by its factor; they begin with the pair's.
#[inline(always)]
fn rescale<S: Simd>(s: S, sums: &mut [f32], width_strips: usize, shrink: &[f32]) {
    for tiles in sums.chunks_mut(PANEL_STRIPS * SUMS).take(width_strips) {
        for (tile, factors) in tiles.chunks_exact_mut(SUMS).zip(shrink.chunks_exact(SIDE)) {
            for lane in (0..SIDE).step_by(S::LANES) {
                let factor = s.read(&factors[lane..][..S::LANES]);
                for line in tile.chunks_exact_mut(SIDE) {
                    let to = &mut line[lane..][..S::LANES];
                    let scaled = s.mul(s.read(to), factor);
                    s.write(to, scaled);
                }
            }
        }
    }
}
