//! Dense f64 matrices, column after column: the algorithms here walk columns.

use scumble_tensor::Tensor;

use crate::error::Result;

/// `rows x cols`; column `j` is `data[j * rows..][..rows]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

impl Matrix {
    /// All zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// From a function of row and column.
    pub fn from_fn(rows: usize, cols: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let data = (0..cols).flat_map(|j| (0..rows).map(move |i| (i, j))).map(|(i, j)| value(i, j)).collect();
        Self { rows, cols, data }
    }

    /// A host tensor of any float type seen as `[first size, rest]`, transposed: its rows become columns, which is
    /// the order its memory has.
    pub fn transposed_from(tensor: &Tensor) -> Result<Self> {
        let cols = tensor.shape().first();
        let rows = tensor.numel() / cols.max(1);
        Ok(Self { rows, cols, data: tensor.to_vec::<f64>()? })
    }

    /// A host tensor of any float type seen as `[first size, rest]`.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        Ok(Self::transposed_from(tensor)?.transposed())
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// One column.
    pub fn col(&self, j: usize) -> &[f64] {
        &self.data[j * self.rows..][..self.rows]
    }

    /// One column, writable.
    pub fn col_mut(&mut self, j: usize) -> &mut [f64] {
        &mut self.data[j * self.rows..][..self.rows]
    }

    /// Two different columns, writable; `p < q`.
    pub fn two_cols_mut(&mut self, p: usize, q: usize) -> (&mut [f64], &mut [f64]) {
        let (left, right) = self.data.split_at_mut(q * self.rows);
        (&mut left[p * self.rows..][..self.rows], &mut right[..self.rows])
    }

    /// Exchanges two columns.
    pub fn swap_cols(&mut self, p: usize, q: usize) {
        if p != q {
            let (left, right) = self.two_cols_mut(p.min(q), p.max(q));
            left.swap_with_slice(right);
        }
    }

    /// The transpose.
    pub fn transposed(&self) -> Self {
        Self::from_fn(self.cols, self.rows, |i, j| self.data[i * self.rows + j])
    }

    /// Its first `cols` columns.
    pub fn first_cols(&self, cols: usize) -> Self {
        let cols = cols.min(self.cols);
        Self { rows: self.rows, cols, data: self.data[..cols * self.rows].to_vec() }
    }

    /// The columns of both, side by side; the row counts agree.
    pub fn beside(&self, other: &Self) -> Self {
        debug_assert_eq!(self.rows, other.rows);
        Self {
            rows: self.rows,
            cols: self.cols + other.cols,
            data: self.data.iter().chain(&other.data).copied().collect(),
        }
    }

    /// Every element times `factor`.
    pub fn scale(&mut self, factor: f64) {
        self.data.iter_mut().for_each(|value| *value *= factor);
    }

    /// Column `j` times `factors[j]`.
    pub fn scale_cols(&mut self, factors: &[f64]) {
        for (column, factor) in self.data.chunks_exact_mut(self.rows.max(1)).zip(factors) {
            column.iter_mut().for_each(|value| *value *= factor);
        }
    }

    /// `self @ other`.
    pub fn times(&self, other: &Self) -> Self {
        debug_assert_eq!(self.cols, other.rows);
        let mut product = Self::zeros(self.rows, other.cols);
        for j in 0..other.cols {
            let (to, factors) = (&mut product.data[j * self.rows..][..self.rows], other.col(j));
            for (k, &factor) in factors.iter().enumerate() {
                axpy(factor, &self.data[k * self.rows..][..self.rows], to);
            }
        }
        product
    }

    /// `self^T @ other`.
    pub fn transposed_times(&self, other: &Self) -> Self {
        debug_assert_eq!(self.rows, other.rows);
        Self::from_fn(self.cols, other.cols, |i, j| dot(self.col(i), other.col(j)))
    }

    /// All elements, column after column.
    pub fn values(&self) -> &[f64] {
        &self.data
    }

    /// Limits every element to `-limit..=limit`.
    pub fn clamp(&mut self, limit: f64) {
        let limit = limit.abs();
        self.data.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
    }

    /// Sum of squares of all elements.
    pub fn sum_squares(&self) -> f64 {
        dot(&self.data, &self.data)
    }

    /// Its elements as an f32 tensor of `dims`, in the order of the transpose's rows: column after column.
    pub fn to_transposed_tensor(&self, dims: &[usize]) -> Result<Tensor> {
        let values: Vec<f32> = self.data.iter().map(|&value| value as f32).collect();
        Ok(Tensor::from_slice(&values, dims)?)
    }

    /// Its elements as an f32 tensor of `dims`, row after row.
    pub fn to_tensor(&self, dims: &[usize]) -> Result<Tensor> {
        self.transposed().to_transposed_tensor(dims)
    }
}

/// Sum of products, in eight interleaved sums so that it vectorises; the order depends on the length alone.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a_blocks, b_blocks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_blocks.zip(b_blocks) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// `to += factor * x`.
pub fn axpy(factor: f64, x: &[f64], to: &mut [f64]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use scumble_tensor::rng::stream;

    /// Standard normal entries from a named stream.
    pub(crate) fn random(name: &str, rows: usize, cols: usize) -> Matrix {
        Matrix { rows, cols, data: stream(7, name).randn_f64(rows * cols) }
    }

    pub(crate) fn distance(a: &Matrix, b: &Matrix) -> f64 {
        assert_eq!((a.rows, a.cols), (b.rows, b.cols));
        a.data.iter().zip(&b.data).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn products_and_transposes_agree() {
        let (a, b) = (random("a", 13, 9), random("b", 13, 5));
        assert!(distance(&a.transposed_times(&b), &a.transposed().times(&b)) < 1e-12);
        assert_eq!(a.transposed().transposed(), a);
        let tensor = a.to_tensor(&[13, 3, 3]).unwrap();
        assert!(distance(&Matrix::from_tensor(&tensor).unwrap(), &a) < 1e-6);
        assert_eq!(a.beside(&b).col(9), b.col(0));
    }
}
