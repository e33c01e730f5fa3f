//! QR decomposition by Householder reflections: `A P = Q R`.
//!
//! ```text
//! H = I - tau v v^T,   v[0] = 1,   H x = beta e_1,   beta = -sign(x_0) |x|,   tau = (beta - x_0) / beta
//! ```
//!
//! `Q` is kept as its reflections and applied, never formed (Golub & Van Loan, Matrix Computations, 5.2). With column
//! pivoting the diagonal of `R` falls, which is what makes Jacobi rotations on `R^T` converge in a few sweeps.

use super::matrix::{Matrix, axpy, dot};

/// A decomposed matrix.
pub struct Qr {
    /// `R` above and on the diagonal, the reflections' vectors (without their leading 1) below.
    packed: Matrix,
    tau: Vec<f64>,
    /// Column `j` of `A P` is column `order[j]` of `A`.
    order: Vec<usize>,
}

impl Qr {
    /// Decomposes `a`, columns in their order.
    pub fn new(a: Matrix) -> Self {
        Self::decompose(a, false)
    }

    /// Decomposes `a`, taking the longest remaining column at every step.
    pub fn pivoted(a: Matrix) -> Self {
        Self::decompose(a, true)
    }

    fn decompose(a: Matrix, pivoting: bool) -> Self {
        let steps = a.rows().min(a.cols());
        let mut qr = Self { order: (0..a.cols()).collect(), tau: Vec::with_capacity(steps), packed: a };
        for step in 0..steps {
            if pivoting {
                qr.bring_longest_to(step);
            }
            let (tau, beta) = reflection(&mut qr.packed.col_mut(step)[step..]);
            for j in step + 1..qr.packed.cols() {
                let (v, column) = qr.packed.two_cols_mut(step, j);
                reflect(tau, &v[step + 1..], &mut column[step..]);
            }
            qr.packed.col_mut(step)[step] = beta;
            qr.tau.push(tau);
        }
        qr
    }

    /// Lengths are measured anew at every step: cores are small, and updated lengths would drift.
    fn bring_longest_to(&mut self, step: usize) {
        let length = |j: usize| {
            let column = &self.packed.col(j)[step..];
            dot(column, column)
        };
        let mut longest = (step, length(step));
        for j in step + 1..self.packed.cols() {
            let candidate = length(j);
            if candidate > longest.1 {
                longest = (j, candidate);
            }
        }
        self.packed.swap_cols(step, longest.0);
        self.order.swap(step, longest.0);
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.packed.rows()
    }

    /// `R`, `min(rows, cols) x cols`.
    pub fn r(&self) -> Matrix {
        let packed = &self.packed;
        Matrix::from_fn(self.tau.len(), packed.cols(), |i, j| if i <= j { packed.col(j)[i] } else { 0.0 })
    }

    /// Which column of `A` each column of `R` belongs to.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// `Q x` for `x` with `min(rows, cols)` rows.
    pub fn apply(&self, x: &Matrix) -> Matrix {
        let rows = self.packed.rows();
        let mut y = Matrix::zeros(rows, x.cols());
        for j in 0..x.cols() {
            let column = y.col_mut(j);
            column[..x.rows()].copy_from_slice(x.col(j));
            for (step, &tau) in self.tau.iter().enumerate().rev() {
                reflect(tau, &self.packed.col(step)[step + 1..], &mut column[step..]);
            }
        }
        y
    }
}

/// Turns `x` into the reflection's vector (its first element is to be read as 1); `(tau, beta)`.
fn reflection(x: &mut [f64]) -> (f64, f64) {
    let Some((&mut head, tail)) = x.split_first_mut() else { return (0.0, 0.0) };
    let tail_squares = dot(tail, tail);
    if tail_squares == 0.0 {
        return (0.0, head);
    }
    let norm = (head * head + tail_squares).sqrt();
    let beta = if head >= 0.0 { -norm } else { norm };
    let scale = 1.0 / (head - beta);
    tail.iter_mut().for_each(|value| *value *= scale);
    ((beta - head) / beta, beta)
}

/// `x <- (I - tau v v^T) x` with `v = [1, tail]`.
fn reflect(tau: f64, tail: &[f64], x: &mut [f64]) {
    let Some((head, rest)) = x.split_first_mut() else { return };
    if tau == 0.0 {
        return;
    }
    let along = tau * (*head + dot(tail, rest));
    *head -= along;
    axpy(-along, tail, rest);
}

#[cfg(test)]
mod tests {
    use super::super::matrix::tests::{distance, random};
    use super::*;

    #[test]
    fn q_times_r_is_the_matrix_whatever_its_shape() {
        for (rows, cols) in [(1, 1), (7, 7), (40, 6), (6, 40), (33, 32), (1, 9), (9, 1)] {
            let a = random("qr", rows, cols);
            assert!(distance(&qr_product(&Qr::new(a.clone())), &a) < 1e-12, "{rows} x {cols}");
            let pivoted = Qr::pivoted(a.clone());
            let ordered = Matrix::from_fn(rows, cols, |i, j| a.col(pivoted.order()[j])[i]);
            assert!(distance(&qr_product(&pivoted), &ordered) < 1e-12, "{rows} x {cols}, pivoted");
            let r = pivoted.r();
            let diagonal: Vec<f64> = (0..r.rows()).map(|i| r.col(i)[i].abs()).collect();
            assert!(diagonal.windows(2).all(|pair| pair[0] >= pair[1] * (1.0 - 1e-12)));
        }
    }

    fn qr_product(qr: &Qr) -> Matrix {
        qr.apply(&qr.r())
    }

    #[test]
    fn zeros_and_dependent_columns_are_no_trouble() {
        let a = random("dependent", 20, 3);
        let doubled = a.beside(&a).beside(&Matrix::zeros(20, 2));
        let qr = Qr::pivoted(doubled.clone());
        assert!(qr_product(&qr).values().iter().all(|value| value.is_finite()));
        let r = qr.r();
        assert!((3..8).all(|i| r.col(i)[i].abs() < 1e-12), "rank 3");
        assert_eq!(Qr::new(Matrix::zeros(5, 2)).r(), Matrix::zeros(2, 2));
    }
}
