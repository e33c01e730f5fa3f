//! One task: some squares of the picture times some columns of the weights.

use std::ops::Range;

use half::bf16;

use super::picture::{TransformPicture, empty_positions};
use super::weights::{Layout, TransformWeights};
use super::{POSITIONS, Winograd, position_len, transforms};
use crate::gemm::operand::Chunk;
use crate::gemm::target::Target;
use crate::pool::SharedMut;
use crate::simd::{Kernel, Scalar, Simd};
use crate::tiles::{Ahead, DEPTH, SIDE, SUMS, Strips, TILE, TileKernel, TileUnit};

/// Where the weights at the positions are.
pub(super) enum Weights<'a> {
    /// Those of all columns from `first` on, over the whole depth.
    Shared { packed: &'a [bf16], first: usize, layout: Layout },
    /// Room for those of some columns over one part of the depth.
    Own { packed: &'a mut [bf16], layout: Layout },
}

/// Where the picture at the positions is.
pub(super) enum Picture<'a> {
    /// All squares of it.
    Shared(&'a [bf16]),
    /// Room for the task's squares.
    Own(&'a mut [bf16]),
}

/// One task.
pub(super) struct Task<'a, Y> {
    pub of: &'a Winograd<'a>,
    pub squares: Range<usize>,
    pub columns: Range<usize>,
    /// Columns whose sums are kept at once.
    pub sub: usize,
    /// Parts of the depth.
    pub blocks: &'a [Chunk],
    pub weights: Weights<'a>,
    pub picture: Picture<'a>,
    /// For each square of two tiles' strips: the sums of all positions.
    pub sums: &'a mut [f32],
    pub target: &'a Target<'a, Y>,
}

impl<Y: Scalar> TileKernel for Task<'_, Y> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, U: TileUnit>(mut self, s: S, unit: U) {
        let (strips, depth_tiles) = (self.strips(), self.of.depth_tiles());
        let strip = depth_tiles * TILE;
        let (packed, position): (&[bf16], usize) =
            match std::mem::replace(&mut self.picture, Picture::Shared(&[])) {
                Picture::Shared(packed) => {
                    let all = self.of.squares().div_ceil(SIDE);
                    (&packed[self.squares.start / SIDE * strip..], position_len(all, depth_tiles))
                }
                Picture::Own(room) => {
                    let position = position_len(strips, depth_tiles);
                    TransformPicture {
                        of: self.of,
                        squares: self.squares.clone(),
                        tiles: 0..depth_tiles,
                        to: SharedMut::new(room),
                        start: 0,
                        position,
                    }
                    .run(s);
                    (room, position)
                }
            };
        let left = Left { packed, position, empty: empty_positions(packed, strips * strip, position) };
        for first in (self.columns.start..self.columns.end).step_by(self.sub) {
            let columns = first..(first + self.sub).min(self.columns.end);
            self.multiply(s, unit, &columns, &left);
            self.finish(s, &columns);
        }
    }
}

/// The task's part of the picture at the positions.
struct Left<'a> {
    packed: &'a [bf16],
    /// Numbers from one position to the next.
    position: usize,
    /// Which positions are zero throughout.
    empty: [bool; POSITIONS],
}

