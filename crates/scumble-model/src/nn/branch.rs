//! What an adapter adds to a projection.
//!
//! A [`Branch`] sees the projection's input and its output so far and returns the new output, so a multiplicative or
//! a weight-decomposed adapter is as possible as an additive one. [`LowRank`] is the LoRA (Hu et al. 2021):
//!
//! ```text
//! y + scale * up(down(dropout(x))),   down [r, in] or [r, kh, kw, in],   up [out, r]
//! ```
//!
//! On a convolution `down` is a convolution with the base's kernel, stride and padding and `up` is 1x1.

use std::sync::atomic::{AtomicU32, Ordering};

use scumble_tensor::backend::MatMul;
use scumble_tensor::ops::conv2d::low_rank_conv;
use scumble_tensor::ops::dropout::dropout;
use scumble_tensor::ops::linear::low_rank;
use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var, shape_error};

use super::projection::{Kind, Projection};

/// Changes a projection's output.
pub trait Branch: Send + Sync {
    /// Errors when this branch does not fit `projection`.
    fn check(&self, projection: &Projection) -> Result<()>;

    /// The new output, from the projection's input `x` and its output so far `y`.
    fn forward(&self, tape: &Tape<'_>, projection: &Projection, x: &Var, y: Var) -> Result<Var>;

    /// What training can change.
    fn params(&self) -> Vec<Param>;

    /// The change of the base weight that does the same, f32 in the weight's memory layout: what folding adds.
    fn delta(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor>;
}

/// A low-rank branch.
pub struct LowRank {
    down: Param,
    up: Param,
    scale: AtomicU32,
    dropout: f32,
    site: u64,
}

impl LowRank {
    /// `down [r, in]` or `[r, kh, kw, in]`, `up [out, r]`; `scale` is `alpha / r` times the strength.
    pub fn new(down: Param, up: Param, scale: f32) -> Self {
        Self { down, up, scale: AtomicU32::new(scale.to_bits()), dropout: 0.0, site: 0 }
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

impl Branch for LowRank {
    fn check(&self, projection: &Projection) -> Result<()> {
        let rank = self.rank();
        let mut down = projection.weight().value().dims().to_vec();
        if let Some(first) = down.first_mut() {
            *first = rank;
        }
        let up = [projection.out_features(), rank];
        let expect = |what, expected: &[usize], found: &Param| {
            if found.value().dims() == expected {
                return Ok(());
            }
            Err(shape_error(
                "attach",
                what,
                format!("{expected:?} for {}", projection.path()),
                found.value().shape(),
            ))
        };
        expect("down", &down, &self.down)?;
        expect("up", &up, &self.up)
    }

    fn forward(&self, tape: &Tape<'_>, projection: &Projection, x: &Var, y: Var) -> Result<Var> {
        let scale = self.scale();
        if scale == 0.0 {
            return Ok(y);
        }
        let x = dropout(tape, x, self.dropout, self.site)?;
        let (down, up) = (tape.param(&self.down), tape.param(&self.up));
        match projection.kind() {
            Kind::Linear => low_rank(tape, &x, &down, &up, scale, &y),
            Kind::Conv2d(spec) => low_rank_conv(tape, &x, &down, &up, scale, spec, &y),
        }
    }

    fn params(&self) -> Vec<Param> {
        vec![self.down.clone(), self.up.clone()]
    }

    fn delta(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor> {
        let (down, up) = (self.down.value(), self.up.value());
        let rank = down.shape().first();
        let down = backend.cast(&down.reshape(&[rank, down.numel() / rank.max(1)])?, DType::F32)?;
        let up = backend.cast(&up, DType::F32)?;
        let product = backend.matmul(MatMul { alpha: self.scale(), ..MatMul::nn(&up, &down) })?;
        product.reshape(projection.weight().value().dims())
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
