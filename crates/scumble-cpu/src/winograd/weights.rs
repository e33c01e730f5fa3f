//! Weights at the positions, in tiles.
//!
//! The nine taps of two neighbouring tiles are packed as for any product, into the first-level cache; the transform then
//! goes number by number, so their order within a tile does not matter to it.

use std::ops::Range;

use half::bf16;

use super::{POSITIONS, transforms};
use crate::gemm::operand::{Along, Chunk};
use crate::pool::SharedMut;
use crate::simd::{Kernel, Simd};
use crate::tiles::{Ahead, DEPTH, SIDE, TILE};

/// Taps of 3 x 3.
pub(super) const TAPS: usize = 9;
/// Columns of two strips: a line of the cache, where runs are a depth's outputs.
const COLUMNS: usize = 2 * SIDE;

/// The weights as they are: the run of tap `t` at `major` begins at `offsets[t] + major * stride`.
pub(super) struct Taps<'a> {
    pub data: &'a [bf16],
    pub stride: usize,
    /// Line after line of the kernel that meets the picture.
    pub offsets: [usize; TAPS],
    /// Whether runs are an output's depth or a depth's outputs.
    pub along: Along,
    pub outputs: usize,
    pub depth: usize,
}

/// At most a tile of depth of at most two strips.
struct Piece {
    depths: Range<usize>,
    columns: Range<usize>,
}

impl Taps<'_> {
    /// Which runs, and which part of them.
    #[inline(always)]
    fn majors<'p>(&self, piece: &'p Piece) -> [&'p Range<usize>; 2] {
        match self.along {
            Along::Depth => [&piece.columns, &piece.depths],
            Along::Outer => [&piece.depths, &piece.columns],
        }
    }

    /// Packs one tap of a piece, zeros behind the last column and depth.
    #[inline(always)]
    fn pack<S: Simd>(&self, s: S, tap: usize, piece: &Piece, to: &mut [[bf16; TILE]; 2]) {
        let [majors, minors] = self.majors(piece);
        let run = |index: usize| {
            let start = self.offsets[tap] + (majors.start + index) * self.stride + minors.start;
            &self.data[start..start + minors.len()]
        };
        let whole = piece.depths.len() == DEPTH && piece.columns.len().is_multiple_of(SIDE);
        let strips = piece.columns.len().div_ceil(SIDE);
        match self.along {
            Along::Depth if whole => {
                for (strip, to) in to.iter_mut().enumerate().take(strips) {
                    let mut rows = [std::ptr::null(); SIDE];
                    for (index, row) in rows.iter_mut().enumerate() {
                        *row = run(strip * SIDE + index).as_ptr();
                    }
                    // SAFETY: each run has a tile's depth, `to` is a tile.
                    unsafe { s.turn_pairs(&rows, to.as_mut_ptr()) };
                }
            }
            Along::Outer if whole => {
                for pair in 0..DEPTH / 2 {
                    let (even, odd) = (run(2 * pair).as_ptr(), run(2 * pair + 1).as_ptr());
                    for (strip, to) in to.iter_mut().enumerate().take(strips) {
                        let (even, odd) = (even.wrapping_add(strip * SIDE), odd.wrapping_add(strip * SIDE));
                        // SAFETY: both runs have the strips' columns, and a tile has as many pairs of depths.
                        unsafe { s.interleave(even, odd, to[pair * DEPTH..][..DEPTH].as_mut_ptr()) };
                    }
                }
            }
            _ => {
                to.as_flattened_mut().fill(bf16::ZERO);
                for (major, minor) in (0..majors.len()).flat_map(|i| (0..minors.len()).map(move |j| (i, j))) {
                    let [column, depth] =
                        if self.along == Along::Depth { [major, minor] } else { [minor, major] };
                    let at = depth / 2 * DEPTH + 2 * (column % SIDE) + depth % 2;
                    to[column / SIDE][at] = run(major)[minor];
                }
            }
        }
    }

    /// Asks for the memory of one tap of a piece.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, tap: usize, piece: &Piece) {
        let [majors, minors] = self.majors(piece);
        for major in majors.clone() {
            if let Some(at) = self.data.get(self.offsets[tap] + major * self.stride + minors.start) {
                s.prefetch(at);
            }
        }
    }

    /// The memory of all taps: they lie next to each other, so runs are as far apart as if there were nine times as many.
    #[inline(always)]
    pub(super) fn ahead(&self, depths: Range<usize>, columns: Range<usize>) -> Ahead {
        let piece = Piece { depths, columns };
        let [majors, minors] = self.majors(&piece);
        if minors.is_empty() {
            return Ahead::NONE;
        }
        let at = self.data.as_ptr().wrapping_add(majors.start * self.stride + minors.start);
        Ahead::new(at, self.stride / TAPS, majors.len() * TAPS, minors.len())
    }
}

