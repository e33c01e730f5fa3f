//! AVX-512F: 16 lanes, 32 registers, masked loads and stores for the tails.

use std::arch::x86_64::*;

use half::bf16;

use super::{Kernel, Scalar, Simd};

/// Proof that the machine has AVX-512F, BW, DQ, VL and FMA, and with `ROUNDS` AVX512-BF16 too, which rounds to bf16 in one
/// instruction. That one takes denormal numbers for zero, as the matrix units do beside which it is used.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const ROUNDS: bool>(());

/// Runs a kernel with AVX-512.
///
/// # Safety
/// The machine must have the features named below.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(crate) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

/// Runs a kernel with AVX-512 and AVX512-BF16.
///
/// # Safety
/// The machine must have the features named below.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(crate) unsafe fn run_rounding<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

// SAFETY: a 512-bit register is 16 floats.
unsafe impl<const ROUNDS: bool> Simd for Avx512<ROUNDS> {
    type V = __m512;
    const LANES: usize = 16;
    const PANEL: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: as above; masked lanes are not touched.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: __m512, n: usize) {
        // SAFETY: as above; masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> __m512 {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe { widened(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, v: __m512) {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe { _mm256_storeu_si256(p.cast(), narrowed::<ROUNDS>(v)) }
    }
    #[inline(always)]
    unsafe fn load_first_bf16(self, p: *const bf16, n: usize) -> __m512 {
        // SAFETY: as above; masked lanes are not touched.
        unsafe { widened(_mm256_maskz_loadu_epi16(first(n), p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_first_bf16(self, p: *mut bf16, v: __m512, n: usize) {
        // SAFETY: as above; masked lanes are not touched.
        unsafe { _mm256_mask_storeu_epi16(p.cast(), first(n), narrowed::<ROUNDS>(v)) }
    }
    #[inline(always)]
    unsafe fn turn<E: Scalar>(self, rows: &[*const E; 16], to: *mut f32, to_step: usize) {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe {
            let mut registers = [_mm512_setzero_ps(); 16];
            for (register, &row) in registers.iter_mut().zip(rows) {
                *register = E::load(self, row);
            }
            for (k, column) in turned(registers).into_iter().enumerate() {
                _mm512_storeu_ps(to.add(k * to_step), column);
            }
        }
    }
    #[inline(always)]
    unsafe fn interleave(self, even: *const bf16, odd: *const bf16, to: *mut bf16) {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe {
            let even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even.cast()));
            let odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(odd.cast()));
            _mm512_storeu_si512(to.cast(), _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd)));
        }
    }
    #[inline(always)]
    unsafe fn turn_pairs(self, rows: &[*const bf16; 16], to: *mut bf16) {
        // SAFETY: `self` proves the feature; the caller vouches for the memory. Pairs are moved as whole floats, whose
        // bits no instruction here looks at.
        unsafe {
            let mut registers = [_mm512_setzero_ps(); 16];
            for (register, row) in registers.iter_mut().zip(rows) {
                *register = _mm512_loadu_ps(row.cast());
            }
            for (k, column) in turned(registers).into_iter().enumerate() {
                _mm512_storeu_ps(to.add(k * 32).cast(), column);
            }
        }
    }
    #[inline(always)]
    unsafe fn store_two_bf16(self, p: *mut bf16, low: __m512, high: __m512) {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe { _mm512_storeu_si512(p.cast(), both_narrowed::<ROUNDS>(low, high)) }
    }
    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut bf16, even: __m512, odd: __m512) {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe { _mm512_storeu_si512(to.cast(), paired(both_narrowed::<ROUNDS>(even, odd))) }
    }
    #[inline(always)]
    unsafe fn store_pairs_and_rows(self, to: *mut bf16, rows: [*mut bf16; 2], even: __m512, odd: __m512) {
        // SAFETY: `self` proves the feature; the caller vouches for the memory.
        unsafe {
            let both = both_narrowed::<ROUNDS>(even, odd);
            _mm512_storeu_si512(to.cast(), paired(both));
            _mm256_storeu_si256(rows[0].cast(), _mm512_castsi512_si256(both));
            _mm256_storeu_si256(rows[1].cast(), _mm512_extracti64x4_epi64::<1>(both));
        }
    }
    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        // SAFETY: `self` proves the feature; a hint does not touch the memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn reciprocal(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves the feature. An estimate of 14 bits and one step of Newton's iteration.
        unsafe {
            let estimate = _mm512_rcp14_ps(a);
            let error = _mm512_fnmadd_ps(a, estimate, _mm512_set1_ps(1.0));
            _mm512_fmadd_ps(estimate, error, estimate)
        }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale_pow2(self, y: __m512, n: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_scalef_ps(y, n) }
    }
    #[inline(always)]
    fn where_negative(self, x: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps()), b, a) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_reduce_add_ps(v) }
    }
}

