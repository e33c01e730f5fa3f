//! One task of a product: some rows times some columns, over all blocks of a group.

use std::ops::Range;

use super::RowMap;
use super::kernel::{Acc, ROWS, multiply_rows, multiply_strip, with_vectors, zero};
use super::operand::{Along, Block, Operand};
use super::pack;
use crate::pool::SharedMut;
use crate::simd::{Kernel, Simd};

/// What all tasks of a group read.
pub(crate) struct Source<'a> {
    pub a: &'a Operand<'a>,
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
pub(crate) struct RowsTask<'a> {
    pub source: &'a Source<'a>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub data: SharedMut<'a, f32>,
    pub stride: usize,
    pub map: RowMap,
    pub alpha: f32,
    pub bias: Option<&'a [f32]>,
    pub add: Option<&'a [f32]>,
    pub strips: &'a mut [f32],
}

impl Kernel for RowsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let source = self.source;
        let mut pointers: Vec<[*const f32; ROWS]> = Vec::new();
        let mut before = 0;
        for (index, block) in source.blocks.iter().enumerate() {
            let panels = &source.panels[before * source.columns..][..block.depth * source.columns];
            before += block.depth;
            let begins = source.starts && index == 0;
            let ends = source.ends && index + 1 == source.blocks.len();
            match source.a.along {
                Along::Depth => self.point(block, &mut pointers),
                Along::Outer => {
                    pack::strips(source.a, block, self.rows.start, self.rows.len(), self.strips);
                }
            }
            self.block(s, block, panels, &pointers, begins, ends);
        }
    }
}

impl RowsTask<'_> {
    /// Looks up where each chunk of each row is: for every tile its chunks, for every chunk six rows.
    #[inline(always)]
    fn point(&self, block: &Block, pointers: &mut Vec<[*const f32; ROWS]>) {
        pointers.clear();
        for first in self.rows.clone().step_by(ROWS) {
            for chunk in &block.chunks {
                pointers.push(std::array::from_fn(|r| {
                    // Behind the last row the last one is read again; nothing of it is written.
                    let row = (first + r).min(self.rows.end - 1);
                    self.source.a.run(row, chunk.segment)[chunk.start..chunk.start + chunk.len].as_ptr()
                }));
            }
        }
    }

    #[inline(always)]
    fn block<S: Simd>(
        &mut self,
        s: S,
        block: &Block,
        panels: &[f32],
        pointers: &[[*const f32; ROWS]],
        begins: bool,
        ends: bool,
    ) {
        let width = S::PANEL * S::LANES;
        for (tile, first) in self.rows.clone().step_by(ROWS).enumerate() {
            let rows = ROWS.min(self.rows.end - first);
            for column in self.columns.clone().step_by(width) {
                let present = width.min(self.columns.end - column);
                let vectors = present.div_ceil(S::LANES);
                let panel = &panels[column * block.depth..][..vectors * S::LANES * block.depth];
                let bounds = Bounds { first, rows, column, present, begins, ends };
                with_vectors!(S, vectors, NV => {
                    let mut acc = zero::<S, NV>(s);
                    match self.source.a.along {
                        Along::Depth => {
                            let count = block.chunks.len();
                            let chunks = block.chunks.iter().zip(&pointers[tile * count..]);
                            let mut b = panel.as_ptr();
                            for (chunk, rows) in chunks {
                                // SAFETY: `point` took each row from a slice of the chunk's length; the panel
                                // holds `NV` vectors for each step of the block.
                                unsafe {
                                    multiply_rows::<S, NV>(s, &mut acc, rows, chunk.len, b, NV * S::LANES);
                                    b = b.add(chunk.len * NV * S::LANES);
                                }
                            }
                        }
                        Along::Outer => {
                            let strip = &self.strips[tile * block.depth * ROWS..][..block.depth * ROWS];
                            // SAFETY: both slices hold all steps of the block.
                            unsafe {
                                multiply_strip::<S, NV>(
                                    s, &mut acc, strip.as_ptr(), ROWS, block.depth, panel.as_ptr(), NV * S::LANES,
                                );
                            }
                        }
                    }
                    self.merge::<S, NV>(s, &acc, &bounds);
                });
            }
        }
    }

    /// Adds a tile to the result; the last block brings bias and addend.
    #[inline(always)]
    fn merge<S: Simd, const NV: usize>(&self, s: S, acc: &Acc<S, NV>, at: &Bounds) {
        let alpha = s.splat(self.alpha);
        for (r, sums) in acc.iter().enumerate() {
            if r >= at.rows {
                break;
            }
            let start = self.map.line(at.first + r) * self.stride + at.column;
            // SAFETY: tasks have rows and columns of their own.
            let line = unsafe { self.data.slice(start, at.present) };
            for (v, &sum) in sums.iter().enumerate() {
                let to = &mut line[v * S::LANES..];
                let mut value = s.mul(sum, alpha);
                if !at.begins {
                    value = s.add(s.read(to), value);
                }
                if at.ends {
                    if let Some(bias) = self.bias {
                        value = s.add(value, s.read(&bias[at.column + v * S::LANES..][..to.len()]));
                    }
                    if let Some(add) = self.add {
                        value = s.add(value, s.read(&add[start + v * S::LANES..][..to.len()]));
                    }
                }
                s.write(to, value);
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
