//! What an adapter adds to a projection.
//!
//! A [`Branch`] sees the projection's input and its output so far and returns the new output. One that changes the
//! product itself, before bias and residual are added, is also a [`Rescaling`]. [`LowRank`] is the LoRA (Hu et al. 2021):
//!
//! ```text
//! y + scale * up(down(dropout(x))),   down [r, in] or [r, kh, kw, in],   up [out, r]
//! ```
//!
//! On a convolution `down` is a convolution with the base's kernel, stride and padding and `up` is 1x1. Factors that
//! began as a part of the base weight (PiSSA, Meng et al. 2024) count from where they began: what the first factors do is
//! taken away, which is the same as taking their product from the weight, without touching it.

use std::sync::atomic::{AtomicU32, Ordering};

use scumble_tensor::backend::MatMul;
use scumble_tensor::ops::conv2d::low_rank_conv;
use scumble_tensor::ops::dropout::dropout;
use scumble_tensor::ops::linear::{MOST_FUSED_RANK, low_rank};
use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var, shape_error};

use super::projection::{Kind, Projection};

/// Changes a projection's output.
pub trait Branch: Send + Sync {
    /// Errors when this branch does not fit `projection`.
    fn check(&self, projection: &Projection) -> Result<()>;

    /// The new output, from the projection's input `x` and its output so far `y`.
    fn forward(&self, tape: &Tape<'_>, projection: &Projection, x: &Var, y: Var) -> Result<Var>;

    /// Itself, if it changes the product and not only the output; its [`Branch::forward`] is not called then.
    fn rescaling(&self) -> Option<&dyn Rescaling> {
        None
    }

    /// Its factors, if all that it adds to a linear layer's output is their product on the layer's own input and they are
    /// small: the first such branch is summed with the layer's product, and its [`Branch::forward`] is not called then.
    fn factors(&self) -> Option<Factors<'_>> {
        None
    }

    /// What training can change.
    fn params(&self) -> Vec<Param>;

    /// The change of the base weight that does the same, f32 in the weight's memory layout: what folding adds.
    fn delta(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor>;
}

/// `scale * up(down(x))`.
#[derive(Clone, Copy)]
pub struct Factors<'b> {
    /// First factor, `[r, in]`.
    pub down: &'b Param,
    /// Second factor, `[out, r]`.
    pub up: &'b Param,
    /// Factor of their product.
    pub scale: f32,
}

/// What is added to a projection's product.
#[derive(Clone, Copy, Default)]
pub struct Addends<'v> {
    /// `[out]`.
    pub bias: Option<&'v Var>,
    /// As the output.
    pub residual: Option<&'v Var>,
}

/// A branch that changes the product. One projection takes one of them.
pub trait Rescaling {
    /// The output, from the projection's input and its product with the base weight alone.
    fn output(
        &self,
        tape: &Tape<'_>,
        projection: &Projection,
        x: &Var,
        product: &Var,
        addends: Addends<'_>,
    ) -> Result<Var>;
}

/// A low-rank branch.
pub struct LowRank {
    down: Param,
    up: Param,
    /// Factors whose product does not count, frozen.
    start: Option<[Param; 2]>,
    scale: AtomicU32,
    dropout: f32,
    site: u64,
}

impl LowRank {
    /// `down [r, in]` or `[r, kh, kw, in]`, `up [out, r]`; `scale` is `alpha / r` times the strength.
    pub fn new(down: Param, up: Param, scale: f32) -> Self {
        Self { down, up, start: None, scale: AtomicU32::new(scale.to_bits()), dropout: 0.0, site: 0 }
    }

    /// Lets the product count from that of these factors on.
    pub fn counted_from(mut self, down: Param, up: Param) -> Self {
        self.start = Some([down, up]);
        self
    }

    /// Drops inputs with `probability` while a tape trains; `site` sets this branch's masks apart from all others.
    pub fn with_dropout(mut self, probability: f32, site: u64) -> Self {
        (self.dropout, self.site) = (probability, site);
        self
    }

    /// First factor.
    pub fn down(&self) -> &Param {
        &self.down
    }

    /// Second factor.
    pub fn up(&self) -> &Param {
        &self.up
    }

    /// The rank.
    pub fn rank(&self) -> usize {
        self.down.value().shape().first()
    }

    /// The factor of the branch.
    pub fn scale(&self) -> f32 {
        f32::from_bits(self.scale.load(Ordering::Relaxed))
    }

    /// Changes the factor of the branch; at 0 the base's output is returned untouched.
    pub fn set_scale(&self, scale: f32) {
        self.scale.store(scale.to_bits(), Ordering::Relaxed);
    }
}

