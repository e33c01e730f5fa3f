//! Matrix units: instructions that multiply small tiles of bf16 and sum in f32.
//!
//! A product is cut into tiles, and tiles of both operands are packed next to each other in the order in which the
//! unit reads them (1 KiB each, eight rows of the first-level cache at a time):
//!
//! ```text
//!   left, "A": 16 rows x 32 deep           right, "B": 32 deep x 16 columns, in pairs of depths
//!   row  0 | k0 k1 k2 ...  k31 |           k 0,1   | c0k0 c0k1 | c1k0 c1k1 | ... | c15k0 c15k1 |
//!   row  1 | k0 k1 k2 ...  k31 |           k 2,3   | c0k2 c0k3 | c1k2 c1k3 | ... | c15k2 c15k3 |
//!   ...                                    ...
//!   row 15 | k0 k1 k2 ...  k31 |           k 30,31 | ...                                       |
//!
//!   sums, "C": 16 rows x 16 columns of f32, row after row
//!
//!   C[row][column] += sum over k of A[row][k] B[k][column]
//! ```
//!
//! A *strip* is the tiles of 16 rows (or columns) one after the other along the depth, zeros where the operand ends. A
//! unit multiplies two strips of A with two of B at once:
//!
//! ```text
//!              B strip 0   B strip 1         four tiles of sums stay in registers for the whole depth of a block;
//!            +-----------+-----------+       each step loads two tiles of A and two of B and does four
//!  A strip 0 |   C 00    |   C 01    |       multiplications, so that loads (8 cycles each) hide behind
//!            +-----------+-----------+       multiplications (16 cycles each)
//!  A strip 1 |   C 10    |   C 11    |
//!            +-----------+-----------+
//! ```
//!
//! Vectors take single numbers from the left operand, so [`dot`] reads rows as well where they lie in memory, and nothing is
//! copied ([`Strips::a_row`]). What is read after a product may be asked for during it ([`ahead`]).
//!
//! [`TileUnit`] has three implementations: [`amx`] (tile registers), [`dot`] (AVX512-BF16, the same tiles read by vector
//! instructions) and [`emulated`] (plain Rust, which tests packing and blocking on every machine and checks the other two
//! when the program starts). The assembly of the first is tested on machines without it, too: its instructions in software are
//! in `amx_in_software`. Sources: Intel's software developer's manual, TDPBF16PS, TILELOADD, VDPBF16PS; Intel's
//! optimization manual, chapter on AMX.

mod ahead;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
mod amx_in_software;
#[cfg(target_arch = "x86_64")]
pub(crate) mod dot;
pub(crate) mod emulated;
pub(crate) mod pack;
mod run;
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) mod self_check;

use half::bf16;

pub(crate) use ahead::Ahead;
pub(crate) use run::{TileKernel, Unit};

/// Rows of a left tile, columns of a right one.
pub(crate) const SIDE: usize = 16;
/// Depth of a tile.
pub(crate) const DEPTH: usize = 32;
/// Numbers in an operand's tile.
pub(crate) const TILE: usize = SIDE * DEPTH;
/// Sums in a tile of the result.
pub(crate) const SUMS: usize = SIDE * SIDE;

/// Strips to be multiplied and where their sums are.
#[derive(Clone, Copy)]
pub(crate) struct Strips {
    /// First tile of the left operand; the next strip begins `a_strip` numbers later.
    pub a: *const bf16,
    pub a_strip: usize,
    /// Where left rows are not in tiles but lie as they are, each `depth` long, which a unit may
    /// [read](TileUnit::READS_ROWS): numbers from one to the next.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // only those units read rows
    pub a_row: Option<usize>,
    /// Rows of interest, counted from the first strip: a unit may leave the sums of those behind them as they are.
    pub a_rows: usize,
    /// First tile of the right operand, likewise.
    pub b: *const bf16,
    pub b_strip: usize,
    /// Depth that is multiplied, counted from the strips' first tiles; zeros follow up to the end of the last one.
    pub depth: usize,
    /// First tile of the sums; the next row of tiles begins `c_row` floats later, the next column `c_column`.
    pub c: *mut f32,
    pub c_row: usize,
    pub c_column: usize,
    /// Whether the sums begin at zero instead of what is there.
    pub begins: bool,
    /// Memory that is read soon after.
    pub ahead: Ahead,
}

impl Strips {
    /// Tiles of a strip.
    #[inline(always)]
    fn steps(&self) -> usize {
        self.depth.div_ceil(DEPTH)
    }

    /// The part from left strip `row` and right strip `column` on.
    #[inline(always)]
    fn from(&self, row: usize, column: usize) -> Self {
        Self {
            a: self.a.wrapping_add(row * self.a_strip),
            a_rows: self.a_rows.saturating_sub(row * SIDE),
            b: self.b.wrapping_add(column * self.b_strip),
            c: self.c.wrapping_add(row * self.c_row + column * self.c_column),
            ..*self
        }
    }
}

/// Instructions that multiply tiles.
///
/// # Safety
/// `block` must read no more than the strips it is given and write no more than their sums.
pub(crate) unsafe trait TileUnit: Copy {
    /// What holds the unit ready on this thread until it is dropped.
    type Session;

    /// Whether left rows need not be packed; then `depth` must be even and all rows of a half tile there.
    const READS_ROWS: bool = false;

    /// Makes the unit ready on this thread; `block` is only called while the session lives.
    fn enter(self) -> Self::Session;

    /// Multiplies `rows` left strips with `columns` right strips, 1 or 2 each.
    ///
    /// # Safety
    /// All strips must be good for reading the tiles of `depth` (left ones the rows, where they are not in tiles), all sums for
    /// reading and writing, and `enter`'s session must live.
    unsafe fn block(self, rows: usize, columns: usize, at: &Strips);

    /// Multiplies any number of strips, two by two: all left strips pass over a pair of right strips.
    ///
    /// # Safety
    /// As [`TileUnit::block`].
    #[inline(always)]
    unsafe fn grid(self, rows: usize, columns: usize, at: &Strips) {
        let row_pairs = rows.div_ceil(2);
        for column in (0..columns).step_by(2) {
            for row in (0..rows).step_by(2) {
                let part = column / 2 * row_pairs + row / 2;
                let ahead = at.ahead.part(part, row_pairs * columns.div_ceil(2));
                let at = Strips { ahead, ..at.from(row, column) };
                // SAFETY: the caller's promise for these strips.
                unsafe { self.block((rows - row).min(2), (columns - column).min(2), &at) };
            }
        }
    }
}
