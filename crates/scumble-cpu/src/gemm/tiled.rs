//! The product of bf16 operands on a matrix unit: packing, blocks and tasks. See [`crate::tiles`] for the tiles.
//!
//! ```text
//! for CHUNK_STRIPS of columns:
//!   for group of depth blocks:               at most PACKED_TILES
//!     pack the right operand                 tasks: strips
//!     for rows x columns of the result:      tasks
//!       for block of at most BLOCK_TILES:
//!         pack the task's rows               second-level cache; a unit that can reads them where they lie
//!         for two strips of columns:
//!           for two strips of rows:
//!             unit, then sums or result
//! ```
//!
//! Where one task has all rows, its columns are read by nobody else, and it packs them itself, block by block: what
//! another core has written comes slowly (`docs/performance.md`, input gradients of small pictures with AMX).
//!
//! The unit sums over the whole depth of a block in its registers and reads both operands from the second-level cache,
//! which keeps up; blocks that fit the first-level cache send sums to memory and back too often (measured in
//! `docs/performance.md`). Sums of unfinished elements are f32, tile after tile, a task's own. Each element's sum runs over
//! the depth in order, in blocks that depend on the sizes alone: neither threads nor tiles show in the result.
//!
//! Packing is dear where a matrix is read few times: a layer of 1280 x 1280 over 64 tokens packs 2.5 MB of weights for
//! 0.2 GFLOP. Copying rows is four times cheaper than turning squares, so the sides are exchanged where that is less
//! work; tiles of the result are then turned before they are written.

use std::ops::Range;

use half::bf16;
use scumble_tensor::Result;

use super::operand::{Along, Block, Operand};
use super::target::Target;
use super::tiled_task::{Columns, Source, TileTask};
use super::{Output, TASK_COLUMNS};
use crate::engine::{Engine, Scratch};
use crate::pool::SharedMut;
use crate::simd::Scalar;
use crate::tiles::pack::{Pack, Side, tile_blocks};
use crate::tiles::{DEPTH, SIDE, SUMS, TILE, Unit};

/// Most tiles of a block's depth: with more, two strips of each side crowd a second-level cache.
const BLOCK_TILES: usize = 90;
/// Fewest of them, however many columns there are: sums go to memory and come back between blocks.
const FEWEST_BLOCK_TILES: usize = 10;
/// Tiles of 1 KiB of the right operand that are packed at once: they and a task's rows stay in second-level caches.
const PACKED_TILES: usize = 1400;
/// Tiles of both sides of a task that packs them itself: half of a second-level cache.
const TASK_TILES: usize = 500;
/// Strips of the right operand that are worked on at once.
const CHUNK_STRIPS: usize = 40;
/// Most rows of a task: each pair of them packed once, each strip of columns read from afar once for all of them.
const TASK_ROWS: usize = 256;
/// Fewest strips of columns of a task, but for the only one.
const FEWEST_STRIPS: usize = 8;
/// Most strips of the right operand that are packed together: long runs suit the memory.
const PACKED_TOGETHER: usize = 20;

/// Cycles, roughly, of packing a tile and of turning a tile of the result; a tile's multiplication takes 16.
mod cost {
    pub(super) const COPY: usize = 20;
    pub(super) const INTERLEAVE: usize = 40;
    pub(super) const TURN: usize = 75;
}

