//! The numbers that a command computes in when nobody says: bf16 where the processor multiplies it faster than f32.

use scumble_cpu::Tier;
use scumble_train::config::Precision;

use crate::failure::{Failure, Result};

/// Environment variable that decides for every command without `--precision`.
pub const VARIABLE: &str = "SCUMBLE_PRECISION";

/// What suits this machine.
pub fn usual() -> Precision {
    // A tier that this machine lacks is an error as soon as something is computed.
    Tier::choose().map_or(Precision::F32, of_tier)
}

fn of_tier(tier: Tier) -> Precision {
    if tier.multiplies_bf16() { Precision::Bf16 } else { Precision::F32 }
}

/// What the environment asks for, or what suits this machine: for settings that are not read by the command line.
pub fn asked_or_usual() -> Result<Precision> {
    match std::env::var_os(VARIABLE) {
        None => Ok(usual()),
        Some(text) => text.to_string_lossy().parse().map_err(|_| {
            Failure::usage(format!("{VARIABLE} is `{}`", text.display())).hint("it can be `f32` or `bf16`")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_units_that_multiply_bf16_compute_in_it_unasked() {
        for tier in Tier::available() {
            let expected = match tier {
                Tier::Amx | Tier::Avx512Bf16 => Precision::Bf16,
                _ => Precision::F32,
            };
            assert_eq!(of_tier(tier), expected, "{}", tier.name());
        }
    }
}
