//! One AdamW update (Loshchilov & Hutter 2019, algorithm 2) in the order of `torch.optim.AdamW`, with `g` the scaled gradient:
//!
//! ```text
//! p *= 1 - lr weight_decay        m += (1 - beta1) (g - m)        v = beta2 v + (1 - beta2) g^2
//! p -= lr / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
//! ```
//!
//! No gradient flows through an update, so there is no tape function: [`Backend::adamw`](crate::Backend::adamw) is called directly.

use crate::backend::AdamWStep;

/// Updates `param`, `m` and `v` in plain loops.
pub(crate) fn plain(param: &mut [f64], grad: &[f64], m: &mut [f64], v: &mut [f64], step: &AdamWStep) {
    let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
    let (first, second) = (correction(step.beta1), correction(step.beta2).sqrt());
    for i in 0..param.len() {
        let g = grad[i] * step.grad_scale;
        param[i] *= 1.0 - step.lr * step.weight_decay;
        m[i] += (1.0 - step.beta1) * (g - m[i]);
        v[i] = step.beta2 * v[i] + (1.0 - step.beta2) * g * g;
        param[i] -= step.lr / first * m[i] / (v[i].sqrt() / second + step.eps);
    }
}
