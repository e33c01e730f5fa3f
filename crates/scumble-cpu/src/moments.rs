//! Mean and deviation of groups of channels, in one reading of the picture.
//!
//! Rows come in pieces. A piece is summed per channel about its own first row, `d = x - first`, in f32 and in registers:
//! the sums of `d` and of `d^2` lose little even where the mean is large beside the deviation. Pieces are brought to a
//! common origin (the image's first row) and added in f64:
//!
//! ```text
//! t = first - origin       sum (x - origin)   = sum d + rows t
//!                          sum (x - origin)^2 = sum d^2 + t (2 sum d + rows t)
//! ```
//!
//! and the same rule takes channels from their origins to the group's mean. Source: T. Chan, G. Golub and R. LeVeque,
//! "Algorithms for computing the sample variance", 1983. The order of the sums depends on the sizes alone.

use scumble_tensor::Result;

use crate::engine::{Engine, Scratch};
use crate::reduce::piece_rows;
use crate::simd::{Kernel, Scalar, Simd};

/// Most tasks of an image: each has sums in f64 that are added one after the other.
const TASKS: usize = 64;
/// Registers' columns that are summed at once.
const BLOCK: usize = 4;

/// Mean and reciprocal deviation `[n, groups, 2]` of `x [n, inner, c]`; `eps` is added to the variance.
pub(crate) fn group_moments<E: Scalar>(
    engine: &Engine,
    x: &[E],
    [n, inner, c]: [usize; 3],
    groups: usize,
    eps: f32,
) -> Result<Vec<f32>> {
    if inner * c == 0 {
        return Ok(vec![0.0; n * groups * 2]);
    }
    let piece_rows = piece_rows(c);
    let task_rows = inner.div_ceil(piece_rows).div_ceil(TASKS) * piece_rows;
    let tasks = inner.div_ceil(task_rows);
    let mut partial = Scratch::new(1, 4 * n * tasks * c)?;
    let partial: &mut [f64] = bytemuck::cast_slice_mut(partial.all());
    let partial = &mut partial[..n * tasks * 2 * c];
    engine.pool.run_pieces(partial, 2 * c, |index, sums| {
        sums.fill(0.0);
        let image = &x[index / tasks * inner * c..][..inner * c];
        let first = index % tasks * task_rows;
        let rows = &image[first * c..(first + task_rows).min(inner) * c];
        engine.tier.run(AddMoments { rows, origin: &image[..c], piece_rows, sums });
    });
    let mut moments = Vec::with_capacity(n * groups * 2);
    for (image, partial) in x.chunks_exact(inner * c).zip(partial.chunks_exact(tasks * 2 * c)) {
        let mut sums = vec![0.0f64; 2 * c];
        for part in partial.chunks_exact(2 * c) {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let width = c / groups;
        for first in (0..c).step_by(width) {
            let channels = first..first + width;
            let (mean, variance) = of_group(&image[channels.clone()], &sums, channels, inner);
            moments.extend([mean as f32, (1.0 / (variance + f64::from(eps)).sqrt()) as f32]);
        }
    }
    Ok(moments)
}

/// Mean and variance over a group's channels, from the sums `[2, c]` about its channels' origins.
fn of_group<E: Scalar>(
    origins: &[E],
    sums: &[f64],
    channels: std::ops::Range<usize>,
    rows: usize,
) -> (f64, f64) {
    let (sums, squares) = sums.split_at(sums.len() / 2);
    let (sums, squares) = (&sums[channels.clone()], &squares[channels]);
    let rows = rows as f64;
    let count = rows * origins.len() as f64;
    let origins = || origins.iter().map(|origin| f64::from(origin.widen()));
    let mean = origins().zip(sums).map(|(origin, sum)| rows * origin + sum).sum::<f64>() / count;
    let about_mean = origins().zip(sums.iter().zip(squares)).map(|(origin, (sum, square))| {
        let shift = origin - mean;
        square + shift * (2.0 * sum + rows * shift)
    });
    let variance = about_mean.sum::<f64>() / count;
    // Rounding may leave a little less than nothing; what is no number stays so.
    (mean, if variance < 0.0 { 0.0 } else { variance })
}

/// Adds rows' deviations from the origin and their squares to `sums [2, c]`.
struct AddMoments<'a, E> {
    rows: &'a [E],
    origin: &'a [E],
    piece_rows: usize,
    sums: &'a mut [f64],
}

impl<E: Scalar> Kernel for AddMoments<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.origin.len();
        let (sums, squares) = self.sums.split_at_mut(c);
        let (mut deviations, mut squared) = (vec![0.0f32; c], vec![0.0f32; c]);
        for rows in self.rows.chunks(self.piece_rows * c) {
            let mut at = 0;
            while at < c {
                let wide = at + BLOCK * S::LANES <= c;
                let width = (if wide { BLOCK } else { 1 } * S::LANES).min(c - at);
                let (d, d2) = (&mut deviations[at..at + width], &mut squared[at..at + width]);
                if wide {
                    columns::<S, E, BLOCK>(s, rows, c, at, d, d2);
                } else {
                    columns::<S, E, 1>(s, rows, c, at, d, d2);
                }
                at += width;
            }
            let count = (rows.len() / c) as f64;
            let of_piece = deviations.iter().zip(&squared).zip(rows.iter().zip(self.origin));
            for ((sum, square), ((&d, &d2), (first, origin))) in
                sums.iter_mut().zip(squares.iter_mut()).zip(of_piece)
            {
                let (shift, d) = (f64::from(first.widen()) - f64::from(origin.widen()), f64::from(d));
                *sum += d + count * shift;
                *square += f64::from(d2) + shift * (2.0 * d + count * shift);
            }
        }
    }
}

