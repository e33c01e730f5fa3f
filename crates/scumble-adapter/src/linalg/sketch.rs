//! The leading singular vectors of a large dense matrix, without decomposing it.
//!
//! ```text
//! Y = A G,  G random normal [n, l];   repeat: Q = orth(Y), Z = A^T Q, Y = A orth(Z);   Q^T A has A's leading values
//! ```
//!
//! A range finder with power iterations (Halko, Martinsson & Tropp 2011, algorithm 4.4), `l` a little larger than the
//! rank. It repeats until another round adds next to nothing to the captured energy, measured against what is left
//! out, so the error is that of the best approximation within a small fraction (see [`TOLERANCE`]). The products with
//! `A` are the backend's; the thin rest is f64. The random matrix comes from a named stream: same module, same result.

use scumble_tensor::backend::MatMul;
use scumble_tensor::rng::Generator;
use scumble_tensor::{Backend, Tensor};

use super::matrix::Matrix;
use super::qr::Qr;
use super::svd::left_svd;
use crate::error::Result;

/// A round may add at most this fraction of the energy that is left out. Rounds converge at least geometrically, so
/// the error (a root of energy) stays well within a thousandth of the best.
pub const TOLERANCE: f64 = 1e-4;
/// Below this fraction of the whole energy, f32 products no longer tell a round's gain from rounding.
const ROUNDING: f64 = 1e-12;
/// Flat spectra converge slowly, but there every direction is as good as another.
const MAX_ROUNDS: usize = 16;
/// Columns beyond the rank.
const OVERSAMPLING: usize = 12;
/// Matrices with a side no longer than this are decomposed whole.
const SMALL: usize = 96;

/// How much to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// This many values.
    Rank(usize),
    /// As few values as hold this fraction of the energy (sum of squares), but at most so many.
    Energy {
        /// From 0 to 1.
        fraction: f64,
        /// Most values.
        at_most: usize,
    },
}

/// `A ~ up @ down`, the roots of the singular values in both.
pub struct Truncation {
    /// `[m, k]`, orthogonal columns.
    pub up: Matrix,
    /// `[n, k]`: the transposed input side.
    pub down: Matrix,
    /// The kept singular values, falling.
    pub values: Vec<f64>,
}

/// Approximates a finite f32 matrix `a [m, n]` on the host. A zero matrix gives zero factors of rank 1.
pub fn truncate(a: &Tensor, keep: Keep, mut random: Generator, backend: &dyn Backend) -> Result<Truncation> {
    let (m, n) = (a.shape().first(), a.shape().last());
    let full = m.min(n);
    let most = match keep {
        Keep::Rank(rank) => rank,
        Keep::Energy { at_most, .. } => at_most,
    }
    .min(full);
    let mut width = match keep {
        Keep::Rank(rank) => rank + OVERSAMPLING,
        Keep::Energy { .. } => 2 * OVERSAMPLING,
    };
    let total = backend.sum_squares(&backend.upload(a)?)?;
    loop {
        if full <= SMALL || 2 * width >= full {
            return Ok(exactly(a, keep)?.cut(keep, total));
        }
        let found = find(a, width, most, total, &mut random, backend)?;
        let enough = match keep {
            Keep::Rank(_) => true,
            Keep::Energy { fraction, at_most } => {
                let sure = &found.values[..found.values.len().saturating_sub(OVERSAMPLING)];
                sure.iter().map(|value| value * value).sum::<f64>() >= fraction * total
                    || sure.len() >= at_most
            }
        };
        if enough {
            return Ok(found.cut(keep, total));
        }
        width *= 2;
    }
}

/// Every value, by decomposing the matrix itself.
fn exactly(a: &Tensor, keep: Keep) -> Result<Truncation> {
    let matrix = Matrix::from_tensor(&a.reshape(&[a.shape().first(), a.shape().last()])?)?;
    let svd = left_svd(&matrix);
    let wanted = match keep {
        Keep::Rank(rank) => rank.min(svd.values.len()),
        Keep::Energy { .. } => svd.values.len(),
    };
    let u = svd.u.first_cols(wanted);
    let right = matrix.transposed_times(&u);
    Ok(Truncation::balanced(u, right, svd.values[..wanted].to_vec()))
}

/// The leading values by the range finder.
fn find(
    a: &Tensor,
    width: usize,
    most: usize,
    total: f64,
    random: &mut Generator,
    backend: &dyn Backend,
) -> Result<Truncation> {
    let (m, n) = (a.shape().first(), a.shape().last());
    let a = backend.upload(&a.reshape(&[m, n])?)?;
    let on_host = |tensor: &Tensor| Matrix::from_tensor(&backend.download(tensor)?);
    let start = backend.upload(&Tensor::from_slice(&random.randn(n * width), &[n, width])?)?;
    let mut y = backend.matmul(MatMul::nn(&a, &start))?;
    let mut before = 0.0;
    let mut round = 0;
    loop {
        let q = orthonormal(on_host(&y)?);
        // As (Q^T A)^T, which reads A in the order in which it lies in memory.
        let z = backend.matmul(MatMul::tn(&backend.upload(&q.to_tensor(&[m, width])?)?, &a))?;
        let z = on_host(&z)?.transposed();
        let qr = Qr::new(z.clone());
        let svd = left_svd(&qr.r().transposed());
        let captured: f64 = svd.values.iter().take(most).map(|value| value * value).sum();
        let left_out = (total - captured).max(0.0);
        round += 1;
        if (captured - before).abs() <= TOLERANCE * left_out + ROUNDING * total || round == MAX_ROUNDS {
            return Ok(Truncation::balanced(q.times(&svd.u), z.times(&svd.u), svd.values));
        }
        before = captured;
        let w = orthonormal_of(&qr, width);
        y = backend.matmul(MatMul::nn(&a, &backend.upload(&w.to_tensor(&[n, width])?)?))?;
    }
}

