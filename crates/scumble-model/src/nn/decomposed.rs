//! DoRA (Liu et al. 2024): a low-rank branch whose projection learns the length of each output's row apart from its
//! direction.
//!
//! ```text
//! y = s (W x + scale * up(down(x))) + b,        s = m / |W + scale * up down|, row by row
//! ```
//!
//! The norm counts as a constant in backward, as the paper's section 4.3 and PEFT have it. It needs no dense change:
//!
//! ```text
//! |w + d|^2 = |w|^2 + up (2 scale P + scale^2 up G)^T,        P = W down^T [out, r],   G = down down^T [r, r]
//! ```
//!
//! row by row, where `|w|^2` never changes. At strength `t` the whole change counts `t` times: `y + t (y' - y)`.
//! Dropout drops inputs of the low-rank part alone.

use std::sync::atomic::{AtomicU32, Ordering};

use scumble_tensor::backend::MatMul;
use scumble_tensor::ops::add::add_scaled;
use scumble_tensor::ops::channels::scale_channels;
use scumble_tensor::ops::dropout::dropout;
use scumble_tensor::ops::mul::mul;
use scumble_tensor::ops::scale::scale;
use scumble_tensor::{Backend, DType, Param, Result, Tape, Tensor, Var};

use super::branch::{Addends, Branch, Rescaling, expect, expect_pair, pair, product};
use super::difference::Tunable;
use super::projection::Projection;

/// See the module's text.
pub struct Decomposed {
    down: Param,
    up: Param,
    magnitude: Param,
    scale: f32,
    /// `|w|^2` of each row of the base weight.
    squares: Vec<f64>,
    strength: AtomicU32,
    dropout: f32,
    site: u64,
}

impl Decomposed {
    /// For `projection`, whose weight must stay as it is: `down [r, in]` or `[r, kh, kw, in]`, `up [out, r]`,
    /// `magnitude [out]`; `scale` is `alpha / r`.
    pub fn new(
        projection: &Projection,
        [down, up]: [Param; 2],
        magnitude: Param,
        scale: f32,
        backend: &dyn Backend,
    ) -> Result<Self> {
        let squares = row_squares(projection, backend)?;
        let strength = AtomicU32::new(1f32.to_bits());
        Ok(Self { down, up, magnitude, scale, squares, strength, dropout: 0.0, site: 0 })
    }

    /// As [`super::LowRank::with_dropout`].
    pub fn with_dropout(mut self, probability: f32, site: u64) -> Self {
        (self.dropout, self.site) = (probability, site);
        self
    }

    fn strength(&self) -> f32 {
        f32::from_bits(self.strength.load(Ordering::Relaxed))
    }