impl<Y: Scalar> Task<'_, Y> {
    fn strips(&self) -> usize {
        self.squares.len().div_ceil(SIDE)
    }

    /// The sums of all positions for some columns.
    #[inline(always)]
    fn multiply<S: Simd, U: TileUnit>(&mut self, s: S, unit: U, columns: &Range<usize>, picture: &Left<'_>) {
        let (strips, depth_tiles) = (self.strips(), self.of.depth_tiles());
        let column_strips = columns.len().div_ceil(SIDE);
        for (index, block) in self.blocks.iter().enumerate() {
            let ahead = self.ahead(columns, index);
            let (right, layout): (&[bf16], Layout) = match &mut self.weights {
                Weights::Shared { packed, first, layout } => {
                    let start = (columns.start - *first) / SIDE * layout.strip + block.start / DEPTH * TILE;
                    (&packed[start..], *layout)
                }
                Weights::Own { packed, layout } => {
                    TransformWeights {
                        taps: &self.of.taps,
                        block,
                        columns: columns.clone(),
                        to: SharedMut::new(packed),
                        start: 0,
                        layout: *layout,
                    }
                    .run(s);
                    (packed, *layout)
                }
            };
            let left = &picture.packed[block.start / DEPTH * TILE..];
            let tiles = block.len.div_ceil(DEPTH);
            for at in (0..POSITIONS).filter(|&at| self.of.needs(at)) {
                let (left, right) = (&left[at * picture.position..], &right[at * layout.position..]);
                assert!(left.len() >= ((strips - 1) * depth_tiles + tiles) * TILE);
                assert!(right.len() >= (column_strips - 1) * layout.strip + tiles * TILE);
                let strips_of = Strips {
                    a: left.as_ptr(),
                    a_strip: depth_tiles * TILE,
                    a_row: None,
                    a_rows: self.squares.len(),
                    b: right.as_ptr(),
                    b_strip: layout.strip,
                    depth: if picture.empty[at] { 0 } else { block.len },
                    c: self.sums[at * SUMS..].as_mut_ptr(),
                    c_row: POSITIONS * SUMS,
                    c_column: strips * POSITIONS * SUMS,
                    begins: index == 0,
                    ahead: ahead.part(at, POSITIONS),
                };
                assert!(self.sums.len() >= column_strips * strips * POSITIONS * SUMS);
                // SAFETY: the strips lie within both slices, and the sums within theirs; the unit was made ready for the
                // task.
                unsafe { unit.grid(strips, column_strips, &strips_of) };
            }
        }
    }

    /// The weights that the task brings to the positions after part `index` of the depth of some columns.
    #[inline(always)]
    fn ahead(&self, columns: &Range<usize>, index: usize) -> Ahead {
        if matches!(self.weights, Weights::Shared { .. }) {
            return Ahead::NONE;
        }
        let (block, columns) = match self.blocks.get(index + 1) {
            Some(block) => (block, columns.clone()),
            None => (&self.blocks[0], columns.end..self.columns.end.min(columns.end + self.sub)),
        };
        self.of.taps.ahead(block.start..block.start + block.len, columns)
    }

    /// Brings the sums back to pixels and writes them.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, columns: &Range<usize>) {
        let [height, width] = self.of.picture.grid;
        for (row, index) in self.squares.clone().enumerate() {
            let [image, y, x] = self.of.square(index);
            for column in (0..columns.len()).step_by(2 * S::LANES) {
                let (at, present) = (columns.start + column, columns.len() - column);
                let low = self.sums(s, row, column);
                let high = if present > S::LANES { self.sums(s, row, column + S::LANES) } else { low };
                if self.of.sums_squares {
                    let both = [transforms::whole_sum(s, &low), transforms::whole_sum(s, &high)];
                    self.write(s, index, [at, present], both);
                    continue;
                }
                let (low, high) = (transforms::sums(s, &low), transforms::sums(s, &high));
                for (below, beside) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let (y, x) = (y + below, x + beside);
                    if y < height && x < width {
                        let line = (image * height + y) * width + x;
                        self.write(s, line, [at, present], [low[below][beside], high[below][beside]]);
                    }
                }
            }
        }
    }

    /// The sums of a row at all positions, a register of columns.
    #[inline(always)]
    fn sums<S: Simd>(&self, s: S, row: usize, column: usize) -> [S::V; POSITIONS] {
        let start = (column / SIDE * self.strips() + row / SIDE) * POSITIONS * SUMS;
        let sums = &self.sums[start..][..POSITIONS * SUMS];
        let at = row % SIDE * SIDE + column % SIDE;
        let mut values = [s.splat(0.0); POSITIONS];
        for (value, sums) in values.iter_mut().zip(sums.chunks_exact(SUMS)) {
            *value = s.read(&sums[at..][..S::LANES]);
        }
        values
    }

    /// Writes two registers of a line of the result, as far as columns are present.
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, line: usize, [at, present]: [usize; 2], [low, high]: [S::V; 2]) {
        if present >= 2 * S::LANES {
            self.target.write_two(s, line, at, [low, high]);
            return;
        }
        self.target.write(s, line, [at, present.min(S::LANES)], low);
        if present > S::LANES {
            self.target.write(s, line, [at + S::LANES, present - S::LANES], high);
        }
    }
}
