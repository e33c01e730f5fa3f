//! One task: some squares of the picture times some columns of the weights.

use std::ops::Range;

use half::bf16;

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
    /// Room for the picture at the positions.
    pub pictures: &'a mut [bf16],
    /// For each square of two tiles' strips: the sums of all positions.
    pub sums: &'a mut [f32],
    pub target: &'a Target<'a, Y>,
}

impl<Y: Scalar> TileKernel for Task<'_, Y> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, U: TileUnit>(mut self, s: S, unit: U) {
        self.transform_picture(s);
        let empty = self.empty_positions();
        for first in (self.columns.start..self.columns.end).step_by(self.sub) {
            let columns = first..(first + self.sub).min(self.columns.end);
            self.multiply(s, unit, &columns, &empty);
            self.finish(s, &columns);
        }
    }
}

impl<Y: Scalar> Task<'_, Y> {
    fn strips(&self) -> usize {
        self.squares.len().div_ceil(SIDE)
    }

    /// Where the pixels of a square are: image, line and column of the first one.
    #[inline(always)]
    fn square(&self, index: usize) -> [usize; 3] {
        let [down, across] = self.of.squares;
        let line = index / across;
        [line / down, line % down * 2, index % across * 2]
    }

    /// Brings the task's part of the picture to the positions.
    #[inline(always)]
    fn transform_picture<S: Simd>(&mut self, s: S) {
        let picture = &self.of.picture;
        let depth_tiles = self.of.depth_tiles();
        let position = position_len(self.strips(), depth_tiles);
        let [above, before] = picture.offsets[0];
        for (row, index) in self.squares.clone().enumerate() {
            let [image, y, x] = self.square(index);
            let (y, x) = (y as isize + above, x as isize + before);
            let mut pixels: [&[bf16]; POSITIONS] = [&[]; POSITIONS];
            for (at, pixel) in pixels.iter_mut().enumerate() {
                *pixel = picture.pixel(image, [y + (at / 4) as isize, x + (at % 4) as isize]);
            }
            let start = row / SIDE * depth_tiles * TILE + row % SIDE * DEPTH;
            for channel in (0..depth_tiles * DEPTH).step_by(S::LANES) {
                let at = start + channel / DEPTH * TILE + channel % DEPTH;
                let mut d = [s.splat(0.0); POSITIONS];
                if channel + S::LANES <= picture.channels {
                    for (value, pixel) in d.iter_mut().zip(&pixels) {
                        // SAFETY: every pixel has as many channels.
                        *value = unsafe { s.load_bf16(pixel.as_ptr().add(channel)) };
                    }
                } else {
                    for (value, pixel) in d.iter_mut().zip(&pixels) {
                        *value = bf16::read(s, pixel.get(channel..).unwrap_or_default());
                    }
                }
                transforms::picture(s, &mut d);
                for (index, value) in d.into_iter().enumerate() {
                    bf16::write(s, &mut self.pictures[at + index * position..][..S::LANES], value);
                }
            }
        }
    }

    /// Which positions of the task's part of the picture are zero throughout: where a picture was enlarged, neighbours are
    /// equal, and their differences, seven positions of sixteen, need not be multiplied.
    #[inline(always)]
    fn empty_positions(&self) -> [bool; POSITIONS] {
        let len = self.strips() * self.of.depth_tiles() * TILE;
        let position = position_len(self.strips(), self.of.depth_tiles());
        let mut empty = [false; POSITIONS];
        for (at, empty) in empty.iter_mut().enumerate() {
            let mut rows = self.pictures[at * position..][..len].chunks_exact(DEPTH);
            *empty = rows.all(|row| row.iter().fold(0, |bits, number| bits | number.to_bits()) & 0x7fff == 0);
        }
        empty
    }

    /// The sums of all positions for some columns.
    #[inline(always)]
    fn multiply<S: Simd, U: TileUnit>(
        &mut self,
        s: S,
        unit: U,
        columns: &Range<usize>,
        empty: &[bool; POSITIONS],
    ) {
        let (strips, depth_tiles) = (self.strips(), self.of.depth_tiles());
        let position = position_len(strips, depth_tiles);
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
            let left = &self.pictures[block.start / DEPTH * TILE..];
            let tiles = block.len.div_ceil(DEPTH);
            for at in 0..POSITIONS {
                let (left, right) = (&left[at * position..], &right[at * layout.position..]);
                assert!(left.len() >= ((strips - 1) * depth_tiles + tiles) * TILE);
                assert!(right.len() >= (column_strips - 1) * layout.strip + tiles * TILE);
                let strips_of = Strips {
                    a: left.as_ptr(),
                    a_strip: depth_tiles * TILE,
                    a_row: None,
                    a_rows: self.squares.len(),
                    b: right.as_ptr(),
                    b_strip: layout.strip,
                    depth: if empty[at] { 0 } else { block.len },
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
        let strips = self.strips();
        let [height, width] = self.of.picture.grid;
        for (row, index) in self.squares.clone().enumerate() {
            let [image, y, x] = self.square(index);
            for column in (0..columns.len()).step_by(S::LANES) {
                let start = (column / SIDE * strips + row / SIDE) * POSITIONS * SUMS;
                let sums = &self.sums[start..][..POSITIONS * SUMS];
                let at = row % SIDE * SIDE + column % SIDE;
                let mut values = [s.splat(0.0); POSITIONS];
                for (value, sums) in values.iter_mut().zip(sums.chunks_exact(SUMS)) {
                    *value = s.read(&sums[at..][..S::LANES]);
                }
                let present = (columns.len() - column).min(S::LANES);
                for (below, line) in transforms::sums(s, &values).into_iter().enumerate() {
                    for (beside, value) in line.into_iter().enumerate() {
                        let (y, x) = (y + below, x + beside);
                        if y < height && x < width {
                            let line = (image * height + y) * width + x;
                            self.target.write(s, line, [columns.start + column, present], value);
                        }
                    }
                }
            }
        }
    }
}
