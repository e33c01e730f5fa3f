//! What each pixel of the latents counts, from the mask of its picture.
//!
//! A mask is white (1) where the picture matters and black (0) where it does not. Two rules:
//!
//! ```text
//! linear      m = mean of the mask over the square of each latent pixel
//!             w = floor + (1 - floor) m^temperature,   divided by its mean over the picture when normalised
//! original    m = 0.5 + the mask's pixel at the corner of the square;  w = (m + 0.01)^temperature
//!             divided by its maximum over the batch;   loss = mean of (w prediction - w target)^2
//! ```
//!
//! The original's weights count squared, and what others are in the batch matters; it is there to repeat old runs.

use crate::config::{Mask, MaskLoss};

/// The original adds this before it raises.
const ORIGINAL_SHIFT: f32 = 0.01;

/// Of each cell its first pixel: `pixels` of a picture `[height, width]` -> `[h, w]`.
pub fn nearest(pixels: &[f32], [height, width]: [usize; 2], [h, w]: [usize; 2]) -> Vec<f32> {
    let at = |i: usize| pixels.get((i / w * height / h) * width + i % w * width / w);
    (0..h * w).map(|i| at(i).copied().unwrap_or_default()).collect()
}

/// Of each cell the mean of its pixels: `pixels` of a picture `[height, width]` -> `[h, w]`.
pub fn area(pixels: &[f32], [height, width]: [usize; 2], [h, w]: [usize; 2]) -> Vec<f32> {
    let mean = |i: usize| {
        let (rows, columns) =
            (i / w * height / h..(i / w + 1) * height / h, i % w * width / w..(i % w + 1) * width / w);
        let count = rows.len() * columns.len();
        let row =
            |y: usize| pixels.get(y * width + columns.start..y * width + columns.end).unwrap_or_default();
        let sum: f64 = rows.flat_map(|y| row(y).iter().map(|&value| f64::from(value))).sum();
        (sum / count.max(1) as f64) as f32
    };
    (0..h * w).map(mean).collect()
}

/// The original's weights of a whole batch of masks, already 0.5 to 1.5: `(m + 0.01)^temperature / maximum`.
pub fn original(masks: &[f32], temperature: f32) -> Vec<f32> {
    let raised: Vec<f32> = masks.iter().map(|m| (m + ORIGINAL_SHIFT).powf(temperature)).collect();
    let largest = raised.iter().copied().fold(f32::MIN, f32::max);
    raised.iter().map(|m| m / largest).collect()
}

/// What counts how, by a configuration: masks of one picture after the other at the latents' resolution, each `cells`
/// long, 0 to 1.
pub fn weights(rule: &Mask, masks: &[f32], cells: usize) -> Vec<f32> {
    match rule.loss {
        MaskLoss::Original => {
            let shifted: Vec<f32> = masks.iter().map(|m| m + 0.5).collect();
            original(&shifted, rule.temperature as f32).iter().map(|w| w * w).collect()
        }
        MaskLoss::Linear => masks.chunks(cells.max(1)).flat_map(|mask| linear(rule, mask)).collect(),
    }
}

fn linear(rule: &Mask, mask: &[f32]) -> Vec<f32> {
    let floor = rule.floor;
    let weight = |&m: &f32| floor + (1.0 - floor) * f64::from(m).clamp(0.0, 1.0).powf(rule.temperature);
    let weights: Vec<f64> = mask.iter().map(weight).collect();
    let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    // A black mask under a floor of 0 has no mean to divide by; it stays black.
    let scale = if rule.normalize && mean > 0.0 { 1.0 / mean } else { 1.0 };
    weights.iter().map(|w| (w * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [f32; 16] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5];

    #[test]
    fn masks_shrink_by_corner_or_mean() {
        assert_eq!(nearest(&MASK, [4, 4], [2, 2]), [1.0, 0.0, 1.0, 0.5]);
        assert_eq!(area(&MASK, [4, 4], [2, 2]), [0.5, 0.0, 1.0, 0.5]);
        assert_eq!(area(&MASK, [4, 4], [4, 4]), MASK);
    }

    #[test]
    fn rules_follow_their_formulas() {
        let mut rule = Mask { floor: 0.2, ..Mask::default() };
        assert_eq!(weights(&rule, &[1.0, 0.0, 0.5, 1.0], 4), [1.0, 0.2, 0.6, 1.0]);
        rule.temperature = 2.0;
        assert_eq!(weights(&rule, &[0.5, 1.0], 2), [0.4, 1.0]);
        rule = Mask { normalize: true, floor: 0.0, ..Mask::default() };
        assert_eq!(weights(&rule, &[1.0, 0.0, 1.0, 1.0], 2), [2.0, 0.0, 1.0, 1.0]);
        assert_eq!(weights(&rule, &[0.0, 0.0], 2), [0.0, 0.0]);
        rule = Mask { loss: MaskLoss::Original, ..Mask::default() };
        let found = weights(&rule, &[0.0, 1.0], 2);
        assert!((found[0] - (0.51f32 / 1.51).powi(2)).abs() < 1e-6 && found[1] == 1.0, "{found:?}");
    }
}
