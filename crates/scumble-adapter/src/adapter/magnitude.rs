//! DoRA: the length of each row (or column) of the changed weight is learned apart from its direction.
//!
//! ```text
//! W' = m * (W + dW) / |W + dW|            the norm over each output's row, or over each input's column
//! ```
//!
//! LyCORIS adds the machine epsilon to the norm, which also decides what a row of zeros becomes. At a strength `t`
//! other than 1 the whole change counts `t` times: `W + t * (W' - W)`, as AUTOMATIC1111 and ComfyUI do, so that
//! strength 0 is the base.

use scumble_tensor::{DType, Tensor};

use super::shapes::{check_float, invalid};
use crate::error::Result;
use crate::table::Module;

/// What a magnitude belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// One number for each output: the norm of its row. PEFT, and LyCORIS today.
    Output,
    /// One number for each input: the norm over outputs and kernel. LyCORIS before `wd_on_out`.
    Input,
}

/// The learned lengths of one module.
#[derive(Clone, Debug)]
pub struct Magnitude {
    values: Tensor,
    axis: Axis,
}

impl Magnitude {
    /// `values [n]`, one for each output or input; other sizes of 1 are dropped.
    pub fn new(module: &str, values: &Tensor, axis: Axis) -> Result<Self> {
        check_float(module, "magnitude", values)?;
        if values.dims().iter().filter(|&&size| size != 1).count() > 1 {
            return Err(invalid(
                module,
                format!("magnitude has shape {}, expected one number a row or column", values.shape()),
            ));
        }
        Ok(Self { values: values.reshape(&[values.numel()])?, axis })
    }

    /// The lengths, `[n]`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// What they belong to.
    pub fn axis(&self) -> Axis {
        self.axis
    }

    pub(super) fn fits(&self, module: &Module) -> std::result::Result<(), String> {
        let (what, expected) = match self.axis {
            Axis::Output => ("outputs", module.outputs),
            Axis::Input => ("inputs", module.inputs),
        };
        if self.values.numel() == expected {
            return Ok(());
        }
        Err(format!("the DoRA scale has {} numbers for {what}, the base has {expected}", self.values.numel()))
    }

    /// `W' - W` as f32 `[out, in * kh * kw]` from the base weight in the files' layout and the undecorated change.
    pub(super) fn delta_on(&self, module: &str, base: &Tensor, delta: &Tensor) -> Result<Tensor> {
        let outputs = base.shape().first();
        if base.numel() != delta.numel() || outputs != delta.shape().first() {
            return Err(invalid(
                module,
                format!("the base weight is {}, the change {}", base.shape(), delta.shape()),
            ));
        }
        let inputs = base.dims().get(1).copied().unwrap_or(1);
        let columns = base.numel() / outputs.max(1);
        let kernel = columns / inputs.max(1);
        let (base, delta) = (base.to_vec::<f64>()?, delta.to_vec::<f64>()?);
        let changed: Vec<f64> = base.iter().zip(&delta).map(|(w, d)| w + d).collect();
        let slot = |index: usize| match self.axis {
            Axis::Output => index / columns,
            Axis::Input => index % columns / kernel,
        };
        let lengths = self.values.to_vec::<f64>()?;
        let mut squares = vec![0f64; lengths.len()];
        if squares.len() != if self.axis == Axis::Output { outputs } else { inputs } {
            return Err(invalid(module, format!("the DoRA scale has {} numbers", lengths.len())));
        }
        changed.iter().enumerate().for_each(|(index, value)| squares[slot(index)] += value * value);
        let factors: Vec<f64> = lengths
            .iter()
            .zip(&squares)
            .map(|(length, square)| length / (square.sqrt() + f64::from(f32::EPSILON)))
            .collect();
        Ok(Tensor::build::<f32>(&[outputs, columns], |out| {
            for (index, out) in out.iter_mut().enumerate() {
                *out = (factors[slot(index)] * changed[index] - base[index]) as f32;
            }
        })?)
    }

    pub(super) fn map(&self, f: &dyn Fn(&'static str, &Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { values: f("magnitude", &self.values)?, axis: self.axis })
    }

    pub(super) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self { values: self.values.to_dtype(dtype)?, axis: self.axis })
    }
}
