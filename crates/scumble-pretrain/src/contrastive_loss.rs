//! CLIP's loss (Radford et al. 2021, figure 3): each picture finds its text among those of the batch, and each text its
//! picture.
//!
//! ```text
//! a, b = unit vectors of pictures and texts;  S = exp(s) a b'
//! loss = (mean cross entropy of the rows of S + that of its columns) / 2, the diagonal being right
//! dS   = (softmax of rows + softmax of columns - 2 I) / 2n;   ds = sum dS * S
//! dA_i = (g - a_i (a_i . g)) / |A_i|,  g = exp(s) sum_j dS_ij b_j          and alike for texts
//! ```
//!
//! A batch is some hundred short vectors: computed on the host in f64.

use scumble_tensor::{Backend, Result, Tape, Tensor, Var, shape_error};

/// Embeddings `[n, d]` of pictures and texts that belong together by index, and the logarithm of the scale -> `[1]`.
pub fn contrastive(tape: &Tape<'_>, pictures: &Var, texts: &Var, logit_scale: &Var) -> Result<Var> {
    let &[n, d] = pictures.dims() else {
        return Err(shape_error("contrastive loss", "pictures", "[n, d]", pictures.value().shape()));
    };
    if texts.dims() != [n, d] || n == 0 || d == 0 {
        return Err(shape_error(
            "contrastive loss",
            "texts",
            pictures.value().shape(),
            texts.value().shape(),
        ));
    }
    let backend = tape.backend();
    let read = |var: &Var| -> Result<Vec<f64>> { backend.download(var.value())?.to_vec::<f64>() };
    let pictures_side = Unit::new(&read(pictures)?, d);
    let texts_side = Unit::new(&read(texts)?, d);
    let scale = backend.download(logit_scale.value())?.item::<f32>()?;
    let scale = f64::from(scale).exp();
    let logits: Vec<f64> =
        (0..n * n).map(|at| scale * dot(pictures_side.row(at / n), texts_side.row(at % n))).collect();
    let (loss, slopes) = cross_entropies(&logits, n);
    let y = backend.upload(&Tensor::from_slice(&[loss as f32], &[1])?)?;
    Ok(tape.record(&[pictures, texts, logit_scale], y, || {
        move |backend: &dyn Backend, d_y: &Tensor, _: &mut _| {
            let upstream = f64::from(backend.download(d_y)?.to_vec::<f32>()?.first().copied().unwrap_or(0.0));
            let factor = upstream * scale;
            let of = |to: &Unit, from: &Unit, at: &dyn Fn(usize, usize) -> usize| -> Result<Tensor> {
                let rows = (0..n).flat_map(|i| {
                    let mut g = vec![0.0; d];
                    for j in 0..n {
                        let slope = factor * slopes[at(i, j)];
                        g.iter_mut().zip(from.row(j)).for_each(|(g, v)| *g += slope * v);
                    }
                    to.through(i, &g)
                });
                backend.upload(&Tensor::from_slice(&rows.collect::<Vec<f32>>(), &[n, d])?)
            };
            let d_pictures = of(&pictures_side, &texts_side, &|i, j| i * n + j)?;
            let d_texts = of(&texts_side, &pictures_side, &|j, i| i * n + j)?;
            let d_scale = upstream * dot(&slopes, &logits);
            let d_scale = backend.upload(&Tensor::scalar(d_scale as f32)?)?;
            Ok(vec![Some(d_pictures), Some(d_texts), Some(d_scale)])
        }
    }))
}

/// Rows of length 1, and how long they were.
struct Unit {
    width: usize,
    values: Vec<f64>,
    lengths: Vec<f64>,
}

