//! Attention forward: one task a head and a panel of queries.
//!
//! Everything is turned so that vectors run along queries: scores `[key][query]` are the product of key rows
//! (broadcast) and a packed panel of queries; maximum and sum of the softmax are then plain vertical operations, and
//! the exponentials are already the packed panel of the second product, `o^T [d][query] += v^T [d][key] p [key][query]`.

use scumble_tensor::backend::AttentionSpec;
use scumble_tensor::{Result, Tensor};

use super::{Sizes, operands, split_heads, tiled_forward, transpose_scaled, unit_for};
use crate::engine::{Engine, Scratch};
use crate::gemm::kernel::{ROWS, multiply_rows, multiply_strip, zero};
use crate::pool::SharedMut;
use crate::simd::math::{MASKED, exp2};
use crate::simd::{Kernel, Scalar, Simd, with_scalar};

/// Keys whose scores are in the first-level cache at once: a multiple of the tile's rows.
const KEY_BLOCK: usize = 8 * ROWS;

/// Result and log-sum-exp `[b, heads, nq]`.
pub(crate) fn attention(
    engine: &Engine,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spec: AttentionSpec,
) -> Result<(Tensor, Tensor)> {
    if let Some(unit) = unit_for(engine, q, &spec) {
        return tiled_forward::attention(engine, unit, [q, k, v], spec);
    }
    with_scalar!("attention", q.dtype(), E => attention_typed::<E>(engine, q, k, v, spec))
}

fn attention_typed<E: Scalar>(
    engine: &Engine,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spec: AttentionSpec,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "attention";
    let s = Sizes::new(OP, q, k, v, &spec)?;
    let [q_data, k_data, v_data] = operands::<E>(OP, q, k, v)?;
    let value_row = s.width.next_multiple_of(ROWS);
    let mut keys = Scratch::new(1, s.batch_heads() * s.keys * s.width)?;
    let mut values = Scratch::new(1, s.batch_heads() * s.keys * value_row)?;
    let (keys, values) = (keys.all(), values.all());
    split_heads(engine, &s, k_data, s.keys, s.width, keys);
    split_heads(engine, &s, v_data, s.keys, value_row, values);
    let panel = engine.panel_shape().width;
    let panels = s.queries.div_ceil(panel);
    let scratch = Scratch::new(engine.pool.threads(), (s.width + value_row + KEY_BLOCK) * panel)?;
    let mut lse = vec![0.0f32; s.batch_heads() * s.queries];
    let lse_parts = SharedMut::new(&mut lse);
    let o = Tensor::build(q.dims(), |o: &mut [E]| {
        let o = SharedMut::new(o);
        engine.pool.run(s.batch_heads() * panels, |task, worker| {
            let (head, first) = (task / panels, (task % panels) * panel);
            let count = panel.min(s.queries - first);
            engine.tier.run(Panel {
                s: &s,
                head,
                first,
                count,
                q: q_data,
                keys: &keys[head * s.keys * s.width..][..s.keys * s.width],
                values: &values[head * s.keys * value_row..][..s.keys * value_row],
                value_row,
                factor: spec.scale * std::f32::consts::LOG2_E,
                // SAFETY: no two tasks run as the same worker at once.
                scratch: unsafe { scratch.of(worker) },
                o,
                // SAFETY: every task has queries of its own.
                lse: unsafe { lse_parts.slice(head * s.queries + first, count) },
            });
        });
    })?;
    Ok((o, Tensor::from_slice(&lse, &[s.batch, s.heads, s.queries])?))
}

/// A panel of queries of one head.
struct Panel<'a, E> {
    s: &'a Sizes,
    head: usize,
    first: usize,
    count: usize,
    q: &'a [E],
    keys: &'a [f32],
    values: &'a [f32],
    value_row: usize,
    factor: f32,
    scratch: &'a mut [f32],
    o: SharedMut<'a, E>,
    lse: &'a mut [f32],
}

impl<E: Scalar> Kernel for Panel<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if S::PANEL == 4 { self.work::<S, 4>(s) } else { self.work::<S, 2>(s) }
    }
}

impl<E: Scalar> Panel<'_, E> {
    #[inline(always)]
    fn work<S: Simd, const NV: usize>(self, s: S) {
        let panel = NV * S::LANES;
        let (width, sizes) = (self.s.width, self.s);
        let (queries, rest) = self.scratch.split_at_mut(width * panel);
        let (sums, rest) = rest.split_at_mut(self.value_row * panel);
        let scores = &mut rest[..KEY_BLOCK * panel];
        let model = sizes.heads * width;
        let start = ((self.head / sizes.heads) * sizes.queries + self.first) * model
            + (self.head % sizes.heads) * width;
        transpose_scaled(&self.q[start..], model, self.count, width, self.factor, queries, panel);
        sums.fill(0.0);
        let (mut most, mut total) = ([s.splat(MASKED); NV], [s.splat(0.0); NV]);
        let seen = sizes.keys_seen(self.first + self.count);
        for block in (0..seen).step_by(KEY_BLOCK) {
            let keys = KEY_BLOCK.min(seen - block);
            score::<S, NV>(s, &self.keys[block * width..(block + keys) * width], width, queries, scores);
            if sizes.causal {
                mask_future(&mut scores[..keys * panel], panel, block, self.first);
            }
            let shrink = softmax::<S, NV>(s, &mut scores[..keys * panel], &mut most, &mut total);
            let values = &self.values[block * self.value_row..(block + keys) * self.value_row];
            weigh::<S, NV>(s, values, self.value_row, &scores[..keys * panel], shrink, sums);
        }
        let mut lines = [[0.0f32; 64]; 2];
        for v in 0..NV {
            s.write(&mut lines[0][v * S::LANES..][..S::LANES], most[v]);
            s.write(&mut lines[1][v * S::LANES..][..S::LANES], total[v]);
        }
        for query in 0..self.count {
            let (most, total) = (lines[0][query], lines[1][query]);
            self.lse[query] = (most + total.log2()) * std::f32::consts::LN_2;
            // SAFETY: every task has queries of its own.
            let to = unsafe { self.o.slice(start + query * model, width) };
            let inverse = 1.0 / total;
            to.iter_mut().enumerate().for_each(|(d, to)| *to = E::narrow(sums[d * panel + query] * inverse));
        }
    }
}

