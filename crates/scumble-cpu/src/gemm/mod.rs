//! Matrix product `out = alpha * a b^T' + low_rank + bias + add` over anything an [`Operand`] can describe.
//!
//! The result is cut into tasks of some rows times some columns. Both sides are packed in f32, whatever they are in
//! memory: one ("b") into panels of columns that all tasks share, the other ("a") by each task into strips of six rows.
//! Depth is walked in blocks:
//!
//! ```text
//! for group of depth blocks:             packed b of at most PACKED_FLOATS
//!   pack b                               tasks: panels
//!   for rows x columns of the result:    tasks
//!     for block:
//!       pack the task's rows of a        second-level cache
//!       for panel:                       first-level cache
//!         for six rows:                  kernel, then add to the sums
//! ```
//!
//! Packing costs about one step an element, so the smaller side is packed: where the result has far fewer rows than
//! columns the product is computed transposed and turned at the end. Each element's sum runs over k in order, in
//! blocks that depend on the depth alone: neither threads nor tiles show in the result.
//!
//! Operands of bf16 go another way where the tier has a matrix unit: [`tiled`].

pub(crate) mod kernel;
pub(crate) mod operand;
mod pack;
pub(crate) mod target;
mod tile;
mod tiled;
pub(crate) mod tiled_task;

use scumble_tensor::Result;

use crate::engine::{Engine, Scratch};
use crate::pool::SharedMut;
use crate::simd::{Scalar, Simd};
use kernel::ROWS;
use operand::{Along, Block, Operand, blocks};
use tile::{RowsTask, Source};

/// Most depth of a block: a panel of 64 columns is then 32 KiB, which a first-level cache holds.
const BLOCK_DEPTH: usize = 128;
/// Most columns of a task.
const TASK_COLUMNS: usize = 640;
/// Most rows of a task.
const TASK_ROWS: usize = 192;
/// Most floats of packed panels at once: they should stay in the last-level cache.
const PACKED_FLOATS: usize = 2 << 20;

/// Which line of the result row `i` of the product is.
#[derive(Clone, Copy)]
pub(crate) enum RowMap {
    /// Line `i`.
    Identity,
    /// Every `step`-th pixel of a picture `size`, from `start` on; rows walk a grid `[h, w]` an image.
    Phase { grid: [usize; 2], size: [usize; 2], start: [usize; 2], step: usize },
}

impl RowMap {
    #[inline(always)]
    pub(crate) fn line(&self, row: usize) -> usize {
        match *self {
            RowMap::Identity => row,
            RowMap::Phase { grid, size, start, step } => {
                let (line, x) = (row / grid[1], row % grid[1]);
                let (image, y) = (line / grid[0], line % grid[0]);
                (image * size[0] + start[0] + y * step) * size[1] + start[1] + x * step
            }
        }
    }
}

/// Where and how a product is written.
pub(crate) struct Output<'a, Y> {
    /// Holds element `(i, j)` at `rows.line(i) * stride + j`.
    pub data: &'a mut [Y],
    pub stride: usize,
    pub rows: RowMap,
    pub alpha: f32,
    /// One for each column.
    pub bias: Option<&'a [f32]>,
    /// Laid out as `data`.
    pub add: Option<&'a [Y]>,
    /// Added before rounding.
    pub low_rank: Option<LowRank<'a>>,
}

/// A second product of little depth, in f32, its factor within.
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a> {
    pub rank: usize,
    /// Columns of the result.
    pub columns: usize,
    /// `[line, rank]`.
    pub left: &'a [f32],
    /// `[rank, columns]`.
    pub right: &'a [f32],
}

impl LowRank<'_> {
    /// `value` and what belongs to a register of a line: columns `first, count`.
    #[inline(always)]
    pub(crate) fn add_to<S: Simd>(
        &self,
        s: S,
        mut value: S::V,
        line: usize,
        [first, count]: [usize; 2],
    ) -> S::V {
        let left = &self.left[line * self.rank..][..self.rank];
        for (&factor, right) in left.iter().zip(self.right.chunks_exact(self.columns)) {
            value = s.fma(s.splat(factor), s.read(&right[first..][..count]), value);
        }
        value
    }

    /// What belongs to one element.
    fn at(&self, line: usize, column: usize) -> f32 {
        let left = &self.left[line * self.rank..][..self.rank];
        left.iter().zip(self.right.iter().skip(column).step_by(self.columns)).map(|(l, r)| l * r).sum()
    }
}