/// Computes what [`super::gemm`] promises.
pub(super) fn tiled<Y: Scalar>(
    engine: &Engine,
    unit: Unit,
    a: &Operand<'_, bf16>,
    b: &Operand<'_, bf16>,
    out: Output<'_, Y>,
) -> Result<()> {
    let exchanged = exchange_is_cheaper(a, b);
    let (left, right) = if exchanged { (b, a) } else { (a, b) };
    let last_line = out.rows.line(a.outer - 1) * out.stride + b.outer;
    assert!(last_line <= out.data.len() && out.add.is_none_or(|add| add.len() >= last_line));
    assert!(out.bias.is_none_or(|bias| bias.len() >= b.outer));
    let threads = engine.pool.threads();
    let cut = Cut::new(left.outer, right.outer, threads);
    if cut.rows >= left.outer {
        return each_packs(engine, unit, [left, right], exchanged, &cut, out);
    }
    let strips = right.outer.div_ceil(SIDE);
    let chunk = strips.min(CHUNK_STRIPS);
    let most = (PACKED_TILES / chunk).clamp(FEWEST_BLOCK_TILES, BLOCK_TILES);
    let blocks = tile_blocks(left.segments, left.segment_len, most);
    let deepest = blocks.iter().map(|block| block.depth).max().unwrap_or(0);
    let groups: Vec<&[Block]> =
        blocks.chunks((PACKED_TILES * DEPTH / (deepest * chunk).max(1)).max(1)).collect();
    let depth_of = |blocks: &[Block]| blocks.iter().map(|block| block.depth).sum::<usize>();
    let largest = groups.iter().map(|group| depth_of(group)).max().unwrap_or(0);
    let cut = Cut::new(left.outer, right.outer.min(chunk * SIDE), threads);
    let mut packed = Scratch::new(1, largest * chunk * SIDE / 2)?;
    let rows_packed = Scratch::new(threads, cut.rows * deepest / 2)?;
    // Sums outlive a task only between groups.
    let task_sums = if blocks.len() > 1 { cut.rows * cut.columns } else { 4 * SUMS };
    let sums = Scratch::new(if groups.len() > 1 { cut.tasks() } else { threads }, task_sums)?;
    let target = Target::new(out);
    for first in (0..right.outer).step_by(chunk * SIDE) {
        let columns = first..(first + chunk * SIDE).min(right.outer);
        let cut = Cut { n: columns.len(), ..cut };
        for (index, group) in groups.iter().enumerate() {
            let packed = bytemuck::cast_slice_mut(packed.all());
            pack_right(engine, right, columns.clone(), group, packed);
            let packed = &*packed;
            let source = Source {
                left,
                right,
                first,
                blocks: group,
                starts: index == 0,
                ends: index + 1 == groups.len(),
                exchanged,
            };
            let strips = columns.len().div_ceil(SIDE);
            engine.pool.run(cut.tasks(), |task, worker| {
                let [rows, columns] = cut.task(task);
                unit.run(TileTask {
                    source: &source,
                    rows,
                    columns,
                    // SAFETY: tasks have sums of their own; where workers have, no two tasks run as the same worker at
                    // once.
                    sums: unsafe { sums.of(if groups.len() > 1 { task } else { worker }) },
                    target: &target,
                    // SAFETY: no two tasks run as the same worker at once.
                    rows_packed: bytemuck::cast_slice_mut(unsafe { rows_packed.of(worker) }),
                    columns_packed: Columns::Shared { packed, strips },
                });
            });
        }
    }
    Ok(())
}

