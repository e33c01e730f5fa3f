//! One task of a product on a matrix unit: some rows times some columns, over all blocks of a group.

use std::ops::Range;

use half::bf16;

use super::operand::{Block, Operand};
use super::target::Target;
use crate::simd::{Kernel, Scalar, Simd};
use crate::tiles::pack::{Pack, Side};
use crate::tiles::{Ahead, SIDE, SUMS, Strips, TileKernel, TileUnit};

/// With no more columns rows are read too seldom for a copy in order to be dear.
const FEW_COLUMNS: usize = 4 * SIDE;

/// What all tasks of a group read.
pub(super) struct Source<'a> {
    pub left: &'a Operand<'a, bf16>,
    pub right: &'a Operand<'a, bf16>,
    /// The first column that is worked on; a task's columns count from there.
    pub first: usize,
    pub blocks: &'a [Block],
    /// Whether the first block begins the sums, and the last one ends them.
    pub starts: bool,
    pub ends: bool,
    /// Whether rows of the product are columns of the result.
    pub exchanged: bool,
}

/// The tiles of the right operand.
pub(super) enum Columns<'a> {
    /// Packed before, for all tasks: block after block, `strips` of them each.
    Shared { packed: &'a [bf16], strips: usize },
    /// Room for the task's own, for one block.
    Own(&'a mut [bf16]),
}

/// One task.
pub(super) struct TileTask<'a, Y> {
    pub source: &'a Source<'a>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// Squares of two by two tiles, column after column; one square where a product has one block.
    pub sums: &'a mut [f32],
    pub target: &'a Target<'a, Y>,
    pub rows_packed: &'a mut [bf16],
    pub columns_packed: Columns<'a>,
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
        let mut columns_packed = std::mem::replace(&mut self.columns_packed, Columns::Own(&mut []));
        let mut before = 0;
        for (index, block) in source.blocks.iter().enumerate() {
            let strip = block.depth * SIDE;
            let columns = self.columns.clone();
            let packed = match &mut columns_packed {
                Columns::Shared { packed, strips } => {
                    let first = before * *strips * SIDE + columns.start / SIDE * strip;
                    &packed[first..first + columns.len().div_ceil(SIDE) * strip]
                }
                Columns::Own(to) => {
                    let (first, count, to) = (source.first + columns.start, columns.len(), &mut **to);
                    Pack { operand: source.right, block, first, count, side: Side::Right, to }.run(s);
                    &to[..count.div_ceil(SIDE) * strip]
                }
            };
            before += block.depth;
            let left = match self.rows_in_place::<U>(block) {
                Some(left) => left,
                None => {
                    let (first, count, to) = (self.rows.start, self.rows.len(), &mut *rows_packed);
                    Pack { operand: source.left, block, first, count, side: Side::Left, to }.run(s);
                    Left { numbers: &to[..count.div_ceil(SIDE) * strip], strip, row: None }
                }
            };
            let part = Part {
                begins: source.starts && index == 0,
                ends: source.ends && index + 1 == source.blocks.len(),
            };
            self.block(s, unit, block, left, packed, sums, part);
        }
    }
}

/// The left operand of a block: numbers from one strip to the next, and from one row to the next where those are not in
/// tiles.
struct Left<'a> {
    numbers: &'a [bf16],
    strip: usize,
    row: Option<usize>,
}

impl Left<'_> {
    /// The memory of two strips from `strip` on, if they have not been copied just now.
    #[inline(always)]
    fn ahead(&self, strip: usize, depth: usize) -> Ahead {
        match (self.row, self.numbers.get(strip * self.strip..)) {
            (Some(row), Some(numbers)) => {
                let rows = numbers.len().div_ceil(row).min(2 * SIDE);
                Ahead::new(numbers.as_ptr(), row, rows, depth)
            }
            _ => Ahead::NONE,
        }
    }
}

