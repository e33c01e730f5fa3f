//! What memory holds: f32, or bf16 that is widened when read and rounded when written.

use half::bf16;
use scumble_tensor::Element;

use super::Simd;
use crate::gemm::operand::Operand;

/// A type that kernels read into f32 registers and write from them.
pub(crate) trait Scalar: Element {
    /// Zero.
    const ZERO: Self;
    /// Whether numbers are rounded to so few bits that functions of them may be quicker than f32's.
    const COARSE: bool;

    /// As f32.
    fn widen(self) -> f32;
    /// Rounded to nearest.
    fn narrow(value: f32) -> Self;

    /// Reads a whole register.
    ///
    /// # Safety
    /// `p` must be good for reading `S::LANES` numbers.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // only those vectors turn squares of their own
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V;
    /// Reads `min(n, LANES)` numbers from the start of a slice, zeros after them.
    fn read<S: Simd>(s: S, from: &[Self]) -> S::V;
    /// Writes `min(n, LANES)` numbers to the start of a slice.
    fn write<S: Simd>(s: S, to: &mut [Self], v: S::V);
    /// Writes two whole registers one after the other.
    fn write_two<S: Simd>(s: S, to: &mut [Self], low: S::V, high: S::V);

    /// An operand as one of bf16, if it is: what matrix units multiply.
    fn halves<'o, 'a>(operand: &'o Operand<'a, Self>) -> Option<&'o Operand<'a, bf16>>;
}

impl Scalar for f32 {
    const ZERO: f32 = 0.0;
    const COARSE: bool = false;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    fn read<S: Simd>(s: S, from: &[f32]) -> S::V {
        s.read(from)
    }
    #[inline(always)]
    fn write<S: Simd>(s: S, to: &mut [f32], v: S::V) {
        s.write(to, v);
    }
    #[inline(always)]
    fn write_two<S: Simd>(s: S, to: &mut [f32], low: S::V, high: S::V) {
        let (first, second) = to.split_at_mut(S::LANES);
        s.write(first, low);
        s.write(second, high);
    }
    #[inline(always)]
    fn halves<'o, 'a>(_: &'o Operand<'a, f32>) -> Option<&'o Operand<'a, bf16>> {
        None
    }
}

impl Scalar for bf16 {
    const ZERO: bf16 = bf16::ZERO;
    const COARSE: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const bf16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16(p) }
    }
    #[inline(always)]
    fn read<S: Simd>(s: S, from: &[bf16]) -> S::V {
        // SAFETY: exactly as many numbers as the slice has, or a full register of them.
        unsafe {
            if from.len() >= S::LANES {
                s.load_bf16(from.as_ptr())
            } else {
                s.load_first_bf16(from.as_ptr(), from.len())
            }
        }
    }
    #[inline(always)]
    fn write<S: Simd>(s: S, to: &mut [bf16], v: S::V) {
        // SAFETY: exactly as many numbers as the slice has, or a full register of them.
        unsafe {
            if to.len() >= S::LANES {
                s.store_bf16(to.as_mut_ptr(), v);
            } else {
                s.store_first_bf16(to.as_mut_ptr(), v, to.len());
            }
        }
    }
    #[inline(always)]
    fn write_two<S: Simd>(s: S, to: &mut [bf16], low: S::V, high: S::V) {
        let to = &mut to[..2 * S::LANES];
        // SAFETY: room for both.
        unsafe { s.store_two_bf16(to.as_mut_ptr(), low, high) };
    }
    #[inline(always)]
    fn halves<'o, 'a>(operand: &'o Operand<'a, bf16>) -> Option<&'o Operand<'a, bf16>> {
        Some(operand)
    }
}

