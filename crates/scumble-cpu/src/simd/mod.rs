//! One vector interface over all instruction tiers.
//!
//! A kernel is a struct with a body generic over [`Simd`]. [`Tier::run`](crate::Tier::run) enters a function compiled
//! with the tier's instructions switched on, and everything marked `#[inline(always)]` below it is compiled with them
//! too. A value of a `Simd` type is the proof that the machine has the instructions: only `Tier::run` makes one.
//!
//! Registers hold f32. Memory may hold f32 or bf16: a [`Scalar`] says how a register is read from and written to it.

use half::bf16;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;
mod scalar;

pub(crate) use scalar::{Scalar, with_scalar};

/// Vectors of f32 and what kernels do with them.
///
/// # Safety
/// `LANES` must be the number of floats that `load` reads and `store` writes.
pub(crate) unsafe trait Simd: Copy + Send + Sync + 'static {
    /// A register of floats.
    type V: Copy;
    /// Floats in a register.
    const LANES: usize;
    /// Registers side by side in a GEMM panel: with six rows of them, most of the register file accumulates.
    const PANEL: usize;

    /// The same value in all lanes.
    fn splat(self, x: f32) -> Self::V;
    /// Reads `LANES` floats.
    ///
    /// # Safety
    /// `p` must be good for reading `LANES` floats.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Writes `LANES` floats.
    ///
    /// # Safety
    /// `p` must be good for writing `LANES` floats.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Reads `n < LANES` floats, zeros after them.
    ///
    /// # Safety
    /// `p` must be good for reading `n` floats.
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
        let mut lanes = [0.0f32; 16];
        let n = n.min(Self::LANES);
        // SAFETY: the caller vouches for `n` floats; `lanes` has room for any register.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            self.load(lanes.as_ptr())
        }
    }
    /// Writes the first `n < LANES` floats.
    ///
    /// # Safety
    /// `p` must be good for writing `n` floats.
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize) {
        let mut lanes = [0.0f32; 16];
        let n = n.min(Self::LANES);
        // SAFETY: the caller vouches for `n` floats; `lanes` has room for any register.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }

    /// Reads `LANES` bf16 numbers, widened.
    ///
    /// # Safety
    /// `p` must be good for reading `LANES` numbers.
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> Self::V {
        // SAFETY: the caller vouches for `LANES` numbers.
        unsafe { self.load_first_bf16(p, Self::LANES) }
    }
    /// Writes `LANES` numbers rounded to the nearest bf16, ties to even.
    ///
    /// # Safety
    /// `p` must be good for writing `LANES` numbers.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, v: Self::V) {
        // SAFETY: the caller vouches for `LANES` numbers.
        unsafe { self.store_first_bf16(p, v, Self::LANES) }
    }
    /// Writes the numbers of two registers one after the other, rounded as by [`Simd::store_bf16`].
    ///
    /// # Safety
    /// `p` must be good for writing `2 LANES` numbers.
    #[inline(always)]
    unsafe fn store_two_bf16(self, p: *mut bf16, low: Self::V, high: Self::V) {
        // SAFETY: the caller's promise.
        unsafe {
            self.store_bf16(p, low);
            self.store_bf16(p.add(Self::LANES), high);
        }
    }
    /// Reads `n <= LANES` bf16 numbers, widened, zeros after them.
    ///
    /// # Safety
    /// `p` must be good for reading `n` numbers.
    #[inline(always)]
    unsafe fn load_first_bf16(self, p: *const bf16, n: usize) -> Self::V {
        let mut lanes = [0.0f32; 16];
        for (index, lane) in lanes.iter_mut().enumerate().take(n.min(Self::LANES)) {
            // SAFETY: the caller vouches for `n` numbers.
            *lane = unsafe { *p.add(index) }.to_f32();
        }
        // SAFETY: `lanes` has room for any register.
        unsafe { self.load(lanes.as_ptr()) }
    }
    /// Writes the first `n <= LANES` numbers, rounded.
    ///
    /// # Safety
    /// `p` must be good for writing `n` numbers.
    #[inline(always)]
    unsafe fn store_first_bf16(self, p: *mut bf16, v: Self::V, n: usize) {
        let mut lanes = [0.0f32; 16];
        // SAFETY: `lanes` has room for any register.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        for (index, &lane) in lanes.iter().enumerate().take(n.min(Self::LANES)) {
            // SAFETY: the caller vouches for `n` numbers.
            unsafe { p.add(index).write(bf16::from_f32(lane)) };
        }
    }
    /// Turns a square: `to[k * to_step + lane] = rows[lane][k]` for `LANES` rows of `LANES` floats.
    ///
    /// # Safety
    /// Each row must be good for reading `LANES` numbers, `to` for writing `LANES` floats every `to_step`.
    #[inline(always)]
    unsafe fn turn<E: Scalar>(self, rows: &[*const E; 16], to: *mut f32, to_step: usize) {
        for (lane, row) in rows.iter().enumerate().take(Self::LANES) {
            for k in 0..Self::LANES {
                // SAFETY: the caller's promise.
                unsafe { *to.add(k * to_step + lane) = (*row.add(k)).widen() };
            }
        }
    }

    /// Interleaves two runs of 16 numbers: `to[2 i] = even[i]`, `to[2 i + 1] = odd[i]`.
    ///
    /// # Safety
    /// `even` and `odd` must be good for reading 16 numbers, `to` for writing 32.
    #[inline(always)]
    unsafe fn interleave(self, even: *const bf16, odd: *const bf16, to: *mut bf16) {
        for i in 0..16 {
            // SAFETY: the caller's promise.
            unsafe {
                to.add(2 * i).write(*even.add(i));
                to.add(2 * i + 1).write(*odd.add(i));
            }
        }
    }
    /// Turns a square of pairs: `to[k][row] = rows[row][k]` for 16 rows of 16 pairs of neighbouring numbers.
    ///
    /// # Safety
    /// Each row must be good for reading 32 numbers, `to` for writing 512; they must not overlap.
    #[inline(always)]
    unsafe fn turn_pairs(self, rows: &[*const bf16; 16], to: *mut bf16) {
        for (index, row) in rows.iter().enumerate() {
            for k in 0..16 {
                // SAFETY: the caller's promise.
                unsafe {
                    to.add(k * 32 + 2 * index).write(*row.add(2 * k));
                    to.add(k * 32 + 2 * index + 1).write(*row.add(2 * k + 1));
                }
            }
        }
    }
    /// Rounds two registers to bf16 and writes them interleaved: `to[2 i] = even[i]`, `to[2 i + 1] = odd[i]`.
    ///
    /// # Safety
    /// `to` must be good for writing `2 LANES` numbers.
    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut bf16, even: Self::V, odd: Self::V) {
        let (mut low, mut high) = ([0.0f32; 16], [0.0f32; 16]);
        // SAFETY: both have room for any register; the caller vouches for `to`.
        unsafe {
            self.store(low.as_mut_ptr(), even);
            self.store(high.as_mut_ptr(), odd);
            for i in 0..Self::LANES {
                to.add(2 * i).write(bf16::from_f32(low[i]));
                to.add(2 * i + 1).write(bf16::from_f32(high[i]));
            }
        }
    }
    /// [`Simd::store_pairs`], and each register by itself: `rows[0][i] = even[i]`, `rows[1][i] = odd[i]`.
    ///
    /// # Safety
    /// `to` must be good for writing `2 LANES` numbers, each row for `LANES`.
    #[inline(always)]
    unsafe fn store_pairs_and_rows(self, to: *mut bf16, rows: [*mut bf16; 2], even: Self::V, odd: Self::V) {
        // SAFETY: the caller's promise.
        unsafe {
            self.store_pairs(to, even, odd);
            self.store_bf16(rows[0], even);
            self.store_bf16(rows[1], odd);
        }
    }

    /// `1 / a` to a few units in the last place, for `a` from `2^-126` to `2^126`.
    #[inline(always)]
    fn reciprocal(self, a: Self::V) -> Self::V {
        self.div(self.splat(1.0), a)
    }
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; NaN for a NaN in `b`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; NaN for a NaN in `b`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the machine can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest integer.
    fn round(self, a: Self::V) -> Self::V;
    /// `y * 2^n` for integral `n`; 0 far below the smallest normal number, infinite far above the largest.
    fn scale_pow2(self, y: Self::V, n: Self::V) -> Self::V;
    /// `a` where `x < 0`, else `b`.
    fn where_negative(self, x: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// Sum of the lanes, always in the same order.
    fn sum(self, v: Self::V) -> f32;

    /// Hints that the memory of `at` is read soon.
    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        let _ = at;
    }

    /// Reads `min(n, LANES)` floats from the start of a slice, zeros after them.
    #[inline(always)]
    fn read(self, from: &[f32]) -> Self::V {
        // SAFETY: exactly as many floats as the slice has, or a full register of them.
        unsafe {
            if from.len() >= Self::LANES {
                self.load(from.as_ptr())
            } else {
                self.load_first(from.as_ptr(), from.len())
            }
        }
    }

    /// Writes `min(n, LANES)` floats to the start of a slice.
    #[inline(always)]
    fn write(self, to: &mut [f32], v: Self::V) {
        // SAFETY: exactly as many floats as the slice has, or a full register of them.
        unsafe {
            if to.len() >= Self::LANES {
                self.store(to.as_mut_ptr(), v);
            } else {
                self.store_first(to.as_mut_ptr(), v, to.len());
            }
        }
    }
}

/// A piece of work that is compiled once for every tier.
pub(crate) trait Kernel {
    /// What it gives back.
    type Output;
    /// The body; implementations are `#[inline(always)]` so that they take on the tier's instructions, and so is what they call.
    /// Loops instead of closures for `array::from_fn` and the like: the compiler may leave those outside.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}
