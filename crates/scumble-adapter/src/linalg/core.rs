//! What a product of thin factors is, without the product.
//!
//! ```text
//! M = up @ down,   up = Q_u R_u,   down^T = Q_d R_d   =>   M = Q_u (R_u R_d^T) Q_d^T
//! ```
//!
//! The core `C = R_u R_d^T` has the singular values of `M`; with its left vectors `U`, the best approximation of rank
//! `k` is `(Q_u U_k)(U_k^T C Q_d^T)` (Eckart & Young 1936). Stacking several pairs side by side first gives the same
//! for their sum.

use super::matrix::Matrix;
use super::qr::Qr;
use super::svd::{LeftSvd, left_svd};

/// A decomposed product `up [out, r] @ down [r, columns]`.
pub struct LowRankCore {
    up: Qr,
    down: Qr,
    core: Matrix,
    svd: LeftSvd,
}

impl LowRankCore {
    /// Decomposes `up @ down`, with `down` given transposed: `[columns, r]`.
    pub fn new(up: Matrix, down_transposed: Matrix) -> Self {
        let (up, down) = (Qr::new(up), Qr::new(down_transposed));
        let core = up.r().times(&down.r().transposed());
        let svd = left_svd(&core);
        Self { up, down, core, svd }
    }

    /// Singular values of the product, falling; zeros are left out.
    pub fn values(&self) -> &[f64] {
        &self.svd.values
    }

    /// The best factors of at most `rank`: `up [out, k]` and `down^T [columns, k]`, both scaled by the roots of the
    /// singular values so that neither outgrows the other. A zero product gives zero factors of rank 1.
    pub fn truncated(&self, rank: usize) -> (Matrix, Matrix) {
        let rank = rank.min(self.values().len());
        if rank == 0 {
            return (Matrix::zeros(self.up.rows(), 1), Matrix::zeros(self.down.rows(), 1));
        }
        let u = self.svd.u.first_cols(rank);
        let roots: Vec<f64> = self.values()[..rank].iter().map(|value| value.sqrt()).collect();
        let mut up = self.up.apply(&u);
        up.scale_cols(&roots);
        let mut down = self.down.apply(&self.core.transposed_times(&u));
        down.scale_cols(&roots.iter().map(|root| 1.0 / root).collect::<Vec<_>>());
        (up, down)
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::tests::{distance, random};
    use super::*;

    #[test]
    fn full_rank_is_the_product_and_less_is_the_best() {
        for (outputs, rank, columns) in [(30, 4, 20), (6, 9, 20), (20, 9, 6), (5, 12, 5)] {
            let (up, down) = (random("up", outputs, rank), random("down", columns, rank));
            let product = up.times(&down.transposed());
            let core = LowRankCore::new(up, down);
            let full = rank.min(outputs).min(columns);
            assert_eq!(core.values().len(), full);
            let (up, down) = core.truncated(full);
            assert!(distance(&up.times(&down.transposed()), &product) < 1e-11);
            let direct = left_svd(&product);
            for (a, b) in core.values().iter().zip(&direct.values) {
                assert!((a - b).abs() < 1e-11);
            }
            let (up, down) = core.truncated(2);
            let mut rest = up.times(&down.transposed());
            rest.scale(-1.0);
            let error = (0..product.cols())
                .flat_map(|j| {
                    product.col(j).iter().zip(rest.col(j)).map(|(a, b)| (a + b).powi(2)).collect::<Vec<_>>()
                })
                .sum::<f64>();
            let best: f64 = direct.values[2..].iter().map(|value| value * value).sum();
            assert!((error - best).abs() < 1e-9 * (1.0 + best), "{error} against {best}");
        }
    }

    #[test]
    fn a_zero_product_has_zero_factors() {
        let core = LowRankCore::new(Matrix::zeros(5, 2), random("down", 7, 2));
        let (up, down) = core.truncated(2);
        assert_eq!((up.rows(), up.cols(), down.rows(), down.cols()), (5, 1, 7, 1));
        assert_eq!(up.sum_squares(), 0.0);
    }
}
