//! AVX512-BF16: `vdpbf16ps` adds the products of two pairs of bf16 to each of 16 floats.
//!
//! A row of a right tile is one register (16 columns, a pair of depths each); each row of the left tile enters as one
//! pair, broadcast. Sixteen registers hold sums, enough chains to hide the instruction's latency: half the rows of two
//! tiles, so that each pair that is broadcast is used twice (10 loads for 16 products; a whole tile takes 17, more than the
//! processor has time for), or a whole tile where there is one column of them. Pairs of depths behind the last one are left
//! out: heads of 40 are 20 pairs, not 32; and so is the second half of a tile that has eight rows or fewer.

use std::arch::x86_64::*;

use half::bf16;

use super::{Ahead, DEPTH, SIDE, SUMS, Strips, TILE, TileUnit};

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

    const READS_ROWS: bool = true;

    #[inline(always)]
    fn enter(self) {}

    #[inline(always)]
    unsafe fn block(self, rows: usize, columns: usize, at: &Strips) {
        // SAFETY: the caller's promise.
        unsafe {
            match (at.a_row, at.ahead.is_empty()) {
                (None, true) => block::<true, false>(rows, columns, at, DEPTH),
                (None, false) => block::<true, true>(rows, columns, at, DEPTH),
                (Some(a_row), true) => block::<false, false>(rows, columns, at, a_row),
                (Some(a_row), false) => block::<false, true>(rows, columns, at, a_row),
            }
        }
    }
}

/// [`TileUnit::block`] for left rows that are `TILED` or lie as they are, `ASKS` for what is read soon after or not.
///
/// # Safety
/// As there; the machine must have the features.
#[inline(always)]
unsafe fn block<const TILED: bool, const ASKS: bool>(rows: usize, columns: usize, at: &Strips, a_row: usize) {
    for row in 0..rows {
        let ahead = if ASKS { at.ahead.part(row, rows) } else { Ahead::NONE };
        let at = at.from(row, 0);
        // SAFETY: the caller's promise for these strips; a half tile begins eight rows on.
        unsafe {
            let halves = if at.a_rows > SIDE / 2 { 2 } else { 1 };
            if columns == 1 {
                match halves {
                    1 => sums::<8, 1, TILED, ASKS>(at.a, a_row, [at.b], at.depth, [at.c], at.begins, &ahead),
                    _ => sums::<16, 1, TILED, ASKS>(at.a, a_row, [at.b], at.depth, [at.c], at.begins, &ahead),
                }
                continue;
            }
            let b = [at.b, at.b.wrapping_add(at.b_strip)];
            for half in 0..halves {
                let c = [at.c, at.c.wrapping_add(at.c_column)].map(|c| c.wrapping_add(half * SUMS / 2));
                let ahead = if ASKS { ahead.part(half, halves) } else { Ahead::NONE };
                let a = at.a.wrapping_add(half * SIDE / 2 * a_row);
                sums::<8, 2, TILED, ASKS>(a, a_row, b, at.depth, c, at.begins, &ahead);
            }
        }
    }
}

/// Adds the products of a pair of depths, in registers.
macro_rules! add_pair {
    ($sums:ident, $a:ident, $b:ident, $step:ident, $pair:ident, $tiled:ident, $a_row:ident) => {
        let columns = $b.map(|b| {
            let line = _mm512_loadu_si512(b.add($step * TILE + $pair * DEPTH).cast());
            std::mem::transmute::<__m512i, __m512bh>(line)
        });
        for (row, sums) in $sums.iter_mut().enumerate() {
            let start = if $tiled { $step * TILE + row * DEPTH } else { $step * DEPTH + row * $a_row };
            let pair = $a.add(start + 2 * $pair).cast::<i32>().read_unaligned();
            let pair = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair));
            for (sum, columns) in sums.iter_mut().zip(columns) {
                *sum = _mm512_dpbf16_ps(*sum, pair, columns);
            }
        }
    };
}

/// Sums of `ROWS` rows of a left strip with `COLUMNS` right strips. It wants all registers for itself: inlined, it makes kernels
/// load their constants again and again.
///
/// # Safety
/// `a` and `b` must be good for reading the tiles (or rows) of `depth`, from these rows on; each of `c` for `ROWS` rows
/// of sums; the machine must have the features.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn sums<const ROWS: usize, const COLUMNS: usize, const TILED: bool, const ASKS: bool>(
    a: *const bf16,
    a_row: usize,
    b: [*const bf16; COLUMNS],
    depth: usize,
    c: [*mut f32; COLUMNS],
    begins: bool,
    ahead: &Ahead,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); COLUMNS]; ROWS];
        if !begins {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (sum, c) in sums.iter_mut().zip(c) {
                    *sum = _mm512_loadu_ps(c.add(row * SIDE));
                }
            }
        }
        let (whole, rest) = (depth / DEPTH, depth % DEPTH);
        for step in 0..whole {
            if ASKS {
                ahead.part(step, whole).ask(|at| _mm_prefetch::<_MM_HINT_T1>(at.cast()));
            }
            for pair in 0..SIDE {
                add_pair!(sums, a, b, step, pair, TILED, a_row);
            }
        }
        for pair in 0..rest.div_ceil(2) {
            add_pair!(sums, a, b, whole, pair, TILED, a_row);
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (sum, c) in sums.into_iter().zip(c) {
                _mm512_storeu_ps(c.add(row * SIDE), sum);
            }
        }
    }
}
