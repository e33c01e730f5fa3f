//! The product of bf16 operands on a matrix unit: packing, blocks and tasks. See [`crate::tiles`] for the tiles.
//!
//! ```text
//! for group of depth blocks:                 packed right operand of at most PACKED numbers: last-level cache
//!   pack the right operand                   tasks: strips
//!   for rows x columns of the result:        tasks
//!     for block of at most BLOCK_TILES:
//!       pack the task's rows                 second-level cache
//!       for two strips of columns:           20 KiB: first-level cache
//!         for two strips of rows:            20 KiB stream past
//!           unit, then sums or result
//! ```
//!
//! A block's tiles of two strips on both sides and the sums (4 KiB) fill a first-level cache of 48 KiB; with a block of
//! ten tiles, loading and storing the sums costs a sixth of the multiplications. Sums of unfinished elements are f32,
//! tile after tile, a task's own. Each element's sum runs over the depth in order, in blocks that depend on the depth
//! alone: neither threads nor tiles show in the result.
//!
//! Packing is dear where a matrix is read few times: a layer of 1280 x 1280 over 64 tokens packs 2.5 MB of weights for
//! 0.2 GFLOP. Copying rows is four times cheaper than turning squares, so the sides are exchanged where that is less
//! work; tiles of the result are then turned before they are written.

use half::bf16;
use scumble_tensor::Result;

use super::operand::{Along, Block, Operand};
use super::tiled_task::{Source, TileTask};
use super::{Output, TASK_COLUMNS};
use crate::engine::{Engine, Scratch};
use crate::pool::SharedMut;
use crate::simd::Scalar;
use crate::tiles::pack::{Pack, Side, tile_blocks};
use crate::tiles::{DEPTH, SIDE, SUMS, TILE, Unit};

/// Most tiles of a block's depth.
const BLOCK_TILES: usize = 10;
/// Most rows of a task.
const TASK_ROWS: usize = 128;
/// Most packed numbers of the right operand at once.
const PACKED: usize = 2 << 20;
/// Strips of the right operand that are packed together: runs of 512 bytes suit the memory.
const PACKED_TOGETHER: usize = 16;

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
    let blocks = tile_blocks(left.segments, left.segment_len, BLOCK_TILES);
    let strips = right.outer.div_ceil(SIDE);
    let groups = group(&blocks, strips);
    let deepest = |blocks: &[Block]| blocks.iter().map(|block| block.depth).max().unwrap_or(0);
    let largest = groups.iter().map(|group| group.iter().map(|block| block.depth).sum::<usize>()).max();
    let mut packed = Scratch::new(1, largest.unwrap_or(0) * strips * SIDE / 2)?;
    let cut = Cut::new(left.outer, right.outer, engine.pool.threads());
    let rows_packed = Scratch::new(engine.pool.threads(), cut.rows * deepest(&blocks) / 2)?;
    // Sums outlive a task only between groups.
    let task_sums = if blocks.len() > 1 { cut.rows * cut.columns } else { 4 * SUMS };
    let owners = if groups.len() > 1 { cut.tasks() } else { engine.pool.threads() };
    let sums = Scratch::new(owners, task_sums)?;
    let data = SharedMut::new(out.data);
    for (index, group) in groups.iter().enumerate() {
        let packed = bytemuck::cast_slice_mut(packed.all());
        pack_right(engine, right, group, packed);
        let source = Source {
            left,
            packed,
            blocks: group,
            strips,
            starts: index == 0,
            ends: index + 1 == groups.len(),
            exchanged,
        };
        engine.pool.run(cut.tasks(), |task, worker| {
            let [rows, columns] = cut.task(task);
            unit.run(TileTask {
                source: &source,
                rows,
                columns,
                // SAFETY: tasks have sums of their own; where workers have, no two tasks run as the same worker at once.
                sums: unsafe { sums.of(if groups.len() > 1 { task } else { worker }) },
                data,
                stride: out.stride,
                map: out.rows,
                alpha: out.alpha,
                bias: out.bias,
                add: out.add,
                // SAFETY: no two tasks run as the same worker at once.
                rows_packed: bytemuck::cast_slice_mut(unsafe { rows_packed.of(worker) }),
            });
        });
    }
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
struct Cut {
    m: usize,
    n: usize,
    rows: usize,
    columns: usize,
}

impl Cut {
    /// Tasks of at most [`TASK_ROWS`] times [`TASK_COLUMNS`], smaller when that leaves threads without work.
    fn new(m: usize, n: usize, threads: usize) -> Self {
        let pairs = 2 * SIDE;
        let columns = TASK_COLUMNS.min(n.next_multiple_of(pairs));
        let wanted = if threads > 1 { (threads * 4).div_ceil(n.div_ceil(columns)) } else { 1 };
        let tasks = m.div_ceil(TASK_ROWS).max(wanted);
        let rows = m.div_ceil(tasks).max(1).next_multiple_of(pairs);
        Self { m, n, rows, columns }
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

/// Cuts blocks into groups whose packed strips stay below [`PACKED`].
fn group(blocks: &[Block], strips: usize) -> Vec<&[Block]> {
    let deepest = blocks.iter().map(|block| block.depth).max().unwrap_or(0).max(1);
    blocks.chunks((PACKED / (deepest * strips.max(1) * SIDE)).max(1)).collect()
}

/// Packs the right operand for some blocks, block after block.
fn pack_right(engine: &Engine, right: &Operand<'_, bf16>, group: &[Block], packed: &mut [bf16]) {
    let strips = right.outer.div_ceil(SIDE);
    let tasks = strips.div_ceil(PACKED_TOGETHER);
    let packed = SharedMut::new(packed);
    engine.pool.run(group.len() * tasks, |task, _| {
        let (block, strip) = (task / tasks, (task % tasks) * PACKED_TOGETHER);
        let before: usize = group[..block].iter().map(|block| block.depth).sum();
        let depth = group[block].depth;
        let first = strip * SIDE;
        let count = (PACKED_TOGETHER * SIDE).min(right.outer - first);
        let start = before * strips * SIDE + strip * SIDE * depth;
        // SAFETY: every task has strips of its own.
        let to = unsafe { packed.slice(start, count.div_ceil(SIDE) * SIDE * depth) };
        engine.tier.run(Pack { operand: right, block: &group[block], first, count, side: Side::Right, to });
    });
    debug_assert!(group.iter().all(|block| (block.depth * SIDE).is_multiple_of(TILE)));
}
