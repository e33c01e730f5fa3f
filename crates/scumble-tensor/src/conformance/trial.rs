//! One run of a case on one backend: draws inputs, collects outputs, and compares those of two runs.
//!
//! An element may differ from the exact `r` by `u |r| + a (|r| + rms)`: `u` is the unit roundoff of the output's type
//! (its one allowed rounding), `a` what the arithmetic inside may cost, `rms` the root mean square of the whole
//! output, since a sum that cancels is as uncertain as its terms are large.

use crate::backend::{Backend, grad_dtype};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::{self, Generator};
use crate::tensor::Tensor;

/// How exact an output must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Equal: nothing is computed, or only one rounding is.
    Exact,
    /// A few f32 operations an element: 2e-6, some 30 units of f32, for polynomial exponentials and error functions.
    Pointwise,
    /// Sums of up to thousands of products, held in f32: 1e-5, the random walk of 2,000 roundings four times over.
    Sum,
    /// As [`Tolerance::Sum`], times a factor that the case's condition number explains.
    Conditioned(f64),
    /// Products of intermediate results that may be held in the element type under test, as softmax weights are that
    /// enter a matrix unit: three units of that type, or [`Tolerance::Conditioned`] if that is more.
    Intermediate(f64),
    /// Sums of products of transformed operands that may be held in the element type under test, as minimal filtering
    /// of convolutions has them: six units of that type. Sums at transformed positions have 5/3 of the plain sum's variance
    /// in each direction, and both operands are rounded; the suite's largest error was 3.6 units.
    Transformed,
}

/// Unit roundoff: the largest relative error of rounding to nearest.
fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON / 2.0,
        DType::F32 => f64::from(f32::EPSILON) / 2.0,
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
        _ => 0.0,
    }
}

impl Tolerance {
    /// `[u, a]` for an output of type `output` computed from operands of type `operands`.
    fn limits(self, output: DType, operands: DType) -> [f64; 2] {
        let (pointwise, sum) = if operands == DType::F64 { (1e-14, 1e-12) } else { (2e-6, 1e-5) };
        // Rounding an inexact value can cross one more tie.
        let u = 1.001 * unit_roundoff(output);
        match self {
            Tolerance::Exact => [0.0, 0.0],
            Tolerance::Pointwise => [u, pointwise],
            Tolerance::Sum => [u, sum],
            Tolerance::Conditioned(factor) => [u, factor * sum],
            Tolerance::Intermediate(factor) => [u, (factor * sum).max(3.0 * unit_roundoff(operands))],
            Tolerance::Transformed => [u, sum.max(6.0 * unit_roundoff(operands))],
        }
    }
}

/// What a case gave back.
pub(super) struct Output {
    pub name: String,
    pub dims: Vec<usize>,
    pub dtype: DType,
    pub values: Vec<f64>,
    pub bytes: Vec<u8>,
    tolerance: Tolerance,
}

/// One run of a case.
pub struct Trial<'a> {
    backend: &'a dyn Backend,
    random: Generator,
    dtype: DType,
    given: DType,
    operands: Vec<(Tensor, Tensor)>,
    outputs: Vec<Output>,
}

impl<'a> Trial<'a> {
    pub(super) fn new(backend: &'a dyn Backend, name: &str, dtype: DType, given: DType) -> Self {
        let random = rng::stream(0, name);
        Self { backend, random, dtype, given, operands: Vec::new(), outputs: Vec::new() }
    }