/// `scores [key][query] = keys [key][d] queries [d][query]`.
#[inline(always)]
fn score<S: Simd, const NV: usize>(s: S, keys: &[f32], width: usize, queries: &[f32], scores: &mut [f32]) {
    let panel = NV * S::LANES;
    let count = scores.len().min(keys.len() / width.max(1) * panel) / panel;
    let queries = &queries[..width * panel];
    for first in (0..count).step_by(ROWS) {
        let mut rows = [std::ptr::null(); ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            let key = (first + r).min(count - 1);
            *row = keys[key * width..(key + 1) * width].as_ptr();
        }
        let mut acc = zero::<S, NV>(s);
        // SAFETY: each row is a slice of `width` floats, the panel holds `width` steps of `NV` vectors.
        unsafe { multiply_rows::<S, NV>(s, &mut acc, &rows, width, queries.as_ptr(), panel) };
        for (line, sums) in scores[first * panel..].chunks_exact_mut(panel).zip(&acc).take(count - first) {
            for (v, &sum) in sums.iter().enumerate() {
                s.write(&mut line[v * S::LANES..], sum);
            }
        }
    }
}

/// Masks the keys that lie behind their query; lines are keys from `block` on, columns queries from `first` on.
#[inline(always)]
fn mask_future(scores: &mut [f32], panel: usize, block: usize, first: usize) {
    for (line, scores) in scores.chunks_exact_mut(panel).enumerate() {
        let hidden = (block + line).saturating_sub(first).min(panel);
        scores[..hidden].fill(MASKED);
    }
}

/// Turns scores to exponentials about the running maximum; gives the factor of what was summed before.
#[inline(always)]
fn softmax<S: Simd, const NV: usize>(
    s: S,
    scores: &mut [f32],
    most: &mut [S::V; NV],
    total: &mut [S::V; NV],
) -> [S::V; NV] {
    let panel = NV * S::LANES;
    let mut highest = *most;
    for line in scores.chunks_exact(panel) {
        for v in 0..NV {
            highest[v] = s.max(highest[v], s.read(&line[v * S::LANES..][..S::LANES]));
        }
    }
    let mut shrink = [s.splat(1.0); NV];
    for v in 0..NV {
        shrink[v] = exp2(s, s.sub(most[v], highest[v]));
        total[v] = s.mul(total[v], shrink[v]);
    }
    for line in scores.chunks_exact_mut(panel) {
        for v in 0..NV {
            let at = &mut line[v * S::LANES..][..S::LANES];
            let p = exp2(s, s.sub(s.read(at), highest[v]));
            total[v] = s.add(total[v], p);
            s.write(at, p);
        }
    }
    *most = highest;
    shrink
}

/// `sums [d][query] = shrink * sums + values^T [d][key] p [key][query]`.
#[inline(always)]
fn weigh<S: Simd, const NV: usize>(
    s: S,
    values: &[f32],
    value_row: usize,
    p: &[f32],
    shrink: [S::V; NV],
    sums: &mut [f32],
) {
    let panel = NV * S::LANES;
    let keys = p.len() / panel;
    for (strip, sums) in sums.chunks_exact_mut(ROWS * panel).enumerate() {
        let mut acc = zero::<S, NV>(s);
        for (line, acc) in sums.chunks_exact(panel).zip(&mut acc) {
            for v in 0..NV {
                acc[v] = s.mul(s.read(&line[v * S::LANES..][..S::LANES]), shrink[v]);
            }
        }
        let values = &values[strip * ROWS..];
        debug_assert!(values.len() >= (keys - 1) * value_row + ROWS);
        // SAFETY: rows of `values` are padded to whole strips, so each of the `keys` rows has six floats from here;
        // `p` holds `keys` steps of `NV` vectors.
        unsafe {
            multiply_strip::<S, NV>(s, &mut acc, values.as_ptr(), value_row, keys, p.as_ptr(), panel);
        }
        for (line, acc) in sums.chunks_exact_mut(panel).zip(&acc) {
            for v in 0..NV {
                s.write(&mut line[v * S::LANES..][..S::LANES], acc[v]);
            }
        }
    }
}
