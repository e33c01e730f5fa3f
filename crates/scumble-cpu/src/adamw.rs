//! AdamW in the order of operations of `torch.optim.AdamW`'s single-tensor form, so that factors agree to rounding.
//!
//! ```text
//! p <- p (1 - lr decay)
//! m <- m + (1 - beta1) (g - m)
//! v <- v beta2 + (1 - beta2) g g
//! p <- p - (lr / (1 - beta1^t)) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//! ```

use scumble_tensor::backend::AdamWStep;
use scumble_tensor::{Result, Tensor};

use crate::elementwise::PIECE;
use crate::engine::Engine;
use crate::operands::{expect_count, floats, floats_of};
use crate::pool::SharedMut;
use crate::simd::{Kernel, Simd};

/// The step's factors, computed in f64 and rounded once.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    first: f32,
    beta2: f32,
    second: f32,
    step_size: f32,
    correction: f32,
    eps: f32,
    grad_scale: f32,
}

impl Factors {
    fn new(step: &AdamWStep) -> Self {
        let t = step.step as f64;
        Self {
            keep: (1.0 - step.lr * step.weight_decay) as f32,
            first: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            second: (1.0 - step.beta2) as f32,
            step_size: (-(step.lr / (1.0 - step.beta1.powf(t)))) as f32,
            correction: (1.0 - step.beta2.powf(t)).sqrt() as f32,
            eps: step.eps as f32,
            grad_scale: step.grad_scale as f32,
        }
    }
}

struct Update<'a> {
    f: Factors,
    param: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let f = self.f;
        let state = self.m.iter_mut().zip(self.v.iter_mut());
        for ((param, &grad), (m, v)) in self.param.iter_mut().zip(self.grad).zip(state) {
            let grad = grad * f.grad_scale;
            let decayed = *param * f.keep;
            *m += f.first * (grad - *m);
            *v = *v * f.beta2 + f.second * grad * grad;
            let denominator = v.sqrt() / f.correction + f.eps;
            *param = decayed + f.step_size * *m / denominator;
        }
    }
}

/// The elements to update; a tensor that somebody else holds too is copied first, as theirs must not change.
fn writable<'t>(what: &'static str, tensor: &'t mut Tensor) -> Result<SharedMut<'t, f32>> {
    if tensor.get_mut::<f32>()?.is_none() {
        *tensor = Tensor::from_slice(floats("adamw", what, tensor)?, tensor.dims())?;
    }
    Ok(SharedMut::new(tensor.get_mut::<f32>()?.unwrap_or_default()))
}

/// One update in place.
pub(crate) fn adamw(
    engine: &Engine,
    param: &mut Tensor,
    grad: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    step: &AdamWStep,
) -> Result<()> {
    let count = param.numel();
    let grad = floats_of("adamw", "the gradient", grad, count)?;
    expect_count("adamw", "the first moment", m, count)?;
    expect_count("adamw", "the second moment", v, count)?;
    for (what, tensor) in [("the parameter", &*param), ("the first moment", &*m), ("the second moment", &*v)]
    {
        floats("adamw", what, tensor)?;
    }
    let f = Factors::new(step);
    let param = writable("the parameter", param)?;
    let (m, v) = (writable("the first moment", m)?, writable("the second moment", v)?);
    engine.pool.run(count.div_ceil(PIECE), |index, _| {
        let start = index * PIECE;
        let grad = &grad[start..count.min(start + PIECE)];
        // SAFETY: every task has a piece of its own of each of the three tensors.
        let (param, m, v) =
            unsafe { (param.slice(start, PIECE), m.slice(start, PIECE), v.slice(start, PIECE)) };
        engine.tier.run(Update { f, param, grad, m, v });
    });
    Ok(())
}
