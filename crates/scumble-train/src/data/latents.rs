//! Which latents may be kept, and under which name.
//!
//! A picture's latents can be computed once if the picture is the same at every visit. What is kept are mean and spread of the
//! VAE's answer, so the VAE's own noise is still drawn anew each time. A mirrored picture is a second variant; a random crop is
//! another picture every time and can't be kept.

use super::{CacheKey, sha256};
use crate::picture::TargetSize;

/// What is changed about a picture from visit to visit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// A new crop every time.
    pub random_crop: bool,
    /// Mirrored half of the time.
    pub flip: bool,
}

/// Whether latents can be kept under an augmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatentCaching {
    /// No: every visit encodes the picture.
    Impossible,
    /// Yes, these variants of each picture (the value is `flip`).
    Variants(&'static [bool]),
}

impl Augmentation {
    /// What can be kept.
    pub fn latent_caching(self) -> LatentCaching {
        match (self.random_crop, self.flip) {
            (true, _) => LatentCaching::Impossible,
            (false, true) => LatentCaching::Variants(&[false, true]),
            (false, false) => LatentCaching::Variants(&[false]),
        }
    }
}

impl LatentCaching {
    /// The decision and its reason, for people.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Impossible => {
                "latents are not cached: with random crops a picture is a different one at every visit, so it is encoded anew \
                 in each step (use centre crops to cache)"
            }
            Self::Variants([_, _, ..]) => {
                "latents are cached twice for each picture, as it is and mirrored, because flipping is on"
            }
            Self::Variants(_) => "latents are cached once for each picture",
        }
    }
}

/// The key of a centre-cropped picture's latents: everything that they depend on. `source` is the SHA-256 of the picture file,
/// `vae` an identity of the VAE's weights and settings, such as their hash.
pub fn key(source: &str, size: TargetSize, flip: bool, background: [u8; 3], vae: &str) -> CacheKey {
    // The number changes when decoding or resizing changes its results.
    let transform =
        format!("1 lanczos centre {}x{} flip={flip} over={background:?}", size.width(), size.height());
    CacheKey::new("latents", &[source, &transform, &sha256(vae.as_bytes())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_repeatable_pictures_are_kept() {
        let plan = |random_crop, flip| Augmentation { random_crop, flip }.latent_caching();
        assert_eq!(plan(false, false), LatentCaching::Variants(&[false]));
        assert_eq!(plan(false, true), LatentCaching::Variants(&[false, true]));
        assert_eq!(
            (plan(true, false), plan(true, true)),
            (LatentCaching::Impossible, LatentCaching::Impossible)
        );
        assert!(plan(true, true).explanation().contains("random crops"));
        assert!(plan(false, true).explanation().contains("twice"));
        assert!(plan(false, false).explanation().contains("once"));
    }

    #[test]
    fn everything_that_matters_changes_the_key() {
        let size = |w| TargetSize::new(w, 64).unwrap();
        let base = key("a", size(64), false, [255; 3], "vae");
        assert_eq!(base, key("a", size(64), false, [255; 3], "vae"));
        for other in [
            key("b", size(64), false, [255; 3], "vae"),
            key("a", size(72), false, [255; 3], "vae"),
            key("a", size(64), true, [255; 3], "vae"),
            key("a", size(64), false, [0; 3], "vae"),
            key("a", size(64), false, [255; 3], "other"),
        ] {
            assert_ne!(base, other);
        }
    }
}
