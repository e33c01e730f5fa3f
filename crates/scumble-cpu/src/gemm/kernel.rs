//! The inner loop of every product: six rows times one panel of vectors, accumulated in registers.
//!
//! ```text
//! acc[r][v] += sum over k of  a[r][k] * b[k][v]
//! ```
//!
//! The rows of `a` enter one float at a time, broadcast to all lanes; `b` enters as vectors. With four vectors of 16
//! floats (AVX-512) that is 24 multiply-adds for 10 loads. Every element is the same chain of multiply-adds in the
//! order of k, wherever it lies in a tile, so results do not depend on how a product is cut into tiles.

use crate::simd::Simd;

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;

/// The registers of a tile.
pub(crate) type Acc<S, const NV: usize> = [[<S as Simd>::V; NV]; ROWS];

/// An empty accumulator.
#[inline(always)]
pub(crate) fn zero<S: Simd, const NV: usize>(s: S) -> Acc<S, NV> {
    [[s.splat(0.0); NV]; ROWS]
}

/// Adds `depth` steps with each row of `a` contiguous in k.
///
/// # Safety
/// Each of `rows` must be good for `depth` floats, `b` for `NV` registers every `b_step` floats.
#[inline(always)]
pub(crate) unsafe fn multiply_rows<S: Simd, const NV: usize>(
    s: S,
    acc: &mut Acc<S, NV>,
    rows: &[*const f32; ROWS],
    depth: usize,
    b: *const f32,
    b_step: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { multiply::<S, NV>(s, acc, rows, 1, depth, b, b_step) }
}

/// Adds `depth` steps with the six values of `a` for one k next to each other, `a_step` floats to the next k.
///
/// # Safety
/// `a` must be good for six floats every `a_step`, `b` for `NV` registers every `b_step` floats, `depth` times.
#[inline(always)]
pub(crate) unsafe fn multiply_strip<S: Simd, const NV: usize>(
    s: S,
    acc: &mut Acc<S, NV>,
    a: *const f32,
    a_step: usize,
    depth: usize,
    b: *const f32,
    b_step: usize,
) {
    let mut rows = [a; ROWS];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = a.wrapping_add(r);
    }
    // SAFETY: the caller's promise.
    unsafe { multiply::<S, NV>(s, acc, &rows, a_step, depth, b, b_step) }
}

/// Adds `depth` steps; row r has its value for step k at `rows[r] + k * step`.
///
/// # Safety
/// As [`multiply_rows`], with `step` floats between the values of a row.
#[inline(always)]
unsafe fn multiply<S: Simd, const NV: usize>(
    s: S,
    acc: &mut Acc<S, NV>,
    rows: &[*const f32; ROWS],
    step: usize,
    depth: usize,
    b: *const f32,
    b_step: usize,
) {
    // Plain locals, one a row: the compiler keeps all of them in registers.
    let [a0, a1, a2, a3, a4, a5] = *rows;
    let [mut s0, mut s1, mut s2, mut s3, mut s4, mut s5] = *acc;
    let (mut at, mut b) = (0, b);
    for _ in 0..depth {
        // SAFETY: the caller's promise for this step.
        unsafe {
            let mut vectors = [s.splat(0.0); NV];
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = s.load(b.add(v * S::LANES));
            }
            row_step(s, &mut s0, *a0.add(at), &vectors);
            row_step(s, &mut s1, *a1.add(at), &vectors);
            row_step(s, &mut s2, *a2.add(at), &vectors);
            row_step(s, &mut s3, *a3.add(at), &vectors);
            row_step(s, &mut s4, *a4.add(at), &vectors);
            row_step(s, &mut s5, *a5.add(at), &vectors);
            at += step;
            b = b.add(b_step);
        }
    }
    *acc = [s0, s1, s2, s3, s4, s5];
}

/// One row's part of a step.
#[inline(always)]
fn row_step<S: Simd, const NV: usize>(s: S, sums: &mut [S::V; NV], a: f32, b: &[S::V; NV]) {
    let a = s.splat(a);
    for v in 0..NV {
        sums[v] = s.fma(a, b[v], sums[v]);
    }
}

/// Runs `$body` with the constant `$NV` bound to `$count` vectors (1 to 4), as far as the tier's panel reaches.
macro_rules! with_vectors {
    ($S:ty, $count:expr, $NV:ident => $body:expr) => {
        match $count {
            4 if <$S>::PANEL >= 4 => {
                const $NV: usize = 4;
                $body
            }
            3 if <$S>::PANEL >= 3 => {
                const $NV: usize = 3;
                $body
            }
            2 if <$S>::PANEL >= 2 => {
                const $NV: usize = 2;
                $body
            }
            _ => {
                const $NV: usize = 1;
                $body
            }
        }
    };
}
pub(crate) use with_vectors;
