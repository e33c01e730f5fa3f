//! Attention with heads side by side: per head `s = scale q k^T` (masked), `p = softmax(s)`, `o = p v`.
//!
//! Backward recomputes `p = exp(s - lse)` from the saved log-sum-exp (Dao et al. 2022); with `D = sum(do o)` per query:
//!
//! ```text
//! dv = p^T do        ds = p (do v^T - D)        dq = scale ds k        dk = scale ds^T q
//! ```

use std::ops::Range;

use crate::backend::AttentionSpec;
use crate::error::{Result, shape_error};
use crate::ops::check_dims;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

const OP: &str = "attention";

/// `q [b, nq, heads * d]`, `k` and `v` `[b, nk, heads * d]` -> as `q`.
pub fn attention(tape: &Tape<'_>, q: &Var, k: &Var, v: &Var, spec: AttentionSpec) -> Result<Var> {
    sizes(q.value(), k.value(), v.value(), spec)?;
    let (o, lse) = tape.backend().attention(q.value(), k.value(), v.value(), spec)?;
    Ok(tape.record(&[q, k, v], o.clone(), || {
        let wanted = [q.needs_grad(), k.needs_grad(), v.needs_grad()];
        let (q, k, v) = (q.value().clone(), k.value().clone(), v.value().clone());
        move |backend, d_o, _| {
            let grads = backend.attention_grad(d_o, &q, &k, &v, &o, &lse, spec, wanted)?;
            Ok(vec![grads.q, grads.k, grads.v])
        }
    }))
}

/// `[b, nq, nk, d]` with `d` the width of one head; errors when the operands do not fit.
pub(crate) fn sizes(q: &Tensor, k: &Tensor, v: &Tensor, spec: AttentionSpec) -> Result<[usize; 4]> {
    let (&[b, nq, width], &[_, nk, _]) = (q.dims(), k.dims()) else {
        let wrong = if q.dims().len() == 3 { k } else { q };
        return Err(shape_error(OP, "operand", "[batch, tokens, channels]", wrong.shape()));
    };
    check_dims(OP, "keys", &[b, nk, width], k)?;
    check_dims(OP, "values", &[b, nk, width], v)?;
    if spec.heads == 0 || !width.is_multiple_of(spec.heads) {
        return Err(shape_error(OP, "heads", format!("a divisor of {width} channels"), spec.heads));
    }
    if nk == 0 {
        return Err(shape_error(OP, "keys", "at least one", 0));
    }
    Ok([b, nq, nk, width / spec.heads])
}

/// The sizes of one attention; says where a head's row of a token lies.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    /// Batch, queries, keys, head width.
    pub sizes: [usize; 4],
    /// Heads, scale, mask.
    pub spec: AttentionSpec,
}

impl Geometry {
    /// Calls `visit(image, head, query)`.
    fn walk(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let [b, nq, _, _] = self.sizes;
        for image in 0..b {
            for head in 0..self.spec.heads {
                (0..nq).for_each(|query| visit(image, head, query));
            }
        }
    }

    fn query(&self, image: usize, head: usize, token: usize) -> Range<usize> {
        self.row(image * self.sizes[1] + token, head)
    }

    fn key(&self, image: usize, head: usize, token: usize) -> Range<usize> {
        self.row(image * self.sizes[2] + token, head)
    }

    fn row(&self, token: usize, head: usize) -> Range<usize> {
        let d = self.sizes[3];
        let start = (token * self.spec.heads + head) * d;
        start..start + d
    }

    /// Number of keys that a query sees.
    fn visible(&self, query: usize) -> usize {
        if self.spec.causal { self.sizes[2].min(query + 1) } else { self.sizes[2] }
    }

    fn scale(&self) -> f64 {
        f64::from(self.spec.scale)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_to(sum: &mut [f64], factor: f64, row: &[f64]) {
    for (sum, value) in sum.iter_mut().zip(row) {
        *sum += factor * value;
    }
}

/// The attended values, and the log-sum-exp `[b, heads, nq]`, in plain loops.
pub(crate) fn plain(q: &[f64], k: &[f64], v: &[f64], at: &Geometry) -> (Vec<f64>, Vec<f64>) {
    let (mut o, mut lse) = (vec![0.0; q.len()], Vec::new());
    at.walk(|image, head, query| {
        let q_row = &q[at.query(image, head, query)];
        let scores: Vec<f64> = (0..at.visible(query))
            .map(|token| at.scale() * dot(q_row, &k[at.key(image, head, token)]))
            .collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
        let log_total = highest + total.ln();
        for (token, score) in scores.iter().enumerate() {
            let v_row = &v[at.key(image, head, token)];
            add_to(&mut o[at.query(image, head, query)], (score - log_total).exp(), v_row);
        }
        lse.push(log_total);
    });
    (o, lse)
}

/// Gradients for queries, keys and values.
pub(crate) fn plain_grad(
    d_o: &[f64],
    [q, k, v]: [&[f64]; 3],
    o: &[f64],
    lse: &[f64],
    at: &Geometry,
) -> [Vec<f64>; 3] {
    let (mut d_q, mut d_k, mut d_v) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    at.walk(|image, head, query| {
        let row = at.query(image, head, query);
        let total = dot(&d_o[row.clone()], &o[row.clone()]);
        let log_total = lse[(image * at.spec.heads + head) * at.sizes[1] + query];
        for token in 0..at.visible(query) {
            let key = at.key(image, head, token);
            let p = (at.scale() * dot(&q[row.clone()], &k[key.clone()]) - log_total).exp();
            let d_score = at.scale() * p * (dot(&d_o[row.clone()], &v[key.clone()]) - total);
            add_to(&mut d_q[row.clone()], d_score, &k[key.clone()]);
            add_to(&mut d_k[key.clone()], d_score, &q[row.clone()]);
            add_to(&mut d_v[key], p, &d_o[row.clone()]);
        }
    });
    [d_q, d_k, d_v]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        let spec = AttentionSpec { heads: 2, scale: 0.6, causal: false };
        check_gradients(&[&[2, 3, 6], &[2, 4, 6], &[2, 4, 6]], |tape, v| {
            attention(tape, &v[0], &v[1], &v[2], spec)
        });
        let causal = AttentionSpec { causal: true, ..spec };
        check_gradients(&[&[1, 4, 6], &[1, 4, 6], &[1, 4, 6]], |tape, v| {
            attention(tape, &v[0], &v[1], &v[2], causal)
        });
    }
}
