//! NEON on aarch64: 4 lanes, 32 registers.

use std::arch::aarch64::*;

use super::{Kernel, Simd};

/// Proof that the machine has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// Runs a kernel with NEON.
///
/// # Safety
/// The machine must have NEON (every aarch64 system with hardware floating point has).
#[target_feature(enable = "neon")]
pub(crate) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

// SAFETY: a 128-bit register is 4 floats.
unsafe impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const PANEL: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    fn scale_pow2(self, y: float32x4_t, n: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe {
            let n = self.min(self.splat(128.0), self.max(self.splat(-127.0), n));
            let biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
            self.mul(y, vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased)))
        }
    }
    #[inline(always)]
    fn where_negative(self, x: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vbslq_f32(vcltq_f32(x, vdupq_n_f32(0.0)), a, b) }
    }
    #[inline(always)]
    fn sum(self, v: float32x4_t) -> f32 {
        // SAFETY: `self` proves the feature.
        unsafe { vaddvq_f32(v) }
    }
}
