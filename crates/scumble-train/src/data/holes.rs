//! Holes in pictures, for training bases that fill them.
//!
//! ```text
//! with probability whole: everything is one hole
//! otherwise n rectangles, n uniform over 8 .. 32, sides uniform over s/32 .. s/4 (s: the shorter side), places uniform
//! ```
//!
//! For 512 pixels these are the numbers of the first LoRA tool for Stable Diffusion. With the picture's own mask the hole is
//! where it is white.

use scumble_tensor::rng::Generator;

/// How many rectangles, from and to (inclusive).
const COUNT: [i64; 2] = [8, 32];

/// A hole for a picture of so many pixels: `height * width` values, 1 in the hole and 0 outside.
pub fn random(stream: &mut Generator, width: usize, height: usize, whole: f64) -> Vec<f32> {
    let mut uniform = || stream.rand_f64(1).first().copied().unwrap_or_default();
    if uniform() < whole {
        return vec![1.0; width * height];
    }
    let mut between = |low: f64, high: f64| low + (high - low) * uniform();
    let count = between(COUNT[0] as f64, (COUNT[1] + 1) as f64) as usize;
    let shorter = width.min(height) as f64;
    let mut hole = vec![0.0; width * height];
    for _ in 0..count {
        let mut side =
            |limit: usize| (between(shorter / 32.0, shorter / 4.0).round() as usize).clamp(1, limit);
        let (w, h) = (side(width), side(height));
        let (left, top) =
            (between(0.0, (width - w + 1) as f64) as usize, between(0.0, (height - h + 1) as f64) as usize);
        for row in hole.chunks_exact_mut(width).skip(top).take(h) {
            row[left..left + w].fill(1.0);
        }
    }
    hole
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::rng::stream_at;

    fn holes(width: usize, height: usize, whole: f64) -> Vec<Vec<f32>> {
        (0..200).map(|visit| random(&mut stream_at(4, "holes", visit), width, height, whole)).collect()
    }

    #[test]
    fn rectangles_cover_a_part_and_sometimes_all() {
        let share = |hole: &Vec<f32>| hole.iter().sum::<f32>() / hole.len() as f32;
        let shares: Vec<f32> = holes(64, 48, 0.25).iter().map(share).collect();
        let whole = shares.iter().filter(|&&share| share == 1.0).count();
        assert!((30..70).contains(&whole), "{whole} of 200");
        let parts: Vec<f32> = shares.iter().copied().filter(|&share| share < 1.0).collect();
        let mean = parts.iter().sum::<f32>() / parts.len() as f32;
        assert!((0.15..0.5).contains(&mean) && parts.iter().all(|&share| share > 0.0), "{mean}");
        assert!(holes(64, 48, 0.0).iter().all(|hole| share(hole) < 1.0));
        assert!(holes(64, 48, 1.0).iter().all(|hole| share(hole) == 1.0));
        assert_eq!(holes(64, 48, 0.25), holes(64, 48, 0.25));
    }

    #[test]
    fn tiny_pictures_have_holes_too() {
        for (width, height) in [(8, 8), (8, 64), (1, 1)] {
            assert!(holes(width, height, 0.0).iter().all(|hole| hole.contains(&1.0)));
        }
    }
}
