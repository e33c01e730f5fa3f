//! Instruction tiers: which there are, which the machine has, which one is used.
//!
//! The best one is chosen at run time; `SCUMBLE_CPU_TIER` forces another, so that one machine can test several.

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

use scumble_tensor::{Error, Result};

use crate::simd::{Kernel, portable};
use crate::tiles::Unit;

/// Environment variable that forces a tier by its name.
pub const TIER_VARIABLE: &str = "SCUMBLE_CPU_TIER";

/// A set of instructions that kernels are compiled for: vectors, and a matrix unit where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// AVX-512 with AMX: tile registers that multiply bf16.
    Amx,
    /// AVX-512 with AVX512-BF16: vectors that multiply bf16.
    Avx512Bf16,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// aarch64.
    Neon,
    /// Whatever the compilation target has at least.
    Portable,
    /// The machine's best vectors with a matrix unit in plain Rust: slow, for testing what the real ones need.
    Emulated,
}

impl Tier {
    /// All tiers, best first.
    const ALL: [Tier; 7] =
        [Tier::Amx, Tier::Avx512Bf16, Tier::Avx512, Tier::Avx2, Tier::Neon, Tier::Portable, Tier::Emulated];

    /// The name that [`TIER_VARIABLE`] takes.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Amx => "amx",
            Tier::Avx512Bf16 => "avx512bf16",
            Tier::Avx512 => "avx512",
            Tier::Avx2 => "avx2",
            Tier::Neon => "neon",
            Tier::Portable => "portable",
            Tier::Emulated => "emulated",
        }
    }

    /// Whether this machine has it. A matrix unit must also have multiplied correctly in this process.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Tier::Amx | Tier::Avx512Bf16 => self.trial() == Trial::Passed,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => {
                Tier::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Tier::Portable | Tier::Emulated => true,
            #[allow(unreachable_patterns)] // the tiers of other architectures
            _ => false,
        }
    }

    /// What came of trying a matrix unit, once a process.
    #[cfg(target_arch = "x86_64")]
    fn trial(self) -> Trial {
        use crate::tiles::{amx::Amx, dot::Dot};
        static AMX: OnceLock<Trial> = OnceLock::new();
        static DOT: OnceLock<Trial> = OnceLock::new();
        // Kernels for either unit round with AVX512-BF16.
        if !Tier::Avx512.is_available() || !is_x86_feature_detected!("avx512bf16") {
            return Trial::Absent;
        }
        match self {
            Tier::Amx => *AMX.get_or_init(|| Trial::of(Amx::detect())),
            Tier::Avx512Bf16 => *DOT.get_or_init(|| Trial::of(Dot::detect())),
            _ => Trial::Absent,
        }
    }

    /// Matrix units that this machine seems to have and that computed something else than they should: not used.
    pub fn distrusted() -> Vec<Tier> {
        #[cfg(target_arch = "x86_64")]
        return Self::ALL.into_iter().filter(|tier| tier.trial() == Trial::Failed).collect();
        #[cfg(not(target_arch = "x86_64"))]
        Vec::new()
    }

    /// Whether products of bf16 are faster here than those of f32.
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Tier::Amx | Tier::Avx512Bf16)
    }

    /// The matrix unit.
    pub(crate) fn unit(self) -> Option<Unit> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Tier::Amx => Some(Unit::Amx),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Bf16 => Some(Unit::Dot),
            Tier::Emulated => Some(Unit::Emulated),
            _ => None,
        }
    }

    /// The tier whose vectors it has.
    fn vectors(self) -> Tier {
        match self {
            Tier::Amx | Tier::Avx512Bf16 => Tier::Avx512,
            Tier::Emulated => {
                let plain = [Tier::Avx512, Tier::Avx2, Tier::Neon];
                plain.into_iter().find(|tier| tier.is_available()).unwrap_or(Tier::Portable)
            }
            plain => plain,
        }
    }

    /// The tiers of this machine, best first.
    pub fn available() -> Vec<Tier> {
        Self::ALL.into_iter().filter(|tier| tier.is_available()).collect()
    }

    /// The forced tier, or the best; errors when [`TIER_VARIABLE`] names one that this machine lacks.
    pub fn choose() -> Result<Tier> {
        match std::env::var_os(TIER_VARIABLE) {
            Some(name) => Self::parse(&name.to_string_lossy()),
            None => Ok(Self::available().first().copied().unwrap_or(Tier::Portable)),
        }
    }

    /// A tier by name; errors when there is none of that name or the machine lacks it.
    pub(crate) fn parse(name: &str) -> Result<Tier> {
        let tier = Self::ALL.into_iter().find(|tier| tier.name() == name);
        tier.ok_or_else(|| refuse(&format!("`{name}` is no instruction tier")))?.checked()
    }

    /// Itself, if the machine has it.
    pub(crate) fn checked(self) -> Result<Tier> {
        if self.is_available() {
            Ok(self)
        } else {
            Err(refuse(&format!("this machine lacks the instructions of tier `{}`", self.name())))
        }
    }

    /// Runs a kernel with this tier's instructions; a `Tier` in a backend was checked when that was made.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.vectors() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `checked` found the features on this machine.
            Tier::Avx512 => unsafe { crate::simd::avx512::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `checked` found the features on this machine.
            Tier::Avx2 => unsafe { crate::simd::avx2::run(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `checked` found the feature on this machine.
            Tier::Neon => unsafe { crate::simd::neon::run(kernel) },
            _ => portable::run(kernel),
        }
    }

    /// As [`Tier::run`], for kernels that write much bf16: where the tier has AVX512-BF16 that rounds, in one instruction
    /// instead of seven, and takes denormal numbers for zero.
    #[inline]
    pub(crate) fn run_rounding<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `checked` found AVX512-BF16 beside AVX-512 on this machine.
            Tier::Amx | Tier::Avx512Bf16 => unsafe { crate::simd::avx512::run_rounding(kernel) },
            _ => self.run(kernel),
        }
    }
}

/// What came of trying a matrix unit.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trial {
    /// The machine or the system does not offer it.
    Absent,
    /// It computed something else than the emulation.
    Failed,
    Passed,
}

#[cfg(target_arch = "x86_64")]
impl Trial {
    fn of(unit: Option<impl crate::tiles::TileUnit>) -> Self {
        match unit {
            None => Trial::Absent,
            Some(unit) if crate::tiles::self_check::agrees(unit) => Trial::Passed,
            Some(_) => Trial::Failed,
        }
    }
}

fn refuse(reason: &str) -> Error {
    let possible: Vec<&str> = Tier::available().into_iter().map(Tier::name).collect();
    Error::Device {
        device: "cpu".into(),
        message: format!("{reason}; set {TIER_VARIABLE} to one of: {}, or unset it", possible.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_missing_tiers_are_refused() {
        let error = Tier::parse("mmx").unwrap_err().to_string();
        assert!(error.contains("`mmx`") && error.contains("portable"), "{error}");
        assert_eq!(Tier::parse("portable").unwrap(), Tier::Portable);
        assert_eq!(Tier::parse("emulated").unwrap(), Tier::Emulated);
        assert!(!Tier::available().first().is_some_and(|best| *best == Tier::Emulated));
        assert_eq!(Tier::distrusted(), []);
        for tier in Tier::ALL {
            assert_eq!(Tier::parse(tier.name()).is_ok(), tier.is_available());
        }
    }
}
