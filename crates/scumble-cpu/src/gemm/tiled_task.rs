//! One task of a product on a matrix unit: some rows times some columns, over all blocks of a group.

use std::ops::Range;

use half::bf16;

use super::RowMap;
use super::operand::{Block, Operand};
use crate::pool::SharedMut;
use crate::simd::{Kernel, Scalar, Simd};
use crate::tiles::pack::{Pack, Side};
use crate::tiles::{SIDE, SUMS, Strips, TILE, TileKernel, TileUnit};

/// What all tasks of a group read.
pub(super) struct Source<'a> {
    pub left: &'a Operand<'a, bf16>,
    /// The right operand: block after block, strip after strip.
    pub packed: &'a [bf16],
    /// Its first column that is packed; a task's columns count from there.
    pub first: usize,
    pub blocks: &'a [Block],
    /// Strips of the right operand.
    pub strips: usize,
    /// Whether the first block begins the sums, and the last one ends them.
    pub starts: bool,
    pub ends: bool,
    /// Whether rows of the product are columns of the result.
    pub exchanged: bool,
}

/// One task.
pub(super) struct TileTask<'a, Y> {
    pub source: &'a Source<'a>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// Squares of two by two tiles, column after column; one square where a product has one block.
    pub sums: &'a mut [f32],
    pub data: SharedMut<'a, Y>,
    pub stride: usize,
    pub map: RowMap,
    pub alpha: f32,
    pub bias: Option<&'a [f32]>,
    pub add: Option<&'a [Y]>,
    pub rows_packed: &'a mut [bf16],
}

/// Which part of its sums a block is.
#[derive(Clone, Copy)]
struct Part {
    begins: bool,
    ends: bool,
}

impl<Y: Scalar> TileKernel for TileTask<'_, Y> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, U: TileUnit>(mut self, s: S, unit: U) {
        let source = self.source;
        let sums = std::mem::take(&mut self.sums);
        let rows_packed = std::mem::take(&mut self.rows_packed);
        let mut before = 0;
        for (index, block) in source.blocks.iter().enumerate() {
            let packed =
                &source.packed[before * source.strips * SIDE..][..block.depth * source.strips * SIDE];
            before += block.depth;
            Pack {
                operand: source.left,
                block,
                first: self.rows.start,
                count: self.rows.len(),
                side: Side::Left,
                to: rows_packed,
            }
            .run(s);
            let part = Part {
                begins: source.starts && index == 0,
                ends: source.ends && index + 1 == source.blocks.len(),
            };
            self.block(s, unit, block.depth, [rows_packed, packed], sums, part);
        }
    }
}

impl<Y: Scalar> TileTask<'_, Y> {
    #[inline(always)]
    fn block<S: Simd, U: TileUnit>(
        &self,
        s: S,
        unit: U,
        depth: usize,
        [left, right]: [&[bf16]; 2],
        sums: &mut [f32],
        part: Part,
    ) {
        let source = self.source;
        let strip = depth * SIDE;
        let (row_strips, column_strips) = (self.rows.len().div_ceil(SIDE), self.columns.len().div_ceil(SIDE));
        let right = &right[self.columns.start / SIDE * strip..][..column_strips * strip];
        let left = &left[..row_strips * strip];
        let square = 4 * SUMS;
        let kept = !(part.begins && part.ends);
        for column in (0..column_strips).step_by(2) {
            for row in (0..row_strips).step_by(2) {
                let index = if kept { column / 2 * row_strips.div_ceil(2) + row / 2 } else { 0 };
                let sums = &mut sums[index * square..][..square];
                let (rows, columns) = ((row_strips - row).min(2), (column_strips - column).min(2));
                let strips = Strips {
                    a: left[row * strip..].as_ptr(),
                    a_strip: strip,
                    b: right[column * strip..].as_ptr(),
                    b_strip: strip,
                    steps: strip / TILE,
                    c: sums.as_mut_ptr(),
                    c_row: 2 * SUMS,
                    c_column: SUMS,
                    begins: part.begins,
                };
                // SAFETY: `rows` and `columns` strips lie before the ends of both slices, four tiles of sums in theirs;
                // the unit was made ready for the task.
                unsafe { unit.block(rows, columns, &strips) };
                if part.ends {
                    for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                        let tile = &sums[(2 * i + j) * SUMS..][..SUMS];
                        let (row, column) = ((row + i) * SIDE, (column + j) * SIDE);
                        let column = source.first + self.columns.start + column;
                        finish_tile(s, self, tile, self.rows.start + row, column);
                    }
                }
            }
        }
    }
}

/// Scales a tile, brings bias and addend, and writes it where it belongs.
#[inline(always)]
fn finish_tile<S: Simd, Y: Scalar>(s: S, task: &TileTask<'_, Y>, tile: &[f32], row: usize, column: usize) {
    let end = task.source.first + task.columns.end;
    let (rows, columns) = ((task.rows.end - row).min(SIDE), (end - column).min(SIDE));
    if task.source.exchanged {
        let mut turned = [0.0f32; SUMS];
        turn_tile(s, tile, &mut turned);
        write_tile(s, task, &turned, [column, columns], [row, rows]);
    } else {
        write_tile(s, task, tile, [row, rows], [column, columns]);
    }
}

/// Rows `first, count` and columns `first, count` of the result.
#[inline(always)]
fn write_tile<S: Simd, Y: Scalar>(
    s: S,
    task: &TileTask<'_, Y>,
    tile: &[f32],
    [row, rows]: [usize; 2],
    [column, columns]: [usize; 2],
) {
    let alpha = s.splat(task.alpha);
    for lane in (0..columns).step_by(S::LANES) {
        let present = (columns - lane).min(S::LANES);
        let bias = task.bias.map_or(s.splat(0.0), |bias| s.read(&bias[column + lane..][..present]));
        for (r, sums) in tile.chunks_exact(SIDE).enumerate().take(rows) {
            let start = task.map.line(row + r) * task.stride + column + lane;
            let mut value = s.fma(s.read(&sums[lane..][..S::LANES]), alpha, bias);
            if let Some(add) = task.add {
                value = s.add(value, Y::read(s, &add[start..][..present]));
            }
            // SAFETY: tasks have rows and columns of their own.
            Y::write(s, unsafe { task.data.slice(start, present) }, value);
        }
    }
}

/// Turns a tile of sums, square by square of a register's lanes.
#[inline(always)]
pub(crate) fn turn_tile<S: Simd>(s: S, tile: &[f32], to: &mut [f32; SUMS]) {
    debug_assert!(tile.len() >= SUMS);
    for row in (0..SIDE).step_by(S::LANES) {
        for column in (0..SIDE).step_by(S::LANES) {
            let mut rows = [std::ptr::null(); 16];
            for (lane, line) in rows.iter_mut().enumerate().take(S::LANES) {
                *line = tile[(row + lane) * SIDE + column..][..S::LANES].as_ptr();
            }
            // SAFETY: rows of as many floats as a register has lanes; lines of 16 floats, as many from `column` on.
            unsafe { s.turn::<f32>(&rows, to[column * SIDE + row..].as_mut_ptr(), SIDE) };
        }
    }
}