/// Errors unless a parameter has the sizes that it must have on `projection`.
pub(super) fn expect(
    projection: &Projection,
    what: &'static str,
    expected: &[usize],
    found: &Param,
) -> Result<()> {
    if found.value().dims() == expected {
        return Ok(());
    }
    let expected = format!("{expected:?} for {}", projection.path());
    Err(shape_error("attach", what, expected, found.value().shape()))
}

/// Errors unless `down` and `up` are a pair of `projection`.
pub(super) fn expect_pair(projection: &Projection, down: &Param, up: &Param) -> Result<()> {
    let rank = down.value().shape().first();
    let mut dims = projection.weight().value().dims().to_vec();
    if let Some(first) = dims.first_mut() {
        *first = rank;
    }
    expect(projection, "down", &dims, down)?;
    expect(projection, "up", &[projection.out_features(), rank], up)
}

/// `add + scale * up(down(x))`, as the projection's kind has it.
pub(super) fn pair(
    tape: &Tape<'_>,
    projection: &Projection,
    x: &Var,
    [down, up]: [&Var; 2],
    scale: f32,
    add: &Var,
) -> Result<Var> {
    match projection.kind() {
        Kind::Linear => low_rank(tape, x, down, up, scale, add),
        Kind::Conv2d(spec) => low_rank_conv(tape, x, down, up, scale, spec, add),
    }
}

/// `alpha * up @ down` as f32 `[out, columns]`.
pub(super) fn product(backend: &dyn Backend, down: &Param, up: &Param, alpha: f32) -> Result<Tensor> {
    let (down, up) = (down.value(), up.value());
    let rank = down.shape().first();
    let down = backend.cast(&down.reshape(&[rank, down.numel() / rank.max(1)])?, DType::F32)?;
    let up = backend.cast(&up, DType::F32)?;
    backend.matmul(MatMul { alpha, ..MatMul::nn(&up, &down) })
}

impl Branch for LowRank {
    fn check(&self, projection: &Projection) -> Result<()> {
        if let Some([down, up]) = &self.start {
            expect_pair(projection, down, up)?;
        }
        expect_pair(projection, &self.down, &self.up)
    }

    fn forward(&self, tape: &Tape<'_>, projection: &Projection, x: &Var, y: Var) -> Result<Var> {
        let scale = self.scale();
        if scale == 0.0 {
            return Ok(y);
        }
        let x = dropout(tape, x, self.dropout, self.site)?;
        let mut y = y;
        if let Some([down, up]) = &self.start {
            y = pair(tape, projection, &x, [&tape.param(down), &tape.param(up)], -scale, &y)?;
        }
        pair(tape, projection, &x, [&tape.param(&self.down), &tape.param(&self.up)], scale, &y)
    }