/// A mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

/// bf16 is the upper half of an f32.
#[inline(always)]
unsafe fn widened(half: __m256i) -> __m512 {
    // SAFETY: only called where the feature is proven.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))) }
}

/// Rounds to the nearest bf16.
#[inline(always)]
unsafe fn narrowed<const ROUNDS: bool>(v: __m512) -> __m256i {
    // SAFETY: only called where the features are proven.
    unsafe {
        if ROUNDS {
            std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))
        } else {
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded(v)))
        }
    }
}

/// Rounds to the nearest bf16: 16 numbers, then 16 others.
#[inline(always)]
unsafe fn both_narrowed<const ROUNDS: bool>(low: __m512, high: __m512) -> __m512i {
    // SAFETY: only called where the features are proven.
    unsafe {
        if ROUNDS {
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
        } else {
            let low = _mm512_castsi256_si512(narrowed::<false>(low));
            _mm512_inserti64x4::<1>(low, narrowed::<false>(high))
        }
    }
}

/// Interleaves the two halves of 16 numbers.
#[inline(always)]
unsafe fn paired(both: __m512i) -> __m512i {
    // SAFETY: only called where the feature is proven.
    unsafe {
        const ORDER: [u16; 32] = {
            let mut order = [0; 32];
            let mut at = 0;
            while at < 32 {
                order[at] = (at / 2 + at % 2 * 16) as u16;
                at += 1;
            }
            order
        };
        _mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), both)
    }
}

/// Rounds the upper halves to nearest, ties to even; what is left in the lower halves means nothing. Half a unit less
/// one is added, plus the bit that will be last. A NaN keeps its upper bits and stays one.
#[inline(always)]
unsafe fn rounded(v: __m512) -> __m512i {
    // SAFETY: only called where the feature is proven.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_mask_blend_epi32(nan, rounded, quiet)
    }
}

/// Transposes 16 x 16: pairs of rows are interleaved by floats, pairs of those by doubles, then quarters are dealt out.
#[inline(always)]
unsafe fn turned(r: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: only called where the feature is proven.
    unsafe {
        let mut t = r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let double = |a: __m512, b: __m512, high: bool| {
            let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
            _mm512_castpd_ps(if high { _mm512_unpackhi_pd(a, b) } else { _mm512_unpacklo_pd(a, b) })
        };
        let mut u = t;
        for i in 0..4 {
            u[4 * i] = double(t[4 * i], t[4 * i + 2], false);
            u[4 * i + 1] = double(t[4 * i], t[4 * i + 2], true);
            u[4 * i + 2] = double(t[4 * i + 1], t[4 * i + 3], false);
            u[4 * i + 3] = double(t[4 * i + 1], t[4 * i + 3], true);
        }
        // Quarter q of u[4 i + j] holds column 4 q + j of rows 4 i .. 4 i + 4.
        let mut out = u;
        for j in 0..4 {
            let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(u[j], u[4 + j]);
            let high = _mm512_shuffle_f32x4::<0b10_00_10_00>(u[8 + j], u[12 + j]);
            out[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(low, high);
            out[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(low, high);
            let low = _mm512_shuffle_f32x4::<0b11_01_11_01>(u[j], u[4 + j]);
            let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(u[8 + j], u[12 + j]);
            out[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(low, high);
            out[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(low, high);
        }
        out
    }
}
