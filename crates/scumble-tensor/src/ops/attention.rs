//! Attention with heads side by side: per head `s = scale q k^T` (masked), `p = softmax(s)`, `o = p v`.
//!
//! Backward recomputes `p = exp(s - lse)` from the saved log-sum-exp (Dao et al. 2022); with `D = sum(do o)` per query:
//!
//! ```text
//! dv = p^T do        ds = p (do v^T - D)        dq = scale ds k        dk = scale ds^T q
//! ```

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
