//! No special instructions: arrays of 4 that the compiler maps to whatever every machine of the target has.

use super::{Kernel, Simd};

/// Needs no proof.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Runs a kernel without special instructions.
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable)
}

type V = [f32; 4];

#[inline(always)]
fn map2(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

#[inline(always)]
fn map(a: V, f: impl Fn(f32) -> f32) -> V {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

// SAFETY: the array is 4 floats.
unsafe impl Simd for Portable {
    type V = V;
    const LANES: usize = 4;
    const PANEL: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V {
        // SAFETY: the caller vouches for 4 floats; an array of floats needs no more alignment than a float.
        unsafe { p.cast::<V>().read() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V) {
        // SAFETY: the caller vouches for 4 floats; an array of floats needs no more alignment than a float.
        unsafe { p.cast::<V>().write(v) }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        // Rounded twice: a fused operation without the instruction is a slow library call.
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        // Adding and taking away 1.5 * 2^23 leaves no bits for a fraction; larger numbers are integers already.
        const SHIFT: f32 = 12_582_912.0;
        map(a, |a| if a.abs() < 4_194_304.0 { (a + SHIFT) - SHIFT } else { a })
    }
    #[inline(always)]
    fn scale_pow2(self, y: V, n: V) -> V {
        let power = map(n, |n| f32::from_bits(((n.clamp(-127.0, 128.0) as i32 + 127) as u32) << 23));
        self.mul(y, power)
    }
    #[inline(always)]
    fn where_negative(self, x: V, a: V, b: V) -> V {
        [0, 1, 2, 3].map(|lane| if x[lane] < 0.0 { a[lane] } else { b[lane] })
    }
    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        (v[0] + v[2]) + (v[1] + v[3])
    }
}
