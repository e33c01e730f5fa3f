//! One task of a product: some rows times some columns, over all blocks of a group.
//!
//! For each block of depth the rows are packed once; then, panel by panel, all rows pass over a panel of `b` that stays
//! in the first-level cache. Sums of unfinished elements lie in f32, tile after tile, so that results of any type are
//! rounded once.

use std::ops::Range;

use super::kernel::{Acc, ROWS, multiply_rows, multiply_strip, with_vectors, zero};
use super::operand::{Along, Block, Operand};
use super::pack;
use super::{LowRank, RowMap};
use crate::pool::SharedMut;
use crate::simd::{Kernel, Scalar, Simd};

/// What all tasks of a group read.
pub(crate) struct Source<'a, E> {
    pub a: &'a Operand<'a, E>,
    /// Packed panels of `b`: block after block, panel after panel.
    pub panels: &'a [f32],
    pub blocks: &'a [Block],
    /// Columns of a block's panels together.
    pub columns: usize,
    /// Whether the first block begins the sums, and the last one ends them.
    pub starts: bool,
    pub ends: bool,
}

/// One task.
pub(crate) struct RowsTask<'a, E, Y> {
    pub source: &'a Source<'a, E>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// Sums of unfinished elements: `[tile of rows][columns][6]` with whole vectors of columns.
    pub sums: SharedMut<'a, f32>,
    pub data: SharedMut<'a, Y>,
    pub stride: usize,
    pub map: RowMap,
    pub alpha: f32,
    pub bias: Option<&'a [f32]>,
    pub add: Option<&'a [Y]>,
    pub low_rank: Option<LowRank<'a>>,
    pub strips: &'a mut [f32],
}

impl<E: Scalar, Y: Scalar> Kernel for RowsTask<'_, E, Y> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let source = self.source;
        let mut before = 0;
        for (index, block) in source.blocks.iter().enumerate() {
            let panels = &source.panels[before * source.columns..][..block.depth * source.columns];
            before += block.depth;
            let begins = source.starts && index == 0;
            let ends = source.ends && index + 1 == source.blocks.len();
            pack::strips(s, source.a, block, self.rows.start, self.rows.len(), self.strips);
            self.block(s, block.depth, panels, begins, ends);
        }
    }
}

impl<E: Scalar, Y: Scalar> RowsTask<'_, E, Y> {
    #[inline(always)]
    fn block<S: Simd>(&mut self, s: S, depth: usize, panels: &[f32], begins: bool, ends: bool) {
        let width = S::PANEL * S::LANES;
        for column in self.columns.clone().step_by(width) {
            let present = width.min(self.columns.end - column);
            let vectors = present.div_ceil(S::LANES);
            let panel = &panels[column * depth..][..vectors * S::LANES * depth];
            for first in self.rows.clone().step_by(ROWS) {
                let rows = ROWS.min(self.rows.end - first);
                let strip = &self.strips[(first - self.rows.start) * depth..][..ROWS * depth];
                let bounds = Bounds { first, rows, column, present, begins, ends };
                with_vectors!(S, vectors, NV => {
                    let mut acc = zero::<S, NV>(s);
                    let (a, b, step) = (strip.as_ptr(), panel.as_ptr(), NV * S::LANES);
                    // SAFETY: the strip holds six rows of `depth` floats, in either order, and the panel `NV` vectors
                    // for each step.
                    unsafe {
                        match self.source.a.along {
                            Along::Depth => {
                                let mut rows = [a; ROWS];
                                for (r, row) in rows.iter_mut().enumerate() {
                                    *row = a.add(r * depth);
                                }
                                multiply_rows::<S, NV>(s, &mut acc, &rows, depth, b, step);
                            }
                            Along::Outer => multiply_strip::<S, NV>(s, &mut acc, a, ROWS, depth, b, step),
                        }
                    }
                    self.merge::<S, NV>(s, &acc, &bounds);
                });
            }
        }
    }

    /// Adds a tile to the sums; the last block scales, brings bias and addend, and writes the result.
    #[inline(always)]
    fn merge<S: Simd, const NV: usize>(&self, s: S, acc: &Acc<S, NV>, at: &Bounds) {
        let mut acc = *acc;
        if !(at.begins && at.ends) {
            let tile = NV * S::LANES * ROWS;
            let start = at.first * self.source.columns + at.column * ROWS;
            // SAFETY: tasks have rows and columns of their own.
            let sums = unsafe { self.sums.slice(start, tile) };
            for (line, acc) in sums.chunks_exact_mut(NV * S::LANES).zip(&mut acc) {
                for (v, acc) in acc.iter_mut().enumerate() {
                    let to = &mut line[v * S::LANES..][..S::LANES];
                    if !at.begins {
                        *acc = s.add(s.read(to), *acc);
                    }
                    if !at.ends {
                        s.write(to, *acc);
                    }
                }
            }
        }
        if at.ends {
            self.finish::<S, NV>(s, &acc, at);
        }
    }

    #[inline(always)]
    fn finish<S: Simd, const NV: usize>(&self, s: S, acc: &Acc<S, NV>, at: &Bounds) {
        let alpha = s.splat(self.alpha);
        for (r, sums) in acc.iter().enumerate() {
            if r >= at.rows {
                break;
            }
            let line = self.map.line(at.first + r);
            let start = line * self.stride + at.column;
            // SAFETY: tasks have rows and columns of their own.
            let result = unsafe { self.data.slice(start, at.present) };
            for (v, &sum) in sums.iter().enumerate() {
                let to = &mut result[v * S::LANES..];
                let mut value = s.mul(sum, alpha);
                let columns = [at.column + v * S::LANES, to.len().min(S::LANES)];
                if let Some(low_rank) = self.low_rank {
                    value = low_rank.add_to(s, value, line, columns);
                }
                if let Some(bias) = self.bias {
                    value = s.add(value, s.read(&bias[columns[0]..][..columns[1]]));
                }
                if let Some(add) = self.add {
                    value = s.add(value, Y::read(s, &add[start + v * S::LANES..][..to.len().min(S::LANES)]));
                }
                Y::write(s, to, value);
            }
        }
    }
}

/// Where a tile lies and which part of its sum it is.
struct Bounds {
    first: usize,
    rows: usize,
    column: usize,
    present: usize,
    begins: bool,
    ends: bool,
}