    /// The backend on trial.
    pub fn backend(&self) -> &'a dyn Backend {
        self.backend
    }

    /// The type operands have: the type under test, f64 on the reference.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The type gradients of parameters have.
    pub fn grad_dtype(&self) -> DType {
        grad_dtype(self.dtype)
    }

    fn place(&mut self, host: &Tensor, dtype: DType) -> Result<Tensor> {
        let host = host.to_dtype(dtype)?;
        let operand = self.backend.upload(&host)?;
        // A copy of the numbers: the upload may share its memory.
        let copy = Tensor::from_bytes(dtype, host.bytes()?, host.dims())?;
        self.operands.push((operand.clone(), copy));
        Ok(operand)
    }

    /// A normally distributed operand.
    pub fn input(&mut self, dims: &[usize]) -> Result<Tensor> {
        self.input_of(dims, 0.0, 1.0)
    }

    /// A normally distributed operand with this mean and deviation.
    pub fn input_of(&mut self, dims: &[usize], mean: f32, deviation: f32) -> Result<Tensor> {
        let host = self.draw(dims, mean, deviation)?;
        self.given_input(&host)
    }

    /// An operand with these numbers, rounded to the type under test on every backend.
    pub fn given_input(&mut self, host: &Tensor) -> Result<Tensor> {
        self.place(&host.to_dtype(self.given)?, self.dtype)
    }

    /// As [`Trial::input_of`], for operands that are f32 beside every element type: weights of losses and the like.
    pub fn statistic(&mut self, dims: &[usize], mean: f32, deviation: f32) -> Result<Tensor> {
        let host = self.draw(dims, mean, deviation)?;
        self.given_statistic(&host)
    }

    /// As [`Trial::given_input`], for an operand that is f32 beside every element type.
    pub fn given_statistic(&mut self, host: &Tensor) -> Result<Tensor> {
        self.place(&host.to_dtype(grad_dtype(self.given))?, self.grad_dtype())
    }

    /// As [`Trial::statistic`], for a tensor that the backend may change and nobody else holds.
    pub fn owned(&mut self, dims: &[usize], mean: f32, deviation: f32) -> Result<Tensor> {
        let host = self.draw(dims, mean, deviation)?.to_dtype(self.grad_dtype())?;
        self.backend.upload(&host)
    }

    /// Ids below `rows`.
    pub fn ids(&mut self, dims: &[usize], rows: i64) -> Result<Tensor> {
        let ids = self.random.randint(0, rows, dims.iter().product())?;
        self.place(&Tensor::from_slice(&ids, dims)?, DType::I64)
    }

    fn draw(&mut self, dims: &[usize], mean: f32, deviation: f32) -> Result<Tensor> {
        let values = self.random.randn(dims.iter().product());
        let values: Vec<f32> = values.into_iter().map(|value| mean + deviation * value).collect();
        Tensor::from_slice(&values, dims)
    }

    /// Hands in a result that should have the operands' type.
    pub fn output(&mut self, name: &str, result: &Tensor, tolerance: Tolerance) -> Result<()> {
        self.output_as(self.dtype, name, result, tolerance)
    }

    /// Hands in a result that should be f32 beside every element type: gradients of parameters, statistics, losses.
    pub fn gradient(&mut self, name: &str, result: &Tensor, tolerance: Tolerance) -> Result<()> {
        self.output_as(self.grad_dtype(), name, result, tolerance)
    }

    /// Hands in a result that should be of type `dtype`.
    pub fn output_as(
        &mut self,
        dtype: DType,
        name: &str,
        result: &Tensor,
        tolerance: Tolerance,
    ) -> Result<()> {
        let host = self.backend.download(result)?;
        if host.dtype() != dtype {
            let message = format!("{name} is {}, expected {dtype}", host.dtype());
            return Err(Error::Device { device: self.backend.name(), message });
        }
        let (dims, values) = (host.dims().to_vec(), host.to_vec::<f64>()?);
        let (name, bytes) = (name.into(), host.bytes()?.to_vec());
        self.outputs.push(Output { name, dims, dtype, values, bytes, tolerance });
        Ok(())
    }

    /// Hands in a number.
    pub fn number(&mut self, name: &str, value: f64, tolerance: Tolerance) {
        let bytes = value.to_le_bytes().to_vec();
        let (name, dtype) = (name.into(), DType::F64);
        self.outputs.push(Output { name, dims: Vec::new(), dtype, values: vec![value], bytes, tolerance });
    }

    /// Errors if `result` is not an error: nonsense must be refused.
    pub fn refused<T>(&mut self, what: &'static str, result: Result<T>) -> Result<()> {
        match result {
            Ok(_) => Err(Error::Device { device: self.backend.name(), message: format!("took {what}") }),
            Err(_) => Ok(()),
        }
    }

    /// The outputs; errors if an operand was changed.
    pub(super) fn finish(self) -> Result<Vec<Output>> {
        for (operand, before) in &self.operands {
            if self.backend.download(operand)?.bytes()? != before.bytes()? {
                let message = format!("an operand of shape {} was changed", before.shape());
                return Err(Error::Device { device: self.backend.name(), message });
            }
        }
        Ok(self.outputs)
    }
}

/// The largest error as a share of what is allowed, or a line that names the worst element.
pub(super) fn compare(
    expected: &Output,
    found: &Output,
    operands: DType,
) -> std::result::Result<f64, String> {
    let name = &found.name;
    if expected.dims != found.dims {
        return Err(format!("{name}: shape {:?}, expected {:?}", found.dims, expected.dims));
    }
    let count = expected.values.len().max(1) as f64;
    let finite = expected.values.iter().filter(|value| value.is_finite());
    let rms = (finite.map(|value| value * value).sum::<f64>() / count).sqrt();
    let [u, a] = found.tolerance.limits(found.dtype, operands);
    let (mut worst, mut at) = (0.0, 0);
    for (i, (&r, &value)) in expected.values.iter().zip(&found.values).enumerate() {
        let allowed = u * r.abs() + a * (r.abs() + rms) + step_at_zero(found);
        let share = share_of_allowed(r, value, allowed);
        if share > worst {
            (worst, at) = (share, i);
        }
    }
    if worst <= 1.0 {
        return Ok(worst);
    }
    Err(format!(
        "{name} {:?}: element {at} is {:e}, expected {:e}: {worst:.3} times the error allowed{}",
        found.dims,
        found.values[at],
        expected.values[at],
        if found.values.iter().any(|value| value.is_nan()) { "; there are NaNs" } else { "" }
    ))
}

/// Half the distance between the numbers next to zero, where rounding is not relative; only f16 has it in reach.
fn step_at_zero(output: &Output) -> f64 {
    match (output.dtype, output.tolerance) {
        (DType::F16, tolerance) if tolerance != Tolerance::Exact => 2f64.powi(-25),
        _ => 0.0,
    }
}

fn share_of_allowed(expected: f64, found: f64, allowed: f64) -> f64 {
    if expected == found {
        return 0.0;
    }
    let share = (found - expected).abs() / allowed;
    if share.is_nan() { f64::INFINITY } else { share }
}
