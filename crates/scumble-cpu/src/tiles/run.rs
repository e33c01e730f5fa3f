//! Which unit a tier has, and how a kernel is compiled for it.

use super::TileUnit;
#[cfg(target_arch = "x86_64")]
use super::amx::Amx;
#[cfg(target_arch = "x86_64")]
use super::dot::Dot;
use super::emulated::Emulated;
use crate::simd::{Kernel, Simd};

/// The matrix units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Tile registers.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    Dot,
    /// Plain Rust.
    Emulated,
}

/// A piece of work that is compiled for every unit, with the vectors of its tier beside it; the emulation has portable ones.
pub(crate) trait TileKernel {
    /// What it gives back.
    type Output;
    /// The body; implementations are `#[inline(always)]` so that they take on the tier's instructions.
    fn run<S: Simd, U: TileUnit>(self, s: S, unit: U) -> Self::Output;
}

/// A kernel together with its unit is a kernel over vectors.
struct With<K, U>(K, U);

impl<K: TileKernel, U: TileUnit> Kernel for With<K, U> {
    type Output = K::Output;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> K::Output {
        let _ready = self.1.enter();
        self.0.run(s, self.1)
    }
}

impl Unit {
    /// Whether it multiplies faster than weights that are read only a few times can be brought to another form. Convolutions over
    /// 8x8 and 16x16 pixels were timed with and without minimal filtering (`docs/performance.md`).
    pub(crate) fn outruns_transforms(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Amx => true,
            _ => false,
        }
    }

    /// Runs a kernel on this unit, which is that of an available tier.
    pub(crate) fn run<K: TileKernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: `Tier::is_available` detected the unit, and AVX-512 and AVX512-BF16 beside it.
            #[cfg(target_arch = "x86_64")]
            Unit::Amx => unsafe { crate::simd::avx512::run_rounding(With(kernel, Amx::assume())) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Unit::Dot => unsafe { crate::simd::avx512::run_rounding(With(kernel, Dot::assume())) },
            Unit::Emulated => crate::simd::portable::run(With(kernel, Emulated)),
        }
    }
}
