//! Noise that is not plain: a constant for each channel, and coarser resolutions.
//!
//! ```text
//! offset     e += o n_c,  n ~ N(0, 1) for each channel: very dark and very bright pictures become learnable
//! multires   e += discount^i up(N(0, 1) of h / r^i x w / r^i),  r ~ U(2, 4) drawn anew for each i = 0, 1, ...,
//!            until a side is 1 or the levels are used up;  then e /= its standard deviation
//! ```
//!
//! `up` is bilinear, pixel centres at .5, edges repeated. Each sample is scaled by its own deviation, so that the split
//! into batches changes nothing.

use scumble_tensor::rng::Generator;

/// Noise of several resolutions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multires {
    /// How many.
    pub levels: usize,
    /// What each coarser one counts against the one before.
    pub discount: f64,
}

impl Multires {
    /// Adds coarser noise to `noise [h, w, c]` and scales the sum to a standard deviation of 1.
    pub fn add(&self, noise: &mut [f32], [h, w, c]: [usize; 3], stream: &mut Generator) {
        let (mut height, mut width) = (h, w);
        for level in 0..self.levels {
            let ratio = 2.0 + 2.0 * stream.rand_f64(1).first().copied().unwrap_or_default();
            let shrunk = |side: usize| ((side as f64 / ratio.powi(level as i32)) as usize).max(1);
            (height, width) = (shrunk(h).min(height), shrunk(w).min(width));
            let coarse = stream.randn(height * width * c);
            let scale = self.discount.powi(level as i32) as f32;
            add_upsampled(noise, [h, w, c], &coarse, [height, width], scale);
            if height == 1 || width == 1 {
                break;
            }
        }
        let n = noise.len() as f64;
        let mean = noise.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = noise.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        if variance > 0.0 {
            let scale = (1.0 / variance.sqrt()) as f32;
            noise.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// Adds `scale * offsets[channel]` to every pixel of `noise [h, w, c]`.
pub fn add_offset(noise: &mut [f32], offsets: &[f32], scale: f32) {
    for pixel in noise.chunks_exact_mut(offsets.len().max(1)) {
        for (value, offset) in pixel.iter_mut().zip(offsets) {
            *value += scale * offset;
        }
    }
}

fn add_upsampled(
    noise: &mut [f32],
    [h, w, c]: [usize; 3],
    coarse: &[f32],
    [rows, columns]: [usize; 2],
    scale: f32,
) {
    // The two neighbours along an axis and the weight of the second.
    let neighbours = |at: usize, outputs: usize, inputs: usize| {
        let place = ((at as f64 + 0.5) * inputs as f64 / outputs as f64 - 0.5).max(0.0);
        let first = (place as usize).min(inputs - 1);
        (first, (first + 1).min(inputs - 1), (place - first as f64).clamp(0.0, 1.0) as f32)
    };
    for y in 0..h {
        let (top, bottom, down) = neighbours(y, h, rows);
        for x in 0..w {
            let (left, right, across) = neighbours(x, w, columns);
            for channel in 0..c {
                let at = |row: usize, column: usize| coarse[(row * columns + column) * c + channel];
                let upper = at(top, left) + across * (at(top, right) - at(top, left));
                let lower = at(bottom, left) + across * (at(bottom, right) - at(bottom, left));
                noise[(y * w + x) * c + channel] += scale * (upper + down * (lower - upper));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::rng::stream_at;

    #[test]
    fn upsampling_is_that_of_pytorch() {
        // torch.nn.functional.interpolate(torch.tensor([[[[0., 1.], [2., 4.]]]]), (4, 4), mode="bilinear")
        let mut out = vec![0f32; 16];
        add_upsampled(&mut out, [4, 4, 1], &[0.0, 1.0, 2.0, 4.0], [2, 2], 1.0);
        let expected =
            [0.0, 0.25, 0.75, 1.0, 0.5, 0.8125, 1.4375, 1.75, 1.5, 1.9375, 2.8125, 3.25, 2.0, 2.5, 3.5, 4.0];
        assert_eq!(out, expected);
    }

    #[test]
    fn coarse_noise_makes_neighbours_alike_and_keeps_the_deviation() {
        let dims = [32, 32, 4];
        let plain = stream_at(1, "noise", 0).randn(32 * 32 * 4);
        let mut coarse = plain.clone();
        Multires { levels: 6, discount: 0.8 }.add(&mut coarse, dims, &mut stream_at(1, "more", 0));
        let neighbours = |noise: &[f32]| {
            let pairs = noise.iter().zip(&noise[4..]).map(|(a, b)| f64::from(a * b));
            pairs.sum::<f64>() / noise.len() as f64
        };
        assert!(neighbours(&plain).abs() < 0.05 && neighbours(&coarse) > 0.15, "{}", neighbours(&coarse));
        let deviation = (coarse.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 4096.0).sqrt();
        assert!((0.9..1.1).contains(&deviation), "{deviation}");
        let mut one = vec![0.5f32; 4];
        Multires { levels: 6, discount: 0.8 }.add(&mut one, [1, 1, 4], &mut stream_at(1, "more", 0));
        assert!(one.iter().all(|value| value.is_finite()));
    }
}
