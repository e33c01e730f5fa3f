//! Gradient clipping by the global norm, as `torch.nn.utils.clip_grad_norm_` does it.
//!
//! ```text
//! norm = sqrt(sum over all gradients of |g|^2)        factor = min(1, max / (norm + 1e-6))
//! ```
//!
//! The factor is not applied here: updates take it as a factor of the gradient, which saves a pass over memory.

use scumble_tensor::{Backend, Gradients, Param, Result};

/// The length of all gradients of `params` taken as one vector. Summed in the order of `params`.
pub fn global_norm(backend: &dyn Backend, params: &[Param], gradients: &Gradients) -> Result<f64> {
    let mut sum = 0.0;
    for param in params {
        if let Some(gradient) = gradients.get(param.id()) {
            sum += backend.sum_squares(gradient)?;
        }
    }
    Ok(sum.sqrt())
}

/// The factor that brings a gradient of length `norm` down to `max`; 1 when it is short enough or `max` is 0 (off).
pub fn clip_factor(norm: f64, max: f64) -> f64 {
    if max > 0.0 { (max / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_gradients_are_shortened() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(1e9, 0.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert!(clip_factor(1.0, 1.0) < 1.0, "1e-6 is added to the norm, as torch does");
    }
}