impl<'a, Y> Output<'a, Y> {
    /// A whole matrix of `stride` columns, the product alone.
    pub(crate) fn plain(data: &'a mut [Y], stride: usize) -> Self {
        Self { data, stride, rows: RowMap::Identity, alpha: 1.0, bias: None, add: None, low_rank: None }
    }
}

/// Computes `out[i, j] = alpha * sum over k of a[i, k] b[j, k] + low_rank[i, j] + bias[j] + add[i, j]`.
pub(crate) fn gemm<E: Scalar, Y: Scalar>(
    engine: &Engine,
    a: &Operand<'_, E>,
    b: &Operand<'_, E>,
    out: Output<'_, Y>,
) -> Result<()> {
    if a.outer == 0 || b.outer == 0 {
        return Ok(());
    }
    if let (Some(unit), Some(a), Some(b)) = (engine.tier.unit(), E::halves(a), E::halves(b)) {
        return tiled::tiled(engine, unit, a, b, out);
    }
    if transposed_is_cheaper(a, b) { transposed(engine, a, b, out) } else { direct(engine, a, b, out) }
}

/// Whether packing `a` and turning the result costs less than packing `b`.
fn transposed_is_cheaper<E>(a: &Operand<'_, E>, b: &Operand<'_, E>) -> bool {
    /// Steps that turning an element takes more than packing one.
    const TURNING: usize = 3;
    let (m, n) = (a.outer, b.outer);
    let both_along_depth = a.along == Along::Depth && b.along == Along::Depth;
    both_along_depth && m < n && (n - m) * a.depth() > TURNING * m * n
}

/// The product with the sides exchanged, then turned.
fn transposed<E: Scalar, Y: Scalar>(
    engine: &Engine,
    a: &Operand<'_, E>,
    b: &Operand<'_, E>,
    out: Output<'_, Y>,
) -> Result<()> {
    let (m, n) = (a.outer, b.outer);
    let mut scratch = Scratch::new(1, m * n)?;
    let turned = &mut scratch.all()[..m * n];
    direct(engine, b, a, Output::plain(turned, m))?;
    let turned = &*turned;
    let lines = SharedMut::new(out.data);
    // Squares of 16 keep both sides within the first-level cache.
    let (row_blocks, column_blocks) = (m.div_ceil(16), n.div_ceil(64));
    engine.pool.run(row_blocks * column_blocks, |index, _| {
        let columns = (index / row_blocks) * 64..((index / row_blocks) * 64 + 64).min(n);
        let first = (index % row_blocks) * 16;
        for row in first..(first + 16).min(m) {
            let at = out.rows.line(row) * out.stride + columns.start;
            // SAFETY: every task has rows and columns of its own.
            let line = unsafe { lines.slice(at, columns.len()) };
            for (index, (to, column)) in line.iter_mut().zip(columns.clone()).enumerate() {
                let bias = out.bias.map_or(0.0, |bias| bias[column]);
                let add = out.add.map_or(0.0, |add| add[at + index].widen());
                let low_rank = out.low_rank.map_or(0.0, |low_rank| low_rank.at(out.rows.line(row), column));
                *to = Y::narrow(out.alpha * turned[column * m + row] + low_rank + bias + add);
            }
        }
    });
    Ok(())
}

