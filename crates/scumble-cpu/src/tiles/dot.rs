//! AVX512-BF16: `vdpbf16ps` adds the products of two pairs of bf16 to each of 16 floats.
//!
//! A row of a right tile is one register (16 columns, a pair of depths each); each row of the left tile enters as one
//! pair, broadcast. Sixteen registers hold a tile of sums, enough chains to hide the instruction's latency. Pairs of depths
//! behind the last one are left out: heads of 40 are 20 pairs, not 32.

use std::arch::x86_64::*;

use half::bf16;

use super::{DEPTH, SIDE, Strips, TILE, TileUnit};

/// Proof that the machine has AVX512-BF16.
#[derive(Clone, Copy)]
pub(crate) struct Dot(());

impl Dot {
    /// The unit, if the machine has it.
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")).then_some(Self(()))
    }

    /// The unit of a tier that was found available.
    ///
    /// # Safety
    /// [`Dot::detect`] must have found it.
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

// SAFETY: each tile reads the tiles of its two strips up to `depth` and touches its own sums.
unsafe impl TileUnit for Dot {
    type Session = ();

    #[inline(always)]
    fn enter(self) {}

    #[inline(always)]
    unsafe fn block(self, rows: usize, columns: usize, at: &Strips) {
        for row in 0..rows {
            for column in 0..columns {
                let at = at.from(row, column);
                // SAFETY: `self` proves the features; the caller's promise for these strips.
                unsafe { tile(at.a, at.b, at.depth, at.c, at.begins) };
            }
        }
    }
}

/// Adds the products of a pair of depths to a tile of sums, in registers.
macro_rules! add_pair {
    ($sums:ident, $a:ident, $b:ident, $pair:ident) => {
        let columns: __m512bh = std::mem::transmute(_mm512_loadu_si512($b.add($pair * DEPTH).cast()));
        for (row, sum) in $sums.iter_mut().enumerate() {
            let pair = _mm512_set1_epi32($a.add(row * DEPTH + 2 * $pair).cast::<i32>().read_unaligned());
            *sum = _mm512_dpbf16_ps(*sum, std::mem::transmute::<__m512i, __m512bh>(pair), columns);
        }
    };
}

/// One tile of sums.
///
/// # Safety
/// `a` and `b` must be good for reading the tiles of `depth`, `c` for a tile of sums, and the machine must have the features.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile(a: *const bf16, b: *const bf16, depth: usize, c: *mut f32, begins: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); SIDE];
        if !begins {
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(c.add(row * SIDE));
            }
        }
        let whole = depth / DEPTH;
        for step in 0..whole {
            let (a, b) = (a.add(step * TILE), b.add(step * TILE));
            for pair in 0..SIDE {
                add_pair!(sums, a, b, pair);
            }
        }
        let (a, b) = (a.add(whole * TILE), b.add(whole * TILE));
        for pair in 0..(depth % DEPTH).div_ceil(2) {
            add_pair!(sums, a, b, pair);
        }
        for (row, sum) in sums.into_iter().enumerate() {
            _mm512_storeu_ps(c.add(row * SIDE), sum);
        }
    }
}