impl<'a, Y: Scalar> TileTask<'a, Y> {
    /// The task's rows as they lie, if the unit can read them and reads none that is not there.
    #[inline(always)]
    fn rows_in_place<U: TileUnit>(&self, block: &Block) -> Option<Left<'a>> {
        let [chunk] = &block.chunks[..] else { return None };
        let whole = self.rows.len().is_multiple_of(SIDE) && chunk.len.is_multiple_of(2);
        let suits = U::READS_ROWS && whole && self.columns.len() > FEW_COLUMNS;
        let (numbers, row) = suits.then(|| self.source.left.in_place(&self.rows, chunk))??;
        Some(Left { numbers, strip: row * SIDE, row: Some(row) })
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // both operands and the sums of a product
    fn block<S: Simd, U: TileUnit>(
        &self,
        s: S,
        unit: U,
        block: &Block,
        left: Left<'_>,
        right: &[bf16],
        sums: &mut [f32],
        part: Part,
    ) {
        let source = self.source;
        let strip = block.depth * SIDE;
        let (row_strips, column_strips) = (self.rows.len().div_ceil(SIDE), self.columns.len().div_ceil(SIDE));
        let square = 4 * SUMS;
        let kept = !(part.begins && part.ends);
        for column in (0..column_strips).step_by(2) {
            for row in (0..row_strips).step_by(2) {
                let index = if kept { column / 2 * row_strips.div_ceil(2) + row / 2 } else { 0 };
                let sums = &mut sums[index * square..][..square];
                let (rows, columns) = ((row_strips - row).min(2), (column_strips - column).min(2));
                let strips = Strips {
                    a: left.numbers[row * left.strip..].as_ptr(),
                    a_strip: left.strip,
                    a_row: left.row,
                    a_rows: self.rows.len() - row * SIDE,
                    b: right[column * strip..].as_ptr(),
                    b_strip: strip,
                    depth: block.filled(),
                    c: sums.as_mut_ptr(),
                    c_row: 2 * SUMS,
                    c_column: SUMS,
                    begins: part.begins,
                    ahead: if column == 0 { left.ahead(row + 2, block.filled()) } else { Ahead::NONE },
                };
                let end = self.columns.len() - column * SIDE;
                let first = source.first + self.columns.start + column * SIDE;
                let whole_lines = part.ends && !source.exchanged && end >= 2 * SIDE;
                if whole_lines {
                    let begin = self.rows.start + row * SIDE;
                    self.target.prefetch(s, begin..self.rows.end.min(begin + rows * SIDE), first);
                }
                // SAFETY: `rows` and `columns` strips lie before the ends of both slices, four tiles of sums in theirs;
                // the unit was made ready for the task.
                unsafe { unit.block(rows, columns, &strips) };
                if whole_lines {
                    for (i, sums) in sums.chunks_exact(2 * SUMS).enumerate().take(rows) {
                        let (left, right) = sums.split_at(SUMS);
                        let row = self.rows.start + (row + i) * SIDE;
                        let rows = (self.rows.end - row).min(SIDE);
                        self.target.write_two_tiles(s, [left, right], [row, rows], first);
                    }
                } else if part.ends {
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
        write_tile(s, task.target, &turned, [column, columns], [row, rows]);
    } else {
        write_tile(s, task.target, tile, [row, rows], [column, columns]);
    }
}

/// Rows `first, count` and columns `first, count` of the result.
#[inline(always)]
fn write_tile<S: Simd, Y: Scalar>(
    s: S,
    target: &Target<'_, Y>,
    tile: &[f32],
    [row, rows]: [usize; 2],
    [column, columns]: [usize; 2],
) {
    for lane in (0..columns).step_by(S::LANES) {
        let present = (columns - lane).min(S::LANES);
        for (r, sums) in tile.chunks_exact(SIDE).enumerate().take(rows) {
            let line = target.line(row + r);
            target.write(s, line, [column + lane, present], s.read(&sums[lane..][..S::LANES]));
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
