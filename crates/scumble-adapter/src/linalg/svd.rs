//! Singular values and left vectors of a small matrix, by one-sided Jacobi rotations.
//!
//! ```text
//! A^T P = Q R  =>  A = P R^T Q^T;      R^T J = U S  =>  A = (P U) S (J^T Q^T)
//! ```
//!
//! Rotations make the columns of `R^T` orthogonal pair by pair; their lengths then are the singular values and their
//! directions, rows put back in order, the left vectors. Neither `Q` nor `J` is formed: whoever wants the right side
//! multiplies `U^T A`. Pivoting first saves most sweeps and keeps small values accurate (Drmac & Veselic 2008).

use super::matrix::{Matrix, dot};
use super::qr::Qr;

/// More sweeps than any matrix needs; a handful is usual.
const MAX_SWEEPS: usize = 40;

/// `A = U diag(values) (U^T A / values)`.
#[derive(Clone, Debug)]
pub struct LeftSvd {
    /// Left vectors as columns, as many as there are values.
    pub u: Matrix,
    /// Singular values, falling; those that are nothing but rounding of the largest are left out.
    pub values: Vec<f64>,
}

/// Decomposes a finite matrix. A zero matrix has no values.
pub fn left_svd(a: &Matrix) -> LeftSvd {
    let qr = Qr::pivoted(a.transposed());
    let mut columns = qr.r().transposed();
    orthogonalise(&mut columns);
    let lengths: Vec<f64> = (0..columns.cols()).map(|j| dot(columns.col(j), columns.col(j)).sqrt()).collect();
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by(|&a, &b| lengths[b].total_cmp(&lengths[a]).then(a.cmp(&b)));
    let largest = order.first().map_or(0.0, |&first| lengths[first]);
    let rounding = largest * f64::EPSILON * a.rows().max(a.cols()) as f64;
    order.retain(|&j| lengths[j] > rounding);
    let mut u = Matrix::zeros(a.rows(), order.len());
    for (to, &from) in order.iter().enumerate() {
        let column = columns.col(from);
        for (position, &row) in qr.order().iter().enumerate() {
            u.col_mut(to)[row] = column[position] / lengths[from];
        }
    }
    LeftSvd { u, values: order.into_iter().map(|j| lengths[j]).collect() }
}

/// Rotates columns until all are orthogonal to working precision.
fn orthogonalise(columns: &mut Matrix) {
    let count = columns.cols();
    let tolerance = f64::EPSILON * (columns.rows().max(1) as f64).sqrt();
    for _ in 0..MAX_SWEEPS {
        let mut squares: Vec<f64> = (0..count).map(|j| dot(columns.col(j), columns.col(j))).collect();
        let nothing = squares.iter().copied().fold(0.0, f64::max) * f64::EPSILON * f64::EPSILON;
        let mut rotated = false;
        for p in 0..count {
            for q in p + 1..count {
                if squares[p] <= nothing || squares[q] <= nothing {
                    continue;
                }
                let (x, y) = columns.two_cols_mut(p, q);
                let along = dot(x, y);
                if along.abs() <= tolerance * (squares[p] * squares[q]).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (squares[q] - squares[p]) / (2.0 * along);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                rotate(x, y, c, c * t);
                squares[p] = (squares[p] - t * along).max(0.0);
                squares[q] += t * along;
            }
        }
        if !rotated {
            return;
        }
    }
}

/// `(x, y) <- (c x - s y, s x + c y)`.
fn rotate(x: &mut [f64], y: &mut [f64], c: f64, s: f64) {
    for (x, y) in x.iter_mut().zip(y) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::tests::{distance, random};
    use super::*;

    fn check(a: &Matrix) -> LeftSvd {
        let svd = left_svd(a);
        let n = svd.values.len();
        let identity = Matrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)));
        assert!(distance(&svd.u.transposed_times(&svd.u), &identity) < 1e-12, "left vectors are orthonormal");
        let right = svd.u.transposed_times(a);
        assert!(distance(&svd.u.times(&right), a) < 1e-11, "the product is the matrix");
        for (i, value) in svd.values.iter().enumerate() {
            let row: f64 = (0..a.cols()).map(|j| right.col(j)[i].powi(2)).sum::<f64>().sqrt();
            assert!((row - value).abs() < 1e-11, "value {i}: {value} against {row}");
        }
        assert!(svd.values.windows(2).all(|pair| pair[0] >= pair[1]));
        svd
    }

    #[test]
    fn any_shape() {
        for (rows, cols) in [(1, 1), (5, 5), (30, 12), (12, 30), (64, 64), (1, 8), (8, 1)] {
            let svd = check(&random("svd", rows, cols));
            assert_eq!(svd.values.len(), rows.min(cols));
        }
    }

    #[test]
    fn values_of_a_matrix_that_was_made_of_them() {
        // Orthonormal columns from a QR, and values that fall over twelve orders of magnitude.
        let n = 12;
        let ones = Matrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)));
        let mut left = Qr::new(random("left", 40, n)).apply(&ones);
        let right = Qr::new(random("right", 30, n)).apply(&ones);
        let values: Vec<f64> = (0..n).map(|i| 10f64.powi(-(i as i32))).collect();
        left.scale_cols(&values);
        let svd = left_svd(&left.times(&right.transposed()));
        for (found, value) in svd.values.iter().zip(&values) {
            assert!((found - value).abs() < 1e-14 + 1e-4 * value, "{found} for {value}");
        }
    }

    #[test]
    fn repeated_values_missing_ranks_and_zeros() {
        let identity = Matrix::from_fn(9, 9, |i, j| f64::from(u8::from(i == j)));
        assert_eq!(check(&identity).values, [1.0; 9]);
        let thin = random("thin", 20, 3);
        assert_eq!(check(&thin.times(&random("flat", 3, 25))).values.len(), 3);
        assert!(left_svd(&Matrix::zeros(4, 6)).values.is_empty());
    }
}
