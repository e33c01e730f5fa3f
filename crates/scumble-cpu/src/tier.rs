//! Instruction tiers: which there are, which the machine has, which one is used.
//!
//! The best one is chosen at run time; `SCUMBLE_CPU_TIER` forces another, so that one machine can test several.

use scumble_tensor::{Error, Result};

use crate::simd::{Kernel, portable};

/// Environment variable that forces a tier by its name.
pub const TIER_VARIABLE: &str = "SCUMBLE_CPU_TIER";

/// A set of vector instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// aarch64.
    Neon,
    /// Whatever the compilation target has at least.
    Portable,
}

impl Tier {
    /// All tiers, best first.
    const ALL: [Tier; 4] = [Tier::Avx512, Tier::Avx2, Tier::Neon, Tier::Portable];

    /// The name that [`TIER_VARIABLE`] takes.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Avx512 => "avx512",
            Tier::Avx2 => "avx2",
            Tier::Neon => "neon",
            Tier::Portable => "portable",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
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
            Tier::Portable => true,
            #[allow(unreachable_patterns)] // the tiers of other architectures
            _ => false,
        }
    }

    /// The tiers of this machine, best first.
    pub fn available() -> Vec<Tier> {
        Self::ALL.into_iter().filter(|tier| tier.is_available()).collect()
    }

    /// The forced tier, or the best.
    pub(crate) fn choose() -> Result<Tier> {
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
        match self {
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
        for tier in Tier::ALL {
            assert_eq!(Tier::parse(tier.name()).is_ok(), tier.is_available());
        }
    }
}
