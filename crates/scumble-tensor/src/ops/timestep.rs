//! Sinusoidal timestep embedding (Vaswani et al. 2017, in the form diffusion models use): with `half = dim / 2`,
//! `freq[k] = exp(-ln(10000) k / (half - freq_shift))` and `a[k] = t freq[k]`, a row is `[sin a, cos a]`, flipped
//! `[cos a, sin a]`; an odd `dim` ends with a zero. Stable Diffusion: flipped, shift 0.
//!
//! Computed in f32 step by step as the models' authors did: a double-precision angle would differ in the fifth digit.

use crate::error::{Result, shape_error};
use crate::tensor::Tensor;

const MAX_PERIOD: f32 = 10_000.0;

/// `timesteps [n]` -> f32 host tensor `[n, dim]`.
pub fn timestep_embedding(
    timesteps: &[f32],
    dim: usize,
    flip_sin_to_cos: bool,
    freq_shift: f32,
) -> Result<Tensor> {
    let half = dim / 2;
    let span = half as f32 - freq_shift;
    if half == 0 || span <= 0.0 {
        return Err(shape_error("timestep_embedding", "size", "at least 2 and beyond twice the shift", dim));
    }
    let frequency = |k: usize| (-MAX_PERIOD.ln() * k as f32 / span).exp();
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let (sin_at, cos_at) = if flip_sin_to_cos { (half, 0) } else { (0, half) };
    Tensor::build::<f32>(&[timesteps.len(), dim], |rows| {
        rows.fill(0.0);
        for (row, &t) in rows.chunks_exact_mut(dim).zip(timesteps) {
            for (k, &frequency) in frequencies.iter().enumerate() {
                row[sin_at + k] = (t * frequency).sin();
                row[cos_at + k] = (t * frequency).cos();
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows 23-25, columns 47-49 of the embedding of 0..128 in 64 dimensions, as diffusers' own tests have them.
    #[test]
    fn agrees_with_diffusers() {
        let timesteps: Vec<f32> = (0..128).map(|t| t as f32).collect();
        let cases = [
            (false, 1.0, [0.9646, 0.9804, 0.9892, 0.9615, 0.9787, 0.9882, 0.9582, 0.9769, 0.9872]),
            (true, 0.0, [0.3019, 0.2280, 0.1716, 0.3146, 0.2377, 0.1790, 0.3272, 0.2474, 0.1864]),
        ];
        for (flip, shift, expected) in cases {
            let rows = timestep_embedding(&timesteps, 64, flip, shift).unwrap().to_vec::<f32>().unwrap();
            for (i, expected) in expected.iter().enumerate() {
                let found = rows[(23 + i / 3) * 64 + 47 + i % 3];
                assert!((found - expected).abs() < 1e-4, "{i}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn odd_sizes_end_with_a_zero_and_absurd_ones_are_refused() {
        let rows = timestep_embedding(&[1.0, 2.0], 5, true, 0.0).unwrap().to_vec::<f32>().unwrap();
        assert_eq!((rows.len(), rows[4], rows[9]), (10, 0.0, 0.0));
        assert_eq!(rows[0], 1f32.cos());
        assert!(timestep_embedding(&[1.0], 1, true, 0.0).is_err());
        assert!(timestep_embedding(&[1.0], 4, true, 2.0).is_err());
    }
}