/// The product with `b` packed.
fn direct<E: Scalar, Y: Scalar>(
    engine: &Engine,
    a: &Operand<'_, E>,
    b: &Operand<'_, E>,
    out: Output<'_, Y>,
) -> Result<()> {
    let (m, n) = (a.outer, b.outer);
    let shape = engine.panel_shape();
    let blocks = blocks(a.segments, a.segment_len, BLOCK_DEPTH);
    let columns = shape.padded(n);
    let last_line = out.rows.line(m - 1) * out.stride + n;
    assert!(last_line <= out.data.len() && out.add.is_none_or(|add| add.len() >= last_line));
    assert!(out.bias.is_none_or(|bias| bias.len() >= n));
    let task_columns = (TASK_COLUMNS / shape.width).max(1) * shape.width;
    let column_tasks = n.div_ceil(task_columns);
    let task_rows = task_rows(m, column_tasks, engine.pool.threads());
    let row_tasks = m.div_ceil(task_rows);
    let groups = group(&blocks, columns);
    let largest = groups.iter().map(|group| group.iter().map(|block| block.depth).sum::<usize>()).max();
    let mut packed = Scratch::new(1, largest.unwrap_or(0) * columns)?;
    let strips = Scratch::new(engine.pool.threads(), task_rows * BLOCK_DEPTH)?;
    let sum_floats = if blocks.len() > 1 { m.next_multiple_of(ROWS) * columns } else { 0 };
    let mut sums = Scratch::new(1, sum_floats)?;
    let sums = SharedMut::new(sums.all());
    let data = SharedMut::new(out.data);
    for (index, group) in groups.iter().enumerate() {
        let packed = packed.all();
        pack_group(engine, b, group, packed);
        let source = Source {
            a,
            panels: packed,
            blocks: group,
            columns,
            starts: index == 0,
            ends: index + 1 == groups.len(),
        };
        engine.pool.run(row_tasks * column_tasks, |task, worker| {
            let (row, column) = ((task % row_tasks) * task_rows, (task / row_tasks) * task_columns);
            engine.tier.run(RowsTask {
                source: &source,
                rows: row..(row + task_rows).min(m),
                columns: column..(column + task_columns).min(n),
                sums,
                data,
                stride: out.stride,
                map: out.rows,
                alpha: out.alpha,
                bias: out.bias,
                add: out.add,
                low_rank: out.low_rank,
                // SAFETY: no two tasks run as the same worker at once.
                strips: unsafe { strips.of(worker) },
            });
        });
    }
    Ok(())
}

/// Rows of a task: at most [`TASK_ROWS`], fewer when that leaves threads without work, and evenly cut.
fn task_rows(m: usize, column_tasks: usize, threads: usize) -> usize {
    let wanted = if threads > 1 { (threads * 4).div_ceil(column_tasks) } else { 1 };
    let tasks = m.div_ceil(TASK_ROWS).max(wanted);
    m.div_ceil(tasks).max(1).next_multiple_of(ROWS)
}

/// Cuts blocks into groups whose packed panels stay below [`PACKED_FLOATS`].
fn group(blocks: &[Block], columns: usize) -> Vec<&[Block]> {
    let deepest = blocks.iter().map(|block| block.depth).max().unwrap_or(0).max(1);
    blocks.chunks((PACKED_FLOATS / (deepest * columns.max(1))).max(1)).collect()
}

/// Packs all panels of some blocks, block after block.
fn pack_group<E: Scalar>(engine: &Engine, b: &Operand<'_, E>, group: &[Block], packed: &mut [f32]) {
    /// Panels that are packed together where memory runs along the outer index: long runs suit the memory.
    const TOGETHER: usize = 4;
    let shape = engine.panel_shape();
    let columns = shape.padded(b.outer);
    let together = if b.along == Along::Outer { TOGETHER } else { 1 };
    let tasks = b.outer.div_ceil(shape.width * together);
    let packed = SharedMut::new(packed);
    engine.pool.run(group.len() * tasks, |task, _| {
        let (block, first) = (task / tasks, (task % tasks) * shape.width * together);
        let before: usize = group[..block].iter().map(|block| block.depth).sum();
        let (width, depth) = ((shape.width * together).min(columns - first), group[block].depth);
        // SAFETY: every task has panels of its own.
        let to = unsafe { packed.slice(before * columns + first * depth, width * depth) };
        engine.tier.run(pack::Panels { b, block: &group[block], first, width: shape.width, to });
    });
}
