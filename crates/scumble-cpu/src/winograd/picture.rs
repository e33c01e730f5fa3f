//! The picture at the positions, in tiles: rows are squares, deep in channels.
//!
//! Squares overlap: of the four columns of pixels that one needs, the next square needs the last two again. So a line of
//! squares is walked along, and the columns' sums go from one square to the next in registers.

use std::ops::Range;

use half::bf16;

use super::{POSITIONS, Winograd, transforms};
use crate::gemm::operand::Pixels;
use crate::pool::SharedMut;
use crate::simd::{Kernel, Scalar, Simd};
use crate::tiles::{DEPTH, SIDE, TILE};

/// Brings some squares of the picture, over some tiles of the depth, to the positions.
pub(super) struct TransformPicture<'a> {
    pub of: &'a Winograd<'a>,
    /// From the first of a strip on.
    pub squares: Range<usize>,
    /// Tiles of depth.
    pub tiles: Range<usize>,
    /// All strips over the whole depth; those of these squares begin at `start`.
    pub to: SharedMut<'a, bf16>,
    pub start: usize,
    /// Numbers from one position to the next.
    pub position: usize,
}

/// Squares next to each other, in one strip.
struct Run<'a> {
    /// Where the first one's row is in the first tile of the first position.
    start: usize,
    squares: usize,
    /// Columns of four pixels.
    pixels: [[&'a [bf16]; 4]; COLUMNS],
}

/// Columns of pixels of a whole strip.
const COLUMNS: usize = 2 * SIDE + 2;

impl Kernel for TransformPicture<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let strip = self.of.depth_tiles() * TILE;
        let mut row = 0;
        while row < self.squares.len() {
            let [image, y, x] = self.of.square(self.squares.start + row);
            let squares = (self.of.squares[1] - x / 2).min(SIDE - row % SIDE).min(self.squares.len() - row);
            let start = self.start + row / SIDE * strip + row % SIDE * DEPTH;
            let run =
                Run { start, squares, pixels: pixels(&self.of.picture, image, [y, x], 2 * squares + 2) };
            for channel in (self.tiles.start * DEPTH..self.tiles.end * DEPTH).step_by(S::LANES) {
                if channel + S::LANES <= self.of.picture.channels {
                    self.channels::<S, true>(s, &run, channel);
                } else {
                    self.channels::<S, false>(s, &run, channel);
                }
            }
            row += squares;
        }
    }
}

/// So many columns of four pixels, for a square's first pixel of the result.
fn pixels<'a>(
    picture: &Pixels<'a, bf16>,
    image: usize,
    at: [usize; 2],
    columns: usize,
) -> [[&'a [bf16]; 4]; COLUMNS] {
    let [above, before] = picture.offsets[0];
    let (y, x) = (at[0] as isize + above, at[1] as isize + before);
    let mut pixels: [[&[bf16]; 4]; COLUMNS] = [[&[]; 4]; COLUMNS];
    for (across, column) in pixels.iter_mut().enumerate().take(columns) {
        for (down, pixel) in column.iter_mut().enumerate() {
            *pixel = picture.pixel(image, [y + down as isize, x + across as isize]);
        }
    }
    pixels
}

impl TransformPicture<'_> {
    /// A register of channels of a run; `WHOLE` where the pixels have as many.
    #[inline(always)]
    fn channels<S: Simd, const WHOLE: bool>(&self, s: S, run: &Run<'_>, channel: usize) {
        let start = run.start + channel / DEPTH * TILE + channel % DEPTH;
        let last = (POSITIONS - 1) * self.position + (run.squares - 1) * DEPTH;
        let to = self.to.part(start, last + S::LANES);
        let (first, others) = run.pixels.split_at(2);
        let mut before = two_columns::<S, WHOLE>(s, first, channel);
        for (square, pixels) in others.chunks_exact(2).enumerate().take(run.squares) {
            let next = two_columns::<S, WHOLE>(s, pixels, channel);
            for y in 0..4 {
                let line = [before[0][y], before[1][y], next[0][y], next[1][y]];
                let to = to.wrapping_add(square * DEPTH + 4 * y * self.position);
                for (x, value) in transforms::picture_line(s, line).into_iter().enumerate() {
                    // SAFETY: within the part above; every task has squares and depths of its own.
                    unsafe { s.store_bf16(to.add(x * self.position), value) };
                }
            }
            before = next;
        }
    }
}

/// The transforms of two columns of four pixels.
#[inline(always)]
fn two_columns<S: Simd, const WHOLE: bool>(s: S, pixels: &[[&[bf16]; 4]], channel: usize) -> [[S::V; 4]; 2] {
    let mut columns = [[s.splat(0.0); 4]; 2];
    for (column, pixels) in columns.iter_mut().zip(pixels) {
        for (value, pixel) in column.iter_mut().zip(pixels) {
            *value = if WHOLE {
                // Pixels are far apart, so the processor does not foresee the next channels.
                if channel.is_multiple_of(DEPTH) {
                    s.prefetch(pixel.as_ptr().wrapping_add(channel + DEPTH));
                }
                // SAFETY: every pixel has as many channels.
                unsafe { s.load_bf16(pixel.as_ptr().add(channel)) }
            } else {
                bf16::read(s, pixel.get(channel..).unwrap_or_default())
            };
        }
        *column = transforms::picture_line(s, *column);
    }
    columns
}

/// Which positions of strips `first` on are zero throughout: where a picture was enlarged, neighbours are equal, and their
/// differences, seven positions of sixteen, need not be multiplied. `packed` begins with the first strip of the first
/// position; `len` numbers belong to it.
pub(super) fn empty_positions(packed: &[bf16], len: usize, position: usize) -> [bool; POSITIONS] {
    let mut empty = [false; POSITIONS];
    for (at, empty) in empty.iter_mut().enumerate() {
        let mut rows = packed[at * position..][..len].chunks_exact(DEPTH);
        *empty = rows.all(|row| row.iter().fold(0, |bits, number| bits | number.to_bits()) & 0x7fff == 0);
    }
    empty
}