    /// `1 / |W + scale * up down|`, f32 `[out]`.
    fn inverse_norms(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor> {
        let weight = matrix(&projection.weight().value())?;
        let (down, up) = (matrix(&self.down.value())?, self.up.value());
        // The product with the base is made in the base's type, everything behind it in f32.
        let like_weight = backend.cast(&down, weight.dtype())?;
        let along =
            MatMul { alpha: 2.0 * self.scale, out: down.dtype(), ..MatMul::nt(&weight, &like_weight) };
        let along = backend.matmul(along)?;
        let gram = backend.matmul(MatMul::nt(&down, &down))?;
        let squared = self.scale * self.scale;
        let sum = backend.matmul(MatMul { alpha: squared, add: Some(&along), ..MatMul::nn(&up, &gram) })?;
        let rank = down.shape().first();
        let terms = backend.download(&backend.mul(&up, &sum)?)?.to_vec::<f64>()?;
        let norms = self.squares.iter().zip(terms.chunks_exact(rank.max(1)));
        let inverse: Vec<f32> = norms
            .map(|(square, terms)| {
                let norm = (square + terms.iter().sum::<f64>()).max(0.0).sqrt();
                (1.0 / (norm + f64::from(f32::EPSILON))) as f32
            })
            .collect();
        let inverse = Tensor::from_slice(&inverse, &[inverse.len()])?.to_dtype(down.dtype())?;
        backend.upload(&inverse)
    }
}

/// A weight as `[rows, columns]`.
fn matrix(weight: &Tensor) -> Result<Tensor> {
    let rows = weight.shape().first();
    weight.reshape(&[rows, weight.numel() / rows.max(1)])
}

fn row_squares(projection: &Projection, backend: &dyn Backend) -> Result<Vec<f64>> {
    let weight = backend.download(&matrix(&projection.weight().value())?)?;
    let columns = weight.shape().last().max(1);
    let values = weight.to_dtype(DType::F32)?;
    let rows = values.as_slice::<f32>()?.chunks_exact(columns);
    Ok(rows.map(|row| row.iter().map(|&w| f64::from(w) * f64::from(w)).sum()).collect())
}

/// The lengths of the rows of a projection's weight, f32 `[out]`: where a magnitude begins.
pub fn row_norms(projection: &Projection, backend: &dyn Backend) -> Result<Tensor> {
    let norms: Vec<f32> =
        row_squares(projection, backend)?.into_iter().map(|square| square.sqrt() as f32).collect();
    Tensor::from_slice(&norms, &[norms.len()])
}

impl Tunable for Decomposed {
    fn set_scale(&self, strength: f32) {
        self.strength.store(strength.to_bits(), Ordering::Relaxed);
    }
}

impl Rescaling for Decomposed {
    fn output(
        &self,
        tape: &Tape<'_>,
        projection: &Projection,
        x: &Var,
        base: &Var,
        addends: Addends<'_>,
    ) -> Result<Var> {
        let strength = self.strength();
        let x = dropout(tape, x, self.dropout, self.site)?;
        let factors = [&tape.param(&self.down), &tape.param(&self.up)];
        let changed = pair(tape, projection, &x, factors, self.scale, base)?;
        let inverse = Var::constant(self.inverse_norms(tape.backend(), projection)?);
        let mut s = mul(tape, &tape.param(&self.magnitude), &inverse)?;
        if strength != 1.0 {
            s = scale(tape, &s, strength)?;
        }
        let y = scale_channels(tape, &changed, &s, addends.bias, addends.residual)?;
        if strength == 1.0 { Ok(y) } else { add_scaled(tape, &y, base, 1.0 - strength) }
    }
}

impl Branch for Decomposed {
    fn check(&self, projection: &Projection) -> Result<()> {
        expect_pair(projection, &self.down, &self.up)?;
        expect(projection, "magnitude", &[projection.out_features()], &self.magnitude)
    }

    /// Only asked at strength 0, where nothing changes.
    fn forward(&self, _: &Tape<'_>, _: &Projection, _: &Var, y: Var) -> Result<Var> {
        Ok(y)
    }

    fn rescaling(&self) -> Option<&dyn Rescaling> {
        if self.strength() == 0.0 { None } else { Some(self) }
    }

    fn params(&self) -> Vec<Param> {
        vec![self.down.clone(), self.up.clone(), self.magnitude.clone()]
    }

    fn delta(&self, backend: &dyn Backend, projection: &Projection) -> Result<Tensor> {
        let weight = projection.weight().value();
        let base = backend.cast(&matrix(&weight)?, DType::F32)?;
        let changed = backend.add_scaled(&base, &product(backend, &self.down, &self.up, self.scale)?, 1.0)?;
        let s = backend.mul(&self.magnitude.value(), &self.inverse_norms(backend, projection)?)?;
        let (s, changed) = (backend.download(&s)?, backend.download(&changed)?);
        let columns = changed.shape().last().max(1);
        let (s, changed) = (s.to_vec::<f32>()?, changed.to_vec::<f32>()?);
        let scaled: Vec<f32> = changed.iter().enumerate().map(|(i, value)| s[i / columns] * value).collect();
        let scaled = backend.upload(&Tensor::from_slice(&scaled, base.dims())?)?;
        let difference = backend.add_scaled(&scaled, &base, -1.0)?;
        backend.scale(&difference, self.strength())?.reshape(weight.dims())
    }
}
