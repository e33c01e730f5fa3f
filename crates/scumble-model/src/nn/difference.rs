//! A dense change of a projection that can be switched on a model in use: what adapters of any kind come to.
//!
//! ```text
//! y + scale * dW x        dW in the weight's memory layout
//! ```
//!
//! It costs one more product of the base's own size, and the memory of the weight. Factors that have a cheaper way
//! (the low-rank pair) use [`super::LowRank`].

use std::sync::atomic::{AtomicU32, Ordering};

use scumble_tensor::ops::add::add_scaled;
use scumble_tensor::ops::conv2d::conv2d;
use scumble_tensor::ops::linear::linear;
use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var, shape_error};

use super::branch::{Branch, LowRank};
use super::projection::{Kind, Projection};

/// A branch whose factor can be changed between two calls.
pub trait Tunable: Branch {
    /// Changes the factor; at 0 the base's output is returned untouched.
    fn set_scale(&self, scale: f32);
}

impl Tunable for LowRank {
    fn set_scale(&self, scale: f32) {
        LowRank::set_scale(self, scale);
    }
}

/// See the module's text.
pub struct Difference {
    weight: Param,
    scale: AtomicU32,
}

impl Difference {
    /// `weight [out, in]` or `[out, kh, kw, in]`.
    pub fn new(weight: Param, scale: f32) -> Self {
        Self { weight, scale: AtomicU32::new(scale.to_bits()) }
    }

    fn scale(&self) -> f32 {
        f32::from_bits(self.scale.load(Ordering::Relaxed))
    }
}

impl Tunable for Difference {
    fn set_scale(&self, scale: f32) {
        self.scale.store(scale.to_bits(), Ordering::Relaxed);
    }
}

impl Branch for Difference {
    fn check(&self, projection: &Projection) -> Result<()> {
        let (base, found) = (projection.weight().value(), self.weight.value());
        if base.dims() == found.dims() {
            return Ok(());
        }
        Err(shape_error(
            "attach",
            "difference",
            format!("{} for {}", base.shape(), projection.path()),
            found.shape(),
        ))
    }

    fn forward(&self, tape: &Tape<'_>, projection: &Projection, x: &Var, y: Var) -> Result<Var> {
        let scale = self.scale();
        if scale == 0.0 {
            return Ok(y);
        }
        let weight = tape.param(&self.weight);
        let change = match projection.kind() {
            Kind::Linear => linear(tape, x, &weight, None, None)?,
            Kind::Conv2d(spec) => conv2d(tape, x, &weight, None, None, spec)?,
        };
        add_scaled(tape, &y, &change, scale)
    }

    fn params(&self) -> Vec<Param> {
        vec![self.weight.clone()]
    }

    fn delta(&self, backend: &dyn Backend, _: &Projection) -> Result<Tensor> {
        backend.scale(&backend.cast(&self.weight.value(), DType::F32)?, self.scale())
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
        Param::frozen(name, stream(3, name).randn_tensor(dims).unwrap())
    }

    fn output(layer: &Projection, x: &[usize]) -> Vec<f32> {
        let tape = Tape::inference(Arc::new(ReferenceBackend));
        let x = Var::constant(stream(3, "x").randn_tensor(x).unwrap());
        layer.forward(&tape, &x).unwrap().value().to_vec().unwrap()
    }

    #[test]
    fn live_equals_folded_and_scale_zero_is_the_base() {
        let conv = Kind::Conv2d(Conv2dSpec { stride: 1, padding: Padding::same(1) });
        for (kind, weight, x) in
            [(Kind::Linear, &[5, 4][..], &[2, 4][..]), (conv, &[5, 3, 3, 4], &[1, 5, 4, 4])]
        {
            let layer = || Projection::new(Tap::loose("p"), kind, random("w", weight), None).unwrap();
            let (live, folded) = (layer(), layer());
            let base = output(&live, x);
            let branch = Arc::new(Difference::new(random("d", weight), 0.0));
            live.attach(branch.clone()).unwrap();
            assert_eq!(output(&live, x), base);
            branch.set_scale(0.7);
            folded.add_delta(&ReferenceBackend, &branch.delta(&ReferenceBackend, &folded).unwrap()).unwrap();
            for (a, b) in output(&live, x).iter().zip(output(&folded, x)) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
        let layer = Projection::new(Tap::loose("p"), Kind::Linear, random("w", &[5, 4]), None).unwrap();
        let error = layer.attach(Arc::new(Difference::new(random("d", &[4, 5]), 1.0))).unwrap_err();
        assert!(error.to_string().contains("for p"), "{error}");
    }
}
