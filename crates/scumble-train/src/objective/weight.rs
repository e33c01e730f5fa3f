//! What a timestep counts in the loss.
//!
//! ```text
//!                        epsilon                       v
//! even                   1                             1
//! min-SNR, gamma g       min(snr, g) / snr             min(snr, g) / (snr + 1)      Hang et al. 2023
//! debiased               1 / sqrt(min(snr, 1000))      1 / (min(snr, 1000) + 1)     Yu et al. 2023
//! v like noise           -                             s / (s + 1), s = min(snr, 1000)
//! ```
//!
//! The loss of v is `snr + 1` times that of the clean picture, hence the divisors of v. The last row gives v the weights
//! that epsilon has by itself. Without any signal, `snr = 0`, the epsilon forms take their limits or the value at 1e-6.

use scumble_model::schedule::PredictionType;

/// Above this the picture is all but clean, and all timesteps count alike.
const LARGEST_SNR: f64 = 1000.0;
/// Below this there is no signal: nothing is divided by less.
const SMALLEST_SNR: f64 = 1e-6;

/// The rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weighting {
    /// All timesteps count alike.
    Even,
    /// Min-SNR with its gamma.
    MinSnr(f64),
    /// Debiased estimation.
    Debiased,
    /// v counts as epsilon does.
    VelocityLikeNoise,
}

impl Weighting {
    /// The weight at a signal-to-noise ratio.
    pub fn at(self, snr: f64, prediction: PredictionType) -> f64 {
        let bounded = snr.min(LARGEST_SNR);
        match (self, prediction) {
            (Weighting::Even, _) => 1.0,
            // The limit for a picture that is all noise.
            (Weighting::MinSnr(_), PredictionType::Epsilon) if snr == 0.0 => 1.0,
            (Weighting::MinSnr(gamma), PredictionType::Epsilon) => snr.min(gamma) / snr,
            (Weighting::MinSnr(gamma), PredictionType::VPrediction) => snr.min(gamma) / (snr + 1.0),
            (Weighting::MinSnr(gamma), PredictionType::Sample) => snr.min(gamma),
            (Weighting::Debiased, PredictionType::VPrediction) => 1.0 / (bounded + 1.0),
            (Weighting::Debiased, _) => 1.0 / bounded.max(SMALLEST_SNR).sqrt(),
            (Weighting::VelocityLikeNoise, PredictionType::VPrediction) => bounded / (bounded + 1.0),
            (Weighting::VelocityLikeNoise, _) => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PredictionType::{Epsilon, VPrediction};

    #[test]
    fn weights_follow_their_formulas() {
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        close(Weighting::Even.at(3.0, Epsilon), 1.0);
        close(Weighting::MinSnr(5.0).at(20.0, Epsilon), 0.25);
        close(Weighting::MinSnr(5.0).at(2.0, Epsilon), 1.0);
        close(Weighting::MinSnr(5.0).at(19.0, VPrediction), 0.25);
        close(Weighting::Debiased.at(4.0, Epsilon), 0.5);
        close(Weighting::Debiased.at(1e6, Epsilon), 1.0 / 1000f64.sqrt());
        close(Weighting::Debiased.at(4.0, VPrediction), 0.2);
        close(Weighting::VelocityLikeNoise.at(4.0, VPrediction), 0.8);
    }

    #[test]
    fn pure_noise_gives_finite_weights() {
        for weighting in [Weighting::MinSnr(5.0), Weighting::Debiased, Weighting::VelocityLikeNoise] {
            for prediction in [Epsilon, VPrediction] {
                assert!(weighting.at(0.0, prediction).is_finite(), "{weighting:?} {prediction:?}");
            }
        }
        assert_eq!(Weighting::MinSnr(5.0).at(0.0, VPrediction), 0.0);
    }
}
