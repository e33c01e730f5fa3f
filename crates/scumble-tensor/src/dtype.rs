//! Element types of tensors.
//!
//! `F32` computes exactly, `BF16` computes fast, `F64` is the judge's type: only the reference backend
//! computes in it. The rest are what weight files may hold and what ids and masks need.

use half::{bf16, f16};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE double; the reference backend's type.
    F64,
    /// IEEE single; the exact mode's type.
    F32,
    /// IEEE half; common on disk.
    F16,
    /// Brain float; the fast mode's activations and frozen weights.
    BF16,
    /// Token ids and timesteps.
    I64,
    /// Seen in files only.
    I32,
    /// Seen in files only.
    I16,
    /// Seen in files only.
    I8,
    /// Token ids on devices.
    U32,
    /// Bytes.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether the type holds fractions.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// Lower-case name as users type it: `f32`, `bf16`, ...
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::U32 => "u32",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that can be a tensor's element.
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug {
    /// The matching [`DType`].
    const DTYPE: DType;
    /// Widens (integers beyond 2^53 lose bits; none occur).
    fn to_f64(self) -> f64;
    /// Rounds to nearest for floats; truncates for integers.
    fn from_f64(value: f64) -> Self;
}

macro_rules! element {
    ($type:ty, $dtype:ident) => {
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $type
            }
        }
    };
}
element!(f64, F64);
element!(f32, F32);
element!(i64, I64);
element!(i32, I32);
element!(i16, I16);
element!(i8, I8);
element!(u32, U32);
element!(u8, U8);

/// The f32 that rounds to the same half-width number as `value`: inexact values are rounded to odd, so that a value
/// just beside a tie is not taken for the tie (Boldo & Melquiond 2008).
#[inline(always)]
fn to_f32_for_rounding(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || value.is_nan() {
        return nearest;
    }
    // The next f32 towards zero when `nearest` lies beyond `value`; its last bit then says "inexact".
    let beyond = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(beyond)) | 1)
}

macro_rules! half_element {
    ($type:ty, $dtype:ident) => {
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            #[inline(always)]
            fn to_f64(self) -> f64 {
                <$type>::to_f64(self)
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                <$type>::from_f32(to_f32_for_rounding(value))
            }
        }
    };
}
half_element!(f16, F16);
half_element!(bf16, BF16);

/// Runs `$body` with `$T` bound to the Rust type behind a [`DType`]; `Bool` is read as `u8`.
#[macro_export]
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            $crate::DType::I64 => {
                type $T = i64;
                $body
            }
            $crate::DType::I32 => {
                type $T = i32;
                $body
            }
            $crate::DType::I16 => {
                type $T = i16;
                $body
            }
            $crate::DType::I8 => {
                type $T = i8;
                $body
            }
            $crate::DType::U32 => {
                type $T = u32;
                $body
            }
            $crate::DType::U8 | $crate::DType::Bool => {
                type $T = u8;
                $body
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 + 2^-8 lies between two bf16 numbers; the least excess must round it up.
    #[test]
    fn half_widths_round_once() {
        let tie = 1.0 + 2f64.powi(-8);
        let bf16_of = |value: f64| Element::to_f64(<bf16 as Element>::from_f64(value));
        assert_eq!(bf16_of(tie), 1.0);
        for excess in [2f64.powi(-23), 2f64.powi(-30), 2f64.powi(-52)] {
            assert_eq!(bf16_of(tie + excess), 1.0 + 2f64.powi(-7));
            assert_eq!(bf16_of(-tie - excess), -1.0 - 2f64.powi(-7));
            assert_eq!(bf16_of(tie - excess), 1.0);
        }
        let f16_of = |value: f64| Element::to_f64(<f16 as Element>::from_f64(value));
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!((f16_of(tie), f16_of(tie + 2f64.powi(-50))), (1.0, 1.0 + 2f64.powi(-10)));
        assert_eq!((f16_of(1e300), f16_of(-1e-300), bf16_of(f64::NAN).is_nan()), (f64::INFINITY, 0.0, true));
        assert_eq!(bf16_of(f64::NEG_INFINITY), f64::NEG_INFINITY);
    }
}