/// Numbers from one position to the next, and from one strip to the next.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub position: usize,
    pub strip: usize,
}

/// Brings some columns' weights of some depth to the positions.
pub(super) struct TransformWeights<'a> {
    pub taps: &'a Taps<'a>,
    pub block: &'a Chunk,
    pub columns: Range<usize>,
    pub to: SharedMut<'a, bf16>,
    /// Where the first tile of the first position goes.
    pub start: usize,
    pub layout: Layout,
}

impl Kernel for TransformWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let strips = self.columns.len().div_ceil(SIDE);
        let (tiles, pairs) = (self.block.len.div_ceil(DEPTH), strips.div_ceil(2));
        // Runs are read to their ends before others.
        let place = |index: usize| match self.taps.along {
            Along::Depth => [index % tiles, index / tiles],
            Along::Outer => [index / pairs, index % pairs],
        };
        let mut taps = PackedTaps([[[bf16::ZERO; TILE]; 2]; TAPS]);
        for index in 0..tiles * pairs {
            let [tile, pair] = place(index);
            let piece = self.piece([tile, pair]);
            let next = self.piece(place(index + 1));
            for (tap, to) in taps.0.iter_mut().enumerate() {
                // Runs are short and far apart, so the processor does not foresee the next ones.
                if tap + 1 < TAPS {
                    self.taps.prefetch(s, tap + 1, &piece);
                } else {
                    self.taps.prefetch(s, 0, &next);
                }
                self.taps.pack(s, tap, &piece, to);
            }
            for strip in 2 * pair..strips.min(2 * pair + 2) {
                let start = self.start + strip * self.layout.strip + tile * TILE;
                let mut to = [std::ptr::null_mut(); POSITIONS];
                for (position, to) in to.iter_mut().enumerate() {
                    // SAFETY: every task has columns and depths of its own, and positions lie apart.
                    let tile = unsafe { self.to.slice(start + position * self.layout.position, TILE) };
                    *to = tile.as_mut_ptr();
                }
                transform_tile(s, &taps, strip % 2, to);
            }
        }
    }
}

impl TransformWeights<'_> {
    /// Tile `tile` of the depth of strips `2 pair` and `2 pair + 1`; behind the last it is empty.
    #[inline(always)]
    fn piece(&self, [tile, pair]: [usize; 2]) -> Piece {
        let part = |all: Range<usize>, index: usize, size: usize| {
            let start = all.end.min(all.start + index * size);
            start..all.end.min(start + size)
        };
        let depths = self.block.start..self.block.start + self.block.len;
        Piece { depths: part(depths, tile, DEPTH), columns: part(self.columns.clone(), pair, COLUMNS) }
    }
}

/// Two tiles of every tap, which begin with a line of the cache.
#[repr(align(64))]
struct PackedTaps([[[bf16; TILE]; 2]; TAPS]);

/// Brings a tile of all taps to the positions.
#[inline(always)]
fn transform_tile<S: Simd>(s: S, PackedTaps(taps): &PackedTaps, strip: usize, to: [*mut bf16; POSITIONS]) {
    for at in (0..TILE).step_by(2 * S::LANES) {
        let [mut low, mut high] = [[s.splat(0.0); TAPS]; 2];
        for ((low, high), tap) in low.iter_mut().zip(&mut high).zip(taps) {
            let numbers = tap[strip][at..][..2 * S::LANES].as_ptr();
            // SAFETY: as many numbers as two registers.
            unsafe { (*low, *high) = (s.load_bf16(numbers), s.load_bf16(numbers.add(S::LANES))) };
        }
        let (low, high) = (transforms::weights(s, &low), transforms::weights(s, &high));
        for ((to, low), high) in to.into_iter().zip(low).zip(high) {
            // SAFETY: each position has a whole tile.
            unsafe { s.store_two_bf16(to.add(at), low, high) };
        }
    }
}