impl Unit {
    fn new(values: &[f64], width: usize) -> Self {
        let lengths: Vec<f64> =
            values.chunks_exact(width).map(|row| dot(row, row).sqrt().max(1e-12)).collect();
        let values = values.iter().enumerate().map(|(i, value)| value / lengths[i / width]).collect();
        Self { width, values, lengths }
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// The gradient of a row from that of its direction.
    fn through(&self, i: usize, g: &[f64]) -> Vec<f32> {
        let along = dot(self.row(i), g);
        let rest = self.row(i).iter().zip(g).map(|(a, g)| (g - a * along) / self.lengths[i]);
        rest.map(|value| value as f32).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The loss of `logits [n, n]` and its gradient.
fn cross_entropies(logits: &[f64], n: usize) -> (f64, Vec<f64>) {
    let (mut loss, mut slopes) = (0.0, vec![0.0; n * n]);
    for line in 0..2 * n {
        let at = |k: usize| if line < n { line * n + k } else { k * n + line - n };
        let largest = (0..n).map(|k| logits[at(k)]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..n).map(|k| (logits[at(k)] - largest).exp()).sum();
        let right = at(line % n);
        loss += largest + sum.ln() - logits[right];
        (0..n).for_each(|k| slopes[at(k)] += (logits[at(k)] - largest).exp() / sum);
        slopes[right] -= 1.0;
    }
    let half = 1.0 / (2 * n) as f64;
    slopes.iter_mut().for_each(|slope| *slope *= half);
    (loss * half, slopes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_tensor::reference::ReferenceBackend;
    use std::sync::Arc;

    fn values(step: usize) -> Vec<f32> {
        (0..12).map(|i| ((i * step) as f32).sin() + 0.2).collect()
    }

    fn loss_and_gradients(a: &[f32], b: &[f32], s: f32) -> (f64, [Vec<f32>; 3]) {
        let tape = Tape::recording(Arc::new(ReferenceBackend));
        let (a, of_a) = tape.watch(Tensor::from_slice(a, &[3, 4]).unwrap());
        let (b, of_b) = tape.watch(Tensor::from_slice(b, &[3, 4]).unwrap());
        let (s, of_s) = tape.watch(Tensor::scalar(s).unwrap());
        let y = contrastive(&tape, &a, &b, &s).unwrap();
        let loss = f64::from(y.value().to_vec::<f32>().unwrap()[0]);
        let gradients = tape.backward(&y, Tensor::from_slice(&[1f32], &[1]).unwrap()).unwrap();
        (loss, [of_a, of_b, of_s].map(|leaf| gradients.get(leaf).unwrap().to_vec::<f32>().unwrap()))
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (a, b) = (values(3), values(5));
        let (_, [d_a, d_b, d_s]) = loss_and_gradients(&a, &b, 1.2);
        let check = |numeric: f64, found: f32| {
            assert!((numeric - f64::from(found)).abs() < 2e-3, "{numeric} {found}");
        };
        let moved = |values: &[f32], i: usize, by: f32| {
            let mut values = values.to_vec();
            values[i] += by;
            values
        };
        for i in 0..12 {
            let at = |by| loss_and_gradients(&moved(&a, i, by), &b, 1.2).0;
            check((at(1e-2) - at(-1e-2)) / 2e-2, d_a[i]);
            let at = |by| loss_and_gradients(&a, &moved(&b, i, by), 1.2).0;
            check((at(1e-2) - at(-1e-2)) / 2e-2, d_b[i]);
        }
        let at = |by: f32| loss_and_gradients(&a, &b, 1.2 + by).0;
        check((at(1e-2) - at(-1e-2)) / 2e-2, d_s[0]);
    }

    #[test]
    fn perfect_pairs_cost_nothing_and_indifference_the_logarithm_of_the_batch() {
        let unit = [1f32, 0., 0., 0., 0., 1., 0., 0., 0., 0., 1., 0.];
        assert!(loss_and_gradients(&unit, &unit, 6.0).0 < 1e-6);
        let same = [1f32; 12];
        assert!((loss_and_gradients(&same, &same, 1.0).0 - 3f64.ln()).abs() < 1e-6);
    }
}