/// Sums of deviations from the first row, and of their squares, of `N` registers' columns from `at` on (or what there is of
/// one register's).
#[inline(always)]
fn columns<S: Simd, E: Scalar, const N: usize>(
    s: S,
    rows: &[E],
    c: usize,
    at: usize,
    deviations: &mut [f32],
    squared: &mut [f32],
) {
    let width = deviations.len();
    let range = |i: usize| i * S::LANES..width.min((i + 1) * S::LANES);
    let mut first = [s.splat(0.0); N];
    for (i, first) in first.iter_mut().enumerate() {
        *first = E::read(s, &rows[at..at + width][range(i)]);
    }
    let (mut sums, mut squares) = ([s.splat(0.0); N], [s.splat(0.0); N]);
    for row in rows.chunks_exact(c) {
        let row = &row[at..at + width];
        for i in 0..N {
            let d = s.sub(E::read(s, &row[range(i)]), first[i]);
            sums[i] = s.add(sums[i], d);
            squares[i] = s.fma(d, d, squares[i]);
        }
    }
    for i in 0..N {
        s.write(&mut deviations[range(i)], sums[i]);
        s.write(&mut squared[range(i)], squares[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;
    use crate::tier::Tier;

    /// Mean and variance of a group in two passes of f64.
    fn plainly(x: &[f32], [inner, c]: [usize; 2], channels: std::ops::Range<usize>) -> (f64, f64) {
        let values =
            || (0..inner).flat_map(|row| x[row * c..][channels.clone()].iter().map(|&x| f64::from(x)));
        let count = values().count() as f64;
        let mean = values().sum::<f64>() / count;
        (mean, values().map(|x| (x - mean).powi(2)).sum::<f64>() / count)
    }

    fn check(name: &str, [n, inner, c]: [usize; 3], groups: usize, value: impl Fn(usize, usize) -> f32) {
        let x: Vec<f32> = (0..n * inner)
            .flat_map(|row| (0..c).map(move |at| (row, at)))
            .map(|(r, a)| value(r, a))
            .collect();
        for tier in Tier::available() {
            let engine = Engine { tier, pool: Pool::new(3) };
            let moments = group_moments(&engine, &x, [n, inner, c], groups, 0.0).unwrap();
            for (index, found) in moments.chunks_exact(2).enumerate() {
                let (image, group) = (index / groups, index % groups);
                let width = c / groups;
                let x = &x[image * inner * c..][..inner * c];
                let (mean, variance) = plainly(x, [inner, c], group * width..(group + 1) * width);
                let deviation = variance.sqrt();
                let case = format!("{name}, {}, image {image}, group {group}", tier.name());
                assert!(
                    (f64::from(found[0]) - mean).abs() <= 1e-5 * deviation + 1e-6 * mean.abs(),
                    "{case}: mean"
                );
                let ratio = f64::from(found[1]) * deviation;
                assert!((ratio - 1.0).abs() < 1e-5, "{case}: deviation, {ratio}");
            }
        }
    }

    /// Something like noise.
    fn noise(row: usize, channel: usize) -> f32 {
        ((row * 7919 + channel * 104_729).wrapping_mul(2_654_435_761) % 2001) as f32 / 1000.0 - 1.0
    }

    #[test]
    fn moments_are_those_of_two_passes() {
        for sizes in [[1, 1, 64], [2, 9, 4], [3, 70, 130], [1, 4500, 96], [2, 65, 320]] {
            check("noise", sizes, 2, noise);
        }
    }

    #[test]
    fn a_large_mean_or_a_far_first_row_does_not_cancel() {
        check("large mean", [1, 3000, 64], 4, |row, channel| 1000.0 + noise(row, channel));
        check("ramp", [1, 3000, 64], 4, |row, channel| row as f32 + noise(row, channel));
        check(
            "far first row",
            [1, 3000, 64],
            4,
            |row, channel| {
                if row == 0 { 3e4 } else { noise(row, channel) }
            },
        );
        check("far channels", [1, 3000, 64], 4, |row, channel| channel as f32 * 100.0 + noise(row, channel));
    }

    #[test]
    fn equal_numbers_have_no_deviation_and_empty_pictures_no_moments() {
        let engine = Engine { tier: Tier::Portable, pool: Pool::new(1) };
        let moments = group_moments(&engine, &[7.0f32; 300 * 8], [1, 300, 8], 2, 1e-4).unwrap();
        assert!(moments.chunks_exact(2).all(|m| m[0] == 7.0 && (m[1] - 100.0).abs() < 1e-3), "{moments:?}");
        assert_eq!(group_moments::<f32>(&engine, &[], [2, 0, 8], 2, 1e-4).unwrap(), [0.0; 8]);
    }

    #[test]
    fn what_is_no_number_shows_in_its_group_alone() {
        let engine = Engine { tier: Tier::Portable, pool: Pool::new(1) };
        for value in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1.0f32; 300 * 8];
            x[200 * 8 + 5] = value;
            let moments = group_moments(&engine, &x, [1, 300, 8], 2, 1e-4).unwrap();
            assert!(moments[..2].iter().all(|m| m.is_finite()), "{moments:?}");
            assert!(!moments[2].is_finite() && moments[3].is_nan(), "{moments:?}");
        }
    }
}
