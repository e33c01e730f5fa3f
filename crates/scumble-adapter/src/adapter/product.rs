//! The dense products behind every kind of factor, in f64 with sums in index order.
//!
//! Matrices are row-major slices. These are for exact differences of single modules; nothing here is meant to be fast
//! for whole models.

/// `a [m, k] @ b [k, n]`.
pub(super) fn matmul(a: &[f64], b: &[f64], k: usize, n: usize) -> Vec<f64> {
    let mut product = vec![0f64; a.len() / k.max(1) * n];
    for (a_row, out) in a.chunks_exact(k.max(1)).zip(product.chunks_exact_mut(n)) {
        for (&factor, b_row) in a_row.iter().zip(b.chunks_exact(n)) {
            out.iter_mut().zip(b_row).for_each(|(sum, &value)| *sum += factor * value);
        }
    }
    product
}

/// `a [rows, columns]` turned over.
pub(super) fn transpose(a: &[f64], columns: usize) -> Vec<f64> {
    let rows = a.len() / columns.max(1);
    (0..columns).flat_map(|column| (0..rows).map(move |row| a[row * columns + column])).collect()
}

/// `sum_ij core[i, j, k] left[o, i] right[j, c]` as `[o, c * k]`: row `o` is a flattened OIHW row.
///
/// `core [r1, r2, kernel]`, `left [outputs, r1]`, `right [r2, inputs]`.
pub(super) fn tucker(core: &[f64], ranks: [usize; 2], left: &[f64], right: &[f64]) -> Vec<f64> {
    let [r1, r2] = ranks;
    let kernel = core.len() / (r1 * r2).max(1);
    let inputs = right.len() / r2.max(1);
    let columns = inputs * kernel;
    let mut middle = vec![0f64; r1 * columns];
    for (core_rows, out) in core.chunks_exact(r2 * kernel).zip(middle.chunks_exact_mut(columns)) {
        for (core_row, right_row) in core_rows.chunks_exact(kernel).zip(right.chunks_exact(inputs)) {
            for (&value, out) in right_row.iter().zip(out.chunks_exact_mut(kernel)) {
                out.iter_mut().zip(core_row).for_each(|(sum, &core)| *sum += core * value);
            }
        }
    }
    matmul(left, &middle, r1, columns)
}

/// `kron(a [a_rows, a_columns], b [b_rows, b_columns])`, `[a_rows * b_rows, a_columns * b_columns]`.
pub(super) fn kronecker(a: &[f64], a_columns: usize, b: &[f64], b_columns: usize) -> Vec<f64> {
    let mut product = Vec::with_capacity(a.len() * b.len());
    for a_row in a.chunks_exact(a_columns) {
        for b_row in b.chunks_exact(b_columns) {
            product.extend(a_row.iter().flat_map(|&x| b_row.iter().map(move |&y| x * y)));
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_small_matrices() {
        assert_eq!(matmul(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0], 2, 1), [17.0, 39.0]);
        assert_eq!(transpose(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(
            kronecker(&[1.0, 2.0], 2, &[1.0, 10.0, 100.0, 1000.0], 2),
            [1.0, 10.0, 2.0, 20.0, 100.0, 1000.0, 200.0, 2000.0]
        );
    }

    /// The definition of the Tucker product, written out.
    #[test]
    fn tucker_is_its_definition() {
        let (r1, r2, kernel, outputs, inputs) = (2, 3, 4, 5, 2);
        let numbers = |count: usize, seed: f64| -> Vec<f64> {
            (0..count).map(|i| ((i as f64 + seed) * 0.7).sin()).collect()
        };
        let (core, left, right) =
            (numbers(r1 * r2 * kernel, 1.0), numbers(outputs * r1, 2.0), numbers(r2 * inputs, 3.0));
        let found = tucker(&core, [r1, r2], &left, &right);
        for o in 0..outputs {
            for c in 0..inputs {
                for k in 0..kernel {
                    let mut sum = 0.0;
                    for i in 0..r1 {
                        for j in 0..r2 {
                            sum += core[(i * r2 + j) * kernel + k] * left[o * r1 + i] * right[j * inputs + c];
                        }
                    }
                    assert!((found[(o * inputs + c) * kernel + k] - sum).abs() < 1e-12);
                }
            }
        }
    }
}