/// Orthonormal columns that span those of `y`.
fn orthonormal(y: Matrix) -> Matrix {
    let width = y.cols();
    orthonormal_of(&Qr::new(y), width)
}

fn orthonormal_of(qr: &Qr, width: usize) -> Matrix {
    qr.apply(&Matrix::from_fn(width, width, |i, j| f64::from(u8::from(i == j))))
}

impl Truncation {
    /// From left vectors and right vectors that are as long as their values.
    fn balanced(mut u: Matrix, mut right: Matrix, values: Vec<f64>) -> Self {
        let roots: Vec<f64> = values.iter().map(|value| value.sqrt()).collect();
        u.scale_cols(&roots);
        right.scale_cols(&roots.iter().map(|root| 1.0 / root).collect::<Vec<_>>());
        Self { up: u, down: right, values }
    }

    /// Drops what is beyond the rank asked for.
    fn cut(self, keep: Keep, total: f64) -> Self {
        let rank = match keep {
            Keep::Rank(rank) => rank,
            Keep::Energy { fraction, at_most } => {
                let mut captured = 0.0;
                let reaches = |value: &f64| {
                    captured += value * value;
                    captured >= fraction * total
                };
                self.values.iter().position(reaches).map_or(self.values.len(), |index| index + 1).min(at_most)
            }
        }
        .min(self.values.len());
        if rank == 0 {
            let (up, down) = (Matrix::zeros(self.up.rows(), 1), Matrix::zeros(self.down.rows(), 1));
            return Self { up, down, values: Vec::new() };
        }
        let mut values = self.values;
        values.truncate(rank);
        Self { up: self.up.first_cols(rank), down: self.down.first_cols(rank), values }
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::tests::random;
    use super::*;
    use scumble_cpu::CpuBackend;
    use scumble_tensor::rng::stream;

    fn residual(a: &Matrix, found: &Truncation) -> f64 {
        let mut rest = found.up.times(&found.down.transposed());
        rest.scale(-1.0);
        let mut sum = 0.0;
        for j in 0..a.cols() {
            sum += a.col(j).iter().zip(rest.col(j)).map(|(x, y)| (x + y).powi(2)).sum::<f64>();
        }
        sum.sqrt()
    }

    /// Falling values over noise, as tuned models have them; and pure noise, the worst case.
    fn cases() -> Vec<(&'static str, Matrix)> {
        let mut up = random("up", 150, 12);
        up.scale_cols(&(0..12).map(|i| 0.6f64.powi(i)).collect::<Vec<_>>());
        let mut noise = random("noise", 150, 230);
        let flat = noise.clone();
        noise.scale(0.02);
        let structured = up.times(&random("down", 230, 12).transposed());
        let noisy = Matrix::from_fn(150, 230, |i, j| structured.col(j)[i] + noise.col(j)[i]);
        vec![("noisy", noisy), ("flat", flat), ("tall", random("tall", 300, 110))]
    }

    #[test]
    fn the_error_is_the_best_within_a_thousandth() {
        let backend = CpuBackend::new(Some(2)).unwrap();
        for (name, a) in cases() {
            let tensor = a.to_tensor(&[a.rows(), a.cols()]).unwrap();
            let values = left_svd(&a).values;
            for rank in [1, 4, 16] {
                let found = truncate(&tensor, Keep::Rank(rank), stream(1, name), &backend).unwrap();
                let best = values[rank..].iter().map(|value| value * value).sum::<f64>().sqrt();
                let error = residual(&a, &found);
                assert!(error <= best * 1.001 + 1e-5, "{name}, rank {rank}: {error} against {best}");
                assert_eq!(found.values.len(), rank);
            }
        }
    }

    #[test]
    fn energy_takes_as_few_values_as_needed() {
        let backend = CpuBackend::new(Some(1)).unwrap();
        for (name, a) in cases() {
            let tensor = a.to_tensor(&[a.rows(), a.cols()]).unwrap();
            let values = left_svd(&a).values;
            let total: f64 = values.iter().map(|value| value * value).sum();
            for fraction in [0.3, 0.7] {
                let keep = Keep::Energy { fraction, at_most: 1000 };
                let found = truncate(&tensor, keep, stream(1, name), &backend).unwrap().values.len();
                let mut sum = 0.0;
                let needed = values.iter().take_while(|value| {
                    let before = sum;
                    sum += *value * *value;
                    before < fraction * total
                });
                let needed = needed.count();
                assert!(found.abs_diff(needed) <= 1, "{name} {fraction}: {found}, needed {needed}");
            }
            let capped = Keep::Energy { fraction: 0.999, at_most: 5 };
            assert_eq!(truncate(&tensor, capped, stream(1, name), &backend).unwrap().values.len(), 5);
        }
    }

    #[test]
    fn zeros_and_exact_low_rank() {
        let backend = CpuBackend::new(Some(1)).unwrap();
        let zero = Tensor::from_slice(&vec![0f32; 200 * 150], &[200, 150]).unwrap();
        let found = truncate(&zero, Keep::Rank(4), stream(1, "zero"), &backend).unwrap();
        assert_eq!((found.values.len(), found.up.cols(), found.up.sum_squares()), (0, 1, 0.0));
        let a = random("thin", 200, 3).times(&random("flat", 3, 150));
        let tensor = a.to_tensor(&[200, 150]).unwrap();
        let found = truncate(&tensor, Keep::Rank(3), stream(1, "low"), &backend).unwrap();
        assert!(residual(&a, &found) < 1e-5 * a.sum_squares().sqrt());
    }
}
