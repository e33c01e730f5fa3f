//! Attention at the head widths of the Stable Diffusion family and at awkward ones, over 77 and 154 keys, masked
//! and not, and with scores large enough to overflow an exponential that does not subtract the maximum.

use super::{Case, Tolerance, Trial};
use crate::backend::{AttentionSpec, Backend};
use crate::dtype::DType;
use crate::error::Result;
use crate::reference::ReferenceBackend;
use crate::tensor::Tensor;

#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    width: usize,
    causal: bool,
    /// Deviation of queries and keys.
    sharpness: f32,
}

const fn sizes([batch, queries, keys, heads, width]: [usize; 5]) -> Sizes {
    Sizes { batch, queries, keys, heads, width, causal: false, sharpness: 1.0 }
}

const SIZES: [Sizes; 20] = [
    sizes([1, 1, 1, 1, 40]),
    sizes([1, 64, 77, 2, 40]),
    sizes([2, 33, 77, 1, 64]),
    sizes([1, 33, 154, 1, 80]),
    sizes([1, 17, 19, 2, 160]),
    sizes([1, 20, 20, 1, 512]),
    sizes([3, 5, 7, 8, 8]),
    sizes([1, 256, 256, 1, 64]),
    sizes([1, 300, 77, 1, 40]),
    sizes([2, 9, 9, 3, 24]),
    sizes([1, 130, 131, 2, 32]),
    sizes([1, 6, 5, 1, 5]),
    sizes([1, 1, 77, 2, 16]),
    sizes([2, 31, 1, 1, 48]),
    Sizes { causal: true, ..sizes([2, 77, 77, 2, 64]) },
    Sizes { causal: true, ..sizes([1, 130, 130, 1, 40]) },
    Sizes { causal: true, ..sizes([1, 7, 7, 3, 10]) },
    Sizes { causal: true, ..sizes([1, 1, 1, 1, 8]) },
    Sizes { sharpness: 6.0, ..sizes([1, 40, 77, 1, 64]) },
    Sizes { sharpness: 6.0, causal: true, ..sizes([1, 77, 77, 1, 64]) },
];

fn check(trial: &mut Trial<'_>, at: Sizes) -> Result<()> {
    let width = at.heads * at.width;
    let q = trial.input_of(&[at.batch, at.queries, width], 0.0, at.sharpness)?;
    let k = trial.input_of(&[at.batch, at.keys, width], 0.0, at.sharpness)?;
    let v = trial.input(&[at.batch, at.keys, width])?;
    let d_o = trial.input(&[at.batch, at.queries, width])?;
    let spec = AttentionSpec { heads: at.heads, scale: (at.width as f32).sqrt().recip(), causal: at.causal };
    let backend = trial.backend();
    let (o, lse) = backend.attention(&q, &k, &v, spec)?;
    // An exponential turns the absolute error of a score, which grows with it, into a relative one.
    let tolerance = Tolerance::Intermediate(if at.sharpness > 1.0 { 20.0 } else { 2.0 });
    trial.output("o", &o, tolerance)?;
    trial.gradient("log-sum-exp", &lse, Tolerance::Sum)?;
    // The gradient is judged on its own: one last bit of `o` would show in it wherever its terms cancel.
    let wide = |operand: &Tensor| backend.download(operand)?.to_dtype(DType::F64);
    let (o, lse) = ReferenceBackend.attention(&wide(&q)?, &wide(&k)?, &wide(&v)?, spec)?;
    let (o, lse) = (trial.given_input(&o)?, trial.given_statistic(&lse)?);
    for wanted in [[true, true, true], [true, false, false], [false, true, true], [false, false, true]] {
        let grads = backend.attention_grad(&d_o, &q, &k, &v, &o, &lse, spec, wanted)?;
        for (name, grad) in [("dq", grads.q), ("dk", grads.k), ("dv", grads.v)] {
            if let Some(grad) = grad {
                trial.output(name, &grad, tolerance)?;
            }
        }
    }
    Ok(())
}

fn misfits(trial: &mut Trial<'_>) -> Result<()> {
    let spec = AttentionSpec { heads: 2, scale: 1.0, causal: false };
    let (q, k) = (trial.input(&[1, 3, 8])?, trial.input(&[1, 4, 6])?);
    let backend = trial.backend();
    trial.refused("keys of another width", backend.attention(&q, &k, &k, spec))?;
    trial.refused(
        "3 heads in 8 channels",
        backend.attention(&q, &q, &q, AttentionSpec { heads: 3, ..spec }),
    )?;
    trial.refused("no heads", backend.attention(&q, &q, &q, AttentionSpec { heads: 0, ..spec }))
}

pub(super) fn cases() -> Vec<Case> {
    let case = |at: Sizes| {
        let Sizes { batch, queries, keys, heads, width, causal, sharpness } = at;
        let label = format!(
            "batch {batch}, {queries} queries, {keys} keys, {heads} x {width}, causal {causal}, sharpness {sharpness}"
        );
        Case::new("attention", label, move |trial| check(trial, at))
    };
    SIZES.into_iter().map(case).chain([Case::new("attention", "misfits", misfits)]).collect()
}