/// Runs `$body` with the type `$E` bound to the Rust type of `$dtype`, or leaves with an error that names the op.
macro_rules! with_scalar {
    ($op:expr, $dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            scumble_tensor::DType::F32 => {
                type $E = f32;
                $body
            }
            scumble_tensor::DType::BF16 => {
                type $E = half::bf16;
                $body
            }
            other => Err($crate::operands::unsupported($op, format!("operands of type {other}"))),
        }
    };
}
pub(crate) use with_scalar;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Kernel;
    use crate::tier::Tier;

    /// Widens, adds nothing and rounds again; then turns a square.
    struct RoundTrip<'a> {
        values: &'a [f32],
    }

    impl Kernel for RoundTrip<'_> {
        type Output = Vec<bf16>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<bf16> {
            let mut out = vec![bf16::ZERO; self.values.len()];
            for (to, from) in out.chunks_mut(S::LANES).zip(self.values.chunks(S::LANES)) {
                bf16::write(s, to, s.read(from));
            }
            let mut again = vec![bf16::ZERO; out.len()];
            for (to, from) in again.chunks_mut(S::LANES).zip(out.chunks(S::LANES)) {
                bf16::write(s, to, bf16::read(s, from));
            }
            again
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_on_every_tier() {
        let mut values: Vec<f32> = (0..70_001u32).map(|i| f32::from_bits(i.wrapping_mul(61_211))).collect();
        values.extend([f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0]);
        values.push(f32::from_bits(0x7f80_0001));
        // Exact ties, after even and after odd numbers.
        values.extend((0..64).map(|i| f32::from_bits(0x3f80_8000 + (i << 16))));
        for tier in Tier::available() {
            let exact = tier.run(RoundTrip { values: &values });
            let quick = tier.run_rounding(RoundTrip { values: &values });
            for ((value, exact), quick) in values.iter().zip(exact).zip(quick) {
                let expected = bf16::from_f32(*value);
                let is =
                    |found: bf16| expected.to_bits() == found.to_bits() || value.is_nan() && found.is_nan();
                assert!(is(exact), "{}: {value:e} became {exact:e}", tier.name());
                let is_tiny = value.is_subnormal() && quick == bf16::ZERO;
                assert!(is(quick) || is_tiny, "{}: {value:e} became {quick:e}", tier.name());
            }
        }
    }

    struct Turn<'a>(&'a [f32]);

    impl Kernel for Turn<'_> {
        type Output = bool;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> bool {
            let rows: [*const f32; 16] = std::array::from_fn(|row| self.0[row * 20..].as_ptr());
            let mut to = vec![0.0f32; 17 * 16];
            // SAFETY: rows of 20 floats, 16 lines 17 apart.
            unsafe { s.turn(&rows, to.as_mut_ptr(), 17) };
            (0..S::LANES).all(|k| (0..S::LANES).all(|lane| to[k * 17 + lane] == self.0[lane * 20 + k]))
        }
    }

    #[test]
    fn squares_are_turned_on_every_tier() {
        let values: Vec<f32> = (0..340).map(|i| i as f32).collect();
        for tier in Tier::available() {
            assert!(tier.run(Turn(&values)), "{}", tier.name());
        }
    }

    struct Pairs<'a>(&'a [bf16]);

    impl Kernel for Pairs<'_> {
        type Output = [Vec<bf16>; 3];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [Vec<bf16>; 3] {
            let mut out = [vec![bf16::ZERO; 32], vec![bf16::ZERO; 512], vec![bf16::ZERO; 32]];
            let rows = std::array::from_fn(|row| self.0[row * 33..][..32].as_ptr());
            // SAFETY: runs of 16, rows of 32, and as much room.
            unsafe {
                s.interleave(self.0[..16].as_ptr(), self.0[33..49].as_ptr(), out[0].as_mut_ptr());
                s.turn_pairs(&rows, out[1].as_mut_ptr());
                for at in (0..16).step_by(S::LANES) {
                    let (even, odd) = (bf16::read(s, &self.0[at..16]), bf16::read(s, &self.0[33 + at..49]));
                    s.store_pairs(out[2][2 * at..].as_mut_ptr(), even, odd);
                }
            }
            out
        }
    }

    #[test]
    fn pairs_are_interleaved_and_turned_on_every_tier() {
        // Any bits, signalling NaNs among them, survive what only moves numbers.
        let values: Vec<bf16> = (0..16 * 33).map(|i| bf16::from_bits(0x7e00 + i)).collect();
        let at = |row: usize, k: usize| values[row * 33 + k].to_bits();
        for tier in Tier::available() {
            let [mixed, turned, rounded] = tier.run(Pairs(&values));
            for i in 0..32 {
                assert_eq!(mixed[i].to_bits(), at(i % 2, i / 2), "{} {i}", tier.name());
                let same = rounded[i].to_bits() == at(i % 2, i / 2);
                assert!(same || rounded[i].is_nan() && mixed[i].is_nan(), "{} {i}", tier.name());
            }
            for (i, turned) in turned.iter().enumerate() {
                let (k, row) = (i / 32, i % 32 / 2);
                assert_eq!(turned.to_bits(), at(row, 2 * k + i % 2), "{} {i}", tier.name());
            }
        }
    }
}