/// The product where each task has all rows and packs its own columns.
fn each_packs<Y: Scalar>(
    engine: &Engine,
    unit: Unit,
    [left, right]: [&Operand<'_, bf16>; 2],
    exchanged: bool,
    cut: &Cut,
    out: Output<'_, Y>,
) -> Result<()> {
    let threads = engine.pool.threads();
    let strips = (cut.rows + cut.columns) / SIDE;
    let most = (TASK_TILES / strips).clamp(FEWEST_BLOCK_TILES, BLOCK_TILES);
    let blocks = tile_blocks(left.segments, left.segment_len, most);
    let deepest = blocks.iter().map(|block| block.depth).max().unwrap_or(0);
    let rows_packed = Scratch::new(threads, cut.rows * deepest / 2)?;
    let columns_packed = Scratch::new(threads, cut.columns * deepest / 2)?;
    let sums = Scratch::new(threads, if blocks.len() > 1 { cut.rows * cut.columns } else { 4 * SUMS })?;
    let target = Target::new(out);
    let source = Source { left, right, first: 0, blocks: &blocks, starts: true, ends: true, exchanged };
    engine.pool.run(cut.tasks(), |task, worker| {
        let [rows, columns] = cut.task(task);
        // SAFETY: no two tasks run as the same worker at once.
        let (sums, rows_packed, columns_packed) =
            unsafe { (sums.of(worker), rows_packed.of(worker), columns_packed.of(worker)) };
        unit.run(TileTask {
            source: &source,
            rows,
            columns,
            sums,
            target: &target,
            rows_packed: bytemuck::cast_slice_mut(rows_packed),
            columns_packed: Columns::Own(bytemuck::cast_slice_mut(columns_packed)),
        });
    });
    Ok(())
}

/// Whether `b` should be the left side.
fn exchange_is_cheaper(a: &Operand<'_, bf16>, b: &Operand<'_, bf16>) -> bool {
    let left = |along| if along == Along::Depth { cost::COPY } else { cost::INTERLEAVE + cost::TURN };
    let right = |along| if along == Along::Depth { cost::TURN } else { cost::INTERLEAVE };
    let (m, n) = (a.outer.div_ceil(SIDE), b.outer.div_ceil(SIDE));
    let depth = a.segments * a.segment_len.div_ceil(DEPTH);
    let direct = (m * left(a.along) + n * right(b.along)) * depth;
    let exchanged = (n * left(b.along) + m * right(a.along)) * depth + m * n * cost::TURN;
    exchanged < direct
}

/// How the result is cut into tasks.
#[derive(Clone, Copy)]
struct Cut {
    m: usize,
    n: usize,
    rows: usize,
    columns: usize,
}

impl Cut {
    /// Tasks of at most [`TASK_ROWS`] times [`TASK_COLUMNS`], smaller when that leaves threads without work: first in
    /// columns, whose packed strips then go to one thread only, then in rows. Where there are many more rows, packing
    /// those once for each task of columns would be dearer.
    fn new(m: usize, n: usize, threads: usize) -> Self {
        let wanted = if threads > 1 { threads * 4 } else { 1 };
        let strips = n.div_ceil(SIDE);
        let row_tasks = m.div_ceil(TASK_ROWS);
        let most = if m > 2 * n { 1 } else { strips / FEWEST_STRIPS };
        let column_tasks = wanted.div_ceil(row_tasks).min(most).max(n.div_ceil(TASK_COLUMNS));
        let row_tasks = row_tasks.max(wanted.div_ceil(column_tasks));
        let size = |all: usize, tasks: usize| all.div_ceil(tasks).max(1).next_multiple_of(2 * SIDE);
        Self { m, n, rows: size(m, row_tasks), columns: size(n, column_tasks) }
    }

    fn tasks(&self) -> usize {
        self.m.div_ceil(self.rows) * self.n.div_ceil(self.columns)
    }

    fn task(&self, index: usize) -> [std::ops::Range<usize>; 2] {
        let row_tasks = self.m.div_ceil(self.rows);
        let (row, column) = ((index % row_tasks) * self.rows, (index / row_tasks) * self.columns);
        [row..(row + self.rows).min(self.m), column..(column + self.columns).min(self.n)]
    }
}

/// Packs the right operand for some blocks, block after block.
fn pack_right(
    engine: &Engine,
    right: &Operand<'_, bf16>,
    columns: Range<usize>,
    group: &[Block],
    packed: &mut [bf16],
) {
    let strips = columns.len().div_ceil(SIDE);
    let together = packed_together(strips, group.len(), engine.pool.threads());
    let tasks = strips.div_ceil(together);
    let packed = SharedMut::new(packed);
    engine.pool.run(group.len() * tasks, |task, _| {
        let (block, strip) = (task / tasks, (task % tasks) * together);
        let before: usize = group[..block].iter().map(|block| block.depth).sum();
        let depth = group[block].depth;
        let first = columns.start + strip * SIDE;
        let count = (together * SIDE).min(columns.end - first);
        let start = before * strips * SIDE + strip * SIDE * depth;
        // SAFETY: every task has strips of its own.
        let to = unsafe { packed.slice(start, count.div_ceil(SIDE) * SIDE * depth) };
        engine.tier.run(Pack { operand: right, block: &group[block], first, count, side: Side::Right, to });
    });
    debug_assert!(group.iter().all(|block| (block.depth * SIDE).is_multiple_of(TILE)));
}

/// Strips of a packing task, in even shares: a third task would keep one of two threads waiting. `blocks` is how many
/// blocks have tasks of their own.
fn packed_together(strips: usize, blocks: usize, threads: usize) -> usize {
    let wanted = threads.div_ceil(blocks).min(strips / FEWEST_STRIPS);
    strips.div_ceil(wanted.max(strips.div_ceil(PACKED_TOGETHER)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::gemm;
    use crate::pool::Pool;
    use crate::tier::Tier;

    /// `x y^T` of whole numbers, with bias and addend, in which nothing rounds.
    fn check(tier: Tier, [rows, depth, columns]: [usize; 3]) {
        let engine = Engine { tier, pool: Pool::new(3) };
        let number = |i: usize| (i.wrapping_mul(2_654_435_761) >> 9) % 5;
        let numbers =
            |len: usize| (0..len).map(|i| bf16::from_f32(number(i) as f32 - 2.0)).collect::<Vec<_>>();
        let (x, y) = (numbers(rows * depth), numbers(columns * depth));
        let bias: Vec<f32> = (0..columns).map(|i| i as f32).collect();
        let add: Vec<f32> = (0..rows * columns).map(|i| (i % 7) as f32).collect();
        let mut data = vec![f32::NAN; rows * columns];
        let out = Output { bias: Some(&bias), add: Some(&add), ..Output::plain(&mut data, columns) };
        gemm(&engine, &Operand::rows(&x, rows, depth), &Operand::rows(&y, columns, depth), out).unwrap();
        for (row, found) in data.chunks_exact(columns).enumerate() {
            for (column, &found) in found.iter().enumerate() {
                let pairs = x[row * depth..][..depth].iter().zip(&y[column * depth..][..depth]);
                let product: f32 = pairs.map(|(x, y)| x.to_f32() * y.to_f32()).sum();
                let expected = product + bias[column] + add[row * columns + column];
                assert_eq!(found, expected, "{} {rows} {depth} {columns} at {row}, {column}", tier.name());
            }
        }
    }

    #[test]
    fn whole_numbers_are_multiplied_exactly() {
        let tiers = [Tier::Amx, Tier::Avx512Bf16, Tier::Emulated];
        for tier in tiers.into_iter().filter(|tier| tier.is_available()) {
            // Rows that a unit may read where they lie: depths that fill tiles or not, several blocks and groups of them,
            // more rows than a task has; and what it may not: odd depths, a tile's depth, rows that fill no strip.
            for sizes in [
                [32, 70, 130],
                [16, 64, 96],
                [48, 2890, 97],
                [272, 94, 300],
                [32, 33, 130],
                [64, 32, 160],
                [40, 64, 160],
                [7, 6, 200],
            ] {
                check(tier, sizes);
            }
        }
    }

    #[test]
    fn packing_is_shared_evenly_by_the_threads() {
        for (strips, blocks, threads) in
            (1..=CHUNK_STRIPS).flat_map(|s| (1..4).flat_map(move |b| (1..17).map(move |t| (s, b, t))))
        {
            let together = packed_together(strips, blocks, threads);
            let tasks = strips.div_ceil(together);
            assert!((1..=PACKED_TOGETHER).contains(&together));
            let case = (strips, blocks, threads);
            assert!(together >= FEWEST_STRIPS.min(strips), "{case:?}: {together} strips a task");
            if strips >= threads * FEWEST_STRIPS {
                assert!(tasks * blocks >= threads, "{case:?}: {tasks} tasks a block");
            }
        }
        assert_eq!(packed_together(CHUNK_STRIPS, 1, 2), CHUNK_STRIPS / 2);
    }
}