    fn factors(&self) -> Option<Factors<'_>> {
        let scale = self.scale();
        let alone = self.start.is_none() && self.dropout == 0.0 && scale != 0.0;
        (alone && self.rank() <= MOST_FUSED_RANK).then_some(Factors { down: &self.down, up: &self.up, scale })
    }

    fn params(&self) -> Vec<Param> {
        vec![self.down.clone(), self.up.clone()]
    }

    fn delta(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor> {
        let mut delta = product(backend, &self.down, &self.up, self.scale())?;
        if let Some([down, up]) = &self.start {
            delta = backend.add_scaled(&delta, &product(backend, down, up, self.scale())?, -1.0)?;
        }
        delta.reshape(projection.weight().value().dims())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use scumble_tensor::backend::{Conv2dSpec, Padding};
    use scumble_tensor::reference::ReferenceBackend;
    use scumble_tensor::rng::stream;

    use super::*;
    use crate::nn::Tap;

    fn random(name: &str, dims: &[usize]) -> Param {
        Param::trainable(name, stream(3, name).randn_tensor(dims).unwrap())
    }

    fn projection(kind: Kind, weight: &[usize]) -> Projection {
        Projection::new(Tap::loose("p"), kind, random("w", weight), Some(random("b", &weight[..1]))).unwrap()
    }

    fn output(projection: &Projection, x: &[usize]) -> Vec<f32> {
        let tape = Tape::inference(Arc::new(ReferenceBackend));
        let x = Var::constant(stream(3, "x").randn_tensor(x).unwrap());
        projection.forward(&tape, &x).unwrap().value().to_vec().unwrap()
    }

    /// Attaches a branch to a layer and folds it into a copy: both must say the same.
    fn check_live_and_folded(kind: Kind, weight: &[usize], x: &[usize]) {
        let (live, folded) = (projection(kind, weight), projection(kind, weight));
        let base = output(&live, x);
        let down = [&[2], &weight[1..]].concat();
        let branch = Arc::new(LowRank::new(random("down", &down), random("up", &[weight[0], 2]), 0.0));
        let as_branch: Arc<dyn Branch> = branch.clone();
        live.attach(Arc::clone(&as_branch)).unwrap();
        assert_eq!(output(&live, x), base, "scale 0 is the base, bit for bit");
        branch.set_scale(0.7);
        let expected = output(&live, x);
        folded.add_delta(&ReferenceBackend, &branch.delta(&ReferenceBackend, &folded).unwrap()).unwrap();
        let found = output(&folded, x);
        let off = expected.iter().zip(&found).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(off < 1e-5 && expected != base, "off by {off}");
        assert!(live.detach(&as_branch) && !live.detach(&as_branch));
        assert_eq!(output(&live, x), base);
    }

    #[test]
    fn live_equals_folded() {
        check_live_and_folded(Kind::Linear, &[5, 4], &[2, 3, 4]);
        let conv = Kind::Conv2d(Conv2dSpec { stride: 2, padding: Padding::same(1) });
        check_live_and_folded(conv, &[5, 3, 3, 4], &[1, 5, 4, 4]);
    }

    #[test]
    fn a_layer_takes_one_small_pair_along_and_adds_the_others() {
        let (live, folded) = (projection(Kind::Linear, &[5, 24]), projection(Kind::Linear, &[5, 24]));
        let pair = |name: &str, rank: usize| {
            let factor = |which: &str, dims: [usize; 2]| random(&format!("{name} {which}"), &dims);
            LowRank::new(factor("down", [rank, 24]), factor("up", [5, rank]), 0.3)
        };
        let started = pair("d", 2).counted_from(random("s down", &[2, 24]), random("s up", &[5, 2]));
        let branches = [pair("a", MOST_FUSED_RANK + 1), started, pair("b", 3), pair("c", 1)];
        let small: Vec<bool> = branches.iter().map(|branch| branch.factors().is_some()).collect();
        assert_eq!(small, [false, false, true, true]);
        assert!(pair("b", 3).with_dropout(0.1, 0).factors().is_none());
        for branch in branches {
            let delta = branch.delta(&ReferenceBackend, &folded).unwrap();
            folded.add_delta(&ReferenceBackend, &delta).unwrap();
            live.attach(Arc::new(branch)).unwrap();
        }
        let (found, expected) = (output(&live, &[2, 3, 24]), output(&folded, &[2, 3, 24]));
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{found}, not {expected}");
        }
    }

    #[test]
    fn a_branch_that_does_not_fit_is_refused() {
        let layer = projection(Kind::Linear, &[5, 4]);
        for (down, up) in [([2, 3], [5, 2]), ([2, 4], [4, 2]), ([2, 4], [5, 3])] {
            let branch = LowRank::new(random("down", &down), random("up", &up), 1.0);
            let error = layer.attach(Arc::new(branch)).unwrap_err().to_string();
            assert!(error.contains("for p"), "{error}");
        }
        assert!(layer.branches().is_empty());
    }

    #[test]
    fn branches_act_together_and_learn() {
        let layer = projection(Kind::Linear, &[5, 4]);
        let branches: Vec<_> = (0..2)
            .map(|i| {
                let name = |part| format!("{part}{i}");
                Arc::new(LowRank::new(random(&name("down"), &[1, 4]), random(&name("up"), &[5, 1]), 1.0))
            })
            .collect();
        let base = output(&layer, &[1, 4]);
        let alone = |branch: &Arc<LowRank>| {
            layer.attach(branch.clone()).unwrap();
            let y = output(&layer, &[1, 4]);
            layer.detach_all();
            y
        };
        let (first, second) = (alone(&branches[0]), alone(&branches[1]));
        branches.iter().for_each(|branch| layer.attach(branch.clone()).unwrap());
        for (i, both) in output(&layer, &[1, 4]).into_iter().enumerate() {
            assert!((both - (first[i] + second[i] - base[i])).abs() < 1e-5);
        }
        layer.weight().set_trainable(false);
        let tape = Tape::recording(Arc::new(ReferenceBackend));
        let x = Var::constant(stream(3, "x").randn_tensor(&[1, 4]).unwrap());
        let y = layer.forward(&tape, &x).unwrap();
        let gradients = tape.backward(&y, y.value().clone()).unwrap();
        for param in branches.iter().flat_map(|branch| branch.params()) {
            assert!(gradients.get(param.id()).is_some(), "{}", param.name());
        }
        assert!(gradients.get(layer.weight().id()).is_none());
    }
}
